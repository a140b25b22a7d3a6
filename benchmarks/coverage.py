"""Whether intervals hold the truth as often as they say: many splits of one data set.

    python benchmarks/coverage.py                      # 20 splits of the digits, a minute or two
    python benchmarks/coverage.py glyphs --splits 60   # disjoint sets of characters

No generator is trained. The "generators" of a generation add noise to real samples, more of it from
generation to generation, so that their truth is known as well as one likes: it is the mean over
--truth further splits. In each split all intervals that a report prints are made from that split
alone: of single values by their measurement errors, of seeds' means with the reference's error
(and, for comparison, without it), and of the rise since generation 1. They are two-sided, at 90 %.
Features are pixels. Splits of a finite set share samples, so that references differ by less than
independent ones do, and intervals may hold the truth more often than they say; those of glyphs
share none.

Bar: intervals of one lineage and of seeds' means cover within 4 points of 90 %; those of the rise,
which take the worst that one reference can do to both ends, at least.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mad_lightning.data.glyphs import Glyphs
from mad_lightning.data.real import RealData
from mad_lightning.data.sources import Digits
from mad_lightning.lineage.quantities import MeasurementError
from mad_lightning.metrics import Evaluator, Identity, View
from mad_lightning.samples import to_floats
from mad_lightning.seeds import normal, sample_seeds
from mad_lightning.verdict.intervals import Array, Interval
from mad_lightning.verdict.judgement import judge

NOISE = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
"""Of generations 1 to 6, in units of pixels; glyphs lie nearer to each other and get a third."""
ALPHA, WIDE = 0.05, 1.6449
NAMES = ("precision", "recall", "density", "coverage", "kd_identity", "fd_identity")


class Split(NamedTuple):
    """What was measured with one reference: values (S, T) and errors (S, T, 2) by name."""

    values: dict[str, Array]
    errors: dict[str, Array]


def drawn(pixels: Tensor, seed: int, t: int, n: int, scale: float) -> Tensor:
    """Features (n, D) of what generation t of a seed draws: real samples and scaled noise."""
    seeds = sample_seeds(0, n, seed, t, "coverage")
    chosen = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed * 97 + t))[:n]
    return pixels[chosen] + scale * NOISE[t - 1] * normal(seeds, pixels.shape[1])


def measured(source: Digits | Glyphs, number: int, args: argparse.Namespace, told: bool) -> Split:
    """One split: its own reference, and seeds that nobody else has."""
    real = RealData(source, args.n, number, number, Path(args.cache))
    labels = None if real.size is None else real.reference.labels  # glyphs have theirs by chance
    reference = View(to_floats(real.reference.values).flatten(1), labels=labels)
    evaluator = Evaluator(Identity())
    values, errors = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for seed in range(number * args.seeds, (number + 1) * args.seeds):
        for t in range(1, len(NOISE) + 1):
            place = 0 if real.size else args.n * (seed * len(NOISE) + t)  # others, while they last
            pool = to_floats(real.read(place, real.size or args.n).values).flatten(1)
            scale = 1.0 if real.size else 1 / 3
            shard = View(drawn(pool, seed, t, args.n, scale))
            sides = reference, shard
            for name, value in evaluator.compare(*sides).items():
                values[name].append(value)
            for name, error in evaluator.errors(*sides).items() if told else ():
                errors[name].extend(error)
    shape = args.seeds, len(NOISE)
    return Split(
        {name: np.reshape(values[name], shape) for name in NAMES},
        {name: np.reshape(errors[name], (*shape, 2)) for name in NAMES if told},
    )


def intervals(split: Split, truth: Split) -> list[tuple[str, str, float, float, float]]:
    """Kind, metric, both ends, and what they should hold."""
    rows = []
    for name in NAMES:
        values, errors, true = split.values[name], split.errors[name], truth.values[name]
        for t in range(values.shape[1]):
            error = MeasurementError(*errors[0, t]).both
            value = float(values[0, t])
            ends = value - WIDE * error, value + WIDE * error
            rows.append(("one lineage", name, *ends, float(true[:, t].mean())))
            mean = Interval.of(values[:, t], ALPHA, float(errors[:, t, 1].mean()))
            rows.append(("mean of seeds", name, mean.low, mean.high, float(true[:, t].mean())))
            blind = Interval.of(values[:, t], ALPHA)
            rows.append(("(seeds alone)", name, blind.low, blind.high, float(true[:, t].mean())))
    for name in ("kd_identity", "fd_identity"):
        made = judge({name: split.values[name]}, errors={name: split.errors[name]}, closed=True)
        mean = truth.values[name].mean(axis=0)
        first, late = float(mean[0]), float(mean[-2:].mean())
        true = late / first if (split.values[name] > 0).all() else late - first
        rows.append(("rise", name, made.verdict.rise.low, made.verdict.rise.high, true))
    return rows


def main() -> None:
    """Prints how often each kind of interval holds the truth."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", nargs="?", choices=("digits", "glyphs"), default="digits")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--truth", type=int, default=60, help="further splits that tell the truth")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--n", type=int, default=400, help="samples of the reference")
    parser.add_argument("--cache", default="runs/cache")
    args = parser.parse_args()
    source = Digits() if args.data == "digits" else Glyphs(resolution=8)

    further = [measured(source, 1000 + k, args, told=False) for k in range(args.truth)]
    truth = Split(
        {name: np.concatenate([split.values[name] for split in further]) for name in NAMES},
        {},
    )
    held = defaultdict[str, list[list[bool]]](list)
    for number in range(args.splits):
        by_kind = defaultdict[str, list[bool]](list)
        for kind, _, low, high, true in intervals(measured(source, number, args, True), truth):
            by_kind[kind].append(low <= true <= high)
        for kind, hits in by_kind.items():
            held[kind].append(hits)
    print(f"{args.data}, {args.splits} splits, {args.seeds} seeds, n = {args.n}; stated: 90 %")
    print(f"{'interval':16}{'covers':>8}{'± (splits)':>12}{'of':>7}")
    for kind, rows in held.items():
        shares = np.mean(rows, axis=1)
        error = float(np.std(shares, ddof=1)) / math.sqrt(len(shares))
        print(f"{kind:16}{np.mean(rows):8.1%}{error:12.1%}{np.size(rows):7}")


if __name__ == "__main__":
    main()
