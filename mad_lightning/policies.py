"""Loop policies: what each generation trains on.

An autophagous loop is fixed by one rule: given the generation index t, which samples, from where,
and how many (Alemohammad et al., 2023, sections 1.2 and 2.2). A policy is that rule and nothing
else: pure arithmetic, no data, no tensors, so that it can be printed as a table, drive an image
lineage and drive a million simulated Gaussian ones alike.

Two invariants hold for every policy: generation 1 is real only, and no fresh sample is used twice
in a lineage. Samples are named by position: real and fresh ones by their place in the real pool
(whose order the lineage's seed decides), synthetic ones by the name of a shard and their place in
it. A shard is not its generation: ``003`` is what generation 3 drew, ``003.kept`` what a treatment
left of that, ``foreign/laion`` what somebody else's generator drew.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, ClassVar, Literal, NoReturn

from mad_lightning.identity import Described
from mad_lightning.refusal import Refused
from mad_lightning.schedules import MOST, schedule

__all__ = [
    "FreshData",
    "FullySynthetic",
    "LoopPolicy",
    "Mix",
    "Part",
    "SyntheticAugmentation",
    "schedule",
    "shard_name",
]

Origin = Literal["real", "fresh", "synthetic"]
SyntheticFrom = Literal["last", "all", "last_k"]


FOREIGN = "foreign/"
"""What the names of shards begin with that no generator of the lineage drew."""


def shard_name(t: int, treatment: str = "") -> str:
    """Name of the shard that generation ``t`` drew, or of what a treatment made of it."""
    return f"{t:03d}.{treatment}" if treatment else f"{t:03d}"


@dataclass(frozen=True)
class Part:
    """A run of consecutive samples of one origin.

    Attributes:
        origin: ``real`` (fixed training set), ``fresh`` (used for the first time) or ``synthetic``.
        shard: Name of the shard that samples are taken from; None for real and fresh ones.
        start: Position of the first sample in the real pool, or in the shard.
        count: How many samples, at least 1.
    """

    origin: Origin
    shard: str | None
    start: int
    count: int

    @property
    def stop(self) -> int:
        """Position after the last sample."""
        return self.start + self.count

    @property
    def generation(self) -> int | None:
        """Whose samples they are; None for real, fresh and foreign ones."""
        if self.shard is None or self.shard.startswith(FOREIGN):
            return None
        return int(self.shard.partition(".")[0])


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

    def __len__(self) -> int:
        return sum(part.count for part in self.parts)

    @property
    def shards(self) -> tuple[str, ...]:
        """Names of the shards that it takes samples from, each once."""
        return tuple(dict.fromkeys(part.shard for part in self.parts if part.shard is not None))

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


def _check_count(field: str, n: int | None, least: int) -> None:
    if n is not None and not least <= n <= MOST:
        raise Refused(field, f"{n} samples", f"take at least {least}, at most 10^15")


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

    def summary(self, t: int) -> dict[str, Any]:
        """What a ledger tells of the mix of generation ``t``: counts by origin, and ages."""
        mix = self.mix(t)
        counts = {name: getattr(mix, name) for name in ("n_real", "n_fresh", "n_synthetic")}
        return {**counts, "ages": mix.ages()}

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

    def arithmetic(self, generations: int) -> str:
        """The sum behind :meth:`n_pool`, for the message when the pool is too small."""
        return f"{self.n_pool(generations)} real samples"

    def check(self, generations: int) -> None:
        """Refuses a schedule that cannot be fed, before anything is trained.

        Raises:
            Refused: If a mix is empty, or asks a shard for more than it was drawn with.
        """
        drawn: dict[int, int] = {}  # what each shard is drawn with, as n_draw has it, in one pass
        for t in range(1, generations + 1):
            mix = self.mix(t)
            if len(mix) == 0 or any(part.count < 0 for part in mix.parts):
                raise Refused(
                    "",
                    f"generation {t} has nothing to train on",
                    "give n_initial, n_real, n_fresh or n_synthetic samples to every generation",
                )
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


class _SyntheticPolicy(LoopPolicy):
    """What the paper's three loops share: how the synthetic part is composed."""

    def __init__(self, n_synthetic: int | str, synthetic_from: SyntheticFrom, k: int) -> None:
        try:
            self.n_synthetic = schedule(n_synthetic)
        except ValueError as error:
            raise Refused(
                "n_synthetic", str(error), 'write a number, or e.g. "(t-1) * 70000"'
            ) from None
        if isinstance(n_synthetic, int):
            _check_count("n_synthetic", n_synthetic, 0)
        if synthetic_from not in ("last", "all", "last_k"):
            raise Refused("synthetic_from", f"{synthetic_from!r}", "choose last, all or last_k")
        if not 1 <= k <= 1000:
            raise Refused("k", f"{k} generations", "take 1 to 1000; all reaches back to the first")
        self.synthetic_from = synthetic_from
        self.k = k
        self.reach = k if synthetic_from == "last_k" else 1
        self._used = functools.cache(self._count_used)

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
                parts.append(Part("synthetic", shard_name(generation), used, count))
        return tuple(parts)

    def mix(self, t: int) -> Mix:
        """Real samples for t = 1; then what the loop keeps of them, and synthetic ones."""
        return Mix(t, self.real_parts(t) + self.synthetic_parts(t))

    def summary(self, t: int) -> dict[str, Any]:
        """What a ledger tells of the mix of generation ``t``, without making its parts."""
        if type(self).mix is not _SyntheticPolicy.mix:
            return super().summary(t)
        real, window = Mix(t, self.real_parts(t)), self._window(t)
        n = max(0, self.n_synthetic(t)) if window else 0
        share, rest = divmod(n, window or 1)
        ages = {window - place: share + (place < rest) for place in range(window)}
        counts = {"n_real": real.n_real, "n_fresh": real.n_fresh, "n_synthetic": n}
        return {**counts, "ages": {age: count for age, count in ages.items() if count}}

    def n_draw(self, t: int) -> int:
        """How many samples the shard of generation ``t`` must hold for the generations after it."""
        if type(self).mix is not _SyntheticPolicy.mix:
            return super().n_draw(t)
        return sum(self._share(after, t) for after in range(t + 1, t + 1 + self.reach))

    def n_pool(self, generations: int) -> int:
        """How many real samples a lineage of that many generations touches."""
        if type(self).mix is not _SyntheticPolicy.mix:
            return super().n_pool(generations)
        parts = (part for t in range(1, generations + 1) for part in self.real_parts(t))
        return max((part.stop for part in parts), default=0)

    def check(self, generations: int) -> None:
        """Refuses a schedule that cannot be fed; in time linear in the generations."""
        if type(self).mix is not _SyntheticPolicy.mix:
            super().check(generations)
            return
        fewest = [MOST]  # what each shard up to the s-th is drawn with at least
        for t in range(1, generations + 1):
            n = self._n_synthetic_checked(t) if t > 1 else 0
            if n == 0 and not self.real_parts(t):
                raise Refused(
                    "",
                    f"generation {t} has nothing to train on",
                    "give n_initial, n_real, n_fresh or n_synthetic samples to every generation",
                )
            if self.synthetic_from != "all" or t == 1:
                continue  # shards are drawn for those that take them
            share, rest = divmod(n, t - 1)
            if fewest[t - 2] < share or fewest[min(rest, t - 2)] < share + 1:
                self._refuse_growth(t)
            fewest.append(min(fewest[-1], share))
        for t in range(generations + 1, generations + 1 + self.reach):  # shards are drawn for them
            self._n_synthetic_checked(t)

    def _n_synthetic_checked(self, t: int) -> int:
        try:
            n = self.n_synthetic(t)
        except ValueError as error:
            raise Refused("n_synthetic", str(error), "choose another schedule") from None
        if n < 0:
            raise Refused(
                "n_synthetic", f"{n} samples in generation {t}", "bound it by max(0, ...)"
            )
        return n

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


