r"""Two learners of an average: exponential families with a prior, and least squares.

What an exponential family learns is the mean of its sufficient statistic, and a mean of one's own
samples is a martingale: right on average and on its way to an absorbing state (no event at all, or
events only), where it stays. In the families here the variance is a quadratic of the mean,
:math:`V(\mu) = v_0 + v_1\mu + v_2\mu^2` (Morris, 1982), and one line says what becomes of it
without anything real:

.. math:: E\,V(\mu_t) = (1 + v_2/n)^t\,V(\mu_0):

Bernoulli (:math:`v_2 = -1`) loses it as words do, Poisson and normal laws keep it on average, and
the exponential law's average grows by the luck of ever fewer lineages, while the median dies. One
real sample a generation, or a prior that is worth one, ends all that (Jangjoo et al., 2026).

Least squares relabels its inputs by its own predictions, and new noise. Its slope is an average as
well: replaced labels let its error grow linearly, accumulated ones by at most :math:`\pi^2/6`.

References:
    | Natural exponential families with quadratic variance functions (Morris, 1982),
    | https://doi.org/10.1214/aos/1176345690
    | Lost in Retraining (Jangjoo et al., 2026), https://arxiv.org/abs/2506.20623
    | Is Model Collapse Inevitable? (Gerstgrasser et al., 2024), https://arxiv.org/abs/2404.01413
    | Universality of the pi^2/6 pathway (Dey and Donoho, 2024), https://arxiv.org/abs/2410.22812
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from mad_lightning.policies import LoopPolicy
from mad_lightning.refusal import check_one_of
from mad_lightning.theory.densities import root_of, wishart_root
from mad_lightning.theory.families import Array, Family, chain, check_number, log
from mad_lightning.theory.limits import check_whole
from mad_lightning.theory.recursion import Prior, expected_moments
from mad_lightning.theory.segments import segments

__all__ = ["ExponentialFamily", "LeastSquares"]

_VARIANCES = {
    "normal": (1.0, 0.0, 0.0),
    "poisson": (0.0, 1.0, 0.0),
    "bernoulli": (0.0, 1.0, -1.0),
    "exponential": (0.0, 0.0, 1.0),
}
"""The variance as a quadratic of the mean: v_0, v_1, v_2."""
_MEANS = {
    "normal": "(-inf, inf)",
    "poisson": "(0, inf)",
    "bernoulli": "(0, 1)",
    "exponential": "(0, inf)",
}


class _Sum(NamedTuple):
    """How many samples, and their sum (R,)."""

    n: float
    total: Array


class _Mean(NamedTuple):
    """The learned mean (R,)."""

    mean: Array


class ExponentialFamily(Family):
    """A law with one parameter, its mean, learned as the mean of the samples and of a prior's.

    Args:
        law: ``bernoulli``, ``poisson``, ``exponential``, or ``normal`` with variance 1.
        mean: The real one.
        prior: How many samples nobody drew are learned beside the real ones: the posterior mode of
            the mean under the conjugate prior (0: maximum likelihood).
        prior_mean: Their mean; None takes the real one.
    """

    measures = ("mean", "variance", "log_variance")
    biases = "[1, 1]"

    def __init__(
        self,
        law: Literal["normal", "poisson", "bernoulli", "exponential"],
        mean: float,
        prior: float = 0.0,
        prior_mean: float | None = None,
    ) -> None:
        check_one_of(tuple(_VARIANCES), law=law)
        check_number("mean", mean, _MEANS[law], f"where a {law} law has its mean")
        check_number("prior", prior, "[0, inf)")
        if prior_mean is not None:
            check_number("prior_mean", prior_mean, _MEANS[law], f"where a {law} law has its mean")
        self.law, self.mean, self.prior = law, mean, prior
        self.prior_mean = mean if prior_mean is None else prior_mean

    def _variance(self, mean: Array) -> Array:
        constant, linear, quadratic = _VARIANCES[self.law]
        return constant + linear * mean + quadratic * mean**2

    def real(self, n: int, lineages: int, rng: np.random.Generator) -> _Sum:
        """The sum of n samples of the real law."""
        return _Sum(n, self._sum(np.full(lineages, float(self.mean)), n, rng))

    def draw(
        self, law: _Mean, n: int, sampling_bias: float, t: int, rng: np.random.Generator
    ) -> _Sum:
        """The sum of n samples, whose law is known in each family."""
        return _Sum(n, self._sum(law.mean, n, rng))

    def _sum(self, mean: Array, n: int, rng: np.random.Generator) -> Array:
        match self.law:
            case "normal":
                return n * mean + math.sqrt(n) * rng.standard_normal(mean.shape)
            case "poisson":
                return rng.poisson(n * mean).astype(float)
            case "bernoulli":
                return rng.binomial(n, mean.clip(0.0, 1.0)).astype(float)
        return mean * rng.standard_gamma(float(n), mean.shape)

    def learn(self, seen: _Sum) -> _Mean:
        """The mean of all samples, a prior's among them."""
        return _Mean((seen.total + self.prior * self.prior_mean) / (seen.n + self.prior))

    def measure(self, law: _Mean) -> dict[str, Array]:
        """``variance`` is that of the law."""
        variance = self._variance(law.mean)
        return {"mean": law.mean, "variance": variance, "log_variance": log(variance)}

    def expected(
        self, policy: LoopPolicy, generations: int, sampling_bias: float | str
    ) -> dict[str, Array]:
        """Mean and variance."""
        constant, linear, quadratic = _VARIANCES[self.law]
        told = expected_moments(
            policy,
            generations,
            lambda seen: constant + linear * seen.mean + quadratic * seen.square,
            mean=self.mean,
            variance=float(self._variance(np.array(self.mean))),
            prior=Prior(self.prior, self.prior_mean),
        )
        return {"mean": told.mean, "variance": told.variance}


