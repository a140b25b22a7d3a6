"""A generation's second phase: an auxiliary is trained, a weight is found, both are drawn by.

What the phase leaves is the auxiliary's weights and a note of the weight; all else follows from
them. Its samples are drawn block by block, its training goes on from checkpoints, and like every
phase it is skipped where its artefacts stand (:mod:`mad_lightning.generators.guidance` has the
methods and their equations).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from types import SimpleNamespace
from typing import Any, cast

from torch import Tensor

from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.data.shards import Shard
from mad_lightning.files import Damaged, awaited, read_json, write_json
from mad_lightning.generators.base import Generator
from mad_lightning.generators.guidance import Improvement
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.loop.blocks import Announce, Blocks
from mad_lightning.loop.checkpoints import load_told, load_weights, stands
from mad_lightning.loop.classes import seed_block
from mad_lightning.loop.inside import (
    AddressedRandomness,
    CrashOnly,
    Divergence,
    FromScratch,
    Progress,
)
from mad_lightning.loop.measuring import Measuring
from mad_lightning.loop.sampling import N_TRIAL, Sampling
from mad_lightning.metrics.functional import frechet_distance
from mad_lightning.policies import Mix, Part, shard_name
from mad_lightning.precision import keeping_kinds
from mad_lightning.processes import barrier, from_first, is_first, on_first
from mad_lightning.refusal import Diverged, Refused, at
from mad_lightning.samples import Samples

__all__ = ["Improving", "load_improved"]

_OWN, _TRIED = "own", "tried"
"""What samples of the phase are called, among blocks, in addresses and in mixes."""


class Improving:
    """The second phase of one lineage.

    Args:
        improvement: What is done, or None.
        measuring: Knows policy, data and seed, and finds features.
        sampling: Knows λ, and which classes are asked for.
        fresh: Makes the generator of a generation, untrained.
        n_apart: Real samples at the end of the pool that a treatment has for itself.
    """

    def __init__(
        self,
        improvement: Improvement | None,
        measuring: Measuring,
        sampling: Sampling,
        fresh: Callable[[int], Generator],
        n_apart: int = 0,
    ) -> None:
        self.improvement, self.fresh, self.n_apart = improvement, fresh, n_apart
        self.measuring, self.sampling = measuring, sampling
        self.bias, self.lineage = sampling.bias, measuring.lineage
        self.data, self.seed, self.trainers = measuring.data, measuring.seed, measuring.trainers

    def __bool__(self) -> bool:
        return self.improvement is not None

    # before anything is trained

    def check(self, generator: Generator, generations: int) -> None:
        """Refuses a family, or a pool, that it cannot be done with; makes nothing.

        Raises:
            Refused: With the field of the improvement.
        """
        if self.improvement is None:
            return
        self.improvement.check(generator)
        size, n = self.measuring.real.size, self.improvement.validation
        if len(self.improvement.weights) < 2 or size is None:
            return
        taken = self.measuring.policy.n_pool(generations)
        if taken + self.n_apart + n > size:
            raise Refused(
                "validation",
                f"a weight is to be chosen by {n} real samples that nobody else sees, "
                f"{generations} generations take {taken} of the {size} in the pool"
                + (f", and the treatment {self.n_apart}" if self.n_apart else ""),
                "take fewer, train on fewer real samples, or give one `weight`",
            )

    def images(self, n: int) -> int:
        """What the auxiliary of a generator of n samples sees, in whole batches; 0 without one."""
        if self.improvement is None:
            return 0
        epochs, images = self._budget(self.improvement, n)
        return epochs * images

    # the phase

    def improve(self, t: int, mix: Mix, generator: Generator, made_of: str) -> None:
        """Trains the auxiliary, finds the weight, and lets the generator draw by both.

        Args:
            t: Generation.
            mix: What the generator was trained on.
            generator: As it was trained; it becomes what is drawn from.
            made_of: Digest of what its training was made of.

        Raises:
            Refused: If what stands was made of something else.
            Diverged: If the auxiliary cannot be trained.
        """
        assert self.improvement is not None
        with on_first(self.lineage.timed(t, "improve")) as tick:
            announce = self.sampling.observers.progress(t, "improve", tick)
            own = from_first(generator.digest)
            of_both = sha256(f"{made_of} {own}".encode()).hexdigest()
            phase = _Phase(self, self.improvement, t, mix, generator, own, of_both, announce)
            auxiliary = phase.auxiliary()
            weight = phase.weight(auxiliary)
            _apply(self.improvement, generator, auxiliary, weight, self.bias(t))

    def load(self, t: int, generator: Generator, told: Mapping[str, str]) -> None:
        """Lets the generator of a finished generation draw as the ledger tells.

        Raises:
            OSError: See :func:`load_improved`.
        """
        if "auxiliary" in told:
            fresh, bias = partial(self.fresh, t), self.bias(t)
            load_improved(generator, fresh, self.improvement, self.lineage, t, told, bias)

    def digests(self, drawn: Shard) -> dict[str, str]:
        """What the ledger tells: generator and auxiliary as trained, and what was drawn by."""
        if self.improvement is None:
            return {}
        told = read_json(self.lineage.improvement(drawn.manifest.generation))
        both = {name: told[name] for name in ("generator", "auxiliary")}
        return both | {"improved": drawn.manifest.generator}

    def _budget(self, improvement: Improvement, n: int) -> tuple[int, int]:
        """Epochs, and images of each in whole batches: as long as the generator's, if it can be."""
        batch = self.data.batch_size
        steps = math.ceil(improvement.images / batch)
        tick = max(1, math.ceil((self.data.images_per_epoch or n) / batch))
        epochs = math.ceil(steps / tick)
        return epochs, math.ceil(steps / epochs) * batch


