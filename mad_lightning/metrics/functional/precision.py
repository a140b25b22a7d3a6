"""Float32 that is float32, whatever the precision around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["true_float32"]


@contextmanager
def true_float32(device: torch.device) -> Iterator[None]:
    """No autocast, no TF32, no bfloat16 inside products and convolutions."""
    cpu, cuda, cudnn = torch.backends.mkldnn, torch.backends.cuda, torch.backends.cudnn
    places: tuple[Any, ...] = (cpu.matmul, cpu.conv, cuda.matmul, cudnn.conv)  # type: ignore[attr-defined]
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision
