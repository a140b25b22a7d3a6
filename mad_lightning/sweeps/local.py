"""The engine of one machine: warm workers, each with its CPU threads and perhaps a GPU.

A worker imports once and trains one lineage after another. A lineage that takes several devices
starts processes of its own, which repeat the command they are part of: so it is a program of its
own, with the cards of its place to itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from mad_lightning.refusal import Refused
from mad_lightning.sweeps.engine import Engine, Outcome
from mad_lightning.sweeps.worker import Program

__all__ = ["Local", "cards"]


class Local(Engine):
    """Workers of this machine.

    Args:
        worker_command: Starts a process that serves (:func:`~mad_lightning.sweeps.worker.serve`).
        program: Starts ``mad train``; its arguments follow.
        parallel: Workers.
        gpus: Cards that they share; 0 leaves that to each lineage.
        devices: The most that a lineage takes.

    Raises:
        Refused: If there are too few cards for a lineage.
    """

    def __init__(
        self,
        worker_command: Sequence[str],
        program: Sequence[str],
        parallel: int = 1,
        gpus: int = 0,
        devices: int = 1,
    ) -> None:
        self.worker_command, self.program = worker_command, program
        self.cards = cards(parallel, gpus, devices)
        super().__init__(len(self.cards))
        self._workers: dict[int, _Worker] = {}
        self._programs: dict[int, Program] = {}

    def train(self, outcome: Outcome, place: int) -> int | None:
        """In the worker of its place, or as a program of its own."""
        environment = os.environ | self.cards[place]
        arguments = outcome.member.arguments
        if outcome.member.devices > 1:
            self._programs[place] = Program([*self.program, *arguments], outcome.log, environment)
            return self._programs[place].wait()
        if place not in self._workers:
            self._workers[place] = _Worker(self.worker_command, environment)
        code = self._workers[place].train(arguments, str(outcome.log))
        if code not in (0, 1, 2):  # it died, or something broke that may have spoilt it
            self._workers.pop(place).end()
        return code

    def interrupt(self) -> None:
        """As Ctrl-C would; whoever stays for 30 s is ended."""
        for worker in [*self._workers.values()]:
            worker.interrupt()
        for program in [*self._programs.values()]:
            program.end()

    def close(self) -> None:
        """Lets workers go."""
        while self._workers:
            self._workers.popitem()[1].end()


def cards(parallel: int, gpus: int, devices: int = 1) -> list[dict[str, str]]:
    """What each place sees of the cards, as environment.

    Lineages of one device share cards in turn; where a lineage takes several, each place has as
    many to itself, and there are no more places than that.

    Raises:
        Refused: If there are too few cards for a lineage.
    """
    if gpus == 0:
        return [{} for _ in range(parallel)]
    if devices > gpus:
        raise Refused("gpus", f"{gpus}, and a lineage takes {devices}", "name more, or none")
    places = parallel if devices == 1 else min(parallel, gpus // devices)
    mine = ([(place * devices + n) % gpus for n in range(devices)] for place in range(places))
    return [{"CUDA_VISIBLE_DEVICES": ",".join(map(str, each))} for each in mine]


class _Worker:
    """A process that trains lineages, one at a time."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [*command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C comes from here, once
        )
        self._answer()  # that it is ready

    def train(self, arguments: Sequence[str], log: str) -> int | None:
        """Trains one lineage -> its exit code; None if the worker died."""
        assert self.process.stdin is not None
        try:
            job = json.dumps({"arguments": [*arguments], "log": log})
            print(job, file=self.process.stdin, flush=True)
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
