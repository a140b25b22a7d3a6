"""Settings of simulated lineages, and what their policies prescribe, cut into segments.

Where a policy takes the same samples again (a fixed real set, a pool that grows), every source is
cut into runs of samples that are always used together: moments of a run are drawn once.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from mad_lightning.policies import LoopPolicy
from mad_lightning.refusal import Refused
from mad_lightning.schedules import bias_schedule
from mad_lightning.theory.closed_forms import Estimator

__all__ = ["Segment", "Setting", "checked_segments", "chooses", "segments", "shape"]


@dataclass(frozen=True)
class Setting:
    """What is simulated: a loop, its bias, and which random numbers it gets.

    Attributes:
        policy: What each generation trains on.
        sampling_bias: λ in (0, 1], or its schedule; synthetic samples come from N(μ, λΣ).
        seed: Decides the setting's random numbers, whatever else is simulated beside it.
    """

    policy: LoopPolicy
    sampling_bias: float | str = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.bias(1)

    def bias(self, t: int) -> float:
        """λ of what generation ``t`` draws."""
        return bias_schedule(self.sampling_bias)(t)


@dataclass(frozen=True)
class Segment:
    """A run of samples of one source that every generation takes as a whole or not at all.

    Attributes:
        source: 0 for the real pool, else the generation that the samples come from.
        uses: The generations that train on it, in order; one that takes it twice stands twice.
        count: How many samples, at least 1.
        weights: Of each use, what each sample counts there; empty where all count once.
    """

    source: int
    uses: tuple[int, ...]
    count: int
    weights: tuple[float, ...] = ()

    @property
    def takes(self) -> tuple[tuple[int, float], ...]:
        """Generation and weight of each use, in order."""
        return tuple(zip(self.uses, self.weights or (1.0,) * len(self.uses), strict=True))


@lru_cache(maxsize=1024)
def segments(policy: LoopPolicy, generations: int) -> tuple[Segment, ...]:
    """Cuts all that a policy prescribes into segments.

    Args:
        policy: The loop.
        generations: How many generations to look at.

    Returns:
        Segments ordered by first use, real ones first, no two of them alike in source and uses.

    Raises:
        Refused: If it takes samples of a law that nobody knows, or chooses samples by chance.
    """
    edges: dict[int, list[tuple[int, int, float]]] = defaultdict(list)
    for t in range(1, generations + 1):
        for part in policy.mix(t).parts:
            if part.origin == "external":
                problem = f"generation {t} takes samples from outside, of which no law is known"
                raise Refused("policy", problem, "simulate it without them")
            if part.among is not None:
                raise Refused("policy", "it chooses samples by chance", "use theory.simulate")
            if part.count > 0:
                ends = (part.start, t, part.weight), (part.stop, -t, part.weight)
                edges[part.generation or 0] += ends
    counts: dict[tuple[int, tuple[tuple[int, float], ...]], int] = defaultdict(int)
    for source, ends_of in edges.items():
        users: list[tuple[int, float]] = []
        low = 0
        for edge, t, weight in sorted(ends_of):
            if users and edge > low:
                counts[source, tuple(users)] += edge - low
            low = edge
            if t > 0:
                insort(users, (t, weight))
            else:
                users.remove((-t, weight))
    cut = (_segment(source, users, count) for (source, users), count in counts.items())
    return tuple(sorted(cut, key=lambda piece: (piece.uses[0], piece.source > 0, piece.uses)))


def _segment(source: int, users: Sequence[tuple[int, float]], count: int) -> Segment:
    uses, weights = zip(*users, strict=True)
    return Segment(source, uses, count, () if set(weights) == {1.0} else weights)


def chooses(policy: LoopPolicy) -> bool:
    """Whether a policy chooses samples by chance, so that lineages do not take the same ones."""
    return type(policy).union is not LoopPolicy.union


Shape = tuple[tuple[int, tuple[tuple[int, float], ...]], ...]


def shape(plan: Sequence[Segment]) -> Shape:
    """What settings must have in common to be simulated as one batch: all but the counts."""
    return tuple((segment.source, segment.takes) for segment in plan)


def checked_segments(
    setting: Setting, generations: int, estimator: Estimator
) -> tuple[Segment, ...]:
    """Segments of a setting's policy.

    Raises:
        Refused: If the policy cannot be fed, λ is none, or a generation is too small.
    """
    least = 2 if estimator == "unbiased" else 1
    for t in range(1, generations + 1):
        setting.bias(t)
    plan = segments(setting.policy, generations)
    total = Counter(dict.fromkeys(range(1, generations + 1), 0))
    for segment in plan:
        total.update(dict.fromkeys(segment.uses, segment.count))
    t, n = min(total.items(), key=lambda item: (item[1] >= least, item[0]))
    if n < least:
        problem = f"generation {t} has {n} samples to train on"
        raise Refused("policy", problem, f"the {estimator} covariance needs at least {least}")
    return plan
