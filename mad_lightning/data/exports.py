"""Samples as files that other programs read, and that this one reads back as the same samples.

A folder holds a PNG a sample, in a folder a class (torchvision's ``ImageFolder``). An archive is a
zip as StyleGAN's ``dataset_tool.py`` writes it, classes in ``dataset.json``. Arrays are a ``.npz``
with ``values`` and ``labels``, which holds vectors as well.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples

__all__ = ["write_archive", "write_arrays", "write_folder"]


def write_folder(samples: Samples, path: Path, classes: Sequence[str] = ()) -> None:
    """Writes images (N, C, H, W) as PNGs.

    Args:
        samples: C is 1 or 3.
        path: The folder.
        classes: What the classes are called, if they have names.

    Raises:
        Refused: If samples are no pictures.
    """
    # A number before the name: read back, classes are in the order of their folders.
    names = [re.sub(r"[^\w.+-]", "_", f"_{name}") for name in classes]
    for n, (label, png) in enumerate(_pictures(samples)):
        place = path
        if label is not None:
            place = path / (f"{label:04d}" + (names[label] if names else ""))
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{n:06d}.png").write_bytes(png)


def write_archive(samples: Samples, path: Path) -> None:
    """Writes images (N, C, H, W) as a zip of PNGs.

    Args:
        samples: C is 1 or 3.
        path: The zip.

    Raises:
        Refused: If samples are no pictures.
    """
    labels: list[tuple[str, int]] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for n, (label, png) in enumerate(_pictures(samples)):
            name = f"{n // 1000:05d}/img{n:08d}.png"
            archive.writestr(name, png)
            if label is not None:
                labels.append((name, label))
        archive.writestr("dataset.json", json.dumps({"labels": labels or None}))


def write_arrays(samples: Samples, path: Path) -> None:
    """Writes ``values``, images (N, C, H, W) or vectors (N, D), and ``labels`` (N,)."""
    arrays = {"values": samples.values.numpy()}
    if samples.labels is not None:
        arrays["labels"] = samples.labels.numpy()
    with path.open("wb") as file:  # by a name, numpy would add an ending
        np.savez(file, **arrays)  # type: ignore[arg-type] # taken for its flag


def _pictures(samples: Samples) -> Iterator[tuple[int | None, bytes]]:
    """Class and PNG of each image."""
    if samples.values.ndim != 4 or samples.values.shape[1] not in (1, 3):
        shape = tuple(samples.values.shape[1:])
        raise Refused("to", f"samples of shape {shape} are no pictures", "export them `to: npz`")
    labels = [None] * len(samples) if samples.labels is None else samples.labels.tolist()
    for image, label in zip(samples.values, labels, strict=True):
        file = io.BytesIO()
        pixels = image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels.squeeze(2) if len(image) == 1 else pixels).save(file, "PNG")
        yield label, file.getvalue()
