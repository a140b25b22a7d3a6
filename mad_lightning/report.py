"""The report: what several lineages say together.

    python -m mad_lightning.report runs/a runs/b --figure curves.svg --html report.html

One lineage is one draw of the dice. Lineages whose configurations differ in nothing but the seed
are a *group*, and what a group says is a mean ± the sample standard deviation over its seeds, beside
the *floor*: what real samples score against other real samples. Two values may share an axis only
if they were measured alike, so lineages of different protocols (n, k, extractor, weights, data) are
refused, with what differs.

Everything is read from the ledgers, also of lineages that still run, and drawn as plain text:
Markdown, SVG and HTML that need no network, no script and no plotting library.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mad_lightning.lineage import GenerationRecord, Ledger, differences
from mad_lightning.refusal import Refused

__all__ = ["Group", "Lineage", "Value", "figure", "load", "main", "page", "plane", "table"]

_MEANING = {
    "precision": "fidelity",
    "density": "fidelity",
    "recall": "diversity",
    "coverage": "diversity",
}
"""What a metric looks at; any other metric is a distance."""

_IN_UNIT_INTERVAL = ("precision", "recall", "coverage")

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind people tell apart."""

_GREY = "#555"
_SOLID, _DASHED = 'stroke-width="2"', 'stroke-width="1.5" stroke-dasharray="5 4"'
_PICTURES = 1_400_000
"""Bytes for all pictures of a page; base64 adds a third."""


# what is read


class Value(NamedTuple):
    """A metric over the seeds of a group.

    Attributes:
        mean: Mean; NaN if any lineage lacks the value.
        spread: Sample standard deviation; 0 for a single seed.
        n: Number of seeds.
    """

    mean: float
    spread: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Value:
        """Mean and spread of one value a seed."""
        if not values or not all(map(math.isfinite, values)):
            return cls(math.nan, math.nan, len(values))
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return cls(statistics.fmean(values), spread, len(values))

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        spread = f" ± {_number(self.spread, like=self.mean)}" if self.n > 1 else ""
        return _number(self.mean) + spread


@dataclass(frozen=True)
class Lineage:
    """One lineage as its directory tells it; ``config`` is empty where ``config.yaml`` is missing."""

    directory: Path
    records: list[GenerationRecord]
    config: dict[str, Any]
    seed: int | None


@dataclass(frozen=True)
class Group:
    """Lineages that differ only in the seed.

    Attributes:
        name: The directory's name without the seed and without what all groups' names begin with.
        lineages: Its lineages, at least one.
    """

    name: str
    lineages: tuple[Lineage, ...]

    @property
    def generations(self) -> int:
        """How many generations *every* lineage of the group has: no mean changes its members."""
        return min(len(lineage.records) for lineage in self.lineages)

    def value(self, metric: str, t: int) -> Value:
        """A metric at generation ``t`` >= 1."""
        return Value.of(
            [each.records[t - 1].metrics.get(metric, math.nan) for each in self.lineages]
        )

    def curve(self, metric: str) -> list[tuple[int, Value]]:
        """A metric at every generation that has it."""
        values = ((t, self.value(metric, t)) for t in range(1, self.generations + 1))
        return [(t, value) for t, value in values if math.isfinite(value.mean)]


def load(directories: Iterable[str | Path]) -> list[Group]:
    """Reads lineages and groups those that differ only in the seed, in the order given.

    Raises:
        Refused: If a directory holds no lineage or no finished generation, or a seed comes twice.
    """
    groups: list[list[Lineage]] = []
    for lineage in map(_read, dict.fromkeys(map(Path, directories))):
        group = next((group for group in groups if _alike(group[0], lineage)), None)
        if group is None:
            groups.append([lineage])
            continue
        for other in group:
            if lineage.seed is not None and lineage.seed == other.seed:
                raise Refused(
                    str(lineage.directory),
                    f"same configuration and seed {lineage.seed} as {other.directory}",
                    "leave one of them out; the spread is over different seeds",
                )
        group.append(lineage)
    names = _short([_stem(group[0].directory) for group in groups])
    if len(set(names)) < len(names):
        names = [str(group[0].directory) for group in groups]
    return [Group(name, tuple(group)) for name, group in zip(names, groups, strict=True)]


