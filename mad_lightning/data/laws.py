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

from mad_lightning.identity import Described
from mad_lightning.refusal import check_within
from mad_lightning.samples import Law, Samples, SampleSpec
from mad_lightning.seeds import normal, uniform

__all__ = ["Grid25", "LawSource", "Rosenbrock", "StandardNormal"]


class LawSource(Described, ABC):
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

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes 0, 1, ... are called, where they are no plain numbers."""
        return ()

    @property
    def identity(self) -> str:
        """All that decides the samples beside their seeds: features are cached under it."""
        return f"{self.name} {self.spec}"

    @abstractmethod
    def draw(self, seeds: Tensor) -> Samples:
        """Samples for seeds (N,), each decided by its own."""


class StandardNormal(LawSource):
    """The reference law of the paper's Gaussian experiments: N(0, I_d) (section 5.2).

    Args:
        dim: Dimension d.
    """

    name = "standard_normal"

    def __init__(self, dim: int = 100) -> None:
        check_within("[1, 10000]", "the paper takes 100", dim=dim)
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


class Grid25(LawSource):
    r"""Equal shares of normal modes on a square grid: 25 of them, unless told otherwise.

    The modes lie at :math:`\{-2, -1, 0, 1, 2\}^2` and have standard deviation 0.05 in both
    directions, as in Che et al. (2020), whose grid the paper takes (appendix B.2).

    Args:
        side: Modes in a row; the grid has side² of them, a unit apart, centred at 0.
        std: Standard deviation of a mode.
    """

    name = "grid25"

    def __init__(self, side: int = 5, std: float = 0.05) -> None:
        check_within("[1, 1000]", "5 makes 25 modes", side=side)
        check_within("(0, inf)", "e.g. 0.05", std=std)
        self.side, self.std = side, std

    @property
    def spec(self) -> SampleSpec:
        """Vectors (2,)."""
        return SampleSpec((2,))

    @property
    def identity(self) -> str:
        """Side and standard deviation, too."""
        return f"{super().identity} {self.side} {self.std}"

    @property
    def modes(self) -> Tensor:
        """Their centres (side², 2), float64, row by row."""
        places = torch.arange(self.side).double() - (self.side - 1) / 2
        return torch.cartesian_prod(places, places)

    @property
    def law(self) -> Law:
        """Zero mean; variance of the centres, (side² - 1) / 12, plus that of a mode."""
        variance = (self.side**2 - 1) / 12 + self.std**2
        return Law(torch.zeros(2).double(), variance * torch.eye(2).double(), self.modes)

    def draw(self, seeds: Tensor) -> Samples:
        """A mode, each as likely as the others, and noise around it."""
        which = (uniform(seeds, stream=1) * self.side**2).long()
        noise = normal(seeds, 2) * self.std
        return Samples(self.modes[which].float() + noise)


class Rosenbrock(LawSource):
    r"""The banana that the paper trains its flow on (appendix B.4).

    Its density is proportional to :math:`\exp(-x_1^2/2 - (x_2 - x_1^2)^2)`, so that
    :math:`x_1 \sim \mathcal N(0, 1)` and :math:`x_2 | x_1 \sim \mathcal N(x_1^2, 1/2)`. Its two
    arms are tails: a hundredth of the samples has :math:`x_2 > 6.8`, far from the mean of 1.
    """

    name = "rosenbrock"

    @property
    def spec(self) -> SampleSpec:
        """Vectors (2,)."""
        return SampleSpec((2,))

    @property
    def law(self) -> Law:
        """Mean (0, 1), variances 1 and 2 + 1/2, no correlation: odd moments of x_1 vanish."""
        return Law(torch.tensor([0.0, 1.0]).double(), torch.diag(torch.tensor([1.0, 2.5])).double())

    def draw(self, seeds: Tensor) -> Samples:
        """The bend, applied to independent standard normal pairs."""
        x_1, noise = normal(seeds, 2).unbind(dim=1)
        return Samples(torch.stack([x_1, x_1.square() + noise / 2.0**0.5], dim=1))
