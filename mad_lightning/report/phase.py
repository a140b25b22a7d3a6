"""The phase diagram: where a loop keeps what it had, and where it loses it.

To the left, what was lost since generation 1 against the share of real data, a line for each bias
or number of samples, and on the margin the border with its interval. To the right, where arms fill
a plane (share and λ, or fresh and synthetic samples), a map of it: each arm's distance as a
multiple of generation 1's, blue where it shrank and red where it grew, and a line along the margin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise

from mad_lightning.drawing import (
    DASHED,
    GREY,
    INK,
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
from mad_lightning.lineage.quantities import distance_name
from mad_lightning.refusal import Refused
from mad_lightning.report.answers import Answer, Arm
from mad_lightning.report.groups import meanings_of

__all__ = ["phase"]

_WIDTH, _HEIGHT = 440.0, 340.0
_CELL = 66.0, 44.0
_EDGE, _ROW = 14.0, 20.0


def phase(told: Sequence[Answer], plane: Sequence[Answer] = ()) -> str:
    """What lineages with several shares say, as SVG.

    Args:
        told: Question by question.
        plane: The same lineages, whatever their number of samples, for the map.

    Raises:
        Refused: If there is nothing to draw.
    """
    if not told:
        remedy = "give several shares of real data, with the same bias and number of samples"
        raise Refused("", "no lineages that differ in their share of real data alone", remedy)
    names = _names(told) if len(told) > 1 else []
    legend = [*_legend(names)]
    top = _ROW * len(names) + _EDGE * bool(names)
    curves = [*_curves(told, top)]
    map_, width = _map(plane or told, top)
    size = _WIDTH + width, top + _HEIGHT + 2 * _EDGE
    return document(*size, [*legend, *curves, *map_, text(_EDGE, size[1] - _EDGE, _note(told[0]))])


def _names(told: Sequence[Answer]) -> list[str]:
    """What each line is, in what it differs from the others."""
    biases = [answer.arms[0].group.lineages[0].records[-1].sampling_bias for answer in told]
    counts = [answer.arms[0].n for answer in told]
    if len(set(biases)) == len(told):
        return [f"λ = {bias:g}" for bias in biases]
    if len(set(counts)) == len(told):
        return [f"{n:,} samples a generation" for n in counts]
    return [
        f"λ = {bias:g}, {n:,} samples: {answer.arms[0].group.name} and others"
        for bias, n, answer in zip(biases, counts, told, strict=True)
    ]


def _legend(names: Sequence[str]) -> Iterator[str]:
    for index, name in enumerate(names):
        y = _ROW * (index + 1)
        yield line(_EDGE, y - 4, _EDGE + 24, y - 4, colour_of(index), SOLID)
        yield dot(_EDGE + 12, y - 4, index)
        yield text(_EDGE + 30, y, name)


def _note(answer: Answer) -> str:
    sure = f"{100 - 100 * answer.question.alpha:g} %"
    return f"bars: {sure} intervals of each share's mean and, on the margin, of the border"


# lost against the share


def _lost(answer: Answer, arm: Arm) -> tuple[float, float, float]:
    """What an arm lost since generation 1 with its bounds, in the unit of the margin."""
    told, scale = answer.border.means[arm.share], 1.0
    if not answer.quantity.is_share:
        firsts = [first for each in answer.arms for first, _ in answer.values(each).values()]
        scale = abs(math.fsum(firsts) / len(firsts)) or 1.0
    estimate, low, high = (x / scale + answer.margin for x in (told.estimate, told.low, told.high))
    return estimate, low, high


def _curves(told: Sequence[Answer], top: float) -> Iterator[str]:
    margin = told[0].margin
    lost = [[_lost(answer, arm) for arm in answer.arms] for answer in told]
    means = [mean for mean, *_ in chain(*lost)]
    low, high = min(0.0, *means), max(2 * margin, *means)
    ends = chain.from_iterable(each[1:] for each in chain(*lost))
    room = 0.5 * (high - low)
    inside = [min(max(end, low - room), high + room) for end in ends]
    y = ticks(min(low, *inside), max(high, *inside))
    x = ticks(0, max(100.0 * arm.share for answer in told for arm in answer.arms))
    axes = Axes(0, top, _WIDTH, _HEIGHT, x, y)
    left, _, right, _ = axes.box
    what = told[0].metric + (" lost" if told[0].quantity.worse == "lower" else " grew")
    unit = "" if told[0].quantity.is_share else ", in parts of it"
    yield from axes.frame(what, f"since generation 1{unit}", "real data in a mix, %")
    level = axes.at(0, margin)[1]
    yield line(left, level, right, level, GREY, DASHED)
    yield text(right, level - 5, f"margin {margin:g}", "end", GREY)
    for index, (answer, values) in enumerate(zip(told, lost, strict=True)):
        points = []
        for arm, (mean, down, up) in zip(answer.arms, values, strict=True):
            across = 100.0 * arm.share
            points.append((across, mean))
            if math.isfinite(down):
                (x1, y1), (_, y2) = (axes.at(across, end) for end in (down, up))
                yield line(x1, y1, x1, y2, colour_of(index), 'stroke-width="1.5"')
        yield from axes.path(points, index)
        yield from _border_bar(axes, answer, index)


def _border_bar(axes: Axes, answer: Answer, index: int) -> Iterator[str]:
    """The border's interval, on the margin; lines that share it lie below one another."""
    known, last = answer.border, axes.x[-1]
    low, high = 100.0 * known.low, min(100.0 * known.high, last)
    (x1, y), (x2, _) = (axes.at(end, answer.margin) for end in (low, high))
    y += 5.0 * (index + 1)
    yield line(x1, y, x2, y, colour_of(index), 'stroke-width="4" stroke-opacity="0.6"')
    if 0.0 < known.estimate < math.inf:
        yield dot(axes.at(100.0 * known.estimate, 0)[0], y, index, 4)


