"""The report in W&B: the same plan as the page, drawn there from the runs themselves.

A page holds numbers; a report in W&B holds *questions to runs*: which runs, which of their keys. So
what would be sent is decided first, as plain data (:func:`specification`), and can be read, tested
and kept without a network; only :func:`send` speaks to W&B. Its keys are those that runs carry
(:mod:`mad_lightning.callbacks.wandb_keys`), and start with the place where they stand: ``config.``,
``summary.`` or ``history.``.

Each configuration is a run set of its own: its policy, its λ and exactly its lineages. Their seeds
are drawn as mean and spread, and every metric with its floor in the same chart.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Literal

from mad_lightning.callbacks.wandb_files import carried, is_unsynced, run_id
from mad_lightning.callbacks.wandb_keys import AXIS, PICTURE, floor_key, metric_key
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.report.plan import Chart, GroupPlan, Plan
from mad_lightning.schedules import spelled

__all__ = ["Panel", "Part", "RunSet", "Specification", "readable", "specification", "still_to_do"]

ARM = "config.arm"
"""What all seeds of a configuration share."""


@dataclass(frozen=True)
class RunSet:
    """The runs of one configuration.

    Attributes:
        name: Of the group.
        policy: Token of its loop policy.
        sampling_bias: λ, or its schedule.
        runs: Lineage and id of its run; the id is None where no run is known.
    """

    name: str
    policy: str
    sampling_bias: float | str
    runs: dict[str, str | None]


@dataclass(frozen=True)
class Panel:
    """What is drawn of runs.

    Attributes:
        kind: ``curves`` over the generation, ``places`` in the plane of two keys, ``pictures`` by
            generation, ``parallel`` coordinates, or the ``differences`` of configurations.
        title: Its title.
        keys: What it draws: a metric and its floor; the plane's two axes; columns.
        words: What the keys are called, where that is not plain.
    """

    kind: Literal["curves", "places", "pictures", "parallel", "differences"]
    title: str
    keys: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """A heading, text in Markdown, and panels; seeds are drawn together or one by one."""

    heading: str
    text: str
    panels: tuple[Panel, ...] = ()
    seeds_together: bool = False


@dataclass(frozen=True)
class Specification:
    """All of a report in W&B."""

    title: str
    description: str
    run_sets: tuple[RunSet, ...]
    parts: tuple[Part, ...]

    @property
    def panels(self) -> list[Panel]:
        """Of all parts."""
        return list(chain.from_iterable(part.panels for part in self.parts))

    @property
    def keys(self) -> list[str]:
        """All that its run sets and panels ask of runs."""
        filtered = ("config.policy", "config.sampling_bias", ARM)
        drawn = chain.from_iterable(panel.keys for panel in self.panels)
        return list(dict.fromkeys([*filtered, f"history.{AXIS}", *drawn]))

    def plain(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return asdict(self)


def specification(plan: Plan) -> Specification:
    """What a report in W&B shows of a plan.

    Args:
        plan: What a report of these lineages shows.
    """
    return Specification(
        plan.title,
        " ".join(plan.headline),
        tuple(map(_run_set, plan.groups)),
        (
            Part("What came out", _outcome(plan)),
            Part("Over the generations", _CURVES, tuple(map(_curves, plan.charts)), True),
            *_plane(plan),
            *_pictures(plan),
            Part("All values at once", _PARALLEL, (_parallel(plan),)),
            Part("In what the lineages differ", _differences(plan), (_DIFFERENCES,)),
            Part("How each number was made", _made(plan)),
        ),
    )


def _run_set(group: GroupPlan) -> RunSet:
    runs = {one.name: run_id(LineageDirectory(one.directory)) for one in group.lineages}
    return RunSet(group.name, group.policy, group.sampling_bias, runs)


# words

_CURVES = (
    "Each line is the mean over the seeds of a configuration, its band their standard deviation. "
    "What real samples score against other real samples, the *floor*, stands in the same chart, as "
    "a flat line."
)
_PLANE = (
    "Fidelity against diversity, a point a lineage, in its first and in its last generation. A "
    "loop that loses quality moves down, one that loses diversity moves to the left."
)
_PICTURES = (
    "Samples of each generation, from the same seeds and classes; a row a lineage. The captions "
    "tell the generation, for the axis counts what was logged."
)
_PARALLEL = "A line a lineage: how it was made, and what its last generation scores."


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first row is the head."""
    head, *others = ([str(cell).replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *others])


