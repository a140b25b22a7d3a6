"""All of it for one configuration: the verdict, what left its floor, and what else is collapse.

What a metric may be asked follows from what it means: the expected *distance* makes the verdict;
shares of *fidelity* and *diversity* have a floor that they can leave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mad_lightning.lineage.quantities import Quantity, distance_name, quantities_of
from mad_lightning.verdict.criteria import Criterion, criteria
from mad_lightning.verdict.departure import Departure, departure
from mad_lightning.verdict.growth import Floor, Verdict, verdict
from mad_lightning.verdict.intervals import UNKNOWN

__all__ = ["Judgement", "judge"]

_ONE_DRAW = 0.5
"""Relative standard deviation of a floor that was measured once: 35 to 53 % over splits of the
digits, at every number of samples."""


@dataclass(frozen=True)
class Judgement:
    """All that the seeds of one configuration say.

    Attributes:
        distance: Name of the distance that the verdict is about; None if none was measured.
        verdict: On that distance.
        left: Departure from the floor by metric: shares of fidelity or diversity.
        criteria: The field's definitions of collapse, side by side.
    """

    distance: str | None
    verdict: Verdict
    left: dict[str, Departure]
    criteria: tuple[Criterion, ...]


def judge(
    metrics: Mapping[str, ArrayLike],
    floor: Mapping[str, ArrayLike] | None = None,
    *,
    quantities: Mapping[str, Quantity] | None = None,
    closed: bool = False,
    n: int | None = None,
    alpha: float = 0.05,
    margin: float = 0.25,
    tolerance: float = 0.02,
) -> Judgement:
    """Judges the lineages of one configuration by all that was measured of them.

    Args:
        metrics: Values by name, each (S, T). A metric with a value that is not finite is left out.
        floor: Real-vs-real values by name, scalar or (S,).
        quantities: What names mean, where this package does not know.
        closed: As in :func:`~mad_lightning.verdict.verdict`.
        n: Samples behind a floor, whose standard error is then that of a share.
        alpha: Error probability of each claim, by itself.
        margin: As in :func:`~mad_lightning.verdict.verdict`.
        tolerance: As in :func:`~mad_lightning.verdict.departure`.
    """
    arrays = {name: np.asarray(values, dtype=float) for name, values in metrics.items()}
    whole = {name: array for name, array in arrays.items() if np.isfinite(array).all()}
    meaning, floor = quantities_of(arrays, quantities or {}), floor or {}
    distance = distance_name(meaning)
    if distance in whole:
        zero = _floor_of(meaning[distance], floor.get(distance))
        answer = verdict(whole[distance], closed=closed, floor=zero, alpha=alpha, margin=margin)
    else:
        reason = f"a value of {distance} is missing" if distance else "no distance was measured"
        seeds, last = next((array.shape for array in arrays.values()), (0, 0))
        numbers = (UNKNOWN, UNKNOWN, UNKNOWN, (1, last), seeds, alpha, margin)
        answer = Verdict("undecided", reason, closed, *numbers)
    left = {
        name: departure(
            values,
            floor[name],
            tolerance=tolerance,
            floor_error=_error_of_share(floor[name], n),
            higher_is_better=meaning[name].worse == "lower",
            alpha=alpha,
        )
        for name, values in whole.items()
        if name in floor and _may_leave(meaning[name])
    }
    others = criteria(whole, floor, quantities=meaning, alpha=alpha, margin=margin)
    return Judgement(distance, answer, left, others)


def _floor_of(quantity: Quantity, floor: ArrayLike | None) -> Floor | None:
    """What a distance reads on real samples; None if it is biased and nobody measured that."""
    if quantity.unbiased:
        return Floor()
    base = np.asarray(math.nan if floor is None else floor, dtype=float)
    if not np.isfinite(base).all():
        return None
    value = float(np.mean(base))
    if base.ndim == 0 or (base == base[0]).all():
        scatter = _ONE_DRAW * abs(value)
        return Floor(value, error=scatter, scatter=scatter)
    scatter = float(np.std(base, ddof=1))
    return Floor(value, error=scatter / math.sqrt(len(base)), scatter=scatter)


def _may_leave(quantity: Quantity) -> bool:
    """Whether it is a share of fidelity or diversity, for which a tolerance is known."""
    section = quantity.section in ("fidelity", "diversity")
    return section and quantity.is_share and quantity.worse is not None


def _error_of_share(floor: ArrayLike, n: int | None) -> float:
    """Standard error of a floor of n samples that all seeds share; 0 where each has its own."""
    base = np.asarray(floor, dtype=float)
    share = min(max(float(np.mean(base)), 0.0), 1.0)
    shared = base.ndim == 0 or bool((base == base[0]).all())
    return math.sqrt(share * (1 - share) / n) if n and shared else 0.0
