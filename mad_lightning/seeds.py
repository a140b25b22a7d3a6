"""Randomness is addressed, not consumed.

Every random number of a lineage has an address: (lineage seed, generation, purpose, place). The
address is hashed into a seed, so a draw does not depend on what was drawn before it, on the batch
it is part of, or on the number of devices. Nothing random needs saving, and a lineage that was
killed and resumed makes exactly the draws that one left alone makes.

Two kinds of draws are built on that: ordinary torch code (dropout, ``randn_like``) runs under
:func:`reseed`; noise that belongs to one *sample* comes from :func:`normal`, a counter-based
generator (SplitMix64, Steele et al., 2014) whose value at (sample seed, counter) is the same
wherever it is computed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["drawn", "normal", "permutation", "reseed", "sample_seeds", "seed_for", "uniform"]

Bits = TypeVar("Bits", Tensor, npt.NDArray[np.uint64])
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_BLOCK = 2**15  # numbers, 256 KiB: a few such arrays fit a core's cache
_ON_CPU = ("cpu", "mps")
"""Devices for which numbers are worked out on the CPU: Apple's GPUs have no float64."""


def seed_for(*address: int | str) -> int:
    """Hashes an address into a seed.

    Args:
        address: Named coordinates, e.g. ``seed_for(lineage_seed, t, "train", epoch, batch, rank)``.

    Returns:
        An integer in [0, 2^63).
    """
    return int.from_bytes(blake2b(repr(address).encode(), digest_size=8).digest(), "big") >> 1


def reseed(*address: int | str) -> None:
    """Points the global random number generators (torch, numpy, python) at an address.

    Torch's generator on the CPU looks at the low 32 bits of a seed only, so among very many
    addresses some draw alike: of 100,000 steps a pair, of 60 million 400,000 pairs.

    ``torch.manual_seed`` costs 400 µs a call, the default generator's own method 1 µs.
    """
    seed = seed_for(*address)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # is_available() asks the driver, at every call
        torch.cuda.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - user code may draw from numpy's global state
    random.seed(seed)


def permutation(n: int, *address: int | str) -> Tensor:
    """A permutation of 0..n-1 with shape (n,), int64, decided by its address alone."""
    rng = torch.Generator().manual_seed(seed_for(*address))
    return torch.randperm(n, generator=rng)


def _signed(constant: int) -> int:
    return constant - 2**64 if constant >= 2**63 else constant


def _shift(bits: Bits, by: int) -> Bits:
    """Logical right shift (that of torch's int64 keeps the sign)."""
    if isinstance(bits, Tensor):
        return (bits >> by).bitwise_and_((1 << (64 - by)) - 1)
    return bits >> np.uint64(by)


def _floats(bits: Bits) -> Tensor:
    """As float64; exact below 2^53."""
    return bits.double() if isinstance(bits, Tensor) else torch.from_numpy(bits.astype(np.float64))


def _times(bits: Bits, constant: int) -> Bits:
    """Multiplies in place, modulo 2^64."""
    bits *= _signed(constant) if isinstance(bits, Tensor) else np.uint64(constant)
    return bits


def _mix(bits: Bits) -> Bits:
    """SplitMix64's finaliser: 64 well-mixed bits for each 64-bit counter."""
    bits = _times(bits ^ _shift(bits, 30), _MIX_1)
    bits ^= _shift(bits, 27)
    bits = _times(bits, _MIX_2)
    bits ^= _shift(bits, 31)
    return bits


def sample_seeds(
    start: int, count: int, *address: int | str, device: torch.device | None = None
) -> Tensor:
    """One seed for each sample, with shape (count,), int64.

    Args:
        start: Place of the first sample.
        count: How many.
        address: Where these samples live, e.g. ``(lineage_seed, t, "sample")``.
        device: Where they are wanted. A GPU works them out by itself: nothing is copied, and nobody
            waits.

    Returns:
        Seeds of places start .. start + count - 1; overlapping ranges agree where they overlap.
    """
    if device is not None and device.type in _ON_CPU:
        return sample_seeds(start, count, *address).to(device)
    if device is not None:
        there = _times(torch.arange(start, start + count, device=device), _GOLDEN)
        return _mix(there.add_(seed_for(*address)))
    places = _times(np.arange(start, start + count, dtype=np.uint64), _GOLDEN)
    return torch.from_numpy(_mix(places + np.uint64(seed_for(*address))).view(np.int64))


