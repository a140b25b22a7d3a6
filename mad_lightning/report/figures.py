"""Figures: metrics against the generation, fidelity against diversity, what was eaten, as SVG.

Every figure draws a part of a :class:`~mad_lightning.report.plan.Plan`, once for papers (a sheet
with a legend and a note) and once for the page, where the parts of a group carry its number in
``data-group``, so that a script can hide them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import accumulate, chain
from typing import Any

from mad_lightning.drawing import (
    DASHED,
    GREY,
    PALETTE,
    SOLID,
    Axes,
    colour_of,
    document,
    dot,
    line,
    text,
    ticks,
    width_of,
)
from mad_lightning.report.groups import Group, Value, lineages_of, protocol_of
from mad_lightning.report.plan import Chart, Plane, chart_of, plane_of
from mad_lightning.report.provenance import Ancestry, ClassShares

__all__ = [
    "ancestry_figure",
    "ancestry_paint",
    "chart_figure",
    "classes_figure",
    "figure",
    "plane",
    "plane_figure",
]

_PANEL_WIDTH, _PANEL_HEIGHT = 254.0, 274.0  # wider for a metric of a long name
_COLUMNS = 3
_EDGE = 14  # white beside what was drawn
_ON_A_PAGE = 400, 300
_PLANE = 440, 415
_SEED = 'stroke-width="1" stroke-opacity="0.5"'


# for papers


def figure(groups: Sequence[Group], metrics: Sequence[str]) -> str:
    """Metrics against the generation, one panel each, as SVG.

    Raises:
        Refused: If a metric is in no ledger, or values were not measured alike.
    """
    protocol = protocol_of(groups, metrics)
    rows = max(1, math.ceil(len(metrics) / _COLUMNS))
    columns = math.ceil(len(metrics) / rows)
    width = max(_PANEL_WIDTH, 4 * _EDGE + max(map(width_of, metrics), default=0.0))
    last = max(group.generations for group in groups)
    panels = []
    for place, metric in enumerate(metrics):
        chart = chart_of(groups, metric)
        corner = width * (place % columns), _PANEL_HEIGHT * (place // columns)
        axes = _axes(chart, last, *corner, width, _PANEL_HEIGHT)
        panels.append(_drawn(axes, chart))
    size = width * columns + _EDGE, _PANEL_HEIGHT * rows
    return _sheet(groups, protocol, chain.from_iterable(panels), *size)


def plane(groups: Sequence[Group]) -> str:
    """The walk of each group between fidelity and diversity, as SVG.

    Raises:
        Refused: If precision or recall is in no ledger, or values were not measured alike.
    """
    protocol = protocol_of(groups, ("precision", "recall"))
    return _sheet(groups, protocol, _walks(plane_of(groups)), *_PLANE)


# for the page


def chart_figure(chart: Chart, last: int) -> str:
    """One metric up to generation ``last``, with each seed's own line, as SVG."""
    axes = _axes(chart, last, 0, 0, *_ON_A_PAGE, seeds=True)
    shown = sorted({point.generation for curve in chart.curves for point in curve.points})
    places = json.dumps([round(axes.at(t, 0)[0], 1) for t in shown], separators=(",", ":"))
    _, top, _, bottom = axes.box
    pieces = [*_drawn(axes, chart, seeds=True), _cursor(top, bottom)]
    facts = f'class="chart" data-x="{places}" data-t="{json.dumps(shown, separators=(",", ":"))}"'
    return document(*_ON_A_PAGE, pieces, facts)


def plane_figure(part: Plane) -> str:
    """The walk of each group between fidelity and diversity, as SVG."""
    return document(*_PLANE, _walks(part, seeds=True))


def ancestry_figure(part: Ancestry) -> str:
    """What each generation was trained on, as stacked bars, as SVG."""
    columns = list(zip(*part.parts.values(), strict=True))
    most = max(map(sum, columns), default=1)
    last = part.generations[-1]
    x, y = _generations(last), ticks(0, most)
    width, height = _ON_A_PAGE
    axes = Axes(0, 0, width, height - 60, x, y, 0.6 * max(1.0, (last - 1) / len(columns)))
    half = 0.4 * (last - 1) / max(len(columns) - 1, 1) if last > 1 else 0.4
    pieces = [*axes.frame(part.group, "samples it was trained on", "generation")]
    for t, column in zip(part.generations, columns, strict=True):
        ends = list(accumulate(column, initial=0))
        for name, count, low, high in zip(part.parts, column, ends, ends[1:], strict=False):
            if count:
                box = [(t - half, low), (t + half, low), (t + half, high), (t - half, high)]
                bar = axes.area(box, ancestry_paint(name))
                told = f"generation {t}: {count:,} {name}"
                pieces.append(bar.replace("/>", f"><title>{told}</title></polygon>"))
    return document(width, height - 60, pieces)


