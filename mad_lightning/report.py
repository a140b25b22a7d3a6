"""The report: what several lineages say together.

    python -m mad_lightning.report runs/a runs/b --html report.html --json report.json

One lineage is one throw of the dice. Lineages whose configurations differ in nothing but the seed
are a *group*; it says a mean ± the sample standard deviation over its seeds, and stands beside the
*floor*: what real samples score against other real samples. Two values share an axis only if they
were measured alike; lineages of different protocols (n, k, extractor, weights, data) are refused.
What the seeds of a group allow to conclude is said by :mod:`mad_lightning.verdict`.

All of it is read from the ledgers, also while lineages still grow, and written as plain text:
Markdown, SVG and HTML that need no network, no script and no plotting library.
"""

from __future__ import annotations

import argparse
import base64
import io
import math
import os
import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from mad_lightning.lineage import (
    GenerationRecord,
    Ledger,
    differences,
    write_atomically,
    write_json,
)
from mad_lightning.refusal import Refused

if TYPE_CHECKING:
    from mad_lightning.verdict import Departure, Interval, Judgement, SafeShare

__all__ = [
    "Group",
    "Lineage",
    "Value",
    "figure",
    "judgements",
    "load",
    "main",
    "page",
    "plane",
    "summary",
    "table",
    "verdicts",
]

_MEANING = {
    "precision": "fidelity",
    "density": "fidelity",
    "recall": "diversity",
    "coverage": "diversity",
}  # any other metric is a distance
_IN_UNIT_INTERVAL = ("precision", "recall", "coverage")
_SEED = re.compile(r"_seed(\d+)")


# what is read


class Value(NamedTuple):
    """A metric over n seeds: mean and sample standard deviation, which is 0 for a single seed."""

    mean: float
    spread: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Value:
        """Summarises one value a seed; NaN if any is missing."""
        if not values or not all(map(math.isfinite, values)):
            return cls(math.nan, math.nan, len(values))
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return cls(statistics.fmean(values), spread, len(values))

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        spread = f" ± {_number(self.spread, like=self.mean)}" if self.n > 1 else ""
        return _number(self.mean, like=self.mean) + spread


@dataclass(frozen=True)
class Lineage:
    """A lineage as its directory tells it; its name stands in for a missing configuration."""

    directory: Path
    records: list[GenerationRecord]
    config: dict[str, Any]
    seed: int | None


@dataclass(frozen=True)
class Group:
    """Lineages that differ only in the seed.

    Attributes:
        name: Name of its first directory, without the seed and without what all names begin with.
        lineages: At least one.
    """

    name: str
    lineages: list[Lineage]

    @property
    def generations(self) -> int:
        """How many generations all its lineages have, so that no mean changes its members."""
        return min(len(each.records) for each in self.lineages)

    def value(self, metric: str, t: int) -> Value:
        """A metric at generation ``t`` >= 1."""
        records = [each.records[t - 1] for each in self.lineages]
        return Value.of([record.metrics.get(metric, math.nan) for record in records])

    def curve(self, metric: str) -> list[tuple[int, Value]]:
        """A metric where it is known, at some 60 generations if there are more."""
        values = ((t, self.value(metric, t)) for t in _thin(self.generations, 60))
        return [(t, value) for t, value in values if math.isfinite(value.mean)]

    @property
    def fresh_share(self) -> float | None:
        """n_fresh / (n_fresh + n_synthetic) over generations 2, 3, ...; None beside fixed data."""
        later = [record for each in self.lineages for record in each.records[1:]]
        fresh, synthetic = (sum(getattr(r, k) for r in later) for k in ("n_fresh", "n_synthetic"))
        if not fresh + synthetic or any(record.n_real for record in later):
            return None
        return fresh / (fresh + synthetic)

    @property
    def memory(self) -> float | None:
        """Share of an error that a generation passes on, as far as the mixes tell.

        That is the share of synthetic samples in generations 2, 3, ... if they are those of the
        last generation. Of the last k, samples are (k+1)/2 generations old on average. A pool that
        keeps all, or weights that go on training, remember in other ways: None.
        """
        later = [record for each in self.lineages for record in each.records[1:]]
        total = sum(record.n_real + record.n_fresh + record.n_synthetic for record in later)
        if not total:
            return None
        share = sum(record.n_synthetic for record in later) / total
        policy = (self.lineages[0].config.get("policy") or {}).get("init_args") or {}
        drawn, k = policy.get("synthetic_from", "last"), policy.get("k", 1)
        if drawn == "all" or (share < 1 and any(r.start == "previous" for r in later)):
            return None
        return share ** (2 / (k + 1)) if drawn == "last_k" else share


