"""Pairs of networks for adversarial families: a generator and the critic that it has to convince.

Both are told the class in their first layer, as a bias of its own for each class: that is what a
one-hot class beside the input amounts to (Mirza & Osindero, 2014). Neither normalises over a batch.
In a critic that would break the gradient penalty, which is a property of single samples (Gulrajani
et al., 2017, section 4); in a generator it would let a sample depend on its neighbours.
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from mad_lightning.refusal import Refused, check_within
from mad_lightning.samples import SampleSpec

__all__ = ["ConvPair", "DensePair", "Pair"]


class Pair(nn.Module):
    """Abstract pair; any module with these attributes can stand in its place.

    Attributes:
        dim: Size of the latent z.
        generator: Called as ``generator(z, labels)`` with z (N, dim) and labels (N,), int64, or
            None; returns images (N, C, H, W) in [-1, 1], or vectors (N, D).
        critic: Called as ``critic(x, labels)``; returns scores (N,), unbounded.
    """

    dim: int
    generator: nn.Module
    critic: nn.Module

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        check_within("[1, 8192]", dim=dim, width=width)
        self.dim = dim


class ByClass(nn.Module):
    """A layer whose output is shifted by a learned vector for each class.

    Args:
        layer: Returns (N, F) or (N, F, H, W).
        features: F.
        classes: Number of classes; None for unlabelled data.
    """

    def __init__(self, layer: nn.Module, features: int, classes: int | None) -> None:
        super().__init__()
        self.layer = layer
        self.shift = None if classes is None else nn.Embedding(classes, features)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """The layer's output, shifted if there are labels (N,)."""
        out: Tensor = self.layer(x)
        if self.shift is None or labels is None:
            return out
        shift: Tensor = self.shift(labels)
        return out + shift.view(*shift.shape, *[1] * (out.dim() - 2))


class DensePair(Pair):
    """Two perceptrons, for vectors and images of a few pixels.

    Args:
        spec: The samples.
        width: Units of a hidden layer.
        depth: Hidden layers.
        dim: Size of the latent.
    """

    def __init__(self, spec: SampleSpec, width: int = 256, depth: int = 2, dim: int = 32) -> None:
        super().__init__(dim, width)
        check_within("[1, 100]", depth=depth)
        hidden = [width] * depth
        self.generator = Perceptron((dim,), hidden, spec.shape, spec.classes)
        self.critic = Perceptron(spec.shape, hidden, (), spec.classes)


class Perceptron(nn.Module):
    """Layers of leaky units.

    Args:
        given: Shape of one input.
        hidden: Units of each hidden layer.
        made: Shape of one output: images, which are bounded to [-1, 1], vectors, or () for scores.
        classes: Number of classes, or None.
    """

    def __init__(
        self,
        given: tuple[int, ...],
        hidden: list[int],
        made: tuple[int, ...],
        classes: int | None,
    ) -> None:
        super().__init__()
        self.made = made
        self.first = ByClass(nn.Linear(math.prod(given), hidden[0]), hidden[0], classes)
        self.rest = nn.ModuleList(nn.Linear(*units) for units in pairwise(hidden))
        # Only differences of scores mean anything, so a critic ends without a bias.
        self.last = nn.Linear(hidden[-1], math.prod(made), bias=made != ())

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Outputs (N, *made)."""
        x = F.leaky_relu(self.first(x.flatten(1), labels), 0.2)
        for layer in self.rest:
            x = F.leaky_relu(layer(x), 0.2)
        x = self.last(x).view(len(x), *self.made)
        return x.tanh() if len(self.made) == 3 else x


def sizes_of_levels(spec: SampleSpec) -> list[tuple[int, int]]:
    """Height and width at every level, finest first: halved, rounded up, until 4 pixels or less.

    28 px go by 14 and 7 to 4. On the way back 4 is doubled to 8, of which 7 are kept.
    """
    levels = [(spec.shape[1], spec.shape[2])]
    while len(levels) == 1 or max(levels[-1]) > 4:
        height, width = levels[-1]
        levels.append((math.ceil(height / 2), math.ceil(width / 2)))
    return levels


class ConvPair(Pair):
    """Convolutions of 5 x 5 with stride 2 (after Radford et al., 2016), without normalisation.

    On 28 px the defaults are 64, 128 and 256 channels on 14, 7 and 4 pixels with a z of 128.

    Args:
        spec: The images, of any side.
        width: Channels of the finest level; every level doubles them.
        dim: Size of the latent.
    """

    def __init__(self, spec: SampleSpec, width: int = 64, dim: int = 128) -> None:
        super().__init__(dim, width)
        if spec.kind != "image":
            raise Refused(
                "",
                f"ConvPair needs images, these samples are vectors {spec.shape}",
                "use mad_lightning.nets.pairs.DensePair",
            )
        levels = sizes_of_levels(spec)
        channels = [spec.shape[0], *(width * 2**level for level in range(len(levels) - 1))]
        self.generator = ConvGenerator(levels[::-1], channels[::-1], dim, spec.classes)
        self.critic = ConvCritic(levels, channels, spec.classes)


class ConvGenerator(nn.Module):
    """From a latent to an image, coarsest level first.

    Args:
        levels: Height and width at every level.
        channels: Channels at every level.
        dim: Size of the latent.
        classes: Number of classes, or None.
    """

    def __init__(
        self, levels: list[tuple[int, int]], channels: list[int], dim: int, classes: int | None
    ) -> None:
        super().__init__()
        self.levels = levels
        self.coarsest = (channels[0], *levels[0])
        units = math.prod(self.coarsest)
        self.first = ByClass(nn.Linear(dim, units), units, classes)
        self.rest = nn.ModuleList(
            nn.ConvTranspose2d(wide, narrow, 5, stride=2, padding=2, output_padding=1)
            for wide, narrow in pairwise(channels)
        )

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1]."""
        x: Tensor = self.first(z, labels).view(len(z), *self.coarsest)
        for layer, (height, width) in zip(self.rest, self.levels[1:], strict=True):
            x = layer(x.relu())[..., :height, :width]
        return x.tanh()


class ConvCritic(nn.Module):
    """From an image to a score, finest level first.

    Args:
        levels: Height and width at every level.
        channels: Channels at every level.
        classes: Number of classes, or None.
    """

    def __init__(
        self, levels: list[tuple[int, int]], channels: list[int], classes: int | None
    ) -> None:
        super().__init__()
        first, *others = (
            nn.Conv2d(narrow, wide, 5, stride=2, padding=2) for narrow, wide in pairwise(channels)
        )
        self.first = ByClass(first, channels[1], classes)
        self.rest = nn.ModuleList(others)
        self.last = nn.Linear(channels[-1] * math.prod(levels[-1]), 1, bias=False)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Scores (N,)."""
        x = F.leaky_relu(self.first(x, labels), 0.2)
        for layer in self.rest:
            x = F.leaky_relu(layer(x), 0.2)
        return self.last(x.flatten(1)).squeeze(1)