def _read(directory: Path) -> Lineage:
    ledger = Ledger(directory)
    if not ledger.path.exists():
        raise Refused(
            str(directory),
            "no lineage.jsonl in it",
            "give directories of lineages, e.g. runs/*_seed*",
        )
    try:
        records = ledger.records()
    except (ValueError, TypeError) as error:
        raise Refused(
            str(ledger.path), f"not a ledger: {error}", "give a directory of a lineage"
        ) from None
    if not records:
        raise Refused(
            str(ledger.path), "no finished generation", "wait for the first, or leave it out"
        )
    path = directory / "config.yaml"
    config = (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}
    named = re.search(r"_seed(\d+)", directory.resolve().name)
    seed = config.pop("seed_everything", int(named[1]) if named else None)
    return Lineage(directory, records, config, seed)


def _alike(a: Lineage, b: Lineage) -> bool:
    if a.config and b.config:
        return not differences(a.config, b.config)
    return not a.config and not b.config and _stem(a.directory) == _stem(b.directory)


def _stem(directory: Path) -> str:
    return re.sub(r"_seed\d+", "", directory.resolve().name)


def _short(names: list[str]) -> list[str]:
    """Drops the words that all names begin with; each keeps one word at least."""
    words = [name.split("_") for name in names]
    common = 0
    while len(names) > 1 and all(
        len(each) > common + 1 and each[common] == words[0][common] for each in words
    ):
        common += 1
    return ["_".join(each[common:]) for each in words]


def _metrics(groups: Sequence[Group]) -> list[str]:
    records = (record for group in groups for each in group.lineages for record in each.records)
    return list(dict.fromkeys(name for record in records for name in record.metrics))


def _check(groups: Sequence[Group], metrics: Sequence[str]) -> dict[str, Any]:
    """Refuses what cannot stand on one axis; returns the protocol.

    A key that only some lineages have belongs to a metric that the others did not measure.
    """
    known = _metrics(groups)
    for name in metrics:
        if name not in known:
            raise Refused("metrics", f"no ledger has {name!r}", f"choose from {', '.join(known)}")
    first: dict[str, tuple[Any, Path]] = {}
    differing: dict[str, str] = {}
    for lineage in (each for group in groups for each in group.lineages):
        source = (lineage.config.get("data") or {}).get("source")
        for record in lineage.records:
            for key, value in {**record.protocol, **({"data": source} if source else {})}.items():
                other, where = first.setdefault(key, (value, lineage.directory))
                if other != value:
                    text = f"{key} is {other} in {where}, {value} in {lineage.directory}"
                    differing.setdefault(key, text)
    if differing:
        raise Refused(
            "protocol",
            "values that were not measured alike: " + "; ".join(differing.values()),
            "report these lineages apart, or measure them alike",
        )
    return {key: value for key, (value, _) in first.items() if key != "data"}


def _floor(groups: Sequence[Group], metric: str) -> Value:
    """Real samples against other real samples; its spread is over the lineages, usually none."""
    found = [lineage.records[0].floor.get(metric) for group in groups for lineage in group.lineages]
    value = Value.of([each for each in found if each is not None])
    return value._replace(n=1) if value.spread <= 1e-3 * abs(value.mean) else value


# the table


def _rows(groups: Sequence[Group], metrics: Sequence[str]) -> list[list[str]]:
    """The cells of the table: head, groups, floor."""
    rows = [["lineage", "seeds", "generation", *metrics]]
    for group in groups:
        last = group.generations
        cells = [
            _cell(group.value(name, 1), group.value(name, last), name, last) for name in metrics
        ]
        span = f"1 → {last}" if last > 1 else "1"
        rows.append([group.name, str(len(group.lineages)), span, *cells])
    return [*rows, ["real vs real", "", "", *(str(_floor(groups, name)) for name in metrics)]]


def _cell(first: Value, last: Value, metric: str, generations: int) -> str:
    if generations == 1:
        return str(first)
    grows = metric not in _MEANING and first.mean > 0 and last.mean > 0
    ratio = f" (×{_number(last.mean / first.mean, digits=2)})" if grows else ""
    return f"{first} → {last}{ratio}"


def _caption(groups: Sequence[Group], protocol: dict[str, Any]) -> list[str]:
    """How the numbers were made, and what was left out of them."""
    lines = [
        "First → last generation, mean ± sample standard deviation over seeds"
        " (× last/first for distances).",
        ", ".join(f"{key} = {value}" for key, value in protocol.items()),
    ]
    for group in groups:
        longest = max(len(lineage.records) for lineage in group.lineages)
        if longest > group.generations:
            lines.append(
                f"{group.name}: up to generation {group.generations}, which all its seeds have; "
                f"some have {longest}."
            )
    return [line for line in lines if line]


