"""The real side of a lineage: a training pool in order, and a reference nobody trains on.

Two orders decide everything. The *split* into pool and reference depends on the data and
``split_seed`` alone, so that all lineages on one data set are measured against the same reference;
or on the lineage's seed, so that what seeds say together holds for no single reference. The *order*
of the pool depends on the lineage's seed, so that two seeds train on different real samples. A mix
names real samples by their place in that order.

Where samples have classes, the reference has them in the shares of the data and the floor has as
many of each as the reference. Drawn blindly the two would differ in their classes by chance, which
was half of the variance of a floor and stood in every number. Training samples stay as they come:
their shares of classes are part of what a seed is, and its scatter tells of them; with
``lineage.labels: mix`` what is drawn of them has those shares.
"""

from __future__ import annotations

import math
import warnings
from functools import cached_property
from hashlib import blake2b, sha256
from pathlib import Path

import torch
from torch import Tensor

from mad_lightning.data.laws import LawSource
from mad_lightning.data.sources import Source
from mad_lightning.identity import description
from mad_lightning.refusal import Refused, at, check_memory
from mad_lightning.samples import Law, Parts, Samples
from mad_lightning.seeds import permutation, sample_seeds

__all__ = ["RealData", "in_shares"]

_PLACES = 2**40  # an inexhaustible pool keeps its reference this far behind its training samples
_LESSONS = 20_000
"""Samples of an inexhaustible pool that a feature extractor may learn from."""


def _fingerprint(sample: Tensor) -> bytes:
    """Equal for equal values, and for no others."""
    return blake2b(sample.contiguous().numpy().data, digest_size=16).digest()


def _turns(labels: Tensor) -> Tensor:
    """The how-manieth of its class each sample is, from 0, in the order given (N,)."""
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    first = counts.cumsum(dim=0) - counts
    turns = torch.empty_like(order)
    turns[order] = torch.arange(len(order)) - first[labels[order]]
    return turns


def in_shares(order: Tensor, labels: Tensor | None) -> Tensor:
    """Places in an order of which any first ones have the classes' shares of all.

    By Sainte-Laguë's rule: the j-th of n samples of a class comes at time (j - 1/2) / n.

    Args:
        order: Places (N,), int64; within a class they keep it.
        labels: Classes by place, int64; None leaves the order as it is.
    """
    if labels is None:
        return order
    own = labels[order]
    times = (2 * _turns(own) + 1).double() / own.bincount()[own]  # equal fractions, equal floats
    return order[times.argsort(stable=True)]


def _like(order: Tensor, labels: Tensor | None, others: Tensor | None) -> Tensor:
    """Places in an order of which the first have as many of each class as others have.

    What a class lacks is made up for by whatever comes next.
    """
    if labels is None or others is None:
        return order
    own = labels[order]
    wanted = others.bincount(minlength=int(labels.max()) + 1)
    return order[(_turns(own) >= wanted[own]).int().argsort(stable=True)]


