r"""Two densities over points: the normal law, and a kernel density, which does not collapse.

A normal law fitted to n of its own samples loses variance: each generation's is the last one's
times a chi-square over its degrees of freedom, whose logarithm is negative on average. That is a
property of the estimator, not of loops. A kernel density *adds* the variance of its kernel to that
of the points it was given, and what a generation loses by resampling it may get back:

.. math:: E\,v' = (1 - 1/n)\,v + h^2 \;\to\; n h^2 \quad\text{(fixed bandwidth h)}, \qquad
    E\,v' = (1 - 1/n + f_n^2)\,v \quad\text{(Silverman)},

with :math:`f_n = (n (d + 2) / 4)^{-1/(d + 4)}`, about :math:`1.06\,n^{-1/5}` in one dimension. The
second factor is above 1 for every n: Silverman's bandwidth makes variance explode.

References:
    | Density Estimation for Statistics and Data Analysis (Silverman, 1986), section 4.3
    | Lost in Retraining (Jangjoo et al., 2026), https://arxiv.org/abs/2506.20623: one real sample a
    | generation, or a prior, keeps an exponential family's law alive
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from mad_lightning.policies import LoopPolicy
from mad_lightning.refusal import Refused, check_one_of
from mad_lightning.theory.closed_forms import Estimator, log_variance_drift
from mad_lightning.theory.families import Array, Family, bias_at, chain, check_number, log
from mad_lightning.theory.limits import check_whole
from mad_lightning.theory.recursion import Expected, Prior, Seen, expected_moments

__all__ = ["KernelDensity", "Marked", "Normal", "root_of", "silverman_factor", "wishart_root"]

Marked = Literal["every", "once", "never"]
"""Whose samples carry the watermark: each generation's, the first one's, or nobody's."""


class _Moments(NamedTuple):
    """Of n samples of each lineage: mean (R, d) and scatter (R, d, d) around it."""

    n: float
    mean: Array
    scatter: Array


class _NormalLaw(NamedTuple):
    """Means (R, d) and covariances (R, d, d)."""

    mean: Array
    cov: Array


class Normal(Family):
    """A normal law by its sample mean and covariance; real samples come from N(0, I).

    λ is the factor on the covariance that samples are drawn with. The same lineages as
    :class:`~mad_lightning.theory.GaussianLineages`, with three things that those do not know: a
    prior, a watermark, and the logarithm of the determinant.

    Args:
        dim: d, at least 1.
        estimator: ``unbiased`` covariances divide by n - 1, ``maximum_likelihood`` ones by n.
        prior: How many samples of N(0, I) that nobody drew are learned beside the real ones: their
            exact moments, which makes the law a posterior mode (under the conjugate prior).
        mark: A watermark: added to the first coordinate of drawn samples, in real std.
        marked: Whose samples carry it: those of ``every`` generation, of the first alone
            (``once``), or of none (``never``).
    """

    measures = ("variance", "log_variance", "mean", "drift")

    def __init__(
        self,
        dim: int = 1,
        estimator: Estimator = "unbiased",
        prior: float = 0.0,
        mark: float = 0.0,
        marked: Marked = "every",
    ) -> None:
        check_whole("dim", dim, 1)
        check_one_of(("unbiased", "maximum_likelihood"), estimator=estimator)
        check_one_of(("every", "once", "never"), marked=marked)
        check_number("prior", prior, "[0, inf)")
        check_number("mark", mark, "(-inf, inf)")
        self.dim, self.estimator, self.prior = dim, estimator, prior
        self.mark, self.marked = mark, marked

    @property
    def _less(self) -> float:
        return 1.0 if self.estimator == "unbiased" else 0.0

    @property
    def least(self) -> int:
        """Two, if covariances divide by n - 1."""
        return 1 if self.prior > 0 else 1 + int(self._less)

    def _shift(self, t: int) -> float:
        marks = self.marked == "every" or (self.marked == "once" and t == 1)
        return self.mark if marks else 0.0

    def real(self, n: int, lineages: int, rng: np.random.Generator) -> _Moments:
        """Moments of n samples of N(0, I)."""
        return _moments(n, np.zeros((lineages, self.dim)), np.eye(self.dim)[None], rng)

    def draw(
        self, law: _NormalLaw, n: int, sampling_bias: float, t: int, rng: np.random.Generator
    ) -> _Moments:
        """Moments of n samples of N(μ, λΣ), marked or not."""
        drawn = _moments(n, law.mean, math.sqrt(sampling_bias) * root_of(law.cov), rng)
        drawn.mean[:, 0] += self._shift(t)
        return drawn

    def join(self, parts: Sequence[_Moments]) -> _Moments:
        """By Chan et al. (1983), which loses no digits where variances are small."""
        n = sum(part.n for part in parts)
        mean = sum((part.n / n * part.mean for part in parts), np.zeros(()))
        scatter = np.zeros(())
        for part in parts:
            gap = part.mean - mean
            scatter = scatter + part.scatter + part.n * gap[:, :, None] * gap[:, None, :]
        return _Moments(n, mean, scatter)

    def weigh(self, part: _Moments, weight: float) -> _Moments:
        """More samples of the same mean."""
        return _Moments(weight * part.n, part.mean, weight * part.scatter)

    def learn(self, seen: _Moments) -> _NormalLaw:
        """Sample mean and covariance, a prior's samples among them."""
        if self.prior > 0:
            scatter = np.broadcast_to(self.prior * np.eye(self.dim), seen.scatter.shape)
            seen = self.join([seen, _Moments(self.prior, np.zeros_like(seen.mean), scatter)])
        return _NormalLaw(seen.mean, seen.scatter / (seen.n - self._less))

    def measure(self, law: _NormalLaw) -> dict[str, Array]:
        """``variance`` is tr Σ / d, ``mean`` the first axis', ``drift`` all axes' squared."""
        return _measures(law.mean, law.cov)

    def expected(
        self, policy: LoopPolicy, generations: int, sampling_bias: float | str
    ) -> dict[str, Array]:
        """All four; the logarithm where each generation has its predecessor's samples alone."""

        def spread(seen: Seen) -> float:
            return seen.variance * seen.n / (seen.n - self._less)

        def along(marked: bool) -> Expected:
            return expected_moments(
                policy,
                generations,
                spread,
                sampling_bias=partial(bias_at, sampling_bias),
                prior=Prior(self.prior),
                shift=self._shift if marked else lambda t: 0.0,
            )

        first = along(True)
        rest = along(False) if self.dim > 1 and self.mark else first
        others = self.dim - 1
        told = {
            "variance": (first.variance + others * rest.variance) / self.dim,
            "mean": first.mean,
            "drift": first.square + others * rest.square,
        }
        sizes = chain(policy, generations)
        if sizes is not None and min(sizes) > self.dim and not self.prior:
            steps = [log_variance_drift(n, dim=self.dim) for n in sizes]
            if self.estimator == "maximum_likelihood":
                steps = [s + math.log((n - 1) / n) for s, n in zip(steps, sizes, strict=True)]
            biases = [math.log(bias_at(sampling_bias, t)) for t in range(1, generations)]
            told["log_variance"] = np.cumsum(steps) + np.cumsum([0.0, *biases])
        return told


