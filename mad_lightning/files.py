"""A file appears whole or not at all; what is dear is made once, and others wait.

Whatever kills a program, a reader never meets half a file: it is written under another name beside
the place where it belongs, brought to the disk, and renamed. A temporary file that a killed program
left is told by its name, ``.<name>.<pid>.tmp``.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

__all__ = [
    "TORN",
    "appearing",
    "finite",
    "folder_appearing",
    "make_once",
    "read_json",
    "write",
    "write_json",
]

TORN = ".*.tmp"
"""Pattern of the names of files that a killed program left half written."""


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Lets a file appear when the block ends well, also after a power cut.

    Yields:
        Where to write it: another name in the same directory, which is made if need be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _to_disk(temporary)
        temporary.replace(path)
        _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_appearing(path: Path) -> Iterator[Path]:
    """Lets a folder appear with all that is in it when the block ends well.

    Yields:
        Where to fill it: another name in the same directory.
    """
    for left in path.parent.glob(f".{path.name}.*.tmp"):  # by a program that was killed
        shutil.rmtree(left, ignore_errors=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for place in (temporary, *temporary.rglob("*")):
            _to_disk(place)
        temporary.rename(path)
        _to_disk(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _to_disk(path: Path) -> None:
    """Waits until a file's content, or a directory's names, would survive a power cut."""
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def write(path: Path, content: bytes | str) -> None:
    """Writes a file that readers see whole or not at all; text as UTF-8."""
    with appearing(path) as temporary:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes plain values as JSON; numbers that are not finite become null."""
    write(path, json.dumps(finite(value), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; empty if there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def finite(value: Any) -> Any:
    """Plain values as JSON has them: numbers that are not finite become None."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def make_once(path: Path, make: Callable[[Path], None]) -> Path:
    """Makes a file that is dear, unless it stands already.

    Of several programs that want it at the same time, one makes it and the others wait. Should that
    one die, the system drops its lock and the next one makes it.

    Args:
        path: The file; ``<path>.lock`` stays beside it.
        make: Writes it to the place that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            with appearing(path) as temporary:
                make(temporary)
    return path
