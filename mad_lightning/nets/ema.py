"""Exponential moving average of a network's weights, as a module of its owner.

Kept by the family itself rather than by a Trainer callback: it is part of the generator, so it is
saved, moved and sampled from with it, and a fresh generator cannot meet an old average.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

__all__ = ["EMA"]


class EMA(nn.Module):
    r"""Average of a network's weights, :math:`\bar\theta \leftarrow d\bar\theta + (1-d)\theta`.

    The decay warms up as :math:`d_n = \min(d, (1 + n) / (10 + n))`, so that early weights are
    forgotten; buffers are copied.

    Args:
        net: The network to follow; its present weights are the first average.
        decay: d in [0, 1), unless each update brings its own.
    """

    updates: Tensor

    def __init__(self, net: nn.Module, decay: float = 0.0) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).requires_grad_(False).eval()
        self.decay = decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, net: nn.Module, decay: float | None = None) -> None:
        """Takes one step towards ``net``, with the decay given or the one that warms up."""
        self.updates += 1
        if decay is None:
            n = int(self.updates)
            decay = min(self.decay, (1 + n) / (10 + n))
        averages = list[Tensor](self.net.parameters())
        torch._foreach_lerp_(averages, list[Tensor](net.parameters()), 1.0 - decay)
        for kept, buffer in zip(self.net.buffers(), net.buffers(), strict=True):
            kept.copy_(buffer)

    def train(self, mode: bool = True) -> EMA:
        """Stays in evaluation mode: the average is for sampling."""
        return super().train(False)

    def forward(self, *args: Tensor) -> Tensor:
        """The averaged network."""
        return self.net(*args)
