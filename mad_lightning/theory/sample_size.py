r"""How much synthetic data helps before it hurts: the effective sample size.

The fresh data loop settles: whatever it started from, E dist(G^t, P_r) tends to a *limit point*
that depends on n_real, n_synthetic and λ alone (Alemohammad et al., 2023, section 5.2, equation 3).
The paper calls *effective sample size* n_e the number of real samples that alone would have done as
well (equation 4),

.. math:: E\,\mathrm{dist}(G(n_e), P_r) = \lim_{t\to\infty} E\,\mathrm{dist}(G^t, P_r),

and a loop *admissible* if n_e / n_real >= 1: synthetic samples did no harm. For λ < 1 there is a
phase transition: past some n_synthetic the loop is no longer admissible.

Here G is a Gaussian, P_r = N(0, I_d), and the distance squared W2 (the paper's "WD" reaches 30 at
d = 100, as only the square does). Both sides are simulated, by :mod:`.lineages`: the left once for
a row of n, the *real-only curve*; the right until it has settled.

When a loop has settled, :mod:`.limits` judges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from itertools import product

import numpy as np
import torch

from mad_lightning.policies import FreshData
from mad_lightning.refusal import Refused
from mad_lightning.seeds import seed_for
from mad_lightning.theory.closed_forms import Estimator
from mad_lightning.theory.cores import in_parallel
from mad_lightning.theory.limits import (
    FreshLoop,
    Limit,
    check_precision,
    check_whole,
    limits,
    standard_error,
)
from mad_lightning.theory.lineages import GaussianLineages, Setting

__all__ = [
    "EffectiveSampleSize",
    "RealOnlyCurve",
    "effective_sample_size",
    "effective_sample_sizes",
    "fresh_loops",
]

_BOOTSTRAP = 1000


@dataclass(frozen=True)
class EffectiveSampleSize:
    """What a fresh loop is worth in real samples, and how well that is known.

    Attributes:
        loop: The loop.
        dim: d.
        estimator: How covariances are estimated.
        n_e: Effective sample size; NaN if the limit is farther than a fit on 2 real samples.
        low: Lower end of its 95 % bootstrap interval.
        high: Upper end.
        w2_squared: The limit of E W2².
        standard_error: Monte-Carlo standard error of ``w2_squared``.
        bias: What was taken off the mean after burn-in, because it was still moving.
        burn_in: Generations left out.
        generations: Generations of each lineage.
        lineages: How many lineages.
        settled: Whether the run passed its test; if not, the interval is too short.
    """

    loop: FreshLoop
    dim: int
    estimator: Estimator
    n_e: float
    low: float
    high: float
    w2_squared: float
    standard_error: float
    bias: float
    burn_in: int
    generations: int
    lineages: int
    settled: bool

    @property
    def ratio(self) -> float:
        """n_e / n_real: above 1, synthetic samples helped."""
        return self.n_e / self.loop.n_real

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % bootstrap interval of the ratio."""
        return self.low / self.loop.n_real, self.high / self.loop.n_real

    @property
    def admissible(self) -> bool:
        """Whether n_e / n_real >= 1."""
        return self.ratio >= 1.0


def effective_sample_size(
    n_real: int,
    n_synthetic: int,
    sampling_bias: float = 1.0,
    dim: int = 100,
    *,
    k: int = 1,
    estimator: Estimator = "unbiased",
    precision: float = 0.01,
    seed: int = 0,
    device: str | torch.device = "cpu",
    threads: int | None = None,
) -> EffectiveSampleSize:
    """How many real samples alone would do as well as a fresh loop in the limit.

    Args:
        n_real: Fresh real samples a generation, at least 2.
        n_synthetic: Synthetic samples a generation.
        sampling_bias: λ in (0, 1].
        dim: Dimension d of the data.
        k: How many of the last generations the synthetic samples come from.
        estimator: ``unbiased`` or ``maximum_likelihood`` covariances.
        precision: Relative standard error to reach, between 0.001 and 0.2.
        seed: Decides all random numbers.
        device: Where to compute.
        threads: CPU threads; None takes torch's number.

    Raises:
        Refused: If an argument lies outside its range.

    Example:
        >>> effective_sample_size(100, 1000, sampling_bias=0.85).admissible
        True
    """
    loops = [FreshLoop(n_real, n_synthetic, sampling_bias, k)]
    return effective_sample_sizes(
        loops,
        dim,
        estimator=estimator,
        precision=precision,
        seed=seed,
        device=device,
        threads=threads,
    )[0]