def table(groups: Sequence[Group], metrics: Sequence[str]) -> str:
    """First and last generation of each group and the floor, as Markdown with its caption."""
    protocol = _check(groups, metrics)
    head, *rows = _rows(groups, metrics)
    lines = [head, ["---"] * len(head), *rows]
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return text + "\n\n" + "  \n".join(_caption(groups, protocol)) + "\n"


def _number(value: float, like: float | None = None, digits: int = 3) -> str:
    """A few digits, as many decimals as ``like`` would show."""
    size = abs(value if like is None else like)
    if 0 < size < 1e-3:
        return f"{value:.1e}"
    decimals = digits - 1 - math.floor(math.log10(size)) if size else digits
    return f"{value:.{min(max(decimals, 0), 4)}f}"


# the figures


@dataclass(frozen=True)
class _Axes:
    """A rectangle of the drawing, and the ticks on two of its edges."""

    left: float
    top: float
    width: float
    height: float
    x: Sequence[float]
    y: Sequence[float]
    margin: float = 0
    """Room, in the units of x, on both sides of its ticks."""

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies; what lies above or below is drawn on the edge."""
        across = (x - self.x[0] + self.margin) / (self.x[-1] - self.x[0] + 2 * self.margin)
        up = (min(max(y, self.y[0]), self.y[-1]) - self.y[0]) / (self.y[-1] - self.y[0])
        return self.left + across * self.width, self.top + (1 - up) * self.height

    def points(self, xy: Iterable[tuple[float, float]]) -> str:
        """The same for many points, as SVG writes them."""
        return " ".join("{:.1f},{:.1f}".format(*self.at(*each)) for each in xy)

    def frame(self, title: str, x_label: str, aside: str = "") -> list[str]:
        """Grid, axis, tick labels and names."""
        right, bottom = self.left + self.width, self.top + self.height
        drawn = [
            _text(self.left, self.top - 12, title),
            _text(right, self.top - 12, aside, "end", _GREY),
            _text((self.left + right) / 2, bottom + 34, x_label, "middle", _GREY),
        ]
        for tick in self.y:
            y = self.at(self.x[0], tick)[1]
            drawn.append(_line(self.left, y, right, y, "#e4e4e4"))
            drawn.append(_text(self.left - 7, y + 4, f"{tick:g}", "end", _GREY))
        for tick in self.x:
            x = self.at(tick, 0)[0]
            drawn.append(_line(x, bottom, x, bottom + 4, "#333"))
            drawn.append(_text(x, bottom + 17, f"{tick:g}", "middle", _GREY))
        return [*drawn, _line(self.left, bottom, right, bottom, "#333")]

    def path(self, xy: Sequence[tuple[float, float]], index: int, grow: float = 0) -> list[str]:
        """A group's line and its dots, which may grow on the way."""
        colour = _COLOURS[index % len(_COLOURS)]
        line = f'<polyline points="{self.points(xy)}" fill="none" stroke="{colour}" {_SOLID}/>'
        return [line, *(_dot(*self.at(*each), index, 3 + grow * k) for k, each in enumerate(xy))]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, style: str = "") -> str:
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="{colour}" {style}/>'


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "#111") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{escape(text)}</text>"


