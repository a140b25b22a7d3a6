"""A drawing is true to scale, and is text that any viewer reads."""

import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from mad_lightning.drawing import PALETTE, Axes, document, dot, text, ticks


def parsed(*pieces):
    return ET.fromstring(document(300, 200, pieces))


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 0.28), (-90.9, 8387), (1e-6, 3e-6), (0, 0), (5, 5), (3, 1000)]
)
def test_ticks_are_few_round_and_cover_what_they_should(low, high):
    numbers = ticks(low, high)
    assert 2 <= len(numbers) <= 8
    assert numbers[0] <= low * (1 + 1e-6)
    assert numbers[-1] >= high * (1 - 1e-6)
    steps = {f"{after - before:.3g}" for before, after in pairwise(numbers)}
    assert len(steps) == 1
    assert float(steps.pop()) / 10 ** math.floor(math.log10(numbers[1] - numbers[0]) + 1e-9) in (
        pytest.approx(1), pytest.approx(2), pytest.approx(5)
    )  # fmt: skip


def test_points_lie_where_their_numbers_are():
    axes = Axes(10, 20, 300, 200, x=[0, 10], y=[0, 0.5, 1])
    left, top, right, bottom = axes.box
    assert 10 < left < right < 310
    assert 20 < top < bottom < 220
    assert axes.at(0, 0) == (left, bottom)
    assert axes.at(10, 1) == (right, top)
    assert axes.at(5, 0.25) == pytest.approx(((left + right) / 2, bottom - (bottom - top) / 4))
    assert axes.at(5, 7)[1] == top  # what lies above lies on the edge
    inset = Axes(10, 20, 300, 200, x=[0, 10], y=[0, 1], margin=1)
    assert inset.at(0, 0)[0] == pytest.approx(left + (right - left) / 12)


def test_everything_around_the_axes_lies_inside_the_panel():
    axes = Axes(0, 0, 254, 274, x=[1, 2, 3], y=[0, 0.5, 1])
    for piece in parsed(*axes.frame("title", "subtitle", "x")).iter():
        for x in ("x", "x1", "x2"):
            assert 0 <= float(piece.get(x, 0)) <= 254
        for y in ("y", "y1", "y2"):
            assert 0 <= float(piece.get(y, 0)) <= 274


def test_a_floor_that_is_not_known_is_not_drawn():
    axes = Axes(0, 0, 254, 274, x=[0, 1], y=[0, 1])
    assert list(axes.floor(math.nan, math.nan)) == []
    assert len(list(axes.floor(math.nan, 0.5))) == 1
    assert len(list(axes.floor(0.5, 0.5))) == 2


def test_seven_colours_and_then_hollow_marks():
    marks = [parsed(dot(0, 0, index))[1] for index in range(14)]
    assert [mark.get("fill") for mark in marks] == [*PALETTE, *["#fff"] * 7]
    assert [mark.get("stroke") for mark in marks] == [*["#fff"] * 7, *PALETTE]


def test_a_line_has_dots_unless_they_would_touch():
    axes = Axes(0, 0, 254, 274, x=[0, 30], y=[0, 1])
    few, many = [(t, 0.5) for t in range(24)], [(t, 0.5) for t in range(25)]
    assert [len(list(axes.path(points, 0))) for points in (few, many)] == [25, 1]
    *_, before, last = (parsed(piece)[1] for piece in axes.path(many, 0, grow=3))
    assert 3 < float(before.get("r")) <= float(last.get("r")) < 6


def test_names_may_hold_anything():
    assert parsed(text(0, 0, "a < b & c"))[1].text == "a < b & c"