def _thin(n: int, most: int) -> list[int]:
    return [*range(1, n, max(1, n // most)), n]


def load(directories: Iterable[str | Path]) -> list[Group]:
    """Reads lineages and groups those that differ only in the seed, in the order given.

    Raises:
        Refused: If a directory holds no finished generation, or a group has a seed twice.
    """
    groups: list[list[Lineage]] = []
    for lineage in map(_read, dict.fromkeys(map(Path, directories))):
        alike = (each for each in groups if not differences(each[0].config, lineage.config))
        group = next(alike, None)
        if group is None:
            groups.append(group := [])
        for twin in group:
            if twin.seed == lineage.seed is not None:
                problem = f"same configuration and seed {lineage.seed} as {twin.directory}"
                raise Refused(str(lineage.directory), problem, "give one of the two")
        group.append(lineage)
    names = [_SEED.sub("", group[0].directory.resolve().name) for group in groups]
    if len(set(names)) < len(names):
        names = [str(group[0].directory) for group in groups]  # alike in name only
    elif len(names) > 1:
        shared = os.path.commonprefix(names).rpartition("_")[0]  # noqa: RUF071
        names = [name.removeprefix(f"{shared}_") for name in names]
    return list(map(Group, names, groups))


def _read(directory: Path) -> Lineage:
    ledger, path = Ledger(directory), directory / "config.yaml"
    if not ledger.path.exists():
        raise Refused(str(directory), "no lineage.jsonl", "give lineages' directories, e.g. runs/*")
    try:
        records = ledger.records()
    except (ValueError, TypeError) as error:
        raise Refused(str(ledger.path), f"not a ledger: {error}", "leave it out") from None
    if not records:
        raise Refused(str(ledger.path), "no generation is finished", "wait, or leave it out")
    name = directory.resolve().name
    config: dict[str, Any] = {"name": _SEED.sub("", name)}
    if path.exists():
        config = yaml.safe_load(path.read_text())
    if (named := _SEED.search(name)) and "seed_everything" not in config:
        config["seed_everything"] = int(named[1])
    return Lineage(directory, records, config, seed=config.pop("seed_everything", None))


def _lineages(groups: Sequence[Group]) -> list[Lineage]:
    return list(chain.from_iterable(group.lineages for group in groups))


def _metrics(groups: Sequence[Group]) -> list[str]:
    records = chain.from_iterable(lineage.records for lineage in _lineages(groups))
    return list(dict.fromkeys(name for record in records for name in record.metrics))


def _check(groups: Sequence[Group], metrics: Sequence[str]) -> dict[str, Any]:
    """Refuses what cannot stand on one axis; returns the protocol.

    A key that only some lineages have belongs to a metric that the others did not measure.
    """
    known = _metrics(groups)
    for name in metrics:
        if name not in known:
            raise Refused("metrics", f"no ledger has {name}", f"choose from {', '.join(known)}")
    first: dict[str, tuple[Any, Path]] = {}
    unlike: dict[str, str] = {}
    for lineage in _lineages(groups):
        source = (lineage.config.get("data") or {}).get("source")
        facts = chain.from_iterable(record.protocol.items() for record in lineage.records)
        for key, value in [*facts, *([("data.source", source)] if source else [])]:
            other, where = first.setdefault(key, (value, lineage.directory))
            if other != value:
                unlike[key] = f"{key} is {other} in {where} and {value} in {lineage.directory}"
    if unlike:
        problem = "values that were not measured alike: " + "; ".join(unlike.values())
        raise Refused("protocol", problem, "measure the lineages alike, or report them apart")
    return {key: value for key, (value, _) in first.items() if key != "data.source"}


def _floor(groups: Sequence[Group], metric: str) -> Value:
    """Real samples against other real samples; the spread counts only where floors differ."""
    floors = [lineage.records[0].floor for lineage in _lineages(groups)]
    value = Value.of([floor[metric] for floor in floors if metric in floor])
    return value._replace(n=1) if value.spread <= 1e-3 * abs(value.mean) else value


# the table


def _number(value: float, like: float) -> str:
    """With as many decimals as give ``like`` three digits, at most three."""
    if 0 < abs(like) < 1e-2:
        return f"{value:.1e}"
    return f"{value:.{min(max(2 - math.floor(math.log10(abs(like / 2) or 1)), 0), 3)}f}"


def _rows(groups: Sequence[Group], metrics: Sequence[str]) -> list[list[str]]:
    """The cells of the table: head, groups, floor."""
    rows = [["lineage", "seeds", "generation", *metrics]]
    for group in groups:
        last = group.generations
        row = [group.name, str(len(group.lineages)), "1" if last == 1 else f"1 → {last}"]
        for metric in metrics:
            start, end = group.value(metric, 1), group.value(metric, last)
            cell = str(start) if last == 1 else f"{start} → {end}"
            if metric not in _MEANING and last > 1 and start.mean > 0 and end.mean > 0:
                cell += f" (×{end.mean / start.mean:.1f})"
            row.append(cell)
        rows.append(row)
    return [*rows, ["real vs real", "", "", *(str(_floor(groups, each)) for each in metrics)]]


def _caption(groups: Sequence[Group], protocol: dict[str, Any]) -> list[str]:
    """How the numbers were made, and what was left out of them."""
    facts = ", ".join(f"{key} = {value}" for key, value in protocol.items())
    lines = ["Mean ± sample standard deviation over seeds; × is last/first of a distance.", facts]
    for group in groups:
        if any(len(each.records) > group.generations for each in group.lineages):
            lines.append(
                f"{group.name}: up to generation {group.generations}, which all its seeds have."
            )
    return [line for line in lines if line]


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *others])


def table(groups: Sequence[Group], metrics: Sequence[str]) -> str:
    """First and last generation of each group, and the floor, in Markdown."""
    protocol = _check(groups, metrics)
    rows = _markdown(_rows(groups, metrics))
    return "\n".join([rows, "", "  \n".join(_caption(groups, protocol)), ""])


# the verdict


def judgements(groups: Sequence[Group]) -> list[Judgement]:
    """What the seeds of each group allow to conclude."""
    from mad_lightning.verdict import judge  # NumPy and SciPy: not for --help

    n = _check(groups, []).get("n")
    made = []
    for group in groups:
        first = group.lineages[0].records[0]
        made.append(
            judge(
                {
                    metric: [
                        [record.metrics.get(metric, math.nan) for record in records]
                        for records in (
                            each.records[: group.generations] for each in group.lineages
                        )
                    ]
                    for metric in _metrics([group])
                },
                {
                    metric: [each.records[0].floor.get(metric, math.nan) for each in group.lineages]
                    for metric in first.floor
                },
                memory=group.memory,
                n=n,
            )
        )
    return made


def _safe_shares(
    groups: Sequence[Group], judged: Sequence[Judgement]
) -> list[tuple[list[str], SafeShare]]:
    """The share of fresh data that is safe, for groups that differ in nothing but their mixes."""
    from mad_lightning.verdict import safe_share

    families: list[list[int]] = []
    for index, group in enumerate(groups):
        if group.fresh_share is None:
            continue
        config = group.lineages[0].config
        for family in families:
            first = groups[family[0]].lineages[0].config
            if all(line.startswith("policy.") for line in differences(first, config)):
                family.append(index)
                break
        else:
            families.append([index])
    found = []
    for family in families:
        pairs = [(groups[k].fresh_share or 0.0, judged[k].verdict.answer) for k in family]
        if len({share for share, _ in pairs}) > 1:
            found.append(([groups[k].name for k in family], safe_share(pairs)))
    return found


def _percent(interval: Interval) -> str:
    """A log-growth a generation with its bounds, as percents."""
    if math.isnan(interval.estimate):
        return "–"
    bounds = [f"{math.expm1(each):+.1%}" for each in (interval.estimate, interval.low)]
    high = f"{math.expm1(interval.high):+.1%}" if interval.high < 700 else "∞"
    return f"{bounds[0]} [{bounds[1]}, {high}]" if math.isfinite(interval.low) else bounds[0]


def _left(departure: Departure | None) -> str:
    return "" if departure is None else str(departure.generation or "–")


def _verdict_rows(groups: Sequence[Group], judged: Sequence[Judgement]) -> list[list[str]]:
    left = list(dict.fromkeys(chain.from_iterable(each.left for each in judged)))
    head = ["lineage", "seeds", "memory", "verdict", "distance", "growth a generation", "from"]
    rows = [[*head, *(f"{metric} left at" for metric in left), "because"]]
    for group, each in zip(groups, judged, strict=True):
        said = each.verdict
        memory = "?" if said.memory is None else f"{said.memory:.3g}"
        row = [group.name, str(said.seeds), memory, said.answer, each.distance or "–"]
        row += [_percent(said.slope), "–".join(map(str, said.window))]
        rows.append([*row, *(_left(each.left.get(metric)) for metric in left), said.reason])
    return rows


def _criteria_rows(groups: Sequence[Group], judged: Sequence[Judgement]) -> list[list[str]]:
    rows = [["collapse, as", "number (yes if)", *(group.name for group in groups)]]
    for several in zip(*(each.criteria for each in judged), strict=True):
        row = [f"{several[0].name} ({several[0].source})", several[0].number]
        for each in several:
            value = "" if each.value is None else f" ({each.value.estimate:.3g})"
            row.append(each.answer + value)
        rows.append(row)
    return rows


def _verdict_caption(groups: Sequence[Group], judged: Sequence[Judgement]) -> list[str]:
    said = judged[0].verdict
    lines = [
        f"Safe share of fresh data, from {', '.join(names)}: {share}."
        for names, share in _safe_shares(groups, judged)
    ]
    lines.append(
        f"Each claim is wrong with probability {said.alpha:g} at most; bounds are one-sided, and "
        "seeds are the only independent units. Growth a generation is that of the log-distance. "
        f"Not MAD: growth over the generations named is below {said.margin:.0%}. Memory: the share "
        "of synthetic samples, by which transients fade. Left at: first generation from which on "
        "the seeds' mean lies more than 0.02 below the floor."
    )
    return lines


def verdicts(groups: Sequence[Group]) -> str:
    """The verdict on each group, and the field's definitions of collapse, in Markdown."""
    judged = judgements(groups)
    tables = [_verdict_rows(groups, judged), _criteria_rows(groups, judged)]
    text = "  \n".join(_verdict_caption(groups, judged))
    return "\n\n".join([*map(_markdown, tables), text]) + "\n"


def summary(groups: Sequence[Group]) -> dict[str, Any]:
    """All numbers of a report, as plain values for JSON."""
    judged = judgements(groups)
    return {
        "protocol": _check(groups, []),
        "groups": [
            {
                "name": group.name,
                "lineages": [str(each.directory) for each in group.lineages],
                "seeds": [each.seed for each in group.lineages],
                "generations": group.generations,
                "fresh_share": group.fresh_share,
                "metrics": {
                    metric: {
                        "mean": [value.mean for value in values],
                        "spread": [value.spread for value in values],
                        "floor": _floor([group], metric).mean,
                    }
                    for metric in _metrics([group])
                    for values in [
                        [group.value(metric, t) for t in range(1, group.generations + 1)]
                    ]
                },
                **asdict(each),
            }
            for group, each in zip(groups, judged, strict=True)
        ],
        "safe_shares": [
            {"groups": names, **asdict(share)} for names, share in _safe_shares(groups, judged)
        ],
    }


# the figures

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind people tell apart."""

_GREY, _INK = "#555", "#111"
_FONT = 'font-family="Helvetica, Arial, sans-serif" stroke-linejoin="round"'
_SOLID, _DASHED = 'stroke-width="2"', 'stroke-width="1.5" stroke-dasharray="5 4"'

_Points = Sequence[tuple[float, float]]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, style: str = "") -> str:
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="{colour}" {style}/>'


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = _INK) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{escape(text)}</text>"


def _dot(x: float, y: float, index: int, radius: float = 3) -> str:
    """A group's mark; hollow from the eighth group on, where the colours come again."""
    colour = _COLOURS[index % 7]
    paint = f'fill="{colour}" stroke="#fff"' if index < 7 else f'fill="#fff" stroke="{colour}"'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" {paint}/>'


def _ticks(low: float, high: float) -> list[float]:
    """Few round numbers that cover [low, high]; two at least."""
    raw = (high - low) / 5 or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{place * step:.6g}") for place in range(first, max(last, first + 1) + 1)]


@dataclass(frozen=True)
class _Axes:
    """A rectangle of the drawing, the ticks on its edges, and room (in x) beside those of x."""

    left: float
    top: float
    width: float
    height: float
    x: Sequence[float]
    y: Sequence[float]
    margin: float = 0.0

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies; one above or below lies on the edge."""
        across = (x - self.x[0] + self.margin) / (self.x[-1] - self.x[0] + 2 * self.margin)
        up = (min(max(y, self.y[0]), self.y[-1]) - self.y[0]) / (self.y[-1] - self.y[0])
        return self.left + across * self.width, self.top + (1 - up) * self.height

    def frame(self, title: str, aside: str, x_label: str) -> Iterator[str]:
        """Grid, axis, ticks and names."""
        right, bottom = self.left + self.width, self.top + self.height
        yield _text(self.left, self.top - 12, title)
        yield _text(right, self.top - 12, aside, "end", _GREY)
        yield _text((self.left + right) / 2, bottom + 34, x_label, "middle", _GREY)
        for tick in self.y:
            y = self.at(self.x[0], tick)[1]
            yield _line(self.left, y, right, y, "#e4e4e4")
            yield _text(self.left - 7, y + 4, f"{tick:g}", "end", _GREY)
        for tick in self.x:
            x = self.at(tick, 0)[0]
            yield _line(x, bottom, x, bottom + 4, _INK)
            yield _text(x, bottom + 17, f"{tick:g}", "middle", _GREY)
        yield _line(self.left, bottom, right, bottom, _INK)

    def floor(self, x: float, y: float) -> Iterator[str]:
        """What real samples score; NaN draws nothing."""
        across, up = self.at(x, y)
        if math.isfinite(y):
            yield _line(self.left, up, self.left + self.width, up, _GREY, _DASHED)
        if math.isfinite(x):
            yield _line(across, self.top, across, self.top + self.height, _GREY, _DASHED)

    def area(self, xy: _Points, paint: str, tag: str = "polygon") -> str:
        """What points enclose, or the line through them."""
        points = " ".join("{:.1f},{:.1f}".format(*self.at(*each)) for each in xy)
        return f'<{tag} points="{points}" {paint}/>'

    def path(self, xy: _Points, index: int, grow: float = 0) -> Iterator[str]:
        """A group's line and its dots, which may grow; no dots where they would touch."""
        yield self.area(xy, f'fill="none" stroke="{_COLOURS[index % 7]}" {_SOLID}', "polyline")
        for k, each in enumerate(xy if grow or len(xy) <= 24 else ()):
            yield _dot(*self.at(*each), index, 3 + grow * k / len(xy))


def _panel(groups: Sequence[Group], metric: str, left: float, top: float) -> Iterator[str]:
    """One metric against the generation: bands below, then the floor, then lines."""
    floor, curves = _floor(groups, metric).mean, [group.curve(metric) for group in groups]
    upper = [[(t, each.mean + each.spread) for t, each in curve] for curve in curves]
    means = [[(t, each.mean) for t, each in curve] for curve in curves]
    lower = [[(t, each.mean - each.spread) for t, each in reversed(curve)] for curve in curves]
    ends = [0.0, *(b for _, b in chain([(0, floor)], *upper, *means) if math.isfinite(b))]
    last = max(group.generations for group in groups)
    x = range(1, last + 1) if last <= 8 else [1, *(t for t in _ticks(0, last) if 1 < t <= last)]
    y = _ticks(0, 1) if metric in _IN_UNIT_INTERVAL else _ticks(min(ends), max(ends))
    axes = _Axes(left + 46, top + 26, 194, 180, x, y, margin=0.05 * (last - 1) or 0.5)
    yield from axes.frame(metric, _MEANING.get(metric, "distance"), "generation")
    for index, band in enumerate(map(list.__add__, upper, lower)):
        yield axes.area(band, f'fill="{_COLOURS[index % 7]}" fill-opacity="0.18"')
    yield from axes.floor(math.nan, floor)
    for index, line in enumerate(means):
        yield from axes.path(line, index)


def _svg(
    groups: Sequence[Group],
    protocol: dict[str, Any],
    drawn: Iterable[str],
    width: int,
    height: int,
) -> str:
    """A drawing of its own, on white: legend, what was drawn, how it was measured."""
    seeds = sorted({len(group.lineages) for group in groups})
    over = "to".join(f" {n} " for n in dict.fromkeys((seeds[0], seeds[-1])))
    note = ["one seed" if seeds == [1] else f"mean over{over}seeds (band: ± s.d.)"]
    note += [f"{key} = {protocol[key]}" for key in ("n", "k", "extractor") if key in protocol]
    width = max(width, 28 + 6 * len(", ".join(note)), *(80 + 7 * len(each.name) for each in groups))
    real = ["real vs real"] * any(each.records[0].floor for each in _lineages(groups))
    x, y, legend = 14.0, 22.0, []
    for index, name in enumerate([*(group.name for group in groups), *real]):
        room = 46 + 6.3 * len(name)
        if x > 14 and x + room > width:
            x, y = 14.0, y + 20
        if index < len(groups):
            legend.append(_line(x, y - 4, x + 24, y - 4, _COLOURS[index % 7], _SOLID))
            legend.append(_dot(x + 12, y - 4, index))
        else:
            legend.append(_line(x, y - 4, x + 24, y - 4, _GREY, _DASHED))
        legend.append(_text(x + 30, y, name))
        x += room
    size = f'viewBox="0 0 {width} {y + height + 40:.0f}" width="{width}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-size="12" {_FONT}>',
        '<rect width="100%" height="100%" fill="#fff"/>',
        *legend,
        _text(14, y + height + 28, ", ".join(note), colour=_GREY),
        f'<g transform="translate(0 {y + 18:.0f})">',
        *drawn,
        "</g>\n</svg>\n",
    ]
    return "\n".join(lines)