class _Points(NamedTuple):
    """The samples (R, n, d) themselves, and what each counts (n,)."""

    points: Array
    weights: Array


class _KernelLaw(NamedTuple):
    """Points (R, n, d), what each counts, their mean, their covariance over n, the kernel's."""

    points: Array
    weights: Array
    mean: Array
    cov: Array
    kernel: Array


class KernelDensity(Family):
    """A normal kernel on every training sample; real samples come from N(0, I).

    λ narrows all that is drawn towards the mean of the points: x becomes m + √λ (x - m).

    Args:
        bandwidth: The kernel's standard deviation, in real ones; or ``silverman``: the points'
            covariance (over n - 1) times :func:`silverman_factor` squared, as scipy's
            ``gaussian_kde(bw_method="silverman")`` takes it.
        dim: d, at least 1.
    """

    measures = ("variance", "log_variance", "mean", "drift")

    def __init__(self, bandwidth: float | Literal["silverman"], dim: int = 1) -> None:
        check_whole("dim", dim, 1)
        if bandwidth != "silverman":
            if isinstance(bandwidth, str):
                raise Refused("bandwidth", f"{bandwidth!r}", "give silverman, or a number above 0")
            check_number("bandwidth", bandwidth, "(0, inf)", "or silverman")
        self.bandwidth, self.dim = bandwidth, dim

    @property
    def least(self) -> int:
        """Two, if their covariance decides the bandwidth."""
        return 2 if self.bandwidth == "silverman" else 1

    def real(self, n: int, lineages: int, rng: np.random.Generator) -> _Points:
        """Samples of N(0, I)."""
        return _Points(rng.standard_normal((lineages, n, self.dim)), np.ones(n))

    def draw(
        self, law: _KernelLaw, n: int, sampling_bias: float, t: int, rng: np.random.Generator
    ) -> _Points:
        """Points drawn with replacement, and a normal deviation from each."""
        lineages, many, _ = law.points.shape
        chosen = rng.integers(0, many, (lineages, n, 1))
        if np.ptp(law.weights) > 0:
            chosen = rng.choice(many, (lineages, n, 1), p=law.weights / law.weights.sum())
        z = rng.standard_normal((lineages, n, self.dim))
        x = np.take_along_axis(law.points, chosen, axis=1) + z @ root_of(law.kernel).swapaxes(1, 2)
        if sampling_bias != 1.0:
            x = law.mean[:, None] + math.sqrt(sampling_bias) * (x - law.mean[:, None])
        return _Points(x, np.ones(n))

    def join(self, parts: Sequence[_Points]) -> _Points:
        """All of them."""
        points = np.concatenate([part.points for part in parts], axis=1)
        return _Points(points, np.concatenate([part.weights for part in parts]))

    def weigh(self, part: _Points, weight: float) -> _Points:
        """Chosen so many times as often."""
        return _Points(part.points, weight * part.weights)

    def learn(self, seen: _Points) -> _KernelLaw:
        """Keeps the points, and works out the kernel."""
        x, weights = seen
        n = float(weights.sum())
        mean = (weights / n) @ x
        centred = x - mean[:, None]
        cov = (weights / n * centred.swapaxes(1, 2)) @ centred
        return _KernelLaw(x, weights, mean, cov, self._kernel(cov, n))

    def _kernel(self, cov: Array, n: float) -> Array:
        if isinstance(self.bandwidth, str):
            return cov * (silverman_factor(n, self.dim) ** 2 * n / (n - 1))
        return np.broadcast_to(self.bandwidth**2 * np.eye(self.dim), cov.shape)

    def measure(self, law: _KernelLaw) -> dict[str, Array]:
        """Of the density: the variance of its points and that of its kernel."""
        return _measures(law.mean, law.cov + law.kernel)

    def expected(
        self, policy: LoopPolicy, generations: int, sampling_bias: float | str
    ) -> dict[str, Array]:
        """Variance, mean and drift."""

        def spread(seen: Seen) -> float:
            if isinstance(self.bandwidth, str):
                factor = silverman_factor(seen.n, self.dim) ** 2 * seen.n / (seen.n - 1)
                return seen.variance * (1 + factor)
            return seen.variance + self.bandwidth**2

        biased = partial(bias_at, sampling_bias)
        one = expected_moments(policy, generations, spread, sampling_bias=biased)
        return {"variance": one.variance, "mean": one.mean, "drift": self.dim * one.square}


