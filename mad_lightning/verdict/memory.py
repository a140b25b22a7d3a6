"""The memory of a loop: how much of an error a generation passes on, from the ages of what it eats.

Whatever a policy is called, it feeds a generation from outside and with samples of earlier
generators, and of those only the age counts. If all are one generation old, an error passes on by
their share q of the mix. If they are older, a on average, it takes a generations to pass on by q:
one generation passes on :math:`q^{1/a}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Ancestry", "memory_of"]


@dataclass(frozen=True)
class Ancestry:
    """Where the samples come from that a generation was trained on.

    Attributes:
        generation: Index t, from 1.
        total: All samples of its mix.
        ages: Those that earlier generators of the lineage drew, by how many generations older these
            are; None if unknown. Everything else came in from outside.
        continues: Whether training went on from the weights of the generation before.
    """

    generation: int
    total: int
    ages: Mapping[int, int] | None
    continues: bool = False

    @property
    def oldest(self) -> int:
        """Age of its oldest sample; 0 where all came in from outside."""
        return max(self.ages or (), default=0)


def memory_of(lineage: Sequence[Ancestry]) -> float | None:
    """Share of an error that a generation passes on, as far as the mixes tell.

    The share is that of generations 2, 3, ... together; the mean age that of generations which
    reach as far back as any, so that the first ones of a window that still fills do not count.

    Args:
        lineage: What its generations were trained on; several lineages of one policy may stand
            one after the other.

    Returns:
        Within [0, 1]; None if ages are unknown, if there is no generation 2, and for what remembers
        in other ways: a pool that keeps everything, and weights that go on training.
    """
    later = [ancestry for ancestry in lineage if ancestry.generation > 1]
    total = sum(ancestry.total for ancestry in later)
    if not total or any(ancestry.ages is None for ancestry in later):
        return None
    share = sum(count for ancestry in later for count in (ancestry.ages or {}).values()) / total
    if share < 1 and any(ancestry.continues for ancestry in later):
        return None
    if share == 0:
        return 0.0
    last = max(ancestry.generation for ancestry in later)
    oldest = max(ancestry.oldest for ancestry in later)
    if last >= 3 and oldest == last - 1:  # generation 1 is still eaten at the end
        return None
    steady = [
        (age, count)
        for ancestry in later
        if ancestry.oldest == oldest
        for age, count in (ancestry.ages or {}).items()
    ]
    mean_age = sum(age * count for age, count in steady) / sum(count for _, count in steady)
    return share ** (1 / mean_age)
