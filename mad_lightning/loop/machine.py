"""What the machine has and what a lineage weighs, to be compared before it starts; and its name.

A count with three noughts too many is found after hours, when memory or disk is full. All counts
are known before the start, and so is what a sample and a network weigh. What is estimated here is
less than what will be needed, so that nothing is refused that would work.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
from functools import cache
from pathlib import Path

import lightning as L
import torch

from mad_lightning import __version__
from mad_lightning.generators.base import Generator
from mad_lightning.refusal import Refused
from mad_lightning.samples import SampleSpec

__all__ = ["commit", "environment", "memory", "nearest", "sample_bytes", "weight_bytes"]


def environment(precision: str, device: str) -> dict[str, str]:
    """With what numbers are computed, for the ledger: the last digits depend on it.

    A lineage goes on under other versions and on other devices, and its ledger says since when.

    Args:
        precision: Of training, as Lightning calls it. Samples and features are computed in float32.
        device: Kind of device, e.g. ``cuda``.
    """
    name, products = torch.backends.cpu.get_cpu_capability(), torch.get_float32_matmul_precision()
    told = {"precision": precision, "drawn_in": "float32", "float32_products": products}
    if device == "cuda":
        name = torch.cuda.get_device_name()
        convolutions = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
        told["float32_convolutions"] = "tf32" if convolutions == "tf32" else "highest"
    return {
        **told,
        "device": f"{device} ({name})" if device in ("cpu", "cuda") else device,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": L.__version__,
        "mad_lightning": __version__,
        **({"commit": commit()} if commit() else {}),
    }


@cache  # a process computes with what it has imported
def commit(package: Path = Path(__file__).parents[1]) -> str:
    """The commit of the clone that a package runs from, with ``-dirty`` if files were changed.

    Returns:
        40 hexadecimal digits; nothing for an installed package, and where there is no git.
    """
    describe = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    try:
        for command in (("ls-files", "--error-unmatch", "__init__.py"), describe):
            told = subprocess.run(
                ["git", "-C", str(package), *command],
                env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip()


def nearest(path: Path) -> Path:
    """The directory itself, or else the one above in which it can be made.

    Raises:
        Refused: If a file stands in the way, or no system takes such a path.
    """
    if "\0" in str(path):
        raise Refused("", f"{str(path)!r} is no path", "name a directory")
    try:
        stands = next(place for place in (path, *path.parents) if place.exists())
    except (OSError, ValueError) as error:
        problem = f"{str(path)[:200]!r}: {getattr(error, 'strerror', None) or error}"
        raise Refused("", problem, "give a short path of plain characters") from None
    if not stands.is_dir():
        raise Refused("", f"{stands} is a file", "name a directory")
    return stands


def sample_bytes(spec: SampleSpec) -> int:
    """What a stored sample weighs."""
    return math.prod(spec.shape) * spec.dtype.itemsize + (8 if spec.classes is not None else 0)


def weight_bytes(generator: Generator) -> int:
    """What a generator's weights and buffers weigh."""
    return sum(tensor.numel() * tensor.itemsize for tensor in generator.state_dict().values())


def memory() -> int:
    """Bytes of memory that this process may have: the machine's, or less by order."""
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            most = min(most, int(Path("/sys/fs/cgroup", limit).read_text()))
        except (OSError, ValueError):
            continue
    return most
