"""Real data by name: what a lineage learns from before it learns from itself.

A source turns a name and a place into a :class:`RealSet`: every sample as stored bytes, in an order
that depends on the data alone. The lineage's seed decides later who is trained on and who is held
out (``real.py``), so two machines with the same data agree on every sample.

Constructors only keep their arguments; all reading happens in :meth:`Source.load`. Data that is not
there is refused with the place where it was looked for, and nothing is downloaded unasked.
"""

from __future__ import annotations

import gzip
import math
import zlib
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mad_lightning.data.labels import numbered
from mad_lightning.data.pictures import Filter, Framing, Pictures, load_once
from mad_lightning.files import locked
from mad_lightning.identity import Described
from mad_lightning.refusal import Refused, check_memory, check_one_of, check_within
from mad_lightning.samples import Samples, SampleSpec
from mad_lightning.seeds import sample_seeds, uniform

__all__ = [
    "MNIST",
    "Arrays",
    "Digits",
    "FashionMNIST",
    "Images",
    "Photos",
    "RealSet",
    "Source",
    "download",
]


@dataclass(frozen=True, eq=False)
class RealSet:
    """What a source loads.

    Attributes:
        samples: Everything that may be trained on, in the source's own fixed order.
        held_out: Official test split if the data set has one; never trained on.
        classes: Number of classes if samples carry labels 0 .. classes-1, else None.
        samples_digest: Digest of ``samples`` if somebody has already taken it.
        class_names: What the classes 0, 1, ... are called, where they are no plain numbers.
    """

    samples: Samples
    held_out: Samples | None
    classes: int | None
    samples_digest: str | None = None
    class_names: tuple[str, ...] = ()

    @property
    def spec(self) -> SampleSpec:
        """What one sample looks like."""
        return SampleSpec(tuple(self.samples.values.shape[1:]), self.classes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, wherever it was read from."""
        samples = self.samples_digest or self.samples.digest()
        held_out = None if self.held_out is None else self.held_out.digest()
        return sha256(f"{samples} {held_out} {self.classes}".encode()).hexdigest()


class Source(Described, ABC):
    """Abstract source of real data. A new one is one small class that implements :meth:`load`."""

    name: ClassVar[str]
    """The token in file names, ledgers and tables."""

    @abstractmethod
    def load(self, cache: Path) -> RealSet:
        """Reads the data.

        Args:
            cache: Directory where costly results may be kept for the next time.

        Raises:
            Refused: If the data is not there, or is not what it should be.
        """


class Digits(Source):
    """The 1,797 handwritten digits that scikit-learn ships: 1 x 8 x 8, ten classes, no download.

    Grey levels 0..16 become 0..255. There is no official test split.
    """

    name = "digits"

    def load(self, cache: Path) -> RealSet:
        """Reads the digits from the installed package."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        values = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)[:, None]
        return RealSet(Samples(values, torch.from_numpy(digits.target).long()), None, 10)


class Photos(Source):
    """Random squares of the two photographs that scikit-learn ships: 3 channels, no download.

    For trials of colour models. Squares overlap, so a held-out one shows nothing really new.

    Args:
        resolution: Height and width; squares of twice that are cut out and averaged 2 x 2.
        n: How many squares, half of each photograph.
        labels: Whether the photograph (0 a temple, 1 a flower) is the class.
    """

    name = "photos"

    def __init__(self, resolution: int = 32, n: int = 4000, labels: bool = False) -> None:
        check_within("[1, 213]", "the photographs are 427 px high", resolution=resolution)
        check_within("[2, inf)", n=n)
        check_memory("n", 15.0 * n * resolution**2, f"{n:,} squares", "take fewer, or smaller ones")
        self.resolution, self.n, self.labels = resolution, n, labels

    def load(self, cache: Path) -> RealSet:
        """Cuts squares at places that are the same everywhere."""
        from sklearn.datasets import load_sample_images

        photos = [torch.tensor(photo).permute(2, 0, 1) for photo in load_sample_images().images]
        side = 2 * self.resolution
        labels = torch.arange(self.n) % len(photos)
        places = uniform(sample_seeds(0, self.n, "photos"), 2)
        squares = []
        for label, (down, across) in zip(labels.tolist(), places.tolist(), strict=True):
            _, height, width = photos[label].shape
            top, left = int(down * (height - side + 1)), int(across * (width - side + 1))
            squares.append(photos[label][:, top : top + side, left : left + side])
        values = F.avg_pool2d(torch.stack(squares).float(), 2).round().to(torch.uint8)
        classes = len(photos) if self.labels else None
        return RealSet(Samples(values, labels if self.labels else None), None, classes)


# --- data sets that torchvision knows -----------------------------------------------------------


def download(dataset: str, root: Path) -> None:
    """Lets torchvision fetch a data set; of several processes, the first does."""
    from torchvision import datasets

    root.mkdir(parents=True, exist_ok=True)
    # A folder of files, of which torchvision itself tells whether they are all there.
    with locked(root / f".{dataset}.lock"):
        try:
            getattr(datasets, dataset)(str(root), download=True)
        except (RuntimeError, OSError) as error:
            raise Refused(
                "download",
                f"{dataset} could not be downloaded: {error}",
                f"try again, or fetch it elsewhere and put it into {root}",
            ) from error


def _read_idx(path: Path, dims: int) -> Tensor:
    """Reads an idx file, plain or gzipped: two zeros, type 8 = uint8, rank, sizes, bytes.

    torchvision's reader takes neither gzip nor offence at a file that was cut short.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise Refused("root", f"{path}: {error}", "fetch the file again") from error
    start = 4 + 4 * dims
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    size = math.prod(shape)
    if content[:4] != bytes((0, 0, 8, dims)) or not 0 < size == len(content) - start:
        raise Refused(
            "root",
            f"{path} is no idx file of uint8 with {dims} dimensions, or is incomplete",
            "fetch the file again",
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(shape)


class _Idx(Source):
    """Abstract data set in the four files of MNIST."""

    folder: ClassVar[str]
    elsewhere: ClassVar[str | None] = None

    def __init__(self, root: str = "data", download: bool = False, labels: bool = True) -> None:
        self.root, self.download, self.labels = root, download, labels

    @staticmethod
    def _files(folder: Path) -> dict[str, Path]:
        """The files that a folder has, plain before gzipped, by name."""
        files = {}
        for split in ("train", "t10k"):
            for name in (f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte"):
                paths = (folder / name, folder / f"{name}.gz")
                path = next((path for path in paths if path.is_file()), None)
                if path is not None:
                    files[name] = path
        return files

    def _find(self, folder: Path) -> dict[str, Path]:
        for place in (folder, *([] if self.elsewhere is None else [Path(self.elsewhere)])):
            if len(files := self._files(place)) == 4:
                return files
        return {}

    def load(self, cache: Path) -> RealSet:
        """Reads the idx files: the train split to train on, the test split held out."""
        root = Path(self.root).expanduser()
        folder = root / self.folder / "raw"
        files = self._find(folder)
        if not files and self.download:
            download(self.folder, root)
            files = self._find(folder)
        if not files:
            have = len(self._files(folder))
            raise Refused(
                "root",
                f"{folder} holds {have} of the 4 files of {self.folder}"
                + ("" if self.elsewhere is None else f", and {self.elsewhere} not all either"),
                "put train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
                f"t10k-labels-idx1-ubyte (plain or .gz) into {folder}, or let torchvision fetch "
                "them: `download: true`",
            )
        train, held_out = self._split(files, "train"), self._split(files, "t10k")
        return RealSet(train, held_out, 10 if self.labels else None)

    def _split(self, files: dict[str, Path], split: str) -> Samples:
        images = files[f"{split}-images-idx3-ubyte"]
        values = _read_idx(images, dims=3)[:, None]
        labels = _read_idx(files[f"{split}-labels-idx1-ubyte"], dims=1).long()
        if len(labels) != len(values) or labels.max() > 9:
            raise Refused(
                "root",
                f"{images} holds {len(values)} images, beside it lie {len(labels)} labels from "
                f"{labels.min()} to {labels.max()}",
                "fetch both files again",
            )
        return Samples(values, labels if self.labels else None)


class MNIST(_Idx):
    """Handwritten digits (LeCun et al., 1998): 60,000 + 10,000 of 1 x 28 x 28, ten classes.

    Args:
        root: Folder that holds ``MNIST/raw/`` with the four idx files, as torchvision lays it out.
        download: Whether torchvision may fetch what is missing.
        labels: Whether samples carry their class.
    """

    name = "mnist"
    folder = "MNIST"


class FashionMNIST(_Idx):
    """Articles of clothing (Xiao et al., 2017): 60,000 + 10,000 of 1 x 28 x 28, ten classes.

    Args:
        root: Folder that holds ``FashionMNIST/raw/`` with the four idx files. Where it does not,
            the Debian package ``dataset-fashion-mnist`` is used if it is installed.
        download: Whether torchvision may fetch what is missing.
        labels: Whether samples carry their class.
    """

    name = "fashion_mnist"
    folder = "FashionMNIST"
    elsewhere = "/usr/share/datasets/fashion-mnist"


# --- the user's own data ------------------------------------------------------------------------


class Images(Source):
    """Pictures in a folder or in a zip: FFHQ, or anybody's own.

    They are found recursively and taken in the natural order of their paths, centre-cropped to
    squares and resized if a resolution is given, and kept decoded in the cache. The zip may be one
    that StyleGAN's ``dataset_tool.py`` wrote.

    Args:
        root: The folder, or the zip.
        resolution: Height and width to resize to; None takes pictures as they are stored, which
            must then all have one size.
        channels: 1 (grey) or 3 (colour); None takes what is found, if it is the same throughout.
        filter: How to resize: ``lanczos``, ``box``, ``bilinear`` or ``bicubic``, all antialiased.
        labels: Whether samples carry a class: from ``dataset.json`` (StyleGAN's format) at the top
            if there is one, else each folder of the first level is a class.
    """

    name = "images"

    def __init__(
        self,
        root: str,
        resolution: int | None = None,
        channels: Literal[1, 3] | None = None,
        filter: Filter = "lanczos",
        labels: bool = False,
    ) -> None:
        check_within("[1, 4096]", "e.g. 64", resolution=resolution)
        check_one_of((None, 1, 3), channels=channels)
        check_one_of(get_args(Filter), filter=filter)
        self.root, self.labels = root, labels
        self.framing = Framing(resolution, channels, filter)

    def load(self, cache: Path) -> RealSet:
        """Decodes the pictures, or finds them decoded; the result is memory-mapped."""
        pictures = Pictures.at(self.root)
        stored = load_once(cache, self.name, pictures, self.framing, self.labels)
        if not self.labels:
            return RealSet(stored.samples, None, None, stored.digest)
        labels, names, n = pictures.classes
        # What was stored before classes were numbered without gaps has the numbers of the file.
        samples = Samples(stored.samples.values, torch.tensor(labels))
        return RealSet(samples, None, n, stored.digest, names)


class Arrays(Source):
    """Samples from a numpy file: images as uint8, or vectors as floats.

    Every process reads them into its memory; large sets of pictures are better given as
    :class:`Images`, which stay on disk.

    Args:
        path: ``.npy`` or ``.npz``. Images are (N, H, W), (N, C, H, W) or (N, H, W, C) with 1 or 3
            channels; vectors are (N, D).
        values: Name of the samples in an ``.npz``; None takes the only array besides the labels.
        labels: Name of the classes (N,) in an ``.npz``, whole numbers from 0, perhaps with gaps;
            None for no labels.
    """

    name = "arrays"

    def __init__(self, path: str, values: str | None = None, labels: str | None = None) -> None:
        self.path, self.values, self.labels = path, values, labels

    def load(self, cache: Path) -> RealSet:
        """Reads the file; pickled objects in it are refused."""
        path = Path(self.path).expanduser()
        try:
            loaded = np.load(path, allow_pickle=False)
            with nullcontext({"": loaded}) if isinstance(loaded, np.ndarray) else loaded as arrays:
                values = arrays[self._values_among(list(arrays), path)]
                labels = None if self.labels is None else arrays[self.labels]
        except Refused:
            raise
        except Exception as error:  # numpy raises what it pleases on a broken file
            # numpy's own message advises to unpickle, which is out of the question
            reason = getattr(error, "strerror", None) or "no plain numpy file"
            raise Refused(
                "path",
                f"{path} cannot be read: {reason}",
                "name a .npy or .npz file of plain numbers, as numpy.save and numpy.savez write",
            ) from error
        samples = Samples(_as_values(values, path))
        if labels is None:
            return RealSet(samples, None, None)
        kinds = _as_labels(labels, values, path)
        numbers, names, n = numbered(kinds, sorted(set(kinds)), path)
        samples.labels = torch.tensor(numbers)
        return RealSet(samples, None, n, class_names=names)

    def _values_among(self, names: list[str], path: Path) -> str:
        listed = ", ".join(names) if any(names) else "one array without a name"
        for field, name in (("values", self.values), ("labels", self.labels)):
            if name is not None and name not in names:
                raise Refused(
                    field,
                    f"{path} has no array {name!r}",
                    f"choose from what it holds: {listed}",
                )
        others = [name for name in names if name != self.labels]
        if self.values is None and len(others) != 1:
            raise Refused(
                "values",
                f"{path} holds {len(others)} arrays that could be meant",
                f"choose from what it holds: {listed}",
            )
        return others[0] if self.values is None else self.values


def _as_values(array: NDArray[Any], path: Path) -> Tensor:
    """An array as stored samples: uint8 (N, C, H, W) or float32 (N, D)."""
    if array.dtype == np.uint8 and array.ndim in (3, 4) and array.size > 0:
        images = array[:, None] if array.ndim == 3 else array
        first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
        if array.ndim == 3 or (first and not last):
            return torch.from_numpy(np.ascontiguousarray(images))
        if last and not first:
            return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    if array.dtype.kind == "f" and array.ndim == 2 and array.size > 0:
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
            vectors = np.ascontiguousarray(array, dtype=np.float32)
        broken = int((~np.isfinite(vectors)).any(axis=1).sum())
        if broken == 0:
            return torch.from_numpy(vectors)
        raise Refused(
            "path",
            f"{broken} of {len(vectors)} vectors in {path} are not finite in float32",
            "take them away, or rescale",
        )
    raise Refused(
        "path",
        f"{path} holds {array.dtype} with shape {array.shape}",
        "store images as uint8 0..255 with shape (N, H, W), (N, C, H, W) or (N, H, W, C) and 1 or "
        "3 channels, or vectors as floats with shape (N, D)",
    )


def _as_labels(array: NDArray[Any], values: NDArray[Any], path: Path) -> list[int]:
    """The number that an array has for the class of each sample."""
    if array.dtype.kind not in "iu" or array.shape != values.shape[:1] or array.min() < 0:
        raise Refused(
            "labels",
            f"{path} holds labels of {array.dtype} with shape {array.shape} for {len(values)} "
            "samples, or negative ones",
            f"store whole numbers from 0 with shape ({len(values)},)",
        )
    return array.tolist()
