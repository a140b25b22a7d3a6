r"""What the Gaussian loops do, exactly, where a formula says it.

Throughout, a generation fits the mean :math:`\mu_t` and covariance :math:`\Sigma_t` of its training
samples, and synthetic samples of it come from :math:`\mathcal N(\mu_t, \lambda\Sigma_t)`
(Alemohammad et al., 2023, section 3.1). Covariances divide by n - 1 (``unbiased``, as there) or by
n (``maximum_likelihood``). Most of the formulas follow from two lines. A mean of n samples and
their scatter, given the law that they come from, are independent with

.. math:: E|\bar x - \mu|^2 = \operatorname{tr}\Sigma / n, \qquad E\,S = (n - 1)\,\Sigma.

Beware of expectations. With λ = 1 the unbiased :math:`E\Sigma_t` stays :math:`\Sigma_0` for ever,
while every single lineage loses all its variance: ever fewer of them carry ever more of it. What a
lineage sees is the median, and the logarithm (:func:`log_variance_drift`).

References:
    | Self-Consuming Generative Models Go MAD (Alemohammad et al., 2023),
    | https://arxiv.org/abs/2307.01850
    | Rate of Model Collapse in Recursive Training (Suresh et al., 2024),
    | https://arxiv.org/abs/2412.17646
    | Is Model Collapse Inevitable? (Gerstgrasser et al., 2024), https://arxiv.org/abs/2404.01413
    | Collapse or Thrive? (Kazdan et al., 2024), https://arxiv.org/abs/2410.16713
    | Aspects of Multivariate Statistical Theory (Muirhead, 1982), chapter 3
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "DriftAndVariance",
    "Estimator",
    "accumulate_limit",
    "accumulate_variance",
    "covariance_of_wishart",
    "expected_variance",
    "fresh_fixed_point",
    "fresh_moments",
    "log_variance_drift",
    "mean_drift",
    "median_variance",
    "regression_error",
    "relaxation",
    "std_contraction",
    "w2_squared_to_standard_normal",
]

Estimator = Literal["unbiased", "maximum_likelihood"]
"""How covariances are estimated: divided by n - 1, as in the paper, or by n."""


# the estimators


def std_contraction(n: int, sampling_bias: float = 1.0) -> float:
    r"""Mean factor on a standard deviation in one generation of one dimension.

    .. math:: E\,\sigma_{t+1} / \sigma_t = \sqrt\lambda\, c_4(n), \qquad c_4(n) =
        \sqrt{\tfrac 2{n-1}}\,\frac{\Gamma(n/2)}{\Gamma((n-1)/2)} \approx 1 - \tfrac 1{4(n-1)}

    Source: the mean of a chi variable; Suresh et al. (2024) bound collapse by it.

    Args:
        n: Samples a generation, at least 2.
        sampling_bias: λ.
    """
    log = math.lgamma(n / 2) - math.lgamma((n - 1) / 2) + 0.5 * math.log(2 / (n - 1))
    return math.sqrt(sampling_bias) * math.exp(log)


def log_variance_drift(n: int, sampling_bias: float = 1.0, dim: int = 1) -> float:
    r"""Mean change of :math:`\log\det\Sigma_t / d` in one generation, always negative.

    .. math:: \log\lambda + \frac1d\sum_{i=1}^d \psi\!\left(\tfrac{n-i}2\right) - \log\tfrac{n-1}2,

    about :math:`\log\lambda - 1/(n-1)` in one dimension: collapse takes some n generations.

    Source: Bartlett's decomposition of a Wishart determinant (Muirhead, 1982, theorem 3.2.15).

    Args:
        n: Samples a generation, more than ``dim``.
        sampling_bias: λ.
        dim: d.
    """
    freedom = (n - torch.arange(1, dim + 1, dtype=torch.float64)) / 2
    return math.log(sampling_bias) + float(torch.digamma(freedom).mean()) - math.log((n - 1) / 2)


def covariance_of_wishart(cov: Tensor, freedom: float) -> Tensor:
    r"""Covariances between the entries of an unbiased covariance estimate, (d, d, d, d).

    .. math:: \operatorname{Cov}(\hat\Sigma_{ij}, \hat\Sigma_{kl})
        = (\Sigma_{ik}\Sigma_{jl} + \Sigma_{il}\Sigma_{jk}) / (n - 1),
        \qquad \hat\Sigma \sim W_d(\Sigma, n - 1) / (n - 1)

    Source: Muirhead (1982), section 3.2; in the loop, Alemohammad et al. (2023), section 3.1.

    Args:
        cov: Σ with shape (d, d).
        freedom: n - 1.
    """
    ikjl = torch.einsum("ik,jl->ijkl", cov, cov)
    return (ikjl + ikjl.permute(0, 1, 3, 2)) / freedom


def w2_squared_to_standard_normal(mean: Tensor, root: Tensor) -> Tensor:
    r"""Squared W2 distance between :math:`\mathcal N(\mu, A^\top A)` and N(0, I), for a batch.

    .. math:: W_2^2 = |\mu|^2 + \sum_i \left(1 - \sqrt{l_i}\right)^2, \qquad
        l_i \text{ the eigenvalues of } A^\top A

    Source: the case :math:`\Sigma_2 = I` of
    :func:`mad_lightning.metrics.functional.gaussian_w2_squared`, which takes any two Gaussians.

    Args:
        mean: Means with shape (*, d).
        root: Factors A with shape (*, r, d), r <= d.

    Returns:
        Distances with shape (*,).
    """
    rank, dim = root.shape[-2:]
    gram = root @ root.mT
    eigenvalues = gram[..., 0] if rank == 1 else torch.linalg.eigvalsh(gram)
    axes = (1.0 - eigenvalues.clamp(min=0.0).sqrt()).square().sum(dim=-1)
    return mean.square().sum(dim=-1) + axes + (dim - rank)


class Laws:
    """Gaussian laws of the last generation of many lineages, and what is measured of them.

    Attributes:
        mean: Their means, with shape (S, R, d).
        root: Factors A of their covariances A'A, with shape (S, R, r, d), r <= d.
    """

    mean: Tensor
    root: Tensor

    def covariance(self) -> Tensor:
        """Covariances of the last generation, with shape (S, R, d, d)."""
        return self.root.mT @ self.root

    def drift(self) -> Tensor:
        """Squared length of the last generation's mean, with shape (S, R)."""
        return self.mean.square().sum(dim=-1)

    def variance(self) -> Tensor:
        """Mean variance tr Σ / d of the last generation, with shape (S, R)."""
        return self.root.square().sum(dim=(-2, -1)) / self.root.shape[-1]

    def w2_squared(self, which: Sequence[int] | None = None) -> Tensor:
        """Squared W2 distance between the last generation and N(0, I), with shape (S, R).

        Args:
            which: Places of the settings to measure, in order; None measures all.
        """
        if which is None or len(which) == len(self.mean):
            return w2_squared_to_standard_normal(self.mean, self.root)
        at = torch.tensor(which, dtype=torch.int64, device=self.mean.device)
        return w2_squared_to_standard_normal(self.mean[at], self.root[at])


