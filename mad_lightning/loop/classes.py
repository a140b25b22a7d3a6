"""Which classes a generator is asked for.

A conditional generator learns what a class looks like, and nothing of how common it is: whoever
draws decides that. Drawn in equal shares, an exact model of rare and common classes is already far
from its data after one generation, without having learned anything wrong. So classes come in the
shares that they have in what the generator was trained on, and a class that it never met is not
asked for.

Nothing is random here. Classes take turns by Sainte-Laguë's rule: the k-th turn of a class of n
samples comes at time (k - 1/2) / n. Any number of first turns then has the shares of the whole as
nearly as whole numbers can, as many turns as there were samples have them exactly, and equal shares
are one class after the other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mad_lightning.data.real import in_shares
from mad_lightning.samples import SeedBlock
from mad_lightning.seeds import sample_seeds

__all__ = ["counted", "in_turn", "one_round", "seed_block"]


def counted(labels: Tensor, weights: Tensor | None, k: int) -> Tensor:
    """How often training meets each class (K,), int64, in as many samples as there are.

    Args:
        labels: Classes (N,) of what is trained on.
        weights: How often each sample is met, beside others (N,); None: alike.
        k: How many classes there are.
    """
    if weights is None:
        return labels.bincount(minlength=k)
    met = labels.bincount(weights, minlength=k)
    whole = (met * (len(labels) / met.sum())).round().long()
    return torch.where(met > 0.0, whole.clamp(min=1), 0)


def one_round(counts: Tensor) -> Tensor:
    """The shortest sequence of classes in which each has exactly its share.

    Args:
        counts: Samples of each class (K,), int64, of which one at least is not 0.

    Returns:
        Classes, int64; only such as have samples.
    """
    present = counts.nonzero().flatten()
    turns = counts[present]
    turns = turns // math.gcd(*turns.tolist())
    classes = present.repeat_interleave(turns)
    return classes[in_shares(torch.arange(len(classes)), classes)]


def in_turn(order: Tensor, places: slice) -> Tensor:
    """The classes at some places of an endless sequence that repeats one round."""
    return order[torch.arange(places.start, places.stop) % len(order)]


def seed_block(
    address: tuple[int | str, ...],
    classes: Tensor | None,
    job: int,
    places: slice,
    sampling_bias: float,
) -> SeedBlock:
    """Samples to draw.

    Args:
        address: Where their seeds come from; see :func:`~mad_lightning.seeds.sample_seeds`.
        classes: One round of their classes, or None if they have none.
        job: Number of the block.
        places: Of the samples.
        sampling_bias: λ in (0, 1].
    """
    seeds = sample_seeds(places.start, places.stop - places.start, *address)
    labels = None if classes is None else in_turn(classes, places)
    return SeedBlock(job, seeds, labels, sampling_bias)