def figure(groups: Sequence[Group], metrics: Sequence[str]) -> str:
    """Metrics against the generation, one panel each, as SVG."""
    protocol = _check(groups, metrics)
    rows = math.ceil(len(metrics) / 3)
    columns = math.ceil(len(metrics) / rows)
    corners = ((254 * (k % columns), 256 * (k // columns)) for k in range(len(metrics)))
    drawn = (_panel(groups, metric, *next(corners)) for metric in metrics)
    return _svg(groups, protocol, chain.from_iterable(drawn), 254 * columns + 14, 256 * rows)


def plane(groups: Sequence[Group]) -> str:
    """The walk of each group between fidelity and diversity, as SVG."""
    protocol = _check(groups, ("precision", "recall"))
    walks = []
    for group in groups:
        precision, recall = dict(group.curve("precision")), dict(group.curve("recall"))
        walks.append([(recall[t].mean, precision[t].mean) for t in recall if t in precision])
    floor = _floor(groups, "recall").mean, _floor(groups, "precision").mean
    known = [(0.9, 0.9), *(each for each in chain([floor], *walks) if math.isfinite(sum(each)))]
    x, y = (_ticks(min(each[k] for each in known), 1) for k in (0, 1))
    axes = _Axes(46, 26, 380, 320, x, y)
    drawn = [
        *axes.frame("precision (fidelity)", "dots grow by generation", "recall (diversity)"),
        *axes.floor(*floor),
        *chain(*(axes.path(walk, index, grow=3) for index, walk in enumerate(walks))),
    ]
    return _svg(groups, protocol, drawn, 450, 396)


# the page

_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 Helvetica, Arial, sans-serif; max-width: 78em; margin: auto; padding: 2em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap }
tr:first-child { font-weight: bold }
td { padding: .3em .8em; border-bottom: 1px solid #8886; text-align: left }
h3 { font-size: 1em; margin-bottom: .3em }
figure { margin: 0 8px 0 0 }
figcaption { font-size: 12px; text-align: center }
img { width: 168px; image-rendering: pixelated }
svg { max-width: 100%; height: auto }
div { overflow-x: auto }
.strip { display: flex }
"""
_ROOM = 1_400_000
"""Bytes for all pictures of a page; in text they take a third more."""


def _pictures(lineage: Lineage) -> list[Path]:
    places = (lineage.directory / f"generation_{t:03d}" for t in _thin(len(lineage.records), 12))
    return [path for path in (place / "samples.png" for place in places) if path.exists()]


def _picture(path: Path, room: float) -> str:
    """A picture inside the page; one that is too large becomes a small JPEG."""
    data, kind = path.read_bytes(), "png"
    if len(data) > room:
        from PIL import Image

        image, file, kind = Image.open(path).convert("RGB"), io.BytesIO(), "jpeg"
        image.thumbnail((344, 344))
        image.save(file, "JPEG", quality=75)
        data = file.getvalue()
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _html(rows: Iterable[Sequence[str]]) -> str:
    cells = ("".join(f"<td>{escape(cell)}" for cell in row) for row in rows)
    return "<div><table><tr>{}</table></div>".format("\n<tr>".join(cells))


def page(groups: Sequence[Group]) -> str:
    """All of it and film strips and differences, as one HTML file that opens from disk."""
    metrics, lineages = _metrics(groups), _lineages(groups)
    protocol = _check(groups, metrics)
    title = escape("Lineages: " + ", ".join(group.name for group in groups))
    judged = judgements(groups)
    parts = [
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>',
        f"<style>{_STYLE}</style>\n<h1>{title}</h1>",
        _html(_rows(groups, metrics)),
        *(f"<p>{escape(line)}</p>" for line in _caption(groups, protocol)),
        f"<h2>Verdict</h2>\n{_html(_verdict_rows(groups, judged))}",
        *(f"<p>{escape(line)}</p>" for line in _verdict_caption(groups, judged)),
        _html(_criteria_rows(groups, judged)),
        f"<h2>Metrics</h2>\n{figure(groups, metrics)}",
    ]
    if {"precision", "recall"} <= set(metrics):
        parts.append(f"<h2>Fidelity and diversity</h2>\n{plane(groups)}")
    strips = [(each.directory, paths) for each in lineages if (paths := _pictures(each))]
    room = _ROOM / max(1, sum(len(paths) for _, paths in strips))
    parts += ["<h2>Samples</h2>"] if strips else []
    for directory, paths in strips:
        parts.append(f"<h3>{escape(str(directory))}</h3>\n<div class='strip'>")
        for path in paths:
            caption = f"<figcaption>{path.parent.name.replace('_', ' ')}</figcaption>"
            parts.append(f"<figure>{_picture(path, room)}{caption}</figure>")
        parts.append("</div>")
    base = groups[0]
    for group in groups[1:]:
        lines = differences(base.lineages[0].config, group.lineages[0].config)
        parts.append(f"<h2>Configuration: {escape(base.name)} → {escape(group.name)}</h2>")
        parts.append("<div><pre>{}</pre></div>".format(escape("\n".join(lines))))
    return "\n".join([*parts, "</html>\n"])


# the door


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; exits with code 2 if the input was refused."""
    parser = argparse.ArgumentParser(
        prog="python -m mad_lightning.report",
        description="Compares lineages by their ledgers; prints a table and a verdict in Markdown.",
    )
    add = parser.add_argument
    add("lineages", nargs="+", metavar="DIRECTORY", help="lineages, e.g. runs/*_seed*")
    add("--metrics", nargs="+", metavar="NAME", help="what to show (default: all)")
    add("--figure", type=Path, metavar="SVG", help="curves (default: precision and recall)")
    add("--html", type=Path, metavar="HTML", help="all metrics and samples on one page")
    add("--json", type=Path, metavar="JSON", help="all numbers and verdicts, for programs")
    given = parser.parse_args(args)
    try:
        if given.figure and given.figure.suffix != ".svg":
            raise Refused("--figure", f"{given.figure} is no SVG", "name it *.svg")
        groups = load(given.lineages)
        known = _metrics(groups)
        curves = [name for name in ("precision", "recall") if name in known] or known
        print(table(groups, given.metrics or known), verdicts(groups), sep="\n", end="")
        if given.figure:
            write_atomically(given.figure, figure(groups, given.metrics or curves).encode())
        if given.html:
            write_atomically(given.html, page(groups).encode())
        if given.json:
            write_json(given.json, summary(groups))
    except Refused as refused:
        print(f"error: {refused}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
