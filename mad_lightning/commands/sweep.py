"""mad sweep: many lineages from one file, on as many workers as there are.

usage: mad sweep --config SWEEP [options]

Examples:
  mad sweep --config configs/sweeps/gaussian_fresh_share.yaml
  mad sweep --config mine.yaml --parallel 2 --dry_run
  mad sweep --config mine.yaml --until decided
  mad sweep --config mine.yaml --engine slurm --slurm time=240 partition=gpu --gpus 1
  mad sweep --config mine.yaml --engine print | xargs -P 4 -L 1 env

SWEEP names configurations of mad train (base) and what varies: grid (all combinations), zip (side
by side), also (single ones), refine (shares around the border). A lineage's name says what it has
of that. State is the ledgers: the same command does what is missing. What is refused or diverges is
told at the end and stops nobody; anything else is tried three times, and goes on where it stood.

Options:
  --engine NAME         local (default), ray, slurm; print: a command a lineage, for other queues
  --parallel N          lineages at a time (default: cores / threads of a lineage, or as there are
                        cards; a cluster: as it has room)
  --gpus N              cards of this machine that lineages share (default: all); slurm: of a task
  --until decided       no more seeds for arms of which it is known whether their share of real data
                        is enough, or whether they go MAD: looks after the third and each later seed
  --root DIRECTORY      where all lineages lie (default: the base's lineage.root)
  --address ADDRESS     of a Ray cluster that stands, or auto (default: Ray on this machine)
  --slurm KEY=VALUE ... of sbatch: time (minutes), partition, mem, account, qos, ...
  --dry_run             what it will cost, arm by arm; nothing is trained. slurm: the job script

At the end it prints what mad report says of all, and how much real data is enough where shares of
it vary; and writes SWEEP.csv (all that was measured, arm by arm), SWEEP.html (the report) and
SWEEP.svg (what is lost against the share) beside the lineages. That answers a question:
  --keep METRIC         to keep what? (default: recall, else the distance that is judged)
  --margin M            how well? of a share, in its units (default: 0.05); of others, in parts of
                        what generation 1 has (default: 0.25)
  --last N              average the last N generations (default: 1)
  --answer              from what stands; nothing is trained

Ends with exit code 1 if a lineage is missing.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mad_lightning.commands import main
from mad_lightning.commands.explain import PlainParser
from mad_lightning.commands.report import add_question, question_of
from mad_lightning.commands.report import asked as asked_here
from mad_lightning.magnitudes import duration, size
from mad_lightning.refusal import Refused
from mad_lightning.sweeps.engine import Engine, Outcome
from mad_lightning.sweeps.plan import Member, Sweep
from mad_lightning.sweeps.rounds import FIRST_LOOK, Asked, ask
from mad_lightning.sweeps.watching import Watch
from mad_lightning.sweeps.worker import serve

if TYPE_CHECKING:  # what takes seconds to import waits until it is needed
    from mad_lightning.loop.forecast import Forecast
    from mad_lightning.loop.meta_trainer import MetaTrainer
    from mad_lightning.loop.pacing import Pace

__all__ = ["build_parser", "run", "train"]

_WORKER = [sys.executable, "-m", "mad_lightning.commands.sweep"]
_PROGRAM = [sys.executable, "-m", "mad_lightning", "train"]


def build_parser() -> PlainParser:
    """All that may be said to it."""
    parser = PlainParser("sweep")
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="SWEEP")
    add("--engine", choices=("local", "ray", "slurm", "print"), default="local")
    add("--parallel", type=int, metavar="N")
    add("--gpus", type=int, metavar="N")
    add("--until", choices=("decided",))
    add("--root", type=Path, metavar="DIRECTORY")
    add("--address", metavar="ADDRESS")
    add("--slurm", nargs="+", default=[], metavar="KEY=VALUE")
    add("--dry_run", action="store_true")
    add("--answer", action="store_true")
    add_question(parser)
    return parser


def run(args: Sequence[str]) -> None:
    """Trains, prints or estimates what the file asks for."""
    given = build_parser().parse_args(args)
    for option, least in (("parallel", 1), ("gpus", 0)):
        told = getattr(given, option)
        if told is not None and told < least:
            raise Refused(f"--{option}", f"{told}", f"take at least {least}")
    for option in ("address", "slurm"):
        needed = "ray" if option == "address" else option
        if getattr(given, option) and given.engine != needed:
            raise Refused(f"--{option}", f"not with {given.engine}", f"add --engine {needed}")
    sweep, until_decided = Sweep.read(given.config, given.root), given.until is not None
    asks: dict[str, Any] = {"until_decided": until_decided, "question": question_of(given)}
    if given.answer:
        return conclude(ask(sweep, _as_they_stand, **asks), given)
    if given.engine == "print":
        for member in sweep.members:
            print(shlex.join(["mad", "train", *member.arguments]))
        return None
    if given.dry_run:
        return estimate(sweep, given)
    with engine_of(sweep, given) as engine, Watch(sweep) as watch:
        asked = ask(sweep, lambda members: engine.work_off(members, watch.changed), **asks)
    return conclude(asked, given)


def _as_they_stand(members: Sequence[Member]) -> list[Outcome]:
    """Trains nothing."""
    return [Outcome.of(member) for member in members]


def engine_of(sweep: Sweep, given: Namespace) -> Engine:
    """The engine that was asked for."""
    from mad_lightning.sweeps import Local, Ray, Slurm

    devices = max(member.devices for member in sweep.members)
    threads = max(member.threads or 0 for member in sweep.members)
    gpus = given.gpus or 0
    try:
        if given.engine == "slurm":
            folder = sweep.members[0].directory.path.parent / "slurm"
            return Slurm(train, folder, given.parallel, gpus, threads or 1, _pairs(given.slurm))
        if given.engine == "ray":
            places = (given.parallel, gpus, threads or 1, devices)
            return Ray(train, _PROGRAM, *places, given.address)
        cards = _cards() if given.gpus is None else gpus
        return Local(_WORKER, _PROGRAM, _parallel(sweep, given, cards), cards, devices)
    except Refused as refused:
        raise refused.renamed(lambda name: f"--{name}") from None


def _parallel(sweep: Sweep, given: Namespace, cards: int) -> int:
    """Lineages at a time on this machine."""
    cores = os.cpu_count() or 1
    threads = max(member.threads or cores for member in sweep.members)
    return given.parallel or cards or max(1, cores // threads)


def _cards() -> int:
    """Cards of this machine."""
    import torch

    return torch.cuda.device_count()


def _pairs(told: Sequence[str]) -> dict[str, Any]:
    """Options of ``sbatch``."""
    for pair in told:
        if not re.fullmatch(r"\w+=.+", pair):
            raise Refused("slurm", f"{pair!r} is no option", "give KEY=VALUE, e.g. time=240")
    pairs = (pair.partition("=") for pair in told)
    return {key: int(value) if value.isdecimal() else value for key, _, value in pairs}


def estimate(sweep: Sweep, given: Namespace) -> None:
    """Prints what it will cost, what is known at once first; and the job scripts, if any."""
    arms = sweep.arms
    count = sum(member.generations for member in sweep.members)
    print(f"{len(sweep.members)} lineages in {len(arms)} arms, {count} generations", flush=True)
    coming = [each for arm, members in arms.items() for each in _counted(arm, members)]
    coming = [each for each in coming if each.told.mixes]
    workers = _parallel(sweep, given, given.gpus or 0)
    firsts = {each.member.kind: each for each in reversed(coming)}  # one of each kind
    paces = {kind: _pace(each) for kind, each in firsts.items()}
    coming = [each.at(paces[each.member.kind]) for each in coming]
    print(_all_together([each.told for each in coming], workers))
    if given.engine == "slurm":
        from mad_lightning.sweeps import Slurm

        engine = engine_of(sweep, given)
        assert isinstance(engine, Slurm)
        print(engine.script([member for member in sweep.members if not member.is_finished]))


class _Coming(NamedTuple):
    """A lineage of a sweep, built, and what it will cost."""

    member: Member
    meta: MetaTrainer
    told: Forecast

    def at(self, pace: Pace | None) -> _Coming:
        """The same at a pace."""
        return self._replace(told=self.told.at(pace))


def _counted(arm: str, members: Sequence[Member]) -> list[_Coming]:
    """Prints what is counted of an arm."""
    from mad_lightning.commands.train import build
    from mad_lightning.loop.forecast import counted

    told: list[_Coming] = []
    try:
        for member in members:
            if told and not member.reached and not told[0].told.finished:
                told.append(told[0]._replace(member=member))  # as much as another seed
                continue
            meta = build(member.arguments)
            told.append(_Coming(member, meta, counted(meta)))
    except Refused as refused:
        raise Refused(refused.field, refused.problem, f"{refused.remedy} (arm {arm})") from None
    generations = sum(len(one.told.mixes) for one in told)
    trained = sum(sum(one.told.trained) for one in told)
    drawn = sum(sum(one.told.drawn) for one in told)
    counts = f"{trained:,} trained on, {drawn:,} drawn"
    print(f"{arm}: {len(members)} seeds, {generations} generations to come, {counts}", flush=True)
    return told


def _pace(lineage: _Coming) -> Pace | None:
    """Of lineages of a kind: that of one that stands, or of a probe, which is announced."""
    from mad_lightning.loop.pacing import known, probe

    pace = known(lineage.meta)
    if pace is None:
        print(f"measuring the pace, by a short lineage of {lineage.member.arm} aside", flush=True)
        pace = probe(lineage.meta, lineage.member.arguments)
    return pace


def _all_together(told: Sequence[Forecast], workers: int) -> str:
    """Disk, and time if it is known, of all lineages that lack something."""
    from mad_lightning.loop.forecast import computing

    if not told:
        return "nothing is missing"
    disk = f"{len(told)} lineages to train, {size(sum(one.disk for one in told))} on disk"
    if any(one.seconds is None for one in told):
        return f"{disk}, time: known once a generation was trained"
    seconds = sum(one.seconds or 0.0 for one in told)
    total = seconds + min(workers, len(told)) * max(one.start for one in told)
    spent = None
    if all(one.cpu is not None for one in told):
        spent = sum((one.cpu or 0.0) * (one.seconds or 0.0) for one in told) / max(seconds, 1e-9)
    time = f"about {duration(total / workers)} on {workers} workers{computing(total, spent)}"
    return f"{disk}, {time}, {told[-1].source}"


def conclude(asked: Asked, given: Namespace) -> None:
    """Says what is missing and why, and what all that stands says together."""
    missing = [outcome for outcome in asked.outcomes if outcome.state != "finished"]
    for outcome in missing if not given.answer else ():
        print(f"{outcome.state}: {outcome.member.name} (see {outcome.log})")
        print("\n".join(f"  {line}" for line in outcome.last_words.splitlines()))
    if missing and given.answer:
        print(f"{len(missing)} of {len(asked.outcomes)} lineages are not finished")
    for arm, word in asked.words.items():
        print(f"{word} after {asked.seeds[arm]} seeds: {arm}")
    report([one.member for one in asked.outcomes if one.member.reached], given)
    if missing:
        raise SystemExit(1)


def report(members: Sequence[Member], given: Namespace) -> None:
    """Prints and writes what lineages say together."""
    from mad_lightning.commands.report import run as report
    from mad_lightning.report.answers import answers
    from mad_lightning.report.groups import load

    if not members:
        return
    paths = [str(member.directory) for member in members]
    with asked_here():
        told = answers(load(paths), question_of(given))
    place = members[0].directory.path.parent / given.config.stem
    files = {"csv": ".csv", "html": ".html"} | ({"phase": ".svg"} if told else {})
    written = {option: place.with_name(f"{place.name}{end}") for option, end in files.items()}
    asked = {"keep": given.keep, "margin": given.margin, "last": given.last} | written
    options = [f"--{name}={value}" for name, value in asked.items() if value is not None]
    most = max(Counter(member.arm for member in members).values())
    report([*paths, *options], range(FIRST_LOOK, most + 1) if given.until else ())
    print(f"written: {', '.join(map(str, written.values()))}")


def train(arguments: list[str]) -> None:
    """Trains as the command does, errors and exit codes included."""
    main(["train", *arguments])


if __name__ == "__main__":  # as a worker
    serve(train, sys.stdin, os.fdopen(os.dup(sys.stdout.fileno()), "w"))
