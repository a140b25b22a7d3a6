"""Whether the memory of two processes is flat in the number of pictures.

    python benchmarks/ranks.py --n 2000 20000 --side 128

A lineage whose generations train on n real pictures and on n of every earlier generator, under DDP
on two CPU processes, with a generator that costs nothing, and every phase of a large lineage:
pictures decoded from an archive, a floor, copies looked for in everything that was trained on, and
with --candidates a selection. A program beside them looks 100 times a second how much memory each
has that no file backs; mapped pictures are the system's, which takes them back at will.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, mse_loss

from mad_lightning import (
    Evaluator,
    Frechet,
    GenerationDataModule,
    Generator,
    Images,
    LineageSettings,
    Memorisation,
    MetaTrainer,
    Pixels,
    SyntheticAugmentation,
)
from mad_lightning.samples import Samples, SampleSpec, to_floats
from mad_lightning.seeds import normal
from mad_lightning.treatments import Random

_ROUGH = 8  # squares of one colour, as many up as across


class Squares(Generator):
    """Squares of random colours around a mean that it learns."""

    def build(self, spec: SampleSpec) -> Self:
        """Room for the mean."""
        self.spec = spec
        self.mean = nn.Parameter(torch.zeros(spec.shape[0], _ROUGH, _ROUGH))
        return self

    def training_step(self, batch: Samples, batch_idx: int) -> Tensor:
        """Squared error."""
        rough = adaptive_avg_pool2d(to_floats(batch.values), _ROUGH)
        return mse_loss(self.mean.expand_as(rough), rough)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain descent."""
        return torch.optim.SGD(self.parameters(), 0.1)

    def draw(self, seeds: Tensor, sampling_bias: float, labels: Tensor | None) -> Tensor:
        """Noise around the mean, square by square."""
        rough = self.mean + 0.3 * sampling_bias**0.5 * normal(seeds, *self.mean.shape)
        return interpolate(rough, self.spec.shape[1:])


def make(path: Path, n: int, side: int) -> None:
    """Writes n pictures of random squares."""
    rng, wide = np.random.default_rng(0), np.ones((side // _ROUGH, side // _ROUGH, 1), np.uint8)
    with zipfile.ZipFile(path, "w") as file:
        for place in range(n):
            picture = np.kron(rng.integers(256, size=(_ROUGH, _ROUGH, 3), dtype=np.uint8), wide)
            png = io.BytesIO()
            Image.fromarray(picture).save(png, "png", compress_level=1)
            file.writestr(f"{place:06d}.png", png.getvalue())


def train(directory: Path, n: int, side: int, candidates: float | None) -> None:
    """Trains the lineage; every process runs this."""
    n_reference = 100
    MetaTrainer(
        LineageSettings("flat", str(directory / "runs"), 2, block_size=64, threads=1),
        SyntheticAugmentation(n - 2 * n_reference, n, synthetic_from="all"),
        GenerationDataModule(
            Images(str(directory / "pictures.zip"), side, 3),
            images_per_epoch=1280,
            n_reference=n_reference,
            cache=str(directory / "cache"),
        ),
        Evaluator(Pixels(_ROUGH), [Frechet(), Memorisation()]),
        Squares,
        lambda: {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "max_epochs": 1},
        treatment=None if candidates is None else Random(candidates),
    ).fit()


def anonymous(process: str) -> float:
    """Memory of a process that no file backs, in MiB; 0 of one that has ended."""
    try:
        lines = Path("/proc", process, "status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def peaks(n: int, side: int, more: list[str]) -> list[float]:
    """The most anonymous memory (MiB) of each of the two processes."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder, "pictures.zip"), n, side)
        told = ["--train", folder, "--n", str(n), "--side", str(side), *more]
        first = subprocess.Popen([sys.executable, __file__, *told])
        most: dict[str, float] = {}
        while first.poll() is None:
            own = str(first.pid)
            others = Path("/proc", own, "task", own, "children")
            for process in (own, *(others.read_text().split() if others.exists() else ())):
                most[process] = max(most.get(process, 0.0), anonymous(process))
            time.sleep(0.01)
    if first.returncode:
        raise SystemExit(first.returncode)
    return sorted(most.values())[-2:]  # a third one may ask git for the commit


def main() -> None:
    """Trains with few and with many pictures, and tells the peaks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--n", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--candidates", type=float, help="drawn for each that is kept")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(args.train, args.n[0], args.side, args.candidates)
        return
    more = [] if args.candidates is None else ["--candidates", str(args.candidates)]
    for n in args.n:
        start = time.perf_counter()
        print(json.dumps({"n": n, "mib": peaks(n, args.side, more)}), flush=True)
        print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
