"""Bytes and seconds in words, the same wherever costs are told."""

from __future__ import annotations

import math

__all__ = ["duration", "size"]


def size(count: float) -> str:
    """Bytes in words."""
    unit = min(4, max(0, math.ceil(math.log10(count + 1)) - 1) // 3)
    return f"{count / 1000**unit:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[unit]}"


def duration(seconds: float) -> str:
    """Seconds in words."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"
