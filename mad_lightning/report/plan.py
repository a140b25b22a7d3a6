"""The plan of a report: all that it shows, as plain data, before anybody draws it.

A page and a W&B report show the same: what came out in a sentence, what was asked and answered,
every metric beside its floor, pictures, what the generations ate, what it cost, how each number was
made. So that is decided once, here, and rendered elsewhere. A plan holds text, numbers, None where
a number is not known, and names of files; ``asdict`` makes JSON of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from mad_lightning.lineage.configuration import decisive
from mad_lightning.report.answers import Answer as Asked
from mad_lightning.report.answers import answers
from mad_lightning.report.groups import (
    Group,
    floor_of,
    meanings_of,
    metrics_of,
    protocol_of,
)
from mad_lightning.report.judged import judgements
from mad_lightning.report.provenance import (
    Ancestry,
    ClassShares,
    Cost,
    Strip,
    ancestry,
    class_shares,
    cost,
    strip,
)
from mad_lightning.report.tables import value_notes, verdict_notes
from mad_lightning.report.words import answer, headline
from mad_lightning.verdict.intervals import Interval
from mad_lightning.verdict.judgement import Judgement

__all__ = [
    "Answer",
    "Chart",
    "Curve",
    "Difference",
    "GroupPlan",
    "LineagePlan",
    "Plan",
    "Plane",
    "Point",
    "Question",
    "Range",
    "Walk",
    "chart_of",
    "plan",
    "plane_of",
]


@dataclass(frozen=True)
class Range:
    """An estimate between two bounds; None where there is none."""

    estimate: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, interval: Interval) -> Range:
        """Of an interval, whose bounds may be infinite."""
        return cls(*map(_known, (interval.estimate, interval.low, interval.high)))


@dataclass(frozen=True)
class LineagePlan:
    """One lineage: its name, directory and seed, and how many generations are finished."""

    name: str
    directory: str
    seed: int | None
    generations: int


@dataclass(frozen=True)
class GroupPlan:
    """Lineages that differ only in the seed, and the verdict on them.

    Attributes:
        name: Of the group; all that follows names it so.
        lineages: Its members.
        generations: How many all of them have.
        policy: Token of its loop policy.
        sampling_bias: λ, or its schedule.
        closed: Whether nothing real comes in any more.
        last_real: The last generation into which something real came.
        verdict: ``MAD``, ``settled`` or ``undecided``.
        words: The verdict in a sentence.
        because: Why.
        distance: Name of the distance that was judged; None if none was measured.
        relative: Whether ``rise`` is a factor; else it is a difference.
        rise: Of the distance, from generation 1 to the last third of the lineage.
        left: By metric, the first generation from which on it lies off its floor; None if it does
            not.
    """

    name: str
    lineages: tuple[LineagePlan, ...]
    generations: int
    policy: str
    sampling_bias: float | str
    closed: bool
    last_real: int
    verdict: str
    words: str
    because: str
    distance: str | None
    relative: bool
    rise: Range
    left: dict[str, int | None]


@dataclass(frozen=True)
class Answer:
    """What the ledgers of a group say to a question, and the number that says it."""

    group: str
    answer: str
    value: Range | None


@dataclass(frozen=True)
class Question:
    """One of the field's definitions of collapse.

    Attributes:
        name: What is asked.
        source: Whose definition it is.
        number: What the number is, and which values of it mean yes.
        answers: One a group.
    """

    name: str
    source: str
    number: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Point:
    """A metric of one generation: mean and spread over seeds, and each seed's own value.

    The spread is the sample standard deviation; of a single seed, its measurement error, or 0.
    """

    generation: int
    mean: float
    spread: float
    seeds: tuple[float | None, ...]


@dataclass(frozen=True)
class Curve:
    """A metric of a group, where it is known."""

    group: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Chart:
    """One metric against the generation.

    Attributes:
        metric: Its name.
        words: What it means, e.g. ``diversity, worse if lower``.
        section: ``fidelity``, ``diversity``, ``distance``, ``copies`` or ``other``.
        worse: ``lower``, ``higher`` or None.
        is_share: Whether its values lie in [0, 1].
        floor: What real samples score; None if nobody measured it.
        floor_error: Standard deviation of one reading of the floor; 0 where it is not known.
        floor_words: What the floor is.
        curves: One a group.
    """

    metric: str
    words: str
    section: str
    worse: str | None
    is_share: bool
    floor: float | None
    floor_error: float
    floor_words: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Walk:
    """Where the generations of a group lie: (generation, recall, precision), means over seeds."""

    group: str
    points: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class Plane:
    """Fidelity against diversity; the floor is (recall, precision), if it was measured."""

    floor: tuple[float, float] | None
    walks: tuple[Walk, ...]


@dataclass(frozen=True)
class Difference:
    """A setting in which the groups differ: its value by group; None where a group has none."""

    key: str
    values: dict[str, str | None]


@dataclass(frozen=True)
class Plan:
    """All of a report.

    Attributes:
        title: What the lineages have in common.
        headline: What came out, in a sentence or two.
        groups: In the order of their colours.
        questions: The field's definitions of collapse, and the answers.
        charts: One a metric: fidelity, diversity, distances, copies, others.
        plane: Fidelity against diversity; None without precision and recall.
        strips: One a lineage that has pictures.
        classes: One a group whose samples have classes.
        ancestry: One a group.
        costs: One a group.
        differences: Between the configurations.
        protocol: How values were measured, by key.
        made: The same in words: term and explanation.
        notes: How to read values and verdicts.
    """

    title: str
    headline: tuple[str, ...]
    groups: tuple[GroupPlan, ...]
    questions: tuple[Question, ...]
    charts: tuple[Chart, ...]
    plane: Plane | None
    strips: tuple[Strip, ...]
    classes: tuple[ClassShares, ...]
    ancestry: tuple[Ancestry, ...]
    costs: tuple[Cost, ...]
    differences: tuple[Difference, ...]
    protocol: dict[str, Any]
    made: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def plan(groups: Sequence[Group], told: Sequence[Asked] | None = None) -> Plan:
    """What a report of these groups shows.

    Args:
        groups: Groups.
        told: What they say about the share of real data; None asks for it.

    Raises:
        Refused: If values were not measured alike, or a picture is damaged.
    """
    told = answers(groups) if told is None else told
    metrics, judged = metrics_of(groups), judgements(groups)
    members = [(group, lineage) for group in groups for lineage in group.lineages]
    return Plan(
        title=_title(groups),
        headline=(*map(str, told), *headline(groups, judged)),
        groups=tuple(map(_group, groups, judged)),
        questions=_questions(groups, judged),
        charts=tuple(chart_of(groups, metric) for metric in metrics),
        plane=plane_of(groups) if {"precision", "recall"} <= set(metrics) else None,
        strips=tuple(s for s in (strip(group, one) for group, one in members) if s.pictures),
        classes=tuple(filter(None, map(class_shares, groups))),
        ancestry=tuple(map(ancestry, groups)),
        costs=tuple(map(cost, groups)),
        differences=_differences(groups),
        protocol=protocol_of(groups),
        made=_made(groups),
        notes=(*value_notes(groups, metrics), *verdict_notes(groups, judged)),
    )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _title(groups: Sequence[Group]) -> str:
    """What all names begin with, and how each goes on."""
    shared = groups[0].lineages[0].directory.name.partition(groups[0].name)[0].rstrip("_")
    names = ", ".join(group.name for group in groups)
    return f"{shared}: {names}" if shared and len(groups) > 1 else names


# what came out


def _group(group: Group, judgement: Judgement) -> GroupPlan:
    verdict, first = judgement.verdict, group.lineages[0].records[0]
    return GroupPlan(
        name=group.name,
        lineages=tuple(
            LineagePlan(one.directory.name, str(one.directory), one.seed, len(one.records))
            for one in group.lineages
        ),
        generations=group.generations,
        policy=first.policy,
        sampling_bias=group.sampling_bias,
        closed=verdict.closed,
        last_real=group.last_real,
        verdict=verdict.answer,
        words=answer(group, judgement),
        because=verdict.reason,
        distance=judgement.distance,
        relative=verdict.relative,
        rise=Range.of(verdict.rise),
        left={metric: departure.generation for metric, departure in judgement.left.items()},
    )


def _questions(groups: Sequence[Group], judged: Sequence[Judgement]) -> tuple[Question, ...]:
    return tuple(
        Question(
            criteria[0].name,
            criteria[0].source,
            criteria[0].number,
            tuple(
                Answer(group.name, one.answer, None if one.value is None else Range.of(one.value))
                for group, one in zip(groups, criteria, strict=True)
            ),
        )
        for criteria in zip(*(judgement.criteria for judgement in judged), strict=True)
    )


# what is drawn


def chart_of(groups: Sequence[Group], metric: str) -> Chart:
    """A metric that some ledger has, in all groups."""
    quantity, floor = meanings_of(groups)[metric], floor_of(groups, metric)
    return Chart(
        metric,
        quantity.words,
        quantity.section,
        quantity.worse,
        quantity.is_share,
        _known(floor.mean),
        _known(floor.spread) or 0.0,
        quantity.floor,
        tuple(_curve(group, metric) for group in groups),
    )


def _curve(group: Group, metric: str) -> Curve:
    rows = group.values(metric)
    return Curve(
        group.name,
        tuple(
            Point(t, value.mean, value.spread, tuple(_known(row[t - 1]) for row in rows))
            for t, value in group.curve(metric)
        ),
    )


def plane_of(groups: Sequence[Group]) -> Plane:
    """Where groups lie whose precision and recall were measured."""
    floor = floor_of(groups, "recall").mean, floor_of(groups, "precision").mean
    walks = []
    for group in groups:
        precision, recall = dict(group.curve("precision")), dict(group.curve("recall"))
        both = [t for t in recall if t in precision]
        points = tuple((t, recall[t].mean, precision[t].mean) for t in both)
        walks.append(Walk(group.name, points))
    return Plane(floor if all(map(math.isfinite, floor)) else None, tuple(walks))


# how it was made


def _differences(groups: Sequence[Group]) -> tuple[Difference, ...]:
    settings: dict[str, Mapping[str, Any]] = {
        group.name: decisive(group.lineages[0].config) for group in groups
    }
    keys = dict.fromkeys(chain.from_iterable(settings.values()))
    rows = (
        (key, {name: str(told[key]) if key in told else None for name, told in settings.items()})
        for key in keys
        if key != "name"
    )
    return tuple(Difference(key, values) for key, values in rows if len(set(values.values())) > 1)


def _made(groups: Sequence[Group]) -> tuple[tuple[str, str], ...]:
    """Term and explanation: the protocol, whose seeds, and what each floor is."""
    seeds = (
        ", ".join("?" if one.seed is None else str(one.seed) for one in group.lineages)
        for group in groups
    )
    told = (f"{group.name}: {numbers}" for group, numbers in zip(groups, seeds, strict=True))
    made = {key: str(value) for key, value in protocol_of(groups).items()}
    made["seeds"] = "; ".join(told)
    meanings = meanings_of(groups)
    made |= {f"floor of {name}": quantity.floor for name, quantity in meanings.items()}
    return tuple(made.items())
