"""Other people's programs: started without a shell, watched, and ended with us.

A command is a line of text with names in braces. It is cut into arguments as a shell would cut it,
then names are filled in, so that no path with a space in it becomes two arguments. What it says
goes to a log; while it works, the console shows every minute where it is.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import rich

from mad_lightning.refusal import Refused

__all__ = ["Command", "last_words", "run"]

_NAME = re.compile(r"\{(\w+)\}")
_LEASH = Path(__file__).with_name("leash.py")
_FIRST, _THEN = 10.0, 60.0
"""Seconds after which the console shows what a program is doing, and again."""
_LINES, _WIDTH = 12, 160


class Command:
    """A command line with names in braces.

    Args:
        line: E.g. ``python train.py --data {data} --outdir {out}``. Braces around anything else
            than a word, as in JSON, are left as they are.
        known: Names that may stand in it; ``{python}``, this Python, always may.
        needed: Names that must.

    Raises:
        Refused: If the line cannot be cut into arguments, or its names are others.
    """

    def __init__(self, line: str, known: Collection[str], needed: Collection[str]) -> None:
        self.line = line
        self.names = {*_NAME.findall(line)}
        listed = " ".join(f"{{{name}}}" for name in (*known, "python"))
        try:
            self.arguments = shlex.split(line)
        except ValueError as error:
            raise Refused("", f"{line!r} is no command: {error}", "close the quotes") from None
        if not self.arguments:
            raise Refused("", "it is empty", "give a command, e.g. python train.py ...")
        if unknown := sorted(self.names - {*known, "python"}):
            raise Refused("", f"nothing is known as {{{unknown[0]}}}", f"choose among {listed}")
        if missing := [name for name in needed if name not in self.names]:
            problem = f"{{{missing[0]}}} does not stand in {line!r}"
            raise Refused(
                "", problem, f"tell the program by one of its options; known are {listed}"
            )

    def check(self) -> None:
        """Refuses a command whose program, or Python file, is not there."""
        program, *rest = self.filled({})
        if shutil.which(program) is None:
            remedy = "install it, activate the environment that has it, or give its path"
            raise Refused("", f"there is no program {program!r}", remedy)
        for argument in rest:
            if (
                argument.endswith(".py")
                and not _NAME.search(argument)
                and not Path(argument).is_file()
            ):
                raise Refused(
                    "",
                    f"there is no file {argument} (seen from {Path.cwd()})",
                    "give its whole path, or start the lineage from where it lies",
                )

    def filled(self, facts: Mapping[str, object]) -> list[str]:
        """Arguments with facts in the place of names."""
        known = {"python": sys.executable, **facts}

        def fact(name: re.Match[str]) -> str:
            return str(known.get(name[1], name[0]))

        return [_NAME.sub(fact, argument) for argument in self.arguments]


def run(arguments: Sequence[str], log: Path, patience: float | None = None, what: str = "") -> None:
    """Runs a program to its end; it ends with us, however we end.

    Args:
        arguments: The program and what it is given.
        log: Where to add what it says.
        patience: Seconds after which it is ended; None waits as long as it takes.
        what: What it does, for the console.

    Raises:
        Refused: If it does not end, or ends with an error.
    """
    start = time.monotonic()
    with log.open("ab") as words:
        words.write(f"$ {shlex.join(arguments)}\n".encode())
        words.flush()
        leash = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_LEASH), *arguments],
            stdin=subprocess.PIPE,
            stdout=words,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us; the leash sees to the rest
            env={"PYTHONUNBUFFERED": "1", **os.environ},
        )
    assert leash.stdin is not None
    try:
        for pause in _pauses(start, patience):
            try:
                code = leash.wait(pause)
                break
            except subprocess.TimeoutExpired:
                _show(what, time.monotonic() - start, log)
        else:
            problem = f"{Path(arguments[0]).name} was ended after {patience:g} s without an end"
            raise Refused("", problem, "make it faster, or raise `patience`")
    finally:
        leash.stdin.close()
        leash.wait()
    if code:
        number = code - 128
        name = signal.Signals(number).name if number in {*signal.Signals} else ""
        how = f"was ended by {name}" if name else f"ended with exit code {code}"
        raise Refused("", f"{Path(arguments[0]).name} {how}", "see what it says")


def last_words(log: Path) -> str:
    """The end of a log, as much as fits a screen."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        text = file.read().decode(errors="replace").replace("`", "'")  # ours mean parameters
    lines = [line.rpartition("\r")[2].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    return "\n".join(f"    {line[:_WIDTH]}" for line in [x for x in lines if x][-_LINES:])


def _pauses(start: float, patience: float | None) -> Iterator[float]:
    """Seconds until the next look at a program, for as long as there is patience."""
    look = _FIRST
    while patience is None or time.monotonic() - start < patience:
        end = look if patience is None else min(look, patience)
        yield max(0.01, start + end - time.monotonic())
        look += _THEN


def _show(what: str, seconds: float, log: Path) -> None:
    """One line, above any bars."""
    terminal = rich.get_console()
    doing = last_words(log).rpartition("\n")[2].strip()
    line = f"{what}: {seconds:.0f} s, {doing[:100]} (log: {log})"
    line = line.encode(terminal.encoding, "replace").decode(terminal.encoding)
    terminal.print(line, style="dim", markup=False, highlight=False, emoji=False, soft_wrap=True)
