"""What a person watches: a table that grows by one row a generation, above two progress bars.

The row to compare with comes first: the *floor*, what the metrics say of real samples against other
real samples at the same n. A perfect generator would score it in every row; a lineage that goes MAD
walks away from it. Where nobody watches (a log file, CI), the same rows come as plain lines with an
estimate of the time left, and no bars.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import rich
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from mad_lightning.callbacks.base import LineageCallback, LineageInfo
from mad_lightning.lineage.ledger import GenerationRecord, is_closed
from mad_lightning.lineage.quantities import SECTIONS, Quantity
from mad_lightning.policies import Mix
from mad_lightning.schedules import spelled

__all__ = ["Console", "say"]

_COUNTS = ("n_real", "n_fresh", "n_synthetic")
_OUTSIDE = "n_external"  # a column where samples come from outside
_REDRAW_EVERY = 0.1
"""Seconds; batches can be a thousand times shorter."""
_INDENT = 2
"""Places that the first column has more than it needs."""
_ARROWS = {"lower": " ↓", "higher": " ↑", None: ""}
_PLAIN = str.maketrans({"λ": "lambda", "↓": "-", "↑": "+"})


class Console(LineageCallback):
    """Prints a lineage while it is made.

    Args:
        bars: Whether to draw progress bars; None draws them on a terminal.
    """

    def __init__(self, bars: bool | None = None) -> None:
        self.bars = bars
        self._progress: Progress | None = None

    # hooks

    def on_lineage_start(self, lineage: LineageInfo, records: Sequence[GenerationRecord]) -> None:
        """The heading, the floor, and the rows of the generations that are finished."""
        self._lineage = lineage
        self._metrics: tuple[str, ...] = ()
        policy = lineage.config.get("policy")
        told = (policy.get("init_args") or {}) if isinstance(policy, Mapping) else {}
        self._counts = (*_COUNTS, *([_OUTSIDE] if told.get(_OUTSIDE) else []))
        self._seconds: list[float] = []
        start = "" if lineage.start == "scratch" else f"start {lineage.start}, "
        bias = spelled(lineage.sampling_bias)
        say(
            f"{lineage.name}: policy {lineage.policy}, λ = {bias}, {start}"
            f"{lineage.generations} generations, seed {lineage.seed}",
            "bold",
        )
        if lineage.floor and not records:
            self._head(lineage, lineage.floor)
        for record in records:
            self._row(record)

    def on_generation_start(self, t: int, mix: Mix) -> None:
        """Starts the clock, and the bars if there are none yet."""
        self._started, self._drawn, self._phase = time.monotonic(), 0.0, ""
        wanted = sys.stdout.isatty() if self.bars is None else self.bars
        if self._progress is None and wanted and not rich.get_console().is_dumb_terminal:
            self._progress = Progress(
                TextColumn("{task.description:<11}"),
                BarColumn(40),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}"),
                console=rich.get_console(),
                auto_refresh=False,  # no thread beside a training that forks workers
                transient=True,
            )
            total = self._lineage.generations
            self._lineage_bar = self._progress.add_task("generations", total=total, left="")
            self._phase_bar = self._progress.add_task("", total=None, left="")
            self._progress.start()
        self._draw("", 0, 1, t - 1)

    def on_generation_progress(self, t: int, phase: str, done: int, total: int) -> None:
        """Moves the bars; called after every batch, so most calls return at once."""
        if self._progress is None:
            return
        recent = time.monotonic() - self._drawn < _REDRAW_EVERY
        if not recent or phase != self._phase or done >= total:
            self._draw(phase, done, total, t - 1)

    def on_generation_end(self, record: GenerationRecord, directory: Path) -> None:
        """One more row."""
        self._row(record, live=True)

    def on_lineage_stop(self, reason: str) -> None:
        """Why there will be no more rows."""
        say(f"gone MAD: {reason}", "bold")

    def on_lineage_end(self, records: Sequence[GenerationRecord], finished: bool) -> None:
        """Takes the bars away; says what came out and where. What was raised speaks for itself."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        made, wanted = len(records), self._lineage.generations
        directory = self._lineage.directory
        where = f"in {directory} (ledger: {directory.ledger.path.name})"
        if finished and made < wanted:
            say(f"stopped early, after {made} of {wanted} generations, {where}", "bold")
        elif finished:
            say(f"done: {made} generations {where}", "bold")
        if finished and records:
            say(f"verdict so far: {_outcome(records)}")
            beside = re.sub(r"_seed\d+$", "_seed*", str(directory))
            say(f"to compare it, and see more: mad report {beside}")

    # the bars

    def _draw(self, phase: str, done: int, total: int, finished: int) -> None:
        if self._progress is None:
            return
        self._drawn, self._phase = time.monotonic(), phase
        left = self._left(finished, elapsed=self._drawn - self._started)
        self._progress.update(self._lineage_bar, completed=finished, left=left)
        self._progress.update(self._phase_bar, description=phase, completed=done, total=total)
        self._progress.refresh()

    def _left(self, finished: int, elapsed: float = 0.0) -> str:
        """How long the generations still to be made will take, going by the last three."""
        remaining = self._lineage.generations - finished
        if not self._seconds or not remaining:
            return ""
        recent = self._seconds[-3:]
        minutes = round((remaining * sum(recent) / len(recent) - elapsed) / 60)
        if minutes < 1:
            return "less than 1 min left"
        hours = f"{minutes // 60} h " if minutes >= 60 else ""
        return f"about {hours}{minutes % 60} min left"

    # the table

    def _head(self, source: GenerationRecord | LineageInfo, metrics: Iterable[str]) -> None:
        """What the values depend on and mean, the names of the columns, and the floor."""
        protocol = self._lineage.protocol | source.protocol
        floor, quantities = self._lineage.floor | source.floor, source.quantities
        self._metrics = tuple(
            sorted(metrics, key=lambda name: SECTIONS.index(quantities[name].section))
        )
        facts = [
            f"{name} = {protocol[name]}" for name in ("n", "k", "extractor") if name in protocol
        ]
        facts += ["floor: real samples against other real samples", "arrows: which way is worse"]
        say(", ".join(facts))
        say(self._sections(quantities), "bold")
        say(self._line("gen", self._counts, self._metrics, "seconds"), "bold")
        values = [_number(floor[name]) if name in floor else "" for name in self._metrics]
        say(self._line("floor", [""] * len(self._counts), values, ""), "cyan")

    def _sections(self, quantities: Mapping[str, Quantity]) -> str:
        """The section of the columns below, and the way that is worse where it is one."""
        widths = self._widths()
        line = " " * len("  ".join(" " * width for width in widths[: 1 + len(self._counts)]))
        columns = zip(self._metrics, widths[1 + len(self._counts) :], strict=False)
        for section, inside in groupby(columns, key=lambda column: quantities[column[0]].section):
            names, room = zip(*inside, strict=True)
            ways = {quantities[name].worse for name in names}
            arrow = _ARROWS[ways.pop()] if len(ways) == 1 else ""
            line += "  " + f"{section + arrow:>{sum(room) + 2 * (len(room) - 1)}}"
        return line[_INDENT:].rstrip()

    def _row(self, record: GenerationRecord, live: bool = False) -> None:
        """One generation; other metrics than before, or another origin, get a new head."""
        is_new = record.n_external > 0 and _OUTSIDE not in self._counts
        self._counts = (*self._counts, *([_OUTSIDE] if is_new else []))
        if is_new or set(record.metrics) != set(self._metrics):
            self._head(record, record.metrics)
        self._seconds.append(sum(record.seconds.values()))
        line = self._line(
            str(record.generation),
            [str(getattr(record, name)) for name in self._counts],
            [_number(record.metrics[name]) for name in self._metrics],
            f"{self._seconds[-1]:.1f}",
        )
        say(f"{line}  {self._left(record.generation)}".rstrip() if live else line)

    def _widths(self) -> list[int]:
        return [max(7, len(name)) for name in ("", *self._counts, *self._metrics, "seconds")]

    def _line(
        self, generation: str, counts: Sequence[str], values: Sequence[str], seconds: str
    ) -> str:
        cells = zip((generation, *counts, *values, seconds), self._widths(), strict=True)
        return "  ".join(f"{cell:>{width}}" for cell, width in cells)[_INDENT:].rstrip()


def _outcome(records: Sequence[GenerationRecord]) -> str:
    """What a report would say about this lineage alone, in a sentence."""
    from mad_lightning.verdict.lineages import judge_lineages  # where scipy is imported

    closed = is_closed([record.closed for record in records])
    alone = judge_lineages([records], closed=closed, n=records[0].protocol.get("n"))
    return f"{alone.verdict.answer}, {alone.verdict.reason}"


def say(line: str, style: str | None = None) -> None:
    """Prints one line, above any bars, also where the output knows no Greek letters."""
    terminal = rich.get_console()
    if not terminal.encoding.startswith("utf"):
        line = line.translate(_PLAIN)
        line = line.encode(terminal.encoding, "replace").decode(terminal.encoding)
    terminal.print(line, style=style, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _number(value: float) -> str:
    """Three decimals, or two digits where those would show nothing."""
    ordinary = value == 0 or 1e-3 <= abs(value) < 1e5 or not math.isfinite(value)
    return f"{value:.3f}" if ordinary else f"{value:.1e}"
