"""Families without an optimiser: what stands in for one, and what processes agree on."""

import pytest
import torch

from mad_lightning.generators import ClosedForm, Gaussian, Mixture
from mad_lightning.samples import SampleSpec, to_floats
from mad_lightning.seeds import normal


class Diagonal(ClosedForm):
    """As a user would write one: independent normal coordinates."""

    def build(self, spec):
        self.spec, self.seen = spec, []
        self.register_buffer("mean", torch.zeros(spec.shape))
        self.register_buffer("std", torch.zeros(spec.shape))
        return self

    def training_step(self, batch, batch_idx):
        self.seen.append(to_floats(batch.values))

    def on_train_epoch_end(self):
        x, self.seen = torch.cat(self.seen), []
        self.mean.copy_(x.mean(dim=0))
        self.std.copy_(x.std(dim=0))

    def draw(self, seeds, sampling_bias, labels):
        return self.mean + sampling_bias**0.5 * self.std * normal(seeds, *self.spec.shape)


@pytest.fixture
def x():
    return 3.0 + 2.0 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0))


def test_a_family_of_ones_own_is_fitted_in_one_pass(x, fit):
    generator = Diagonal().build(SampleSpec.of(x))
    fit(generator, torch.utils.data.DataLoader(x, batch_size=30))
    assert generator.exact_pass
    torch.testing.assert_close(generator.mean, x.mean(dim=0))
    drawn = generator.sample(torch.arange(20_000)).values
    torch.testing.assert_close(drawn.std(dim=0), x.std(dim=0), rtol=0.03, atol=0.0)


@pytest.mark.parametrize(
    ("family", "names"),
    [(Gaussian, {"n", "mean", "scatter"}), (Mixture, {"weight", "mean", "root"})],
)
def test_nothing_is_optimised_but_ddp_finds_a_parameter(family, names, x):
    """Its name is part of every digest: it must stay."""
    generator = family().build(SampleSpec.of(x))
    assert generator.configure_optimizers() is None
    assert [name for name, _ in generator.named_parameters()] == ["unused"]
    assert set(generator.state_dict()) == names | {"unused"}


BARE = """
import sys
import lightning as L
import torch
from torch.utils.data import DataLoader
from mad_lightning.generators import Gaussian, Mixture
from mad_lightning.samples import SampleSpec

x = torch.load(sys.argv[1])
digests = []
for family in (Gaussian, Mixture):
    generator = family().build(SampleSpec.of(x))
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", devices=2, strategy="ddp", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    torch.manual_seed(trainer.global_rank)  # two processes whose random numbers differ
    trainer.fit(generator, DataLoader(x, batch_size=20))
    digests.append(generator.digest())
with open(f"{sys.argv[2]}{trainer.global_rank}", "w") as file:
    file.write(" ".join(digests))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.mark.ddp
def test_two_processes_of_a_plain_trainer_end_with_one_fit(x, run, tmp_path):
    torch.save(x, tmp_path / "x.pt")
    (tmp_path / "bare.py").write_text(BARE)
    run(tmp_path / "bare.py", tmp_path / "x.pt", tmp_path / "rank")
    first, second = ((tmp_path / f"rank{rank}").read_text() for rank in (0, 1))
    assert first == second
