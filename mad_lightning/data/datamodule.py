"""From a mix to batches.

A generation's training set is the concatenation of the parts of its mix. It stays where it is,
resident or memory-mapped, as bytes; a batch is a gather. The order of the samples is a stream of
permutations, one a pass, addressed by (lineage seed, generation, pass): where a batch lies in the
stream is arithmetic, so resuming at an epoch needs no stored position, and budgets are counted in
images seen whatever the number of devices.

Where samples have weights, a pass of n places meets each as often as its weight asks for: n w / W
times on average, and never more than one off that (systematic sampling, Madow and Madow, 1944).
With equal weights that is each sample once, which is the permutation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import lightning as L
import torch
from torch import Tensor

from mad_lightning.data.ahead import ahead
from mad_lightning.data.external import read_external
from mad_lightning.data.laws import LawSource
from mad_lightning.data.real import RealData
from mad_lightning.data.shards import Shard
from mad_lightning.data.sources import Source
from mad_lightning.identity import Described
from mad_lightning.policies import EXTERNAL, Mix, Part
from mad_lightning.refusal import Refused, at, check_memory, check_within
from mad_lightning.samples import Batches, Parts, Samples
from mad_lightning.seeds import permutation, sample_seeds, uniform

__all__ = ["GenerationDataModule", "MixLoader"]

_SMALL = 16 * 2**20  # bytes that are copied to be in one place


def _joined(parts: Sequence[Samples]) -> list[Samples]:
    """The same samples in fewer parts, as a batch costs an index for each part that it meets.

    Of the smallest, of together 16 MiB at most, neighbours become one, in memory; a pool of
    everything that a long loop of small generations ever drew is one.
    """
    sizes = torch.tensor([part.nbytes for part in parts])
    smallest = sizes.argsort(stable=True)
    is_small = torch.empty(len(parts), dtype=torch.bool)
    is_small[smallest] = sizes[smallest].cumsum(0) <= _SMALL
    joined = list[Samples]()
    for small, run in groupby(zip(is_small.tolist(), parts, strict=True), itemgetter(0)):
        near = [part for _, part in run]
        is_near = len(near) == 1 and not isinstance(near[0], Parts)
        joined += [Samples.joined(near)] if small and not is_near else near
    return joined


class MixLoader:
    """Batches of one process, epoch after epoch.

    Args:
        parts: The training set, part by part.
        batch_size: Images of an optimiser step over all processes.
        images: Images of an epoch over all processes, rounded up to whole batches; None for one
            pass.
        address: Where the order lives, e.g. ``(lineage_seed, generation, "order")``.
        rank: This process.
        world_size: Number of processes; each takes an equal slice of every batch.
        epoch: Tells at the start of an iteration which epoch it is.
        exact: One exact pass whatever ``images`` says, the last batch short, for families that
            estimate in closed form. (Gradient families need equal batches on all processes.)
        at_once: Batches of a training step. More than one come as
            :class:`~mad_lightning.samples.Batches`, as far as an epoch has them.
        weights: How often each sample is to be seen, beside others (N,), float64; None: alike.
        weighs: Whether batches carry the weights, each sample once a pass, for families that weigh
            samples themselves.
    """

    def __init__(
        self,
        parts: Sequence[Samples],
        batch_size: int,
        images: int | None,
        address: tuple[int | str, ...],
        rank: int = 0,
        world_size: int = 1,
        epoch: Callable[[], int] = lambda: 0,
        exact: bool = False,
        at_once: int = 1,
        weights: Tensor | None = None,
        weighs: bool = False,
    ) -> None:
        self.parts = _joined(parts)
        self.samples = Parts(self.parts)
        self.n = len(self.samples)
        self.batch_size = batch_size
        self.images = self.n if exact or images is None else images
        if not exact:
            self.images = math.ceil(self.images / batch_size) * batch_size
        self.at_once = at_once
        self.address, self.rank, self.world_size, self.epoch = address, rank, world_size, epoch
        self.is_ahead = False
        """Whether batches are made one ahead, in pinned memory; see :mod:`.ahead`."""
        self._lap = -1
        self._order = torch.empty(0, dtype=torch.int64)
        self._weights = weights.float() if weighs and weights is not None else None
        self._ends = None if weighs or weights is None else weights.cumsum(0)

    def __len__(self) -> int:
        return math.ceil(self.images / (self.batch_size * self.at_once))

    def order(self, lap: int) -> Tensor:
        """The permutation of one pass; the last one made is kept."""
        if self._lap != lap:
            order = permutation(self.n, *self.address, lap)
            if self._ends is not None:
                order = self._met(self._ends, lap)[order]
            self._lap, self._order = lap, order
        return self._order

    def _met(self, ends: Tensor, lap: int) -> Tensor:
        """The samples (N,) that one pass meets, as often as their weights ask for, in order."""
        shift = uniform(sample_seeds(lap, 1, *self.address, "weights"), 1).squeeze()
        at = torch.arange(self.n) + shift
        return torch.searchsorted(ends * (self.n / ends[-1]), at, right=True).clamp(max=self.n - 1)

    def indices(self, start: int, stop: int) -> Tensor:
        """Places start .. stop-1 of the endless stream of permutations."""
        pieces = []
        for lap in range(start // self.n, math.ceil(stop / self.n)):
            first = lap * self.n
            pieces.append(self.order(lap)[max(0, start - first) : stop - first])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def gather(self, index: Tensor) -> Samples:
        """Samples by their place in the concatenated parts, of which it touches those it needs."""
        samples = self.samples[index]
        if self._weights is not None:
            samples.weights = self._weights[index]
        return samples

    def __iter__(self) -> Iterator[Samples]:
        return ahead(self._batches()) if self.is_ahead else self._batches()

    def _batches(self) -> Iterator[Samples]:
        epoch = self.epoch()  # of the first batch: Lightning iterates before it restores the epoch
        begin, end = epoch * self.images, (epoch + 1) * self.images
        for start in range(begin, end, self.batch_size * self.at_once):
            stop = min(start + self.batch_size * self.at_once, end)
            index = self.indices(start, stop)
            size = min(self.batch_size, len(index))
            if self.world_size > 1:
                batches = index.split(size)
                shares = [batch.tensor_split(self.world_size)[self.rank] for batch in batches]
                index, size = torch.cat(shares), max(1, len(shares[0]))
            samples = self.gather(index)
            if self.at_once > 1:
                first = start // self.batch_size
                samples = Batches(**samples.tensors(), size=size, first=first)
            yield samples


def _choice(part: Part, t: int, seed: int) -> Tensor:
    """Which samples of its run a part takes (count,), in order, by the generation's address."""
    assert part.among is not None
    address = (seed, t, "choice", part.shard or part.origin, part.start)
    return permutation(part.among, *address)[: part.count].sort().values