class FullySynthetic(_SyntheticPolicy):
    """The fully synthetic loop: after generation 1, nothing but samples of earlier generators.

    Source: Alemohammad et al., 2023, sections 1.2 and 3; the experiments draw from ``last``.

    Args:
        n_initial: Real samples of generation 1.
        n_synthetic: Synthetic samples of each later generation; None takes ``n_initial``.
            A number, or arithmetic in ``t`` such as ``"(t-1) * 70000"``.
        synthetic_from: ``last`` generation, ``all`` earlier ones, or the ``last_k``.
        k: How many generations ``last_k`` reaches back.
    """

    token = "full_synth"
    pool_field = "n_initial"

    def __init__(
        self,
        n_initial: int,
        n_synthetic: int | str | None = None,
        synthetic_from: SyntheticFrom = "last",
        k: int = 1,
    ) -> None:
        _check_count("n_initial", n_initial, 1)
        super().__init__(n_initial if n_synthetic is None else n_synthetic, synthetic_from, k)
        self.n_initial = n_initial

    def real_parts(self, t: int) -> tuple[Part, ...]:
        """Real samples for t = 1, none ever after."""
        return (Part("real", None, 0, self.n_initial),) if t == 1 else ()

    def arithmetic(self, generations: int) -> str:
        """Only generation 1 touches the pool."""
        return f"n_initial = {self.n_initial}"


