"""Accumulate-subsample: a fixed budget, drawn at random from all that there ever was."""

from __future__ import annotations

import random
from collections import Counter
from copy import copy
from functools import lru_cache
from typing import Self

from mad_lightning.policies.base import LoopPolicy
from mad_lightning.policies.mixes import Mix, Part, shard_name
from mad_lightning.schedules import check_count

__all__ = ["AccumulateSubsample"]


class AccumulateSubsample(LoopPolicy):
    """All real and all synthetic samples accumulate; each generation trains on some of them.

    Between replacing (:class:`FullySynthetic`) and accumulating
    (:class:`SyntheticAugmentation`, ``all``): data only ever grow, compute does not. From
    generation 2 on a fixed budget is chosen from everything so far, each sample once at most and
    all with the same chance. The choice has an address: the lineage's seed and the generation.

    Source: Kazdan et al., 2024, arXiv 2410.16713.

    Args:
        n_initial: Real samples of generation 1, all that there are.
        n_budget: Samples that a later generation trains on; None takes ``n_initial``.
        n_synthetic: Samples that each generator adds; None takes ``n_initial``.
    """

    token = "subsample"
    pool_field = "n_initial"

    def __init__(
        self, n_initial: int, n_budget: int | None = None, n_synthetic: int | None = None
    ) -> None:
        n_budget = n_initial if n_budget is None else n_budget
        n_synthetic = n_initial if n_synthetic is None else n_synthetic
        counts = {"n_initial": n_initial, "n_budget": n_budget, "n_synthetic": n_synthetic}
        for field, n in counts.items():
            check_count(field, n, 1)
        self.n_initial, self.n_budget, self.n_synthetic = map(int, counts.values())
        self._seed = 0

    def seeded(self, seed: int) -> Self:
        """The same loop with the choices of a lineage of this seed."""
        other = copy(self)
        other._seed = seed
        return other

    def union(self, t: int) -> Mix:
        """All real and all synthetic samples before generation ``t``."""
        real = Part("real", None, 0, self.n_initial)
        drawn = (Part("synthetic", shard_name(s), 0, self.n_synthetic) for s in range(1, t))
        return Mix(t, (real, *drawn))

    def mix(self, t: int) -> Mix:
        """The chosen ones: how many of each source chance has given, and that they are chosen."""
        total = self.n_initial + (t - 1) * self.n_synthetic
        if t == 1 or self.n_budget >= total:
            return self.union(t)
        sources = Counter(
            0 if place < self.n_initial else 1 + (place - self.n_initial) // self.n_synthetic
            for place in chosen(total, self.n_budget, repr((self._seed, t, "subsample")))
        )
        parts = (
            Part("synthetic", shard_name(s), 0, n, among=self.n_synthetic)
            if s
            else Part("real", None, 0, n, among=self.n_initial)
            for s, n in sorted(sources.items())
        )
        return Mix(t, tuple(parts))

    def n_draw(self, t: int) -> int:
        """All that a generator adds: which of them are chosen later is not known yet."""
        return self.n_synthetic

    def n_pool(self, generations: int) -> int:
        """The initial samples."""
        return self.n_initial

    def arithmetic(self, generations: int) -> str:
        """Only the initial samples are real."""
        return f"n_initial = {self.n_initial}"

    def check(self, generations: int) -> None:
        """Nothing can be missing: budgets are at least 1, and so is what is chosen from."""

    def n_foreign(self, generations: int) -> dict[str, int]:
        """None comes from outside."""
        return {}


@lru_cache(maxsize=64)  # a generation's mix is asked for by many
def chosen(total: int, n: int, address: str) -> frozenset[int]:
    """Which n of the places 0 .. total - 1 are chosen, without replacement (Floyd, 1987).

    Args:
        total: How many there are.
        n: How many to choose, at most ``total``.
        address: Decides it.
    """
    rng = random.Random(address)
    places: set[int] = set()
    for last in range(total - n, total):
        # Of the module's methods, random() alone is promised to stay as it is.
        place = int(rng.random() * (last + 1))
        places.add(last if place in places else place)
    return frozenset(places)