class RealData:
    """Real samples by role.

    Args:
        source: Where they come from.
        n_reference: Samples held out for measuring.
        split_seed: Decides which ones; None is the lineage's seed.
        seed: The lineage's seed; decides the order of the training pool.
        cache: Directory for decoded data sets.

    Raises:
        Refused: If the reference leaves fewer samples than it has.
    """

    content: str
    """Digest of all samples of the source, wherever they lie and whatever is held out."""
    digest: str
    """Digest of the samples, and of which are held out."""

    def __init__(
        self,
        source: Source | LawSource,
        n_reference: int,
        split_seed: int | None,
        seed: int,
        cache: Path,
    ) -> None:
        self.source, self.n_reference, self.seed = source, n_reference, seed
        self.split_seed = seed if split_seed is None else split_seed
        if isinstance(source, LawSource):
            self.spec, self.size, identity = source.spec, None, source.identity
            what = f"a reference of {n_reference:,} samples"
            size = 4.0 * n_reference * math.prod(self.spec.shape)
            check_memory("n_reference", size, what, "hold out fewer, e.g. 10000")
        else:
            with at("source"):
                loaded = source.load(cache)
            self.spec = loaded.spec
            self._samples, self._held_out = loaded.samples, loaded.held_out
            self._class_names = loaded.class_names
            # The floor compares the reference with as many other real samples.
            n = len(self._samples)
            most = n // 2 if self._held_out is None else min(n, len(self._held_out))
            if n_reference > most:
                raise Refused(
                    "n_reference",
                    f"{n_reference} samples cannot be held out and as many be left to compare with",
                    f"{source.name} has {n} samples"
                    + (f" and {len(self._held_out)} held out" if self._held_out else "")
                    + f": choose at most {most}",
                )
            self.size = len(self._samples) - (n_reference if self._held_out is None else 0)
            identity = loaded.digest
        made_with = description(source).get("init_args", "") if self.size is None else ""
        self.content = sha256(f"{identity} {made_with}".encode()).hexdigest()
        held_out = f"{identity} {n_reference} {self.split_seed}"
        if self.spec.classes is not None:
            held_out += " by class"  # until then it was drawn blindly
        self.digest = sha256(held_out.encode()).hexdigest()

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes 0, 1, ... are called; empty where the source does not say."""
        if isinstance(self.source, LawSource):
            return self.source.class_names
        return self._class_names

    @cached_property
    def n_copies(self) -> int:
        """Reference samples that lie in the training pool, too, value for value.

        Data sets that were gathered from the web have such. Whoever learns the pool by heart then
        looks right about them, so their number is told and stands in the protocol.
        """
        if self.size is None:
            return 0
        pool = {_fingerprint(self._samples.values[place]) for place in self._split[0].tolist()}
        n = sum(_fingerprint(sample) in pool for sample in self.reference.values)
        if n:
            warnings.warn(
                f"{n:,} of {self.n_reference:,} reference samples lie in the training pool, too: "
                "what is learned by heart looks right about them (take copies out of the data)",
                stacklevel=2,
            )
        return n

    @property
    def whole(self) -> Samples:
        """All samples of a finite source, the held-out ones of its training data among them."""
        return self._samples

    @property
    def splits(self) -> bool:
        """Whether the reference is taken from what could have been trained on."""
        return self.size is not None and self._held_out is None

    @cached_property
    def law(self) -> Law | None:
        """The true mean and covariance, where the source knows them."""
        return self.source.law if isinstance(self.source, LawSource) else None

    def _draw(self, start: int, count: int, *address: int | str) -> Samples:
        assert isinstance(self.source, LawSource)
        return self.source.draw(sample_seeds(start, count, *address))

    @cached_property
    def _split(self) -> tuple[Tensor, Samples]:
        """Of a finite source: places of the training pool, and the reference."""
        kept = self._samples if self._held_out is None else self._held_out
        order = in_shares(permutation(len(kept), self.split_seed, "split"), kept.labels)
        reference, others = order[: self.n_reference], order[self.n_reference :]
        pool = torch.arange(len(self._samples)) if kept is self._held_out else others.sort().values
        return pool, kept[reference]

    @cached_property
    def reference(self) -> Samples:
        """The held-out samples that metrics compare with; never trained on."""
        if self.size is None:
            return self._draw(_PLACES, self.n_reference, self.split_seed, "real")
        return self._split[1]

    @cached_property
    def _apart(self) -> tuple[Tensor, Tensor]:
        """Of a finite source: places of the floor, and of the others in the training pool."""
        pool, reference = self._split
        order = pool[permutation(len(pool), self.split_seed, "floor")]
        order = _like(order, self._samples.labels, reference.labels)
        return order[: self.n_reference], order[self.n_reference :]

    @cached_property
    def floor(self) -> Samples:
        """Real samples to compare with the reference, as many as it has."""
        if self.size is not None:
            return self._samples[self._apart[0]]
        n = self.n_reference
        spare = 0 if self.spec.classes is None else n
        drawn = self._draw(2 * _PLACES, n + spare, self.split_seed, "real")
        return drawn[_like(torch.arange(len(drawn)), drawn.labels, self.reference.labels)[:n]]

    def shown(self, n: int) -> Samples:
        """At most n samples of the reference to look at, one of each class in turn."""
        order = torch.arange(len(self.reference))
        if (labels := self.reference.labels) is not None:
            order = (_turns(labels) * (labels.max() + 1) + labels).argsort()
        return self.reference[order[:n]]

    def lessons(self) -> Samples:
        """What a feature extractor may learn from: neither of the reference nor of the floor.

        All others of the training pool, the same for every lineage seed; 20,000 of an inexhaustible
        one.
        """
        if self.size is None:
            return self._draw(3 * _PLACES, _LESSONS, self.split_seed, "real")
        return Parts([self._samples], self._apart[1].sort().values)

    def read(self, start: int, count: int) -> Samples:
        """Training samples by their place in this lineage's order of the pool.

        Those of a finite source stay where it has them; only their places are kept.
        """
        if self.size is None:
            return self._draw(start, count, self.seed, "real")
        return Parts([self._samples], self._places(start, count))

    def kept_back(self, n: int, after: int = 0) -> Samples | None:
        """The last n of this lineage's order of the pool, for who judges samples; None if n is 0.

        Of an inexhaustible pool, n that lie where no generation and no metric reads.

        Args:
            n: How many.
            after: How many at the very end are somebody else's.
        """
        if n == 0:
            return None
        if self.size is None:
            return self._draw(4 * _PLACES + after, n, self.seed, "real")
        return self.read(self.size - after - n, n)

    def labels(self, start: int, count: int) -> Tensor | None:
        """Classes (N,) of what :meth:`read` reads; None if samples have none."""
        if self.size is None or self._samples.labels is None:
            return None
        return self._samples.labels[self._places(start, count)]

    def _places(self, start: int, count: int) -> Tensor:
        """Where the source has what lies at some places of this lineage's order of the pool."""
        assert self.size is not None
        return self._split[0][permutation(self.size, self.seed, "pool")[start : start + count]]