class _Products(NamedTuple):
    """Of inputs and labels: n, X'X (R, d, d) and X'y (R, d)."""

    n: float
    inputs: Array
    labels: Array


class _Slope(NamedTuple):
    """Coefficients (R, d), and X'X / n of what they were fitted to (R, d, d)."""

    slope: Array
    inputs: Array


class LeastSquares(Family):
    r"""Linear regression without an intercept, on labels that its predecessors gave.

    Inputs are N(0, I); labels are the prediction and noise. The error is that on new inputs, beyond
    the noise: the squared length of what the coefficients are off.

    Args:
        dim: Inputs d, at least 1.
        noise: σ², the variance of a label's noise.
        inputs: ``kept``: a generation relabels the inputs that it was fitted to, as Gerstgrasser et
            al. (2024) have it; ``new``: it draws new ones.
    """

    measures = ("error",)
    biases = "[1, 1]"

    def __init__(
        self, dim: int = 1, noise: float = 1.0, inputs: Literal["kept", "new"] = "kept"
    ) -> None:
        check_whole("dim", dim, 1)
        check_number("noise", noise, "(0, inf)")
        check_one_of(("kept", "new"), inputs=inputs)
        self.dim, self.noise, self.inputs = dim, noise, inputs

    @property
    def least(self) -> int:
        """With d + 1 the error has no expectation."""
        return self.dim + 2

    def real(self, n: int, lineages: int, rng: np.random.Generator) -> _Products:
        """Inputs and real labels, of which the coefficients are 0 (all others are alike)."""
        slope = np.zeros((lineages, self.dim))
        return self._labelled(n, self._new(n, lineages, rng), slope, rng)

    def draw(
        self, law: _Slope, n: int, sampling_bias: float, t: int, rng: np.random.Generator
    ) -> _Products:
        """Labels from the last fit, for the same inputs or new ones."""
        kept = self.inputs == "kept"
        inputs = n * law.inputs if kept else self._new(n, len(law.slope), rng)
        return self._labelled(n, inputs, law.slope, rng)

    def _new(self, n: int, lineages: int, rng: np.random.Generator) -> Array:
        """X'X of n new inputs."""
        half = wishart_root(n, lineages, self.dim, rng)
        return half @ half.swapaxes(1, 2)

    def _labelled(self, n: int, inputs: Array, slope: Array, rng: np.random.Generator) -> _Products:
        noise = root_of(inputs) @ rng.standard_normal((*slope.shape, 1))
        labels = inputs @ slope[..., None] + math.sqrt(self.noise) * noise
        return _Products(n, inputs, labels[..., 0])

    def learn(self, seen: _Products) -> _Slope:
        """Solves the normal equations."""
        slope = np.asarray(np.linalg.solve(seen.inputs, seen.labels[..., None]), np.float64)[..., 0]
        return _Slope(slope, seen.inputs / seen.n)

    def measure(self, law: _Slope) -> dict[str, Array]:
        """The excess error on new inputs."""
        return {"error": np.square(law.slope).sum(axis=1)}

    def expected(
        self, policy: LoopPolicy, generations: int, sampling_bias: float | str
    ) -> dict[str, Array]:
        """The error, where there are no inputs but the first, or only a predecessor's labels."""
        sizes = chain(policy, generations)
        if self.inputs == "new" and sizes is not None:
            return {"error": np.cumsum([self._of_one_fit(n) for n in sizes])}
        real = [piece.count for piece in segments(policy, generations) if piece.source == 0]
        if self.inputs == "new" or len(real) > 1:
            return {}
        told = expected_moments(policy, generations, lambda seen: 1.0)
        return {"error": real[0] * self._of_one_fit(real[0]) * told.square}

    def _of_one_fit(self, n: int) -> float:
        return self.noise * self.dim / (n - self.dim - 1)