class SyntheticAugmentation(_SyntheticPolicy):
    """The synthetic augmentation loop: a fixed real training set beside synthetic samples.

    Source: Alemohammad et al., 2023, sections 1.2 and 4. With StyleGAN2 the paper keeps ``all``
    earlier samples, ``n_synthetic = "(t-1) * 70000"``; with MNIST it draws from ``last``.

    Args:
        n_real: Size of the fixed real set, the same samples in each generation.
        n_synthetic: Synthetic samples of each later generation; None takes ``n_real``.
        n_initial: Real samples of generation 1; None takes ``n_real``.
        synthetic_from: ``last`` generation, ``all`` earlier ones, or the ``last_k``.
        k: How many generations ``last_k`` reaches back.
    """

    token = "synth_aug"

    def __init__(
        self,
        n_real: int,
        n_synthetic: int | str | None = None,
        n_initial: int | None = None,
        synthetic_from: SyntheticFrom = "last",
        k: int = 1,
    ) -> None:
        _check_count("n_real", n_real, 1)
        _check_count("n_initial", n_initial, 1)
        super().__init__(n_real if n_synthetic is None else n_synthetic, synthetic_from, k)
        self.n_real = n_real
        self.n_initial = n_real if n_initial is None else n_initial

    def real_parts(self, t: int) -> tuple[Part, ...]:
        """The fixed real set."""
        return (Part("real", None, 0, self.n_initial if t == 1 else self.n_real),)

    def arithmetic(self, generations: int) -> str:
        """The larger of the fixed set and generation 1's."""
        return f"max(n_real = {self.n_real}, n_initial = {self.n_initial})"


class FreshData(_SyntheticPolicy):
    """The fresh data loop: new real samples in every generation beside synthetic ones.

    Source: Alemohammad et al., 2023, sections 1.2 and 5, appendix G for ``last_k``.

    Args:
        n_initial: Real samples of generation 1.
        n_fresh: New real samples of each later generation; none is ever used twice.
        n_synthetic: Synthetic samples of each later generation.
        synthetic_from: ``last`` generation, ``all`` earlier ones, or the ``last_k``.
        k: How many generations ``last_k`` reaches back.
    """

    token = "fresh"
    pool_field = "n_fresh"

    def __init__(
        self,
        n_initial: int,
        n_fresh: int,
        n_synthetic: int | str,
        synthetic_from: SyntheticFrom = "last",
        k: int = 1,
    ) -> None:
        _check_count("n_initial", n_initial, 1)
        _check_count("n_fresh", n_fresh, 1)
        super().__init__(n_synthetic, synthetic_from, k)
        self.n_initial = n_initial
        self.n_fresh = n_fresh

    def real_parts(self, t: int) -> tuple[Part, ...]:
        """The initial samples, then the next ``n_fresh`` of the pool."""
        if t == 1:
            return (Part("real", None, 0, self.n_initial),)
        start = self.n_initial + (t - 2) * self.n_fresh
        return (Part("fresh", None, start, self.n_fresh),)

    def arithmetic(self, generations: int) -> str:
        """Initial samples and the fresh ones of every later generation."""
        return (
            f"n_initial + (generations - 1) x n_fresh = "
            f"{self.n_initial} + {generations - 1} x {self.n_fresh} = {self.n_pool(generations)}"
        )
