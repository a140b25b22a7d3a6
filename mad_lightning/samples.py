"""Samples as they travel between the rooms, and the one border where bytes become floats.

Everywhere outside a network, an image is uint8 with shape (C, H, W) and a vector is float32 with
shape (D,). Published Fréchet distances went wrong where several places scaled pixels in their own
way, so here only :func:`to_floats` and :func:`to_stored` do, and they invert each other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mad_lightning.refusal import Refused

__all__ = [
    "Batches",
    "Law",
    "Parts",
    "SampleBlock",
    "SampleSpec",
    "Samples",
    "SeedBlock",
    "to_floats",
    "to_stored",
]

_PIECE = 4 * 2**20
"""Bytes of values that are gathered at a time where all of them are looked at."""


@dataclass(frozen=True)
class SampleSpec:
    """What one stored sample looks like.

    Attributes:
        shape: ``(C, H, W)`` of an image or ``(D,)`` of a vector.
        classes: Number of classes if samples carry labels 0 .. classes-1, else None.
    """

    shape: tuple[int, ...]
    classes: int | None = None

    @property
    def kind(self) -> Literal["image", "vector"]:
        """``image`` for three dimensions, ``vector`` for one."""
        return "image" if len(self.shape) == 3 else "vector"

    @property
    def dtype(self) -> torch.dtype:
        """How the sample is stored: images as uint8, vectors as float32."""
        return torch.uint8 if self.kind == "image" else torch.float32

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for manifests."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> SampleSpec:
        """Inverse of :meth:`to_dict`."""
        return cls(tuple(plain["shape"]), plain["classes"])

    @classmethod
    def of(cls, values: Tensor | Samples, labels: Tensor | None = None) -> SampleSpec:
        """What ordinary tensors, or samples, look like.

        Args:
            values: Images (N, C, H, W) or vectors (N, D); or Samples, which bring their labels.
            labels: Classes (N,), from 0; there are as many as the largest of them + 1.

        Raises:
            Refused: If the values are neither images nor vectors.
        """
        if isinstance(values, Samples):
            labels, values = values.labels, values.values
        if values.ndim not in (2, 4):
            raise Refused(
                "",
                f"values of shape {tuple(values.shape)} are not images (N, C, H, W) and not "
                "vectors (N, D)",
                "give grey images their channel by values.unsqueeze(1), or flatten to vectors",
            )
        return cls(tuple(values.shape[1:]), None if labels is None else int(labels.max()) + 1)


@dataclass  # not frozen: under precision 64-true Lightning rebuilds every batch field by field
class Samples:
    """A set of stored samples.

    Attributes:
        values: Images (N, C, H, W), uint8, or vectors (N, D), float32.
        labels: Classes (N,), int64, or None.
        weights: How often each is to be seen beside one of weight 1 (N,), float32, none below 0;
            None: all alike. A treatment may give them; what a generator draws has none.
    """

    values: Tensor
    labels: Tensor | None = None
    weights: Tensor | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: slice | Tensor) -> Samples:
        if isinstance(index, slice):
            return Samples(**{name: tensor[index] for name, tensor in self.tensors().items()})
        # x[index] takes thrice as long
        return Samples(**{k: x.index_select(0, index) for k, x in self.tensors().items()})

    @property
    def nbytes(self) -> int:
        """What the values take."""
        return self.values.nbytes

    @classmethod
    def of(cls, batch: Any, spec: SampleSpec) -> Samples:
        """A batch of an ordinary loader as samples.

        Args:
            batch: A tensor x, or x and classes y as ``(x,)`` or ``(x, y)``. Images x (N, C, H, W)
                are uint8, or floats in [-1, 1] as generators draw them; vectors x (N, D) are taken
                as they are. Classes y (N,) are left out where the kind of samples has none.
            spec: The kind of samples.

        Raises:
            Refused: If the batch is of another kind.
        """
        match [batch] if isinstance(batch, Tensor) else batch:
            case [Tensor() as x]:
                return cls(_stored(x, spec), _classes(None, len(x), spec))
            case [Tensor() as x, Tensor() as y]:
                return cls(_stored(x, spec), _classes(y, len(x), spec))
        raise Refused(
            "",
            f"a batch is a {type(batch).__name__}, not values and perhaps their classes",
            "let the loader give a tensor x, (x,), (x, y) or Samples",
        )

    @classmethod
    def joined(cls, sets: Sequence[Samples]) -> Samples:
        """One set after the other, in memory; with classes if all have some, without weights."""
        labels = [samples.labels for samples in sets if samples.labels is not None]
        values = torch.cat([samples.values for samples in sets])
        return cls(values, torch.cat(labels) if len(labels) == len(sets) else None)

    def to(self, *args: Any, **kwargs: Any) -> Samples:
        """Moves to a device, as ``Tensor.to`` does; Lightning calls it on every batch.

        Nobody waits for a copy up to a GPU: what is asked of it there comes after.
        """
        device = args[0] if args and isinstance(args[0], torch.device) else self.values.device
        if device.type not in ("cpu", "mps", self.values.device.type):
            kwargs = {"non_blocking": True, **kwargs}
        return Samples(**{name: x.to(*args, **kwargs) for name, x in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """By name, what there is of them: ``Samples(**samples.tensors())``."""
        tensors = {"values": self.values, "labels": self.labels, "weights": self.weights}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def pieces(self) -> Iterator[Samples]:
        """The same samples, one after the other, in as many sets as memory asks for."""
        yield self

    def digest(self, hand_on: Callable[[memoryview], object] = lambda values: None) -> str:
        """SHA-256 of shape, values, labels, weights: sets are the same if and only if it is.

        Args:
            hand_on: Called with the bytes of all values, piece by piece, which are read once.
        """
        one, labels = self[:0].values, self.labels
        head = f"{(len(self), *one.shape[1:])} {one.dtype} {labels is not None}"
        head += "" if self.weights is None else " weighted"
        digest = sha256(head.encode())
        for piece in self.pieces():
            values = _bytes(piece.values)
            digest.update(values)
            hand_on(values)
        for beside in (labels, self.weights):
            if beside is not None:
                digest.update(_bytes(beside))
        return digest.hexdigest()


class Parts(Samples):
    """Samples that stay where they are, in memory or in mapped files, until somebody takes some.

    It is sets one after the other, or a choice of their samples, and costs eight bytes a sample at
    most. Any index gathers what it names, and no more; parts may be parts of others. Weights are
    not handed on.

    Args:
        sets: At least one. Labels are handed on if all have some.
        places: Which samples of all sets, and in which order (N,), int64; None: all as they lie.
    """

    def __init__(self, sets: Sequence[Samples], places: Tensor | None = None) -> None:
        self.sets, self.places = sets, places
        self._ends = torch.tensor([len(samples) for samples in sets]).cumsum(0)
        self._starts = [0, *self._ends.tolist()]
        self._labelled = all(samples.labels is not None for samples in sets)

    def __len__(self) -> int:
        return self._starts[-1] if self.places is None else len(self.places)

    def __getitem__(self, index: slice | Tensor) -> Samples:
        if isinstance(index, slice):
            index = torch.arange(len(self))[index]
        if self.places is not None:
            index = self.places[index]
        if len(self.sets) == 1:
            return self._handed_on(self.sets[0][index])
        sorted_index, order = index.sort()
        cuts = torch.searchsorted(sorted_index, self._ends).tolist()
        taken = [
            samples[sorted_index[first:stop] - start]
            for samples, start, first, stop in zip(
                self.sets, self._starts, [0, *cuts], cuts, strict=False
            )
            if stop > first
        ]
        if not taken:
            return self._handed_on(self.sets[0][:0])
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return self._handed_on(Samples.joined(taken)[back])

    def _handed_on(self, samples: Samples) -> Samples:
        return Samples(samples.values, samples.labels if self._labelled else None)

    @property
    def values(self) -> Tensor:  # type: ignore[override] # of others they are an attribute
        """All values, gathered into memory."""
        return self[:].values

    @property
    def labels(self) -> Tensor | None:  # type: ignore[override] # of others they are an attribute
        """All labels; reads no values."""
        labels = [samples.labels for samples in self.sets] if self._labelled else []
        known = [some for some in labels if some is not None]
        if not known:
            return None
        together = known[0] if len(known) == 1 else torch.cat(known)
        return together if self.places is None else together[self.places]

    @property
    def nbytes(self) -> int:
        """What the values take, were they gathered."""
        return len(self) * self.sets[0].nbytes // max(1, len(self.sets[0]))

    def pieces(self) -> Iterator[Samples]:
        """In sets of 4 MiB where they lie scattered, else as they lie."""
        if self.places is None:
            for samples in self.sets:
                yield from map(self._handed_on, samples.pieces())
            return
        size = max(1, _PIECE * len(self) // max(1, self.nbytes))
        for start in range(0, len(self), size):
            yield self[start : start + size]


@dataclass
class Batches(Samples):
    """Several batches of one process, one after the other, which a training step works off in turn.

    Where networks are small, a batch costs Lightning's loop as much as it costs the networks.

    Attributes:
        size: Samples of a batch; the last one may have fewer.
        first: Batches before them, from the start of training.
    """

    size: int = 1
    first: int = 0

    def apart(self) -> list[Samples]:
        """One by one."""
        return [self[start : start + self.size] for start in range(0, len(self), self.size)]

    def to(self, *args: Any, **kwargs: Any) -> Batches:
        """Moves to a device, see :meth:`Samples.to`."""
        return Batches(**super().to(*args, **kwargs).tensors(), size=self.size, first=self.first)


class SeedBlock(NamedTuple):
    """A block of samples still to be drawn: what ``Generator.predict_step`` receives.

    Attributes:
        job: Number of the block among all that are computed together.
        seeds: One seed a sample, with shape (n,), int64.
        labels: Classes to draw, with shape (n,), or None.
        sampling_bias: λ in (0, 1].
    """

    job: int
    seeds: Tensor
    labels: Tensor | None
    sampling_bias: float


class SampleBlock(NamedTuple):
    """A block of stored samples: what a feature extractor's ``predict_step`` receives."""

    job: int
    samples: Samples


