"""What a report says in words and numbers: tables in Markdown, and a summary for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

from mad_lightning.lineage.configuration import decisive
from mad_lightning.lineage.quantities import UNKNOWN
from mad_lightning.report.answers import Answer, answers
from mad_lightning.report.groups import Group, floor_of, meanings_of, metrics_of, protocol_of
from mad_lightning.report.judged import judgements
from mad_lightning.report.words import (
    answer,
    between,
    change,
    difference,
    generation_left,
    growth,
    headline,
    number,
    sources,
)
from mad_lightning.verdict.judgement import Judgement

__all__ = [
    "Rows",
    "criteria_rows",
    "measurements",
    "summary",
    "table",
    "value_notes",
    "value_rows",
    "verdict_notes",
    "verdict_rows",
    "verdicts",
]

_PLUS_MINUS = (
    "±: the sample standard deviation over seeds; of a single lineage, the measurement error, for "
    "other samples of its generators and another reference; of real vs real, the standard "
    "deviation over other ways to part the same real samples."
)

_TERMS = """\
Each claim is wrong with probability {alpha:g} at most.
MAD, where nothing real comes in: the distance rose since generation 1; or, where that does \
not tell, recall or precision fell (each of the two claims at a quarter of that probability).
MAD, where real data comes in, or weights that have seen some: it grows, and gathers pace as no \
loop that settles does.
Settled: as many generations again would add less than {margin:.0%}.
Rose: from generation 1 to the last third. Pace: growth a generation of the log-distance.
Excess: what the last third has over real data, as a multiple of what generation 1 has.
A kernel distance is 0 for real samples, in the mean. A floor whose error is not in the ledger is \
taken to be right within half of it.
Left at: first generation from which on the seeds' mean lies more than 0.02 beyond the floor; of \
a single lineage, from which on its value does.
"""

Rows = list[list[str]]
"""Cells of a table, row by row; the first row is its head."""


def _markdown(rows: Rows) -> str:
    head, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *others])


# the values


def value_rows(groups: Sequence[Group], metrics: Sequence[str]) -> Rows:
    """What metrics mean, their first and last value in each group, and the floor."""
    meanings = meanings_of(groups)
    rows = [
        ["lineage", "seeds", "generation", *metrics],
        ["meaning", "", "", *(meanings[metric].words for metric in metrics)],
    ]
    for group in groups:
        last = group.generations
        row = [group.name, str(len(group.lineages)), "1" if last == 1 else f"1 → {last}"]
        for metric in metrics:
            start, end = group.value(metric, 1), group.value(metric, last)
            row.append(str(start) if last == 1 else f"{start} → {end}")
        rows.append(row)
    return [*rows, ["real vs real", "", "", *(str(floor_of(groups, name)) for name in metrics)]]


def value_notes(groups: Sequence[Group], metrics: Sequence[str]) -> list[str]:
    """How the values were made, and what was left out of them."""
    facts = ", ".join(f"{key} = {value}" for key, value in protocol_of(groups, metrics).items())
    notes = [_PLUS_MINUS, facts]
    meanings = meanings_of(groups)
    notes += [
        f"{name}, real vs real: {meanings[name].floor}."
        for name in metrics
        if meanings[name].floor != UNKNOWN.floor
    ]
    notes += [
        f"{group.name}: up to generation {group.generations}, which all its seeds have."
        for group in groups
        if any(len(lineage.records) > group.generations for lineage in group.lineages)
    ]
    notes += [
        f"{lineage.directory.name}: branched from {name} after generation {t}."
        for group in groups
        for lineage in group.lineages
        for t, name, _ in lineage.branches
    ]
    return [note for note in notes if note]


def table(groups: Sequence[Group], metrics: Sequence[str]) -> str:
    """First and last generation of each group, and the floor, in Markdown.

    Raises:
        Refused: If a metric is in no ledger, or values were not measured alike.
    """
    notes = "  \n".join(value_notes(groups, metrics))
    return f"{_markdown(value_rows(groups, metrics))}\n\n{notes}\n"


# the verdict


def verdict_rows(groups: Sequence[Group], judged: Sequence[Judgement]) -> Rows:
    """The verdict on each group, with the numbers it rests on."""
    left = list(dict.fromkeys(chain.from_iterable(judgement.left for judgement in judged)))
    head = ["lineage", "seeds", "real data", "verdict", "distance", "rose", "excess", "pace", "in"]
    rows = [[*head, *(f"{metric} left at" for metric in left), "because"]]
    for group, judgement in zip(groups, judged, strict=True):
        verdict = judgement.verdict
        none = f"none after generation {group.last_real}"
        comes = none if verdict.closed else "comes in"
        row = [group.name, str(verdict.seeds), comes, verdict.answer, judgement.distance or "–"]
        pace = growth if verdict.relative else difference
        row += [change(judgement), between(verdict.excess), pace(verdict.pace)]
        row += ["–".join(map(str, verdict.window))]
        row += [generation_left(judgement, metric) for metric in left]
        rows.append([*row, verdict.reason])
    return rows


def criteria_rows(groups: Sequence[Group], judged: Sequence[Judgement]) -> Rows:
    """The field's definitions of collapse, a column a group."""
    rows = [["collapse, as", "number (yes if)", *(group.name for group in groups)]]
    for criteria in zip(*(judgement.criteria for judgement in judged), strict=True):
        row = [f"{criteria[0].name} ({criteria[0].source})", criteria[0].number]
        for criterion in criteria:
            told = number(criterion)
            row.append(f"{criterion.answer} ({told})" if told else criterion.answer)
        rows.append(row)
    return rows


