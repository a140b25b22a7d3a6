"""Real data from a known law: an inexhaustible pool, and a truth to compare with.

The paper's theory (sections 3.1 and 5.2) draws its real samples from a distribution instead of a
data set. Each sample of such a pool has an address, so the pool has an order like any other and
"fresh" means what it means elsewhere; it just never runs out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from mad_lightning.refusal import Refused
from mad_lightning.samples import Law, Samples, SampleSpec
from mad_lightning.seeds import normal

__all__ = ["LawSource", "StandardNormal"]


class LawSource(ABC):
    """Abstract source whose samples are computed from their seeds."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def spec(self) -> SampleSpec:
        """What one sample looks like."""

    @property
    def law(self) -> Law | None:
        """Mean and covariance, where they are known in closed form."""
        return None

    @abstractmethod
    def draw(self, seeds: Tensor) -> Samples:
        """Samples (N, D) for seeds (N,)."""


class StandardNormal(LawSource):
    """The reference law of the paper's Gaussian experiments: N(0, I_d) (section 5.2).

    Args:
        dim: Dimension d.
    """

    name = "standard_normal"

    def __init__(self, dim: int = 100) -> None:
        if dim < 1:
            raise Refused("data.source.dim", f"{dim}", "take at least 1")
        self.dim = dim

    @property
    def spec(self) -> SampleSpec:
        """Vectors (dim,)."""
        return SampleSpec((self.dim,))

    @property
    def law(self) -> Law:
        """Zero mean, identity covariance."""
        return Law(torch.zeros(self.dim).double(), torch.eye(self.dim).double())

    def draw(self, seeds: Tensor) -> Samples:
        """Independent standard normal vectors."""
        return Samples(normal(seeds, self.dim))
