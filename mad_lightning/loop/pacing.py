"""At what pace a lineage goes, and what it keeps: read from one that stands, or from a short probe.

Counts of a lineage that is to come are arithmetic. What an image costs here, and what a generation
keeps beside its samples, is measured: on lineages of the same settings, on those that differ in
their mix alone, or on a few generations trained aside for this, on a few batches. The first of
these warms up: what it takes beyond the pace of the others, a lineage takes once.

Wall seconds say when it will be done while the machine is as busy as it was. CPU seconds do not
depend on that, and are told beside them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory

from mad_lightning.files import Damaged
from mad_lightning.leash import __file__ as _LEASH
from mad_lightning.lineage.configuration import differences
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.lineage.ledger import GenerationRecord
from mad_lightning.loop.machine import weight_bytes
from mad_lightning.loop.meta_trainer import MetaTrainer
from mad_lightning.policies import shard_name
from mad_lightning.refusal import Refused

__all__ = ["Pace", "besides", "known", "probe"]

_BATCHES = 60
_GENERATIONS = {True: 6, False: 2}
"""Of a probe, where a fit is one exact pass, and where it is trained on batches."""
_PATIENCE = 300.0
"""Seconds that a probe may take; of what is slower, the first generation will tell."""
_MIX = ("policy.", "sampling_bias")


@dataclass(frozen=True)
class Pace:
    """What a lineage costs here.

    Attributes:
        image: Seconds of training on an image, or a sample.
        generation: Seconds of a generation besides.
        first: Seconds that generation 1 takes beyond the others.
        start: Seconds of a program before and after its generations; None if unknown.
        kept: Bytes that a generation keeps beside its samples.
        once: Bytes that a lineage keeps besides.
        source: Where that is from, in words.
        cpu: CPU seconds in each of these seconds; None if ledgers do not tell.
    """

    image: float
    generation: float
    first: float
    start: float | None
    kept: float
    once: float
    source: str
    cpu: float | None = None

    @classmethod
    def of(cls, directory: LineageDirectory, source: str, took: float | None = None) -> Pace:
        """Of a lineage that stands, with a generation at least.

        Args:
            directory: The lineage.
            source: Where that is from, in words.
            took: Seconds of the one program that made it, of a probe.
        """
        records = directory.records()
        timed = records[1:] or records
        train = sum(record.seconds.get("train", 0.0) for record in timed)
        rest = [sum(r.seconds.values()) - r.seconds.get("train", 0.0) for r in timed]
        kept = [_generation_bytes(directory, record.generation) for record in records]
        ledger = directory.ledger.path.stat().st_size
        beside = besides(records)
        image, generation = train / max(1, sum(map(images_of, timed))), fmean(rest)
        first = sum(records[0].seconds.values()) - generation - image * images_of(records[0])
        phases = sum(sum(record.seconds.values()) for record in records)
        others = _size(directory.path) - sum(
            _size(directory.generation(record.generation)) for record in records
        )
        return cls(
            image,
            generation + beside,
            first,
            None if took is None else max(0.0, took - phases - beside * len(records)),
            fmean(kept) + ledger / len(records),
            max(0, others - ledger),
            source,
            _cpu(timed),
        )


def images_of(record: GenerationRecord) -> int:
    """What a generation was trained on, counted as often as it was seen."""
    return record.images or record.n_real + record.n_fresh + record.n_synthetic


def _cpu(records: Sequence[GenerationRecord]) -> float | None:
    """CPU seconds a second, in all phases of generations."""
    wall = sum(sum(record.seconds.values()) for record in records)
    cpu = sum(sum(record.cpu_seconds.values()) for record in records)
    return cpu / wall if all(r.cpu_seconds for r in records) and wall else None


def besides(records: Sequence[GenerationRecord]) -> float:
    """Seconds of a generation that no phase counts: observers, the ledger, waiting for the disk.

    From when generations were finished; a pause between two starts does not count.
    """
    ends = [datetime.fromisoformat(record.time) for record in records if record.time]
    if len(ends) < len(records):
        return 0.0  # ledgers did not always tell
    took = [(after - before).total_seconds() for before, after in pairwise(ends)]
    usual = [seconds for seconds in took if seconds <= 3 * median(took) + 2.0]
    counted = [sum(record.seconds.values()) for record in records[1:]]
    return max(0.0, fmean(usual) - fmean(counted)) if took else 0.0


def known(meta: MetaTrainer) -> Pace | None:
    """The pace of lineages beside it with the same settings, or with another mix; None if none."""
    like: Pace | None = None
    for directory in _beside(meta):
        try:
            records = directory.records()
            if not records:
                continue
            if records[-1].digests.get("settings") == meta.settings_digest:
                return Pace.of(directory, "as the same settings took before")
            lines = differences(directory.config(), meta.config)
            if like is None and all(line.startswith((*_MIX, "seed_")) for line in lines):
                like = Pace.of(directory, f"as {directory.name} took")
        except (Refused, Damaged, OSError):
            continue  # what is damaged tells nothing
    return like


def probe(meta: MetaTrainer, arguments: Sequence[str]) -> Pace | None:
    """Trains a few generations aside, on a few batches; leaves nothing.

    Args:
        meta: The lineage. What is dear is taken from its cache, if that stands.
        arguments: Of ``mad train``, that make it.

    Returns:
        None if that fails, or takes more than five minutes; of a family whose training is a
        program of somebody else's, which knows of no few batches.
    """
    generator = meta.fresh_generator(1)
    if not weight_bytes(generator):
        return None
    generations, cache = _GENERATIONS[generator.exact_pass], meta.data.cache
    with TemporaryDirectory() as folder:
        place = LineageDirectory(Path(folder) / "probe")
        command = [
            *(sys.executable, _LEASH, sys.executable, "-m", "mad_lightning", "train"),
            *arguments,
            f"--lineage.root={folder}",
            "--lineage.name=probe",
            f"--lineage.generations={generations}",
            f"--data.cache={cache if cache.exists() else Path(folder) / 'cache'}",
            '--callbacks=[{"class_path": "SampleGrids"}]',
            "--trainer.max_epochs=1",
            f"--trainer.limit_train_batches={_BATCHES}",
        ]
        began = time.monotonic()
        nowhere = subprocess.DEVNULL
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere
        ) as program:
            try:
                program.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                return None  # to leave closes its input, which ends it
        if program.returncode:
            return None
        took = time.monotonic() - began
        return Pace.of(place, f"by {generations} short generations trained aside", took)


def _beside(meta: MetaTrainer) -> Iterator[LineageDirectory]:
    """The lineage itself, and those that lie beside it."""
    yield meta.lineage
    for path in sorted(meta.lineage.path.parent.glob("*/")):
        yield LineageDirectory(path)


def _generation_bytes(directory: LineageDirectory, t: int) -> int:
    """What a generation keeps beside its samples."""
    values = directory.shard(shard_name(t)).with_suffix(".safetensors")
    samples = values.stat().st_size if values.exists() else 0
    return _size(directory.generation(t)) - samples


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