def verdict_notes(groups: Sequence[Group], judged: Sequence[Judgement]) -> list[str]:
    """How to read the verdicts."""
    verdict = judged[0].verdict
    alike: dict[str, list[str]] = {}
    for group, judgement in zip(groups, judged, strict=True):
        alike.setdefault(sources(judgement), []).append(group.name)
    return [
        *(f"{', '.join(names)}: {told}." for told, names in alike.items()),
        *_TERMS.format(alpha=verdict.alpha, margin=verdict.margin).splitlines(),
    ]


def verdicts(groups: Sequence[Group]) -> str:
    """The verdict on each group, and the field's definitions of collapse, in Markdown."""
    judged = judgements(groups)
    tables = [verdict_rows(groups, judged), criteria_rows(groups, judged)]
    notes = "  \n".join(verdict_notes(groups, judged))
    return "\n\n".join([*map(_markdown, tables), notes]) + "\n"


# for programs


def summary(groups: Sequence[Group], told: Sequence[Answer] | None = None) -> dict[str, Any]:
    """All numbers of a report, as plain values for JSON."""
    judged = judgements(groups)
    return {
        "headline": headline(groups, judged),
        "protocol": protocol_of(groups),
        "quantities": {name: asdict(quantity) for name, quantity in meanings_of(groups).items()},
        "groups": [
            {"sentence": answer(group, judgement)} | _group_summary(group) | asdict(judgement)
            for group, judgement in zip(groups, judged, strict=True)
        ],
        "answers": [each.plain() for each in (answers(groups) if told is None else told)],
    }


def measurements(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """All that was measured, one row a lineage, generation and metric, as data frames have it.

    What groups differ in has a column each, named as mad train's flags are.
    """
    arms = _arms(groups)
    return [
        {
            "group": group.name,
            "lineage": lineage.directory.name,
            **arm,
            "seed": lineage.seed,
            "policy": record.policy,
            "sampling_bias": record.sampling_bias,
            "generation": record.generation,
            "metric": metric,
            "value": value,
            "error": record.errors[metric].both if metric in record.errors else None,
            "floor": lineage.records[0].floor.get(metric),
        }
        for group, arm in zip(groups, arms, strict=True)
        for lineage in group.lineages
        for record in lineage.records
        for metric, value in record.metrics.items()
    ]


def _arms(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Single values of the configuration in which groups differ, by dotted field."""
    settings = [
        {
            key.replace(".init_args", ""): value
            for key, value in decisive(group.lineages[0].config).items()
            if not key.endswith("class_path") and not isinstance(value, list)
        }
        for group in groups
    ]
    fields = dict.fromkeys(key for each in settings for key in each)
    varied = [key for key in fields if len({repr(each.get(key)) for each in settings}) > 1]
    told = ("sampling_bias", "name")  # in columns of their own
    return [{key: each.get(key) for key in varied if key not in told} for each in settings]


def _group_summary(group: Group) -> dict[str, Any]:
    metrics = {}
    for metric in metrics_of([group]):
        values = [group.value(metric, t) for t in range(1, group.generations + 1)]
        metrics[metric] = {
            "mean": [value.mean for value in values],
            "spread": [value.spread for value in values],
            "floor": floor_of([group], metric).mean,
        }
    return {
        "name": group.name,
        "lineages": [str(lineage.directory) for lineage in group.lineages],
        "seeds": [lineage.seed for lineage in group.lineages],
        "branched_from": [
            [{"name": name, "generation": t} for t, name, _ in lineage.branches]
            for lineage in group.lineages
        ],
        "generations": group.generations,
        "fresh_share": group.fresh_share,
        "metrics": metrics,
    }