@dataclass
class _Phase:
    """The second phase of one generation.

    Attributes:
        of: The lineage's.
        improvement: What is done.
        t: Generation.
        mix: What the generator was trained on.
        generator: As it was trained.
        own: Digest of its weights.
        made_of: Digest of what decides the auxiliary's.
        announce: Called with (blocks or batches done, all of them).
    """

    of: Improving
    improvement: Improvement
    t: int
    mix: Mix
    generator: Generator
    own: str
    made_of: str
    announce: Announce

    @cached_property
    def classes(self) -> Tensor | None:
        """One round of the classes that are asked for; None without classes."""
        return self.of.sampling.classes(self.t)[0]

    def auxiliary(self) -> Generator:
        """The auxiliary, trained -> its weights."""
        lineage, improvement = self.of.lineage, self.improvement
        final, place = lineage.auxiliary(self.t), lineage.auxiliary_training(self.t)
        last = place / lineage.CHECKPOINT
        auxiliary = self.of.fresh(self.t)
        with at("lineage"):
            done = from_first(lambda: stands(final, self.made_of) is not None)
            resumes = not done and from_first(lambda: stands(last, self.made_of) is not None)
        if done:
            load_weights(auxiliary, awaited(final))
            return auxiliary
        data, epochs = self._lessons()
        if improvement.from_scratch:
            auxiliary.initialise(next(iter(data.loader())))
        else:
            auxiliary.load_state_dict(self.generator.state_dict())
        improvement.prepare(auxiliary)
        address = (self.of.seed, self.t, "improve")
        trial = seed_block(address, self.classes, 0, slice(0, N_TRIAL), 1.0)
        trainer = self.of.trainers.for_fit(
            place,
            self.made_of,
            first=[AddressedRandomness(*address), FromScratch(resumes), CrashOnly()],
            last=[Divergence(trial), Progress(self.announce)],
            budget={"max_epochs": epochs, "max_steps": -1, "callbacks": []},
        )
        path = str(awaited(last)) if resumes else None
        try:
            with keeping_kinds(auxiliary):
                trainer.fit(auxiliary, datamodule=data, ckpt_path=path)
        except Diverged as diverged:
            raise Diverged(
                "improve",
                f"generation {self.t} of {lineage}: its auxiliary has broken ({diverged.problem})",
                "a lower `improve.lr`, or fewer `improve.images`",
            ) from diverged
        trainer.save_checkpoint(final, weights_only=True)  # and a barrier
        return auxiliary

    def weight(self, auxiliary: Generator) -> float:
        """By which both are drawn by, given or chosen -> a note of it, and of both digests."""
        path = self.of.lineage.improvement(self.t)
        digests = {"generator": self.own, "auxiliary": from_first(auxiliary.digest)}

        def kept() -> dict[str, Any]:
            try:
                told = read_json(path)
            except Damaged:
                return {}
            return told if {name: told.get(name) for name in digests} == digests else {}

        told = from_first(kept)
        if "weight" not in told:
            weights, distances = self.improvement.weights, dict[str, float]()
            weight = weights[0]
            if len(weights) > 1:
                distances = self._distances(auxiliary)
                weight = min(weights, key=lambda w: distances[f"{w:g}"])
            told = {**digests, "weight": weight, "distances": distances}
            if is_first():
                write_json(path, told)
            barrier()
        return float(told["weight"])

    def _lessons(self) -> tuple[GenerationDataModule, int]:
        """What the auxiliary learns from, and for how many epochs."""
        mix, shards = self.mix, cast(dict[str, Any], self.of.measuring.store)
        if self.improvement.on_own_samples:
            n, name = self.improvement.samples or len(mix), shard_name(self.t, _OWN)
            drawn = self._drawn(self.generator, (_OWN, self.own[:12]), n, 1.0)
            mix = Mix(self.t, (Part("synthetic", name, 0, n),))
            shards = {name: SimpleNamespace(samples=drawn)}
        data = copy(self.of.data.feed(mix, self.of.seed, shards, weighs=self.generator.weighs))
        epochs, data.images_per_epoch = self.of._budget(self.improvement, len(self.mix))
        return data, epochs

    def _drawn(
        self, generator: Generator, place: tuple[str, ...], n: int, sampling_bias: float
    ) -> Samples:
        """Samples of a generator, drawn block by block on all processes."""
        directory = self.of.lineage.unfinished(self.t, place[0]).joinpath(*place[1:])
        blocks = Blocks(directory, n, self.of.measuring.block_size, passing=True)
        address = (self.of.seed, self.t, place[0])
        make = partial(seed_block, address, self.classes, sampling_bias=sampling_bias)
        self.of.trainers.compute(generator, {blocks: make}, self.announce)
        return blocks.samples()

    def _distances(self, auxiliary: Generator) -> dict[str, float]:
        """Of samples drawn by each weight to real ones that nobody else sees, by weight."""
        measuring, n = self.of.measuring, self.improvement.validation
        kept_back = measuring.real.kept_back(n, self.of.n_apart)
        assert kept_back is not None  # of 2 or more
        sides: dict[str, Samples] = {"validation": kept_back}
        for weight in self.improvement.weights:
            tried = self.of.fresh(self.t)
            tried.load_state_dict(self.generator.state_dict())
            self.improvement.apply(tried, auxiliary, weight)
            place = (_TRIED, self.own[:12], f"{weight:g}")
            sides[place[-1]] = self._drawn(tried, place, n, self.of.bias(self.t))
        directory = self.of.lineage.unfinished(self.t, "features") / f"{_TRIED}-{self.own[:12]}"
        features = measuring.features(sides, directory, self.announce, passing=True)

        def distances() -> dict[str, float]:
            real = features.pop("validation")
            return {name: float(frechet_distance(real, drawn)) for name, drawn in features.items()}

        return from_first(distances)