def silverman_factor(n: float, dim: int = 1) -> float:
    r"""Silverman's bandwidth in standard deviations, :math:`(n (d + 2) / 4)^{-1/(d + 4)}`.

    Args:
        n: Samples.
        dim: d.
    """
    return float((n * (dim + 2) / 4) ** (-1 / (dim + 4)))


def _moments(n: int, mean: Array, root: Array, rng: np.random.Generator) -> _Moments:
    """Moments of n normal samples with means (R, d) and covariances A A', A (R or 1, d, d)."""
    lineages, dim = mean.shape
    shift = (root @ rng.standard_normal((lineages, dim, 1)))[..., 0] / math.sqrt(n)
    half = root @ wishart_root(n - 1, lineages, dim, rng)
    return _Moments(n, mean + shift, half @ half.swapaxes(1, 2))


def wishart_root(freedom: int, lineages: int, dim: int, rng: np.random.Generator) -> Array:
    """A (R, d, d or less) of which A A' is Wishart: the scatter of so many points of N(0, I)."""
    if freedom < dim:
        return rng.standard_normal((lineages, dim, freedom))
    half = np.tril(rng.standard_normal((lineages, dim, dim)), -1)  # Bartlett, 1933
    axes = np.arange(dim)
    chi = rng.chisquare(np.broadcast_to(freedom - axes.astype(float), (lineages, dim)))
    half[:, axes, axes] = np.sqrt(chi)
    return half


def root_of(cov: Array) -> Array:
    """A with A A' = Σ, also where Σ is singular."""
    if cov.shape[-1] == 1:
        return np.sqrt(cov)
    try:
        return np.asarray(np.linalg.cholesky(cov), np.float64)
    except np.linalg.LinAlgError:
        values, axes = np.linalg.eigh(cov)
        return axes * np.sqrt(values.clip(0.0))[..., None, :]


def _measures(mean: Array, cov: Array) -> dict[str, Array]:
    """Of laws with means (R, d) and covariances (R, d, d)."""
    return {
        "variance": np.einsum("rii->r", cov) / cov.shape[-1],
        "log_variance": _log_det(cov),
        "mean": mean[:, 0],
        "drift": np.square(mean).sum(axis=1),
    }


def _log_det(cov: Array) -> Array:
    """Logarithm of the determinant a dimension."""
    dim = cov.shape[-1]
    if dim == 1:
        return log(cov[:, 0, 0])
    sign, value = np.linalg.slogdet(cov)
    value[sign <= 0] = -np.inf
    return np.asarray(value / dim, np.float64)
