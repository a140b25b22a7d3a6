"""Mixes: what one generation trains on, as counts and places.

Samples are named by position: real and fresh ones by their place in the real pool (whose order the
lineage's seed decides), all others by the name of a shard and their place in it. A shard is not its
generation: ``003`` is what generation 3 drew, ``003.kept`` what a treatment left of that,
``foreign/external`` what somebody else's generator drew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from mad_lightning.refusal import Refused, check_one_of
from mad_lightning.schedules import MOST, check_count, check_weight

__all__ = ["EXTERNAL", "FOREIGN", "ORIGINS", "Mix", "Origin", "Part", "shard_name"]

Origin = Literal["real", "fresh", "synthetic", "external"]
ORIGINS: tuple[Origin, ...] = ("real", "fresh", "synthetic", "external")

FOREIGN = "foreign/"
"""What the names of shards begin with that no generator of the lineage drew."""
EXTERNAL = f"{FOREIGN}external"
"""Name of the shard that holds somebody else's samples."""


def shard_name(t: int, treatment: str = "") -> str:
    """Name of the shard that generation ``t`` drew, or of what a treatment made of it."""
    return f"{t:03d}.{treatment}" if treatment else f"{t:03d}"


@dataclass(frozen=True)
class Part:
    """Samples of one origin: a run of consecutive ones, or a choice among those of a run.

    Attributes:
        origin: ``real`` (fixed training set), ``fresh`` (used for the first time), ``synthetic``
            (drawn by an earlier generator) or ``external`` (drawn by somebody else's).
        shard: Name of the shard that samples are taken from; None for real and fresh ones.
        start: Position of the first sample in the real pool, or in the shard.
        count: How many samples, at least 1.
        weight: How often each of them is seen, beside a sample of weight 1.
        among: How long the run is that the samples are chosen from at random, each once; None: all
            of it is taken.

    Raises:
        Refused: If a place or a number of samples is no whole number, a weight no positive one,
            an origin unknown, or samples lie where such samples do not.
    """

    origin: Origin
    shard: str | None
    start: int
    count: int
    weight: float = 1.0
    among: int | None = None

    def __post_init__(self) -> None:
        """Refuses what a policy of one's own may have divided; makes NumPy's integers Python's."""
        for name in ("start", "count", "among"):
            n = getattr(self, name)
            if (type(n) is int and 0 <= n <= MOST) or (name == "among" and n is None):
                continue  # as quick as can be: there may be a million parts
            check_count(name, n, 0)
            object.__setattr__(self, name, int(n))
        if self.weight != 1.0:
            check_weight("weight", self.weight)
        check_one_of(ORIGINS, origin=self.origin)
        if (self.shard is None) != (self.origin in ("real", "fresh")):
            place = "the real pool" if self.shard is None else f"the shard {self.shard}"
            remedy = "real and fresh ones have the shard None, all others the name of one"
            raise Refused("shard", f"{self.origin} samples from {place}", remedy)

    @property
    def stop(self) -> int:
        """Position after the last sample that may be taken."""
        return self.start + (self.count if self.among is None else self.among)

    @property
    def generation(self) -> int | None:
        """Whose samples they are; None for real, fresh and foreign ones."""
        if self.shard is None or self.shard.startswith(FOREIGN):
            return None
        t = self.shard.partition(".")[0]
        if not t.isdecimal():
            remedy = f"name it by shard_name(generation), or {FOREIGN}NAME"
            raise Refused("shard", f"{self.shard} is none that a generation drew", remedy)
        return int(t)

    @property
    def facts(self) -> dict[str, Any]:
        """Plain values; what says nothing (a weight of 1, no choice) is left out."""
        facts = dict(vars(self))  # there may be thousands: no deep copies
        if self.weight == 1.0:
            del facts["weight"]
        if self.among is None:
            del facts["among"]
        return facts


@dataclass(frozen=True)
class Mix:
    """What one generation trains on: its parts, in order."""

    generation: int
    parts: tuple[Part, ...]

    def count(self, origin: Origin) -> int:
        """How many samples of one origin the mix holds."""
        return sum(part.count for part in self.parts if part.origin == origin)

    @property
    def n_real(self) -> int:
        """Samples of the fixed real training set."""
        return self.count("real")

    @property
    def n_fresh(self) -> int:
        """Real samples that no earlier generation has seen."""
        return self.count("fresh")

    @property
    def n_synthetic(self) -> int:
        """Samples of earlier generators."""
        return self.count("synthetic")

    @property
    def n_external(self) -> int:
        """Samples of somebody else's generator."""
        return self.count("external")

    def __len__(self) -> int:
        return sum(part.count for part in self.parts)

    @property
    def shards(self) -> tuple[str, ...]:
        """Names of the shards that it takes samples from, each once."""
        return tuple(dict.fromkeys(part.shard for part in self.parts if part.shard is not None))

    def counts(self) -> dict[str, int]:
        """How many samples of each origin, by the ledger's names."""
        return {f"n_{origin}": self.count(origin) for origin in ORIGINS}

    def ages(self) -> dict[int, int]:
        """How many samples come from generators so many generations older, oldest first.

        A loop's memory and ancestry are arithmetic on that, whatever its policy is called.
        """
        ages: dict[int, int] = {}
        for part in self.parts:
            if part.generation is not None:
                age = self.generation - part.generation
                ages[age] = ages.get(age, 0) + part.count
        return dict(sorted(ages.items(), reverse=True))

    def treated(self, treatment: str) -> Mix:
        """The mix with what generators drew as a treatment published it."""
        if not treatment:
            return self
        ours = {shard_name(t): shard_name(t, treatment) for t in range(1, self.generation)}
        parts = (replace(part, shard=ours.get(part.shard or "", part.shard)) for part in self.parts)
        return Mix(self.generation, tuple(parts))
