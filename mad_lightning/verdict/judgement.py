"""All of it for one configuration: the verdict, what left its floor, and what else is collapse.

What a metric may be asked follows from what it means: the expected *distance* makes the verdict;
shares of *fidelity* and *diversity* have a floor that they can leave. A closed loop whose distance
does not tell is MAD as well, in the paper's own words, if precision or recall falls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from mad_lightning.lineage.quantities import Quantity, distance_name, quantities_of
from mad_lightning.verdict.criteria import Criterion, criteria
from mad_lightning.verdict.departure import Departure, departure
from mad_lightning.verdict.growth import Floor, Verdict, fall, verdict
from mad_lightning.verdict.intervals import UNKNOWN, Array
from mad_lightning.verdict.single import one_lineage

__all__ = ["Judgement", "judge"]

_ONE_DRAW = 0.5
"""Relative standard deviation of a floor that was read once and has no error in its ledger: 35 to
53 % over splits of the digits, at every number of samples."""

_SHARES = ("recall", "precision")
"""Whose fall is MAD in a closed loop (Alemohammad et al., 2023, section 1)."""

_SECOND = 4
"""Their claims come after that of the distance, each at this part of its error probability. In
flat closed loops (2 to 8 seeds, 3 to 10 generations; normal, heavy-tailed and dragging noise) a
false MAD of all three together stayed at 1 to 6 %, where that of the distance alone is 0 to 5 %."""


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
    floor_errors: Mapping[str, float] | None = None,
    errors: Mapping[str, ArrayLike] | None = None,
    own_split: bool = False,
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
        floor_errors: Standard deviations of single readings of the floor, as far as they are known.
        errors: Measurement errors by name, each (S, T, 2): of the samples, and of the reference.
        own_split: Whether each seed has a reference of its own, whose chance is then in their
            scatter.
        quantities: What names mean, where this package does not know.
        closed: As in :func:`~mad_lightning.verdict.verdict`.
        n: Samples behind a floor whose error is not known: that of a share, at least, is.
        alpha: Error probability of each claim, by itself.
        margin: As in :func:`~mad_lightning.verdict.verdict`.
        tolerance: As in :func:`~mad_lightning.verdict.departure`.
    """
    arrays = {name: np.asarray(values, dtype=float) for name, values in metrics.items()}
    whole = {name: array for name, array in arrays.items() if np.isfinite(array).all()}
    meaning, floor = quantities_of(arrays, quantities or {}), floor or {}
    known = {name: error for name, error in (floor_errors or {}).items() if math.isfinite(error)}
    told = {k: np.asarray(v, float) for k, v in (errors or {}).items()}
    shared = {name: np.zeros(1) for name in whole}
    if not own_split:
        shared |= {name: parts[..., 1].mean(axis=0) for name, parts in told.items()}
    both = {name: np.hypot(parts[0, :, 0], parts[0, :, 1]) for name, parts in told.items()}
    left = {
        name: departure(
            values,
            floor[name],
            tolerance=tolerance,
            floor_error=_floor_error(floor[name], known.get(name), n),
            shared=shared[name],
            errors=both.get(name),
            higher_is_better=meaning[name].worse == "lower",
            alpha=alpha,
        )
        for name, values in whole.items()
        if name in floor and _may_leave(meaning[name])
    }
    levels = {"alpha": alpha, "margin": margin}
    distance, why = _distance(meaning, whole, shared)
    if distance in whole:
        d = whole[distance]
        zero = _floor_of(meaning[distance], floor.get(distance), known.get(distance))
        answer = verdict(d, closed=closed, floor=zero, shared=shared[distance], **levels)
        if len(d) == 1 and d.shape[1] > 2:
            reason = one_lineage(d[0], both.get(distance), left, name=distance, alpha=alpha)
            answer = replace(answer, reason=reason)
        answer = replace(answer, reason=answer.reason + why)
        if own_split:
            answer = replace(answer, sources=("seeds", "reference", "split", "extractor"))
    else:
        answer = _without_distance(distance, arrays, closed, alpha, margin)
    if distance is None or distance in whole:
        answer = _by_a_share(answer, whole, shared, alpha, tolerance)
    common = {k: v for k, v in known.items() if k in floor and _is_shared(floor[k])}
    others = criteria(
        whole, floor, quantities=meaning, shared=shared, floor_errors=common, **levels
    )
    return Judgement(distance, answer, left, others)