def _places_outside(samples: Samples, seed: int) -> Tensor:
    """The order (N,) in which a lineage takes samples from outside: folders lie class by class."""
    return permutation(len(samples), seed, "external")


def _weights(parts: Sequence[Part], samples: Sequence[Samples]) -> Tensor | None:
    """Weights (N,), float64, of all samples of a mix; None if they are all alike.

    Raises:
        Refused: If some are no weights, or all are 0.
    """
    if all(one.weights is None for one in samples) and len({part.weight for part in parts}) < 2:
        return None
    own = [torch.ones(len(one)) if one.weights is None else one.weights for one in samples]
    together = [part.weight * each.double() for part, each in zip(parts, own, strict=True)]
    weights = torch.cat(together)
    if not bool((weights.isfinite() & (weights >= 0.0)).all()) or not bool(weights.sum() > 0.0):
        names = ", ".join(sorted({part.shard for part in parts if part.shard is not None}))
        problem = f"samples of {names} have weights that are negative, not finite, or all 0"
        raise Refused("", problem, "let what wrote them give numbers from 0 on, some above it")
    return None if bool((weights == weights[0]).all()) else weights


class _TrainingSet(NamedTuple):
    """What a generation trains on, and in which order."""

    parts: tuple[Samples, ...]
    address: tuple[int | str, ...]
    exact: bool
    weights: Tensor | None = None
    weighs: bool = False


