"""A file appears whole or not at all, and is believed only as it was written.

Whatever kills a program, a reader never meets half a file: it is written under another name beside
the place where it belongs, brought to the disk, and renamed. A temporary file that a killed program
left is told by its name, ``.<name>.<host>.<pid>.tmp``.

Disks rot and people edit, so what is stored proves itself. Text carries a *seal*, the digest of all
the rest of the file, where its readers look over it: JSON as a last key, YAML as a first comment,
CSV as a last column.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

__all__ = [
    "BLANK",
    "Damaged",
    "appearing",
    "as_json",
    "awaited",
    "finite",
    "folder_appearing",
    "folder_passing",
    "holder",
    "leave_mark",
    "locked",
    "make_once",
    "read_json",
    "sealed",
    "sweep",
    "to_disk",
    "unsealed",
    "with_nan",
    "write",
    "write_json",
]

_HOST = sha256(platform.node().encode()).hexdigest()[:8]
_TORN = re.compile(r"\.(?P<name>.+?)(\.(?P<host>[0-9a-f]{8}))?\.(?P<pid>\d+)\.tmp")
"""Names of files that a killed program left half written; they did not always tell the host."""
_LEFT = re.compile(r"mad-.+\.(?P<host>[0-9a-f]{8})\.(?P<pid>\d+)")
"""Names of our folders among temporary files."""
_DAY = 86_400.0
_LONG = 10.0
"""Seconds after which somebody who waits for a lock is told."""
_PLAIN = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_log = logging.getLogger(__name__)

BLANK = "sha256 " + "0" * 64
"""A seal that is still to be filled in."""
_SEAL = re.compile(rb'\A# seal: sha256 (\w{64})\n|sha256 (\w{64})(?:"\n\}|\r)\n\Z')
_TRACE = re.compile(rb'"seal":|# seal:|,seal\r\n|sha256 [^\n]{60}')
"""One flipped bit can spoil the word before a seal or the seal, and never both."""


class Damaged(OSError, ValueError):
    """A stored file is not what was written.

    Args:
        path: The file.
        reason: How that shows.
    """

    def __init__(self, path: Path, reason: str = "it is not what was written") -> None:
        self.path = path
        super().__init__(f"{path} is damaged: {reason}")


@contextmanager
def appearing(path: Path, lasting: bool = True) -> Iterator[Path]:
    """Lets a file appear when the block ends well, also after a power cut.

    Args:
        path: The file.
        lasting: Whether to wait until it would survive a power cut. What is found damaged and made
            again, or is settled later (:func:`to_disk`), need not: waiting is dear.

    Yields:
        Where to write it: another name in the same directory, which is made if need be.

    Raises:
        OSError: If it cannot be written, with its name; what stood there before still stands.
    """
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.tmp")
    try:
        yield temporary
        if lasting:
            to_disk(temporary)
        temporary.replace(path)
        if lasting:
            to_disk(path.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):  # else it would hide what went wrong
            temporary.unlink()


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
        to_disk(temporary, *temporary.rglob("*"))
        temporary.rename(path)
        to_disk(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def awaited(path: Path, seconds: float = 60.0) -> Path:
    """A file that another process has written: on a disk that machines share it may be seen late.

    Returns:
        The same path, after that many seconds whether the file is there or not.
    """
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.05)
    return path


def leave_mark(directory: Path) -> str | None:
    """Writes an empty file of a name that was never there, for others to look for.

    Returns:
        Its name, ``.mark-<random>.<host>.<pid>.tmp``; None if nothing can be written there.
    """
    mark = directory / f".mark-{uuid4().hex}.{_HOST}.{os.getpid()}.tmp"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:
        return None
    return mark.name


def folder_passing(name: str) -> TemporaryDirectory[str]:
    """A folder among the system's temporary files, which goes with what holds it.

    What programs of ours left there that were killed goes first: it can be large.

    Args:
        name: What it is for.
    """
    with suppress(OSError), os.scandir(gettempdir()) as entries:
        for entry in entries:
            left = _LEFT.fullmatch(entry.name)
            if left and _is_dead(entry, left):
                shutil.rmtree(entry.path, ignore_errors=True)
    suffix = f".{_HOST}.{os.getpid()}"
    return TemporaryDirectory(suffix, f"mad-{name}-", ignore_cleanup_errors=True)


def to_disk(*paths: Path) -> None:
    """Waits until files' contents, or directories' names, would survive a power cut."""
    for path in paths:
        place = os.open(path, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)


def write(path: Path, content: bytes | str, lasting: bool = True) -> None:
    """Writes a file that readers see whole or not at all; text as UTF-8."""
    with appearing(path, lasting) as temporary:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_json(
    path: Path, value: Mapping[str, Any], seal: bool = True, lasting: bool = True
) -> None:
    """Writes a JSON object, a line a key: lines within lists take ten times as long to write.

    Args:
        path: The file.
        value: Plain values by name.
        seal: Whether to add its seal, as the key ``seal``.
        lasting: See :func:`appearing`.
    """
    whole = {**value, "seal": BLANK} if seal else value
    lines = (f"{as_json(name)}: {as_json(inner)}" for name, inner in whole.items())
    text = "{\n  " + ",\n  ".join(lines) + "\n}\n"
    write(path, sealed(text) if seal else text, lasting)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object, without its seal; empty if there is no file.

    Raises:
        Damaged: If it is not what was written.
    """
    if not path.exists():
        return {}
    text = unsealed(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(path, str(error)) from error
    if not isinstance(value, dict):
        raise Damaged(path, "it is no JSON object")
    return {key: inner for key, inner in value.items() if key != "seal"}


def sealed(text: str) -> bytes:
    """Fills the seal of a text in, as UTF-8.

    Args:
        text: With a blank seal where a file of its kind has it.
    """
    content = text.encode()
    place = _place(content)
    assert place is not None
    return content[: place.start] + _digest(content, place) + content[place.stop :]


def unsealed(path: Path) -> str:
    """The text of a file, whose seal is checked if it has one: files did not always have.

    Raises:
        Damaged: If it is not what was written.
    """
    content = path.read_bytes()
    place = _place(content)
    is_sealed = place is not None and content[place] == _digest(content, place)
    if not content or (not is_sealed and _TRACE.search(content)):
        raise Damaged(path)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Damaged(path, str(error)) from error


def _place(content: bytes) -> slice | None:
    """Where the digest of a seal stands."""
    seal = _SEAL.search(content)
    return slice(*seal.span(seal.lastindex or 0)) if seal else None


def _digest(content: bytes, place: slice) -> bytes:
    return sha256(content[: place.start] + content[place.stop :]).hexdigest().encode()


def as_json(value: Any) -> str:
    """Plain values on a line of JSON; numbers that are not finite become null."""
    try:
        return _PLAIN.encode(value)
    except ValueError:
        return _PLAIN.encode(finite(value))


def finite(value: Any) -> Any:
    """Plain values as JSON has them: numbers that are not finite become None."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nan(values: dict[str, Any]) -> dict[str, float]:
    """Numbers by name that were plain; None becomes NaN."""
    return {name: math.nan if value is None else value for name, value in values.items()}


def make_once(
    path: Path, make: Callable[[Path], None], is_whole: Callable[[Path], bool] = Path.exists
) -> Path:
    """Makes a file that is dear, unless it stands already.

    Of several programs that want it at the same time, one makes it and the others wait. Should that
    one die, the system drops its lock, and the next one sweeps what it left and makes it.

    Args:
        path: The file; ``<path>.lock`` stays beside it.
        make: Writes it to the place that it is given.
        is_whole: Whether the file stands; one that is damaged is made again.
    """
    if not is_whole(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(Path(f"{path}.lock")):
            sweep(path.parent, re.escape(path.name), alone=True)
            if not is_whole(path):
                with appearing(path) as temporary:
                    make(temporary)
    sweep(path.parent, re.escape(path.name))
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock; whoever waits for long is told for whom."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_LONG)
    except Timeout:
        _log.warning("waiting for %s%s", path, holder(path))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def holder(lock: Path) -> str:
    """Who holds a lock and how it is freed, in words; nothing where the system sees to that.

    On a file system without locks of its own, a file that tells its owner stands for one. It goes
    when its owner ends well; a machine that died leaves it behind.
    """
    with suppress(OSError, ValueError):
        process, host, *_ = lock.read_text().split()
        if process.isdecimal():
            return f", held by process {process} on {host}; if that is dead, delete {lock}"
    return ""


def sweep(directory: Path, names: str, alone: bool = False) -> None:
    """Removes what killed programs left half written in a directory, and nothing else.

    Args:
        directory: Where; what lies deeper is left alone.
        names: Pattern of the names of files that are written there.
        alone: Whether nobody else writes them at this moment. Otherwise a temporary file goes when
            its process is gone; one of another host when it is a day old.
    """
    with suppress(OSError), os.scandir(directory) as entries:  # one may only read it, or not even
        for entry in entries:
            torn = _TORN.fullmatch(entry.name)
            if torn and re.fullmatch(names, torn["name"]) and (alone or _is_dead(entry, torn)):
                Path(entry.path).unlink(missing_ok=True)


def _is_dead(entry: os.DirEntry[str], torn: re.Match[str]) -> bool:
    """Whether the writer of a temporary file or folder is gone."""
    if torn["host"] == _HOST:
        try:
            os.kill(int(torn["pid"]), 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:  # somebody else's
            return False
        return False
    return entry.stat().st_mtime < time.time() - _DAY
