r"""The flow of Glow (Kingma & Dhariwal, 2018), for images and for vectors.

A flow is a bijection between samples x and latents z whose Jacobian determinant is cheap, so that
:math:`\log p(x) = \log\mathcal N(z; 0, I) + \log|\det \partial z / \partial x|` is exact. A *step*
is actnorm, an invertible mixing of the channels (1x1 convolution) and an affine coupling. On images
the steps are repeated over *levels* of half the resolution and four times the channels, and after
each level half of the channels leave as latents (their figure 2b).

normflows brings the linear layers; three things are ours. Actnorm takes its scale from data when
it is told to, not from whatever comes first in whichever direction. The coupling sees the class,
without which small digits stay unreadable, and its scale is bounded, without which a rare sample
is not finite. And everything but the coupling's network stays in full precision under autocast: a
log-determinant sums thousands of terms, and a flow that is rounded is not inverted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from normflows.flows import AffineConstFlow, Invertible1x1Conv, InvertibleAffine, Squeeze
from torch import Tensor, nn
from torch.nn import functional as F

from mad_lightning.precision import full_products

__all__ = ["Flow"]

BOUND = 2.0
"""Largest log-scale of a coupling."""


class ActNorm(AffineConstFlow):
    """A scale and a shift for each channel (section 3.1)."""

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Makes the channels of this batch zero mean and unit variance."""
        channels = x.transpose(0, 1).flatten(1)
        self.t.copy_(channels.mean(dim=1).reshape(self.t.shape))
        self.s.copy_((channels.std(dim=1, correction=0) + 1e-6).log().reshape(self.s.shape))


class Coupling(nn.Module):
    """Scales and shifts half of the channels, as a network of the other half says (section 3.3).

    Args:
        channels: Channels in all; the first half, rounded up, is left as it is.
        hidden: Width of the network.
        classes: Number of classes that it knows, or None.
        size: ``(H, W)`` of images, empty for vectors.
    """

    def __init__(
        self, channels: int, hidden: int, classes: int | None, size: Sequence[int]
    ) -> None:
        super().__init__()
        self.kept = (channels + 1) // 2
        widths = (self.kept, hidden, hidden, 2 * (channels - self.kept))

        def layer(place: int, kernel: int) -> nn.Conv2d | nn.Linear:
            before, after = widths[place : place + 2]
            if size:
                return nn.Conv2d(before, after, kernel, padding=kernel // 2)
            return nn.Linear(before, after)

        self.first, self.middle, self.last = layer(0, 3), layer(1, 1), layer(2, 3)
        for parameter in self.last.parameters():  # an untrained coupling is the identity
            nn.init.zeros_(parameter)
        self.of_class = None if classes is None else nn.Embedding(classes, hidden)

    def scale_and_shift(self, kept: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log-scale, within ±BOUND, and shift of the other half."""
        h = self.first(kept)
        if self.of_class is not None:
            h = h + self.of_class(labels).reshape(*h.shape[:2], *[1] * (h.ndim - 2))
        raw, shift = self.last(F.relu(self.middle(F.relu(h)))).to(kept.dtype).chunk(2, dim=1)
        return BOUND * torch.tanh(raw / BOUND), shift

    def inverse(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """From data towards latents, with the log-determinant (N,)."""
        kept, changed = x[:, : self.kept], x[:, self.kept :]
        log_scale, shift = self.scale_and_shift(kept, labels)
        z = torch.cat([kept, (changed - shift) * torch.exp(-log_scale)], dim=1)
        return z, -log_scale.flatten(1).sum(dim=1)

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """From latents towards data."""
        kept, changed = z[:, : self.kept], z[:, self.kept :]
        log_scale, shift = self.scale_and_shift(kept, labels)
        return torch.cat([kept, changed * torch.exp(log_scale) + shift], dim=1)


class Flow(nn.Module):
    """Bijection between samples and standard normal latents.

    Args:
        shape: ``(C, H, W)`` with sides divisible by ``2^levels``, or ``(D,)``.
        levels: Levels of an image; a vector has one.
        steps: Steps of flow in each level.
        hidden: Width of the couplings' networks.
        classes: Number of classes that the couplings know, or None.

    Attributes:
        latents: Shape of each level's latents, the finest first; together as many numbers as
            ``shape`` has.
    """

    def __init__(
        self, shape: Sequence[int], levels: int, steps: int, hidden: int, classes: int | None
    ) -> None:
        super().__init__()
        channels, *size = shape
        self.latents: list[tuple[int, ...]] = []
        self.levels = nn.ModuleList()
        for level in range(levels if size else 1):
            layers: list[nn.Module] = []
            if size:
                layers.append(Squeeze())
                channels, size = 4 * channels, [side // 2 for side in size]
            for _ in range(steps):
                layers += [
                    ActNorm((channels, *[1] * len(size))),
                    Invertible1x1Conv(channels) if size else InvertibleAffine(channels, False),
                    Coupling(channels, hidden, classes, size),
                ]
            layers.append(ActNorm((channels, *[1] * len(size))))  # ends in unit variance
            self.levels.append(nn.ModuleList(layers))
            if size and level < levels - 1:
                channels //= 2
            self.latents.append((channels, *size))

    @full_products()
    def inverse(
        self, x: Tensor, labels: Tensor | None = None, initialise: bool = False
    ) -> tuple[list[Tensor], Tensor]:
        """From samples to latents.

        Args:
            x: Samples (N, *shape).
            labels: Classes (N,), int64, or None.
            initialise: Whether every actnorm takes its scale from this batch.

        Returns:
            The latents of each level, and the log-determinant of the Jacobian (N,).
        """
        latents, log_det = [], x.new_zeros(len(x))
        for place, level in enumerate(self.levels):
            layers: list[Any] = list(level.children())
            for layer in layers:
                if isinstance(layer, Coupling):
                    x, more = layer.inverse(x, labels)
                else:
                    if initialise and isinstance(layer, ActNorm):
                        layer.initialise(x)
                    with torch.autocast(x.device.type, enabled=False):
                        x, more = layer.inverse(x)
                log_det = log_det + more
            if place < len(self.levels) - 1:
                x, leaving = x.chunk(2, dim=1)
                latents.append(leaving)
        return [*latents, x], log_det

    @full_products()
    def forward(self, latents: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """From latents to samples."""
        x = latents[-1]
        for place, level in reversed(list(enumerate(self.levels))):
            if place < len(self.levels) - 1:
                x = torch.cat([x, latents[place]], dim=1)
            layers: list[Any] = list(level.children())
            for layer in reversed(layers):
                if isinstance(layer, Coupling):
                    x = layer(x, labels)
                else:
                    with torch.autocast(x.device.type, enabled=False):
                        x, _ = layer(x)
        return x

    def log_prob(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Log-density (N,) in nats."""
        latents, log_det = self.inverse(x, labels)
        square = sum((z.flatten(1).square().sum(dim=1) for z in latents), torch.zeros_like(log_det))
        return log_det - 0.5 * square - 0.5 * math.log(2.0 * math.pi) * x[0].numel()