def _apply(
    improvement: Improvement,
    generator: Generator,
    auxiliary: Generator,
    weight: float,
    sampling_bias: float,
) -> None:
    """Lets a generator draw by both, and know it."""
    improvement.apply(generator, auxiliary, weight)
    calls = {"network_calls": generator.network_calls(sampling_bias)}
    generator.improvement = improvement.facts(weight) | calls


def load_improved(
    generator: Generator,
    fresh: Callable[[], Generator],
    improvement: Improvement | None,
    lineage: LineageDirectory,
    t: int,
    told: Mapping[str, str],
    sampling_bias: float,
) -> None:
    """Lets a generator, loaded as it was trained, draw as it did after its second phase.

    Args:
        generator: As it was trained.
        fresh: Makes another one, untrained.
        improvement: What was done; None if the configuration does not tell.
        lineage: Has its artefacts.
        t: Generation.
        told: Digests, as the ledger has them.
        sampling_bias: λ that it is to draw with.

    Raises:
        OSError: If an artefact is missing, damaged, or not the one that the ledger tells of.
    """
    path = lineage.improvement(t)
    weight = read_json(path).get("weight")
    if improvement is None or weight is None:
        missing = "weight" if weight is None else "method, and nor does the configuration"
        raise Damaged(path, f"it does not tell the {missing}")
    load_told(auxiliary := fresh(), lineage.auxiliary(t), told.get("auxiliary"))
    _apply(improvement, generator, auxiliary, weight, sampling_bias)
    if told.get("improved") not in (None, generator.digest()):
        raise Damaged(path, "the ledger tells of another weight")
