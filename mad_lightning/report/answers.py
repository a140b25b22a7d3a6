"""The answer: how much real data keeps this loop sane, in one sentence with an interval.

Lineages that differ in nothing but their mix, and have as many samples a generation, are one
question. What each of them lost from generation 1 to its last is a number; where that is no more
than a margin, the share of real data was enough. The border between enough and too little, and the
interval that holds it, is arithmetic (:mod:`mad_lightning.verdict.shares`); here ledgers are read,
and what came out is said: also what was not shown, and what it would take.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any

from mad_lightning.files import finite
from mad_lightning.lineage.configuration import differences
from mad_lightning.lineage.ledger import GenerationRecord
from mad_lightning.lineage.quantities import Quantity, distance_name
from mad_lightning.refusal import Refused, check_within
from mad_lightning.report.groups import Group, Lineage, lineages_of, meanings_of, protocol_of
from mad_lightning.verdict.shares import Border, Excess, State, border

__all__ = ["Answer", "Arm", "Question", "answers", "subject"]

_MARGINS = {True: 0.05, False: 0.25}
"""Margins of shares, in their units, and of others, in parts of what generation 1 has."""


@dataclass(frozen=True)
class Question:
    """What is to be kept, and how well.

    Args:
        metric: A fidelity, a diversity or a distance; None takes recall, or else the distance that
            lineages are judged by.
        margin: By how much it may be worse than in generation 1: of a share (recall, precision) in
            its units, of others in parts of generation 1's value. None takes 0.05 and 0.25.
        last: How many of the last generations are averaged.
        alpha: How often the interval may miss the border.
        looks: Numbers of seeds after which a share could have been given no more; see
            :func:`~mad_lightning.verdict.border`.

    Raises:
        Refused: If a number lies outside its range.
    """

    metric: str | None = None
    margin: float | None = None
    last: int = 1
    alpha: float = 0.05
    looks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_within("(0, 1000)", "e.g. 0.05", margin=self.margin)
        check_within("[1, 1000000]", "1 takes the last alone", last=self.last)
        check_within("(0, 0.5)", "0.05 makes intervals of 95 %", alpha=self.alpha)


@dataclass(frozen=True)
class Arm:
    """Lineages with one share of real data.

    Attributes:
        group: The lineages, those that stopped early included.
        share: Of their mixes from generation 2 on that is real.
        n: Samples of such a mix.
        n_fresh: New real samples in it.
        n_real: Samples of the fixed real set in it.
        n_initial: Real samples of generation 1.
    """

    group: Group
    share: float
    n: int
    n_fresh: int
    n_real: int
    n_initial: int

    @classmethod
    def of(cls, group: Group) -> Arm | None:
        """None where mixes change from generation to generation, or there is one only."""
        lineage = max(group.lineages, key=lambda lineage: len(lineage.records))
        first, *later = lineage.records
        counts = {(r.n_fresh, r.n_real, r.n_fresh + r.n_real + r.n_synthetic) for r in later}
        if len(counts) != 1:
            return None
        ((n_fresh, n_real, n),) = counts
        n_initial = first.n_fresh + first.n_real
        return cls(group, (n_fresh + n_real) / n, n, n_fresh, n_real, n_initial)

    def is_beside(self, other: Arm) -> bool:
        """Whether both differ in their mixes alone."""
        mine, theirs = (arm.group.lineages[0].config for arm in (self, other))
        return all(line.startswith("policy.") for line in differences(mine, theirs))


@dataclass(frozen=True)
class Answer:
    """What lineages with several shares say.

    Attributes:
        question: What was asked.
        arms: From the smallest share.
        end: The generation in which all are compared with generation 1.
        metric: What was compared.
        quantity: What it means.
        protocol: How it was measured.
    """

    question: Question
    arms: list[Arm]
    end: int
    metric: str
    quantity: Quantity
    protocol: dict[str, Any] = field(repr=False)

    @property
    def margin(self) -> float:
        """By how much it may be worse than in generation 1."""
        given = self.question.margin
        return _MARGINS[self.quantity.is_share] if given is None else given

    @property
    def begin(self) -> int:
        """The first of the generations that are averaged."""
        return max(2, self.end - self.question.last + 1)

    @cached_property
    def border(self) -> Border:
        """The share that is needed, between two bounds."""
        tried = [self.excess(arm) for arm in self.arms]
        return border(tried, alpha=self.question.alpha, looks=self.question.looks)

    def state(self, group: Group) -> State | None:
        """Whether a group's share is enough; None if it is none of these."""
        shares = (arm.share for arm in self.arms if arm.group is group)
        return next((self.border.states[share] for share in shares), None)

    def values(self, arm: Arm) -> dict[int, tuple[float, float]]:
        """Generation 1's value and that at the end, by seed, of lineages that have got there."""
        told = {}
        for place, lineage in enumerate(arm.group.lineages):
            series = [r.metrics.get(self.metric, math.nan) for r in lineage.records[: self.end]]
            if len(series) == self.end and math.isfinite(sum(series[self.begin - 1 :], series[0])):
                seed = place if lineage.seed is None else lineage.seed
                told[seed] = series[0], fmean(series[self.begin - 1 :])
        return told

    def _weights(self) -> tuple[float, float, float]:
        """Of generation 1, of the end and of 1 in the excess."""
        sign = -1.0 if self.quantity.worse == "lower" else 1.0
        if self.quantity.is_share:
            return -sign, sign, -self.margin
        return -sign * (1.0 + sign * self.margin), sign, 0.0

    def excess(self, arm: Arm) -> Excess:
        """By how much more than the margin it got worse."""
        first, end, less = self._weights()
        by_seed = {s: first * a + end * b + less for s, (a, b) in self.values(arm).items()}
        if self.protocol.get("split_seed") == "own":
            return Excess(arm.share, by_seed)
        records = [lineage.records for lineage in arm.group.lineages]
        parts = [
            weight * fmean(_reference_error(r[t - 1], self.metric) for r in records if len(r) >= t)
            for weight, t in ((first, 1), (end, self.end))
        ]  # one reference may err in both alike, or in each anew
        return Excess(arm.share, by_seed, max(abs(sum(parts)), math.hypot(*parts)))

    def plain(self) -> dict[str, Any]:
        """The answer as plain values for JSON, where infinity and NaN are null."""
        known = self.border
        return {
            "sentence": str(self),
            "groups": [arm.group.name for arm in self.arms],
            "metric": self.metric,
            "margin": self.margin,
            "generations": [self.begin, self.end],
            "estimate": finite(known.estimate),
            "low": known.low,
            "high": finite(known.high),
            "shares": [{"share": p, "state": state} for p, state in known.states.items()],
            "alpha": self.question.alpha,
        }

    # in words

    def __str__(self) -> str:
        known, tried = self.border, self.border.shares
        low = known.low > 0.0
        if not math.isfinite(known.high):
            return f"{self._head()}, {self._not_enough()} {self._tail()}"
        if not low and known.high == tried[0]:
            least = "none are needed" if tried[0] == 0.0 else f"at most {_percent(tried[0])} are"
            least += "" if tried[0] == 0.0 else " needed, the smallest share that was tried:"
            return f"{self._head()}, of {self._data()} {least} to {self._keep()} {self._tail()}"
        if low:
            return (
                f"{self._head()}, at least {self._interval()} {self._data()} {self._keep()} "
                f"{self._tail()}"
            )
        high = math.ceil(100.0 * known.high - 1e-6)
        return (
            f"{self._head()}, {high} % {self._data()} are enough to {self._keep()} {self._tail()} "
            f"No share was shown to be too small: {self._takes(tried[0])}."
        )

    def _head(self) -> str:
        arm = self.arms[0]
        each = {arm.n for arm in self.arms}
        if len(each) == 1:
            size = f"{arm.n:,} samples"
        elif len({arm.n_fresh for arm in self.arms}) == 1:
            size = f"{arm.n_fresh:,} fresh samples and more or fewer synthetic ones"
        else:
            size = f"{min(each):,} to {max(each):,} samples"
        of = subject(arm.group)
        return f"With {size} a generation{' of ' if of else ''}{of}"

    def _data(self) -> str:
        fresh, fixed = (any(getattr(arm, name) for arm in self.arms) for name in _REAL)
        kind = "fresh real" if fresh and not fixed else "the same real" if not fresh else "real"
        return f"{kind} data"

    def _keep(self) -> str:
        """What the data do."""
        within = f"{self.margin:g}" if self.quantity.is_share else _percent(self.margin)
        initial = {arm.n_initial for arm in self.arms}
        told = (
            f" ({min(initial):,} real samples)" if initial != {arm.n for arm in self.arms} else ""
        )
        return f"keep {self.metric} within {within} of generation 1's{told}"

    def _tail(self) -> str:
        end = f"generation {self.end}"
        if self.begin < self.end:
            end = f"generations {self.begin} to {self.end}"
        seeds = sorted({len(self.values(arm)) for arm in self.arms})
        over = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
        shares = _listed([_bare(share) for share in self.border.shares])
        sure = _percent(1.0 - self.question.alpha)
        return f"in {end}, at {sure} (tried: {shares} %, {over} seeds each)."

    def _interval(self) -> str:
        """Estimate and ends in percents, ends rounded outwards."""
        known = self.border
        tenths = 10 if known.high - known.low < 0.05 else 1
        low = math.floor(100 * tenths * known.low + 1e-6) / tenths
        high = math.ceil(100 * tenths * known.high - 1e-6) / tenths
        return f"{round(100 * tenths * known.estimate) / tenths:g} % [{low:g}, {high:g}]"

    def _not_enough(self) -> str:
        """Where no share was shown to be enough."""
        known, most = self.border, self.border.shares[-1]
        if known.states[most] == "too little":
            said = f"more than {_percent(most)} {self._data()}, the largest share that was tried,"
            return f"{said} are needed to {self._keep()}"
        least = f"it takes more than {_percent(known.low)}, and " if known.low > 0.0 else ""
        return (
            f"undecided: {least}no share of {self._data()} was shown to {self._keep()} "
            f"({self._takes(most)})"
        )

    def _takes(self, share: float) -> str:
        """What would show a share that was tried to be what it seems."""
        known = self.border
        mean, needed = known.means[share].estimate, known.seeds_needed[share]
        largest = share == known.shares[-1]
        have = max(len(self.values(arm)) for arm in self.arms if arm.share == share)
        if have < 2:
            return f"one seed of {_percent(share)}; it takes two more"
        if (mean < 0.0) != largest:  # it looks as if the border lay beyond it
            beyond = "above" if largest else "below"
            return f"it would take shares {beyond} {_percent(share)}"
        if needed is None:
            return f"at {_percent(share)} more than 1,000 seeds would tell; try other shares"
        return f"about {needed} seeds at {_percent(share)} would tell, where there are {have}"