def _dot(x: float, y: float, index: int, radius: float = 3) -> str:
    """A group's mark; hollow from the eighth group on, where the colours come again."""
    colour = _COLOURS[index % len(_COLOURS)]
    fill, edge = (colour, "#fff") if index < len(_COLOURS) else ("#fff", colour)
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}" stroke="{edge}"/>'


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Few round numbers that cover [low, high]."""
    raw = (high - low) / most or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{place * step:.6g}") for place in range(first, last + 1)]


def _panel(groups: Sequence[Group], metric: str, left: float, top: float) -> list[str]:
    """One metric against the generation: bands below, then the floor, then lines."""
    curves = [group.curve(metric) for group in groups]
    floor = _floor(groups, metric).mean
    ends = [
        each.mean + side * each.spread for curve in curves for _, each in curve for side in (0, 1)
    ]
    ends += [floor] if math.isfinite(floor) else []
    y = _ticks(0, 1) if metric in _IN_UNIT_INTERVAL else _ticks(min([0, *ends]), max([0, *ends]))
    last = max(group.generations for group in groups)
    x = range(1, last + 1) if last <= 8 else [1, *(each for each in _ticks(0, last) if each > 1)]
    axes = _Axes(left + 46, top + 26, 190, 170, x, y, margin=0.05 * (last - 1) or 0.5)
    drawn = axes.frame(metric, "generation", _MEANING.get(metric, ""))
    for index, curve in enumerate(curves):
        upper = [(t, each.mean + each.spread) for t, each in curve]
        lower = [(t, each.mean - each.spread) for t, each in reversed(curve)]
        paint = f'fill="{_COLOURS[index % len(_COLOURS)]}" fill-opacity="0.16"'
        drawn.append(f'<polygon points="{axes.points(upper + lower)}" {paint}/>')
    if math.isfinite(floor):
        level = axes.at(1, floor)[1]
        drawn.append(_line(axes.left, level, axes.left + axes.width, level, _GREY, _DASHED))
    for index, curve in enumerate(curves):
        drawn += axes.path([(t, each.mean) for t, each in curve], index)
    return drawn


def _svg(groups: Sequence[Group], drawn: list[str], width: int, height: int, note: str) -> str:
    """A page of its own, white in any surroundings: legend, what was drawn, a note."""
    x, y, legend = 14.0, 22.0, []
    for index, name in enumerate([*(group.name for group in groups), "real vs real"]):
        if x > 14 and x + 40 + 6.4 * len(name) > width:
            x, y = 14.0, y + 20
        if index < len(groups):
            legend.append(_line(x, y - 4, x + 24, y - 4, _COLOURS[index % len(_COLOURS)], _SOLID))
            legend.append(_dot(x + 12, y - 4, index))
        else:
            legend.append(_line(x, y - 4, x + 24, y - 4, _GREY, _DASHED))
        legend.append(_text(x + 30, y, name))
        x += 48 + 6.4 * len(name)
    total = y + 16 + height + 28
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total:.0f}" '
            f'width="{width}" font-family="Helvetica, Arial, sans-serif" font-size="12">',
            '<rect width="100%" height="100%" fill="#fff"/>',
            *legend,
            f'<g transform="translate(0 {y + 16:.0f})" stroke-linejoin="round">',
            *drawn,
            f'<g font-size="10">{_text(14, height + 14, note, colour=_GREY)}</g>',
            "</g>\n</svg>\n",
        ]
    )


def _seeds(groups: Sequence[Group]) -> str:
    counts = sorted({len(group.lineages) for group in groups})
    if counts == [1]:
        return "one seed"
    return f"mean of {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seeds, band ± 1 s.d."


def figure(groups: Sequence[Group], metrics: Sequence[str]) -> str:
    """Metrics against the generation, one panel a metric, as one self-contained SVG."""
    protocol = _check(groups, metrics)
    columns = math.ceil(len(metrics) / math.ceil(len(metrics) / 3))
    drawn = []
    for place, metric in enumerate(metrics):
        row, column = divmod(place, columns)
        drawn += _panel(groups, metric, 250 * column, 246 * row)
    note = ", ".join(
        f"{key} = {protocol[key]}" for key in ("n", "k", "extractor") if key in protocol
    )
    height = 246 * math.ceil(len(metrics) / columns)
    return _svg(groups, drawn, 250 * columns + 14, height, f"{_seeds(groups)}; {note}")


def plane(groups: Sequence[Group]) -> str:
    """Where each group walks between fidelity and diversity, as SVG; dots grow by generation."""
    _check(groups, ("precision", "recall"))
    curves = [
        [(group.value("recall", t).mean, each.mean) for t, each in group.curve("precision")]
        for group in groups
    ]
    floor = _floor(groups, "recall").mean, _floor(groups, "precision").mean
    recalls, precisions = zip(
        *(each for curve in [[floor], *curves] for each in curve), strict=True
    )
    axes = _Axes(52, 26, 340, 300, _ticks(min(recalls), 1), _ticks(min(precisions), 1))
    drawn = axes.frame("precision", "recall")
    right, bottom = axes.at(axes.x[-1], axes.y[0])
    x, y = axes.at(*floor)
    drawn += [
        _line(axes.left, y, right, y, _GREY, _DASHED),
        _line(x, axes.top, x, bottom, _GREY, _DASHED),
    ]
    for index, curve in enumerate(curves):
        drawn += axes.path(curve, index, grow=3 / max(1, len(curve) - 1))
    return _svg(groups, drawn, 420, 376, "mean over seeds; dots grow with the generation")


# the page


def _picture(path: Path, room: float) -> str:
    """A picture as a data URI; one that is too large becomes a small JPEG."""
    data, kind = path.read_bytes(), "png"
    if len(data) > room:
        from PIL import Image

        small, file = Image.open(path).convert("RGB"), io.BytesIO()
        small.thumbnail((360, 360))
        small.save(file, "JPEG", quality=75)
        data, kind = file.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _strip(lineage: Lineage, room: float) -> str:
    """The pictures of a lineage, one a generation; the same seeds and classes in each."""
    frames = []
    for record in lineage.records:
        path = lineage.directory / f"generation_{record.generation:03d}" / "samples.png"
        if path.exists():
            name = f"generation {record.generation}"
            image = f'<img src="{_picture(path, room)}" alt="samples of {name}">'
            frames.append(f"<figure>{image}<figcaption>{name}</figcaption></figure>")
    heading = f"<h3>{escape(str(lineage.directory))}</h3>"
    return f'{heading}\n<div class="strip">{"".join(frames)}</div>' if frames else ""


_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 Helvetica, Arial, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3em .8em; border-bottom: 1px solid #8886; text-align: left; white-space: nowrap }
h3 { font-size: 1em; margin-bottom: .3em }
.wide, .strip { overflow-x: auto }
.strip { display: flex; gap: 8px }
figure { margin: 0 } figcaption { font-size: 12px; text-align: center }
.strip img { width: 172px; image-rendering: pixelated; background: #fff }
svg { max-width: 100%; height: auto }
"""


