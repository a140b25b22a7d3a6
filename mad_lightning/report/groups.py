"""Groups: lineages that differ only in the seed, read from their directories.

Seeds are independent. So branches of one lineage, which share generations, are no seeds of one
another; and data are the same if their samples are, wherever they lay when a lineage was trained.

A group speaks for all its seeds: mean and spread of a metric, whether anything real comes in, how
much of it is fresh. Whether groups may stand side by side is decided here as well.
"""

from __future__ import annotations

import logging
import math
import os
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from mad_lightning.files import Damaged
from mad_lightning.lineage.configuration import differences
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.lineage.ledger import GenerationRecord, is_closed, meanings
from mad_lightning.lineage.quantities import SECTIONS, Quantity
from mad_lightning.refusal import Refused

__all__ = [
    "MOST_SHOWN",
    "Group",
    "Lineage",
    "Value",
    "floor_of",
    "lineages_of",
    "load",
    "meanings_of",
    "metrics_of",
    "protocol_of",
    "thinned",
]

_log = logging.getLogger(__name__)
MOST_SHOWN = 60
"""Generations that a curve has; of longer lineages, about so many are shown."""
_SEED = re.compile(r"_seed(\d+)")


class Value(NamedTuple):
    """A metric over n seeds: mean and sample standard deviation.

    Of a single seed, the measurement error stands in for that, or 0 where it was not told; of a
    floor, the standard deviation of one reading.
    """

    mean: float
    spread: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Value:
        """Summarises one value a seed; NaN if any is missing."""
        if not values or not all(map(math.isfinite, values)):
            return cls(math.nan, math.nan, len(values))
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return cls(statistics.fmean(values), spread, len(values))

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        known = self.n > 1 or self.spread > 0
        spread = f" ± {_number(self.spread, like=self.mean)}" if known else ""
        return _number(self.mean, like=self.mean) + spread


def _number(value: float, like: float) -> str:
    """With as many decimals as give ``like`` three digits, at most three."""
    if 0 < abs(like) < 1e-2:
        return f"{value:.1e}"
    return f"{value:.{min(max(2 - math.floor(math.log10(abs(like / 2) or 1)), 0), 3)}f}"


@dataclass(frozen=True)
class Lineage:
    """A lineage as its directory tells it; its name stands in for a missing configuration."""

    directory: LineageDirectory
    records: list[GenerationRecord]
    config: dict[str, Any]
    seed: int | None

    def closed(self, t: int) -> bool:
        """Whether nothing real came into generation ``t``, neither as data nor in weights.

        Ledgers that were begun before they told ages leave that to the mix that was kept.
        """
        record = self.records[t - 1]
        if record.ages is None and (mix := self.directory.mix(t)) is not None:
            record = replace(record, ages=mix.ages())
        return record.closed

    @property
    def source(self) -> Any:
        """Where its real data came from, as its configuration tells; None if it does not."""
        return (self.config.get("data") or {}).get("source")

    @property
    def branches(self) -> list[tuple[int, str, str | None]]:
        """The last generation that it has of each other lineage, whose it is, and its settings."""
        last = {
            record.branched_from["name"]: (record.generation, record.digests.get("settings"))
            for record in self.records
            if record.branched_from
        }
        return [(t, name, settings) for name, (t, settings) in last.items()]

    def has_data_of(self, other: Lineage) -> bool:
        """Whether both have the same real samples, as far as ledgers and configurations tell."""
        mine, theirs = (each.records[-1].digests for each in (self, other))
        if mine.get("external") != theirs.get("external"):
            return False
        if mine.get("data") and theirs.get("data"):
            return mine["data"] == theirs["data"]
        known = self.source is not None and other.source is not None
        return not known or not differences({"source": self.source}, {"source": other.source})

    def is_copy_of(self, other: Lineage) -> bool:
        """Whether its first generator is the other's: two seeds never train the same weights."""
        mine, theirs = (each.records[0].digests.get("generator") for each in (self, other))
        return mine is not None and mine == theirs

    def is_seed_beside(self, other: Lineage) -> bool:
        """Whether it differs from another in the seed alone, and shares no generation with it."""
        shared, theirs = (
            {record.branched_from["digest"] for record in each.records if record.branched_from}
            for each in (self, other)
        )
        branches = ([(t, of) for t, _, of in each.branches] for each in (self, other))
        mine, others = branches
        return (
            not differences(other.config, self.config)
            and self.records[0].policy == other.records[0].policy
            and self.has_data_of(other)
            and mine == others
            and not shared & theirs
        )


