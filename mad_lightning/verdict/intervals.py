"""What seeds say together: a mean between two bounds, by Student's t.

Lineages come as a matrix (S, T), one row a seed and one column a generation. Only rows are
independent, so each is boiled down to one number first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from mad_lightning.refusal import Refused

__all__ = [
    "UNKNOWN",
    "Array",
    "Interval",
    "check_levels",
    "level_of_look",
    "matrix",
    "ratio",
    "shared_error",
    "slopes",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds between two one-sided bounds, each right with probability 1 - alpha."""

    estimate: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Array, alpha: float, error: float = 0.0) -> Interval:
        """Student's interval of the mean of independent values.

        Args:
            values: One number a seed, shape (S,). A single one has no bounds.
            alpha: Error probability of each bound.
            error: Standard error that all values share, known from elsewhere; it adds, with degrees
                of freedom after Satterthwaite (1946).
        """
        n, mean = len(values), float(np.mean(values))
        if n < 2:
            return cls(mean, -math.inf, math.inf)
        own = float(np.var(values, ddof=1)) / n
        total = own + error**2
        freedom = (n - 1) * (total / own) ** 2 if own > 0 else math.inf
        half = float(stdtrit(min(freedom, 1e9), 1 - alpha)) * math.sqrt(total)
        return cls(mean, mean - half, mean + half)

    def exp(self) -> Interval:
        """Of a mean of logs: the geometric mean and its bounds."""
        return Interval(*map(_exp, (self.estimate, self.low, self.high)))


UNKNOWN = Interval(math.nan, -math.inf, math.inf)
"""Nothing is known, not even a mean."""


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def ratio(
    above: Array,
    below: Array,
    alpha: float,
    error: float = 0.0,
    shared: tuple[float, float] = (0.0, 0.0),
) -> Interval:
    """Ratio of two means over seeds, between bounds by Fieller (1954).

    They are the ends of all ratios k of 0 and more that the seeds' mean of ``above - k below`` does
    not contradict. Where ``below`` is not shown to be above 0 nothing bounds the ratio from above.

    Args:
        above: Numerators, one a seed, shape (S,), S >= 2.
        below: Denominators, shape (S,).
        alpha: Error probability of each bound.
        error: Standard error of what was subtracted from numerators and denominators alike.
        shared: Standard errors of numerators and denominators that all seeds share.
    """
    n = len(above)
    top, bottom = float(above.mean()), float(below.mean())
    t2 = float(stdtrit(n - 1, 1 - alpha)) ** 2
    (top_2, both), (_, bottom_2) = (
        t2 * (np.cov(above, below) / n + error**2 + np.diag(np.square(shared)))
    ).tolist()
    a, b, c = bottom**2 - bottom_2, top * bottom - both, top**2 - top_2
    estimate = top / bottom if bottom > 0 else math.nan
    root = math.sqrt(max(b**2 - a * c, 0.0))
    if bottom > 0 and a > 0:
        low, high = (b - root) / a, (b + root) / a
    else:  # nothing bounds it from above; from below, what is shown of the numerator does
        low, high = (b - root) / a if a < 0 and c > 0 and top > 0 else 0.0, math.inf
    return Interval(estimate, max(low, 0.0), high)


def slopes(series: Array, first: int) -> Array:
    """Least-squares slope over generations ``first``..T (from 1), one a seed: (S, T) -> (S,)."""
    t = np.arange(first, series.shape[1] + 1, dtype=float)
    if len(t) < 2:
        return np.full(len(series), math.nan)
    t -= t.mean()
    return series[:, first - 1 :] @ (t / (t @ t))


def shared_error(weights: Array, shared: Array) -> float:
    """Error of a weighted sum over generations (T,) that one reference makes.

    It may err in all generations alike or in each anew; the worse of the two.
    """
    parts = weights * shared
    return max(abs(float(parts.sum())), float(np.linalg.norm(parts)))


def matrix(name: str, values: ArrayLike) -> Array:
    """Values as floats (S, T).

    Raises:
        Refused: With the field ``name``, if they have another shape or are not finite.
    """
    array = np.asarray(values, dtype=float)
    if array.ndim != 2 or 0 in array.shape:
        raise Refused(name, f"shape {array.shape}", "give (seeds, generations), at least one each")
    if not np.isfinite(array).all():
        seed, t = (int(place[0]) for place in np.nonzero(~np.isfinite(array)))
        problem = f"{array[seed, t]} for seed number {seed}, generation {t + 1}"
        raise Refused(name, problem, "measure it again, or leave the lineage out")
    return array


def check_levels(alpha: float, **positive: float) -> None:
    """Refuses an error probability outside (0, 0.5), and what is not above 0."""
    if not 0.0 < alpha < 0.5:
        raise Refused("alpha", f"{alpha}", "choose an error probability within (0, 0.5)")
    for name, value in positive.items():
        if not value > 0.0:
            raise Refused(name, f"{value}", "take a number above 0")


_TRIALS = 400_000


def level_of_look(alpha: float, looks: tuple[int, ...], seeds: int) -> float:
    """The level of one of several looks at growing numbers of seeds that err alpha in all.

    Whoever looks after each seed and stops when something is shown errs more often than one who
    looks once: at 3 to 8 seeds, 15 times in 100 where each bound errs 5 times. What may be erred is
    spent as O'Brien and Fleming (1979) do: bounds in units of the final standard error are alike at
    all looks, ``Φ(-c √(N/n))`` at n of N seeds. An early look costs little and tells what is plain,
    and the last one, at .65 of alpha, what one look would tell.

    Args:
        alpha: Error probability of a one-sided bound over all looks.
        looks: Numbers of seeds, at least 2 each; with one or none of them the level is alpha.
        seeds: How many there are at this one.
    """
    if len(looks) < 2:
        return alpha
    last = max(looks)
    return float(ndtr(-_spending(alpha, looks) * math.sqrt(last / min(max(seeds, 1), last))))


@lru_cache(maxsize=64)
def _spending(alpha: float, looks: tuple[int, ...]) -> float:
    """c, for Student's t: by drawing seeds, always the same ones; levels are right within 3 %."""
    rng, last = np.random.default_rng(0), max(looks)
    total, squares, worst = np.zeros(_TRIALS), np.zeros(_TRIALS), np.full(_TRIALS, -math.inf)
    for n in range(1, last + 1):
        seed = rng.standard_normal(_TRIALS)
        total, squares = total + seed, squares + seed**2
        if n in looks:
            error = np.sqrt(n * (squares - total**2 / n) / (n - 1))
            worst = np.maximum(worst, -math.sqrt(n / last) * ndtri(stdtr(n - 1, -total / error)))
    return float(np.quantile(worst, 1 - alpha))
