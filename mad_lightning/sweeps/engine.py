"""What every engine does alike: whose turn it is, what is tried again, and what is told.

A lineage is its command, and its ledger is all that is kept of it. So what a dead worker leaves
behind is given to another one, which goes on with it; and to run the sweep again does what is
missing.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from types import TracebackType
from typing import Self

from mad_lightning.sweeps.plan import Member

__all__ = ["TRIES", "Changed", "Engine", "Outcome"]

TRIES = 3
_KNOWN = {0: "finished", 1: "diverged", 2: "refused"}
"""Exit codes that another try would not change."""


@dataclass
class Outcome:
    """How far a lineage of a sweep is.

    Attributes:
        member: The lineage.
        state: ``waits``, ``runs``, ``finished``, ``refused``, ``diverged`` or ``failed``.
        tries: How often it was begun.
        seconds: How long, all tries together.
    """

    member: Member
    state: str
    tries: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, member: Member) -> Outcome:
        """As its ledger tells."""
        return cls(member, "finished" if member.is_finished else "waits")

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.member.directory.path.with_name(f"{self.member.name}.log")

    @property
    def last_words(self) -> str:
        """The error that its log ends with, if it does."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        starts = [place for place, line in enumerate(lines) if line.startswith("error: ")]
        return "\n".join(lines[starts[-1] :][:6]) if starts else "\n".join(lines[-3:])

    def began(self) -> None:
        """Another try begins."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.state, self.tries = "runs", self.tries + 1

    def ended(self, code: int | None, seconds: float) -> None:
        """A try has ended, with an exit code or by the death of its worker (None)."""
        self.seconds += seconds
        self.state = _KNOWN.get(-1 if code is None else code, "")
        if not self.state:
            self.state = "waits" if self.tries < TRIES else "failed"


Changed = Callable[[Outcome], None]
"""Called with an outcome that has changed, by one thread at a time."""


class Engine(ABC):
    """Trains lineages, several at a time; a context, as workers may be kept between calls.

    Args:
        parallel: How many at a time.
    """

    def __init__(self, parallel: int) -> None:
        self.parallel = parallel

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def work_off(
        self, members: Sequence[Member], changed: Changed = lambda outcome: None
    ) -> list[Outcome]:
        """Trains what is not finished.

        Args:
            members: The lineages, in the order in which they are begun.
            changed: Is told.

        Returns:
            An outcome each.

        Raises:
            KeyboardInterrupt: If somebody pressed Ctrl-C; every lineage can be gone on with.
        """
        outcomes = [Outcome.of(member) for member in members]
        waiting = deque(outcome for outcome in outcomes if outcome.state == "waits")
        places = max(1, min(self.parallel, len(waiting)))
        lock, stopped = Lock(), Event()

        def tell(outcome: Outcome) -> None:
            with lock:
                changed(outcome)

        def work(place: int) -> None:
            while not stopped.is_set():
                try:
                    outcome = waiting.popleft()
                except IndexError:
                    return
                outcome.began()
                tell(outcome)
                started = time.monotonic()
                outcome.ended(self.train(outcome, place), time.monotonic() - started)
                if outcome.state == "waits":
                    waiting.append(outcome)
                tell(outcome)

        with ThreadPoolExecutor(places) as pool:
            try:
                for done in [pool.submit(work, place) for place in range(places)]:
                    done.result()
            except BaseException:
                stopped.set()
                self.interrupt()
                raise
        return outcomes

    @abstractmethod
    def train(self, outcome: Outcome, place: int) -> int | None:
        """Trains one lineage -> the exit code of its command; None if its worker died.

        Args:
            outcome: What to train, and where its words go.
            place: Which of those that work at the same time, from 0.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """Makes all lineages at work leave as Ctrl-C would."""

    def close(self) -> None:  # noqa: B027 - an engine may have none
        """Lets workers go."""
