"""Axes, lines, dots and text as SVG: one look, one palette.

A drawing is text, joined from pieces; it takes no plotting library to make, and no script and no
network to see. Lengths are pixels, and y grows downwards. For papers the same drawing is painted
again, shape by shape, as PDF.
"""

from __future__ import annotations

import io
import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = [
    "DASHED",
    "GREY",
    "INK",
    "PALETTE",
    "RULE",
    "SOLID",
    "Axes",
    "Points",
    "colour_of",
    "document",
    "dot",
    "line",
    "painted",
    "text",
    "ticks",
    "width_of",
]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind people tell apart."""

GREY, INK, PAPER, RULE = "#555", "#111", "#fff", "#e4e4e4"
SOLID, DASHED = 'stroke-width="2"', 'stroke-width="1.5" stroke-dasharray="5 4"'

_FONT_SIZE = 12
_FONT = 'font-family="Helvetica, Arial, sans-serif" stroke-linejoin="round"'
_LINE = 17  # from one line of text to the next
_GAP = 10  # between axes and the text beside them
_DOTS = 24  # that a line has at most; of more, half as many
_MIDDLE = 4  # from the middle of a digit to its baseline

Points = Sequence[tuple[float, float]]


def colour_of(index: int) -> str:
    """Colour of a group; they come again from the eighth group on."""
    return PALETTE[index % len(PALETTE)]


def line(x1: float, y1: float, x2: float, y2: float, colour: str, style: str = "") -> str:
    """A straight line."""
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="{colour}" {style}/>'


def text(x: float, y: float, words: str, anchor: str = "start", colour: str = INK) -> str:
    """A line of text; ``y`` is its baseline, ``anchor`` what of it stands at ``x``."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{escape(words)}</text>"


def width_of(words: str) -> float:
    """About how wide a line of text is."""
    wide = sum(0.2 if letter.isupper() or letter in "mw" else 0.0 for letter in words)
    return _FONT_SIZE * (0.525 * len(words) + wide)


def dot(x: float, y: float, index: int, radius: float = 3, title: str = "") -> str:
    """A group's mark; hollow where its colour has come before. A title shows under the mouse."""
    full, hollow = (colour_of(index), PAPER), (PAPER, colour_of(index))
    fill, edge = full if index < len(PALETTE) else hollow
    place = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"'
    end = f"><title>{escape(title)}</title></circle>" if title else "/>"
    return f'<circle {place} fill="{fill}" stroke="{edge}"{end}'


def ticks(low: float, high: float) -> list[float]:
    """Few round numbers that cover [low, high]; two at least."""
    least = (high - low) / 5 or 1.0
    power = 10.0 ** math.floor(math.log10(least))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{place * step:.6g}") for place in range(first, max(last, first + 1) + 1)]


def document(width: float, height: float, pieces: Iterable[str], facts: str = "") -> str:
    """A drawing of its own, on white; facts are attributes for whoever shows it."""
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" font-size="{_FONT_SIZE}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {_FONT}{facts and " " + facts}>'
    paper = f'<rect width="100%" height="100%" fill="{PAPER}"/>'
    return "\n".join([head, paper, *pieces, "</svg>\n"])


@dataclass(frozen=True)
class Axes:
    """A panel of a drawing: axes, and around them numbers, names and two titles.

    Attributes:
        left: Where the panel begins.
        top: Where the panel begins.
        width: Of the panel.
        height: Of the panel.
        x: Ticks, from one end to the other.
        y: Ticks, from one end to the other.
        margin: White before the first and after the last tick of x, in units of x.
    """

    left: float
    top: float
    width: float
    height: float
    x: Sequence[float]
    y: Sequence[float]
    margin: float = 0.0

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the axes themselves."""
        numbers = max(46.0, _GAP + max(width_of(f"{tick:g}") for tick in self.y))
        half_a_number = 14
        titles, below = _GAP + 2 * _LINE, 3 * _LINE
        right, bottom = self.left + self.width, self.top + self.height
        return self.left + numbers, self.top + titles, right - half_a_number, bottom - below

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies; one above or below lies on the edge."""
        left, top, right, bottom = self.box
        across = (x - self.x[0] + self.margin) / (self.x[-1] - self.x[0] + 2 * self.margin)
        up = (min(max(y, self.y[0]), self.y[-1]) - self.y[0]) / (self.y[-1] - self.y[0])
        return left + across * (right - left), bottom - up * (bottom - top)

    def frame(self, title: str, subtitle: str, x_label: str) -> Iterator[str]:
        """Rules, axis, ticks and names."""
        left, top, right, bottom = self.box
        yield text(left, top - _GAP - _LINE, title)
        yield text(left, top - _GAP, subtitle, colour=GREY)
        yield text((left + right) / 2, bottom + 2 * _LINE, x_label, "middle", GREY)
        for tick in self.y:
            y = self.at(self.x[0], tick)[1]
            yield line(left, y, right, y, RULE)
            yield text(left - 7, y + _MIDDLE, f"{tick:g}", "end", GREY)
        for tick in self.x:
            x = self.at(tick, 0)[0]
            yield line(x, bottom, x, bottom + 4, INK)
            yield text(x, bottom + _LINE, f"{tick:g}", "middle", GREY)
        yield line(left, bottom, right, bottom, INK)

    def floor(self, x: float, y: float) -> Iterator[str]:
        """What real samples score; NaN draws nothing."""
        left, top, right, bottom = self.box
        across, up = self.at(x, y)
        if math.isfinite(y):
            yield line(left, up, right, up, GREY, DASHED)
        if math.isfinite(x):
            yield line(across, top, across, bottom, GREY, DASHED)

    def area(self, points: Points, paint: str, tag: str = "polygon") -> str:
        """What points enclose, or the line through them."""
        places = " ".join("{:.1f},{:.1f}".format(*self.at(x, y)) for x, y in points)
        return f'<{tag} points="{places}" {paint}/>'

    def path(
        self, points: Points, index: int, grow: float = 0, titles: Sequence[str] = ()
    ) -> Iterator[str]:
        """A group's line and its dots, which may grow; fewer where they would touch."""
        yield self.area(points, f'fill="none" stroke="{colour_of(index)}" {SOLID}', "polyline")
        step = 1 if len(points) <= _DOTS else math.ceil(2 * len(points) / _DOTS)
        for k in range((len(points) - 1) % step, len(points), step) if points else ():
            title = titles[k] if titles else ""
            yield dot(*self.at(*points[k]), index, 3 + grow * k / len(points), title)