# the fully synthetic loop


def mean_drift(
    t: int, n: int, sampling_bias: float = 1.0, variance: float = 1.0, n_initial: int | None = None
) -> float:
    r"""Expected squared distance between generation t's mean and the truth, fully synthetic.

    .. math:: E|\mu_t - \mu_0|^2 = \operatorname{tr}\Sigma_0
        \left[\frac1{n_1} + \frac1n \sum_{i=1}^{t-1} \lambda^i\right]

    For λ = 1 it grows without bound, as a random walk; for λ < 1 the sum ends at λ / (1 - λ).

    Source: Alemohammad et al. (2023), section 3.1 and appendix A, summed over generations; the
    covariances are the unbiased ones.

    Args:
        t: Generation, from 1.
        n: Synthetic samples a generation.
        sampling_bias: λ.
        variance: tr Σ_0, over all dimensions.
        n_initial: Real samples of generation 1; None takes n.
    """
    walked = math.fsum(sampling_bias**i for i in range(1, t))
    return variance * (1 / (n if n_initial is None else n_initial) + walked / n)


def expected_variance(
    t: int, n: int, sampling_bias: float = 1.0, estimator: Estimator = "unbiased"
) -> float:
    r"""The factor :math:`E\Sigma_t = c\,\Sigma_0` of the fully synthetic loop.

    .. math:: c = \lambda^{t-1} \;\text{(unbiased)}, \qquad
        c = \lambda^{t-1} (1 - 1/n)^t \;\text{(maximum likelihood)}

    Source: Alemohammad et al. (2023), section 3.1: a martingale for λ = 1, a supermartingale below.

    Args:
        t: Generation, from 1.
        n: Samples a generation, real in the first.
        sampling_bias: λ.
        estimator: How covariances are estimated.
    """
    shrink = 1.0 if estimator == "unbiased" else (1 - 1 / n) ** t
    return sampling_bias ** (t - 1) * shrink


