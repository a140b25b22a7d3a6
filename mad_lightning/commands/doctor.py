"""mad doctor: what this machine has, and what a lineage would miss here.

usage: mad doctor [--root DIRECTORY]

Versions, devices, memory, disk and locks of the directory that lineages go to (default: runs),
weights of feature extractors, W&B, and environment variables that decide something. Nothing is
downloaded, trained or kept. Ends with exit code 1 if lineages cannot be trained here.

Options:
  --root DIRECTORY   where lineages shall lie
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from mad_lightning import __version__
from mad_lightning.callbacks.wandb import has_key
from mad_lightning.commands.explain import PlainParser
from mad_lightning.loop.machine import memory, nearest
from mad_lightning.magnitudes import size
from mad_lightning.metrics.features.dinov2 import DINOv2
from mad_lightning.metrics.features.inception import Inception
from mad_lightning.metrics.features.lite0 import Lite0
from mad_lightning.metrics.features.vgg16 import VGG16
from mad_lightning.refusal import Refused

__all__ = ["build_parser", "run"]

_LIBRARIES = (
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "diffusers",
    "normflows",
    "wandb",
)


def build_parser() -> PlainParser:
    """All that may be said to it."""
    parser = PlainParser("doctor")
    parser.add_argument("--root", type=Path, default=Path("runs"), metavar="DIRECTORY")
    return parser


def run(args: Sequence[str]) -> None:
    """Prints a line a fact; what is missing is marked and has its remedy."""
    root: Path = build_parser().parse_args(args).root
    place = [*_place(root)]
    facts = [*_programs(), *_devices(), *place, *_weights(), *_wandb(), *_variables()]
    for name, words, remedy in facts:
        print(f"{'!' if remedy else ' '} {name:<13} {words}")
        if remedy:
            print(f"{'':16}{remedy}")
    if any(remedy for *_, remedy in place):
        raise SystemExit(1)


Fact = tuple[str, str, str]
"""A name, what was seen, and the remedy if it is missing."""


def _programs() -> Iterator[Fact]:
    yield "mad_lightning", f"{__version__} in {Path(__file__).parents[1]}", ""
    yield "python", f"{platform.python_version()} on {platform.platform()}", ""
    for name in _LIBRARIES:
        try:
            yield name, importlib.metadata.version(name), ""
        except importlib.metadata.PackageNotFoundError:
            yield name, "not installed", f"pip install {name}"


def _devices() -> Iterator[Fact]:
    import torch

    memory_here = size(memory())
    yield "cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {memory_here}", ""
    gpus = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    for n, gpu in enumerate(gpus):
        yield f"cuda:{n}", f"{gpu.name}, {size(gpu.total_memory)}", ""
    if not gpus:
        build = (
            f"torch was built for CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
        )
        yield "cuda", f"none ({build})", ""
    if torch.backends.mps.is_available():
        yield "mps", "there", ""


def _place(root: Path) -> Iterator[Fact]:
    """Whether lineages can be written and held there."""
    try:
        stands = nearest(root)
        with tempfile.TemporaryDirectory(dir=stands, prefix=".doctor-") as folder:
            lock = FileLock(Path(folder) / ".lock")
            with lock.acquire(timeout=0):
                (Path(folder) / "file").write_bytes(bytes(1))
            os.link(Path(folder) / "file", Path(folder) / "other")
    except Refused as refused:
        yield "root", f"{root}: {refused.problem}", "name a directory with --root"
    # filelock raises NotImplementedError where a system has no locks
    except (OSError, NotImplementedError) as error:
        yield "root", f"{root}: {error}", "take a root on another file system, which one may write"
    else:
        free = size(shutil.disk_usage(stands).free)
        yield "root", f"{root}: {free} free, files can be written, locked and shared", ""


def _weights() -> Iterator[Fact]:
    """Extractors whose weights must be there before a lineage starts."""
    for extractor in (Lite0(), Inception(), VGG16(), DINOv2()):
        path = extractor.home
        remedy = "" if path.exists() else "put the file there, or say download: true"
        yield extractor.name, str(path) if path.exists() else f"no weights at {path}", remedy


def _wandb() -> Iterator[Fact]:
    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "dryrun", "disabled"):
        yield "wandb", f"runs are {mode}, as WANDB_MODE says", ""
    elif has_key():
        yield "wandb", "runs are online: there is an API key", ""
    else:
        yield "wandb", "runs are offline: there is no API key", "wandb login, to see runs online"


_VARIABLES = {
    "PL_GLOBAL_SEED": "is the seed of lineages that are told none",
    "CUDA_VISIBLE_DEVICES": "says which GPUs there are",
    "OMP_NUM_THREADS": "says how many threads torch takes, unless lineage.threads does",
    "TORCH_HOME": "is where weights of extractors lie",
    "WANDB_PROJECT": "is the project of W&B runs that are told none",
    "WANDB_ENTITY": "owns W&B runs that are told no other",
    "WANDB_RUN_GROUP": "is their group",
    "WANDB_NAME": "is their name",
    "WANDB_TAGS": "are their tags",
    "WANDB_DIR": "is not taken: the W&B run of a lineage lies in the lineage's directory",
    "PL_TRAINER__MAX_EPOCHS": "is not taken: give --trainer.max_epochs",
}
"""Variables that Lightning's, torch's and W&B's users set, and what they do here."""


def _variables() -> Iterator[Fact]:
    """Those that are set."""
    for name, what in _VARIABLES.items():
        if (value := os.environ.get(name)) is not None:
            yield "environment", f"{name}={value} {what}", ""
