"""A training that breaks stops in the epoch in which it does, and nothing broken is ever kept."""

import re

import pytest
import torch

from mad_lightning.commands import main
from mad_lightning.commands.train import build
from mad_lightning.generators import Gaussian
from mad_lightning.generators.base import Generator
from mad_lightning.lineage import LineageDirectory
from mad_lightning.refusal import Diverged

WGAN = [
    "--generator", "WGAN",
    "--generator.networks", "mad_lightning.nets.pairs.DensePair",
    "--generator.networks.width", "16",
    "--data.images_per_epoch", "128",
    "--trainer.max_epochs", "3",
]  # fmt: skip
STYLEGAN2 = [
    "--generator", "StyleGAN2",
    "--generator.dim", "16",
    "--generator.mapping_layers", "2",
    "--generator.channel_base", "64",
    "--generator.channel_max", "8",
    "--data.images_per_epoch", "128",
    "--trainer.max_epochs", "3",
]  # fmt: skip
GLOW = [
    "--generator", "Glow",
    "--generator.levels", "2",
    "--generator.couplings", "2",
    "--generator.hidden", "8",
    "--data.images_per_epoch", "256",
    "--trainer.max_epochs", "3",
]  # fmt: skip
CASES = {
    "Diffusion": (None, "1e30"),
    "WGAN": (WGAN, "1e6"),
    "Glow": (GLOW, "1e30"),
    "StyleGAN2": (STYLEGAN2, "1e30"),
}


@pytest.mark.parametrize("family", CASES)
def test_a_learning_rate_beyond_all_bounds_is_told_on_one_screen(
    arguments, diffusion, family, tmp_path, capsys
):
    options, lr = CASES[family]
    with pytest.raises(SystemExit) as end:
        main(["train", *arguments, *(options or diffusion), "--generator.lr", lr])
    assert end.value.code == 1
    told = capsys.readouterr().err
    assert re.search(rf"generation 1 of .*tiny: {family} has diverged: .*step \d", told)
    assert f"a lower generator.lr (now {float(lr)})" in told
    assert "kept: nothing" in told
    assert len(told.splitlines()) < 8
    lineage = LineageDirectory(tmp_path / "runs" / "tiny")
    assert not lineage.weights(1).exists()
    assert lineage.records() == []


class Linear(Generator):
    """A user's family: samples are a constant that is learned."""

    def build(self, spec):
        self.spec = spec
        self.level = torch.nn.Parameter(torch.zeros(spec.shape))
        return self

    def training_step(self, batch, batch_idx):
        return (batch.values.float() / 255 - self.level).square().mean()

    def draw(self, seeds, sampling_bias, labels):
        return self.level.expand(len(seeds), *self.spec.shape)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class BrokenLoss(Linear):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * torch.nan if self.trainer.global_step == 3 else loss


class BrokenWeights(Linear):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.trainer.global_step == 4:
            self.level.data[0, 0] = torch.inf


class BrokenDraw(Linear):
    def draw(self, seeds, sampling_bias, labels):
        return super().draw(seeds, sampling_bias, labels) + torch.nan


class BrokenLater(Linear):
    """Its first samples are fine."""

    def draw(self, seeds, sampling_bias, labels):
        floats = super().draw(seeds, sampling_bias, labels).clone()
        if len(seeds) > 8:
            floats[8] = torch.nan
        return floats


class TooLargeToStore(Gaussian):
    """Finite in float64."""

    def draw(self, seeds, sampling_bias, labels):
        return super().draw(seeds, sampling_bias, labels) + 1e300


class NoRoot(Gaussian):
    def draw(self, seeds, sampling_bias, labels):
        return torch.linalg.cholesky(-torch.eye(3)).expand(len(seeds), 3, 3)


class NoFit(Gaussian):
    def on_train_epoch_end(self):
        torch.linalg.cholesky(-torch.eye(3))


WORDS = {
    BrokenLoss: r"its loss is not finite in epoch 0, from step 4 on",
    BrokenWeights: r"1 of its weights \(level\) are not finite after step 4, the last of epoch 0",
    BrokenDraw: r"8 of 8 samples are not finite",
    BrokenLater: r"1 of 32 samples are not finite",
    TooLargeToStore: r"32 of 32 samples are not finite",
    NoFit: r"NoFit has diverged: .*cholesky",
    NoRoot: r"no samples can be drawn \(.*cholesky",
}


@pytest.mark.parametrize("family", WORDS)
def test_a_family_of_ones_own_that_breaks_is_never_kept(arguments, family, tmp_path):
    options = ["--data.batch_size", "50", "--trainer.max_epochs", "2"]
    told = []
    for _ in range(2):
        meta = build([*arguments, *options])
        meta.build_generator = family
        with pytest.raises(Diverged, match=WORDS[family]) as end:
            meta.fit()
        told.append(end.value.problem)
        assert not meta.lineage.weights(1).exists()
    assert meta.lineage.records() == []


@pytest.mark.parametrize("family", [TooLargeToStore, NoRoot])
def test_nor_is_one_that_is_fitted_in_one_pass(arguments, family):
    for _ in range(2):
        meta = build(arguments)
        meta.build_generator = family
        with pytest.raises(Diverged, match=WORDS[family]):
            meta.fit()
        assert not meta.lineage.weights(1).exists()


def test_a_shard_that_cannot_be_drawn_again_takes_no_finished_weights_with_it(arguments):
    meta = build([*arguments, "--lineage.generations", "1"])
    meta.fit()
    meta.store["001"].evict()
    again = build([*arguments, "--lineage.generations", "2"])
    again.build_generator = TooLargeToStore
    with pytest.raises(Diverged):
        again.sample(1, again.trained(1))
    assert meta.lineage.weights(1).exists()


def test_generations_before_it_stand_and_the_way_on_is_told(arguments, tmp_path, capsys):
    main(["train", *arguments, "--lineage.generations", "2"])
    before = LineageDirectory(tmp_path / "runs" / "tiny").records()

    def broken(self, seeds, sampling_bias, labels):
        return torch.full((len(seeds), *self.spec.shape), torch.nan)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Gaussian, "draw", broken)
        with pytest.raises(SystemExit) as end:
            main(["train", *arguments])
    assert end.value.code == 1
    told = capsys.readouterr().err
    assert "generation 3 of" in told
    assert "kept: generations 1 to 2" in told
    assert f"mad branch --from {tmp_path}/runs/tiny@2" in told
    assert build(arguments).fit()[:2] == before  # and with the cause gone it goes on


def test_a_checkpoint_of_the_last_epoch_does_not_pass_for_a_generator_that_draws(arguments):
    """As a kill leaves it: all epochs are trained, and nobody has drawn yet."""
    meta = build(arguments)
    meta.build_generator = BrokenDraw
    for _ in range(2):
        with pytest.raises(Diverged, match="8 of 8 samples"):
            meta.fit()
        assert meta.lineage.checkpoint(1).exists()
