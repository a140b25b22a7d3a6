"""What only a library would notice is refused by its full name, and nothing is written."""

import pytest

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


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (["--generator.lr", "nan"], "generator.lr"),
        (["--generator.lr", "-1"], "generator.lr"),
        (["--generator.network.widths", "[0,0]"], "generator.network.widths"),
        (["--generator.network.widths", "[]"], "generator.network.widths"),
        (
            ["--generator.sampling_steps", "null", "--generator.timesteps", "50"],
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