def median_variance(t: int, n: int, sampling_bias: float = 1.0) -> float:
    r"""The median of :math:`\sigma_t^2 / \sigma_0^2` in one dimension, fully synthetic, unbiased.

    .. math:: \lambda^{t-1} \exp\left(t\left[\psi(\tfrac{n-1}2) - \log\tfrac{n-1}2\right]\right)

    The variance is a product of independent chi-square factors, its logarithm a sum; the median of
    a sum is close to its mean. For a small t and n it is not exact: the logarithm of one chi-square
    is skew, which puts the true median above by up to 1 / (3 n).

    Source: the central limit theorem on :func:`log_variance_drift`.

    Args:
        t: Generation, from 1.
        n: Samples a generation.
        sampling_bias: λ.
    """
    return sampling_bias ** (t - 1) * math.exp(t * log_variance_drift(n))


# the fresh data loop


class DriftAndVariance(NamedTuple):
    """First two moments of a fresh loop.

    Attributes:
        drift: Expected squared length of the mean, E|μ_t|².
        variance: Expected total variance, E tr Σ_t.
    """

    drift: float
    variance: float


def _fresh_recursion(
    n_real: int, n_synthetic: int, sampling_bias: float, estimator: Estimator
) -> tuple[np.ndarray, np.ndarray]:
    """(drift, variance) -> matrix @ (drift, variance) + source * tr Σ_0."""
    n = n_real + n_synthetic
    p, q = n_real / n, n_synthetic / n
    less = (n - 1) / n if estimator == "maximum_likelihood" else 1.0
    matrix = np.array(
        [
            [q * q, q * sampling_bias / n],
            [less * p * q * n / max(n - 1, 1), less * q * sampling_bias],
        ]
    )
    return matrix, np.array([p / n, less * p])


def fresh_moments(
    t: int,
    n_initial: int,
    n_real: int,
    n_synthetic: int,
    sampling_bias: float = 1.0,
    variance: float = 1.0,
    estimator: Estimator = "unbiased",
) -> DriftAndVariance:
    r"""Moments of generation t of the fresh loop, synthetic samples from the last generation.

    With N samples a generation, a share p of them real and q synthetic, and
    :math:`T = \operatorname{tr}\Sigma_0`, :math:`m_t = E|\mu_t - \mu_0|^2`,
    :math:`s_t = E\operatorname{tr}\Sigma_t`, unbiased,

    .. math:: m_t = q^2 m_{t-1} + (p\,T + q \lambda s_{t-1}) / N, \qquad
        s_t = p\,T + q \lambda s_{t-1} + p q \tfrac{N}{N-1} m_{t-1}.

    Source: the mean and scatter of pooled samples (Chan et al., 1983), in expectation.

    Args:
        t: Generation, from 1.
        n_initial: Real samples of generation 1.
        n_real: Fresh real samples of each later generation.
        n_synthetic: Synthetic samples of each later generation.
        sampling_bias: λ.
        variance: T, over all dimensions.
        estimator: How covariances are estimated.
    """
    matrix, source = _fresh_recursion(n_real, n_synthetic, sampling_bias, estimator)
    less = (n_initial - 1) / n_initial if estimator == "maximum_likelihood" else 1.0
    state = np.array([variance / n_initial, less * variance])
    for _ in range(t - 1):
        state = matrix @ state + source * variance
    return DriftAndVariance(float(state[0]), float(state[1]))


def fresh_fixed_point(
    n_real: int,
    n_synthetic: int,
    sampling_bias: float = 1.0,
    variance: float = 1.0,
    estimator: Estimator = "unbiased",
) -> DriftAndVariance:
    """Where :func:`fresh_moments` end, whatever the start: the limit point of section 5.2.

    Two linear equations in two unknowns. At E9 (100 real, 900 synthetic, d = 100) they give (0.529,
    100.48) for λ = 1 and (0.188, 35.77) for λ = 0.8.

    Args:
        n_real: Fresh real samples a generation, at least 1.
        n_synthetic: Synthetic samples a generation.
        sampling_bias: λ.
        variance: tr Σ_0.
        estimator: How covariances are estimated.
    """
    matrix, source = _fresh_recursion(n_real, n_synthetic, sampling_bias, estimator)
    drift, total = np.linalg.solve(np.eye(2) - matrix, source * variance)
    return DriftAndVariance(float(drift), float(total))


