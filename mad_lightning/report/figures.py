"""Figures: metrics against the generation, and fidelity against diversity, as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from mad_lightning.drawing import (
    DASHED,
    GREY,
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
from mad_lightning.lineage.quantities import Quantity
from mad_lightning.report.groups import Group, floor_of, lineages_of, meanings_of, protocol_of

__all__ = ["figure", "plane"]

_PANEL_WIDTH, _PANEL_HEIGHT = 254.0, 274.0  # wider for a metric of a long name
_COLUMNS = 3
_EDGE = 14  # white beside what was drawn


def figure(groups: Sequence[Group], metrics: Sequence[str]) -> str:
    """Metrics against the generation, one panel each, as SVG.

    Raises:
        Refused: If a metric is in no ledger, or values were not measured alike.
    """
    protocol, meanings = protocol_of(groups, metrics), meanings_of(groups)
    rows = max(1, math.ceil(len(metrics) / _COLUMNS))
    columns = math.ceil(len(metrics) / rows)
    width = max(_PANEL_WIDTH, 4 * _EDGE + max(map(width_of, metrics), default=0.0))
    panels = (
        _panel(
            groups,
            metric,
            meanings[metric],
            (width * (place % columns), _PANEL_HEIGHT * (place // columns)),
            width,
        )
        for place, metric in enumerate(metrics)
    )
    size = width * columns + _EDGE, _PANEL_HEIGHT * rows
    return _sheet(groups, protocol, chain.from_iterable(panels), *size)


def _panel(
    groups: Sequence[Group],
    metric: str,
    quantity: Quantity,
    corner: tuple[float, float],
    width: float,
) -> Iterator[str]:
    """One metric: bands below, then the floor, then lines."""
    floor, curves = floor_of(groups, metric), [group.curve(metric) for group in groups]
    means = [[(t, value.mean) for t, value in curve] for curve in curves]
    upper = [[(t, value.mean + value.spread) for t, value in curve] for curve in curves]
    lower = [[(t, value.mean - value.spread) for t, value in reversed(curve)] for curve in curves]
    edges = floor.mean - floor.spread, floor.mean + floor.spread
    heights = [0.0, *edges, *(height for _, height in chain(*upper, *means))]
    known = [height for height in heights if math.isfinite(height)]
    last = max(group.generations for group in groups)
    x = range(1, last + 1) if last <= 8 else [1, *(t for t in ticks(0, last) if 1 < t <= last)]
    y = ticks(0, 1) if quantity.is_share else ticks(min(known), max(known))
    beside = 0.05 * (last - 1) or 0.5
    axes = Axes(*corner, width, _PANEL_HEIGHT, x, y, beside)
    yield from axes.frame(metric, quantity.words, "generation")
    for index, band in enumerate(map(list.__add__, upper, lower)):
        yield axes.area(band, f'fill="{colour_of(index)}" fill-opacity="0.18"')
    if floor.spread > 0:
        left, right = x[0] - beside, x[-1] + beside
        corners = [(left, edges[0]), (right, edges[0]), (right, edges[1]), (left, edges[1])]
        yield axes.area(corners, f'fill="{GREY}" fill-opacity="0.15"')
    yield from axes.floor(math.nan, floor.mean)
    for index, points in enumerate(means):
        yield from axes.path(points, index)


def plane(groups: Sequence[Group]) -> str:
    """The walk of each group between fidelity and diversity, as SVG.

    Raises:
        Refused: If precision or recall is in no ledger, or values were not measured alike.
    """
    protocol = protocol_of(groups, ("precision", "recall"))
    walks = []
    for group in groups:
        precision, recall = dict(group.curve("precision")), dict(group.curve("recall"))
        walks.append([(recall[t].mean, precision[t].mean) for t in recall if t in precision])
    floor = floor_of(groups, "recall").mean, floor_of(groups, "precision").mean
    corner = (0.9, 0.9)  # at least so much of the plane is shown
    known = [corner, *(point for point in chain([floor], *walks) if math.isfinite(sum(point)))]
    x, y = (ticks(min(lengths), 1) for lengths in zip(*known, strict=True))
    width, height = 440, 415
    axes = Axes(0, 0, width, height, x, y)
    drawn = [
        *axes.frame("precision (fidelity)", "dots grow by generation", "recall (diversity)"),
        *axes.floor(*floor),
        *chain(*(axes.path(walk, index, grow=3) for index, walk in enumerate(walks))),
    ]
    return _sheet(groups, protocol, drawn, width, height)


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