@dataclass(frozen=True)
class Group:
    """Lineages that differ only in the seed.

    Attributes:
        name: Name of its first directory, without the seed and without what all of them say.
        lineages: At least one.
    """

    name: str
    lineages: list[Lineage]

    @property
    def generations(self) -> int:
        """How many generations all its lineages have, so that no mean changes its members."""
        return min(len(lineage.records) for lineage in self.lineages)

    def values(self, metric: str) -> list[list[float]]:
        """A metric, a row a seed and a column a generation; NaN where it is missing."""
        return [
            [record.metrics.get(metric, math.nan) for record in lineage.records[: self.generations]]
            for lineage in self.lineages
        ]

    def value(self, metric: str, t: int) -> Value:
        """A metric at generation ``t`` >= 1."""
        records = [lineage.records[t - 1] for lineage in self.lineages]
        value = Value.of([record.metrics.get(metric, math.nan) for record in records])
        single = len(records) == 1 and metric in records[0].errors
        return value._replace(spread=records[0].errors[metric].both) if single else value

    def curve(self, metric: str) -> list[tuple[int, Value]]:
        """A metric where it is known, at about :data:`MOST_SHOWN` generations if there are more."""
        values = ((t, self.value(metric, t)) for t in thinned(self.generations, MOST_SHOWN))
        return [(t, value) for t, value in values if math.isfinite(value.mean)]

    @property
    def fresh_share(self) -> float | None:
        """Of fresh samples among all, over generations 2, 3, ...

        None beside fixed real data, and where fresh data came in once and do not any more: then
        there is no share by which the loop lives.
        """
        later = [record for lineage in self.lineages for record in lineage.records[1:]]
        fresh = sum(record.n_fresh for record in later)
        total = fresh + sum(record.n_synthetic + record.n_external for record in later)
        if not total or any(record.n_real for record in later) or (fresh and self.closed):
            return None
        return fresh / total

    @property
    def closed(self) -> bool:
        """Whether nothing real comes in any more, see :func:`is_closed`."""
        return all(is_closed(self._closed(lineage)) for lineage in self.lineages)

    @property
    def last_real(self) -> int:
        """The last generation into which something real came."""
        flags = (enumerate(self._closed(lineage), start=1) for lineage in self.lineages)
        return max(t for row in flags for t, closed in row if t == 1 or not closed)

    def _closed(self, lineage: Lineage) -> list[bool]:
        """Of each generation, whether nothing real came in."""
        return [lineage.closed(t) for t in range(1, self.generations + 1)]

    @property
    def sampling_bias(self) -> float | str:
        """λ, or its schedule."""
        first = self.lineages[0]
        bias = first.config.get("sampling_bias")
        return bias if isinstance(bias, str) else first.records[0].sampling_bias