def relaxation(
    n_real: int,
    n_synthetic: int,
    sampling_bias: float = 1.0,
    k: int = 1,
    estimator: Estimator = "unbiased",
) -> float:
    r"""Generations in which the fresh loop forgets all but 1/e of where it started.

    :math:`-1 / \log\rho`, with ρ the spectral radius of the recursion of :func:`fresh_moments`:
    about N / n_real for λ = 1. Samples of the last k generations alike are (k + 1) / 2 generations
    old on average, and that much slower, to first order in the share of real samples.

    Args:
        n_real: Fresh real samples a generation.
        n_synthetic: Synthetic samples a generation.
        sampling_bias: λ.
        k: How many of the last generations feed a generation.
        estimator: How covariances are estimated.
    """
    matrix, _ = _fresh_recursion(n_real, n_synthetic, sampling_bias, estimator)
    radius = float(np.abs(np.linalg.eigvals(matrix)).max())
    return 0.0 if radius == 0.0 else -(k + 1) / 2 / math.log(radius)


# what accumulating does


def accumulate_variance(t: int, n: int, estimator: Estimator = "maximum_likelihood") -> float:
    r"""The factor :math:`E\Sigma_t = c\,\Sigma_0` where every sample ever drawn stays in the pool.

    The pool gains n samples a generation, real in the first: ``SyntheticAugmentation(n,
    "(t-1) * n", synthetic_from="all")``, λ = 1. With maximum likelihood

    .. math:: c = \prod_{i=1}^t \left(1 - \frac1{n i^2}\right),

    and with the unbiased estimator :math:`\prod_{i=2}^t (1 - 1 / [i (i n - 1)])`.

    Source: Kazdan et al. (2024); the scatter of pool and newcomers in expectation, with the mean of
    the newcomers :math:`\Sigma/n` away from that of the pool.

    Args:
        t: Generation, from 1.
        n: Samples that each generation adds.
        estimator: How covariances are estimated.
    """
    if estimator == "maximum_likelihood":
        return math.prod(1 - 1 / (n * i * i) for i in range(1, t + 1))
    return math.prod(1 - 1 / (i * (i * n - 1)) for i in range(2, t + 1))


def accumulate_limit(n: int) -> float:
    r"""Where :func:`accumulate_variance` ends with maximum likelihood: not at 0.

    .. math:: E\sigma_\infty^2 = \sigma_0^2\,\frac{\sin(\pi/\sqrt n)}{\pi/\sqrt n}, \qquad
        E(\mu_\infty - \mu_0)^2 = \sigma_0^2 - E\sigma_\infty^2

    The fine print: λ = 1, the estimator divides by n, the pool keeps the real samples and grows for
    ever, and this is an expectation: each lineage ends at a random variance of its own, above or
    below. For n = 1 it is 0, as one sample has no variance. In d dimensions it holds for every
    entry of the covariance.

    Source: Kazdan et al. (2024); Euler's product for the sine at :math:`1/\sqrt n`.

    Args:
        n: Samples that each generation adds.
    """
    x = math.pi / math.sqrt(n)
    return 0.0 if n == 1 else math.sin(x) / x


def regression_error(
    t: int, n: int, dim: int, noise: float = 1.0, accumulate: bool = True
) -> float:
    r"""Expected excess test error of linear regression on its own labels, generation t.

    Least squares on n standard normal inputs of dimension d; generation t labels the same inputs
    with its own predictions and new noise of variance σ².

    .. math:: \frac{\sigma^2 d}{n - d - 1} \times \begin{cases} t & \text{replace} \\
        \sum_{i=1}^t 1/i^2 \le \pi^2/6 & \text{accumulate}\end{cases}

    Replacing goes on for ever, accumulating costs at most 64 % more than one generation. The fine
    print: equality needs the same inputs in every generation; where inputs are new, it is exact for
    replace, and a bound for accumulate.

    Source: Gerstgrasser et al. (2024), theorems 1 and 2.

    Args:
        t: Generation, from 1; the first is fitted to real labels.
        n: Inputs a generation, more than d + 1.
        dim: d.
        noise: σ², the variance of a label's noise.
        accumulate: Whether earlier labels stay in the pool, or are replaced.
    """
    grown = math.fsum(1 / (i * i) for i in range(1, t + 1)) if accumulate else float(t)
    return noise * dim / (n - dim - 1) * grown
