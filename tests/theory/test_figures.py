"""Figures of studies: what is drawn, as the drawing itself tells."""

import re

import pytest

from mad_lightning.refusal import Refused
from mad_lightning.theory.figures import Axes, draw


def row(**values):
    return {"w2_squared": 1.0, "standard_error": 0.1, **values}


ROWS = [
    row(n_synthetic=n, sampling_bias=bias, ratio=r, ratio_low=r - 0.1, ratio_high=r + 0.1, grid=g)
    for g in (1, 2)
    for bias in (1.0, 0.8)
    for n, r in ((10, 1.1), (100, 1.4), (1000, 0.7))
]


def drawn(axes):
    return draw(ROWS, axes).decode()


def test_there_is_a_line_and_a_band_for_each_combination_and_a_legend():
    text = drawn(Axes())
    assert "λ = 1" in text
    assert "λ = 0.8" in text
    assert "n_e / n_r" in text
    assert "synthetic samples n_s" in text
    assert text.count("FillBetween") == 2


def test_each_value_of_the_panel_has_axes_of_its_own():
    one, two = (len(re.findall(r'id="axes_', drawn(Axes(panel=panel)))) for panel in (None, "grid"))
    assert (one, two) == (1, 2)


def test_a_map_has_a_bar_of_colours():
    text = drawn(Axes(x="n_synthetic", y="sampling_bias", colour="ratio"))
    assert "QuadMesh" in text
    assert "n_e / n_r" in text


def test_the_same_rows_give_the_same_bytes():
    assert drawn(Axes()) == drawn(Axes())
    assert draw(ROWS, Axes(), "pdf") == draw(ROWS, Axes(), "pdf")
    assert draw(ROWS, Axes(), "pdf").startswith(b"%PDF")
    assert draw(ROWS, Axes(), "png").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("axes", "field"),
    [
        ({"x": "n_sinthetic"}, "x"),
        ({"y": "w2"}, "y"),
        ({"line": ["lambda"]}, "line"),
        ({"panel": "none"}, "panel"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_column_that_does_not_exist_is_refused_with_those_that_do(axes, field):
    with pytest.raises(Refused, match=r"choose .*n_synthetic") as caught:
        Axes(**axes).check(tuple(ROWS[0]))
    assert caught.value.field == field
