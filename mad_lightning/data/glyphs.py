r"""Characters drawn at random: an image source with classes that never runs out.

Finite data cannot show what fresh data does at the paper's sizes, and it leaves one reference to
measure with. Here every sample is computed from its seed, so there are as many training sets and
references as anybody wants, and nothing is downloaded: the shapes are those of 20 fonts that
matplotlib brings along, of five families (DejaVu Sans, Sans Mono and Serif, STIX, Computer Modern).

**The law.** Independent of each other, for each sample:

==============  =============================================================================
character       each alike, or as asked; it is the class
font            each alike
height          0.68 (1 + 0.15 U) of the side, of what is as high as the font's digit 0
width           stretched by 1 + 0.15 U
turn            by the angle whose half has the tangent 0.1 U: at most 11.4 degrees
lean            0.2 U of the height
place           0.06 U of the side off the middle, across and down
bend            the three quadratic terms of each coordinate, 0.06 U each
stroke          each edge moved outwards by 0.02 U of the height
paper, ink      U(0, 0.1) and U(0.65, 1); in colour U(0, 0.35) and U(0.65, 1) for each channel, and
                a coin says which of the two is dark
noise           N(0, noise²), each pixel and channel
==============  =============================================================================

where each U is uniform in (-1, 1), and U(a, b) in (a, b); 1 is white.

**How.** Of each shape a table holds the distance to its outline, negative inside. A pixel looks up
the distance where it lies on the upright character; moving an edge is adding to the distance, and
an edge has the same softness at any size. Coordinates and grey levels are made by addition,
multiplication, division and rounding alone, which IEEE 754 fixes to the last bit, and noise by
:func:`~mad_lightning.seeds.normal`: a sample is the same in any block, on any number of processes.
Outlines are read by fontTools; FreeType's differ from version to version.
"""

from __future__ import annotations

import logging
import string
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mad_lightning.data.laws import LawSource
from mad_lightning.refusal import Refused, check_one_of, check_within
from mad_lightning.samples import Samples, SampleSpec
from mad_lightning.seeds import normal, uniform

__all__ = ["Glyphs"]

_FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
    "STIXGeneralBolIta", "cmr10", "cmb10", "cmss10", "cmtt10",
)  # fmt: skip
"""Files that matplotlib 3.9 and 3.11 bring with the same content."""
_TABLE = 64
"""Rows and columns of a table of distances; it reaches 1 digit's height from the middle."""
_PIECES = 8
"""Straight pieces of a curve."""
_BLOCK = 2**18
"""Pixels that are drawn at once: what a core's cache holds."""


