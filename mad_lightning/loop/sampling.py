"""Drawing the shard of a generation, and its picture, block by block on all processes.

A shard is a function of its generator's weights, of λ and of its address, and its manifest tells
them all: one that stands as it should is not drawn again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from mad_lightning.callbacks.base import Observers
from mad_lightning.callbacks.grids import n_shown
from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.data.real import RealData
from mad_lightning.data.shards import Shard, ShardManifest
from mad_lightning.files import Damaged
from mad_lightning.generators.base import Generator
from mad_lightning.lineage.settings import LineageSettings
from mad_lightning.loop.blocks import Blocks
from mad_lightning.loop.classes import counted, one_round, seed_block
from mad_lightning.loop.inside import telling_divergence
from mad_lightning.loop.store import Store
from mad_lightning.loop.trainers import Trainers
from mad_lightning.policies import Mix, shard_name
from mad_lightning.processes import from_first, is_first, on_first
from mad_lightning.refusal import at
from mad_lightning.samples import Samples, SeedBlock

__all__ = ["Sampling"]

N_TRIAL = 8
"""Samples that a trained generator must be able to draw before its weights are kept."""


class Sampling:
    """Draws the shards of one lineage.

    Args:
        settings: Size of a block, shares of classes, size of the picture.
        data: The real data.
        seed: The lineage's seed.
        bias: λ in (0, 1] of the shard of each generation.
        store: The lineage's shards.
        trainers: Make what draws.
        observers: Look at the picture.
        mix: What a generation trains on, as it was published.
        n_drawn: How many samples a generation draws.
        mend: Sees to it that an earlier shard is there.
    """

    def __init__(
        self,
        settings: LineageSettings,
        data: GenerationDataModule,
        seed: int,
        bias: Callable[[int], float],
        store: Store,
        trainers: Trainers,
        observers: Observers,
        mix: Callable[[int], Mix],
        n_drawn: Callable[[int], int],
        mend: Callable[[str], None],
    ) -> None:
        self.settings, self.data, self.seed, self.bias = settings, data, seed, bias
        self.store, self.lineage = store, store.lineage
        self.trainers, self.observers = trainers, observers
        self.mix, self.n_drawn, self.mend = mix, n_drawn, mend

    @property
    def real(self) -> RealData:
        """Pool and reference."""
        return self.data.real(self.seed)

    def draw(self, t: int, generator: Generator) -> Shard:
        """Draws the shard of a generation, unless it stands -> the shard."""
        shard, manifest = self.store[shard_name(t)], self.manifest(t, generator)
        with at("lineage"):
            if from_first(lambda: shard.holds(manifest) and self.is_shown(t)):
                return self.store.seen_by_all(shard_name(t))
        learned, (asked, equal) = self.class_counts(t), self.classes(t)
        if learned is not None:
            manifest = replace(manifest, learned=tuple(learned.tolist()))
        with on_first(self.lineage.timed(t, "sample")) as tick:
            n_grid = n_shown(self.settings.n_grid, generator.spec)
            # Blocks of other weights or classes would be others.
            of = manifest.generator[:12] + ("-mix" if manifest.labels == "mix" else "")
            unfinished = self.lineage.unfinished
            size = self.settings.block_size
            blocks = Blocks(unfinished(t, "blocks") / of, manifest.count, size, passing=True)
            grid = Blocks(unfinished(t, "grid") / of, n_grid, n_grid, passing=True)
            block_of = partial(seed_block, sampling_bias=self.bias(t))
            work = {blocks: partial(block_of, manifest.seeds, asked)}
            if shown := self.observers.wants_samples(t):
                work[grid] = partial(block_of, (self.seed, "grid"), equal)
            with telling_divergence(self.lineage, t, generator):
                progress = self.observers.progress(t, "sample", tick)
                self.trainers.compute(generator, work, progress)
            if is_first():
                if shown:
                    picture = Samples(**grid.join())
                    self.observers.on_samples_ready(t, self.lineage.generation(t), picture)
                shard.write(blocks.samples(), manifest, lasting=False)
        return self.store.seen_by_all(shard_name(t))

    def manifest(self, t: int, generator: Generator) -> ShardManifest:
        """What decides the shard of a generation."""
        return ShardManifest(
            name=shard_name(t),
            origin="synthetic",
            generation=t,
            sampling_bias=self.bias(t),
            seeds=(self.seed, t, "sample"),
            sampler={**generator.sampler(), **generator.improvement},
            generator=from_first(generator.digest),
            count=self.n_drawn(t),
            spec=generator.spec.to_dict(),
            labels="" if generator.spec.classes is None else self.settings.labels,
            classes=self.real.class_names,
            environment=self.trainers.environment,
        )

    def trial(self, t: int) -> SeedBlock:
        """The first samples of the shard of a generation."""
        asked, _ = self.classes(t)
        address = (self.seed, t, "sample")
        return seed_block(address, asked, 0, slice(0, N_TRIAL), self.bias(t))

    def is_shown(self, t: int) -> bool:
        """Whether the picture of a generation is what was written, if there is one."""
        try:
            _ = self.lineage.sound_picture(t)
        except Damaged:
            return False
        return True

    def class_counts(self, t: int) -> Tensor | None:
        """How often generation ``t`` meets each class (K,); None if samples have none."""
        if (k := self.real.spec.classes) is None:
            return None
        if learned := from_first(partial(self.store.learned, shard_name(t))):
            return torch.tensor(learned)
        mix = self.mix(t)
        for name in mix.shards:
            self.mend(name)
        labels = self.data.labels(mix, self.seed, self.store)
        if labels is None:
            return torch.ones(k).long()
        return counted(labels, self.data.weights(mix, self.seed, self.store), k)

    def classes(self, t: int) -> tuple[Tensor | None, Tensor | None]:
        """Classes in turn, of the shard of generation ``t`` and of its picture; None without any.

        None that its mix lacks; in the shares of the mix, or equal ones.
        """
        if (learned := self.class_counts(t)) is None:
            return None, None
        equal = one_round(learned.clamp(max=1))
        return (equal if self.settings.labels == "equal" else one_round(learned)), equal
