"""Exponential moving average of a network's weights, as a module of its owner.

Kept by the family itself rather than by a Trainer callback: it is part of the generator, so it is
saved, moved and sampled from with it, and a fresh generator cannot meet an old average.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

__all__ = ["EMA"]

_Place = tuple[Mapping[str, Tensor | None], str]
_PLACES: WeakKeyDictionary[nn.Module, tuple[list[_Place], list[_Place]]] = WeakKeyDictionary()
"""Where parameters and buffers of a network hang. To look for them costs more than to average a
small network. Not kept in the module: that would go into its copies and files."""


def _tensors(net: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters, one that is used twice once, and buffers, as they are now.

    The modules of a network are looked for once. What hangs there is read anew: to move a network
    replaces its buffers.
    """
    if net not in _PLACES:
        parameters: dict[int, _Place] = {}
        buffers: list[_Place] = []
        for module in net.modules():
            for name, parameter in module._parameters.items():
                parameters.setdefault(id(parameter), (module._parameters, name))
            buffers += [(module._buffers, name) for name in module._buffers]
        _PLACES[net] = [*parameters.values()], buffers
    weights, others = (
        [tensor for held, name in places if (tensor := held[name]) is not None]
        for places in _PLACES[net]
    )
    return weights, others


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
        self._n: int | None = None  # updates, as far as known without a look at the device

    def _load_from_state_dict(self, *args: Any) -> None:
        self._n = None
        super()._load_from_state_dict(*args)

    @torch.no_grad()
    def update(self, net: nn.Module, decay: float | None = None) -> None:
        """Takes one step towards ``net``, with the decay given or the one that warms up."""
        self.updates += 1
        if decay is None:
            self._n = int(self.updates) if self._n is None else self._n + 1
            decay = min(self.decay, (1 + self._n) / (10 + self._n))
        averages, kept = _tensors(self.net)
        weights, buffers = _tensors(net)
        torch._foreach_lerp_(averages, weights, 1.0 - decay)
        if kept:
            torch._foreach_copy_(kept, buffers)

    def restart(self, net: nn.Module) -> None:
        """Lets ``net`` go on from the average, and the average begin anew from there."""
        net.load_state_dict(self.net.state_dict())
        self.updates.zero_()

    def train(self, mode: bool = True) -> EMA:
        """Stays in evaluation mode: the average is for sampling."""
        return super().train(False)

    def forward(self, *args: Tensor) -> Tensor:
        """The averaged network."""
        return self.net(*args)
