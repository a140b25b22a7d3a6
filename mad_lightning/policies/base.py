"""The contract of a loop policy, and what is checked of any."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from mad_lightning.identity import Described
from mad_lightning.policies.mixes import Mix
from mad_lightning.refusal import Refused

__all__ = ["NOTHING_TO_TRAIN_ON", "LoopPolicy"]

NOTHING_TO_TRAIN_ON = "give n_initial, n_real, n_fresh or n_synthetic samples to every generation"


class LoopPolicy(Described, ABC):
    """Abstract loop policy. A new one is one small class that implements :meth:`mix`."""

    token: ClassVar[str]
    """The name in file names, ledgers and tables; the class's own if it gives none."""

    reach: int = 1
    """For how many generations ahead a shard is drawn (more than 1 only where each later
    generation takes other samples of it)."""

    pool_field: str = "n_real"
    """The field to look at when the real pool is too small."""

    def __init_subclass__(cls) -> None:
        """Gives it a name."""
        super().__init_subclass__()
        if not hasattr(cls, "token"):
            cls.token = cls.__name__.lower()

    @abstractmethod
    def mix(self, t: int) -> Mix:
        """Prescribes what generation ``t`` >= 1 trains on."""

    def seeded(self, seed: int) -> Self:
        """The same policy for a lineage of this seed; another one only where it chooses by chance.

        All that is random has an address, and every address begins with the lineage's seed.
        """
        return self

    def union(self, t: int) -> Mix:
        """What the mix of generation ``t`` is chosen from by chance; itself, where nothing is."""
        return self.mix(t)

    def summary(self, t: int) -> dict[str, Any]:
        """What a ledger tells of the mix of generation ``t``: counts by origin, and ages."""
        mix = self.mix(t)
        return {**mix.counts(), "ages": mix.ages()}

    def n_draw(self, t: int) -> int:
        """How many samples the shard of generation ``t`` must hold for the generations after it."""
        later = (self.mix(after) for after in range(t + 1, t + 1 + self.reach))
        return max(
            (part.stop for mix in later for part in mix.parts if part.generation == t), default=0
        )

    def n_pool(self, generations: int) -> int:
        """How many real samples a lineage of that many generations touches."""
        mixes = (self.mix(t) for t in range(1, generations + 1))
        return max(
            (part.stop for mix in mixes for part in mix.parts if part.shard is None), default=0
        )

    def n_foreign(self, generations: int) -> dict[str, int]:
        """How many samples of each foreign shard a lineage of that many generations touches."""
        most: dict[str, int] = {}
        for t in range(1, generations + 1):
            for part in self.mix(t).parts:
                if part.shard is not None and part.generation is None:
                    most[part.shard] = max(most.get(part.shard, 0), part.stop)
        return most

    def arithmetic(self, generations: int) -> str:
        """The sum behind :meth:`n_pool`, for the message when the pool is too small."""
        return f"{self.n_pool(generations)}"

    def check(self, generations: int) -> None:
        """Refuses a schedule that cannot be fed, before anything is trained.

        Raises:
            Refused: If a mix is empty, or asks a shard for more than it was drawn with.
        """
        drawn: dict[int, int] = {}  # what each shard is drawn with, as n_draw has it, in one pass
        for t in range(1, generations + 1):
            mix = self.mix(t)
            if not isinstance(mix, Mix):
                problem = f"{type(self).__name__}.mix({t}) returns a {type(mix).__name__}"
                raise Refused("", problem, "let it return a Mix")
            if len(mix) == 0:
                problem = f"generation {t} has nothing to train on"
                raise Refused("", problem, NOTHING_TO_TRAIN_ON)
            for part in mix.parts:
                source = part.generation
                if source is None:
                    continue
                if source >= t:
                    problem = f"generation {t} asks for the shard of generation {source}"
                    raise Refused("", problem, "take shards of earlier generations only")
                if t - source <= self.reach:
                    drawn[source] = max(drawn.get(source, 0), part.stop)
                elif part.stop > drawn.get(source, 0) and part.stop > self.n_draw(source):
                    raise Refused(
                        "n_synthetic",
                        f"generation {t} asks the shard of generation {source} for {part.stop} "
                        f"samples, it is drawn with {self.n_draw(source)}",
                        "let the schedule grow no faster than linearly, or use last",
                    )
