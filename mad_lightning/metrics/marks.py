"""Watermarks: how they are put into samples, and how they are found.

A mark has a *score*: a number a sample in which marking raises by the mark's strength, and which
real samples have by chance only. Two marks are patterns that are added, of random signs or one
spectral line, and their score is a projection on the pattern. The third sets the last bit of pixels
to a key; it is put into bytes as they are stored, for no rounding to take it back.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mad_lightning.identity import Described
from mad_lightning.refusal import Refused, check_within
from mad_lightning.samples import SampleSpec
from mad_lightning.seeds import sample_seeds, uniform

__all__ = ["Additive", "Mark", "Parity", "Spectral"]

_ROWS = 4096
_VISIBLE = 0.5
"""Grey levels that rounding to bytes does not take back everywhere."""


class Mark(Described, ABC):
    """Abstract watermark.

    Args:
        strength: What marking adds to the score of a sample.
    """

    def __init__(self, strength: float) -> None:
        check_within("(0, 1000000]", "e.g. 2", strength=strength)
        self.strength = strength

    def check(self, spec: SampleSpec) -> None:
        """Refuses samples that cannot carry it.

        Raises:
            Refused: With one of its own parameters, or none.
        """

    @abstractmethod
    def put(self, values: Tensor) -> Tensor:
        """Marks samples (N, ...), as they are stored; gives others of the same kind."""

    @abstractmethod
    def of(self, values: Tensor) -> Tensor:
        """Scores (N,), float64, of samples (N, ...) as they are stored."""

    def score(self, values: Tensor) -> Tensor:
        """Scores (N,), float64; as :meth:`of`, a part of the samples at a time."""
        return torch.cat([self.of(part) for part in values.split(_ROWS)])


class _Added(Mark):
    """A pattern that is added: to images in grey levels, to vectors along one direction."""

    @abstractmethod
    def pattern(self, shape: tuple[int, ...]) -> Tensor:
        """What is added at strength 1, before it is scaled to the kind of samples; float64."""

    def check(self, spec: SampleSpec) -> None:
        """Refuses what rounding to bytes would take back."""
        if spec.kind == "image" and self.strength < _VISIBLE:
            problem = f"{self.strength} grey levels are rounded away when images are stored"
            raise Refused("strength", problem, "choose 1 or more")

    def _added(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The pattern of images or vectors, and what it is looked for by."""
        pattern = self.pattern(tuple(values.shape[1:]))
        if values.dtype != torch.uint8:
            pattern = pattern / pattern.norm()
            return pattern, pattern
        centred = pattern - pattern.mean()  # brightness tells nothing
        centred = centred if float(centred.norm()) > 0.0 else pattern
        return pattern, centred

    def put(self, values: Tensor) -> Tensor:
        """Marked samples."""
        marked = values.double() + self.strength * self._added(values)[0]
        return (
            marked.round().clamp(0, 255).byte() if values.dtype == torch.uint8 else marked.float()
        )

    def of(self, values: Tensor) -> Tensor:
        """Projections (N,)."""
        pattern, looked_for = (side.flatten() for side in self._added(values))
        return values.flatten(1).double() @ looked_for / (pattern @ looked_for)


class Additive(_Added):
    """A pattern of random signs, the same in every sample.

    Args:
        strength: Grey levels that are added to or taken from each pixel of an image; of vectors,
            the length of what is added.
        key: Which pattern.
    """

    def __init__(self, strength: float = 2.0, key: int = 0) -> None:
        super().__init__(strength)
        self.key = key

    def pattern(self, shape: tuple[int, ...]) -> Tensor:
        """Signs."""
        seeds = sample_seeds(0, 1, "mark", self.key)
        return (uniform(seeds, *shape)[0] < 0.5).double() * 2.0 - 1.0


class Spectral(_Added):
    """One spectral line: a plane wave, the same in every sample.

    Args:
        strength: Amplitude in grey levels; of vectors, the length of what is added.
        rows: Waves from the upper edge to the lower one; vectors have none of these.
        columns: Waves from the left edge to the right one, or along a vector.
    """

    def __init__(self, strength: float = 4.0, rows: int = 2, columns: int = 2) -> None:
        super().__init__(strength)
        check_within("[0, 10000]", "e.g. 2", rows=rows, columns=columns)
        if not rows and not columns:
            raise Refused("columns", "no wave in either direction", "choose 1 or more")
        self.rows, self.columns = rows, columns

    def check(self, spec: SampleSpec) -> None:
        """Refuses waves that samples are too small for."""
        super().check(spec)
        height, width = spec.shape[-2:] if spec.kind == "image" else (math.inf, *spec.shape)
        for field, waves, size in (("rows", self.rows, height), ("columns", self.columns, width)):
            if 2 * waves > size:
                problem = f"{waves} waves on {size} values"
                raise Refused(field, problem, f"choose at most {int(size) // 2}")
        if spec.kind == "vector" and not self.columns:
            raise Refused("columns", "vectors have no rows", "choose 1 or more")

    def pattern(self, shape: tuple[int, ...]) -> Tensor:
        """Cosines."""
        x = torch.arange(shape[-1], dtype=torch.float64) * self.columns / shape[-1]
        if len(shape) > 1:
            y = torch.arange(shape[-2], dtype=torch.float64) * self.rows / shape[-2]
            x = y[:, None] + x
        return (2.0 * math.pi * x).cos().expand(shape)


class Parity(Mark):
    """The last bit of pixels, set to a key; changes each by one grey level at most.

    The score is the share of bits that agree with the key, from -1 (none) to 1 (all); by chance 0.

    Args:
        share: Of the pixels that are set.
        key: Which bits, and of which pixels.
    """

    def __init__(self, share: float = 1.0, key: int = 0) -> None:
        super().__init__(1.0)
        check_within("(0, 1]", "1 sets all", share=share)
        self.share, self.key = share, key

    def check(self, spec: SampleSpec) -> None:
        """Refuses vectors."""
        if spec.kind != "image":
            problem = f"Parity needs bytes, samples are vectors of shape {spec.shape}"
            raise Refused("", problem, "mark them by Additive or Spectral")

    def _key(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Bits, uint8, and which pixels carry one, bool."""
        seeds = sample_seeds(0, 1, "mark", self.key)
        bits = uniform(seeds, *shape)[0] < 0.5
        chosen = uniform(seeds, *shape, stream=1)[0] < self.share
        if not bool(chosen.any()):
            chosen.view(-1)[0] = True
        return bits.byte(), chosen

    def put(self, values: Tensor) -> Tensor:
        """Marked images."""
        bits, chosen = self._key(values.shape[1:])
        return torch.where(chosen, (values & 0xFE) | bits, values)

    def of(self, values: Tensor) -> Tensor:
        """Agreement (N,)."""
        bits, chosen = self._key(values.shape[1:])
        agree = ((values & 1) == bits)[:, chosen]
        return 2.0 * agree.double().mean(dim=1) - 1.0
