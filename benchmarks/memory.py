"""Whether memory stays flat over generations: resident memory after each, and what is left alive.

    python benchmarks/memory.py --generations 50
    python benchmarks/memory.py --generations 2000 --family gaussian --synthetic_from all
    python benchmarks/memory.py --mapped 500

A lineage on the digits with a tiny budget a generation, in one process: diffusion models of 160,000
parameters, or Gaussians, whose generations cost so little that whatever grows with their number
shows in the seconds. Prints the series, then its spread from the third generation on.

With --mapped, what the samples of large lineages cost: memory that no file backs, added by writing
a shard of so many MiB from its blocks, and by feeding and passing it and as many real pictures.
"""

from __future__ import annotations

import argparse
import gc
import math
import tempfile
import time
from pathlib import Path

import lightning as L
import torch

from mad_lightning.callbacks.base import LineageCallback
from mad_lightning.commands.train import build
from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.data.shards import Shard, ShardManifest
from mad_lightning.data.sources import RealSet, Source
from mad_lightning.generators.base import Generator
from mad_lightning.lineage.ledger import GenerationRecord
from mad_lightning.loop.blocks import Blocks
from mad_lightning.policies import Mix, Part
from mad_lightning.samples import SampleSpec

DIFFUSION = [
    "--generator", "Diffusion",
    "--generator.network", "mad_lightning.nets.unet.UNet",
    "--generator.network.widths", "[16,32]",
    "--generator.sampling_steps", "3",
    "--data.images_per_epoch", "128",
]  # fmt: skip
GAUSSIAN = ["--generator", "Gaussian", "--data.source", "StandardNormal", "--data.source.dim", "2"]


def resident() -> float:
    """Resident memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def anonymous() -> float:
    """Memory of this process that no file backs, in MiB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Anonymous")).split()[1]) / 1024


def mapped(size: int, directory: Path) -> None:
    """Writes a shard of so many MiB from blocks, and feeds it; prints what memory is added."""
    shape = (3, 64, 64)
    n = size * 2**20 // math.prod(shape)
    spec = SampleSpec(shape)
    written = Blocks(directory / "blocks", n, 256)
    for index in range(len(written)):
        rows = written.rows(index)
        count = rows.stop - rows.start
        written.write(index, {"values": torch.randint(256, (count, *shape), dtype=spec.dtype)})
    blocks, shard = Blocks(directory / "blocks", n, 256), Shard(directory / "001")
    before = anonymous()
    shard.write(
        blocks.samples(), ShardManifest("synthetic", 1, 1.0, (0,), {}, "", n, spec.to_dict())
    )
    print(f"written, {size} MiB: {anonymous() - before:.1f} MiB")

    class Stored(Source):
        name = "stored"

        def load(self, cache: Path) -> RealSet:
            return RealSet(shard.samples, None, None)

    data = GenerationDataModule(Stored(), n_reference=100, cache=str(directory))
    data.real(0).read(0, 1)
    mix = Mix(2, (Part("real", None, 0, n - 100), Part("synthetic", "001", 0, n)))
    before = anonymous()
    for _ in range(2):
        loader = data.feed(mix, 0, {"001": shard}).loader()
        fed = anonymous() - before
        for _ in loader:
            pass
        print(f"fed, {2 * size} MiB: {fed:.1f} MiB, after a pass {anonymous() - before:.1f} MiB")


def alive(kind: type) -> int:
    """Objects of a kind that nobody has freed."""
    return sum(issubclass(type(thing), kind) for thing in gc.get_objects())


class Watch(LineageCallback):
    """Prints a line a generation."""

    def __init__(self, every: int, counts: bool) -> None:
        self.every, self.counts = every, counts
        self.series: list[float] = []
        self.last = time.perf_counter()

    def on_generation_end(self, record: GenerationRecord, directory: Path) -> None:
        """One line, or none."""
        self.series.append(resident())
        t = record.generation
        if t % self.every == 0 or t == 1:
            now = time.perf_counter()
            seconds = (now - self.last) / (1 if t == 1 else self.every)
            left = f"{alive(Generator):>6}{alive(L.Trainer):>9}" if self.counts else ""
            print(f"{t:>10}{self.series[-1]:>10.1f}{seconds:>12.3f}{left}", flush=True)
            self.last = time.perf_counter()


def main() -> None:
    """Runs one lineage and prints its series."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--generations", type=int, default=50)
    parser.add_argument("--family", choices=("diffusion", "gaussian"), default="diffusion")
    parser.add_argument("--synthetic_from", default="last", help="last, all, or a number")
    parser.add_argument("--n", type=int, default=200, help="samples of a mix")
    parser.add_argument("--every", type=int, default=1, help="generations from line to line")
    parser.add_argument("--mapped", type=int, metavar="MIB")
    args = parser.parse_args()
    if args.mapped:
        with tempfile.TemporaryDirectory() as directory:
            mapped(args.mapped, Path(directory))
        return
    with tempfile.TemporaryDirectory() as directory:
        meta = build([
            "--lineage.root", directory,
            "--lineage.generations", str(args.generations),
            "--lineage.threads", "1",
            "--policy", "FullySynthetic",
            "--policy.n_initial", str(args.n),
            "--policy.n_synthetic", str(args.n),
            "--policy.synthetic_from", args.synthetic_from,
            "--data.source", "Digits",
            "--data.n_reference", "100",
            "--data.cache", f"{directory}/cache",
            "--evaluator.extractor", "Identity",
            "--evaluator.metrics", '[{"class_path": "Frechet"}]',
            "--callbacks", '[{"class_path": "SampleGrids"}]',
            "--trainer.accelerator", "cpu",
            *(DIFFUSION if args.family == "diffusion" else GAUSSIAN),
        ])  # fmt: skip
        watch = Watch(args.every, counts=args.family == "diffusion")
        meta.observers.callbacks = (*meta.observers.callbacks, watch)
        print("generation       MiB   s a generation  generators, Trainers alive")
        meta.fit()
    later = watch.series[2:]
    print(f"from the third generation on: {min(later):.1f} to {max(later):.1f} MiB, ", end="")
    print(f"a spread of {max(later) - min(later):.1f}")


if __name__ == "__main__":
    main()
