"""What lineages drew, ate and cost, read from their directories.

The numbers of a report are made of these: the pictures of what each generation drew, how common its
classes were, what it was trained on, and the time, samples and bytes that went into it. What is not
there any more is left out.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from mad_lightning.files import Damaged, read_json
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.lineage.ledger import GenerationRecord
from mad_lightning.policies import shard_name
from mad_lightning.refusal import Refused
from mad_lightning.report.groups import MOST_SHOWN, Group, Lineage, thinned

__all__ = [
    "Ancestry",
    "ClassShares",
    "Cost",
    "Strip",
    "ancestry",
    "class_shares",
    "cost",
    "strip",
]


@dataclass(frozen=True)
class Strip:
    """The pictures of a lineage.

    Attributes:
        group: Its group.
        lineage: Its name.
        real: Picture of real samples, drawn alike; None if none was kept.
        pictures: Generation and file, of all generations that have one.
    """

    group: str
    lineage: str
    real: str | None
    pictures: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class ClassShares:
    """How common each class is among what the generators of a group drew.

    Attributes:
        group: The group; all its seeds count.
        classes: What the classes are called.
        generations: The columns.
        shares: A row a class, a column a generation; each column sums to 1.
    """

    group: str
    classes: tuple[str, ...]
    generations: tuple[int, ...]
    shares: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Ancestry:
    """What the generations of a group were trained on, in its first seed.

    Attributes:
        group: The group.
        generations: The columns.
        parts: By name (``real``, ``fresh``, ``external``, ``1 generation old``, ...), samples of
            each column.
    """

    group: str
    generations: tuple[int, ...]
    parts: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Cost:
    """What a group cost, all its seeds together.

    Attributes:
        group: The group.
        seconds: Wall seconds by phase.
        trained: Images that its trainings have seen.
        drawn: Samples that its generators have drawn.
        disk: Bytes of its directories.
    """

    group: str
    seconds: dict[str, float]
    trained: int
    drawn: int
    disk: int


# as the directories tell


def strip(group: Group, lineage: Lineage) -> Strip:
    """The pictures of all generations of a lineage.

    Raises:
        Refused: If one is not what was drawn.
    """
    try:
        places = (
            (record.generation, lineage.directory.sound_picture(record.generation))
            for record in lineage.records
        )
        pictures = tuple((t, str(path)) for t, path in places if path is not None)
        real = lineage.directory.sound_picture(0)
    except Damaged as damaged:
        remedy = "bring it back from a copy, or take it away: the page goes without it"
        raise Refused(str(lineage.directory), str(damaged), remedy) from None
    return Strip(group.name, lineage.directory.name, str(real) if real else None, pictures)


def class_shares(group: Group) -> ClassShares | None:
    """From the labels of what was drawn; None where there are none."""
    shown = tuple(thinned(group.generations, MOST_SHOWN))
    counts: list[dict[int, int]] = []
    names: tuple[str, ...] = ()
    for t in shown:
        counted: dict[int, int] = {}
        for lineage in group.lineages:
            manifest, labels = _drawn(lineage, t)
            names = names or tuple(manifest.get("classes") or ())
            for label in labels:
                counted[label] = counted.get(label, 0) + 1
        counts.append(counted)
    classes = range(max(chain.from_iterable(counts), default=-1) + 1)
    if not classes or not all(counts):
        return None
    return ClassShares(
        group.name,
        tuple(names[k] if k < len(names) else str(k) for k in classes),
        shown,
        tuple(tuple(one.get(k, 0) / sum(one.values()) for one in counts) for k in classes),
    )


def _drawn(lineage: Lineage, t: int) -> tuple[dict[str, Any], list[int]]:
    """Manifest and labels of what generation ``t`` drew; empty where it is not there any more."""
    from safetensors import SafetensorError, safe_open

    stem = lineage.directory.shard(lineage.records[t - 1].drawn or shard_name(t))
    try:
        with safe_open(str(stem.with_suffix(".safetensors")), framework="numpy") as file:
            labels = file.get_tensor("labels").tolist() if "labels" in file.keys() else []  # noqa: SIM118
        return read_json(stem.with_suffix(".json")), labels
    except (OSError, SafetensorError):  # the report goes without
        return {}, []


_AGES = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16))


def ancestry(group: Group) -> Ancestry:
    """From the ledger of its first seed: a policy feeds all seeds alike."""
    records = group.lineages[0].records
    shown = [records[t - 1] for t in thinned(group.generations, MOST_SHOWN)]
    columns = [_eaten(record) for record in shown]
    ages = [_age_words(*age) for age in _AGES]
    order = ["real", "fresh", "external", *ages, _OLDER, _ELSEWHERE, _EARLIER]
    met = [name for name in order if any(column.get(name) for column in columns)]
    parts = {name: tuple(column.get(name, 0) for column in columns) for name in met}
    return Ancestry(group.name, tuple(record.generation for record in shown), parts)


_OLDER, _ELSEWHERE, _EARLIER = "older", "from elsewhere", "from earlier generations"


def _eaten(record: GenerationRecord) -> dict[str, int]:
    """What one generation was trained on, by origin and age."""
    eaten = {"real": record.n_real, "fresh": record.n_fresh, "external": record.n_external}
    if record.ages is None:
        return eaten | {_EARLIER: record.n_synthetic}
    for age, count in record.ages.items():
        name = next((_age_words(*ages) for ages in _AGES if ages[0] <= age <= ages[1]), _OLDER)
        eaten[name] = eaten.get(name, 0) + count
    return eaten | {_ELSEWHERE: record.n_synthetic - sum(record.ages.values())}


def _age_words(first: int, last: int) -> str:
    if first == last == 1:
        return "1 generation old"
    return f"{first} generations old" if first == last else f"{first} to {last} generations old"


def cost(group: Group) -> Cost:
    """Of all its seeds, as far as ledgers and directories tell."""
    seconds: dict[str, float] = {}
    for record in chain.from_iterable(lineage.records for lineage in group.lineages):
        for phase, spent in record.seconds.items():
            seconds[phase] = seconds.get(phase, 0.0) + spent
    return Cost(
        group.name,
        {phase: round(spent, 3) for phase, spent in seconds.items()},
        sum(record.images for one in group.lineages for record in one.records),
        sum(_n_drawn(one, record) for one in group.lineages for record in one.records),
        sum(_size(one.directory) for one in group.lineages),
    )


def _n_drawn(lineage: Lineage, record: GenerationRecord) -> int:
    name = record.drawn or shard_name(record.generation)
    try:
        return int(read_json(lineage.directory.shard(name).with_suffix(".json")).get("count", 0))
    except Damaged:
        return 0


def _size(directory: LineageDirectory) -> int:
    """Bytes of all its files; one may go while the lineage still grows."""
    size = 0
    for folder, _, names in os.walk(directory.path):
        for name in names:
            with suppress(OSError):
                size += Path(folder, name).stat().st_size
    return size