# for papers


def painted(drawing: str, kind: str = "pdf") -> bytes:
    """A drawing of ours in another format, with the same shapes and colours.

    Args:
        drawing: What :func:`document` made.
        kind: ``pdf``, whose text stays text, or ``png``, at 300 dots an inch on paper.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    root = ET.fromstring(drawing)
    width, height = map(float, root.get("viewBox", "").split()[2:])
    figure = Figure((width / _DPI, height / _DPI), dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    for order, (shape, down) in enumerate(_shapes(root)):
        axes.add_artist(_artist(shape, down, width)).set_zorder(order)
    file = io.BytesIO()
    with rc_context({"pdf.fonttype": 42}):  # TrueType, which journals ask for
        undated = {"CreationDate": None} if kind == "pdf" else None
        figure.savefig(file, format=kind, dpi=300, metadata=undated)
    return file.getvalue()


_DPI = 72  # a pixel is a point


def _shapes(inside: ET.Element, down: float = 0.0) -> Iterator[tuple[ET.Element, float]]:
    """All shapes in their order, and by how much their group was moved down."""
    for shape in inside:
        moved = shape.get("transform", "translate(0 0)")[:-1].partition(" ")[2]
        if len(shape):
            yield from _shapes(shape, down + float(moved))
        else:
            yield shape, down


def _artist(shape: ET.Element, down: float, width: float) -> Any:
    """One shape, as matplotlib has it."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle, Polygon, Rectangle
    from matplotlib.text import Text

    def number(name: str, otherwise: float = 1.0) -> float:
        return float(shape.get(name, otherwise))

    colours: dict[str, Any] = {
        "facecolor": shape.get("fill"),
        "edgecolor": shape.get("stroke", "none"),
    }
    match shape.tag.rpartition("}")[2]:
        case "rect":
            return Rectangle((0, 0), width, 1e4, **colours)
        case "circle":
            centre = number("cx"), number("cy") + down
            return Circle(centre, number("r"), linewidth=1, **colours)
        case "text":
            anchors: dict[str, Any] = {"start": "left", "middle": "center", "end": "right"}
            return Text(
                number("x"), number("y") + down, shape.text or "", parse_math=False,
                color=shape.get("fill"), fontsize=0.87 * _FONT_SIZE,  # DejaVu Sans is wider
                horizontalalignment=anchors[shape.get("text-anchor", "start")],
            )  # fmt: skip
        case "polygon":
            return Polygon(_places(shape, down), alpha=number("fill-opacity"), **colours)
        case "polyline":
            places = _places(shape, down)
        case _:
            places = [(number(f"x{end}"), number(f"y{end}") + down) for end in "12"]
    dashes = [float(length) for length in shape.get("stroke-dasharray", "").split()]
    style = (0, [length / number("stroke-width") for length in dashes]) if dashes else "-"
    look: dict[str, Any] = {
        "color": shape.get("stroke"),
        "linewidth": number("stroke-width"),
        "linestyle": style,
    }
    return Line2D(*zip(*places, strict=True), solid_joinstyle="round", **look)


def _places(shape: ET.Element, down: float) -> list[tuple[float, float]]:
    pairs = (place.split(",") for place in shape.get("points", "").split())
    return [(float(x), float(y) + down) for x, y in pairs]
