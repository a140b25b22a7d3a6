"""What else is called collapse: the field's competing definitions, one small function each.

Schaeffer et al. (2025, arXiv 2503.03150) count eight; a loop can satisfy one and fail another. A
definition looks at the evidence and says a number, and which values of it mean yes. A new one is
one more function in :data:`DEFINITIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from mad_lightning.lineage.quantities import Quantity, distance_name, quantities_of
from mad_lightning.verdict.growth import FEWEST, verdict
from mad_lightning.verdict.intervals import (
    Array,
    Interval,
    check_levels,
    matrix,
    ratio,
    shared_error,
    slopes,
)

__all__ = ["DEFINITIONS", "Criterion", "Evidence", "criteria"]

_POSITION = "Schaeffer et al., 2025"  # arXiv 2503.03150: eight definitions, numbered as there
_CATASTROPHE, _HALF = 10.0, 0.5  # left open by their sources


@dataclass(frozen=True)
class Criterion:
    """One of the field's definitions of collapse, and what the ledgers say to it.

    Attributes:
        name: What is asked.
        source: Whose definition it is.
        number: What ``value`` is, and which values mean yes.
        value: Over seeds; None if the ledgers cannot say.
        answer: ``yes``, ``no``, ``undecided``, or ``not measured``.
    """

    name: str
    source: str
    number: str
    value: Interval | None
    answer: Literal["yes", "no", "undecided", "not measured"]

    @classmethod
    def above(
        cls,
        name: str,
        source: str,
        number: str,
        value: Interval | None,
        limit: float,
        no_below: float | None = None,
    ) -> Criterion:
        """Yes if the value is shown to lie above the limit; no if below (or below ``no_below``)."""
        if value is None:
            return cls(name, source, number, None, "not measured")
        if value.low > limit:
            return cls(name, source, number, value, "yes")
        calm = value.high < (limit if no_below is None else no_below)
        return cls(name, source, number, value, "no" if calm else "undecided")

    @classmethod
    def below(
        cls, name: str, source: str, number: str, value: Interval | None, limit: float
    ) -> Criterion:
        """Yes if the value is shown to lie below the limit, no if above."""
        if value is None:
            return cls(name, source, number, None, "not measured")
        if value.high < limit:
            return cls(name, source, number, value, "yes")
        return cls(name, source, number, value, "no" if value.low > limit else "undecided")


@dataclass(frozen=True)
class Evidence:
    """What definitions of collapse look at.

    Attributes:
        metrics: Values by name, each (S, T).
        floor: Real-vs-real values by name, scalar or (S,).
        distance: Name of the distance to judge by; None if none was measured.
        alpha: Error probability of each bound.
        margin: Relative increase that still counts as none.
        shared: Standard errors by name, scalar or (T,), that all seeds share: what the one
            reference adds.
        floor_errors: Standard errors by name of floors that all seeds share.
    """

    metrics: Mapping[str, Array]
    floor: Mapping[str, ArrayLike]
    distance: str | None
    alpha: float
    margin: float
    shared: Mapping[str, ArrayLike] = field(default_factory=dict)
    floor_errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def d(self) -> Array | None:
        """Values (S, T) of the distance."""
        return None if self.distance is None else self.metrics[self.distance]

    def error(self, name: str) -> Array:
        """What the one reference adds to each generation's values of a metric, (T,)."""
        return np.broadcast_to(self.shared.get(name, 0.0), self.metrics[name].shape[1:])

    def along(self, weights: Array, log: bool = False) -> Interval:
        """A weighted sum over generations (T,) of the distance, or of its log."""
        name = self.distance or ""
        d, off = self.metrics[name], self.error(name)
        if log:
            off = off / np.maximum(d.mean(axis=0), 1e-300)
            d = np.log(np.maximum(d, 1e-300))
        return Interval.of(d @ weights, self.alpha, shared_error(weights, off))

    @cached_property
    def risk(self) -> Interval | None:
        """The distance in the last generation over that in the first.

        A ratio of means where an unbiased distance is not above 0 in each seed.
        """
        d = self.d
        if self.distance is None or d is None or d.shape[1] < 2:
            return None
        if (d[:, [0, -1]] > 0).all():
            ends = np.zeros(d.shape[1])
            ends[[0, -1]] = -1.0, 1.0
            return self.along(ends, log=True).exp()
        if len(d) < 2:
            return None
        first, *_, last = self.error(self.distance).tolist()
        return ratio(d[:, -1], d[:, 0], self.alpha, shared=(last, first))

    def over_floor(
        self, name: str | None, of: Callable[[Array], Array] = lambda values: values
    ) -> Interval | None:
        """A metric, or a function of it, in the last generation over that of its floor."""
        if name is None or name not in self.metrics or name not in self.floor:
            return None
        base = of(np.asarray(self.floor[name], dtype=float))
        if not (base > 0).all():
            return None
        values = of(self.metrics[name][:, -1]) / base
        of_floor = float(values.mean()) * self.floor_errors.get(name, 0.0)
        error = math.hypot(float(self.error(name)[-1]), of_floor) / float(base.mean())
        return Interval.of(values, self.alpha, error)