def ancestry_paint(name: str) -> str:
    """How a part of a mix is painted: what is real in green and blue, older samples paler."""
    known = {"real": PALETTE[2], "fresh": PALETTE[5], "from elsewhere": PALETTE[3]}
    if name in known:
        return f'fill="{known[name]}"'
    age = next((int(word) for word in name.split() if word.isdecimal()), 0)
    opacity = 1.0 if name.startswith("from") else 0.25 if not age else max(0.35, 1.05 - 0.15 * age)
    return f'fill="{PALETTE[4]}" fill-opacity="{opacity:.2f}"'


def classes_figure(part: ClassShares) -> str:
    """How common each class is in each generation: a row a class, darker where more, as SVG."""
    left, top, row = 8 + max(map(width_of, part.classes)), 34, 18
    width, rows = _ON_A_PAGE[0], len(part.classes)
    across = (width - left - _EDGE) / len(part.generations)
    most = max(chain.from_iterable(part.shares)) or 1.0
    pieces = [text(left, 14, part.group), text(left, 28, "share of each class", colour=GREY)]
    for k, (name, shares) in enumerate(zip(part.classes, part.shares, strict=True)):
        y = top + row * k
        pieces.append(text(left - 6, y + 13, name, "end", GREY))
        for place, (t, share) in enumerate(zip(part.generations, shares, strict=True)):
            box = f'x="{left + across * place:.1f}" y="{y}" width="{across - 1:.1f}" height="17"'
            paint = f'fill="{PALETTE[0]}" fill-opacity="{share / most:.3f}"'
            told = f"<title>class {escape(name)}, generation {t}: {share:.1%}</title>"
            pieces.append(f"<rect {box} {paint}>{told}</rect>")
    foot = top + row * rows
    for place, t in enumerate(part.generations):
        if place % math.ceil(len(part.generations) / 12) == 0:
            pieces.append(text(left + across * (place + 0.5), foot + 15, str(t), "middle", GREY))
    pieces.append(text((left + width) / 2, foot + 32, "generation", "middle", GREY))
    return document(width, foot + 40, pieces)


# their parts


def _generations(last: int) -> list[float]:
    """Ticks from 1 to the last generation."""
    return (
        [*range(1, last + 1)] if last <= 8 else [1, *(t for t in ticks(0, last) if 1 < t <= last)]
    )


def _axes(
    chart: Chart,
    last: int,
    left: float,
    top: float,
    width: float,
    height: float,
    seeds: bool = False,
) -> Axes:
    """With all means, bands and the floor in them."""
    points = [point for curve in chart.curves for point in curve.points]
    heights = [0.0, *(point.mean for point in points)]
    heights += [point.mean + point.spread for point in points]
    if chart.floor is not None:
        heights += [chart.floor - chart.floor_error, chart.floor + chart.floor_error]
    if seeds:
        heights += [value for point in points for value in point.seeds if value is not None]
    x = _generations(last)
    y = ticks(0, 1) if chart.is_share else ticks(min(heights), max(heights))
    return Axes(left, top, width, height, x, y, 0.05 * (last - 1) or 0.5)


def _drawn(axes: Axes, chart: Chart, seeds: bool = False) -> Iterator[str]:
    """One metric: bands below, then the floor, then lines."""
    yield from axes.frame(chart.metric, chart.words, "generation")
    for index, curve in enumerate(chart.curves):
        upper = [(point.generation, point.mean + point.spread) for point in curve.points]
        lower = [(point.generation, point.mean - point.spread) for point in curve.points]
        band = axes.area(
            [*upper, *reversed(lower)], f'fill="{colour_of(index)}" fill-opacity="0.18"'
        )
        yield from _of_group(index, [band])
    if chart.floor is not None:
        edges = chart.floor - chart.floor_error, chart.floor + chart.floor_error
        left, right = axes.x[0] - axes.margin, axes.x[-1] + axes.margin
        if chart.floor_error > 0:
            corners = [(left, edges[0]), (right, edges[0]), (right, edges[1]), (left, edges[1])]
            yield axes.area(corners, f'fill="{GREY}" fill-opacity="0.15"')
        yield from axes.floor(math.nan, chart.floor)
    for index, curve in enumerate(chart.curves):
        if seeds and curve.points and len(curve.points[0].seeds) > 1:
            yield from _of_group(index, _seed_lines(axes, chart, index), "seed")
        means = [(point.generation, point.mean) for point in curve.points]
        titles = [
            f"{curve.group}, generation {point.generation}: "
            f"{Value(point.mean, point.spread, len(point.seeds))}"
            for point in (curve.points if seeds else ())
        ]
        yield from _of_group(index, axes.path(means, index, titles=titles))


