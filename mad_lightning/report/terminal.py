"""What a report says on a terminal: sentences first, then numbers, then how they were made.

What is to be compared stands in a column, so groups stand below one another: that reads alike for
one group and for twelve, for four metrics and for fourteen, and fits 80 columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, groupby

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from mad_lightning.report.answers import Answer
from mad_lightning.report.groups import Group, floor_of, meanings_of, protocol_of
from mad_lightning.report.words import change, generation_left, headline, number
from mad_lightning.verdict.judgement import Judgement

__all__ = ["report", "screen"]

_LEAST, _MOST = 80, 120
"""Columns that a report takes: in a file or on a narrow terminal, and on a wide one."""

_HEAD, _REMARK, _NEITHER = "bold", "dim", "yellow"
_STYLES = {"MAD": "bold red", "settled": "green", "yes": "red", "no": "green"}

Block = tuple[str, list[list[str]]]
"""A heading, and rows of a label and cells below it."""


def screen() -> Console:
    """Where a report is printed: as wide as the terminal, with colours where there is one."""
    width = Console().width if Console().is_terminal else _LEAST
    return Console(width=min(max(width, _LEAST), _MOST), emoji=False, highlight=False)


def report(
    groups: Sequence[Group],
    judged: Sequence[Judgement],
    metrics: Sequence[str],
    width: int,
    told: Sequence[Answer] = (),
) -> Iterator[RenderableType]:
    """All of it, part by part, for a console of that width.

    Args:
        groups: Groups.
        judged: What the seeds of each allow to conclude.
        metrics: What to show.
        width: Columns.
        told: What they say about the share of real data.

    Raises:
        Refused: If a metric is in no ledger, or values were not measured alike.
    """
    protocol = protocol_of(groups, metrics)
    yield from (Text(sentence, _HEAD) for sentence in [*map(str, told), *headline(groups, judged)])
    yield _title("Verdict", "growth of the distance, between its bounds")
    yield _verdicts(groups, judged)
    yield _title("Values", "± over seeds; of one lineage and of real vs real, ± of measuring")
    yield from _values(groups, judged, metrics, width)
    collapse = _criteria(groups, judged)
    if collapse.row_count:
        yield _title("Collapse, as others define it", "number in the last generation, its limit")
        yield collapse
    yield Text()
    facts = ", ".join(f"{key} = {value}" for key, value in protocol.items())
    yield from (
        Text(note, _REMARK) for note in [*_notes(groups, judged), f"Measured with {facts}."]
    )


def _title(title: str, remark: str) -> Text:
    return Text.assemble("\n", (title, _HEAD), (f"  {remark}", _REMARK))


def _verdicts(groups: Sequence[Group], judged: Sequence[Judgement]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style=_REMARK)
    names = list(dict.fromkeys(judgement.distance for judgement in judged))
    table.add_column("lineage", overflow="fold")
    for head in ("seeds", "gens"):
        table.add_column(head, justify="right")
    for head in ("real data", "verdict", f"{names[0] or 'distance'} grew"):
        table.add_column(head)
    for group, judgement in zip(groups, judged, strict=True):
        verdict, grew = judgement.verdict, change(judgement)
        other = judgement.distance is not None and judgement.distance != names[0]
        table.add_row(
            group.name.replace(",", ", "),  # so that it is broken between settings
            str(verdict.seeds),
            str(group.generations),
            "none" if verdict.closed else "comes in",
            Text(verdict.answer, _STYLES.get(verdict.answer, _NEITHER)),
            f"{grew} ({judgement.distance})" if other else grew,
        )
    return table


def _values(
    groups: Sequence[Group], judged: Sequence[Judgement], metrics: Sequence[str], width: int
) -> Iterator[Text]:
    """A block a metric, with a row a group; of one group, a block a meaning and a row a metric."""
    meanings, pairs = meanings_of(groups), list(zip(groups, judged, strict=True))
    if len(groups) > 1:
        head = ["", "first", "last", "off floor"]
        blocks = [
            (
                f"{name}  {meanings[name].words}; real vs real {floor_of(groups, name)}",
                [[group.name, *_walk(group, judgement, name)] for group, judgement in pairs],
            )
            for name in metrics
        ]
    else:
        head = ["", "first", "last", "off floor", "real vs real"]
        (pair,) = pairs
        blocks = [
            (words, [[name, *_walk(*pair, name), str(floor_of(groups, name))] for name in alike])
            for words, alike in groupby(metrics, key=lambda name: meanings[name].words)
        ]
    yield from _aligned(head, blocks, width)


def _walk(group: Group, judgement: Judgement, metric: str) -> list[str]:
    """First and last value, and since when it is off its floor, if anybody asked."""
    start, end = group.value(metric, 1), group.value(metric, group.generations)
    left = generation_left(judgement, metric)
    since = f"since {left}" if left.isdigit() else left
    return [str(start), "" if group.generations == 1 else f"→ {end}", since]


def _aligned(head: list[str], blocks: Sequence[Block], width: int) -> Iterator[Text]:
    """Blocks whose columns stand below one another; a label without room has its own line."""
    rows = [head, *chain.from_iterable(inside for _, inside in blocks)]
    label, first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    label = min(label, width - first - sum(others) - 2 * (len(others) + 2))

    def line(row: list[str]) -> str:
        cells = [f"{cell:<{room}}" for cell, room in zip(row[2:], others, strict=True)]
        return "  ".join([f"  {row[0]:<{label}}", f"{row[1]:>{first}}", *cells]).rstrip()

    yield Text(line(head), _REMARK)
    for title, inside in blocks:
        name, gap, words = title.partition("  ")
        yield Text.assemble(name, gap, (words, _REMARK))
        for name, *cells in inside:
            if len(name) > label:
                yield Text(f"  {name}")
            yield Text(line(["" if len(name) > label else name, *cells]))


def _criteria(groups: Sequence[Group], judged: Sequence[Judgement]) -> Table:
    """Questions, and beside them who answers what."""
    names = [group.name for group in groups] if len(groups) > 1 else [""]
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(ratio=1)
    table.add_column(ratio=1)
    for alike in zip(*(judgement.criteria for judgement in judged), strict=True):
        if all(criterion.value is None for criterion in alike):
            continue
        answers = Text()
        for word in ("yes", "no", "undecided", "not measured"):
            told = [
                f"{name} {number(criterion)}".strip()
                for name, criterion in zip(names, alike, strict=True)
                if criterion.answer == word
            ]
            if told:
                answers.append(word, _STYLES.get(word, _NEITHER))
                answers.append(f": {', '.join(told)}\n")
        answers.rstrip()
        table.add_row(Text.assemble(alike[0].name, ("\n" + alike[0].number, _REMARK)), answers)
    return table


def _notes(groups: Sequence[Group], judged: Sequence[Judgement]) -> Iterator[str]:
    """Few, and short; Markdown has all."""
    missing = [
        alike[0].name
        for alike in zip(*(judgement.criteria for judgement in judged), strict=True)
        if all(criterion.value is None for criterion in alike)
    ]
    if missing:
        yield f"Not measured: {', '.join(missing)}."
    verdict = judged[0].verdict
    yield (
        f"Each bound and answer is wrong in {verdict.alpha:.0%} of cases at most. Off floor: since "
        "that generation worse than real data by more than chance and 0.02. Sources, conditions "
        "and all numbers: --markdown, --html, --json."
    )