def _without_distance(
    distance: str | None, values: Mapping[str, Array], closed: bool, alpha: float, margin: float
) -> Verdict:
    """The verdict where there is no distance, or one with a gap."""
    reason = f"a value of {distance} is missing" if distance else "no distance was measured"
    seeds, last = next((array.shape for array in values.values()), (0, 0))
    numbers = (UNKNOWN, UNKNOWN, UNKNOWN, (1, last), seeds, alpha, margin)
    return Verdict("undecided", reason, closed, *numbers)


def _by_a_share(
    answer: Verdict,
    values: Mapping[str, Array],
    shared: Mapping[str, Array],
    alpha: float,
    tolerance: float,
) -> Verdict:
    """The verdict on a closed loop of which the distance tells neither that it rose nor fell."""
    fell = answer.rise.high < (1.0 if answer.relative else 0.0)
    if (
        fell
        or not answer.closed
        or answer.answer == "MAD"
        or answer.seeds < 2
        or answer.window[1] < 4
    ):
        return answer
    for name in _SHARES:
        if (x := values.get(name)) is None or (x == x[0]).all():
            continue
        lost = fall(x, shared=shared[name], alpha=alpha / _SECOND, tolerance=tolerance)
        if lost is not None:
            reason = (
                f"{name} fell by {lost.estimate:.2g} since generation 1 (at least {lost.low:.2g}) "
                f"and nothing real comes in that could bring it back; of the distance: "
                f"{answer.reason}"
            )
            return replace(answer, answer="MAD", reason=reason, by=name, lost=lost)
    return answer


def _distance(
    meaning: Mapping[str, Quantity],
    values: Mapping[str, Array],
    shared: Mapping[str, Array],
) -> tuple[str | None, str]:
    """The distance to judge by, and why it is not the first one.

    An unbiased distance of which one reference cannot tell that generation 1 is not at 0 has no
    factor to grow by; a biased one beside it has.
    """
    name = distance_name(meaning)
    if name is None or name not in values or not meaning[name].unbiased:
        return name, ""
    other = distance_name({k: meaning[k] for k in values if not meaning[k].unbiased})
    if other is None or values[name][:, 0].mean() >= 2.0 * shared[name][0]:
        return name, ""
    near = f"{name} begins within the reference's error of 0, where growth has no factor"
    return other, f"; judged by {other}, for {near}"


def _floor_of(quantity: Quantity, floor: ArrayLike | None, error: float | None) -> Floor | None:
    """What a distance reads on real samples; None if it is biased and nobody measured that."""
    if quantity.unbiased:  # 0 for certain; what one reading scatters was measured
        return Floor(scatter=error or 0.0)
    base = np.asarray(math.nan if floor is None else floor, dtype=float)
    if not np.isfinite(base).all():
        return None
    value = float(np.mean(base))
    if _is_shared(base):
        scatter = _ONE_DRAW * abs(value) if error is None else error
        return Floor(value, error=scatter, scatter=scatter)
    scatter = float(np.std(base, ddof=1))
    return Floor(value, error=scatter / math.sqrt(len(base)), scatter=scatter)


def _is_shared(floor: ArrayLike) -> bool:
    """Whether all seeds have the same floor."""
    base = np.asarray(floor, dtype=float)
    return base.ndim == 0 or bool((base == base[0]).all())


def _may_leave(quantity: Quantity) -> bool:
    """Whether it is a share of fidelity or diversity, for which a tolerance is known."""
    section = quantity.section in ("fidelity", "diversity")
    return section and quantity.is_share and quantity.worse is not None


def _floor_error(floor: ArrayLike, error: float | None, n: int | None) -> float:
    """Standard error of a floor that all seeds share; 0 where each has its own."""
    base = np.asarray(floor, dtype=float)
    if not _is_shared(base):
        return 0.0
    if error is not None:
        return error
    share = min(max(float(np.mean(base)), 0.0), 1.0)
    return math.sqrt(share * (1 - share) / n) if n else 0.0