class GenerationDataModule(Described, L.LightningDataModule):
    """Turns a mix into batches.

    By itself it is generation 1 of seed 0 on the whole real pool; of an inexhaustible pool, on as
    many samples as the reference has. So it serves in a plain ``Trainer``, too::

        Trainer(max_epochs=3).fit(generator, datamodule=GenerationDataModule(Digits()))

    Args:
        source: Real data.
        batch_size: Images of an optimiser step, over all devices.
        images_per_epoch: Images of an epoch ("tick": curves are logged and checkpoints may be
            written at its end), over all devices; None for one pass over the mix.
        n_reference: Real samples held out for measuring; never trained on.
        split_seed: Decides which ones, the same for every lineage seed. None: each lineage's own
            seed does, so that seeds share neither reference nor floor nor classifier, and what they
            say together holds for more than one reference.
        device_batch: Samples that a device draws, or looks at, at once; None: a whole
            `lineage.block_size`. Fewer take less of its memory. May change from start to start.
        cache: Directory for decoded data sets, classifiers and reference features; lineages on
            the same data share it.
        external: Samples that somebody else's generator drew, of the kind that real ones are;
            policies take ``n_external`` of them.
    """

    def __init__(
        self,
        source: Source | LawSource,
        batch_size: int = 64,
        images_per_epoch: int | None = None,
        n_reference: int = 1000,
        split_seed: int | None = 0,
        cache: str = "runs/cache",
        external: Source | None = None,
        device_batch: int | None = None,
    ) -> None:
        super().__init__()
        check_within("[1, inf)", "e.g. 64", batch_size=batch_size)
        check_within("[1, 10000000000]", "e.g. 50000", images_per_epoch=images_per_epoch)
        check_within("[2, inf)", "e.g. 1000", n_reference=n_reference)
        check_within("[1, 1000000]", "e.g. 64", device_batch=device_batch)
        self.device_batch = device_batch
        self.source = source
        self.batch_size = batch_size
        self.images_per_epoch = images_per_epoch
        self.n_reference = n_reference
        self.split_seed = split_seed
        self.cache = Path(cache)
        self.external = external
        self._external: Samples | None = None
        self._real: dict[int, RealData] = {}
        self._fed: _TrainingSet | None = None

    def real(self, seed: int = 0) -> RealData:
        """The real data as the lineage of a seed sees it; loaded once and kept.

        Raises:
            Refused: If the data is not there, or too small for the reference, or a batch of it too
                large for this machine.
        """
        if seed not in self._real:
            real = RealData(self.source, self.n_reference, self.split_seed, seed, self.cache)
            size, what = 4.0 * math.prod(real.spec.shape), f"a batch of {self.batch_size:,} samples"
            check_memory("batch_size", self.batch_size * size, what, "take fewer, e.g. 64")
            self._real[seed] = real
        return self._real[seed]

    def outside(self, seed: int) -> Samples:
        """What somebody else's generator drew, all of it, in its own order; loaded once and kept.

        Raises:
            Refused: If nothing is given, or it is not there, or no samples as the real ones.
        """
        if self.external is None:
            problem = "there is none, and the policy takes samples from outside"
            remedy = (
                "name a folder, an archive or an array, e.g. Images; or let the policy take none"
            )
            raise Refused("external", problem, remedy)
        if self._external is None:
            real = self.real(seed)
            with at("external"):
                self._external = read_external(
                    self.external, self.cache, real.spec, real.class_names
                )
        return self._external

    def feed(
        self,
        mix: Mix,
        seed: int,
        shards: Mapping[str, Shard] = {},
        exact: bool = False,
        weighs: bool = False,
    ) -> GenerationDataModule:
        """Another data module that trains on a mix; this one stays as it is.

        Args:
            mix: The samples that a policy prescribes.
            seed: The lineage's seed.
            shards: Shards by name.
            exact: Whether an epoch is one exact pass (families with a closed form).
            weighs: Whether the family weighs samples itself; else one of twice the weight is met
                twice as often.

        Raises:
            OSError: If a shard is too small for the mix, or damaged.
            Refused: If weights are none, as a treatment may have written them.
        """
        parts = tuple(self._part(part, mix.generation, seed, shards) for part in mix.parts)
        fed = copy(self)
        address, weights = (seed, mix.generation, "order"), _weights(mix.parts, parts)
        fed._fed = _TrainingSet(parts, address, exact, weights, weighs and exact)
        return fed

    def _part(self, part: Part, t: int, seed: int, shards: Mapping[str, Shard]) -> Samples:
        n = part.stop - part.start
        if part.shard is None:
            samples = self.real(seed).read(part.start, n)
        elif part.shard == EXTERNAL:
            samples = shards[part.shard].samples
            samples = Parts([samples], _places_outside(samples, seed)[part.start : part.stop])
        else:
            samples = shards[part.shard].samples
            if part.start or n < len(samples):  # there may be hundreds, most of them whole
                samples = samples[part.start : part.stop]
        if len(samples) != n:
            raise OSError(f"{part} holds only {len(samples)} samples")
        if part.among is None:
            return samples
        chosen = _choice(part, t, seed)
        return Parts([samples], chosen) if samples.weights is None else samples[chosen]

    def _pool(self, exact: bool) -> _TrainingSet:
        """What it trains on by itself."""
        real = self.real()
        n = self.n_reference if real.size is None else real.size
        return _TrainingSet((real.read(0, n),), (0, 1, "order"), exact)

    def training_set(self) -> Samples:
        """All samples that it trains on, in the order of the mix; they stay where they are."""
        return self.loader().samples

    def labels(self, mix: Mix, seed: int, shards: Mapping[str, Shard] = {}) -> Tensor | None:
        """Classes (N,) of all samples of a mix; None where some have none. Reads no values."""

        def of(part: Part) -> Tensor | None:
            if part.shard is None:
                labels = self.real(seed).labels(part.start, part.stop - part.start)
            else:
                samples = shards[part.shard].samples
                places: slice | Tensor = slice(part.start, part.stop)
                if part.shard == EXTERNAL:
                    places = _places_outside(samples, seed)[places]
                labels = None if samples.labels is None else samples.labels[places]
            if labels is None or part.among is None:
                return labels
            return labels[_choice(part, mix.generation, seed)]

        labels = list(map(of, mix.parts))
        known = [some for some in labels if some is not None]
        return torch.cat(known) if len(known) == len(labels) else None

    def weights(self, mix: Mix, seed: int, shards: Mapping[str, Shard] = {}) -> Tensor | None:
        """Weights (N,), float64, of all samples of a mix; None if they are all alike."""
        is_plain = len({part.weight for part in mix.parts}) < 2
        if is_plain and all(shards[name].samples.weights is None for name in mix.shards):
            return None
        parts = [self._part(part, mix.generation, seed, shards) for part in mix.parts]
        return _weights(mix.parts, parts)

    def loader(
        self,
        rank: int = 0,
        world_size: int = 1,
        epoch: Callable[[], int] = lambda: 0,
        at_once: int = 1,
    ) -> MixLoader:
        """Batches of one process. By itself, one process makes exact passes."""
        fed = self._fed or self._pool(self.images_per_epoch is None and world_size == 1)
        return MixLoader(
            fed.parts,
            self.batch_size,
            self.images_per_epoch,
            fed.address,
            rank,
            world_size,
            epoch,
            fed.exact,
            at_once,
            fed.weights,
            fed.weighs,
        )

    def train_dataloader(self) -> MixLoader:
        """Batches of this process, from the Trainer's epoch on; without a Trainer, the first.

        As many at once as the generator asks for; one by one if the Trainer counts them.
        """
        trainer = self.trainer
        if trainer is None:
            return self.loader()
        limit = trainer.limit_train_batches
        is_counted = trainer.max_steps != -1 or isinstance(limit, int) or limit != 1.0
        at_once = 1 if is_counted else getattr(trainer.lightning_module, "batches_at_once", 1)
        loader = self.loader(
            trainer.global_rank, trainer.world_size, lambda: trainer.current_epoch, at_once
        )
        device = getattr(trainer.lightning_module, "device", torch.device("cpu"))
        loader.is_ahead = device.type not in ("cpu", "mps")
        return loader
