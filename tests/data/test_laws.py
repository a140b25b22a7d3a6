"""Known laws have the moments and the shape that they claim."""

import numpy as np
import torch
from scipy import integrate, stats

from mad_lightning.data.laws import Rosenbrock
from mad_lightning.seeds import sample_seeds


def density(x_1, x_2):
    """The paper's, without its constant (appendix B.4)."""
    return np.exp(-(x_1**2) / 2 - (x_2 - x_1**2) ** 2)


def drawn(n):
    return Rosenbrock().draw(sample_seeds(0, n, 0, "x")).values.double()


def test_rosenbrocks_moments_are_those_of_its_density():
    x_1, x_2 = np.meshgrid(np.linspace(-8, 8, 1601), np.linspace(-5, 70, 7501), indexing="ij")
    weight = density(x_1, x_2)
    weight /= weight.sum()
    mean = [(weight * x).sum() for x in (x_1, x_2)]
    covariance = [
        [(weight * (a - m) * (b - n)).sum() for b, n in zip((x_1, x_2), mean, strict=True)]
        for a, m in zip((x_1, x_2), mean, strict=True)
    ]
    law = Rosenbrock().law
    np.testing.assert_allclose(law.mean, mean, atol=1e-6)
    np.testing.assert_allclose(law.covariance, covariance, atol=1e-5)
    x = drawn(200_000)
    np.testing.assert_allclose(x.mean(dim=0), mean, atol=5 * (2.5 / 200_000) ** 0.5)
    np.testing.assert_allclose(x.T.cov(), covariance, atol=0.1)


def test_rosenbrocks_samples_follow_its_density():
    """Kolmogorov-Smirnov, of both coordinates against the integrated density."""
    x = drawn(20_000).numpy()
    assert stats.kstest(x[:, 0], "norm").pvalue > 0.01
    grid = np.linspace(-6, 60, 60_001)

    def marginal(x_2):
        return integrate.quad_vec(lambda x_1: density(x_1, x_2), -9, 9)[0]

    values = marginal(grid)
    cumulative = integrate.cumulative_simpson(values, x=grid, initial=0.0)
    cdf = cumulative / cumulative[-1]
    assert stats.kstest(x[:, 1], lambda at: np.interp(at, grid, cdf)).pvalue > 0.01
    residual = x[:, 1] - x[:, 0] ** 2
    assert stats.kstest(residual, stats.norm(scale=0.5**0.5).cdf).pvalue > 0.01
    assert abs(np.corrcoef(residual, x[:, 0])[0, 1]) < 0.03
    upper = grid[np.searchsorted(cdf, 0.99)]
    assert 6.7 < upper < 6.9  # the tail that the docstring tells of


def test_rosenbrocks_samples_are_addressed():
    whole = drawn(10)
    part = Rosenbrock().draw(sample_seeds(4, 3, 0, "x")).values
    assert torch.equal(part.double(), whole[4:7])
    assert part.dtype == torch.float32
    assert Rosenbrock().spec.shape == (2,)
