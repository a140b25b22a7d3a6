"""A sweep while it goes on: arms by seeds with the generation that each has reached, and time left.

Where nobody looks, in a file or a pipe, a line a change says the same.
"""

from __future__ import annotations

import time
from collections import Counter
from os import stat_result
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from mad_lightning.magnitudes import duration
from mad_lightning.refusal import Refused
from mad_lightning.sweeps.engine import Outcome
from mad_lightning.sweeps.plan import Member, Sweep

__all__ = ["Watch"]

_SIGNS = {"waits": "", "finished": "done"}


class Watch:
    """Shows how far a sweep is; a context.

    Args:
        sweep: Its lineages.
        console: Where; None takes standard output.
    """

    def __init__(self, sweep: Sweep, console: Console | None = None) -> None:
        self.sweep, self.console = sweep, console or Console()
        self.outcomes: dict[str, Outcome] = {}
        self._read: dict[Path, tuple[tuple[int, int], int]] = {}
        self._began, self._before = time.monotonic(), self.reached
        self._live: Live | None = None
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(get_renderable=self.show, console=self.console, refresh_per_second=1)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def changed(self, outcome: Outcome) -> None:
        """Shows it."""
        self.outcomes[outcome.member.name] = outcome
        if self._live is None:
            took = f" in {duration(outcome.seconds)}" if outcome.seconds else ""
            again = f" for the {outcome.tries}. time" if outcome.tries > 1 else ""
            state = "unfinished" if outcome.state == "waits" else outcome.state
            words = f"{state}: {outcome.member.name}{again}{took}"
            self.console.print(f"{words} ({self.summary()})", soft_wrap=True, markup=False)

    def show(self) -> RenderableType:
        """All lineages as they are now."""
        seeds = sorted({member.seed for member in self.sweep.members})
        table = Table("arm", *(f"seed {seed}" for seed in seeds), box=None)
        for arm, members in self.sweep.arms.items():
            by_seed = {member.seed: member for member in members}
            cells = (by_seed.get(seed) for seed in seeds)
            table.add_row(arm, *("" if one is None else self._cell(one) for one in cells))
        return Group(table, self.summary())

    def summary(self) -> str:
        """How many are finished, and how long the others will take."""
        states = Counter(outcome.state for outcome in self.outcomes.values())
        bad = [f"{states[name]} {name}" for name in ("refused", "diverged", "failed")]
        told = [f"{self._finished()} of {len(self.sweep.members)} finished"]
        told += [words for words in bad if words[0] != "0"]
        left = self.left()
        return ", ".join([*told, *([] if left is None else [f"about {duration(left)} left"])])

    def left(self) -> float | None:
        """Seconds, at the pace so far; None as long as there is none."""
        lost = ("refused", "diverged", "failed")
        states = {name: outcome.state for name, outcome in self.outcomes.items()}
        wanted = [m for m in self.sweep.members if states.get(m.name) not in lost]
        coming = sum(max(0, member.generations - self._count(member)) for member in wanted)
        made = self.reached - self._before
        return coming * (time.monotonic() - self._began) / made if made and coming else None

    @property
    def reached(self) -> int:
        """Generations of all lineages."""
        return sum(map(self._count, self.sweep.members))

    def _finished(self) -> int:
        return sum(self._count(member) >= member.generations for member in self.sweep.members)

    def _cell(self, member: Member) -> str:
        outcome, count = self.outcomes.get(member.name), self._count(member)
        state = outcome.state if outcome else "waits"
        if state == "runs" or (0 < count < member.generations and state == "waits"):
            return f"{count} of {member.generations}"
        return "done" if count >= member.generations else _SIGNS.get(state, state)

    def _count(self, member: Member) -> int:
        """Generations that stand; ledgers that did not change are not read again."""
        path = member.directory.ledger.path
        try:
            now = _state(path.stat())
        except OSError:
            return 0
        if self._read.get(path, (None, 0))[0] != now:
            try:
                self._read[path] = (now, member.reached)
            except Refused:  # its own command says what is wrong
                self._read[path] = (now, 0)
        return self._read[path][1]


def _state(told: stat_result) -> tuple[int, int]:
    return told.st_size, told.st_mtime_ns