def page(groups: Sequence[Group]) -> str:
    """Everything in one HTML file that opens from disk: table, figures, film strips, differences."""
    metrics = _metrics(groups)
    protocol = _check(groups, metrics)
    lineages = [lineage for group in groups for lineage in group.lineages]
    room = _PICTURES / sum(len(lineage.records) for lineage in lineages)
    title = f"{len(lineages)} lineages in {len(groups)} groups"
    rows = "\n".join(
        f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
        for tag, cells in zip(
            ["th", *["td"] * len(groups), "td"], _rows(groups, metrics), strict=True
        )
    )
    parts = [
        f"<h1>{title}</h1>",
        f'<div class="wide"><table>\n{rows}\n</table></div>',
        *(f"<p>{escape(line)}</p>" for line in _caption(groups, protocol)),
        "<h2>Metrics</h2>",
        figure(groups, metrics),
    ]
    if {"precision", "recall"} <= set(metrics):
        parts += ["<h2>Fidelity and diversity</h2>", plane(groups)]
    strips = [_strip(lineage, room) for lineage in lineages]
    parts += ["<h2>Samples</h2>" if any(strips) else "", *strips]
    for group in groups[1:]:
        lines = differences(groups[0].lineages[0].config, group.lineages[0].config)
        what = f"<h2>Configuration: {escape(groups[0].name)} → {escape(group.name)}</h2>"
        parts.append(f"{what}\n<pre>{escape(chr(10).join(lines) or 'no config.yaml')}</pre>")
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


# the door


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; None takes those of the process.

    Raises:
        SystemExit: With code 2 if the input was refused.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mad_lightning.report",
        description="Compares lineages from their ledgers; prints a Markdown table.",
    )
    parser.add_argument(
        "lineages", nargs="+", type=Path, help="their directories, e.g. runs/*_seed*"
    )
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="what to show (default: all)")
    parser.add_argument(
        "--figure", type=Path, metavar="SVG", help="draws them, by default precision and recall"
    )
    parser.add_argument("--html", type=Path, help="writes everything into one page")
    given = parser.parse_args(args)
    try:
        groups = load(given.lineages)
        known = _metrics(groups)
        drawn = (
            given.metrics or [name for name in ("precision", "recall") if name in known] or known
        )
        text = table(groups, given.metrics or known)
        files = {given.figure: figure(groups, drawn)} if given.figure else {}
        files |= {given.html: page(groups)} if given.html else {}
    except Refused as refused:
        print(f"error: {refused}", file=sys.stderr)
        raise SystemExit(2) from None
    print(text, end="")
    for path, content in files.items():
        write_atomically(path, content.encode())
        print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