def _of_group(index: int, pieces: Iterable[str], kind: str = "") -> Iterator[str]:
    yield f'<g data-group="{index}"{kind and f" class={json.dumps(kind)}"}>'
    yield from pieces
    yield "</g>"


def _seed_lines(axes: Axes, chart: Chart, index: int) -> Iterator[str]:
    """A thin line a seed."""
    points = chart.curves[index].points
    for place in range(len(points[0].seeds)):
        values = ((point.generation, point.seeds[place]) for point in points)
        known = [(t, value) for t, value in values if value is not None]
        paint = f'fill="none" stroke="{colour_of(index)}" {_SEED}'
        yield axes.area(known, paint, "polyline")


def _cursor(top: float, bottom: float) -> str:
    """A line that a script moves to the generation whose values it shows."""
    return f'<line class="cursor" y1="{top:.1f}" y2="{bottom:.1f}" stroke="{GREY}"/>'


def _walks(part: Plane, seeds: bool = False) -> Iterator[str]:
    corner = (0.9, 0.9)  # at least so much of the plane is shown
    points = [(walk.group, [(x, y) for _, x, y in walk.points]) for walk in part.walks]
    known = [corner, *([part.floor] if part.floor else []), *chain(*(path for _, path in points))]
    x, y = (ticks(min(lengths), 1) for lengths in zip(*known, strict=True))
    axes = Axes(0, 0, *_PLANE, x, y)
    yield from axes.frame("precision (fidelity)", "dots grow by generation", "recall (diversity)")
    yield from axes.floor(*(part.floor or (math.nan, math.nan)))
    for index, walk in enumerate(part.walks):
        told = walk.points if seeds else ()
        titles = [
            f"{walk.group}, generation {t}: recall {recall:.3f}, precision {precision:.3f}"
            for t, recall, precision in told
        ]
        yield from _of_group(index, axes.path(points[index][1], index, grow=3, titles=titles))


def _sheet(
    groups: Sequence[Group],
    protocol: dict[str, Any],
    drawn: Iterable[str],
    width: float,
    height: float,
) -> str:
    """A drawing of its own: legend, what was drawn, how it was measured."""
    note = _note(groups, protocol)
    names = [group.name for group in groups]
    if any(lineage.records[0].floor for lineage in lineages_of(groups)):
        names.append("real vs real")
    width = max(width, 2 * _EDGE + width_of(note), *map(_key_width, names))
    legend, top = _legend(names, len(groups), width)
    foot = top + height
    pieces = [
        *legend,
        f'<g transform="translate(0 {top:.0f})">',
        *drawn,
        "</g>",
        text(_EDGE, foot + _EDGE, note, colour=GREY),
    ]
    return document(width, foot + 2 * _EDGE, pieces)


def _note(groups: Sequence[Group], protocol: dict[str, Any]) -> str:
    """What lines and bands are, and how values were measured."""
    seeds = sorted({len(group.lineages) for group in groups})
    over = " to ".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1])))
    lines = f"mean over {over} seeds (band: ± s.d.)"
    if seeds == [1]:
        told = any(record.errors for group in groups for record in group.lineages[0].records)
        lines = "one seed (band: ± measurement error)" if told else "one seed"
    facts = [f"{key} = {protocol[key]}" for key in ("n", "k", "extractor") if key in protocol]
    return ", ".join([lines, *facts])


_KEY, _AFTER_KEY, _AFTER_NAME = 24, 6, 16  # a legend's piece of line, and the white after things


def _key_width(name: str) -> float:
    return _EDGE + _KEY + _AFTER_KEY + width_of(name) + _AFTER_NAME


def _legend(names: Sequence[str], n_groups: int, width: float) -> tuple[list[str], float]:
    """Each group's line and name, then the floor's, in rows; and where they end."""
    row_height, to_middle = 20, 4
    x, y, pieces = float(_EDGE), 22.0, []
    for index, name in enumerate(names):
        advance = _key_width(name) - _EDGE
        if x > _EDGE and x + advance > width:
            x, y = _EDGE, y + row_height
        middle = y - to_middle
        if index < n_groups:
            pieces.append(line(x, middle, x + _KEY, middle, colour_of(index), SOLID))
            pieces.append(dot(x + _KEY / 2, middle, index))
        else:
            pieces.append(line(x, middle, x + _KEY, middle, GREY, DASHED))
        pieces.append(text(x + _KEY + _AFTER_KEY, y, name))
        x += advance
    return pieces, y + row_height
