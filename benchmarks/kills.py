"""Whether a lineage that is killed at any moment ends as one that is left alone.

    python benchmarks/kills.py                           # 240 lineages over six families
    python benchmarks/kills.py --lineages 40 --families WGAN,Glow --seed 7
    python benchmarks/kills.py --temporary /dev/shm      # TMPDIR on another file system
    python benchmarks/kills.py --processes 2 --lineages 12  # Lightning's DDP: rank 1 or both

A kill is a SIGKILL, either at a random moment of the lineage or at one of the moments at which a
file is about to be brought to the disk, renamed or removed; every second of those that are brought
to the disk is cut in half first, as if the program had died while it wrote. Every fifth death is a
full disk instead: from such a moment on, nothing can be written. Half of the lineages die twice.
Then the same command runs to its end, and what is left is held against the undisturbed lineage:
ledger, digests, metrics, curves, pictures, shards, the names of all files, and the history of the
offline W&B runs. The last line counts; the program ends with 1 if any differed.

All is imported once and each lineage runs in a fork, so that a kill costs about three seconds.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

import torch

# Imported once, here, for all forks.
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel  # noqa: F401

from mad_lightning.callbacks.wandb_files import history as rows_of
from mad_lightning.commands.train import build
from mad_lightning.lineage import LineageDirectory

HOUSE = Path(__file__).resolve().parent.parent

DIGITS = [
    "--data.source", "Digits",
    "--data.n_reference", "100",
    "--data.batch_size", "32",
    "--data.images_per_epoch", "128",
    "--trainer.max_epochs", "3",
    "--policy", "FreshData",
    "--policy.n_initial", "200",
    "--policy.n_fresh", "40",
    "--policy.n_synthetic", "160",
    "--evaluator.extractor", "Pixels",
]  # fmt: skip

FAMILIES = {
    "Gaussian": DIGITS,
    "Mixture": [
        "--data.source", "Grid25",
        "--data.n_reference", "100",
        "--policy", "FullySynthetic",
        "--policy.n_initial", "200",
        "--generator.components", "9",
        "--evaluator.extractor", "Identity",
    ],
    "Diffusion": [
        *DIGITS,
        "--generator.network", "mad_lightning.nets.unet.UNet",
        "--generator.network.widths", "[8,8]",
        "--generator.sampling_steps", "3",
    ],
    "Glow": [
        *DIGITS,
        "--generator.levels", "2",
        "--generator.couplings", "2",
        "--generator.hidden", "8",
    ],
    "WGAN": DIGITS,
    "StyleGAN2": [*DIGITS, "--generator.dim", "8", "--generator.channel_max", "8"],
}  # fmt: skip


def command(family: str, root: Path, name: str, wandb: bool) -> list[str]:
    """The options of a small lineage of three generations."""
    views = '{"class_path": "SampleGrids"}'
    if wandb:
        views += ', {"class_path": "WandB"}'
    return [
        "--lineage.root", str(root),
        "--lineage.name", name,
        "--lineage.generations", "3",
        "--lineage.block_size", "64",
        "--lineage.threads", "1",
        "--data.cache", str(root / "cache"),
        "--generator", family,
        *FAMILIES[family],
        "--evaluator.metrics", '[{"class_path": "Neighbours"}, {"class_path": "Frechet"}]',
        "--callbacks", f"[{views}]",
        "--trainer.accelerator", "cpu",
    ]  # fmt: skip


class Death:
    """Ends this program at its n-th call that brings a file to the disk, renames or removes one.

    Args:
        kind: ``kill``; ``torn``, a kill in the middle of the file; ``full``, no room for the rest
            of it and for any file after it; else nothing, and calls are counted only.
        at: Which call, from 0.
    """

    def __init__(self, kind: str, at: float) -> None:
        self.kind, self.at, self.calls = kind, at, 0
        for name in ("fsync", "replace", "rename", "unlink"):
            setattr(os, name, self.watched(getattr(os, name)))

    def watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same system call, after which there may be nobody left."""

        def dying(*arguments: Any, **more: Any) -> Any:
            self.calls += 1
            if self.calls > self.at and self.kind in ("kill", "torn", "full"):
                if self.kind != "kill" and call.__name__ == "fsync":
                    file = Path(f"/proc/self/fd/{arguments[0]}").readlink()
                    if file.is_file():
                        os.truncate(file, file.stat().st_size // 2)
                if self.kind != "full":
                    os.kill(os.getpid(), signal.SIGKILL)
                if call.__name__ != "unlink":
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))
            return call(*arguments, **more)

        return dying