@dataclass(frozen=True)
class Law:
    """What a distribution knows of itself exactly, float64.

    Attributes:
        mean: Mean (D,).
        covariance: Covariance (D, D).
        modes: Centres of its modes (K, D), where it has several and knows them.
    """

    mean: Tensor
    covariance: Tensor
    modes: Tensor | None = None


def to_floats(values: Tensor) -> Tensor:
    """Stored values to float32: pixels 0..255 to [-1, 1], vectors unchanged."""
    floats = values.float()
    return floats.div_(127.5).sub_(1.0) if values.dtype == torch.uint8 else floats


def to_stored(floats: Tensor, spec: SampleSpec) -> Tensor:
    """Floats to stored values: images are clamped to [-1, 1] and rounded to 0..255.

    Rounding to 8 bits is a quantisation step that a lineage takes once a generation.
    """
    if spec.kind == "vector":
        return floats.float()
    return ((floats.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


def _bytes(tensor: Tensor) -> memoryview:
    """What a tensor holds, row after row; not copied if it lies so in main memory."""
    return tensor.detach().cpu().contiguous().numpy().data


# --- from ordinary tensors ------------------------------------------------------------------------


def _stored(values: Tensor, spec: SampleSpec) -> Tensor:
    """Ordinary values of a batch (N, ...) as they are stored."""
    if tuple(values.shape[1:]) != spec.shape:
        raise Refused(
            "",
            f"samples of a batch have shape {tuple(values.shape[1:])}, build was told {spec.shape}",
            "build for the samples that the loader gives, by SampleSpec.of",
        )
    if spec.kind == "vector" or values.dtype == torch.uint8:
        return values.to(spec.dtype)
    if not values.is_floating_point():
        raise Refused("", f"images are {values.dtype}", "store grey levels 0 to 255 as uint8")
    darkest, brightest = (float(extreme) for extreme in values.aminmax())
    if not -1.0 <= darkest <= brightest <= 1.0:
        raise Refused(
            "",
            f"images of floats reach from {darkest:g} to {brightest:g}",
            "scale black to -1 and white to 1, or store grey levels 0 to 255 as uint8",
        )
    if darkest >= 0.0:
        _warn_of_pale_images()
    return to_stored(values, spec)


@cache
def _warn_of_pale_images() -> None:
    """Once is enough: what is true of one batch is true of all."""
    warnings.warn(
        "no pixel of a batch is below 0, though black is -1 in images of floats: if these lie in "
        "[0, 1], scale them by 2 * x - 1, or they are trained on as pale ones",
        stacklevel=2,
    )


def _classes(labels: Tensor | None, n: int, spec: SampleSpec) -> Tensor | None:
    """Ordinary labels of a batch of n samples, or None where samples have no classes."""
    if spec.classes is None:
        return None
    if labels is None:
        problem = f"a batch has no classes, build was told of {spec.classes}"
    elif labels.shape != (n,) or labels.is_floating_point():
        problem = f"classes are {tuple(labels.shape)}, {labels.dtype}, for {n} samples"
    elif n and not 0 <= int(labels.min()) <= int(labels.max()) < spec.classes:
        problem = f"classes are {labels.unique().tolist()}, build was told of {spec.classes}"
    else:
        return labels.long()
    raise Refused("", problem, f"give each sample a whole number from 0 to {spec.classes - 1}")
