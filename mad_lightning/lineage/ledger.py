"""The ledger: what happened, one line a finished generation.

``lineage.jsonl`` is the truth about a lineage; the console table, the W&B run and every report are
views of it. A generation is finished when its line stands, and not before.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from mad_lightning.files import as_json, with_nan
from mad_lightning.lineage.quantities import UNKNOWN, MeasurementError, Quantity, quantities_of
from mad_lightning.refusal import Refused

__all__ = [
    "GenerationRecord",
    "Ledger",
    "Start",
    "is_closed",
    "meanings",
    "now",
    "values_digest",
]

Start = Literal["scratch", "base", "previous"]

_CHAIN = re.compile(rb', "chain": "([0-9a-f]{64})"}\n$')
_TRACE = re.compile(rb'"chain":|: "[^"]{64}"}\n$')
"""One flipped bit can spoil the word or the digest, and never both."""
_REMEDY = (
    "bring back the ledger as it was; without a copy, take it away: the same command enters anew "
    "what stands of each generation"
)

_PASSING = ("seconds", "cpu_seconds", "time", "environment", "changed")
"""What a line tells of how it came about, and not of what came out."""


def now() -> str:
    """The time as ledgers tell it, e.g. ``2026-11-27T04:31:41.250+00:00``."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class GenerationRecord:
    """One finished generation.

    Attributes:
        generation: Index t, from 1.
        policy: Token of the loop policy.
        n_real: Samples of the fixed real set in its training mix.
        n_fresh: Real samples used for the first time.
        n_synthetic: Samples of earlier generators.
        n_external: Samples of somebody else's generator.
        sampling_bias: λ that its own shard was drawn with.
        metrics: Measured values by name; each name states its extractor where it matters.
        errors: How far each value may lie from what other samples of this generator, and another
            reference, would say; as far as metrics tell. Empty in ledgers that were begun before
            ledgers told.
        floor: The same metrics, real against other real samples at the same n.
        floor_errors: How far one reading of a floor may lie from it: the standard deviation over
            other ways to part the same real samples. Empty in ledgers that were begun before
            ledgers told.
        protocol: What the values depend on: n, k, extractor, weight hash, resize.
        sampler: What besides λ shapes its samples: sampler, steps, clipping, weights used.
        images: Training images it has seen.
        seconds: Wall seconds by phase.
        cpu_seconds: CPU seconds by phase, of the first process and of programs that it ran: what
            phases would take on a machine that does nothing else. Empty in ledgers that were begun
            before ledgers told.
        digests: SHA-256 by artefact (``generator``, ``shard``, ``metrics``), and of what made them:
            ``data`` (the real samples), ``settings`` (what of the configuration decides numbers,
            without the seed), ``base`` (the weights that training starts from, if it is told any),
            ``external`` (somebody else's samples, if it takes any).
        seed: The lineage's seed; None in ledgers that were begun before ledgers told.
        changed: What changed before it that no number depends on: devices, where the data lie, who
            watches. Lines ``key: old -> new``.
        environment: With what it was computed, see :func:`mad_lightning.loop.machine.environment`.
            Empty in ledgers that were begun before ledgers told.
        branched_from: Of a generation that another lineage made, that lineage's ``name``, and the
            ``digest`` of its ledger up to this line.
        time: When it was finished, UTC. Empty in ledgers that were begun before ledgers told.
        world_size: Processes that trained it.
        start: Where its first weights came from: ``scratch``, ``base`` or ``previous``.
        ages: Samples of its mix by age: how many come from generators so many generations older.
            None in ledgers that were begun before ledgers told.
        quantities: What each metric's name means.
        drawn: Name of the shard that the generator drew, which is the one that was measured.
        published: Name of the shard that later generations eat; another one after a treatment.
        treatment: Of a treatment, which one, and how much of what it kept, see
            :func:`mad_lightning.loop.treating.rates`. Empty without one.
    """

    generation: int
    policy: str
    n_real: int
    n_fresh: int
    n_synthetic: int
    sampling_bias: float
    metrics: dict[str, float]
    errors: dict[str, MeasurementError] = field(default_factory=dict)
    floor: dict[str, float] = field(default_factory=dict)
    floor_errors: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    images: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    world_size: int = 1
    start: Start = "scratch"
    ages: dict[int, int] | None = None
    quantities: dict[str, Quantity] = field(default_factory=dict)
    drawn: str = ""
    published: str = ""
    treatment: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    changed: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    branched_from: dict[str, str] | None = None
    time: str = field(default_factory=now, compare=False)
    n_external: int = 0

    def __post_init__(self) -> None:
        """Names that the record does not explain are read as this package's own metrics."""
        explained = quantities_of(dict.fromkeys([*self.metrics, *self.floor]), self.quantities)
        object.__setattr__(self, "quantities", explained)

    @property
    def closed(self) -> bool:
        """Whether nothing real came in, neither as data nor in weights, as far as it tells.

        What comes from outside is no real data, whoever drew it.
        """
        own = self.n_synthetic if self.ages is None else sum(self.ages.values())
        total = self.n_real + self.n_fresh + self.n_synthetic
        return self.start == "scratch" and own == total

    @property
    def outcome(self) -> dict[str, Any]:
        """What equal lineages have alike, as plain values: all but when, where and how long."""
        plain = json.loads(self.to_json())
        return {name: value for name, value in plain.items() if name not in _PASSING}

    def to_json(self) -> str:
        """One line of JSON; values that are not finite become null."""
        plain = {part.name: getattr(self, part.name) for part in fields(self)}
        plain["quantities"] = {
            name: meaning.to_plain() for name, meaning in self.quantities.items()
        }
        if not self.treatment:
            del plain["treatment"]
        return as_json(plain)

    @classmethod
    @lru_cache(maxsize=8192)  # a long ledger is asked for often
    def from_json(cls, line: str) -> GenerationRecord:
        """Inverse of :meth:`to_json`; null metrics become NaN, unknown keys are ignored."""
        names = {part.name for part in fields(cls)}
        told = {"time": ""} | json.loads(line)
        plain = {key: value for key, value in told.items() if key in names}
        for name in ("metrics", "floor", "floor_errors"):
            plain[name] = with_nan(plain.get(name) or {})
        errors = plain.get("errors") or {}
        plain["errors"] = {k: MeasurementError(*v) for k, v in errors.items() if None not in v}
        if plain.get("ages") is not None:
            plain["ages"] = {int(age): count for age, count in plain["ages"].items()}
        stated = plain.get("quantities") or {}
        plain["quantities"] = {
            name: Quantity.from_plain(meaning) for name, meaning in stated.items()
        }
        return cls(**plain)