def lineage(options: list[str], kind: str = "", at: float = 0) -> tuple[int, int]:
    """Runs a lineage in a fork, to its end or to its death; its exit code and its calls.

    Args:
        options: Of the command line.
        kind: A kind of :class:`Death`, or ``time``: a kill from outside.
        at: Which call, or after how many seconds.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        watch, code = Death(kind, at), 1
        try:
            build(options).fit()
            code = 0
        except BaseException as error:
            if kind != "full":
                print(f"{type(error).__name__}: {error}"[:2000], file=sys.stderr)
        os.write(write, str(watch.calls).encode())
        os._exit(code)
    os.close(write)
    if kind == "time":
        ended, deadline = None, time.monotonic() + at
        while ended is None and time.monotonic() < deadline:
            time.sleep(0.002)
            ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(read) as pipe:
        return code, int(pipe.read() or 0)


def pair(options: list[str], kind: str = "", at: float = 0) -> tuple[int, int]:
    """The same on two processes: the command line itself, one of them killed first or both."""
    environment = os.environ | {"PYTHONPATH": str(HOUSE)}
    arguments = [*options, "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    program = subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=HOUSE,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if kind:
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(at)
        ranks = _children(program.pid) if program.poll() is None else []
        if kind == "one" and ranks:  # rank 0 must not go on without rank 1
            os.kill(ranks[0], signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(60)
            if program.poll() is None:
                print("    rank 0 was still there a minute after rank 1 had been killed")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
    return program.wait(), 0


def _children(parent: int) -> list[int]:
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(child) for child in listed]


def outcome(root: Path, name: str, wandb: bool) -> dict[str, Any]:
    """What must not depend on kills."""
    directory = LineageDirectory(root / name)
    facts: dict[str, Any] = {}
    for record in directory.records():
        facts[f"ledger {record.generation}"] = record.outcome
    files = [path for path in directory.path.rglob("*") if path.is_file()]
    for path in files:
        place = str(path.relative_to(directory.path))
        if place.startswith("wandb/"):
            continue
        same = path.suffix in (".png", ".csv", ".safetensors")
        facts[place] = sha256(path.read_bytes()).hexdigest() if same else "is there"
    if wandb:
        facts["W&B"] = history(directory)
    return facts


def history(directory: LineageDirectory) -> list[dict[str, Any]]:
    """What the offline runs of a lineage hold together: rows without times and pictures' paths."""
    passing = ("_", "seconds", "samples")
    rows = [
        {key: value for key, value in row.items() if not key.startswith(passing)}
        for run in directory.wandb_folder.glob("offline-run-*")
        for row in rows_of(run)
    ]
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def deaths(rng: random.Random, seconds: float, calls: int) -> Iterator[tuple[str, float]]:
    """Endless ways to die in a lineage that takes so many seconds and makes so many calls."""
    while True:
        if not calls:  # two processes
            yield rng.choice(["one", "both"]), rng.uniform(0, seconds)
        elif rng.random() < 0.3:
            yield "time", rng.uniform(0, seconds)
        else:
            kind = rng.choices(["kill", "torn", "full"], [2, 3, 2])[0]
            yield kind, rng.randrange(calls)


def campaign(
    run: Callable[..., tuple[int, int]],
    family: str,
    root: Path,
    lineages: int,
    wandb_every: int,
    rng: random.Random,
) -> collections.Counter[str]:
    """All deaths of one family, counted by kind, and how many lineages ended equal."""
    counts: collections.Counter[str] = collections.Counter()
    undisturbed = {}
    for number in range(lineages):
        wandb = bool(wandb_every) and number % wandb_every == 0
        if wandb not in undisturbed:
            calm, started = f"calm{wandb:d}", time.monotonic()
            code, calls = run(command(family, root, calm, wandb))
            if code:
                raise SystemExit(f"{family}: the undisturbed lineage ended with {code}")
            ways = deaths(rng, time.monotonic() - started, calls)
            undisturbed[wandb] = outcome(root, calm, wandb), ways
        expected, ways = undisturbed[wandb]
        name, died = f"killed{number}", []
        options = command(family, root, name, wandb)
        for _ in range(1 + (rng.random() < 0.5)):
            kind, at = next(ways)
            code, _ = run(options, kind, at)
            died.append((kind, at, code))
            counts[kind] += code != 0
        code, _ = run(options)
        facts = outcome(root, name, wandb)
        unlike = [k for k in sorted({*facts, *expected}) if facts.get(k) != expected.get(k)]
        counts["lineages"] += 1
        counts["equal"] += not (code or unlike)
        if code or unlike:
            print(f"  {family} {name}: died {died}, ended with {code}, unlike {unlike}")
        else:
            shutil.rmtree(root / name)
    return counts


def main() -> int:
    """Runs the campaign; 1 if any lineage differs from one that was left alone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lineages", type=int, default=240, help="over all families")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--wandb-every", type=int, default=6, help="each n-th lineage has a W&B run; 0: none"
    )
    parser.add_argument("--processes", type=int, default=1, choices=[1, 2])
    parser.add_argument("--temporary", help="TMPDIR of the lineages")
    parser.add_argument("--root", help="where lineages go; those that differ stay there")
    options = parser.parse_args()
    root = Path(options.root or tempfile.mkdtemp(prefix="kills-")).resolve()
    if options.temporary:
        os.environ["TMPDIR"] = tempfile.tempdir = options.temporary
    torch.set_num_threads(1)
    families = options.families.split(",")
    total: collections.Counter[str] = collections.Counter()
    for place, family in enumerate(families):
        rng = random.Random(f"{options.seed} {family}")
        lineages = len(range(place, options.lineages, len(families)))
        started = time.monotonic()
        run = lineage if options.processes == 1 else pair
        counts = campaign(run, family, root / family, lineages, options.wandb_every, rng)
        total += counts
        print(f"{family:10s} {dict(counts)}  {time.monotonic() - started:.0f} s", flush=True)
    print(f"in all     {dict(total)}")
    return int(total["equal"] != total["lineages"])


if __name__ == "__main__":
    raise SystemExit(main())
