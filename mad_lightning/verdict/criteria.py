"""What else is called collapse: the field's competing definitions, one small function each.

Schaeffer et al. (2025, arXiv 2503.03150) count eight; a loop can satisfy one and fail another. A
definition looks at the evidence and says a number, and which values of it mean yes. A new one is
one more function in :data:`DEFINITIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
        distance: The distance to judge by, (S, T), an unbiased one beside what it reads on real
            samples; None if none was measured.
        alpha: Error probability of each bound.
        margin: Relative increase that still counts as none.
    """

    metrics: Mapping[str, Array]
    floor: Mapping[str, ArrayLike]
    distance: Array | None
    alpha: float
    margin: float

    @cached_property
    def risk(self) -> Interval | None:
        """The distance in the last generation over that in the first.

        A ratio of means where an unbiased distance is not above 0 in each seed.
        """
        d = self.distance
        if d is None or d.shape[1] < 2:
            return None
        if (d[:, [0, -1]] > 0).all():
            return Interval.of(np.log(d[:, -1] / d[:, 0]), self.alpha).exp()
        return ratio(d[:, -1], d[:, 0], self.alpha) if len(d) > 1 else None

    def over_floor(
        self, name: str | None, of: Callable[[Array], Array] = lambda values: values
    ) -> Interval | None:
        """A metric, or a function of it, in the last generation over that of its floor."""
        if name is None or name not in self.metrics or name not in self.floor:
            return None
        base = of(np.asarray(self.floor[name], dtype=float))
        if not (base > 0).all():
            return None
        return Interval.of(of(self.metrics[name][:, -1]) / base, self.alpha)


def home(quantity: Quantity, floor: ArrayLike | None) -> Array:
    """What an unbiased distance reads on real samples, (S, 1) or (1, 1); 0 of any other.

    It is 0 in expectation, but for subsets of sets that hold a fixed number of each class, and in
    ledgers from before the estimate knew of classes: there the floor tells what it reads.
    """
    base = np.asarray(math.nan if floor is None else floor, dtype=float).reshape(-1, 1)
    return base if quantity.unbiased and np.isfinite(base).all() else np.zeros((1, 1))


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
    d, growth, limit = evidence.distance, None, math.inf
    if d is not None and d.shape[1] >= FEWEST and (d[:, d.shape[1] // 2 :] > 0).all():
        half = d.shape[1] // 2
        later = slopes(np.log(np.maximum(d, 1e-300)), half + 1) * (d.shape[1] - half)
        growth = Interval.of(later, evidence.alpha).exp()
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
    d, bend, limit, no_below = evidence.distance, None, math.inf, 1e-9  # rounding
    if d is not None and d.shape[1] >= 4:
        half = d.shape[1] // 2
        late, early = slopes(d, d.shape[1] - half), slopes(d[:, : half + 1], 1)
        bend = Interval.of((late - early) / (np.abs(d).mean() or 1.0), evidence.alpha)
        rising = Interval.of(late, evidence.alpha)
        limit = no_below if rising.low > 0 else math.inf  # a fall that slows down bends as well
        no_below = math.inf if rising.high < 0 else no_below
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
        alpha: Error probability of each bound.
        margin: Relative increase that still counts as none.

    Raises:
        Refused: If an argument lies outside its range, or a value is not finite.
    """
    check_levels(alpha, margin=margin)
    known = {name: matrix(name, values) for name, values in metrics.items()}
    meaning, floor = quantities_of(known, quantities or {}), floor or {}
    distance, d = distance_name(meaning), None
    if distance is not None:
        d = known[distance] - home(meaning[distance], floor.get(distance))
    evidence = Evidence(known, floor, d, alpha, margin)
    return tuple(definition(evidence) for definition in DEFINITIONS)
