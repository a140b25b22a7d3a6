"""A stand-in for FFHQ: drawn heads before drawn backgrounds, as a zip of PNG files.

    python benchmarks/stand_in.py --n 2000 --side 128 --out runs/stand_in.zip
    python benchmarks/stand_in.py --n 2000 --run

They are no data to learn anything from. With them the `ffhq_*` configurations can be tried whole
where the real pictures are not at hand. --run trains two generations of each experiment, on two
processes that share a CPU, with a budget of minutes: the files as they are, and overrides.
Inception's weights are left out, too (`--evaluator.extractor Pixels`): they would be fetched.
"""

from __future__ import annotations

import argparse
import io
import math
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

ROOT = Path(__file__).parents[1]
SMALL = ("--policy.n_initial=1600", "--policy.n_synthetic=200")
RUNS = {
    "E1": ("ffhq_stylegan_full_synth", *SMALL),
    "E2": ("ffhq_stylegan_full_synth", *SMALL, "--sampling_bias=0.7"),
    "E7": ("ffhq_stylegan_synth_aug", "--policy.n_real=1600", "--policy.n_synthetic=(t-1) x 200"),
}
"""The paper's experiments with faces: configuration, and counts that 2,000 pictures have."""
OVERRIDES = (
    "--lineage.generations=2", "--lineage.threads=1", "--data.n_reference=200",
    "--data.images_per_epoch=64", "--trainer.max_epochs=2", "--generator.dim=32",
    "--generator.mapping_layers=2", "--generator.channel_base=1024", "--generator.channel_max=32",
    "--evaluator.extractor=Pixels", "--evaluator.extractor.resolution=16",
    "--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp",
)  # fmt: skip


def head(side: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """One picture (side, side, 3): an oval with eyes and a mouth, lit from one side."""
    y, x = np.mgrid[-1.0 : 1.0 : side * 1j, -1.0 : 1.0 : side * 1j]
    across, up = rng.normal(0.0, 0.1, 2)
    width, height = rng.uniform(0.45, 0.6), rng.uniform(0.6, 0.8)
    turn = rng.normal(0.0, 0.15)
    u = ((x - across) * math.cos(turn) + (y - up) * math.sin(turn)) / width
    v = ((y - up) * math.cos(turn) - (x - across) * math.sin(turn)) / height

    def blob(a: float, b: float, wide: float, high: float) -> npt.NDArray[np.float64]:
        inside: npt.NDArray[np.float64] = ((u - a) / wide) ** 2 + ((v - b) / high) ** 2
        return 1.0 / (1.0 + np.exp(12.0 * (inside.clip(max=9.0) - 1.0)))

    picture = rng.uniform(0.0, 1.0, 3) + 0.3 * np.multiply.outer(x, rng.normal(0.0, 0.5, 3))
    skin = rng.uniform(0.35, 0.95) * np.array([1.0, 0.8, 0.68])
    layers = [
        (blob(0.0, 0.0, 1.0, 1.0), skin),
        (blob(0.0, 0.5, 0.35, 0.08), np.array([0.6, 0.2, 0.2])),
    ]
    layers += [(blob(a, -0.2, 0.14, 0.09), rng.uniform(0.0, 0.5, 3)) for a in (-0.4, 0.4)]
    for mask, colour in layers:
        picture += mask[..., None] * (colour * (1.0 - 0.2 * u[..., None]) - picture)
    noisy = picture + rng.normal(0.0, 0.02, picture.shape)
    return (255.0 * noisy.clip(0.0, 1.0)).round().astype(np.uint8)


def make(path: Path, n: int, side: int) -> None:
    """Writes n pictures, the same at every call."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for place in range(n):
            png = io.BytesIO()
            Image.fromarray(head(side, np.random.default_rng(place))).save(png, "png")
            file.writestr(f"{place:05d}.png", png.getvalue())


def run(experiment: str, pictures: Path, root: Path, *more: str) -> None:
    """Trains two generations.

    Args:
        experiment: One of ``RUNS``.
        pictures: Their archive.
        root: Where the lineage goes, named after the experiment.
        more: Further overrides.
    """
    config, *counts = RUNS[experiment]
    places = (f"--data.source.root={pictures}", f"--data.cache={root / 'cache'}")
    own = (f"--lineage.root={root}", f"--lineage.name={experiment}")
    command = ("train.py", "--config", f"configs/{config}.yaml", *counts, *OVERRIDES)
    subprocess.run([sys.executable, *command, *places, *own, *more], cwd=ROOT, check=True)


def main() -> None:
    """Draws the pictures, and perhaps trains on them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("runs/stand_in.zip"))
    parser.add_argument("--run", action="store_true")
    args = parser.parse_args()
    make(args.out, args.n, args.side)
    print(f"{args.out}: {args.n} pictures of {args.side} px")
    pictures = args.out.resolve()
    for experiment in RUNS if args.run else ():
        start = time.perf_counter()
        run(experiment, pictures, pictures.parent / "stand_in")
        print(f"{experiment}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