_REAL = ("n_fresh", "n_real")


def answers(
    groups: Sequence[Group], question: Question | None = None, apart: bool = True
) -> list[Answer]:
    """What groups say about the share of real data that is needed, question by question.

    Args:
        groups: Any; those that have no constant mix, or no other share beside them, say nothing.
        question: What is to be kept.
        apart: Whether lineages of other numbers of samples are other questions, and each share is
            there once; else they are one, to be looked at.

    Raises:
        Refused: If no ledger has the metric, it has no worse side, or values were not measured
            alike.
    """
    question = question or Question()
    arms = [arm for group in groups if (arm := Arm.of(group)) is not None]
    told = []
    for family in _families(arms, apart):
        shares = sorted(family, key=lambda arm: arm.share)
        ours = [arm.group for arm in shares]
        metric = _metric(ours, question.metric)
        if metric is None:
            continue
        end = _end(lineages_of(ours))
        quantity = meanings_of(ours)[metric]
        answer = Answer(question, shares, end, metric, quantity, protocol_of(ours))
        there = [arm for arm in shares if answer.values(arm)]
        if len(there) > 1 and end > 1:
            told.append(Answer(question, there, end, metric, quantity, answer.protocol))
    return told


def _families(arms: Iterable[Arm], apart: bool) -> Iterator[list[Arm]]:
    """Arms that differ in the share alone: by the number of samples if they can be, else by all."""
    kin: list[list[Arm]] = []
    for arm in arms:
        family = next((family for family in kin if arm.is_beside(family[0])), None)
        if family is None:
            kin.append(family := [])
        family.append(arm)
    if not apart:
        yield from kin
        return
    for family in kin:
        alike = [[arm for arm in family if arm.n == n] for n in dict.fromkeys(a.n for a in family)]
        several = [each for each in alike if len({arm.share for arm in each}) > 1]
        for each in several or [family]:
            yield [*{arm.share: arm for arm in reversed(each)}.values()]  # the first of several


