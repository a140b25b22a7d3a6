"""Where a lineage of a sweep is trained: in a warm process, or as a program of its own.

A warm worker pays for imports once. It is a process of its own: jobs come as lines of JSON on its
standard input, answers go out as lines of JSON, and what a lineage prints goes into a log of its
own. When whoever gave the jobs is gone, it stops as Ctrl-C would, and a program is ended, so that
nothing holds a lineage that nobody waits for.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from mad_lightning import leash

__all__ = ["Command", "Program", "serve", "train"]

Command = Callable[[list[str]], object]
"""Runs arguments; leaves by ``SystemExit`` where it was refused."""


def serve(command: Command, jobs: TextIO, answers: TextIO) -> None:
    """Works off jobs until there are no more.

    Args:
        command: What to run.
        jobs: Lines ``{"arguments": [...], "log": path}``.
        answers: Gets a line ``{"code": exit code}`` for each; the first one, without a job, says
            that it is ready.
    """
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    print(json.dumps({"code": None}), file=answers, flush=True)
    for line in jobs:
        job = json.loads(line)
        code = train(command, job["arguments"], Path(job["log"]))
        print(json.dumps({"code": code}), file=answers, flush=True)


def train(command: Command, arguments: list[str], log: Path) -> int:
    """Runs a command in this process -> its exit code; leaves the process as it was."""
    import torch

    threads = torch.get_num_threads()
    try:
        with _printing_to(log):
            try:
                command(arguments)
            except SystemExit as left:
                return left.code if isinstance(left.code, int) else 1
            except BaseException:  # a worker outlives what a lineage raises
                traceback.print_exc()
                return 70
        return 0
    finally:
        torch.set_num_threads(threads)  # the lineage may have taken fewer


class Program:
    """A command as a program of its own, which ends when this process does.

    Args:
        command: The program and its arguments.
        log: What it prints is added there.
        environment: Its environment; None takes that of this process.
    """

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, leash.__file__, *command],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env=environment,
                start_new_session=True,
            )

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        try:
            return self._process.wait()
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Ends it, and all that it has started."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()


@contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Lets this process, and what it starts, print at the end of a file."""
    streams = (sys.stdout, sys.stderr)
    for stream in streams:
        stream.flush()
    before = [os.dup(number) for number in (1, 2)]
    try:
        with log.open("ab") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
        yield
    finally:
        for number, (stream, kept) in enumerate(zip(streams, before, strict=True), start=1):
            stream.flush()
            os.dup2(kept, number)
            os.close(kept)


def _leave_with(parent: int) -> None:
    """Ends the work when the parent is gone."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30.0)
    os._exit(130)
