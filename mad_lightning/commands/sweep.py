"""mad sweep: many lineages from one file, on as many workers as there are.

usage: mad sweep --config SWEEP [options]

Examples:
  mad sweep --config configs/sweeps/gaussian_fresh_share.yaml
  mad sweep --config mine.yaml --parallel 2 --dry_run
  mad sweep --config mine.yaml --engine print | xargs -P 4 -I {} sh -c {}

SWEEP names configurations of mad train (base) and what varies: grid (all combinations), zip (side
by side), also (single ones). A lineage's name says what it has of that. State is the ledgers: the
same command does what is missing. What is refused or diverges is told at the end and stops nobody;
a lineage whose worker dies is gone on with, three times at most.

Options:
  --engine local|print  train here (default), or print a command a lineage
  --parallel N          workers (default: cores / threads of a lineage, where the base tells them)
  --gpus N              devices that workers take in turn
  --root DIRECTORY      where all lineages lie (default: the base's lineage.root)
  --dry_run             what it will cost, arm by arm; nothing is trained

At the end it prints what mad report says of all. Ends with exit code 1 if a lineage is missing.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mad_lightning.commands import main
from mad_lightning.commands.explain import PlainParser
from mad_lightning.magnitudes import duration, size
from mad_lightning.refusal import Refused
from mad_lightning.sweeps.local import Outcome, work_off
from mad_lightning.sweeps.plan import Sweep
from mad_lightning.sweeps.worker import serve

__all__ = ["build_parser", "run"]

_WORKER = [sys.executable, "-m", "mad_lightning.commands.sweep"]


def build_parser() -> PlainParser:
    """All that may be said to it."""
    parser = PlainParser("sweep")
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="SWEEP")
    add("--engine", choices=("local", "print"), default="local")
    add("--parallel", type=int, metavar="N")
    add("--gpus", type=int, default=0, metavar="N")
    add("--root", type=Path, metavar="DIRECTORY")
    add("--dry_run", action="store_true")
    return parser


def run(args: Sequence[str]) -> None:
    """Trains, prints or estimates what the file asks for."""
    given = build_parser().parse_args(args)
    sweep = Sweep.read(given.config, given.root)
    cores = os.cpu_count() or 1
    parallel = given.parallel or given.gpus or max(1, cores // (sweep.threads or cores))
    if parallel < 1 or given.gpus < 0:
        raise Refused("--parallel", f"{parallel}", "take at least 1")
    if given.dry_run:
        return estimate(sweep, parallel)
    if given.engine == "print":
        for member in sweep.members:
            print(shlex.join(["mad", "train", *member.arguments]))
        return None
    with _Watch(sweep) as watch:
        outcomes = work_off(sweep.members, _WORKER, parallel, given.gpus, watch.changed)
    return conclude(outcomes)


def estimate(sweep: Sweep, workers: int) -> None:
    """Prints what each arm will cost."""
    from mad_lightning.commands.train import build
    from mad_lightning.loop.forecast import forecast

    bytes_, seconds, known = 0, 0.0, True
    for arm, members in sweep.arms.items():
        for member in members:
            told = forecast(build(member.arguments))
            bytes_ += told.samples_bytes + told.weights_bytes
            seconds += told.seconds or 0.0
            known = known and (told.seconds is not None or not told.mixes)
        lacking = f"{len(told.mixes)} generations a seed to come" if told.mixes else "finished"
        counts = f"{sum(told.trained):,} trained on, {sum(told.drawn):,} drawn"
        print(f"{arm}: {len(members)} seeds, {lacking}, {counts} by the last seed")
    time = f"{duration(seconds)} of computing, {duration(seconds / workers)} on {workers} workers"
    print(f"{len(sweep.members)} lineages, {size(bytes_)} on disk, ", end="")
    print(time if known else "time: known once a generation of each arm was trained")


def conclude(outcomes: Sequence[Outcome]) -> None:
    """Says what is missing and why, and what all that stands says together."""
    from mad_lightning.commands.report import run as report

    for outcome in outcomes:
        if outcome.state != "finished":
            print(f"{outcome.state}: {outcome.member.name} (see {outcome.log})")
            print("\n".join(f"  {line}" for line in outcome.last_words.splitlines()))
    reached = [str(one.member.directory) for one in outcomes if one.member.reached]
    if reached:
        report(reached)
    if any(outcome.state != "finished" for outcome in outcomes):
        raise SystemExit(1)


class _Watch:
    """Arms by seeds with the generation that each has reached; plain lines where nobody looks."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.console = sweep, Console()
        self.outcomes: Sequence[Outcome] = ()
        self.live: Live | None = None
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self.live = Live(get_renderable=self.table, console=self.console, refresh_per_second=1)

    def __enter__(self) -> _Watch:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def changed(self, outcome: Outcome, outcomes: Sequence[Outcome]) -> None:
        """Shows it."""
        self.outcomes = outcomes
        if self.live is None:
            n = Counter(one.state for one in outcomes)["finished"]
            took = f" in {outcome.seconds:.0f} s" if outcome.state != "runs" else ""
            words = (
                f"{outcome.state}: {outcome.member.name}{took} ({n} of {len(outcomes)} finished)"
            )
            print(words, flush=True)

    def table(self) -> Table:
        """All lineages as they are now."""
        states = {outcome.member.name: outcome.state for outcome in self.outcomes}
        arms = self.sweep.arms
        seeds = sorted({member.seed for member in self.sweep.members})
        table = Table("arm", *(f"seed {seed}" for seed in seeds), box=None)
        for arm, members in arms.items():
            by_seed = {member.seed: member for member in members}
            cells = []
            for seed in seeds:
                member = by_seed.get(seed)
                state = "" if member is None else states.get(member.name, "waits")
                if member is not None and state == "runs":
                    state = f"{member.reached} of {member.generations}"
                cells.append(state)
            table.add_row(arm, *cells)
        return table


def _train(arguments: list[str]) -> None:
    """Trains as the command does, errors and exit codes included."""
    main(["train", *arguments])


if __name__ == "__main__":  # as a worker
    serve(_train, sys.stdin, os.fdopen(os.dup(sys.stdout.fileno()), "w"))
