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
from typing import Any, TypeVar

from torch import Tensor
from tqdm import tqdm

from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.data.real import RealData
from mad_lightning.data.shards import Shard
from mad_lightning.files import Damaged, read_json, sweep, with_nan, write_json
from mad_lightning.generators.base import Generator
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.lineage.ledger import GenerationRecord
from mad_lightning.lineage.quantities import MeasurementError, Quantity, of_kept
from mad_lightning.lineage.settings import Labels
from mad_lightning.loop.blocks import Announce, Blocks
from mad_lightning.loop.store import Store
from mad_lightning.loop.trainers import Trainers
from mad_lightning.metrics.base import View
from mad_lightning.metrics.evaluator import Evaluator
from mad_lightning.metrics.features.base import FeatureExtractor
from mad_lightning.policies import LoopPolicy, Mix
from mad_lightning.processes import barrier, from_first, is_first
from mad_lightning.refusal import Refused, at
from mad_lightning.samples import Law, SampleBlock, Samples

__all__ = ["Measuring"]

T = TypeVar("T")


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
        is_treated: Whether what is published is another shard than what was drawn.
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
        is_treated: bool = False,
    ) -> None:
        self.evaluator, self.policy, self.data, self.seed = evaluator, policy, data, seed
        self.store, self.lineage = store, store.lineage
        self.trainers, self.block_size, self.labels = trainers, block_size, labels
        self.is_treated = is_treated

    @property
    def real(self) -> RealData:
        """Pool and reference."""
        return self.data.real(self.seed)

    def n_needed(self, t: int) -> int:
        """Samples of generation ``t`` that are needed, for those after it and to be measured."""
        n = self.evaluator.n_measured(self.data.n_reference)
        return max(self.policy.n_draw(t), n)

    @cached_property
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
                floor = self.view(self.real_features, "floor", self.real.floor)
                with at("evaluator"):
                    told = self.evaluator.floor(self.reference(eaten), floor)
            self._keep_floor(training, *told)
            return told

        return from_first(measured)

    def _told_floor(self) -> tuple[dict[str, float], dict[str, float]] | None:
        """The floor that the first record tells, where it was kept, too."""
        records = self.lineage.records()
        return _own_floor(records[0]) if records and self._kept() else None

    def _kept_floor(
        self, training: Mapping[str, Samples]
    ) -> tuple[dict[str, float], dict[str, float]] | None:
        """The floor of a start that was killed before there was a record, or of a lost file."""
        if records := self.lineage.records():
            told = _own_floor(records[0])
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
        published: Shard,
        progress: Announce,
    ) -> None:
        """Measures what a generator drew against the reference; keeps values, floor and protocol.

        What a treatment left of it is measured beside it, as many samples, under names of its own.

        Args:
            t: Generation.
            generator: Its generator, which may know its law.
            mix: What it was trained on.
            drawn: Its shard, which has at least as many samples as the reference.
            published: What later generations eat, which may be the same.
            progress: Called with (blocks done, all blocks).
        """
        n = self.evaluator.n_measured(self.data.n_reference)
        if len(drawn.samples) < n:
            with at("evaluator"):
                problem = f"{n:,} samples, generation {t} drew {len(drawn.samples):,}"
                raise Refused("n_drawn", problem, f"take at most {len(drawn.samples)}")
        samples = drawn.samples[:n]
        sides = {"synthetic": samples} | self.training(mix)
        if published is not drawn:
            sides["kept"] = published.samples[:n]
        of = drawn.manifest.sha256[:12]
        of += f"-{published.manifest.sha256[:12]}" if "kept" in sides else ""
        place = self.lineage.unfinished(t, "features") / of
        features = self.features(sides, place, progress, passing=True)
        floor = self._floor
        if is_first():
            reference = self.reference(features)
            told: dict[str, Any] = {"values": {}, "errors": {}}
            views = {"synthetic": self.view(features, "synthetic", samples, generator.law())}
            if "kept" in sides:  # nobody knows the law of what is left
                views["kept"] = self.view(features, "kept", sides["kept"])
            for side, view in views.items():
                name = of_kept if side == "kept" else str
                values, errors = self.compared(reference, view)
                told["values"] |= {name(k): value for k, value in values.items()}
                told["errors"] |= {name(k): error for k, error in errors.items()}
            told |= {"floor": floor[0], "floor_errors": floor[1], "protocol": self.protocol}
            told["shard"] = drawn.manifest.sha256
            if "kept" in sides:
                told["published"] = published.manifest.sha256
                told |= {name: self.doubled(told[name]) for name in ("floor", "floor_errors")}
            self.lineage.keep_measured(t, told)
        barrier()

    def view(
        self, features: Mapping[str, Tensor], side: str, samples: Samples, law: Law | None = None
    ) -> View:
        """A set of samples, as metrics see it."""
        stored = samples if self.evaluator.needs_stored else None
        return View(features[side], law=law, labels=samples.labels, stored=stored)

    def compared(
        self, reference: View, view: View
    ) -> tuple[dict[str, float], dict[str, MeasurementError]]:
        """Values and their errors."""
        with at("evaluator"):
            values = self.evaluator.compare(reference, view)
            if self.real.size is None:  # it gives each class by chance
                reference = replace(reference, labels=None)
            errors = {} if self.evaluator.is_full else self.evaluator.errors(reference, view)
        return values, errors

    def quantities(self) -> dict[str, Quantity]:
        """What the values mean, those of what a treatment left with them."""
        stated = self.evaluator.quantities()
        doubled = self.doubled(stated)
        return {k: q if k in stated else replace(q, section="kept") for k, q in doubled.items()}

    def doubled(self, told: Mapping[str, T]) -> dict[str, T]:
        """What is told of values, where there is a treatment also of those of what it left."""
        kept = {of_kept(name): what for name, what in told.items()} if self.is_treated else {}
        return {**told, **kept}

    def is_measured(self, t: int, drawn: Shard, published: Shard) -> bool:
        """Whether what was measured of a generation is of these shards, by this protocol."""
        kept = self.lineage.measured(t)
        if not {"values", "floor", "protocol"} <= kept.keys():
            return False
        told = kept.get("shard", drawn.manifest.sha256)  # it did not always stand there
        left = None if published is drawn else published.manifest.sha256
        measured = (told, kept.get("published"), kept["protocol"])
        return measured == (drawn.manifest.sha256, left, self.protocol)

    def training(self, mix: Mix) -> dict[str, Samples]:
        """What a mix holds, under the name ``training``; nothing unless a metric asks for it."""
        if not self.evaluator.needs_training:
            return {}
        return {"training": self.data.feed(mix, self.seed, self.store).training_set()}

    def reference(self, features: Mapping[str, Tensor]) -> View:
        """The real side, with the features of what the generator was trained on, if they are."""
        if self.evaluator.is_full:
            return self.view(self.real_features, "whole", self.real.whole)
        view = self.view(self.real_features, "reference", self.real.reference, self.real.law)
        return replace(view, training=features.get("training"))

    def features(
        self,
        sides: Mapping[str, Samples],
        directory: Path,
        announce: Announce,
        passing: bool = False,
        extractor: FeatureExtractor | None = None,
    ) -> dict[str, Tensor]:
        """Features of sample sets by name, on the first process; kept in ``directory``.

        Those of ``training``, which may be many, are mapped to memory. Features are those of the
        evaluator's extractor, if no other is given.
        """
        extractor = extractor or self.evaluator.extractor
        if not sides:
            return {}
        if extractor.is_copy and all(len(side) <= self.block_size for side in sides.values()):
            announce(len(sides), len(sides))
            return {name: extractor(side) for name, side in sides.items()} if is_first() else {}

        def batches(samples: Samples) -> Callable[[int, slice], SampleBlock]:
            return lambda job, rows: SampleBlock(job, samples[rows])

        blocks = {
            name: Blocks(directory / name, len(samples), self.block_size, passing)
            for name, samples in sides.items()
        }
        work = {blocks[name]: batches(samples) for name, samples in sides.items()}
        self.trainers.compute(extractor, work, announce)
        return {
            name: parts.mapped("features") if name == "training" else parts.join()["features"]
            for name, parts in (blocks if is_first() else {}).items()
        }


def _own_floor(record: GenerationRecord) -> tuple[dict[str, float], dict[str, float]]:
    """The floor that a record tells, each value once: that of what a treatment left is the same."""
    own = {name for name, quantity in record.quantities.items() if quantity.section != "kept"}
    floor, errors = (
        {name: value for name, value in told.items() if name in own}
        for told in (record.floor, record.floor_errors)
    )
    return floor, errors


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
