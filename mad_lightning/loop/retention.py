"""Which shards stay on disk: all, those that are still needed, or the last.

A shard is a function of its generator's weights and its seeds, and its digest stands in the ledger.
So its samples may be dropped when nobody trains on them any more: they can be drawn again, and the
digest tells whether they are the same. What stays is the manifest, which says that they were
*evicted*. Only what a generator of this lineage drew is, and what a treatment left of that: what
came from elsewhere and what a branch has from its parent cannot be made here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from mad_lightning.lineage.settings import Keep
from mad_lightning.loop.store import Store
from mad_lightning.policies import LoopPolicy, shard_name

__all__ = ["Retention"]


class Retention:
    """Drops the samples of a lineage's shards, or tells which are to be drawn again.

    Args:
        keep: ``all``; ``needed``, those that a later generation trains on; or ``last``, those that
            the next one trains on. The newest stays in any case.
        policy: Tells who trains on what.
        generations: Length of the lineage.
        store: Its shards.
        treatment: How published shards are called beside those drawn; empty: they are the same.
    """

    def __init__(
        self,
        keep: Keep,
        policy: LoopPolicy,
        generations: int,
        store: Store,
        treatment: str = "",
    ) -> None:
        self.keep, self.policy, self.generations, self.store = keep, policy, generations, store
        self.treatment = treatment

    def names(self, t: int) -> list[str]:
        """Of what a generation drew, and of what was left of that."""
        return list(dict.fromkeys((shard_name(t), shard_name(t, self.treatment))))

    def stays(self, t: int) -> set[int]:
        """Generations whose shards are to be there when generation ``t`` is finished."""
        if self.keep == "all":
            return set(range(1, t + 1))
        if self.keep == "last":
            return {t} | (self._eaten(t + 1) if t < self.generations else set())
        return {t} | {s for s, last in self._last_use.items() if s < t < last}

    def most(self, size: Callable[[int], int], first: int = 1) -> int:
        """The most that shards take at once, from generation ``first`` on.

        Args:
            size: Of the shard of a generation.
            first: The first generation that is still to come.
        """
        coming = range(first, self.generations + 1)
        if self.keep == "all":
            return sum(map(size, coming))
        there = set[int]()
        most = 0
        for t in coming:
            there = (there | {t}) & set(coming)
            most = max(most, sum(map(size, there)))
            there &= self.stays(t)
        return most

    def evict(self, t: int) -> list[str]:
        """Drops what need not stay after generation ``t``.

        Returns:
            The names of the shards whose samples were dropped.
        """
        if self.keep == "all":
            return []
        self._own.add(t)
        self._there |= {t} | (self._eaten(t) & self._own)  # some of them were drawn again
        dropped = sorted(self._there - self.stays(t))
        self._there -= {*dropped}
        names = [name for s in dropped for name in self.names(s)]
        for name in names:
            if not self.store[name].is_evicted:
                self.store[name].evict()
        return names

    def missed(self) -> list[str]:
        """Shards whose samples were dropped, though all are to stay."""
        own = sorted(self._own) if self.keep == "all" else []
        names = [name for s in own for name in self.names(s)]
        return [name for name in names if self.store[name].is_evicted]

    def _eaten(self, t: int) -> set[int]:
        """Generations whose shards generation ``t`` trains on."""
        parts = self.policy.mix(t).parts
        return {part.generation for part in parts if part.generation is not None}

    @cached_property
    def _last_use(self) -> dict[int, int]:
        """The last generation that trains on the shard of each."""
        return {s: t for t in range(2, self.generations + 1) for s in self._eaten(t)}

    @cached_property
    def _own(self) -> set[int]:
        """Finished generations at the start whose shards were drawn here."""
        records = self.store.lineage.records()
        return {record.generation for record in records if not record.branched_from}

    @cached_property
    def _there(self) -> set[int]:
        """Generations whose samples are on disk."""
        return {
            s
            for s in self._own
            if any(self.store[name].values_file.exists() for name in self.names(s))
        }
