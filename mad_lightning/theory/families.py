"""A family of generators, as much of it as thousands of lineages at once need.

What a family learns from its samples is a *summary* of them: counts of words, moments, sums, or
the points themselves. Four things make a family, each for R lineages side by side: it draws the
summary of n real samples, or of n samples of a law that it learned; it joins summaries; it learns a
law from one; it measures that law. Summaries that are sums join by adding up, and no sample is
drawn that a summary does not need.

Everything else is the loop's, and the loop is one of the project's own policies. :func:`follow`
cuts what the policy prescribes into segments of samples that are always used together
(:func:`~mad_lightning.theory.segments.segments`), so that data that a policy takes again are the
same data again, for every family alike. A family that knows what to expect says so
(:meth:`Family.expected`), and is held to it by tests.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any, ClassVar, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from mad_lightning.identity import Described
from mad_lightning.policies import LoopPolicy
from mad_lightning.refusal import Refused, check_within
from mad_lightning.schedules import bias_schedule
from mad_lightning.seeds import seed_for
from mad_lightning.theory.cores import in_parallel
from mad_lightning.theory.segments import Segment, segments

__all__ = ["Array", "Family", "bias_at", "chain", "check_number", "follow", "log", "weights_of"]

Array = NDArray[np.float64]
Summary: TypeAlias = Any
"""A named tuple of arrays whose first axis is the lineage, and of numbers that all share."""
Law: TypeAlias = Any
"""The same, of what was learned."""

_Takes: TypeAlias = tuple[tuple[int, float], ...]
"""Generation and weight of each use that is to come."""
_BLOCK = 100
"""Lineages that share a stream of random numbers, whatever else is simulated."""


class Family(Described, ABC):
    """Abstract family of generators, R lineages side by side."""

    measures: ClassVar[tuple[str, ...]]
    """Names of what :meth:`measure` tells."""

    biases: ClassVar[str] = "(0, 1]"
    """The interval of λ that means something."""

    @property
    def least(self) -> int:
        """The fewest samples that a law can be learned from."""
        return 1

    @property
    def label(self) -> str:
        """The family and what distinguishes it: arguments that are not as by default."""
        args, kwargs = cast(Any, self)._made_with
        told = inspect.signature(type(self)).bind(*args, **kwargs)
        default = {p.name: p.default for p in inspect.signature(type(self)).parameters.values()}
        own = {name: value for name, value in told.arguments.items() if value != default[name]}
        words = [v if isinstance(v, str) else f"{name}={v:g}" for name, v in own.items()]
        return type(self).__name__ + (f" ({', '.join(words)})" if words else "")

    @abstractmethod
    def real(self, n: int, lineages: int, rng: np.random.Generator) -> Summary:
        """Draws the summary of n real samples, for each of R lineages."""

    @abstractmethod
    def draw(
        self, law: Law, n: int, sampling_bias: float, t: int, rng: np.random.Generator
    ) -> Summary:
        """Draws the summary of n samples of the laws that generation ``t`` learned."""

    def join(self, parts: Sequence[Summary]) -> Summary:
        """The summary of all parts taken together: their sum, where a family says nothing else."""
        return type(parts[0])(*(sum(part[1:], part[0]) for part in zip(*parts, strict=True)))

    def weigh(self, part: Summary, weight: float) -> Summary:
        """A summary whose samples count ``weight`` times each; of sums, so many times the sum."""
        return type(part)(*(weight * of for of in part))

    @abstractmethod
    def learn(self, seen: Summary) -> Law:
        """The laws that a generation learns from all it sees."""

    @abstractmethod
    def measure(self, law: Law) -> dict[str, Array]:
        """What is told of laws, each with shape (R,).

        ``log_variance`` is the logarithm of their variance, of its determinant a dimension where
        there are several, and minus infinity where it is 0.
        """

    def expected(
        self, policy: LoopPolicy, generations: int, sampling_bias: float | str
    ) -> dict[str, Array]:
        """Exact expectations of measures, each with shape (T,); none of those it does not know."""
        return {}

    def check(self, policy: LoopPolicy, generations: int, sampling_bias: float | str) -> None:
        """Refuses what it cannot be asked, before anything is simulated.

        Raises:
            Refused: With ``policy`` or ``sampling_bias`` at fault.
        """
        for t in range(1, generations + 1):
            bias = bias_at(sampling_bias, t)
            check_number("sampling_bias", bias, self.biases, f"as {self.label} understands λ")
        policy.check(generations)
        counts: dict[int, int] = defaultdict(int)
        for segment in segments(policy, generations):
            for t in segment.uses:
                counts[t] += segment.count
        t, n = min(counts.items(), key=lambda item: (item[1], item[0]))
        if n < self.least:
            problem = f"generation {t} has {n} samples to train on"
            raise Refused("policy", problem, f"{self.label} needs at least {self.least}")


def check_number(field: str, value: object, interval: str, example: str = "") -> None:
    """Refuses what is no number of an interval: also True, NaN and text."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise Refused(field, f"{value!r} is no number", f"give one within {interval}")
    check_within(interval, example, **{field: float(value)})


def bias_at(sampling_bias: float | str, t: int) -> float:
    """λ of what generation ``t`` draws: a number, or arithmetic in t."""
    if isinstance(sampling_bias, str):
        return bias_schedule(sampling_bias)(t)
    return sampling_bias


