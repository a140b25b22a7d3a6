"""Float32 that is float32, whatever the precision around it.

Training may be rounded, and says so. What is drawn and measured may not: a shard that is drawn in
bfloat16 differs from the same weights' shard in float32 by up to 11 grey levels, which is a
sampling bias that nobody has asked for. A GPU's TF32 keeps 10 bits of what it multiplies, and is on
for convolutions unless somebody switches it off; a flow then no longer undoes what it has done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["full_products", "keeping_kinds", "true_float32"]


@contextmanager
def full_products() -> Iterator[None]:
    """No TF32, no bfloat16 inside products and convolutions of float32."""
    cpu, cuda, cudnn = torch.backends.mkldnn, torch.backends.cuda, torch.backends.cudnn
    places: tuple[Any, ...] = (cpu.matmul, cpu.conv, cuda.matmul, cudnn.conv)  # type: ignore[attr-defined]
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"
        yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


@contextmanager
def true_float32(device: torch.device) -> Iterator[None]:
    """The same, and no autocast."""
    with full_products(), torch.autocast(device.type, enabled=False):
        yield


@contextmanager
def keeping_kinds(module: nn.Module) -> Iterator[None]:
    """Gives weights and buffers the kinds of numbers back that they had before.

    Training in other floats leaves them in those, and a generator that is read from disk is as it
    was built: both must draw the same.
    """
    kinds = {name: tensor.dtype for name, tensor in _tensors(module)}
    yield
    for name, tensor in _tensors(module):
        if tensor.dtype != kinds.get(name, tensor.dtype):
            tensor.data = tensor.data.to(kinds[name])


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
