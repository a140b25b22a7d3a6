"""A picture a generation: the same seeds and classes every time, so that change is drift."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mad_lightning.callbacks.base import LineageCallback
from mad_lightning.lineage import write_atomically
from mad_lightning.samples import Samples

__all__ = ["SampleGrids", "grid", "scatter"]


def grid(images: Tensor, columns: int, least: int = 32, gap: int = 2) -> Image.Image:
    """Lays images out in rows.

    Args:
        images: uint8 images with shape (N, C, H, W), C 1 or 3.
        columns: Images in a row.
        least: Small images are magnified, pixel by pixel, to at least this many pixels.
        gap: White pixels between images.
    """
    n, channels, height, width = images.shape
    zoom = max(1, -(-least // max(height, width)))
    images = images.repeat_interleave(zoom, dim=2).repeat_interleave(zoom, dim=3)
    cell = (height * zoom + gap, width * zoom + gap)
    rows = -(-n // columns)
    canvas = torch.full((channels, rows * cell[0] + gap, columns * cell[1] + gap), 255).byte()
    for place, image in enumerate(images):
        top, left = place // columns * cell[0] + gap, place % columns * cell[1] + gap
        canvas[:, top : top + height * zoom, left : left + width * zoom] = image
    pixels = canvas.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels[..., :3])


def scatter(vectors: Tensor, side: int = 320, reach: float = 4.0) -> Image.Image:
    """Draws vectors (N, D) as dots in their first two coordinates, on a fixed window.

    One-dimensional vectors lie on a line. The window is [-reach, reach] in both directions, the
    same for every generation, so that shrinking and wandering show.
    """
    canvas = torch.full((side, side), 255).byte()
    canvas[side - 1 - side // 2, :] = canvas[:, side // 2] = 225
    xy = torch.zeros(len(vectors), 2)
    xy[:, : min(2, vectors.shape[1])] = vectors[:, :2]
    place = ((xy / reach + 1.0) * (side / 2)).round().long()
    place = place[((place >= 1) & (place < side - 1)).all(dim=1)]
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            canvas[side - 1 - place[:, 1] + dy, place[:, 0] + dx] = 40
    return Image.fromarray(canvas.numpy())


class SampleGrids(LineageCallback):
    """Writes ``samples.png`` into every generation's directory."""

    def on_samples_ready(self, t: int, directory: Path, samples: Samples, columns: int) -> None:
        """Images as a grid, vectors as a scatter plot."""
        values = samples.values
        picture = grid(values, columns) if values.ndim == 4 else scatter(values)
        file = io.BytesIO()
        picture.save(file, "PNG")
        write_atomically(directory / "samples.png", file.getvalue())
