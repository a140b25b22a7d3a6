"""The engine of one machine: warm workers, each with its CPU threads and perhaps a GPU.

A lineage is its command, and its ledger is all that is kept of it. So what a dead worker leaves
behind is given to another one, which goes on with it; and to run the sweep again does what is
missing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock

from mad_lightning.sweeps.plan import Member

__all__ = ["Outcome", "work_off"]

_FINAL = (0, 1, 2)
"""Exit codes that another try would not change: finished, diverged, refused."""
_TRIES = 3


@dataclass
class Outcome:
    """How far a lineage of a sweep is.

    Attributes:
        member: The lineage.
        state: ``waits``, ``runs``, ``finished``, ``refused``, ``diverged`` or ``failed``.
        log: What it printed.
        tries: How often it was begun.
        seconds: How long, all tries together.
    """

    member: Member
    state: str
    log: Path
    tries: int = 0
    seconds: float = 0.0

    @property
    def last_words(self) -> str:
        """The error that its log ends with, if it does."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        starts = [place for place, line in enumerate(lines) if line.startswith("error: ")]
        return "\n".join(lines[starts[-1] :][:6]) if starts else "\n".join(lines[-3:])


def work_off(
    members: Sequence[Member],
    worker_command: Sequence[str],
    parallel: int = 1,
    gpus: int = 0,
    changed: Callable[[Outcome, Sequence[Outcome]], None] = lambda one, all: None,
) -> list[Outcome]:
    """Trains what is not finished, on several workers.

    Args:
        members: The lineages, in the order in which they are begun.
        worker_command: Starts a process that serves (:func:`~mad_lightning.sweeps.worker.serve`).
        parallel: Workers.
        gpus: Devices that workers share in turn; 0 leaves that to each lineage.
        changed: Called, by one thread at a time, with an outcome that has changed, and with all.

    Returns:
        An outcome each.

    Raises:
        KeyboardInterrupt: If somebody pressed Ctrl-C; every lineage can be gone on with.
    """
    outcomes = [
        Outcome(member, "finished" if member.is_finished else "waits", _log_of(member))
        for member in members
    ]
    waiting = deque(outcome for outcome in outcomes if outcome.state == "waits")
    lock, stopped = Lock(), Event()

    def tell(outcome: Outcome) -> None:
        with lock:
            changed(outcome, outcomes)

    def work(place: int) -> None:
        worker: _Worker | None = None
        while not stopped.is_set():
            try:
                outcome = waiting.popleft()
            except IndexError:
                break
            outcome.state, outcome.tries = "runs", outcome.tries + 1
            tell(outcome)
            worker = worker or _Worker(worker_command, place % gpus if gpus else None)
            workers.add(worker)
            started = time.monotonic()
            code = worker.train(outcome)
            outcome.seconds += time.monotonic() - started
            if code is None or code not in _FINAL:  # it died, or something else did
                workers.discard(worker)
                worker.end()
                worker = None
            outcome.state = _state(code, outcome.tries)
            if outcome.state == "waits":
                waiting.append(outcome)
            tell(outcome)
        if worker is not None:
            worker.end()

    workers: set[_Worker] = set()
    with ThreadPoolExecutor(max(1, min(parallel, len(waiting)))) as pool:
        try:
            for done in [pool.submit(work, place) for place in range(min(parallel, len(waiting)))]:
                done.result()
        except BaseException:
            stopped.set()
            for worker in [*workers]:
                worker.interrupt()
            raise
    return outcomes


def _state(code: int | None, tries: int) -> str:
    known = {0: "finished", 1: "diverged", 2: "refused"}
    if code in known:
        return known[code]
    return "waits" if tries < _TRIES else "failed"


def _log_of(member: Member) -> Path:
    return member.directory.path.with_name(f"{member.name}.log")


class _Worker:
    """A process that trains lineages, one at a time."""

    def __init__(self, command: Sequence[str], gpu: int | None) -> None:
        environment = os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)})
        self.process = subprocess.Popen(
            [*command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C comes from here, once
        )
        self._answer()  # that it is ready

    def train(self, outcome: Outcome) -> int | None:
        """Trains one lineage -> its exit code; None if the worker died."""
        outcome.log.parent.mkdir(parents=True, exist_ok=True)
        job = {"arguments": outcome.member.arguments, "log": str(outcome.log)}
        assert self.process.stdin is not None
        try:
            print(json.dumps(job), file=self.process.stdin, flush=True)
        except OSError:
            return None
        return self._answer()

    def _answer(self) -> int | None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line)["code"] if line else None

    def interrupt(self) -> None:
        """Lets it leave its lineage as Ctrl-C would; if it does not within 30 s, ends it."""
        with suppress(OSError):
            os.kill(self.process.pid, signal.SIGINT)
        self.end()

    def end(self) -> None:
        """Lets it go when it is done."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(30.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