# the definitions


def any_increase(evidence: Evidence) -> Criterion:
    """Worse than training on real data alone, by any amount."""
    return Criterion.above(
        "any increase over real-only training",
        f"Dohmatob et al., 2024 (strong collapse); {_POSITION}, 2",
        "distance, last / first (> 1)",
        evidence.risk,
        limit=1.0,
        no_below=1.0 + evidence.margin,
    )


def catastrophe(evidence: Evidence) -> Criterion:
    """Worse by an order of magnitude."""
    return Criterion.above(
        "catastrophic increase",
        f"{_POSITION}, 1",
        f"distance, last / first (> {_CATASTROPHE:g})",
        evidence.risk,
        limit=_CATASTROPHE,
    )


def divergence(evidence: Evidence) -> Criterion:
    """Growth without a sign of settling; finitely many generations can say no more than that."""
    d, growth, limit = evidence.d, None, math.inf
    if d is not None and d.shape[1] >= FEWEST and (d[:, d.shape[1] // 2 :] > 0).all():
        half, last = d.shape[1] // 2, d.shape[1]
        growth = evidence.along(slopes(np.eye(last), half + 1) * (last - half), log=True).exp()
        answer = verdict(d, alpha=evidence.alpha, margin=evidence.margin).answer
        limit = 1.0 if answer == "MAD" else math.inf
    return Criterion.above(
        "diverging",
        f"{_POSITION}, 3",
        "growth of the distance in the later half (> 1, not slowing down)",
        growth,
        limit,
        no_below=1.0 + evidence.margin,
    )


def acceleration(evidence: Evidence) -> Criterion:
    """Faster than linear, which is what replacing all data gives in linear regression."""
    d, bend, limit, no_below = evidence.d, None, math.inf, math.inf
    if d is not None and d.shape[1] >= 4:
        half, every = d.shape[1] // 2, np.eye(d.shape[1])
        late, early = slopes(every, d.shape[1] - half), slopes(every[:, : half + 1], 1)
        bend = evidence.along((late - early) / (np.abs(d).mean() or 1.0))
        rising = evidence.along(late)
        if rising.low > 0:  # a fall that slows down bends as well
            limit = 1e-9  # rounding
        if rising.high >= 0:  # a bend that adds less than the margin until the end is none
            no_below = evidence.margin / half
    return Criterion.above(
        "faster than linear",
        "Gerstgrasser et al., 2024 (replacing is linear)",
        "slope of the distance over its mean, later - earlier half (> 0, while it rises)",
        bend,
        limit,
        no_below,
    )


def _lost(evidence: Evidence, name: str, source: str, metric: str | None, what: str) -> Criterion:
    """Less than half of what real data scores."""
    number = f"{what} / floor (< {_HALF:g})"
    return Criterion.below(name, source, number, evidence.over_floor(metric), _HALF)


def variance_lost(evidence: Evidence) -> Criterion:
    """The variance of samples goes to zero."""
    source = f"Shumailov et al., 2024; {_POSITION}, 5"
    trace = next((name for name in evidence.metrics if name.startswith("trace_")), None)
    return _lost(evidence, "collapsing variance", source, trace, "trace")


def diversity_lost(evidence: Evidence) -> Criterion:
    """Real samples are no longer like generated ones."""
    return _lost(evidence, "diversity lost", "Alemohammad et al., 2023", "recall", "recall")


def fidelity_lost(evidence: Evidence) -> Criterion:
    """Generated samples are no longer like real ones."""
    return _lost(evidence, "fidelity lost", "Alemohammad et al., 2023", "precision", "precision")


def tails_lost(evidence: Evidence) -> Criterion:
    """What is rare goes first."""
    source = f"Shumailov et al., 2024 (early); {_POSITION}, 7"
    return _lost(evidence, "tails lost", source, "tail_mass", "tail mass")


def modes_lost(evidence: Evidence) -> Criterion:
    """Whole modes go."""
    return _lost(evidence, "modes lost", f"{_POSITION}, 6", "modes", "modes alive")


def hallucination(evidence: Evidence) -> Criterion:
    """Samples lie where no real ones do."""
    return Criterion.above(
        "hallucinated samples",
        f"{_POSITION}, 8",
        "share of samples off the real ones, over the floor's (> 2)",
        evidence.over_floor("precision", lambda share: 1.0 - share),
        limit=2.0,
    )


def scaling_law(evidence: Evidence) -> Criterion:
    """More data helps less than it did; a single size cannot say."""
    return Criterion.above(
        "change of scaling law",
        f"Dohmatob et al., 2024 (tails); {_POSITION}, 4",
        "needs lineages of several sizes",
        None,
        limit=math.inf,
    )


def memorisation(evidence: Evidence) -> Criterion:
    """Samples are copies of what the generator was trained on."""
    return Criterion.above(
        "memorisation",
        "Shi et al., 2025",
        "share of samples as near to the training set as few real ones are, over the floor's (> 2)",
        evidence.over_floor("memorised"),
        limit=2.0,
    )


DEFINITIONS: tuple[Callable[[Evidence], Criterion], ...] = (
    any_increase,
    catastrophe,
    divergence,
    acceleration,
    variance_lost,
    diversity_lost,
    fidelity_lost,
    tails_lost,
    modes_lost,
    hallucination,
    scaling_law,
    memorisation,
)
"""In the order in which a report shows them."""


def criteria(
    metrics: Mapping[str, ArrayLike],
    floor: Mapping[str, ArrayLike] | None = None,
    *,
    quantities: Mapping[str, Quantity] | None = None,
    shared: Mapping[str, ArrayLike] | None = None,
    floor_errors: Mapping[str, float] | None = None,
    alpha: float = 0.05,
    margin: float = 0.25,
) -> tuple[Criterion, ...]:
    """The field's competing definitions of collapse, side by side.

    Each question is answered by itself, from the last generation unless it is about the whole
    curve, with one-sided bounds of level alpha: *yes* beyond the threshold, *no* on its other side.
    Thresholds that a source leaves open are ours, and stated: catastrophic is tenfold, lost is less
    than half of what real data scores.

    Args:
        metrics: Values by name, each (S, T), all of the same lineages.
        floor: Real-vs-real values by name, scalar or (S,).
        quantities: What names mean, where this package does not know.
        shared: Standard errors by name that all seeds share, scalar or (T,): what the one reference
            adds to the values of a generation.
        floor_errors: Standard errors by name of floors that all seeds share.
        alpha: Error probability of each bound.
        margin: Relative increase that still counts as none.

    Raises:
        Refused: If an argument lies outside its range, or a value is not finite.
    """
    check_levels(alpha, margin=margin)
    known = {name: matrix(name, values) for name, values in metrics.items()}
    distance = distance_name(quantities_of(known, quantities or {}))
    errors = shared or {}, floor_errors or {}
    evidence = Evidence(known, floor or {}, distance, alpha, margin, *errors)
    return tuple(definition(evidence) for definition in DEFINITIONS)
