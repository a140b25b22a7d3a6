"""CIFAR-10 as it is handed out: archives or what was unpacked from them, for Python or in binary.

The Python version is made of pickles, which may run anything when they are opened. Its batches need
nothing but dictionaries and arrays, so only these are let in, and a file that asks for more is
refused. The binary version is records of a class and 3,072 bytes. Both hold the same images in the
same order.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mad_lightning.data.sources import RealSet, Source, download
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples

__all__ = ["CIFAR10"]

_PYTHON, _BINARY = "cifar-10-batches-py", "cifar-10-batches-bin"
_PLACES = {
    _PYTHON: ("cifar-10-python.tar.gz", ""),
    _BINARY: ("cifar-10-binary.tar.gz", ".bin"),
}
"""Folders, the archives that hold them, and how batches end."""
_TRAIN, _TEST = tuple(f"data_batch_{n}" for n in range(1, 6)), ("test_batch",)
_PIXELS = 3 * 32 * 32
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}
"""What a pickled array is made of."""


class CIFAR10(Source):
    """Small photographs (Krizhevsky, 2009): 50,000 + 10,000 of 3 x 32 x 32, ten classes.

    Args:
        root: Folder that holds ``cifar-10-batches-py/`` or ``cifar-10-batches-bin/``, or their
            archives as they were fetched, ``cifar-10-python.tar.gz`` or ``cifar-10-binary.tar.gz``.
        download: Whether torchvision may fetch what is missing.
        labels: Whether samples carry their class.
    """

    name = "cifar10"

    def __init__(self, root: str = "data", download: bool = False, labels: bool = True) -> None:
        self.root, self.download, self.labels = root, download, labels

    def load(self, cache: Path) -> RealSet:
        """Reads five batches to train on, and one that is held out."""
        root = Path(self.root).expanduser()
        place = self._find(root)
        if place is None and self.download:
            download("CIFAR10", root)
            place = self._find(root)
        if place is None:
            archive, binary = (archive for archive, _ in _PLACES.values())
            raise Refused(
                "root",
                f"{root} holds no CIFAR-10: neither {_PYTHON}/ nor {_BINARY}/, nor their archives",
                f"put {archive} or {binary} into {root}, packed or unpacked, or let torchvision "
                "fetch it: `download: true`",
            )
        read = _reader(*place)
        train, test = (_split(read, names, *place) for names in (_TRAIN, _TEST))
        if not self.labels:
            train, test = Samples(train.values), Samples(test.values)
        return RealSet(train, test, 10 if self.labels else None)

    @staticmethod
    def _find(root: Path) -> tuple[Path, str] | None:
        """A folder of batches, or else an archive; and which version it is."""
        for folder in _PLACES:
            if (root / folder).is_dir():
                return root / folder, folder
        for folder, (archive, _) in _PLACES.items():
            if (root / archive).is_file():
                return root / archive, folder
        return None


def _reader(path: Path, folder: str) -> Callable[[str], bytes]:
    """Lets files be read by name, from a folder or from an archive."""
    if path.is_dir():
        return lambda name: (path / name).read_bytes()
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                inner = Path(member.name)
                if member.isfile() and inner.parent.name == folder:
                    files[inner.name] = archive.extractfile(member).read()  # type: ignore[union-attr]
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise Refused("root", f"{path}: {error}", "fetch the archive again") from error
    return files.__getitem__


def _split(read: Callable[[str], bytes], names: Sequence[str], path: Path, folder: str) -> Samples:
    """The samples of some batches.

    Raises:
        Refused: If one is missing or is not what it should be.
    """
    values, labels = [], []
    for name in names:
        file = name + _PLACES[folder][1]
        try:
            pixels, classes = (_plain if folder == _PYTHON else _records)(read(file))
        except (KeyError, OSError) as error:
            problem = f"{path} has no {file}" if isinstance(error, KeyError) else f"{error}"
            raise Refused("root", problem, "fetch it again") from error
        except Exception as error:  # a pickle raises what it pleases
            problem = f"{file} in {path} is damaged, or no batch of CIFAR-10: {error}"
            raise Refused("root", problem, "fetch it again") from error
        values.append(pixels)
        labels.append(classes)
    images = torch.from_numpy(np.concatenate(values)).view(-1, 3, 32, 32)
    return Samples(images, torch.from_numpy(np.concatenate(labels)))


def _records(content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A batch of the binary version: a class and the pixels, again and again."""
    if not content or len(content) % (1 + _PIXELS):
        raise ValueError(f"{len(content)} bytes are no records of {1 + _PIXELS}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PIXELS)
    return _checked(rows[:, 1:], rows[:, 0])


def _plain(content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A batch of the Python version: a dictionary of pixels and classes, and nothing else."""
    batch = _Plain(io.BytesIO(content), encoding="bytes").load()
    batch = {key if isinstance(key, bytes) else str(key).encode(): batch[key] for key in batch}
    missing = {b"data", b"labels"} - batch.keys()
    if missing:
        raise ValueError(f"no {', '.join(sorted(key.decode() for key in missing))} in it")
    return _checked(batch[b"data"], np.asarray(batch[b"labels"]))


class _Plain(pickle.Unpickler):
    """Opens what consists of plain values and arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """Lets arrays in.

        Raises:
            pickle.UnpicklingError: At anything else.
        """
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        if module.startswith("numpy") and name == "_reconstruct":
            module = "numpy._core.multiarray"  # as numpy calls it now
        return super().find_class(module, name)


def _checked(pixels: Any, classes: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    fits = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8
    if not fits or pixels.shape != (len(classes), _PIXELS) or not len(classes):
        raise ValueError(f"its pixels are no uint8 of shape ({len(classes)}, {_PIXELS})")
    if classes.dtype.kind not in "iu" or classes.min() < 0 or classes.max() > 9:
        raise ValueError("its classes are no numbers from 0 to 9")
    return pixels, classes.astype(np.int64)
