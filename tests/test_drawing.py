"""A drawing is true to scale, and is text that any viewer reads."""

import io
import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from PIL import Image

from mad_lightning.drawing import (
    DASHED,
    GREY,
    PALETTE,
    Axes,
    document,
    dot,
    line,
    painted,
    text,
    ticks,
    width_of,
)


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


@pytest.mark.parametrize("far", [1.5e-4, 2.5e7, -1.25e-3])
def test_long_numbers_have_room_beside_the_axes(far):
    axes = Axes(0, 0, 254, 274, x=[1, 2], y=sorted([0, far]))
    numbers = [one for one in parsed(*axes.frame("", "", "x")).iter() if one.get("x")]
    starts = [float(one.get("x")) - 6.5 * len(one.text or "") for one in numbers[3:5]]
    assert min(starts) >= 0


def test_of_many_points_few_have_dots_the_last_one_always():
    axes = Axes(0, 0, 254, 274, x=[0, 100], y=[0, 1])
    for n, dots in ((24, 24), (25, 9), (60, 12), (300, 12)):
        _, *marks = axes.path([(k, 0.5) for k in range(n)], 0)
        assert len(marks) == dots
        assert f'cx="{axes.at(n - 1, 0.5)[0]:.1f}"' in marks[-1]
    assert len(list(axes.path([], 0))) == 1
    grown = [
        float(parsed(mark)[1].get("r"))
        for mark in [*axes.path([(k, 0.5) for k in range(60)], 0, grow=3)][1:]
    ]
    assert sorted(grown) == grown
    assert 3 < grown[1] < grown[-1] <= 6


def test_letters_that_are_wide_have_more_room():
    assert width_of("FRESH") > width_of("fresh") == pytest.approx(5 * 6.3)


# for papers


def test_a_painting_has_the_same_colours_in_the_same_places():
    group = ['<g transform="translate(0 30)">', dot(100, 50, 1, 9), "</g>", dot(20, 20, 2, 9)]
    drawing = document(200, 120, [*group, line(0, 100, 200, 100, "#ff0000", 'stroke-width="6"')])
    image = Image.open(io.BytesIO(painted(drawing, "png"))).convert("RGB")
    scale = image.width / 200
    assert scale == pytest.approx(300 / 72, rel=0.01)
    colours = {
        place: "#{:02X}{:02X}{:02X}".format(*image.getpixel((int(x * scale), int(y * scale))))
        for place, x, y in [("moved", 100, 80), ("dot", 20, 20), ("line", 150, 100), ("no", 60, 60)]
    }
    assert colours == {
        "moved": PALETTE[1], "dot": PALETTE[2], "line": "#FF0000", "no": "#FFFFFF"
    }  # fmt: skip


def test_a_painting_is_the_same_whenever_it_is_made():
    drawing = document(200, 100, [text(10, 20, "$x$ ± λ → ×"), line(0, 50, 9, 50, GREY, DASHED)])
    assert painted(drawing).startswith(b"%PDF")
    assert painted(drawing) == painted(drawing)


def test_a_floor_that_is_not_known_is_not_drawn():
    axes = Axes(0, 0, 254, 274, x=[0, 1], y=[0, 1])
    assert list(axes.floor(math.nan, math.nan)) == []
    assert len(list(axes.floor(math.nan, 0.5))) == 1
    assert len(list(axes.floor(0.5, 0.5))) == 2


def test_seven_colours_and_then_hollow_marks():
    marks = [parsed(dot(0, 0, index))[1] for index in range(14)]
    assert [mark.get("fill") for mark in marks] == [*PALETTE, *["#fff"] * 7]
    assert [mark.get("stroke") for mark in marks] == [*["#fff"] * 7, *PALETTE]


def test_names_may_hold_anything():
    assert parsed(text(0, 0, "a < b & c"))[1].text == "a < b & c"
