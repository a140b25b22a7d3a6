"""Samples as files that other programs read, and samples that other programs have written.

A folder holds a PNG a sample, in a folder a class (torchvision's ``ImageFolder``). An archive is a
zip as StyleGAN's ``dataset_tool.py`` writes it, classes in ``dataset.json``. Arrays are a ``.npz``
with ``values`` and ``labels``, which holds vectors as well, and so does Parquet, a row a sample, as
Hugging Face's ``datasets`` reads it.

What others have written is believed only as far as it was asked for: as many samples, of that
shape, and nothing is resized or recoloured behind anybody's back.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec

__all__ = [
    "natural",
    "read_written",
    "write_archive",
    "write_arrays",
    "write_folder",
    "write_parquet",
]

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_MODES = {1: "L", 3: "RGB"}
"""Pillow's names for grey and colour of 8 bits."""


def natural(name: str) -> tuple[list[list[str | int]], str]:
    """Sort key of a relative path: folder by folder, ``img2`` before ``img10``."""
    parts = [re.split("([0-9]+)", part) for part in name.split("/")]
    return [[int(x) if at % 2 else x for at, x in enumerate(part)] for part in parts], name


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


def write_parquet(samples: Samples, path: Path, classes: Sequence[str] = ()) -> None:
    """Writes a row a sample: ``image`` as PNG or ``vector`` (D,), and ``label``.

    Args:
        samples: Images, of which C is 1 or 3, or vectors.
        path: The file.
        classes: What the classes are called, if they have names.

    Raises:
        Refused: If pyarrow is not installed, or images are no pictures.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        problem = "Parquet is written by pyarrow, which is not installed"
        raise Refused("", problem, "pip install 'mad-lightning[parquet]', or take npz") from None
    is_image = samples.values.ndim == 4
    name, kind = "vector", pa.list_(pa.float32(), samples.values[0].numel())
    if is_image:
        name, kind = "image", pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns: dict[str, Any] = {name: kind}
    features: dict[str, Any] = {name: {"_type": "Image"}} if is_image else {}
    if samples.labels is not None:
        columns["label"] = pa.int64()
        names = list(classes) or list(map(str, range(int(samples.labels.max()) + 1)))
        features["label"] = {"_type": "ClassLabel", "names": names}
    told = {"huggingface": json.dumps({"info": {"features": features}})} if is_image else None
    schema = pa.schema(columns, told)
    with parquet.ParquetWriter(path, schema) as file:
        for start in range(0, len(samples), 1000):
            part = samples[start : start + 1000]
            rows = {name: part.values.tolist()}
            if is_image:
                pngs = enumerate((png for _, png in _pictures(part)), start)
                rows[name] = [{"bytes": png, "path": f"{n:06d}.png"} for n, png in pngs]
            if part.labels is not None:
                rows["label"] = part.labels.tolist()
            file.write_table(pa.table(rows, schema))


def _pictures(samples: Samples) -> Iterator[tuple[int | None, bytes]]:
    """Class and PNG of each image."""
    if samples.values.ndim != 4 or samples.values.shape[1] not in (1, 3):
        shape = tuple(samples.values.shape[1:])
        raise Refused("", f"samples of shape {shape} are no pictures", "write arrays, npz")
    labels = [None] * len(samples) if samples.labels is None else samples.labels.tolist()
    for image, label in zip(samples.values, labels, strict=True):
        file = io.BytesIO()
        pixels = image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels.squeeze(2) if len(image) == 1 else pixels).save(file, "PNG")
        yield label, file.getvalue()


# --- what others have written ---------------------------------------------------------------------


def read_written(place: Path, n: int, spec: SampleSpec) -> Tensor:
    """Reads samples that a program has written.

    Args:
        place: Its folder of pictures, also in folders, taken in the natural order of their names.
            Or ``<place>.npz``, or one ``.npz`` in the folder: an array ``values``, or the only one;
            images (N, C, H, W), (N, H, W, C) or grey (N, H, W), uint8, or vectors (N, D).
        n: How many it was asked for.
        spec: What they should look like.

    Returns:
        Values (n, ...) as they are stored.

    Raises:
        Refused: If they are fewer, more, or others.
    """
    beside = place.with_name(f"{place.name}.npz")
    arrays = [beside] if beside.exists() else sorted(place.rglob("*.npz"))
    found = (path for path in place.rglob("*") if path.suffix.lower() in _PICTURES)
    names = sorted((path.relative_to(place).as_posix() for path in found), key=natural)
    if len(arrays) == 1 and not names:
        return _stored_array(arrays[0], n, spec)
    if len(names) != n:
        some = f" ({', '.join(names[:2])}, ..., {names[-1]})" if len(names) > 2 else ""
        raise Refused(
            "",
            f"it was asked for {n} samples and wrote {len(names)} pictures{some}",
            "let it write one picture a seed, of any name, and nothing else; or one .npz",
        )
    if spec.kind != "image":
        raise Refused("", f"it wrote pictures, samples are vectors {spec.shape}", "write one .npz")
    values = torch.empty(n, *spec.shape, dtype=spec.dtype)
    for row, name in zip(values, names, strict=True):
        row.copy_(_pixels(place / name, name, spec))
    return values


def _pixels(path: Path, name: str, spec: SampleSpec) -> Tensor:
    """One picture (C, H, W), if it is as it should be."""
    channels, height, width = spec.shape
    try:
        with Image.open(path) as image:
            pixels = np.array(image)
            is_right = (image.mode, image.size) == (_MODES.get(channels), (width, height))
            what = f"{image.mode}, {image.width} x {image.height}"
    except Exception as error:  # readers raise what they please on a broken file
        raise Refused("", f"{name} cannot be read: {error}", "let it write PNGs") from None
    if not is_right:
        problem = f"{name} is {what}, samples are {_MODES.get(channels)}, {width} x {height}"
        raise Refused("", problem, "let it write what it was trained on, in 8 bits")
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


def _stored_array(path: Path, n: int, spec: SampleSpec) -> Tensor:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            name = (
                "values" if "values" in arrays.files or len(arrays.files) != 1 else arrays.files[0]
            )
            values = torch.from_numpy(arrays[name])
    except Exception as error:  # as above
        raise Refused("", f"{path.name}: {error}", "let it write one array, values") from None
    given = f"{path.name} holds {tuple(values.shape)}, {values.dtype}"
    if spec.kind == "image" and values.dtype == torch.uint8:
        channels, height, width = spec.shape
        if values.shape == (n, height, width, channels) != (n, *spec.shape):
            values = values.permute(0, 3, 1, 2).contiguous()
        elif values.shape == (n, height, width) and channels == 1:
            values = values[:, None]
    kind_fits = values.is_floating_point() if spec.kind == "vector" else values.dtype == spec.dtype
    if tuple(values.shape) != (n, *spec.shape) or not kind_fits:
        wanted = f"{(n, *spec.shape)}, {spec.dtype}"
        raise Refused("", given, f"let it write {wanted}, one row a seed")
    return values.to(spec.dtype)
