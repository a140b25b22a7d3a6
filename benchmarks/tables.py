"""The tables of configs/README.md, each from one command: trains what is missing, then prints it.

    python benchmarks/tables.py                      # names of the tables, and what they cost
    python benchmarks/tables.py digits --parallel 2
    python benchmarks/tables.py budgets samplers --seeds 1

A table is a list of lineages: a shipped configuration and what differs from it. Each is trained by
the command that a user would type, with one thread, in a directory below ``--root``; run again, the
same command goes on where it was stopped. What is printed is ``mad report --markdown`` of them,
seeds as one row: mean and standard deviation over seeds, excess over the floor, verdict. Beside
tables that compare a change with a lineage that lacks it stand the differences of equal seeds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mad_lightning.lineage import LineageDirectory
from mad_lightning.verdict.intervals import Interval

HOUSE = Path(__file__).resolve().parent.parent
Arm = tuple[str, dict[str, object]]
METRICS = ["precision", "recall", "coverage", "fd_classifier", "kd_classifier"]
OF_SAMPLES = ["precision", "recall", "coverage"]
OF_PAIRS = {"guidance", "selection"}
"""Tables whose lineages are compared with the first one that is drawn by the same sampler."""

DIFFUSION, WGAN = "digits_diffusion_full_synth", "digits_wgan_full_synth"
TABLES: dict[str, tuple[str, list[str], list[Arm]]] = {
    "digits": (
        "three loops and a bias, diffusion on digits; 25 s a generation",
        METRICS,
        [
            (DIFFUSION, {}),
            (DIFFUSION, {"sampling_bias": 0.66}),
            ("digits_diffusion_synth_aug", {}),
            ("digits_diffusion_fresh", {}),
        ],
    ),
    "families": (
        "the other families on digits; 30 to 55 s a generation",
        METRICS,
        [
            ("digits_glow_full_synth", {}),
            ("digits_glow_full_synth", {"sampling_bias": 0.75}),
            (WGAN, {}),
            (WGAN, {"sampling_bias": 0.7}),
            ("digits_stylegan_full_synth", {}),
            ("digits_stylegan_full_synth", {"sampling_bias": 0.7}),
        ],
    ),
    "budgets": (
        "the same loop at three training budgets, two families; 5 to 30 s a generation",
        METRICS,
        [
            *((WGAN, {"trainer.max_epochs": n}) for n in (2, 5, 10)),
            *((DIFFUSION, {"trainer.max_epochs": n}) for n in (3, 5, 10)),
        ],
    ),
    "samplers": (
        "the same loop with three samplers, two families; 30 s a generation",
        METRICS,
        [
            (DIFFUSION, {"generator.sampler": "sde_dpm_solver"}),
            (DIFFUSION, {"generator.sampler": "dpm_solver"}),
            (DIFFUSION, {"generator.sampler": "ddpm", "generator.sampling_steps": 25}),
            *((WGAN, {"sampling_bias": bias}) for bias in (1.0, 0.85, 0.7)),
        ],
    ),
    "guidance": (
        "negative guidance, diffusion on digits; 30 s a generation",
        METRICS,
        [
            (f"{DIFFUSION}{improved}", sampler)
            for sampler in ({}, {"generator.sampler": "dpm_solver"})
            for improved in ("", "_sims", "_neon")
        ],
    ),
    "selection": (
        "one of four digits is kept, diffusion; 35 s a generation",
        METRICS,
        [(f"{DIFFUSION}{kept}", {}) for kept in ("", "_random", "_top", "_diverse")],
    ),
    "glyphs": (
        "StyleGAN2 from a healthy start; 150 s a generation",
        [*OF_SAMPLES, "fd_identity", "kd_identity"],
        [("glyphs_stylegan_full_synth", {})],
    ),
    "rosenbrock": (
        "the flow on Rosenbrock's law; 4 to 15 s a generation, 16 generations",
        [*OF_SAMPLES, "tail_mass", "tail_mass_low", "tail_mass_high", "kd_identity"],
        [
            ("rosenbrock_glow_full_synth", {}),
            ("rosenbrock_glow_full_synth", {"sampling_bias": 0.75}),
            ("rosenbrock_glow_full_synth_n500", {}),
        ],
    ),
}
"""What a table shows and costs, its columns, and its lineages."""


def name_of(arm: Arm) -> str:
    """A lineage's name without its seed: the configuration's, and what differs."""
    config, changes = arm
    return "_".join([config, *(f"{key.rpartition('.')[2]}={v}" for key, v in changes.items())])


def train(arm: Arm, seed: int, root: Path) -> Path:
    """Trains one lineage -> its directory."""
    config, changes = arm
    name = f"{name_of(arm)}_seed{seed}"
    command = [
        sys.executable, "train.py",
        "--config", f"configs/{config}.yaml",
        "--seed_everything", str(seed),
        "--lineage.root", str(root),
        "--lineage.name", name,
        "--data.cache", str(root / "cache"),
        *(f"--{key}={value}" for key, value in changes.items()),
    ]  # fmt: skip
    settings = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    with (root / f"{name}.log").open("a") as log:
        subprocess.run(command, cwd=HOUSE, env=settings, stdout=log, stderr=log, check=True)
    return root / name


def show(name: str, seeds: Sequence[int], root: Path) -> None:
    """Prints one table, of the lineages that stand."""
    title, metrics, arms = TABLES[name]
    stand = [root / f"{name_of(arm)}_seed{seed}" for arm in arms for seed in seeds]
    print(f"\n## {name}: {title}\n", flush=True)
    report = [sys.executable, "-m", "mad_lightning", "report", "--markdown", *map(str, stand)]
    subprocess.run([*report, "--metrics", *metrics], cwd=HOUSE, check=True)


def values(arm: Arm, seed: int, root: Path) -> dict[int, dict[str, float]]:
    """What a lineage measured, by generation and name."""
    records = LineageDirectory(root / f"{name_of(arm)}_seed{seed}").records()
    return {record.generation: record.metrics for record in records}


def show_pairs(name: str, seeds: Sequence[int], root: Path) -> None:
    """Prints what each change does to equal seeds, in the first and the last generation."""
    _, metrics, arms = TABLES[name]
    print("\nDifferences of equal seeds, mean [95 %]:\n")
    for arm in arms:
        plain = next(other for other in arms if other[1] == arm[1])
        if plain is arm:
            continue
        with_it, without = ([values(a, s, root) for s in seeds] for a in (arm, plain))
        for t in (1, min(map(max, [*with_it, *without]))):
            pairs = list(zip(with_it, without, strict=True))
            told = []
            for metric in metrics:
                gained = np.array([a[t][metric] - b[t][metric] for a, b in pairs])
                both = Interval.of(gained, 0.025)
                told.append(f"{metric} {both.estimate:+.3g} [{both.low:+.3g}, {both.high:+.3g}]")
            print(f"- {name_of(arm)}, generation {t}, {len(pairs)} seeds: {', '.join(told)}")


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", choices=[[], *TABLES], metavar="TABLE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parallel", type=int, default=1, help="lineages at a time")
    parser.add_argument("--root", type=Path, default=HOUSE / "runs" / "tables")
    given = parser.parse_args()
    if not given.tables:
        for name, (title, _, arms) in TABLES.items():
            print(f"{name:12} {len(arms)} lineages a seed: {title}")
        return
    root = given.root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    seeds = range(given.seeds)
    arms = {name_of(arm): arm for name in given.tables for arm in TABLES[name][2]}
    with ThreadPoolExecutor(given.parallel) as pool:
        work = [(arm, seed) for arm in arms.values() for seed in seeds]
        done = [pool.submit(train, arm, seed, root) for arm, seed in work]
        for job, (arm, seed) in zip(done, work, strict=True):
            job.result()
            print(f"stands: {name_of(arm)}, seed {seed}", flush=True)
    for name in given.tables:
        show(name, seeds, root)
        if name in OF_PAIRS:
            show_pairs(name, seeds, root)


if __name__ == "__main__":
    main()
