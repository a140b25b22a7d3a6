"""A warm worker: trains one lineage after another, and pays for imports once.

It is a process of its own. Jobs come as lines of JSON on its standard input, answers go out as
lines of JSON; what a lineage prints goes into a log of its own. When whoever gave the jobs is gone,
it stops as Ctrl-C would, so that nothing holds a lineage that nobody waits for.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

__all__ = ["serve"]

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
    import torch

    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    threads = torch.get_num_threads()
    print(json.dumps({"code": None}), file=answers, flush=True)
    for line in jobs:
        job = json.loads(line)
        torch.set_num_threads(threads)  # the lineage before may have taken fewer
        with Path(job["log"]).open("ab") as log:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(log.fileno(), stream.fileno())
            code = _code_of(command, job["arguments"])
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        print(json.dumps({"code": code}), file=answers, flush=True)


def _code_of(command: Command, arguments: list[str]) -> int:
    try:
        command(arguments)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 1
    except BaseException:  # a worker outlives what a lineage raises
        traceback.print_exc()
        return 70
    return 0


def _leave_with(parent: int) -> None:
    """Ends the work when the parent is gone."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30.0)
    os._exit(130)
