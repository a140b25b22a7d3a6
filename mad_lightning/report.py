"""The report: what several lineages say together.

    python -m mad_lightning.report runs/a runs/b --figure curves.svg --html report.html

One lineage is one throw of the dice. Lineages whose configurations differ in nothing but the seed
are a *group*; it says a mean ± the sample standard deviation over its seeds, and stands beside the
*floor*: what real samples score against other real samples. Two values share an axis only if they
were measured alike; lineages of different protocols (n, k, extractor, weights, data) are refused.

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
from dataclasses import dataclass
from html import escape
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mad_lightning.lineage import GenerationRecord, Ledger, differences, write_atomically
from mad_lightning.refusal import Refused

__all__ = ["Group", "Lineage", "Value", "figure", "load", "main", "page", "plane", "table"]

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


def table(groups: Sequence[Group], metrics: Sequence[str]) -> str:
    """First and last generation of each group, and the floor, in Markdown."""
    protocol = _check(groups, metrics)
    head, *rows = _rows(groups, metrics)
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join([*lines, "", "  \n".join(_caption(groups, protocol)), ""])


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


def page(groups: Sequence[Group]) -> str:
    """Table, figures, film strips and differences, as one HTML file that opens from disk."""
    metrics, lineages = _metrics(groups), _lineages(groups)
    protocol = _check(groups, metrics)
    title = escape("Lineages: " + ", ".join(group.name for group in groups))
    rows = ("".join(f"<td>{escape(cell)}" for cell in row) for row in _rows(groups, metrics))
    parts = [
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>',
        f"<style>{_STYLE}</style>\n<h1>{title}</h1>",
        "<div><table><tr>{}</table></div>".format("\n<tr>".join(rows)),
        *(f"<p>{escape(line)}</p>" for line in _caption(groups, protocol)),
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
        description="Compares lineages by their ledgers and prints a Markdown table.",
    )
    add = parser.add_argument
    add("lineages", nargs="+", metavar="DIRECTORY", help="lineages, e.g. runs/*_seed*")
    add("--metrics", nargs="+", metavar="NAME", help="what to show (default: all)")
    add("--figure", type=Path, metavar="SVG", help="curves (default: precision and recall)")
    add("--html", type=Path, metavar="HTML", help="all metrics and samples on one page")
    given = parser.parse_args(args)
    try:
        if given.figure and given.figure.suffix != ".svg":
            raise Refused("--figure", f"{given.figure} is no SVG", "name it *.svg")
        groups = load(given.lineages)
        known = _metrics(groups)
        curves = [name for name in ("precision", "recall") if name in known] or known
        print(table(groups, given.metrics or known), end="")
        if given.figure:
            write_atomically(given.figure, figure(groups, given.metrics or curves).encode())
        if given.html:
            write_atomically(given.html, page(groups).encode())
    except Refused as refused:
        print(f"error: {refused}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
