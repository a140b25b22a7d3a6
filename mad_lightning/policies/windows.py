"""Synthetic samples of the last generation, of all, or of the last k: what most loops share."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from itertools import accumulate
from typing import Any, Literal, NoReturn

from mad_lightning.policies.base import NOTHING_TO_TRAIN_ON, LoopPolicy
from mad_lightning.policies.mixes import Mix, Part, shard_name
from mad_lightning.refusal import Refused
from mad_lightning.schedules import MOST, check_count, count_schedule

__all__ = ["SyntheticFrom", "Windowed"]

SyntheticFrom = Literal["last", "all", "last_k"]


class Windowed(LoopPolicy):
    """Abstract policy that takes equal shares of a window of earlier generations.

    Args:
        n_synthetic: Synthetic samples of each generation from the second on, or a schedule.
        synthetic_from: ``last`` generation, ``all`` earlier ones, or the ``last_k``.
        k: How many generations ``last_k`` reaches back.
        weight: Of each synthetic sample.
        others: Schedules of further counts of each generation from the second on, by field.
    """

    def __init__(
        self,
        n_synthetic: int | str,
        synthetic_from: SyntheticFrom,
        k: int,
        weight: float = 1.0,
        **others: int | str,
    ) -> None:
        self.n_synthetic = count_schedule("n_synthetic", n_synthetic, 0)
        self.counts = {name: count_schedule(name, n, 0) for name, n in others.items()}
        if synthetic_from not in ("last", "all", "last_k"):
            raise Refused("synthetic_from", f"{synthetic_from!r}", "choose last, all or last_k")
        check_count("k", k, 1)
        if k > 1000:
            raise Refused("k", f"{k} generations", "take 1 to 1000; all reaches back to the first")
        self.synthetic_from = synthetic_from
        self.k, self.weight = int(k), weight
        self.reach = self.k if synthetic_from == "last_k" else 1
        self._used = functools.cache(self._count_used)

    def count(self, field: str, t: int) -> int:
        """A count of generation ``t``, none below 0; what is wrong with it is said by check."""
        return max(0, self.counts[field](t))

    def _window(self, t: int) -> int:
        """How many of the last generations feed generation ``t``."""
        if t == 1:
            return 0
        if self.synthetic_from == "last_k":
            return min(self.k, t - 1)
        return 1 if self.synthetic_from == "last" else t - 1

    def _share(self, t: int, generation: int) -> int:
        """How many samples generation ``t`` takes from one earlier generation.

        Equal shares; the first generations of the window take what does not divide.
        """
        window = self._window(t)
        place = generation - (t - window)
        if not 0 <= place < window:
            return 0
        share, rest = divmod(max(self.n_synthetic(t), 0), window)
        return share + (place < rest)

    def _count_used(self, generation: int) -> tuple[int, ...]:
        """How many samples of a shard are used up when it is 1, 2, ..., k generations old."""
        ages = range(generation + 1, generation + self.k)
        return tuple(accumulate((self._share(t, generation) for t in ages), initial=0))

    @abstractmethod
    def real_parts(self, t: int) -> tuple[Part, ...]:
        """The real and the fresh part of generation ``t`` >= 1."""

    def other_parts(self, t: int) -> tuple[Part, ...]:
        """What of the mix of generation ``t`` >= 1 no generator of the lineage drew, in order."""
        return self.real_parts(t)

    def synthetic_parts(self, t: int) -> tuple[Part, ...]:
        """The synthetic part of generation ``t`` >= 2, oldest shard first; none for t = 1.

        ``last`` takes the shard of t-1 and ``all`` keeps every earlier shard, so that a pool grows
        (paper, section 4.1). ``last_k`` takes equal shares of the last k generations and, at each
        age, samples that were not used before: a new draw from the older model (appendix G).
        """
        parts = []
        for generation in range(t - self._window(t), t):
            count = self._share(t, generation)
            if count > 0:
                fresh = self.synthetic_from == "last_k"
                used = self._used(generation)[t - generation - 1] if fresh else 0
                name = shard_name(generation)
                parts.append(Part("synthetic", name, used, count, self.weight))
        return tuple(parts)

    def mix(self, t: int) -> Mix:
        """Real samples for t = 1; then what the loop keeps of them, and synthetic ones."""
        others = self.other_parts(t)
        is_outside = [part.shard is not None for part in others]
        first = is_outside.index(True) if any(is_outside) else len(others)
        return Mix(t, others[:first] + self.synthetic_parts(t) + others[first:])

    def summary(self, t: int) -> dict[str, Any]:
        """What a ledger tells of the mix of generation ``t``, without making its parts."""
        if type(self).mix is not Windowed.mix:
            return super().summary(t)
        window = self._window(t)
        n = max(0, self.n_synthetic(t)) if window else 0
        share, rest = divmod(n, window or 1)
        ages = {window - place: share + (place < rest) for place in range(window)}
        counts = {**Mix(t, self.other_parts(t)).counts(), "n_synthetic": n}
        return {**counts, "ages": {age: count for age, count in ages.items() if count}}

    def n_draw(self, t: int) -> int:
        """How many samples the shard of generation ``t`` must hold for the generations after it."""
        if type(self).mix is not Windowed.mix:
            return super().n_draw(t)
        return sum(self._share(after, t) for after in range(t + 1, t + 1 + self.reach))

    def n_pool(self, generations: int) -> int:
        """How many real samples a lineage of that many generations touches."""
        if type(self).mix is not Windowed.mix:
            return super().n_pool(generations)
        parts = (part for t in range(1, generations + 1) for part in self.real_parts(t))
        return max((part.stop for part in parts), default=0)

    def n_foreign(self, generations: int) -> dict[str, int]:
        """How many samples of each foreign shard a lineage of that many generations touches."""
        if type(self).mix is not Windowed.mix:
            return super().n_foreign(generations)
        most: dict[str, int] = {}
        for part in (part for t in range(1, generations + 1) for part in self.other_parts(t)):
            if part.shard is not None:
                most[part.shard] = max(most.get(part.shard, 0), part.stop)
        return most

    def check(self, generations: int) -> None:
        """Refuses a schedule that cannot be fed; in time linear in the generations."""
        for t in range(2, generations + 1):
            for name, count in self.counts.items():
                _checked(name, count, t)
        if type(self).mix is not Windowed.mix:
            super().check(generations)
            return
        fewest = [MOST]  # what each shard up to the s-th is drawn with at least
        for t in range(1, generations + 1):
            n = _checked("n_synthetic", self.n_synthetic, t) if t > 1 else 0
            if n == 0 and not self.other_parts(t):
                problem = f"generation {t} has nothing to train on"
                raise Refused("", problem, NOTHING_TO_TRAIN_ON)
            if self.synthetic_from != "all" or t == 1:
                continue  # shards are drawn for those that take them
            share, rest = divmod(n, t - 1)
            if fewest[t - 2] < share or fewest[min(rest, t - 2)] < share + 1:
                self._refuse_growth(t)
            fewest.append(min(fewest[-1], share))
        for t in range(generations + 1, generations + 1 + self.reach):  # shards are drawn for them
            _checked("n_synthetic", self.n_synthetic, t)

    def _refuse_growth(self, t: int) -> NoReturn:
        """Some shard has fewer samples than generation ``t`` asks it for."""
        for source in range(1, t - 1):
            asked, drawn = self._share(t, source), self._share(source + 1, source)
            if asked > drawn:
                raise Refused(
                    "n_synthetic",
                    f"generation {t} asks the shard of generation {source} for {asked} samples, "
                    f"it is drawn with {drawn}",
                    "let the schedule grow no faster than linearly, or use last",
                )
        raise AssertionError(f"generation {t} asks no shard for too much")


def _checked(field: str, count: Callable[[int], int], t: int) -> int:
    """What a schedule says of generation ``t``.

    Raises:
        Refused: If it has no value there, or less than none.
    """
    try:
        n = count(t)
    except ValueError as error:
        raise Refused(field, str(error), "choose another schedule") from None
    if n < 0:
        raise Refused(field, f"{n} samples in generation {t}", "bound it by max(0, ...)")
    return n