def weights_of(sizes: Sequence[tuple[float, float]]) -> list[float]:
    """What each sample of several parts counts, from their (n, weight).

    On the scale on which the sum of all weights is that of their squares, so that n - 1 is what
    an unbiased covariance divides by (Kish, 1965); 1 where all weights are alike.
    """
    total = sum(n * weight for n, weight in sizes)
    squares = sum(n * weight**2 for n, weight in sizes)
    return [weight * total / squares for _, weight in sizes]


def log(values: Array) -> Array:
    """Logarithms, minus infinity of 0."""
    with np.errstate(divide="ignore"):
        return np.log(values)


def chain(policy: LoopPolicy, generations: int) -> list[int] | None:
    """Samples a generation, where each trains on nothing but its predecessor's; else None."""
    plan = segments(policy, generations)
    sources = [(segment.source + 1, *segment.uses) for segment in plan]
    lone = sources == [(t, t) for t in range(1, generations + 1)]
    return [segment.count for segment in plan] if lone else None


@dataclass
class _Lineages:
    """A block of lineages on their way.

    Attributes:
        laws: What generations learned, as long as somebody draws from it.
        kept: Summaries by the generations that will use them.
    """

    family: Family
    plan: tuple[Segment, ...]
    sampling_bias: float | str
    lineages: int
    rng: np.random.Generator

    def follow(self, generations: int) -> dict[str, Array]:
        """Measures (R, T) by name."""
        family = self.family
        told: list[dict[str, Array]] = []
        first: dict[int, list[Segment]] = defaultdict(list)
        drawn_until: dict[int, int] = {}
        for segment in self.plan:  # ordered by first use
            first[segment.uses[0]].append(segment)
            drawn_until[segment.source] = segment.uses[0]
        laws: dict[int, Any] = {}
        kept: dict[_Takes, tuple[int, Any]] = {}  # with their numbers of samples
        for t in range(1, generations + 1):
            drawn = ((s.takes, (s.count, self._drawn(s, laws))) for s in first[t])
            mix: list[tuple[int, float, Any]] = []
            later: dict[_Takes, list[tuple[int, Any]]] = defaultdict(list)
            for takes, (n, part) in [*kept.items(), *drawn]:
                now = sum(use == t for use, _ in takes)
                mix += [(n, weight, part) for _, weight in takes[:now]]
                if takes[now:]:
                    later[takes[now:]].append((n, part))
            law = family.learn(family.join(self._weighed(mix)))
            told.append(family.measure(law))
            # Summaries with the same future are one from here on.
            kept = {
                takes: (sum(n for n, _ in parts), family.join([part for _, part in parts]))
                for takes, parts in later.items()
            }
            laws[t] = law
            laws = {s: learned for s, learned in laws.items() if drawn_until.get(s, 0) > t}
        return {name: np.stack([each[name] for each in told], axis=1) for name in family.measures}

    def _weighed(self, mix: Sequence[tuple[int, float, Any]]) -> list[Any]:
        weights = weights_of([(n, weight) for n, weight, _ in mix])
        return [
            part if weight == 1.0 else self.family.weigh(part, weight)
            for weight, (_, _, part) in zip(weights, mix, strict=True)
        ]

    def _drawn(self, segment: Segment, laws: Mapping[int, Any]) -> Any:
        t = segment.source
        if t == 0:
            return self.family.real(segment.count, self.lineages, self.rng)
        bias = bias_at(self.sampling_bias, t)
        return self.family.draw(laws[t], segment.count, bias, t, self.rng)


def follow(
    family: Family,
    policy: LoopPolicy,
    generations: int,
    lineages: int,
    sampling_bias: float | str = 1.0,
    seed: int = 0,
    threads: int | None = None,
) -> dict[str, Array]:
    """Follows lineages of any family under any policy, and measures every generation.

    Args:
        family: What is trained.
        policy: On what.
        generations: T.
        lineages: R, independent of each other.
        sampling_bias: λ, as the family understands it, or its schedule in t, as text.
        seed: Decides all random numbers.
        threads: CPU threads; None takes torch's number. The results do not depend on it.

    Returns:
        The family's measures by name, each with shape (R, T).

    Raises:
        Refused: If the policy cannot be fed, or λ means nothing to the family.

    Example:
        >>> from mad_lightning import FullySynthetic
        >>> from mad_lightning.theory import Categorical
        >>> told = follow(Categorical(types=500), FullySynthetic(1000), generations=40, lineages=9)
        >>> told["types"].shape
        (9, 40)
    """
    for name, count in (("generations", generations), ("lineages", lineages)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise Refused(name, f"{count!r}", "give a whole number, at least 1")
    family.check(policy, generations, sampling_bias)
    plan = segments(policy, generations)
    blocks = [
        _Lineages(
            family,
            plan,
            sampling_bias,
            min(_BLOCK, lineages - start),
            np.random.default_rng(seed_for(seed, "laboratory", start // _BLOCK)),
        )
        for start in range(0, lineages, _BLOCK)
    ]
    told = in_parallel(partial(_Lineages.follow, generations=generations), blocks, threads)
    return {name: np.concatenate([each[name] for each in told]) for name in family.measures}