def _outcome(plan: Plan) -> str:
    """The verdict in words first, then the answers beside their questions."""
    sentences = [f"**{sentence}**" for sentence in plan.headline]
    verdicts = [["lineages", "seeds", "generations", "verdict", "because"]]
    verdicts += [
        [group.name, str(len(group.lineages)), str(group.generations), group.verdict, group.because]
        for group in plan.groups
    ]
    answers = [["collapse, as", "number (yes if)", *(group.name for group in plan.groups)]]
    for question in plan.questions:
        told = {answer.group: answer.answer for answer in question.answers}
        row = [f"{question.name} ({question.source})", question.number]
        answers.append([*row, *(told.get(group.name, "–") for group in plan.groups)])
    tables = [verdicts, *([answers] if plan.questions else [])]
    return "\n\n".join([*sentences, *map(_table, tables)])


def _differences(plan: Plan) -> str:
    if not plan.differences:
        return "In nothing but their seeds."
    names = [group.name for group in plan.groups]
    rows = [
        [one.key, *("–" if (value := one.values.get(name)) is None else value for name in names)]
        for one in plan.differences
    ]
    return _table([["setting", *names], *rows])


def _made(plan: Plan) -> str:
    return "\n\n".join([_table([["what", "how"], *plan.made]), *plan.notes])


# panels

_DIFFERENCES = Panel("differences", "Configurations and outcomes, where they differ")


def _curves(chart: Chart) -> Panel:
    keys = [metric_key(chart.metric, chart.section)]
    if chart.floor is not None:
        keys.append(floor_key(chart.metric, chart.section))
    title = f"{chart.metric} ({chart.words})"
    return Panel("curves", title, tuple(f"history.{key}" for key in keys))


def _plane(plan: Plan) -> Iterator[Part]:
    if plan.plane is not None:
        words = ("recall (diversity)", "precision (fidelity)")
        panels = (
            Panel("places", f"In the {when} generation", _ends(when), words)
            for when in ("first", "last")
        )
        yield Part("Fidelity and diversity", _PLANE, tuple(panels))


def _ends(when: str) -> tuple[str, str]:
    return f"summary.{when}/recall", f"summary.{when}/precision"


def _pictures(plan: Plan) -> Iterator[Part]:
    if plan.strips:
        panel = Panel("pictures", "Samples by generation", (f"history.{PICTURE}",))
        yield Part("What generators draw", _PICTURES, (panel,))


def _parallel(plan: Plan) -> Panel:
    """How a lineage was made, and what its last generation scores."""
    made = [("config.policy", "policy"), ("config.sampling_bias", "λ"), ("config.seed", "seed")]
    ends = [(f"summary.last/{chart.metric}", chart.metric) for chart in plan.charts]
    keys, words = zip(*made, *ends, strict=True)
    return Panel("parallel", "How lineages were made, and where they end", keys, words)


# before it is sent


def still_to_do(plan: Plan) -> list[str]:
    """What a report lacks until somebody does something, as sentences with the command to use.

    Runs are looked at where they lie on this disk.
    """
    unseen, old, here = [], [], []
    for lineage in chain.from_iterable(group.lineages for group in plan.groups):
        directory = LineageDirectory(lineage.directory)
        if (name := run_id(directory)) is None:
            unseen.append(lineage.directory)
            continue
        runs = sorted(directory.wandb_folder.glob(f"*run-*-{name}*"))
        if runs and not any("arm" in carried(run)["config"] for run in runs):
            old.append(lineage.directory)
        here += [str(run) for run in runs if is_unsynced(run)]
    told = (
        (unseen, "No W&B run shows", "mad wandb", "draws it"),
        (old, "Older than what a report asks for is the run of", "mad wandb", "draws it anew"),
        (here, "On this disk alone is the run in", "wandb sync", "uploads it"),
    )
    return [
        f"{what} {_few(names)}; `{command} {shlex.join(names)}` {does}."
        for names, what, command, does in told
        if names
    ]


def _few(names: Sequence[str]) -> str:
    first, *others = names
    return f"{first} and {len(others)} more" if others else first


def readable(spec: Specification, target: str) -> str:
    """What would be sent, for people.

    Args:
        spec: The report.
        target: Where to.
    """
    lines = [f"W&B report for {target}: {spec.title}", "", *textwrap.wrap(spec.description, 80), ""]
    for some in spec.run_sets:
        lines.append(f"run set {some.name}: policy {some.policy}, λ {spelled(some.sampling_bias)}")
        lines += [f"  {lineage}: {name or 'no run yet'}" for lineage, name in some.runs.items()]
    for part in spec.parts:
        how = f": mean and spread over the runs of each {ARM}" if part.seeds_together else ""
        lines.append(part.heading + (how if part.panels else ": text"))
        for panel in part.panels:
            keys = (key.removeprefix("history.") for key in panel.keys)
            lines.append(f"  {panel.kind}: {panel.title}")
            lines += textwrap.wrap(
                ", ".join(keys), 80, initial_indent=" " * 4, subsequent_indent=" " * 4
            )
    return "\n".join(lines) + "\n"