def _metric(groups: Sequence[Group], asked: str | None) -> str | None:
    """What is to be kept; None where nothing was measured that could be."""
    known = meanings_of(groups)
    if asked is None:
        return "recall" if "recall" in known else distance_name(known)
    if asked not in known:
        raise Refused("metric", f"no ledger has {asked}", f"choose from {', '.join(known)}")
    if known[asked].worse is None:
        problem = f"of {asked} nobody has said which way is worse"
        raise Refused("metric", problem, "choose a fidelity, a diversity or a distance")
    return asked


def _end(lineages: Sequence[Lineage]) -> int:
    """The number of generations that most lineages have."""
    counts = Counter(len(lineage.records) for lineage in lineages)
    return max(counts, key=lambda n: (counts[n], n))


def _reference_error(record: GenerationRecord, metric: str) -> float:
    return record.errors[metric].reference if metric in record.errors else 0.0


def subject(group: Group) -> str:
    """Family, data and bias of a group in words, as far as its configuration tells."""
    config, bias = group.lineages[0].config, group.lineages[0].records[-1].sampling_bias
    names = _class(config, "generator"), _class(config, "data.source")
    told = f" (λ = {bias:g})" if bias != 1.0 else ""
    return " on ".join(filter(None, names)) + told


def _class(config: dict[str, Any], place: str) -> str:
    """The class that a configuration names there; empty if it names none."""
    told: Any = config
    for key in place.split("."):
        told = told.get(key) if isinstance(told, dict) else None
    name = told.get("class_path", "") if isinstance(told, dict) else told
    return str(name or "").rpartition(".")[2]


def _bare(share: float) -> str:
    return f"{100 * share:.3g}"


def _percent(share: float) -> str:
    return f"{_bare(share)} %"


def _listed(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
