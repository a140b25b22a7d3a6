"""A picture a generation: the same seeds and classes every time, so that change is drift."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mad_lightning.callbacks.base import LineageCallback, LineageInfo
from mad_lightning.files import write
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.lineage.ledger import GenerationRecord
from mad_lightning.refusal import check_within
from mad_lightning.samples import Samples, SampleSpec

__all__ = ["SampleGrids", "n_shown", "scatter", "sheet"]


def n_shown(n_grid: int, spec: SampleSpec) -> int:
    """How many samples a picture shows: images, or ten times as many dots."""
    return n_grid * (1 if spec.kind == "image" else 10)


def sheet(images: Tensor, columns: int, least: int = 32, gap: int = 2) -> Image.Image:
    """Lays images out in rows.

    Args:
        images: uint8 images with shape (N, C, H, W), C 1 or 3.
        columns: Images in a row.
        least: Small images are magnified, pixel by pixel, to at least this many pixels.
        gap: White pixels between images.
    """
    n, channels, height, width = images.shape
    zoom = max(1, math.ceil(least / max(height, width)))
    images = images.repeat_interleave(zoom, dim=2).repeat_interleave(zoom, dim=3)
    cell = (height * zoom + gap, width * zoom + gap)
    rows = math.ceil(n / columns)
    canvas = torch.full((channels, rows * cell[0] + gap, columns * cell[1] + gap), 255).byte()
    for place, image in enumerate(images):
        top, left = place // columns * cell[0] + gap, place % columns * cell[1] + gap
        canvas[:, top : top + height * zoom, left : left + width * zoom] = image
    pixels = canvas.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels[..., :3])


def scatter(
    vectors: Tensor, side: int = 320, reach: float = 4.0, centre: Sequence[float] = (0.0, 0.0)
) -> Image.Image:
    """Draws vectors (N, D) as dots in their first two coordinates, on a fixed window.

    One-dimensional vectors lie on a line. The window reaches from its centre by ``reach`` in both
    directions, the same for every generation, so that shrinking and wandering show; grey lines
    mark the zeros of both coordinates.
    """
    canvas = torch.full((side, side), 255).byte()
    xy = torch.zeros(1 + len(vectors), 2)  # the origin comes first
    xy[1:, : min(2, vectors.shape[1])] = vectors[:, :2]
    place = (((xy - torch.tensor(centre)) / reach + 1.0) * (side / 2)).round().long()
    column, row = place[0].tolist()
    if 0 <= row < side:
        canvas[side - 1 - row, :] = 225
    if 0 <= column < side:
        canvas[:, column] = 225
    place = place[1:][((place[1:] >= 1) & (place[1:] < side - 1)).all(dim=1)]
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            canvas[side - 1 - place[:, 1] + dy, place[:, 0] + dx] = 40
    return Image.fromarray(canvas.numpy())


class SampleGrids(LineageCallback):
    """Draws a picture into a generation's directory.

    Args:
        every: Generations from one picture to the next: 1 draws all of them, 100 those of
            generations 1, 100, 200, ... in a lineage of thousands.
        reach: Of vectors, how far the picture's window reaches from its centre.
        centre: Middle of the window, (x, y).
    """

    def __init__(
        self, every: int = 1, reach: float = 4.0, centre: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        check_within("[1, inf)", every=every)
        check_within("(0, inf)", "e.g. 4", reach=reach)
        check_within("(-inf, inf)", centre=centre)
        self.every, self.reach, self.centre = every, reach, centre

    def wants_samples(self, t: int) -> bool:
        """In the first generation, and in every ``every``-th."""
        return t == 1 or t % self.every == 0

    def on_samples_ready(self, t: int, directory: Path, samples: Samples) -> None:
        """Images as a sheet with a column a class, if they fit; vectors as a scatter plot."""
        if self.wants_samples(t):
            self._draw(directory / LineageDirectory.PICTURE, samples)

    def on_lineage_start(self, lineage: LineageInfo, records: Sequence[GenerationRecord]) -> None:
        """Remembers where real samples are to be had."""
        self._lineage = lineage

    def on_generation_end(self, record: GenerationRecord, directory: Path) -> None:
        """Once in a lineage, real samples in the same way, to compare with."""
        real, path = self._lineage.real_samples, self._lineage.directory.picture(0)
        if real is not None and not path.exists():
            self._draw(path, real())

    def _draw(self, path: Path, samples: Samples) -> None:
        if samples.values.ndim == 4:
            classes = 0 if samples.labels is None else len(samples.labels.unique())
            picture = sheet(samples.values, columns=classes if 2 <= classes <= 20 else 10)
        else:
            picture = scatter(samples.values, reach=self.reach, centre=self.centre)
        file = io.BytesIO()
        picture.save(file, "PNG", compress_level=3)  # 6 takes twice as long for a fifth less
        write(path, file.getvalue(), lasting=False)