def thinned(n: int, most: int) -> list[int]:
    """The numbers from 1 to n, or about ``most`` of them with both ends."""
    return [*range(1, n, max(1, n // most)), n]


# from disk


def load(directories: Iterable[str | Path]) -> list[Group]:
    """Reads lineages and groups those that differ only in the seed, in the order given.

    Lineages without a finished generation, and copies, whose generators are those of another seed,
    are left out with a word; without one, caches, tables and whatever else ``runs/*`` brings along.

    Raises:
        Refused: If no directory holds a finished generation, or a group has a seed twice.
    """
    groups: list[list[Lineage]] = []
    for lineage in _lineages(dict.fromkeys(map(Path, directories))):
        alike = (twins for twins in groups if all(map(lineage.is_seed_beside, twins)))
        group = next(alike, None)
        if group is None:
            groups.append(group := [])
        for twin in group:
            if twin.seed == lineage.seed is not None:
                problem = f"same configuration and seed {lineage.seed} as {twin.directory}"
                raise Refused(str(lineage.directory), problem, "give one of the two")
        original = next(filter(lineage.is_copy_of, group), None)
        if original is not None:
            told = (lineage.directory, original.directory)
            _log.warning("left out: %s has the generators of %s", *told)
        else:
            group.append(lineage)
    names = [_SEED.sub("", group[0].directory.name) for group in groups]
    if len(set(names)) < len(names):
        names = [str(group[0].directory) for group in groups]  # alike in name only
    elif len(names) > 1:
        mark = "," if all("," in name for name in names) else "_"  # a sweep's settings, or words
        shared = os.path.commonprefix(names).rpartition(mark)[0]  # noqa: RUF071
        names = [name.removeprefix(f"{shared}{mark}") for name in names]
        names = _varying([name.split(",") for name in names])
    return list(map(Group, names, groups))


def _varying(names: Sequence[Sequence[str]]) -> list[str]:
    """Names without settings that all of them have, as long as something is left of each."""
    common = {*names[0]}.intersection(*names[1:])
    short = [",".join(part for part in name if part not in common) for name in names]
    return short if all(short) else [",".join(name) for name in names]


def _lineages(paths: Iterable[Path]) -> Iterator[Lineage]:
    """Those that have finished a generation.

    Raises:
        Refused: Why the first directory is no such lineage, if none is; and what is damaged.
    """
    unread: list[tuple[Path, Refused]] = []
    read = 0
    for path in paths:
        try:
            lineage = _read(path)
        except _NothingYet as refused:
            unread.append((path, refused))
            continue
        read += 1
        yield lineage
    if not read:
        raise unread[0][1] if unread else Refused("directories", "none", "give some, e.g. runs/*")
    told = [why for path, why in unread if not path.exists() or _is_of_lineages(path)]
    for problem in dict.fromkeys(why.problem for why in told):
        fields = [why.field for why in told if why.problem == problem]
        more = f" and {len(fields) - 3} more" if len(fields) > 3 else ""
        _log.warning("left out, %s: %s%s", problem, ", ".join(fields[:3]), more)


def _is_of_lineages(path: Path) -> bool:
    """Whether it is one's directory, or holds some."""
    return any(LineageDirectory(place).is_one for place in (path, *path.glob("*/")))


class _NothingYet(Refused):
    """A directory without a finished generation."""


def _read(path: Path) -> Lineage:
    directory = LineageDirectory(path)
    ledger = directory.ledger.path
    if not ledger.exists():
        remedy = "give lineages' directories, e.g. runs/*"
        raise _NothingYet(str(directory), f"no {ledger.name}", remedy)
    records = directory.records()
    if not records:
        raise _NothingYet(str(ledger), "no generation is finished", "wait, or leave it out")
    name = directory.name
    try:
        config = directory.config() or {"name": _SEED.sub("", name)}
    except Damaged as damaged:
        remedy = "run the lineage's own command again, which writes it anew"
        raise Refused(str(directory), str(damaged), remedy) from None
    if (numbered := _SEED.search(name)) and "seed_everything" not in config:
        config["seed_everything"] = int(numbered[1])
    return Lineage(directory, records, config, seed=config.pop("seed_everything", None))


# side by side


def lineages_of(groups: Sequence[Group]) -> list[Lineage]:
    """All lineages, group by group."""
    return list(chain.from_iterable(group.lineages for group in groups))


def meanings_of(groups: Sequence[Group]) -> dict[str, Quantity]:
    """What the measured names mean, as the first line says that explains them."""
    return meanings(chain.from_iterable(lineage.records for lineage in lineages_of(groups)))


def metrics_of(groups: Sequence[Group]) -> list[str]:
    """All that was measured: fidelity, diversity, distances, copies, others."""
    stated = meanings_of(groups)
    return sorted(stated, key=lambda name: SECTIONS.index(stated[name].section))


def protocol_of(groups: Sequence[Group], metrics: Sequence[str] = ()) -> dict[str, Any]:
    """How the values were measured.

    A key that only some lineages have belongs to a metric that the others did not measure.

    Args:
        groups: What is to stand side by side.
        metrics: What is to be shown of them.

    Raises:
        Refused: If values cannot stand on one axis, or no ledger has a metric.
    """
    known = metrics_of(groups)
    for name in metrics:
        if name not in known:
            raise Refused("metrics", f"no ledger has {name}", f"choose from {', '.join(known)}")
    first: dict[str, tuple[Any, LineageDirectory]] = {}
    unlike: dict[str, str] = {}
    for lineage in lineages_of(groups):
        for key, value in chain.from_iterable(
            record.protocol.items() for record in lineage.records
        ):
            if key == "weights" and lineage.records[0].protocol.get("split_seed") == "own":
                continue  # each seed has a classifier of its own
            other, where = first.setdefault(key, (value, lineage.directory))
            if other != value:
                unlike[key] = f"{key} is {other} in {where} and {value} in {lineage.directory}"
    for one, another in pairwise(lineages_of(groups)):
        if not another.has_data_of(one):
            unlike["data"] = f"real samples are {' and '.join(map(_data_of, (one, another)))}"
    if unlike:
        problem = "values that were not measured alike: " + "; ".join(unlike.values())
        raise Refused("protocol", problem, "measure the lineages alike, or report them apart")
    return {key: value for key, (value, _) in first.items()}


def _data_of(lineage: Lineage) -> str:
    """Which real samples a lineage has: by their digest, else by where they came from."""
    digest = lineage.records[-1].digests.get("data")
    known = f"SHA-256 {digest[:12]}" if digest else f"those of {lineage.source}"
    return f"{known} in {lineage.directory}"


def floor_of(groups: Sequence[Group], metric: str) -> Value:
    """Real samples against other real samples; the spread is that of one reading, where known."""
    firsts = [lineage.records[0] for lineage in lineages_of(groups) if lineage.records[0].floor]
    value = Value.of([first.floor[metric] for first in firsts if metric in first.floor])
    if value.n > 1 and value.spread > 1e-3 * abs(value.mean):
        return value
    known = [first.floor_errors[metric] for first in firsts if metric in first.floor_errors]
    spread = statistics.fmean(known) if known else 0.0
    return value._replace(n=1, spread=spread if math.isfinite(spread) else 0.0)
