"""What only a library would notice is refused by its full name, and nothing is written."""

import pickle
import re

import numpy
import pytest
import torch

from mad_lightning.commands.train import build
from mad_lightning.refusal import Refused

GAUSSIAN = ["--generator", "Gaussian"]
GLOW = ["--generator", "Glow", "--generator.levels", "1", "--generator.couplings", "1"]
DENSE = ["--generator", "WGAN", "--generator.networks", "mad_lightning.nets.pairs.DensePair"]


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        ([*GAUSSIAN, "--policy.n_initial", "1"], "generator.estimator"),
        ([*GAUSSIAN, "--policy.n_initial", "12"], "generator.estimator"),
        ([*GAUSSIAN, "--trainer.precision", "bf16-true"], "trainer.precision"),
        ([*GAUSSIAN, "--trainer.precision", "transformer-engine"], "trainer.precision"),
        ([*GLOW, "--data.batch_size", "1"], "generator"),
        ([*GLOW, "--trainer.precision", "16-true"], "trainer.precision"),
        ([*DENSE, "--generator.accumulate", "5"], "generator.accumulate"),
    ],
)
def test_nothing_is_written_before_a_refusal(arguments, flags, field, tmp_path):
    with pytest.raises(Refused) as caught:
        build([*arguments, *flags]).fit()
    assert caught.value.field == field
    assert not (tmp_path / "runs").exists()


def no_weights(path):
    """What a user may name by mistake."""
    numpy.save(path / "array.npy", numpy.ones(3))
    numpy.savez(path / "arrays.npz", numpy.ones(3))
    (path / "empty").write_bytes(b"")
    (path / "text").write_text("hello")
    (path / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    (path / "number.pkl").write_bytes(pickle.dumps(3))
    tensor = torch.ones(2)
    for name, content in {
        "list": [tensor],
        "number": 5,
        "tensor": tensor,
        "nothing": None,
        "no_dict": {"state_dict": [tensor]},
        "numbers": {"state_dict": {"a": 1}},
        "others": {"state_dict": {"a": tensor}},
        "none": {"state_dict": {}},
        "network": torch.nn.Linear(2, 2),
    }.items():
        torch.save(content, path / f"{name}.pt")
    return sorted(path.iterdir())


def test_what_holds_no_weights_to_start_from_is_refused_with_its_name(
    arguments, diffusion, tmp_path
):
    (tmp_path / "files").mkdir()
    for file in no_weights(tmp_path / "files"):
        start = ["--lineage.start", "base", "--lineage.base", str(file)]
        with pytest.raises(Refused, match=re.escape(str(file))) as caught:
            build([*arguments, *diffusion, *start]).fit()
        assert caught.value.field == "lineage.base"
        assert len(str(caught.value)) < 800
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (["--generator.lr", "nan"], "generator.lr"),
        (["--generator.lr", "-1"], "generator.lr"),
        (["--generator.network.widths", "[0,0]"], "generator.network.widths"),
        (["--generator.network.widths", "[]"], "generator.network.widths"),
        (
            [
                *("--generator.sampling_steps", "50"),
                *("--generator.timesteps", "50"),
                *("--generator.beta_schedule", "squaredcos_cap_v2"),
            ],
            "generator.sampling_steps",
        ),
        (["--generator.beta_schedule", "cosine"], "generator.beta_schedule"),
        (["--generator.network.groups", "3"], "generator.network.widths"),
    ],
)
def test_nor_of_a_network(arguments, diffusion, flags, field, tmp_path):
    with pytest.raises(Refused) as caught:
        build([*arguments, *diffusion, *flags]).fit()
    assert caught.value.field == field
    assert not (tmp_path / "runs").exists()
