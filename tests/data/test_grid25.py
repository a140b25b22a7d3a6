"""The grid of modes is drawn from the law that it claims."""

import numpy as np
import pytest
import torch
from scipy import stats

from mad_lightning.data.laws import Grid25
from mad_lightning.data.real import RealData
from mad_lightning.refusal import Refused
from mad_lightning.seeds import sample_seeds


def draw(grid, n=20_000):
    return grid.draw(sample_seeds(0, n, 0, "real")).values


def test_the_modes_are_those_of_the_paper():
    modes = {tuple(mode) for mode in Grid25().modes.tolist()}
    assert modes == {(float(x), float(y)) for x in range(-2, 3) for y in range(-2, 3)}


@pytest.mark.parametrize(("side", "std"), [(5, 0.05), (2, 0.1), (1, 3.0), (4, 0.02)])
def test_samples_follow_the_law(side, std):
    grid = Grid25(side, std)
    x = draw(grid).double()
    assert grid.spec.shape == x.shape[1:] == (2,)
    scale = grid.law.covariance[0, 0]
    assert (x.mean(dim=0) - grid.law.mean).abs().max() < 0.03 * scale.sqrt()
    assert (x.T.cov() - grid.law.covariance).abs().max() < 0.04 * scale
    assert len(grid.modes) == len(grid.modes.unique(dim=0)) == side**2
    # what the law says of itself, summed up mode by mode
    exact = grid.modes.T @ grid.modes / side**2 + std**2 * torch.eye(2)
    np.testing.assert_allclose(grid.law.covariance, exact, atol=1e-12)


def test_modes_have_equal_shares_and_normal_shape():
    grid = Grid25()
    x = draw(grid).double()
    squared = torch.cdist(x, grid.modes)
    owner = squared.argmin(dim=1)
    assert stats.chisquare(owner.bincount(minlength=25).numpy()).pvalue > 1e-3
    noise = ((x - grid.modes[owner]) / 0.05).numpy()
    for coordinate in noise.T:
        assert stats.kstest(coordinate, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.03
    assert abs(np.corrcoef(noise[:, 0], owner.numpy())[0, 1]) < 0.03


def test_another_law_is_other_data(tmp_path):
    grids = [Grid25(), Grid25(), Grid25(std=0.06), Grid25(side=4)]
    digests = [RealData(grid, 10, 0, 0, tmp_path).digest for grid in grids]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@pytest.mark.parametrize("options", [{"side": 0}, {"std": 0.0}, {"std": float("nan")}])
def test_a_law_that_is_none_is_refused(options):
    with pytest.raises(Refused, match=f"^{next(iter(options))}:"):
        Grid25(**options)