def values_digest(values: Mapping[str, Any] | None) -> str:
    """SHA-256 of measured values, as the ledger tells it."""
    return sha256(json.dumps(values).encode()).hexdigest()


def meanings(records: Iterable[GenerationRecord]) -> dict[str, Quantity]:
    """What the measured names mean, as the first record says that explains them."""
    stated: dict[str, Quantity] = {}
    for record in records:
        for name in record.metrics:
            if stated.get(name, UNKNOWN) == UNKNOWN:
                stated[name] = record.quantities[name]
    return stated


def is_closed(closed: Sequence[bool]) -> bool:
    """Whether nothing real comes into a lineage any more that could pull it back.

    A share of real data that vanishes leaves a closed loop behind: what counts is the later half of
    the lineage, without generation 1, where growth is judged.

    Args:
        closed: Of each generation, from the first on, whether nothing real came in.
    """
    return all(closed[max(1, len(closed) // 2) :])


class Ledger:
    """The records of one lineage, on disk, chained.

    Each line ends with a digest of itself and of all lines before it, so that one that was edited,
    doubled, swapped or taken from another lineage is noticed. (Lines from before ledgers were
    chained count as text, and are held by the first chained line after them.)

    Args:
        path: The file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._end: tuple[tuple[int, int], int, str] | None = None  # as this process left it

    def __len__(self) -> int:
        """How many generations are finished.

        Raises:
            Refused: If the file is not what was written.
        """
        return sum(1 for _ in self._lines())

    @property
    def ends_well(self) -> bool:
        """Whether its last line was written to the end; a kill may have torn it."""
        return not self.path.exists() or self.path.read_bytes()[-1:] in (b"", b"\n")

    def _lines(self) -> Iterator[tuple[bytes, str]]:
        """Finished lines, and the digest of everything up to each.

        Raises:
            Refused: If a line is not the one that was written there.
        """
        content = self.path.read_bytes() if self.path.exists() else b""
        chain, chained = "", False
        *finished, _ = content.split(b"\n")  # a line torn by a kill was never finished
        for number, text in enumerate(finished, start=1):
            line = text + b"\n"
            told = _CHAIN.search(line)
            body = line[: told.start()] + b"}" if told else line.rstrip()
            chain = sha256(chain.encode() + body).hexdigest()
            fits = told[1].decode() == chain if told else not (chained or _TRACE.search(line))
            if not fits:
                problem = f"line {number} is not what was written after line {number - 1}"
                raise Refused(str(self.path), problem, _REMEDY)
            chained = chained or told is not None
            yield line, chain

    def records(self) -> list[GenerationRecord]:
        """All finished generations, in order.

        Raises:
            Refused: If the file is not what was written.
        """
        records = []
        for number, (line, _) in enumerate(self._lines(), start=1):
            try:
                record = GenerationRecord.from_json(line.decode())
            except (ValueError, TypeError, AttributeError) as error:
                problem = f"line {number} is no record of a generation: {error}"
                raise Refused(str(self.path), problem, _REMEDY) from None
            if record.generation != number:
                problem = f"line {number} tells of generation {record.generation}"
                raise Refused(str(self.path), problem, _REMEDY)
            records.append(record)
        return records

    def digests(self) -> list[str]:
        """The digest of everything up to each line."""
        return [digest for _, digest in self._lines()]

    def append(self, record: GenerationRecord) -> None:
        """Adds a finished generation, durably.

        Raises:
            ValueError: If it is not the next one.
            OSError: If it cannot be written, with the file's name.
        """
        if self._end is not None and self._end[0] == self._state():
            (size, _), n, before = self._end  # not all of it again for every line
        else:
            lines = list(self._lines())
            size, n = sum(len(line) for line, _ in lines), len(lines)
            before = lines[-1][1] if lines else ""
        if record.generation != n + 1:
            raise ValueError(f"generation {record.generation} cannot follow {n}")
        body = record.to_json().encode()
        chain = sha256(before.encode() + body).hexdigest()
        try:
            with self.path.open("ab") as file:
                file.truncate(size)
                file.write(body[:-1] + f', "chain": "{chain}"}}\n'.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._end = self._state(), n + 1, chain

    def _state(self) -> tuple[int, int]:
        """Size and time of the file, which change with whatever is done to it."""
        state = self.path.stat()
        return state.st_size, state.st_mtime_ns
