"""Samples that lie somewhere, taken one by one: pictures, arrays, or a shard.

Whatever a program leaves behind can be compared with what another one left, as long as both are
framed alike. What it is, its name tells: ``.npy`` and ``.npz`` are arrays, ``.safetensors`` is a
shard of a lineage or anything else with a tensor ``values``, and all else is a folder or a zip of
pictures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mad_lightning.data.pictures import Framing, Pictures, framed, stream
from mad_lightning.data.shards import Shard, load_tensors
from mad_lightning.data.sources import Arrays
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples

__all__ = ["Found", "FoundSamples", "found"]

Shape = tuple[int, ...]


class Found(ABC):
    """Abstract set of samples that lie somewhere."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many there are."""

    @abstractmethod
    def stream(self, rows: Sequence[int], framing: Framing) -> tuple[Shape, Iterator[NDArray[Any]]]:
        """Some of the samples, one after the other.

        Args:
            rows: Which ones, in this order.
            framing: What to make of pictures.

        Returns:
            Shape of every sample, (C, H, W) or (D,), known before any is decoded; and the samples,
            uint8 or float32.

        Raises:
            Refused: If they are not alike, or cannot be framed; later, from the iterator, if one
                cannot be read.
        """


class _FoundPictures(Found):
    def __init__(self, root: str) -> None:
        self.pictures = Pictures.at(root)

    @property
    def count(self) -> int:
        return len(self.pictures.names)

    def stream(self, rows: Sequence[int], framing: Framing) -> tuple[Shape, Iterator[NDArray[Any]]]:
        names = self.pictures.names
        self.pictures.names = [names[row] for row in rows]
        return stream(self.pictures, framing, "measuring")


class FoundSamples(Found):
    """Samples that are numbers already.

    Args:
        samples: They need not fit into memory.
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.samples)

    def stream(self, rows: Sequence[int], framing: Framing) -> tuple[Shape, Iterator[NDArray[Any]]]:
        """The samples as they are, or framed as a picture would be."""
        shape = tuple(self.samples.values.shape[1:])
        values = (self.samples.values[row].numpy() for row in rows)
        channels = framing.channels or shape[0]
        if framing.resolution is None and channels == shape[0]:
            return shape, values
        if len(shape) != 3 or shape[0] not in (1, 3):
            field = "channels" if framing.resolution is None else "resolution"
            raise Refused(field, f"samples of shape {shape} are no pictures", "leave it out")
        size = shape[1:] if framing.resolution is None else (framing.resolution,) * 2
        return (channels, *size), (framed(_picture(pixels), framing) for pixels in values)


def _picture(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def found(root: str) -> Found:
    """What lies at a place.

    Args:
        root: A folder, a zip, a ``.npy``, ``.npz`` or ``.safetensors``.

    Raises:
        Refused: If it is none of them, or cannot be read.
    """
    path = Path(root).expanduser()
    if path.suffix in (".npy", ".npz"):
        return FoundSamples(_arrays(path))
    if path.suffix == ".safetensors":
        return FoundSamples(_tensors(path))
    return _FoundPictures(root)


def _arrays(path: Path) -> Samples:
    """The samples of a numpy file: ``values``, or all that could be samples."""
    name = None
    try:
        with np.load(path, mmap_mode="r") as arrays:  # an array is no context
            several = {key: arrays[key].ndim for key in arrays.files}
    except Exception:  # which is told below
        several = {}
    if len(several) > 1:  # beside classes, as many programs store them
        large = [key for key, ndim in several.items() if ndim > 1]
        name = "values" if "values" in several else large[0] if len(large) == 1 else None
    try:
        return Arrays(str(path), name).load(Path()).samples
    except Refused as refused:
        remedy = refused.remedy
        if refused.field == "values":
            remedy = f"call one of them values; now they are {', '.join(several)}"
        raise Refused("root", refused.problem, remedy) from refused.__cause__


def _tensors(path: Path) -> Samples:
    """The samples of a safetensors file, as its manifest tells where there is one."""
    shard = Shard(path.with_suffix(""))
    again = "name a file of samples, e.g. the shard of a generation"
    try:
        if shard.exists:
            return shard.samples
        values = load_tensors(path)[0].get("values")
    except OSError as error:
        raise Refused("root", str(error), again) from None
    kinds = {(torch.uint8, 4), (torch.float32, 2)}
    if values is None or (values.dtype, values.ndim) not in kinds:
        what = "no tensor values" if values is None else f"{values.dtype} {tuple(values.shape)}"
        problem = f"{path} holds {what}"
        raise Refused("root", problem, "give images (N, C, H, W), uint8, or vectors (N, D)")
    return Samples(values)
