"""When did it leave the floor? Since when a metric is worse than real data is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from mad_lightning.verdict.intervals import Interval, check_levels, matrix

__all__ = ["Departure", "departure"]


@dataclass(frozen=True)
class Departure:
    """Since when a metric is worse than real data is.

    Attributes:
        generation: First generation from which on every one is; None if that is not shown.
        bounds: What the metric is at most (a distance: at least) in each generation, pointwise.
        limit: The floor, less (a distance: plus) the tolerance.
        reason: Why there is no generation; empty if there is one.
    """

    generation: int | None
    bounds: tuple[float, ...]
    limit: float
    reason: str = ""


def departure(
    values: ArrayLike,
    floor: ArrayLike,
    *,
    tolerance: float = 0.02,
    floor_error: float = 0.0,
    shared: ArrayLike = 0.0,
    errors: ArrayLike | None = None,
    higher_is_better: bool = True,
    alpha: float = 0.05,
) -> Departure:
    """The generation at which a metric left the real-vs-real floor for good.

    Generations are tested from the last one backwards, each with Student's one-sided bound on the
    seeds' mean, until one does not lie beyond the floor and the tolerance. In such a fixed order no
    test pays for the others (Maurer, Hothorn and Lehmacher, 1995): to name a generation that is too
    early, the last one in which the metric had *not* left must be taken for one in which it had,
    and that has probability alpha at most, however generations depend on each other. A metric that
    left and came back has not left.

    Args:
        values: The metric, shape (S, T).
        floor: What real samples score against others: one estimate that all seeds share, or one a
            seed, shape (S,), whose scatter then counts with the seeds'.
        tolerance: How much worse than the floor still counts as on it, in units of the metric.
        floor_error: Standard error of a floor that all seeds share.
        shared: Standard error of the values that all seeds share, a number or (T,): the reference's
            part of measurement errors.
        errors: Measurement errors of a single lineage, (T,). With them its generations are tested
            one by one, as a claim about its own generators; without them it claims nothing.
        higher_is_better: False for distances.
        alpha: Probability of naming a generation that is too early.

    Raises:
        Refused: If an argument lies outside its range, or a value is not finite.
    """
    x = matrix("values", values)
    check_levels(alpha)
    base = np.broadcast_to(np.asarray(floor, dtype=float), x.shape[:1])
    sign = 1.0 if higher_is_better else -1.0
    excess = sign * (x - base[:, None]) + tolerance
    if len(x) == 1 and errors is not None:
        highs = excess[0] + ndtri(1 - alpha) * np.hypot(errors, floor_error)
    else:
        off = np.broadcast_to(np.hypot(shared, floor_error), x.shape[1:])
        columns = zip(excess.T, off.tolist(), strict=True)
        highs = np.array([Interval.of(column, alpha, error).high for column, error in columns])
    limit = float(np.mean(base)) - sign * tolerance
    left, reason = len(highs) + 1, ""
    while left > 1 and highs[left - 2] < 0.0:
        left -= 1
    if left > len(highs):
        single = len(x) < 2 and errors is None
        reason = "one seed" if single else "not shown to be beyond it in the last generation"
    bounds = tuple(float(limit + sign * high) for high in highs)
    return Departure(None if reason else left, bounds, limit, reason)