def fresh_loops(
    n_real: Sequence[int],
    n_synthetic: Sequence[int],
    sampling_bias: Sequence[float] = (1.0,),
    k: Sequence[int] = (1,),
) -> list[FreshLoop]:
    """All combinations, the last argument varying fastest."""
    return [FreshLoop(*point) for point in product(n_real, n_synthetic, sampling_bias, k)]


def effective_sample_sizes(
    loops: Sequence[FreshLoop],
    dim: int = 100,
    *,
    estimator: Estimator = "unbiased",
    precision: float = 0.01,
    seed: int = 0,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[EffectiveSampleSize]:
    """Effective sample sizes of many loops at once, e.g. of :func:`fresh_loops`.

    A loop's result does not depend on which others are asked for, but for what they add to the
    common real-only curve's knots.

    Args:
        loops: The loops.
        dim: Dimension d.
        estimator: ``unbiased`` or ``maximum_likelihood`` covariances.
        precision: Relative standard error to reach, between 0.001 and 0.2.
        seed: Decides all random numbers.
        device: Where to compute.
        threads: CPU threads; None takes torch's number.
        progress: Called with a number of loops when they are done.

    Returns:
        One result a loop, in order.

    Raises:
        Refused: If an argument lies outside its range.
    """
    check_whole("dim", dim, 1)
    check_precision(precision)
    if estimator not in ("unbiased", "maximum_likelihood"):
        raise Refused("estimator", f"{estimator!r}", "choose unbiased or maximum_likelihood")
    settled = limits(loops, dim, estimator, precision, seed, device, threads, progress)
    curve = RealOnlyCurve(dim, estimator, min(precision / 4, 0.01), seed, device, threads)
    curve.cover(np.array([limit.per_lineage.mean() for limit in settled]))
    return [_invert(loop, limit, curve, seed) for loop, limit in zip(loops, settled, strict=True)]


# the real-only curve


class RealOnlyCurve:
    """E W2²(n) between P_r = N(0, I) and a Gaussian fitted to n real samples, and its inverse.

    Simulated where it is needed, at knots that are the same whoever asks: whole n, a factor of
    about 1.2 apart. Between them a monotone cubic in logarithms.

    Args:
        dim: Dimension d.
        estimator: How covariances are estimated.
        precision: Relative standard error of a knot.
        seed: Decides the random numbers.
        device: Where to compute.
        threads: CPU threads; None takes torch's number.
    """

    def __init__(
        self,
        dim: int,
        estimator: Estimator = "unbiased",
        precision: float = 0.0025,
        seed: int = 0,
        device: str | torch.device = "cpu",
        threads: int | None = None,
    ) -> None:
        self.dim, self.estimator, self.precision, self.seed = dim, estimator, precision, seed
        self.device, self.threads = device, threads
        self.least = 2 if estimator == "unbiased" else 1
        self._knots: dict[int, float] = {}

    def _n(self, knot: int) -> int:
        """Samples at a knot: 2, 3, 4, ... and then 1.2 times as many each."""
        return self.least + knot if knot < 6 else round((self.least + 5) * 1.2 ** (knot - 5))

    def at(self, n: int) -> float:
        """E W2²(n), simulated.

        Args:
            n: Real samples, at least 2, or 1 for maximum likelihood.
        """
        check_whole("n", n, self.least)
        repeats = max(8, math.ceil((2.0 / (self.precision * self.dim)) ** 2))
        setting = Setting(FreshData(n, 1, 1), seed=seed_for(self.seed, "curve", self.dim, n))
        fits = GaussianLineages([setting], self.dim, 1, repeats, self.estimator, self.device)
        fits.step()
        # The mean's share is known, d / n; its noise is taken away.
        noise = fits.mean.square().sum(dim=-1).mean() - self.dim / n
        return float(fits.w2_squared().mean() - noise)

    def cover(self, distances: np.ndarray) -> None:
        """Simulates the knots around distances, and one more on either side.

        A knot's neighbours shape the cubic, so that a value between two knots depends on four.
        """
        wanted = {self._below(float(edge)) for edge in (distances.min(), distances.max())}
        first, last = max(0, min(wanted) - 1), max(wanted) + 2
        missing = [knot for knot in range(first, last + 1) if knot not in self._knots]
        values = in_parallel(lambda knot: self.at(self._n(knot)), missing, self.threads)
        self._knots.update(zip(missing, values, strict=True))

    def _below(self, distance: float) -> int:
        """The last knot whose distance is larger; 0 if there is none."""
        knot = 0
        while self._n(knot + 1) * distance < self.dim + self.dim * (self.dim + 1) / 4:
            knot += 1  # where many samples would put it
        while knot > 0 and self._value(knot) <= distance:
            knot -= 1
        while self._value(knot + 1) > distance:
            knot += 1
        return knot

    def _value(self, knot: int) -> float:
        if knot not in self._knots:
            self._knots[knot] = self.at(self._n(knot))
        return self._knots[knot]

    def inverse(self, distances: np.ndarray) -> np.ndarray:
        """The n at which the curve takes given values.

        Args:
            distances: Squared distances, any shape.

        Returns:
            Effective sample sizes, not whole; NaN where the least n possible does better.
        """
        from scipy.interpolate import PchipInterpolator

        self.cover(distances)
        knots = sorted(self._knots, reverse=True)
        n = np.log([self._n(knot) for knot in knots])
        values = np.maximum.accumulate(np.log([self._knots[knot] for knot in knots]))
        values, places = np.unique(values, return_index=True)
        return np.exp(PchipInterpolator(values, n[places], extrapolate=False)(np.log(distances)))


def _invert(loop: FreshLoop, limit: Limit, curve: RealOnlyCurve, seed: int) -> EffectiveSampleSize:
    """From the limit of each lineage to n_e and its interval.

    Lineages are resampled, in groups where there are many. As few of them tell little of their own
    spread, the resampled means are spread like Student's t. The curve's error comes on top.
    """
    mean = limit.per_lineage.mean()
    groups = np.array_split(limit.per_lineage, min(len(limit.per_lineage), 64))
    values = np.array([group.mean() for group in groups])
    rng = np.random.default_rng(seed_for(seed, "bootstrap", *astuple(loop)))
    again = rng.choice(values, (_BOOTSTRAP, len(values))).mean(axis=1) - values.mean()
    wider = np.sqrt(len(values) / rng.chisquare(len(values) - 1, _BOOTSTRAP))
    curve_error = 1.0 + curve.precision * rng.standard_normal(_BOOTSTRAP)
    means = (mean + again * wider).clip(min=0.5 * mean) * curve_error
    n_e = curve.inverse(np.array([mean, *means]))
    low, high = np.nanquantile(n_e[1:], (0.025, 0.975)) if np.isfinite(n_e).any() else n_e[:2]
    return EffectiveSampleSize(
        loop=loop,
        dim=curve.dim,
        estimator=curve.estimator,
        n_e=float(n_e[0]),
        low=float(low),
        high=float(high),
        w2_squared=float(mean),
        standard_error=standard_error(limit.per_lineage),
        bias=limit.bias,
        burn_in=limit.burn_in,
        generations=limit.generations,
        lineages=len(limit.per_lineage),
        settled=limit.settled,
    )