class Glyphs(LawSource):
    """Characters with random fonts, shapes, strokes and noise, as many as anybody wants.

    Args:
        resolution: Height and width, 8 to 64.
        channels: 1, or 3 for colour.
        characters: What is drawn, Latin letters and digits; each is a class.
        labels: Whether samples carry their classes.
        noise: Standard deviation of the noise; the range from black to white is 1.

    Raises:
        Refused: If an argument lies outside its range, or matplotlib's fonts are not there.
    """

    name = "glyphs"

    def __init__(
        self,
        resolution: int = 16,
        channels: Literal[1, 3] = 1,
        characters: str = string.digits,
        labels: bool = True,
        noise: float = 0.02,
    ) -> None:
        check_within("[8, 64]", "e.g. 16", resolution=resolution)
        check_one_of((1, 3), channels=channels)
        check_within("[0, 1]", "e.g. 0.02", noise=noise)
        strange = sorted(set(characters) - set(string.ascii_letters + string.digits))
        if strange or not characters or len(set(characters)) < len(characters):
            problem = (
                f"{characters!r} has {''.join(strange)!r} in it"
                if strange
                else (f"{characters!r} has a character twice" if characters else "it is empty")
            )
            raise Refused("characters", problem, "give Latin letters and digits, each once")
        self.resolution, self.channels, self.characters = resolution, channels, characters
        self.labels, self.noise = labels, noise

    @property
    def spec(self) -> SampleSpec:
        """Images (channels, resolution, resolution); a class a character."""
        shape = (self.channels, self.resolution, self.resolution)
        return SampleSpec(shape, len(self.characters) if self.labels else None)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The characters."""
        return tuple(self.characters) if self.labels else ()

    @property
    def identity(self) -> str:
        """Characters, noise and the outlines, too: other fonts are other data."""
        return f"{super().identity} {self.characters} {self.noise} {_outlines(self.characters)[1]}"

    def draw(self, seeds: Tensor) -> Samples:
        """Images, block by block, with the classes they show."""
        classes = (uniform(seeds, stream=1) * len(self.characters)).long()
        values = torch.empty((len(seeds), *self.spec.shape), dtype=torch.uint8)
        size = max(1, _BLOCK // (self._side**2 * self.channels))
        for start in range(0, len(seeds), size):
            block = slice(start, start + size)
            values[block] = self._images(seeds[block], classes[block])
        return Samples(values, classes if self.labels else None)

    @property
    def _side(self) -> int:
        """Pixels across before they are averaged."""
        return self.resolution * (2 if self.resolution < 32 else 1)

    def _images(self, seeds: Tensor, classes: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8, of some classes (N,)."""
        fonts = (uniform(seeds, stream=2) * len(_FONTS)).long()
        shapes = classes * len(_FONTS) + fonts
        any_of = 2.0 * uniform(seeds, 13, stream=3).float() - 1.0
        distance, height = _distances(self.characters, shapes, any_of[:, :12], self._side)
        stroke = 0.02 * any_of[:, 12, None, None]
        ink = ((stroke - distance) * height[:, None, None] + 0.5).clamp_(0.0, 1.0)
        if self._side > self.resolution:
            ink = F.avg_pool2d(ink, 2)
        dark, light = self._colours(seeds)
        values = dark + (light - dark) * ink[:, None]
        values += self.noise * normal(seeds, *self.spec.shape, stream=5)
        return values.mul_(255.0).round_().clamp_(0.0, 255.0).to(torch.uint8)

    def _colours(self, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Of paper and ink, each (N, C, 1, 1)."""
        n = 2 * self.channels
        level = uniform(seeds, n + 1, stream=4).float()[..., None, None]
        paper = level[:, : self.channels] * (0.1 if self.channels == 1 else 0.35)
        ink = 0.65 + 0.35 * level[:, self.channels : n]
        swapped = (level[:, n:] < 0.5) & (self.channels == 3)
        return torch.where(swapped, ink, paper), torch.where(swapped, paper, ink)


def _distances(characters: str, shapes: Tensor, any_of: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Where the pixels of each sample lie on its shape.

    Args:
        characters: Whose shapes.
        shapes: Place of each sample's shape among them (N,).
        any_of: Twelve numbers from (-1, 1) for each sample, (N, 12): how it is changed.
        side: Pixels across.

    Returns:
        Distances (N, side, side) to the outline in digits' heights, negative inside, and how many
        pixels are a digit's height (N,).
    """
    zoom, wide, turn, lean, across, down, *bends = any_of[..., None, None].unbind(dim=1)
    middle = (torch.arange(side, dtype=torch.float32) - (side - 1) / 2) / side
    height = 0.68 * (1.0 + 0.15 * zoom)
    x, y = (middle - 0.06 * across) / height, (middle[:, None] - 0.06 * down) / height
    tangent = 0.1 * turn  # of half the angle
    cos = (1.0 - tangent * tangent) / (1.0 + tangent * tangent)
    sin = 2.0 * tangent / (1.0 + tangent * tangent)
    x, y = cos * x + sin * y, cos * y - sin * x
    x = (x + 0.2 * lean * y) / (1.0 + 0.15 * wide)
    squares = x * x, x * y, y * y
    for bend, square in zip(bends[:3], squares, strict=True):
        x = x + 0.06 * bend * square
    for bend, square in zip(bends[3:], squares, strict=True):
        y = y + 0.06 * bend * square
    return _looked_up(_tables(characters), shapes, x, y), height.flatten() * side


def _looked_up(tables: Tensor, shapes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear values (N, side, side) of tables at coordinates in (-1, 1), beyond them the edge's.

    Torch's own ``grid_sample`` may fuse operations, differently on different machines.
    """
    most = _TABLE - 1
    x, y = (((place + 1.0) * (most / 2)).clamp_(0.0, most) for place in (x, y))
    left, top = (place.floor().clamp_(max=most - 1) for place in (x, y))
    x, y = x - left, y - top
    corner = (top * _TABLE + left).int() + (shapes * _TABLE**2).int()[:, None, None]
    values = [tables.take(corner.long() + step) for step in (0, 1, _TABLE, _TABLE + 1)]
    upper = values[0] + x * (values[1] - values[0])
    lower = values[2] + x * (values[3] - values[2])
    return upper + y * (lower - upper)


# shapes


@cache
def _tables(characters: str) -> Tensor:
    """Distances (K, fonts, rows, columns), float32, to the outlines of K characters."""
    rows = [_table(outline) for outline in _outlines(characters)[0]]
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def _table(outline: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances to straight pieces (M, 2, 2) on a grid, negative where they wind around a point."""
    grid = np.linspace(-1.0, 1.0, _TABLE)
    x, y = grid[None, :, None], grid[:, None, None]
    (x_0, y_0), (x_1, y_1) = outline[:, 0].T, outline[:, 1].T
    across, down = x_1 - x_0, y_1 - y_0
    along = ((x - x_0) * across + (y - y_0) * down) / (across * across + down * down)
    along = along.clip(0.0, 1.0)
    off = (x - x_0 - along * across) ** 2, (y - y_0 - along * down) ** 2
    distance = np.sqrt((off[0] + off[1]).min(axis=-1))
    left_of = across * (y - y_0) - down * (x - x_0)
    winding = ((y_0 <= y) & (y < y_1) & (left_of > 0)).sum(axis=-1)
    winding -= ((y_1 <= y) & (y < y_0) & (left_of < 0)).sum(axis=-1)
    return np.where(winding != 0, -distance, distance)


@cache
def _outlines(characters: str) -> tuple[list[NDArray[np.float64]], str]:
    """Straight pieces (M, 2, 2) of characters in all fonts, and their SHA-256.

    A shape is centred; its unit is the height of its font's digit 0, and y points down.
    """
    outlines = []
    for glyphs in map(_glyphs, _FONTS):
        zero = _pieces(glyphs, "0")
        height = zero[..., 1].max() - zero[..., 1].min()
        for character in characters:
            pieces = _pieces(glyphs, character)
            ends = pieces.min(axis=(0, 1)), pieces.max(axis=(0, 1))
            outlines.append((pieces - (ends[0] + ends[1]) / 2) / height * (1.0, -1.0))
    n = len(characters)
    by_character = [outline for place in range(n) for outline in outlines[place::n]]
    digest = sha256(b"".join(outline.tobytes() for outline in by_character))
    return by_character, digest.hexdigest()


def _glyphs(font: str) -> Any:
    """The glyphs of a font by name, and the names of characters."""
    import matplotlib
    from fontTools.ttLib import TTFont

    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns of fonts made before 1970
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    try:
        opened = TTFont(path)
        return opened.getGlyphSet(), opened.getBestCmap()
    except OSError as error:
        raise Refused("", f"{path}: {error.strerror}", "install matplotlib again") from error


def _pieces(glyphs: Any, character: str) -> NDArray[np.float64]:
    """Straight pieces (M, 2, 2) of a character's outline, in the font's units."""
    from fontTools.pens.recordingPen import DecomposingRecordingPen

    glyph_set, names = glyphs
    pen = DecomposingRecordingPen(glyph_set)
    glyph_set[names[ord(character)]].draw(pen)
    points = [*_followed(pen.value)]
    pieces = np.array(points, dtype=np.float64)
    return cast(NDArray[np.float64], pieces[(pieces[:, 0] != pieces[:, 1]).any(axis=-1)])


def _followed(steps: list[tuple[str, Any]]) -> Iterator[tuple[Any, Any]]:
    """The straight pieces that a pen draws; curves of TrueType fonts are parabolas."""
    from fontTools.pens.basePen import decomposeQuadraticSegment

    start = last = (0.0, 0.0)
    for step, points in steps:
        if step == "moveTo":
            start = last = points[0]
        elif step == "lineTo":
            yield last, points[0]
            last = points[0]
        elif step == "closePath":
            yield last, start
        elif step == "qCurveTo":
            if points[-1] is None:  # a contour of controls: it begins between two of them
                start = last = _middle(points[-2], points[0])
                points = (*points[:-1], last)
            for control, end in decomposeQuadraticSegment(points):
                for piece in range(_PIECES):
                    u, v = piece / _PIECES, (piece + 1) / _PIECES
                    yield _parabola(last, control, end, u), _parabola(last, control, end, v)
                last = end
        else:
            raise ValueError(f"a font draws by {step}")


def _middle(one: Any, other: Any) -> tuple[float, float]:
    return (one[0] + other[0]) / 2, (one[1] + other[1]) / 2


def _parabola(start: Any, control: Any, end: Any, t: float) -> tuple[float, float]:
    """A point of a parabola, 0 <= t <= 1."""
    return (
        (1 - t) * (1 - t) * start[0] + 2 * t * (1 - t) * control[0] + t * t * end[0],
        (1 - t) * (1 - t) * start[1] + 2 * t * (1 - t) * control[1] + t * t * end[1],
    )