# the plane


def _map(told: Sequence[Answer], top: float) -> tuple[list[str], float]:
    """Cells of arms, and how wide that is; nothing where arms fill no plane."""
    arms = [(answer, arm) for answer in told for arm in answer.arms]

    def bias(arm: Arm) -> float:
        return arm.group.lineages[0].records[-1].sampling_bias

    def real(arm: Arm) -> float:
        return float(arm.n_fresh + arm.n_real)

    def synthetic(arm: Arm) -> float:
        return arm.n - real(arm)

    if len({bias(arm) for _, arm in arms}) > 1:
        return _cells(arms, top, lambda arm: round(100 * arm.share, 2), bias, ("real data, %", "λ"))
    if len({arm.n for _, arm in arms}) > 1 and len({real(arm) for _, arm in arms}) > 1:
        return _cells(arms, top, real, synthetic, ("real samples", "synthetic samples"))
    return [], 0.0


def _cells(
    arms: Sequence[tuple[Answer, Arm]],
    top: float,
    across: Callable[[Arm], float],
    up: Callable[[Arm], float],
    titles: tuple[str, str],
) -> tuple[list[str], float]:
    columns = sorted({across(arm) for _, arm in arms})
    rows = sorted({up(arm) for _, arm in arms}, reverse=True)
    if len(columns) < 2 or len(rows) < 2:
        return [], 0.0
    left = _WIDTH + _EDGE + max(width_of(f"{row:g}") for row in rows) + 8
    first = top + 3 * _ROW
    wide, tall = _CELL
    answer = arms[0][0]
    distance = distance_name(meanings_of([arm.group for _, arm in arms])) or answer.metric
    heads = (
        f"{distance} over generation 1's",
        f"{titles[1]} up; line: {answer.metric} at its margin",
    )
    pieces = [
        text(left, top + _ROW - 3, heads[0]),
        text(left, top + 2 * _ROW - 6, heads[1], colour=GREY),
    ]
    numbers = []
    for answer, arm in arms:
        x = left + wide * columns.index(across(arm))
        y = first + tall * rows.index(up(arm))
        factor = _factor(answer, arm, distance)
        box = f"{x:.1f},{y:.1f} {x + wide:.1f},{y:.1f} {x + wide:.1f},{y + tall:.1f}"
        corners = f"{box} {x:.1f},{y + tall:.1f}"
        pieces.append(f'<polygon points="{corners}" {_paint(factor)} stroke="#fff"/>')
        words = f"×{factor:.3g}" if math.isfinite(factor) else "–"
        numbers.append(text(x + wide / 2, y + tall / 2 + 4, words, "middle"))
    for place, row in enumerate(rows):
        pieces.append(text(left - 6, first + tall * (place + 0.5) + 4, f"{row:g}", "end", GREY))
    foot = first + tall * len(rows)
    for place, column in enumerate(columns):
        middle = left + wide * (place + 0.5)
        pieces.append(text(middle, foot + 17, f"{column:g}", "middle", GREY))
    right = left + wide * len(columns)
    pieces.append(text((left + right) / 2, foot + 36, titles[0], "middle", GREY))
    pieces += [*_edge(arms, columns, rows, across, up, (left, first)), *numbers]
    return pieces, max(right, left + max(map(width_of, heads))) - _WIDTH + _EDGE


def _edge(
    arms: Sequence[tuple[Answer, Arm]],
    columns: Sequence[float],
    rows: Sequence[float],
    across: Callable[[Arm], float],
    up: Callable[[Arm], float],
    corner: tuple[float, float],
) -> Iterator[str]:
    """The line along which the metric has lost the margin: where a row crosses it, joined."""
    (wide, tall), points = _CELL, []
    for place, row in enumerate(rows):
        inside = sorted(
            (columns.index(across(arm)), float(answer.excess(arm).values.mean()))
            for answer, arm in arms
            if up(arm) == row
        )
        for (one, above), (two, below) in pairwise(inside):
            if above > 0.0 >= below:
                column = one + (two - one) * above / (above - below)
                points.append((column, place))
                break
    places = [(corner[0] + wide * (x + 0.5), corner[1] + tall * (y + 0.5)) for x, y in points]
    for (x1, y1), (x2, y2) in pairwise(places):
        yield line(x1, y1, x2, y2, INK, SOLID)
    if places:  # to the edges of the first and the last row
        for (x, y), step in ((places[0], -0.5), (places[-1], 0.5)):
            yield line(x, y, x, y + step * tall, INK, SOLID)


def _factor(answer: Answer, arm: Arm, metric: str) -> float:
    """An arm's mean at the end over that of generation 1; NaN where that is not above 0."""
    lineages = [each for each in arm.group.lineages if len(each.records) >= answer.end]
    ends = [each.records[answer.end - 1].metrics.get(metric, math.nan) for each in lineages]
    firsts = [each.records[0].metrics.get(metric, math.nan) for each in lineages]
    below = math.fsum(firsts)
    return math.fsum(ends) / below if below > 0.0 else math.nan


def _paint(factor: float) -> str:
    """Blue below 1, red above, deeper by a factor; full at ten."""
    if not factor > 0.0:
        return 'fill="#fff" fill-opacity="1"'
    deep = 0.08 + 0.8 * min(abs(math.log10(factor)), 1.0)
    return f'fill="{PALETTE[int(factor > 1.0)]}" fill-opacity="{deep:.2f}"'
