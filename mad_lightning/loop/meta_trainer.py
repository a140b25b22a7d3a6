"""The loop of the paper: train, sample, measure, record, and again from scratch.

:meth:`MetaTrainer.fit` and :meth:`MetaTrainer.generation` are the whole of it. A generation is a
pure function of the configuration and of what is on disk: every phase leaves one artefact that
appears whole or not at all, and a phase whose artefact stands is not repeated. So resuming is
running the same command again, and a lineage that was killed anywhere ends with the same numbers
as one left alone.

Several processes (DDP) all walk this loop, from before anything is written. The first one alone
writes, announces, looks what stands on disk and measures; the others have it from there
(:func:`~mad_lightning.processes.from_first`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from mad_lightning.callbacks.base import LineageCallback, LineageInfo, Observers
from mad_lightning.callbacks.grids import n_shown
from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.data.real import RealData
from mad_lightning.data.shards import Shard, ShardManifest
from mad_lightning.files import Damaged, awaited, with_nan
from mad_lightning.generators.base import Generator
from mad_lightning.identity import class_path
from mad_lightning.lineage.configuration import circumstances, settings_digest
from mad_lightning.lineage.ledger import GenerationRecord, values_digest
from mad_lightning.lineage.quantities import MeasurementError
from mad_lightning.lineage.settings import LineageSettings
from mad_lightning.loop.admission import admit
from mad_lightning.loop.blocks import Announce, Blocks
from mad_lightning.loop.checkpoints import digest_of_base, load_told, load_weights, standing
from mad_lightning.loop.classes import one_round, seed_block
from mad_lightning.loop.cluster import check_shared
from mad_lightning.loop.description import described
from mad_lightning.loop.inside import (
    AddressedRandomness,
    CrashOnly,
    Curves,
    Divergence,
    FromScratch,
    Progress,
    telling_divergence,
)
from mad_lightning.loop.measuring import Measuring
from mad_lightning.loop.one_pass import OnePass
from mad_lightning.loop.retention import Retention
from mad_lightning.loop.store import Store
from mad_lightning.loop.trainers import Trainers
from mad_lightning.metrics.evaluator import Evaluator
from mad_lightning.policies import LoopPolicy, Mix, Part, shard_name
from mad_lightning.precision import keeping_kinds
from mad_lightning.processes import barrier, from_first, is_first, on_first
from mad_lightning.refusal import Refused, at
from mad_lightning.samples import Samples
from mad_lightning.seeds import reseed

__all__ = ["MetaTrainer"]

N_TRIAL = 8
"""Samples that a trained generator must be able to draw before its weights are kept."""
_log = logging.getLogger(__name__)


class MetaTrainer:
    """Trains a lineage.

    Args:
        settings: Where it lives and how long it is.
        policy: Prescribes what each generation trains on.
        data: Real data, and batches.
        evaluator: Measures shards.
        build_generator: Makes a fresh, unbuilt generator; called once a generation.
        build_trainer_arguments: Makes fresh arguments for Lightning's Trainer, callbacks included.
        sampling_bias: λ in (0, 1] of every shard.
        callbacks: Observers.
        seed: The lineage's seed.
        config: The resolved configuration as plain values, kept beside the lineage; None: what
            the objects tell of themselves (:mod:`mad_lightning.identity`).
    """

    treatment: str = ""
    """Name of what :meth:`treat` makes of a shard before later generations eat it; empty: none."""

    def __init__(
        self,
        settings: LineageSettings,
        policy: LoopPolicy,
        data: GenerationDataModule,
        evaluator: Evaluator,
        build_generator: Callable[[], Generator],
        build_trainer_arguments: Callable[[], Mapping[str, Any]] = dict,
        sampling_bias: float = 1.0,
        callbacks: Sequence[LineageCallback] = (),
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings, self.policy, self.sampling_bias = settings, policy, sampling_bias
        self.data, self.evaluator, self.seed = data, evaluator, seed
        self.build_generator = build_generator
        self._config = config
        self.lineage = settings.directory
        self.trainers = Trainers(build_trainer_arguments)
        self.observers = Observers(callbacks)
        self.store = Store(self.lineage)
        self.measuring = Measuring(
            evaluator,
            policy,
            data,
            seed,
            self.store,
            self.trainers,
            settings.block_size,
            settings.labels,
        )
        self.retention = Retention(settings.keep, policy, settings.generations, self.store)
        self.changes: list[str] = []  # since the last generation, and the ledger does not know yet

    # the loop

    def fit(self) -> list[GenerationRecord]:
        """Trains the generations that the ledger does not have yet.

        Returns:
            All records of the lineage.

        Raises:
            Refused: Before anything is written, if the lineage cannot be trained as configured.
            Diverged: If a generation breaks while it is trained; those before it stand.
        """
        with self.trainers.together(partial(admit, self)), on_first(self.lineage.held()):
            self.make_ready()
            with self.watched() as records, self.trainers.freeing() as free:
                for name in from_first(self.retention.missed):
                    self.mend(name)
                for t in range(len(records) + 1, self.settings.generations + 1):
                    if from_first(partial(self.observers.stop, records)):
                        break
                    records.append(self.generation(t))
                    self.observers.on_generation_end(records[-1], self.lineage.generation(t))
                    free()
        return records

    def generation(self, t: int) -> GenerationRecord:
        """One generation, from whatever of it stands on disk."""
        mix = self.mix(t)  # which samples, from where, how many: pure arithmetic
        generator = self.train(t, mix)  # from scratch, on the mix
        drawn = self.sample(t, generator)  # with bias λ, block by block
        published = self.treat(t, drawn)  # what later generations eat: in the paper, all of it
        measured = self.evaluate(t, generator, mix, drawn)  # against the reference
        return self.record(t, mix, drawn, published, measured)  # a line of the ledger

    # its phases, each skipped where its artefact stands

    def mix(self, t: int) -> Mix:
        """What generation ``t`` trains on, as it was published."""
        mix = self.policy.mix(t).treated(self.treatment)
        self.observers.on_generation_start(t, mix)
        return mix

    def train(self, t: int, mix: Mix) -> Generator:
        """Trains a new generator on the mix -> its weights."""
        generator = self.fresh_generator(t)
        final, last = self.lineage.weights(t), self.lineage.checkpoint(t)
        self.store.drop_others(mix.shards)
        for name in mix.shards:
            self.mend(name)
        made_of = self.made_of(mix)
        trained, resumes = from_first(partial(standing, self.lineage, t, made_of))
        if is_first():
            self.lineage.keep_mix(mix)
        if trained:
            load_weights(generator, awaited(final))
            return generator
        with on_first(self.lineage.timed(t, "train")) as tick:
            data = self.data.feed(mix, self.seed, self.store, exact=generator.exact_pass)
            trainer = self.trainer(t, generator, made_of, resumes, tick)
            if not resumes:
                if is_first():
                    self.lineage.curves_file(t).unlink(missing_ok=True)
                self.start(t, generator, data)
            untrained, path = from_first(generator.digest), str(awaited(last)) if resumes else None
            with telling_divergence(self.lineage, t, generator), keeping_kinds(generator):
                trainer.fit(generator, datamodule=data, ckpt_path=path)
            if not resumes and from_first(generator.digest) == untrained:
                problem = f"generation {t} was trained and its weights did not move"
                raise Refused("generator", problem, "more steps, larger ones, or a precision of 32")
            trainer.save_checkpoint(final, weights_only=True)  # and a barrier
        return generator

    def sample(self, t: int, generator: Generator) -> Shard:
        """Draws the shard of a generation, block by block on all processes -> the shard."""
        shard = self.store[shard_name(t)]
        manifest = ShardManifest(
            name=shard_name(t),
            origin="synthetic",
            generation=t,
            sampling_bias=self.sampling_bias,
            seeds=(self.seed, t, "sample"),
            sampler=generator.sampler(),
            generator=from_first(generator.digest),
            count=self.measuring.n_drawn(t),
            spec=generator.spec.to_dict(),
            labels="" if generator.spec.classes is None else self.settings.labels,
            classes=self.real.class_names,
            environment=self.trainers.environment,
        )
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
            block_of = partial(seed_block, sampling_bias=self.sampling_bias)
            work = {blocks: partial(block_of, manifest.seeds, asked)}
            if shown := self.observers.wants_samples(t):
                work[grid] = partial(block_of, (self.seed, "grid"), equal)
            with telling_divergence(self.lineage, t, generator):
                self.trainers.compute(generator, work, self.progress(t, "sample", tick))
            if is_first():
                if shown:
                    picture = Samples(**grid.join())
                    self.observers.on_samples_ready(t, self.lineage.generation(t), picture)
                shard.write(blocks.samples(), manifest, lasting=False)
        return self.store.seen_by_all(shard_name(t))

    def treat(self, t: int, drawn: Shard) -> Shard:
        """What later generations eat of a shard -> another shard; in the paper, the shard itself.

        A subclass that selects or corrects samples names its :attr:`treatment` and writes the shard
        ``self.store[shard_name(t, self.treatment)]``, whose manifest names ``drawn`` as its parent.
        What is measured is what the generator drew.
        """
        return drawn

    def evaluate(self, t: int, generator: Generator, mix: Mix, drawn: Shard) -> dict[str, Any]:
        """Measures what was drawn against the reference -> values, floor and protocol."""
        if not from_first(partial(self.measuring.is_measured, t, drawn)):
            with on_first(self.lineage.timed(t, "evaluate")) as tick:
                progress = self.progress(t, "evaluate", tick)
                self.measuring.measure(t, generator, mix, drawn, progress)
        return from_first(partial(self.lineage.measured, t))

    def record(
        self, t: int, mix: Mix, drawn: Shard, published: Shard, measured: Mapping[str, Any]
    ) -> GenerationRecord:
        """Enters the generation into the ledger, then drops what only its making needed."""
        curves = from_first(partial(self.lineage.curves, t))
        record = GenerationRecord(
            generation=t,
            policy=self.policy.token,
            n_real=mix.n_real,
            n_fresh=mix.n_fresh,
            n_synthetic=mix.n_synthetic,
            sampling_bias=self.sampling_bias,
            metrics=with_nan(measured["values"]),
            errors={k: MeasurementError(*v) for k, v in measured.get("errors", {}).items()},
            floor=with_nan(measured["floor"]),
            floor_errors=with_nan(measured.get("floor_errors", {})),
            protocol=measured["protocol"],
            sampler=drawn.manifest.sampler,
            images=int(curves[-1]["images"]) if curves else 0,
            seconds=self.lineage.seconds(t),
            digests=self.digests(drawn, published, measured["values"]),
            world_size=self.trainers.world_size,
            start=self.settings.start,
            ages=mix.ages(),
            quantities=self.evaluator.quantities(),
            drawn=shard_name(t),
            published=published.manifest.name or shard_name(t),
            seed=self.seed,
            changed=self.changes,
            environment=drawn.manifest.environment,
        )
        self.told[t] = record.digests
        if is_first():
            self.lineage.settle(t)
            self.lineage.ledger.append(record)
            if self.changes:
                self.lineage.keep_config(self.config)
            self.lineage.sweep(t)
        self.store.drop(from_first(partial(self.retention.evict, t)))
        self.changes = []
        return record

    def digests(self, drawn: Shard, published: Shard, values: Mapping[str, Any]) -> dict[str, str]:
        """What the artefacts of a generation are known by from now on."""
        digests = {
            "generator": drawn.manifest.generator,
            "shard": drawn.manifest.sha256,
            "metrics": values_digest(values),
            "data": self.real.content,
            "settings": self.settings_digest,
        }
        if published is not drawn:
            digests["published"] = published.manifest.sha256
        return digests if self.base is None else {**digests, "base": self.base}

    # what they are made of

    def make_ready(self) -> None:
        """Takes the threads it may use; finds or makes the extractor's weights if it needs them."""
        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        check_shared({"lineage.root": self.lineage.path, "data.cache": self.data.cache})
        if from_first(self.is_unfinished):
            self.measuring.prepare()
            self.measuring.check_protocol()

    @contextmanager
    def watched(self) -> Iterator[list[GenerationRecord]]:
        """Measures the floor, keeps the configuration, and tells the observers start and end.

        Yields:
            The finished generations, to which the loop adds.
        """
        records = from_first(self.lineage.records)
        if len(records) < self.settings.generations:
            if records:
                self.changes = from_first(partial(self.changed_since, records[-1]))
            elif is_first() and (dropped := self.lineage.begin(self.config)):
                _log.warning("%s: %s", self.lineage, dropped)
            floor = self.measuring.floor
        else:
            floor = records[0].floor
        unfinished = len(records) < self.settings.generations
        if is_first() and not self.changes and (unfinished or not self.lineage.has_config):
            self.lineage.keep_config(self.config)
        lineage = LineageInfo(
            self.lineage.name,
            self.lineage,
            self.settings.generations,
            self.seed,
            self.policy.token,
            self.sampling_bias,
            floor,
            self.measuring.protocol,
            self.evaluator.quantities(),
            dict(self.config),
            self.settings.start,
            records[-1].digests.get("data", "") if records else self.real.content,
            lambda: self.real.shown(n_shown(self.settings.n_grid, self.real.spec)),
        )
        with self.observers.watching(lineage, records):
            yield records

    def is_unfinished(self) -> bool:
        """Whether there are generations to train."""
        return len(self.lineage.records()) < self.settings.generations

    def changed_since(self, record: GenerationRecord) -> list[str]:
        """What has changed that may change, and that a record does not tell of already."""
        kept = self.lineage.config() if self.lineage.has_config else self.config
        before, now = record.environment, self.trainers.environment
        moved = [f"{k}: {before[k]} -> {now.get(k)}" for k in before if now.get(k) != before[k]]
        changes = [*circumstances(kept, self.config), *moved]
        return [line for line in changes if line not in record.changed]

    @cached_property
    def config(self) -> dict[str, Any]:
        """What of objects and arguments makes the lineage what it is, as plain values."""
        if self._config:
            return dict(self._config)
        told = {
            "seed_everything": self.seed,
            "lineage": self.settings,
            "sampling_bias": self.sampling_bias,
            "policy": self.policy,
            "data": self.data,
            "evaluator": self.evaluator,
            "callbacks": self.observers.callbacks,
        }
        if type(self) is not MetaTrainer:
            told["loop"] = {"class_path": class_path(type(self)), "treatment": self.treatment}
        return described(told, self.build_generator, self.trainers.arguments())

    @cached_property
    def settings_digest(self) -> str:
        """Digest of what of the configuration decides numbers."""
        return settings_digest(self.config)

    @cached_property
    def base(self) -> str | None:
        """Digest of the weights that somebody else's checkpoint brings, if one is given."""
        base = self.settings.base
        return None if base is None else digest_of_base(Path(base))

    @property
    def real(self) -> RealData:
        """Pool and reference."""
        return self.data.real(self.seed)

    def fresh_generator(self, t: int) -> Generator:
        """A new generator with its own initial weights, the same on every process."""
        reseed(self.seed, t, "init")
        generator = self.build_generator()
        with at("generator"):
            generator.build(self.real.spec)
        return generator

    @cached_property
    def told(self) -> dict[int | None, dict[str, str]]:
        """Digests by generation, as the ledger has them; read once, for it can be long."""
        return {record.generation: record.digests for record in self.lineage.records()}

    def is_shown(self, t: int) -> bool:
        """Whether the picture of a generation is what was written, if there is one."""
        try:
            _ = self.lineage.sound_picture(t)
        except Damaged:
            return False
        return True

    def made_of(self, mix: Mix) -> str:
        """Digest of what decides the weights of a generation, beside the program itself."""
        facts = [
            self.seed,
            self.real.digest,
            self.real.content,
            {"generation": mix.generation, "parts": tuple(map(vars, mix.parts))},  # may be many
            [self.store[name].manifest.sha256 for name in mix.shards],
            self.settings_digest,
            *([] if self.base is None else [self.base]),
        ]
        return sha256(repr(facts).encode()).hexdigest()

    def mend(self, name: str) -> None:
        """Draws an earlier shard again that is not what the ledger tells of.

        Raises:
            Refused: If its generator's weights are not, either.
        """
        try:
            self.store.check(name, self.told)
            return
        except OSError as error:
            damage = str(error)
        try:
            self.draw_again(name)
            self.store.check(name, self.told)
        except OSError as error:
            remedy = "bring it back from a copy; or begin another lineage, with a `name` of its own"
            with at("lineage"):
                raise Refused("", f"{damage}; {error}", remedy) from None

    def draw_again(self, name: str) -> None:
        """Draws a shard from the weights that its generator had.

        Raises:
            OSError: If they are not there any more, or no generator drew it.
        """
        t = Part("synthetic", name, 0, 1).generation
        if t is None or name != shard_name(t) or self.lineage.records()[t - 1].branched_from:
            raise OSError("no generator of this lineage drew it")
        generator = self.fresh_generator(t)
        load_told(generator, self.lineage.weights(t), self.told.get(t, {}).get("generator"))
        if is_first() and not self.store[name].is_evicted:
            self.store[name].manifest_file.unlink(missing_ok=True)
        barrier()
        del self.store[name]
        self.sample(t, generator)
        if is_first():
            self.lineage.sweep(t)

    def start(self, t: int, generator: Generator, data: GenerationDataModule) -> None:
        """Gives a generator the weights that generation ``t`` starts from."""
        origin = self.settings.starts_from(t)
        if origin is None:
            reseed(self.seed, t, "initialise")
            if type(generator).initialise is not Generator.initialise:  # a batch may be everything
                with at("generator"):
                    generator.initialise(next(iter(data.loader())))
            return
        if isinstance(origin, int):
            field, path = "start", self.lineage.weights(origin)
            told = self.told.get(origin, {}).get("generator")
        else:
            field, path, told = "base", origin, self.base
        with at("lineage"):
            try:
                load_told(generator, path, told)
            except OSError as error:
                raise Refused(field, str(error), "bring it back from a copy") from None

    def trainer(
        self,
        t: int,
        generator: Generator,
        made_of: str,
        resumes: bool,
        tick: Callable[[], None] | None,
    ) -> L.Trainer | OnePass:
        """A new Trainer with new inner callbacks, in a directory of its own."""
        curves = Curves(self.lineage, t, partial(self.observers.on_generation_curves, t))
        asked, _ = self.classes(t)
        address = (self.seed, t, "sample")
        trial = seed_block(address, asked, 0, slice(0, N_TRIAL), self.sampling_bias)
        return self.trainers.for_fit(
            self.lineage.training(t),
            made_of,
            # Randomness first, so that all others draw by address too.
            first=[AddressedRandomness(self.seed, t), FromScratch(resumes), CrashOnly()],
            last=[Divergence(trial), curves, Progress(self.progress(t, "train", tick))],
            one_pass=generator.is_one_pass,
        )

    def class_counts(self, t: int) -> Tensor | None:
        """How often generation ``t`` meets each class (K,); None if samples have none."""
        if (k := self.real.spec.classes) is None:
            return None
        if learned := from_first(partial(self.store.learned, shard_name(t))):
            return torch.tensor(learned)
        mix = self.policy.mix(t).treated(self.treatment)
        for name in mix.shards:
            self.mend(name)
        labels = self.data.labels(mix, self.seed, self.store)
        return torch.ones(k).long() if labels is None else labels.bincount(minlength=k)

    def classes(self, t: int) -> tuple[Tensor | None, Tensor | None]:
        """Classes in turn, of the shard of generation ``t`` and of its picture; None without any.

        None that its mix lacks; in the shares of the mix, or equal ones.
        """
        if (learned := self.class_counts(t)) is None:
            return None, None
        equal = one_round(learned.clamp(max=1))
        return (equal if self.settings.labels == "equal" else one_round(learned)), equal

    def progress(self, t: int, phase: str, tick: Callable[[], None] | None) -> Announce:
        """Tells the clock of a phase that it goes on, and the observers how far it is."""

        def announce(done: int, total: int) -> None:
            if tick is not None:
                tick()
            self.observers.on_generation_progress(t, phase, done, total)

        return announce
