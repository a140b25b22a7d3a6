"""Whose fault it is: what the user asked, what the machine has, the user's own code, or a bug.

The first three end on one screen. Only a bug of ours keeps its traceback.
"""

from __future__ import annotations

import errno
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from mad_lightning.refusal import Refused

__all__ = ["in_own_code", "refusal_of"]

_AGAIN = "then run the same command again: it goes on where it stopped"
_REMEDIES = {
    errno.ENOSPC: f"make room there, {_AGAIN}",
    errno.EDQUOT: f"make room within your quota, {_AGAIN}",
    errno.EACCES: "take a place that this user may read and write",
    errno.EPERM: "take a place that this user may read and write",
    errno.EROFS: "its file system is read-only: take another place",
    errno.ENOTDIR: "a file stands where a directory is wanted: take another place, or move it away",
    errno.EEXIST: "a file stands where a directory is wanted: take another place, or move it away",
    errno.EISDIR: "a directory stands where a file is wanted: take another name, or move it away",
    errno.ENAMETOOLONG: "give shorter names",
    errno.ENOLCK: "its file system gives no locks (NFS without lockd?): take a place on another",
    errno.ENOSYS: "its file system knows no locks: take a place on another",
    errno.EOPNOTSUPP: "its file system knows no locks: take a place on another",
    errno.ENOENT: "name a place that exists, or can be made",
    errno.EMFILE: "allow this program more open files (ulimit -n)",
}
_LIBRARIES = (
    str(Path(__file__).resolve().parents[1]),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)
_DISK_FULL = ("os error 28", "os error 122", "file write failed")
"""What safetensors and torch say of a disk that is full."""
_NO_MEMORY = ("can't allocate memory", "out of memory", "Unable to allocate", "array is too big")


def refusal_of(error: Exception) -> Refused | None:
    """What an error tells the user.

    Returns:
        Field or file, problem and remedy; None if it is a bug of ours.
    """
    if isinstance(error, Refused):
        return error
    if words := "\n".join(in_own_code(error)):
        remedy = "mend it; --debug shows all frames"
        roots = {Path(place).resolve() for place in sys.path}
        for file in map(Path, re.findall(r'File "([^"]+\.py)", line', words)):
            if file.stem in sys.stdlib_module_names and file.parent.resolve() in roots:
                remedy = f"call {file.name} otherwise: Python has a module of that name"
        return Refused("your own code", f"raised\n{words}", remedy)
    if words := _wrong_call(error):
        return Refused("your own code", words, "let it take what its base class has it take")
    if name := _own_class(error):
        problem = f"{type(error).__name__}: {str(error)[:300]}".replace("`", "'")
        remedy = "let it do all that its base class does; --debug shows all frames"
        return Refused(name, problem, remedy)
    if isinstance(error, OSError) and error.errno is not None:
        place = str(error.filename2 or error.filename or "a file")
        remedy = _REMEDIES.get(error.errno, f"mend that, {_AGAIN}")
        return Refused(place, f"{error.strerror}", remedy)
    if (
        type(error).__name__ == "MisconfigurationException"
    ):  # Lightning's, which is not imported yet
        problem = str(error).strip().replace("`", "")[:500]
        return Refused("trainer", problem, "give what Lightning's Trainer takes")
    if any(words in str(error) for words in _DISK_FULL):
        return Refused("disk", str(error).strip().splitlines()[0][:300], _REMEDIES[errno.ENOSPC])
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        problem = (str(error).strip() or "there is not enough").splitlines()[0]
        return Refused(
            "memory",
            problem.replace("`", "")[:300],
            "give smaller counts, batches or networks, or take a larger machine",
        )
    return None


def in_own_code(error: BaseException) -> Iterator[str]:
    """The end of a traceback as far as it lies in the user's own files, and what was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(frame.filename)]
    if own or (isinstance(error, SyntaxError) and _is_own(error.filename or "<>")):
        for line in traceback.format_list(own[-3:]) + traceback.format_exception_only(error):
            yield line.rstrip()


def _wrong_call(error: Exception) -> str:
    """That our code could not call a method of the user's own, which takes something else."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    called = re.match(r"(\w+)\.\w+\(\) ", str(error))
    if not isinstance(error, TypeError) or not called:
        return ""
    for thing in frame.f_locals.values():
        module = sys.modules.get(type(thing).__module__)
        if type(thing).__name__ == called[1] and _is_own(getattr(module, "__file__", None) or "<>"):
            return f"{type(thing).__module__}: {error}"
    return ""


def _own_class(error: Exception) -> str:
    """A class of the user's own that our code was working with when it failed."""
    if isinstance(error, OSError | MemoryError):
        return ""
    frames = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    for thing in (getattr(error, "obj", None), *reversed(frames)):
        module = sys.modules.get(type(thing).__module__)
        if _is_own(getattr(module, "__file__", None) or "<>"):
            return f"{type(thing).__module__}.{type(thing).__name__}"
    return ""


def _is_own(file: str) -> bool:
    """Whether a file is neither ours nor a library's."""
    return not file.startswith(("<", *_LIBRARIES)) and Path(file).is_file()