def _bits(seeds: Tensor, n: int, stream: int) -> Iterator[tuple[slice, slice, Any]]:
    """Raw bits with shape (N, n), one counter sequence for each seed and stream, block by block.

    On a CPU, where numpy works them out in a third of torch's time. Every pass over a block that
    stays in the core's cache is a fraction of one through main memory (a tenth of the time for 64
    pictures of 256 x 256).
    """
    first = stream * _MIX_1 % 2**64
    start = _mix(seeds.numpy().view(np.uint64) + np.uint64(first))[:, None]
    steps = _times(np.arange(1, n + 1, dtype=np.uint64), _GOLDEN)
    width = max(1, min(n, _BLOCK))
    height = max(1, _BLOCK // width)
    for top in range(0, len(seeds), height):
        rows = slice(top, top + height)
        for left in range(0, n, width):
            columns = slice(left, left + width)
            yield rows, columns, _mix(start[rows] + steps[columns])


def _bits_there(seeds: Tensor, streams: Sequence[tuple[int, int]]) -> Tensor:
    """Raw bits (N, n_1 + n_2 + ...) of several streams, each (n, stream), in the same kernels."""
    firsts = [seeds + _signed(stream * _MIX_1 % 2**64) for _, stream in streams]
    starts = _mix(torch.stack(firsts, dim=1) if len(firsts) > 1 else firsts[0][:, None])
    most = max(n for n, _ in streams)
    places = _times(torch.arange(1, most + 1, device=seeds.device), _GOLDEN)
    counters = [starts[:, s : s + 1] + places[:n] for s, (n, _) in enumerate(streams)]
    return _mix(torch.cat(counters, dim=1) if len(counters) > 1 else counters[0])


_BELOW_1 = 1.0 - 2.0**-24
"""The largest float32 that is less."""


def _evenly(bits: Tensor) -> Tensor:
    """Uniform draws in (0, 1), float64: odd multiples of 2^-53."""
    return _floats(_shift(bits, 12)).add_(0.5).mul_(2.0**-52)


def _polar(bits: Any) -> tuple[Tensor, Tensor]:
    """Radii and angles of pairs of normal draws, float64 (Box-Muller), one pair of 64 bits."""
    radius = _floats(_shift(bits, 32)).add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    return radius, _floats(bits & 0xFFFFFFFF).mul_(2.0 * math.pi * 2.0**-32)


def uniform(seeds: Tensor, *shape: int, stream: int = 0) -> Tensor:
    """Uniform draws in (0, 1) with shape (N, *shape), float64, one independent row for each seed.

    Neither end is ever met: values are odd multiples of 2^-53, so a logarithm of them is finite.
    Where the device has no float64 they are computed on the CPU, and rounded to float32 below 1.

    Args:
        seeds: Sample seeds with shape (N,), int64.
        shape: Shape of one sample's draw.
        stream: Which draw of the sample, counted together with those of :func:`normal`: equal
            streams repeat the same bits, different ones are independent.
    """
    if seeds.device.type == "mps":
        rounded = uniform(seeds.cpu(), *shape, stream=stream).float().clamp(max=_BELOW_1)
        return rounded.to(seeds.device)
    n = math.prod(shape)
    if seeds.device.type != "cpu":
        return _evenly(_bits_there(seeds, [(n, stream)])).view(len(seeds), *shape)
    values = torch.empty(len(seeds), n, dtype=torch.float64)
    for rows, columns, bits in _bits(seeds, n, stream):
        torch.mul(_floats(_shift(bits, 12)).add_(0.5), 2.0**-52, out=values[rows, columns])
    return values.reshape(len(seeds), *shape)


def normal(seeds: Tensor, *shape: int, stream: int = 0) -> Tensor:
    """Standard normal draws with shape (N, *shape), float32, one independent row for each seed.

    Box-Muller on pairs of 32-bit halves, in float64; the largest value is 6.8. Computed on the
    seeds' device, or on the CPU where the device has no float64.

    Args:
        seeds: Sample seeds with shape (N,), int64.
        shape: Shape of one sample's draw.
        stream: Which draw of the sample: equal streams repeat, different ones are independent.
    """
    if seeds.device.type == "mps":
        return normal(seeds.cpu(), *shape, stream=stream).to(seeds.device)
    n = math.prod(shape)
    half = (n + 1) // 2
    if seeds.device.type != "cpu":
        return drawn(seeds, (normal, shape, stream))[0]
    pairs = torch.empty(len(seeds), 2, half, dtype=torch.float32)
    for rows, columns, bits in _bits(seeds, half, stream):
        radius, angle = _polar(bits)
        torch.mul(radius, angle.cos(), out=pairs[rows, 0, columns])
        torch.mul(radius, angle.sin_(), out=pairs[rows, 1, columns])
    return pairs.reshape(len(seeds), 2 * half)[:, :n].reshape(len(seeds), *shape)


Draw = tuple[Callable[..., Tensor], tuple[int, ...], int]
"""What is drawn: :func:`normal` or :func:`uniform`, the shape of one sample's draw, the stream."""


def drawn(seeds: Tensor, *asked: Draw) -> list[Tensor]:
    """Several draws of the same seeds: what each would give by itself, bit for bit.

    A GPU takes as long to be told of a small computation as to do it. There all are worked out in
    the kernels of one.

    Args:
        seeds: Sample seeds with shape (N,), int64.
        asked: Draws, e.g. ``(normal, (2, 512), 0)``.
    """
    if seeds.device.type in _ON_CPU:
        return [draw(seeds, *shape, stream=stream) for draw, shape, stream in asked]
    sizes = [math.prod(shape) for _, shape, _ in asked]
    counts = [
        n if draw is uniform else (n + 1) // 2 for (draw, *_), n in zip(asked, sizes, strict=True)
    ]
    streams = [(n, stream) for n, (*_, stream) in zip(counts, asked, strict=True)]
    bits = _bits_there(seeds, streams)
    radius, angle = _polar(bits)
    across, up = (torch.empty_like(radius, dtype=torch.float32) for _ in "xy")
    torch.mul(radius, angle.cos(), out=across)
    torch.mul(radius, angle.sin_(), out=up)
    pieces = zip(*(values.split(counts, dim=1) for values in (bits, across, up)), strict=True)
    out = []
    for (draw, shape, _), n, (own, x, y) in zip(asked, sizes, pieces, strict=True):
        values = _evenly(own) if draw is uniform else torch.cat([x, y], dim=1)[:, :n]
        out.append(values.reshape(len(seeds), *shape))
    return out
