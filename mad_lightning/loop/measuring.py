"""Features, the floor, and the values of a generation.

One feature pass over a shard feeds every metric. The real side outlives all generations: its
features are kept in the cache, under a name that tells what they depend on. The *floor* is what
real samples score against other real samples; it is measured before anything is trained.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.data.real import RealData
from mad_lightning.data.shards import Shard
from mad_lightning.files import Damaged, read_json, sweep, with_nan, write_json
from mad_lightning.generators.base import Generator
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.lineage.settings import Labels
from mad_lightning.loop.blocks import Announce, Blocks
from mad_lightning.loop.store import Store
from mad_lightning.loop.trainers import Trainers
from mad_lightning.metrics.base import View
from mad_lightning.metrics.evaluator import Evaluator
from mad_lightning.policies import LoopPolicy, Mix
from mad_lightning.processes import barrier, from_first, is_first
from mad_lightning.refusal import Refused, at
from mad_lightning.samples import SampleBlock, Samples

__all__ = ["Measuring"]


class Measuring:
    """Measures the shards of one lineage.

    Args:
        evaluator: The extractor, and the metrics.
        policy: Tells what generation 1 trains on, which the floor may depend on.
        data: The real data.
        seed: The lineage's seed.
        store: Its shards.
        trainers: Make what computes features.
        block_size: Samples in a block of features.
        labels: Shares that classes are drawn in.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        policy: LoopPolicy,
        data: GenerationDataModule,
        seed: int,
        store: Store,
        trainers: Trainers,
        block_size: int,
        labels: Labels = "mix",
    ) -> None:
        self.evaluator, self.policy, self.data, self.seed = evaluator, policy, data, seed
        self.store, self.lineage = store, store.lineage
        self.trainers, self.block_size, self.labels = trainers, block_size, labels

    @property
    def real(self) -> RealData:
        """Pool and reference."""
        return self.data.real(self.seed)

    def n_drawn(self, t: int) -> int:
        """Samples that generation ``t`` draws, for those after it and to be measured."""
        n = self.evaluator.n_measured(self.data.n_reference)
        return max(self.policy.n_draw(t), n)

    @property
    def protocol(self) -> dict[str, Any]:
        """What the values depend on, as JSON has it."""
        protocol = self.evaluator.protocol(self.evaluator.n_measured(self.data.n_reference))
        if self.evaluator.is_full:
            protocol |= {"reference": "all training data", "n_reference": len(self.real.whole)}
            if self.real.spec.classes is not None:
                protocol |= {"labels": self.labels}
            return json.loads(json.dumps(protocol))
        if self.real.spec.classes is not None:
            protocol |= {"labels": self.labels, "split": "by class"}
        if self.data.split_seed is None:
            protocol["split_seed"] = "own"
        if self.real.n_copies:
            protocol["copies_in_pool"] = self.real.n_copies
        return json.loads(json.dumps(protocol))

    def prepare(self) -> None:
        """Finds or makes the extractor's weights.

        Raises:
            Refused: If they cannot be had, or the extractor cannot look at such samples.
        """
        real = self.real
        with at("evaluator.extractor"):
            self.evaluator.extractor.prepare(real.lessons, real.spec, real.digest, self.data.cache)

    def check_protocol(self, begun: LineageDirectory | None = None) -> None:
        """Refuses to go on with values that would not be those of the first generations.

        Known only when the extractor has its weights.

        Args:
            begun: The lineage whose generations they are; None for its own.
        """
        begun = begun or self.lineage
        for record in begun.records()[:1]:
            told, now = record.protocol, self.protocol
            untold = {"labels": "equal", "split": "blind"}  # until ledgers told
            told = {name: value for name, value in untold.items() if name in now} | told
            if "copies_in_pool" in now:  # which ledgers did not always tell
                told = {"copies_in_pool": now["copies_in_pool"], **told}
            if told != now:
                changes = ", ".join(
                    f"{name} {told.get(name)}, now {now.get(name)}"
                    for name in sorted({*told, *now})
                    if told.get(name) != now.get(name)
                )
                with at("lineage"):
                    raise Refused(
                        "",
                        f"generation 1 of {begun} was measured otherwise: {changes}",
                        "undo the change (what is damaged in the cache is made anew when it is "
                        "taken away), or give the new lineage a `name` of its own",
                    )

    @cached_property
    def real_features(self) -> dict[str, Tensor]:
        """Of the reference and of the floor, on the first process; all must ask at one place."""
        facts = [self.real.digest, self.evaluator.extractor.protocol(), self.block_size]
        key = sha256(repr(facts).encode()).hexdigest()[:12]
        sides = {"reference": self.real.reference, "floor": self.real.floor}
        if self.evaluator.is_full:
            sides = {"whole": self.real.whole}
        place = self.data.cache / f"features-{key}"
        for side in sides:  # other lineages may be writing here, too
            sweep(place / side, r"\d+\.safetensors")
        with _watched() as announce:
            return self.features(sides, place, announce)

    @property
    def floor(self) -> dict[str, float]:
        """What real samples score against other real samples, at the same n.

        The first record's if there is one. Every process must ask, and at the same place.
        """
        return self._floor[0]

    @property
    def floor_errors(self) -> dict[str, float]:
        """How far one reading of the floor may lie from it, by name."""
        return self._floor[1]

    @cached_property
    def _floor(self) -> tuple[dict[str, float], dict[str, float]]:
        """Values and errors."""
        _ = self.real_features
        if (stands := from_first(self._told_floor)) is not None:
            return stands
        training = self.training(self.policy.mix(1))  # all of it is real
        if (stands := from_first(partial(self._kept_floor, training))) is not None:
            return stands
        with _watched() as announce:
            eaten = self.features(training, self.lineage.unfinished(1, "features"), announce)

        def measured() -> tuple[dict[str, float], dict[str, float]]:
            told: tuple[dict[str, float], dict[str, float]] = ({}, {})
            if not self.evaluator.is_full:  # which leaves no other real samples
                floor = View(self.real_features["floor"], labels=self.real.floor.labels)
                with at("evaluator"):
                    told = self.evaluator.floor(self.reference(eaten), floor)
            self._keep_floor(training, *told)
            return told

        return from_first(measured)

    def _told_floor(self) -> tuple[dict[str, float], dict[str, float]] | None:
        """The floor that the first record tells, where it was kept, too."""
        records = self.lineage.records()
        if records and self._kept():
            return records[0].floor, records[0].floor_errors
        return None

    def _kept_floor(
        self, training: Mapping[str, Samples]
    ) -> tuple[dict[str, float], dict[str, float]] | None:
        """The floor of a start that was killed before there was a record, or of a lost file."""
        if records := self.lineage.records():
            told = records[0].floor, records[0].floor_errors
            self._keep_floor(training, *told)
            return told
        kept = self._kept()
        if kept and kept.get("key") == self._floor_key(training) and "errors" in kept:
            return with_nan(kept["values"]), with_nan(kept["errors"])
        return None

    def _kept(self) -> dict[str, Any]:
        try:
            return read_json(self.lineage.floor_file)
        except Damaged:
            return {}

    def _floor_key(self, training: Mapping[str, Samples]) -> str:
        """Digest of what a floor depends on."""
        facts = [self.real.digest, self.protocol, {k: v.digest() for k, v in training.items()}]
        return sha256(repr(facts).encode()).hexdigest()

    def _keep_floor(
        self,
        training: Mapping[str, Samples],
        values: Mapping[str, float],
        errors: Mapping[str, float],
    ) -> None:
        kept = {"key": self._floor_key(training), "values": values, "errors": errors}
        kept |= {"protocol": self.protocol, "data": self.real.digest}
        write_json(self.lineage.floor_file, kept)

    def measure(
        self,
        t: int,
        generator: Generator,
        mix: Mix,
        drawn: Shard,
        progress: Announce,
    ) -> None:
        """Measures what a generator drew against the reference; keeps values, floor and protocol.

        Args:
            t: Generation.
            generator: Its generator, which may know its law.
            mix: What it was trained on.
            drawn: Its shard, which has at least as many samples as the reference.
            progress: Called with (blocks done, all blocks).
        """
        n = self.evaluator.n_measured(self.data.n_reference)
        if len(drawn.samples) < n:
            with at("evaluator"):
                problem = f"{n:,} samples, generation {t} drew {len(drawn.samples):,}"
                raise Refused("n_drawn", problem, f"take at most {len(drawn.samples)}")
        samples = drawn.samples[:n]
        sides = {"synthetic": samples} | self.training(mix)
        place = self.lineage.unfinished(t, "features") / drawn.manifest.sha256[:12]
        features = self.features(sides, place, progress, passing=True)
        floor = self._floor
        if is_first():
            reference = self.reference(features)
            shard = View(features["synthetic"], law=generator.law(), labels=samples.labels)
            with at("evaluator"):
                values = self.evaluator.compare(reference, shard)
                if self.real.size is None:  # it gives each class by chance
                    reference = replace(reference, labels=None)
                errors = {} if self.evaluator.is_full else self.evaluator.errors(reference, shard)
            told = {"values": values, "errors": errors, "floor": floor[0], "floor_errors": floor[1]}
            told |= {"protocol": self.protocol, "shard": drawn.manifest.sha256}
            self.lineage.keep_measured(t, told)
        barrier()

    def is_measured(self, t: int, drawn: Shard) -> bool:
        """Whether what was measured of a generation is of this shard, by this protocol."""
        kept = self.lineage.measured(t)
        if not {"values", "floor", "protocol"} <= kept.keys():
            return False
        told = kept.get("shard", drawn.manifest.sha256)  # it did not always stand there
        return (told, kept["protocol"]) == (drawn.manifest.sha256, self.protocol)

    def training(self, mix: Mix) -> dict[str, Samples]:
        """What a mix holds, under the name ``training``; nothing unless a metric asks for it."""
        if not self.evaluator.needs_training:
            return {}
        return {"training": self.data.feed(mix, self.seed, self.store).training_set()}

    def reference(self, features: Mapping[str, Tensor]) -> View:
        """The real side, with the features of what the generator was trained on, if they are."""
        if self.evaluator.is_full:
            return View(self.real_features["whole"], labels=self.real.whole.labels)
        return View(
            self.real_features["reference"],
            law=self.real.law,
            labels=self.real.reference.labels,
            training=features.get("training"),
        )

    def features(
        self,
        sides: Mapping[str, Samples],
        directory: Path,
        announce: Announce,
        passing: bool = False,
    ) -> dict[str, Tensor]:
        """Features of sample sets by name, on the first process; kept in ``directory``.

        Those of ``training``, which may be many, are mapped to memory.
        """
        if not sides:
            return {}

        def batches(samples: Samples) -> Callable[[int, slice], SampleBlock]:
            return lambda job, rows: SampleBlock(job, samples[rows])

        blocks = {
            name: Blocks(directory / name, len(samples), self.block_size, passing)
            for name, samples in sides.items()
        }
        work = {blocks[name]: batches(samples) for name, samples in sides.items()}
        self.trainers.compute(self.evaluator.extractor, work, announce)
        return {
            name: parts.mapped("features") if name == "training" else parts.join()["features"]
            for name, parts in (blocks if is_first() else {}).items()
        }


@contextmanager
def _watched() -> Iterator[Announce]:
    """A progress bar, where somebody watches: nobody observes the lineage yet.

    Yields:
        To be called with (blocks done, all blocks).
    """
    with tqdm(desc="features", unit="block", disable=not sys.stdout.isatty(), leave=False) as bar:

        def announce(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield announce
