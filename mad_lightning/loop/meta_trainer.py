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
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import lightning as L
import torch

from mad_lightning.callbacks.base import LineageCallback, LineageInfo, Observers
from mad_lightning.callbacks.grids import n_shown
from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.data.real import RealData
from mad_lightning.data.shards import Shard
from mad_lightning.files import awaited, with_nan
from mad_lightning.generators.base import Generator
from mad_lightning.generators.guidance import Improvement
from mad_lightning.identity import class_path
from mad_lightning.lineage.configuration import circumstances, settings_digest
from mad_lightning.lineage.ledger import GenerationRecord, values_digest
from mad_lightning.lineage.quantities import MeasurementError
from mad_lightning.lineage.settings import LineageSettings
from mad_lightning.loop.admission import admit
from mad_lightning.loop.checkpoints import digest_of_base, load_told, load_weights, standing
from mad_lightning.loop.cluster import check_shared
from mad_lightning.loop.description import described
from mad_lightning.loop.improving import Improving
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
from mad_lightning.loop.mending import Mending
from mad_lightning.loop.one_pass import OnePass
from mad_lightning.loop.outside import bring
from mad_lightning.loop.retention import Retention
from mad_lightning.loop.sampling import Sampling
from mad_lightning.loop.store import Store
from mad_lightning.loop.trainers import Trainers
from mad_lightning.loop.treating import Treating, told_rates
from mad_lightning.metrics.evaluator import Evaluator
from mad_lightning.policies import LoopPolicy, Mix, shard_name
from mad_lightning.precision import keeping_kinds
from mad_lightning.processes import from_first, is_first, on_first
from mad_lightning.refusal import Refused, at
from mad_lightning.schedules import bias_schedule
from mad_lightning.seeds import reseed
from mad_lightning.treatments.base import Own, Treatment

__all__ = ["MetaTrainer"]

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
        sampling_bias: λ in (0, 1] of every shard, or a schedule: ``"max(0.5, 1 - 0.1*t)"``.
        callbacks: Observers.
        seed: The lineage's seed.
        config: The resolved configuration as plain values, kept beside the lineage; None: what
            the objects tell of themselves (:mod:`mad_lightning.identity`).
        treatment: What becomes of drawn samples before later generations eat them, or a function
            that :class:`~mad_lightning.treatments.base.Own` takes; None: nothing.
        improvement: A second phase of each generation; the paper has none.
    """

    def __init__(
        self,
        settings: LineageSettings,
        policy: LoopPolicy,
        data: GenerationDataModule,
        evaluator: Evaluator,
        build_generator: Callable[[], Generator],
        build_trainer_arguments: Callable[[], Mapping[str, Any]] = dict,
        sampling_bias: float | str = 1.0,
        callbacks: Sequence[LineageCallback] = (),
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        treatment: Treatment | Callable[..., Any] | None = None,
        improvement: Improvement | None = None,
    ) -> None:
        self.settings, self.policy = settings, policy.seeded(seed)
        self.sampling_bias, self.bias = sampling_bias, bias_schedule(sampling_bias)
        self.data, self.evaluator, self.seed = data, evaluator, seed
        self.build_generator = build_generator
        self._config = config
        self.lineage = settings.directory
        self.trainers = Trainers(build_trainer_arguments, data.device_batch)
        self.observers = Observers(callbacks)
        self.store = Store(self.lineage)
        self.measuring = Measuring(
            evaluator,
            self.policy,
            data,
            seed,
            self.store,
            self.trainers,
            settings.block_size,
            settings.labels,
            treatment is not None,
        )
        with at("treatment"):
            treatment = treatment if isinstance(treatment, Treatment | None) else Own(treatment)
        self.treating = Treating(
            treatment, self.policy, data, seed, self.store, self.measuring, self.observers
        )
        self.mending = Mending(self.store, lambda: self.told, self.trained, self.sample, self.treat)
        self.sampling = Sampling(
            settings,
            data,
            seed,
            self.bias,
            self.store,
            self.trainers,
            self.observers,
            self.published_mix,
            self.treating.n_drawn,
            self.mending.mend,
        )
        self.improving = Improving(
            improvement, self.measuring, self.sampling, self.fresh_generator, self.treating.n_real
        )
        self.retention = Retention(
            settings.keep, self.policy, settings.generations, self.store, self.treating.name
        )
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
                    self.mending.mend(name)
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
        generator = self.improve(t, mix, generator)  # draws otherwise: not in the paper
        drawn = self.sample(t, generator)  # with bias λ, block by block
        published = self.treat(t, drawn)  # what later generations eat: in the paper, all of it
        measured = self.evaluate(t, generator, mix, drawn, published)  # against the reference
        return self.record(t, mix, drawn, published, measured)  # a line of the ledger

    # its phases, each skipped where its artefact stands

    def mix(self, t: int) -> Mix:
        """What generation ``t`` trains on, as it was published."""
        mix = self.published_mix(t)
        self.observers.on_generation_start(t, mix)
        return mix

    def train(self, t: int, mix: Mix) -> Generator:
        """Trains a new generator on the mix -> its weights."""
        generator = self.fresh_generator(t)
        final, last = self.lineage.weights(t), self.lineage.checkpoint(t)
        self.store.drop_others(mix.shards)
        for name in mix.shards:
            self.mending.mend(name)
        made_of = self.made_of(mix)
        trained, resumes = from_first(partial(standing, self.lineage, t, made_of))
        if is_first():
            self.lineage.keep_mix(mix)
        if trained:
            load_weights(generator, awaited(final))
            return generator
        with on_first(self.lineage.timed(t, "train")) as tick:
            kinds = {"exact": generator.exact_pass, "weighs": generator.weighs}
            data = self.data.feed(mix, self.seed, self.store, **kinds)
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

    def improve(self, t: int, mix: Mix, generator: Generator) -> Generator:
        """Lets a generator draw otherwise than it was trained to; in the paper, as it is."""
        if self.improving:
            self.improving.improve(t, mix, generator, self.made_of(mix))
        return generator

    def sample(self, t: int, generator: Generator) -> Shard:
        """Draws the shard of a generation, block by block on all processes -> the shard."""
        return self.sampling.draw(t, generator)

    def treat(self, t: int, drawn: Shard) -> Shard:
        """What later generations eat of a shard -> another shard; in the paper, the shard itself.

        What is measured is what the generator drew, and what is left of it beside that.
        """
        return self.treating.treat(t, drawn)

    def evaluate(
        self, t: int, generator: Generator, mix: Mix, drawn: Shard, published: Shard
    ) -> dict[str, Any]:
        """Measures what was drawn against the reference -> values, floor and protocol."""
        if not from_first(partial(self.measuring.is_measured, t, drawn, published)):
            with on_first(self.lineage.timed(t, "evaluate")) as tick:
                progress = self.observers.progress(t, "evaluate", tick)
                self.measuring.measure(t, generator, mix, drawn, published, progress)
        return from_first(partial(self.lineage.measured, t))

    def record(
        self, t: int, mix: Mix, drawn: Shard, published: Shard, measured: Mapping[str, Any]
    ) -> GenerationRecord:
        """Enters the generation into the ledger, then drops what only its making needed."""
        curves, spent = from_first(partial(self.lineage.curves, t)), self.lineage.spent(t)
        record = GenerationRecord(
            generation=t,
            policy=self.policy.token,
            n_real=mix.n_real,
            n_fresh=mix.n_fresh,
            n_synthetic=mix.n_synthetic,
            n_external=mix.n_external,
            sampling_bias=self.bias(t),
            metrics=with_nan(measured["values"]),
            errors={k: MeasurementError(*v) for k, v in measured.get("errors", {}).items()},
            floor=with_nan(measured["floor"]),
            floor_errors=with_nan(measured.get("floor_errors", {})),
            protocol=measured["protocol"],
            sampler=drawn.manifest.sampler,
            images=int(curves[-1]["images"]) if curves else 0,
            seconds=spent["seconds"],
            cpu_seconds=spent["cpu_seconds"],
            digests=self.digests(drawn, published, measured["values"]),
            world_size=self.trainers.world_size,
            start=self.settings.start,
            ages=mix.ages(),
            quantities=self.measuring.quantities(),
            drawn=shard_name(t),
            published=published.manifest.name or shard_name(t),
            treatment={} if published is drawn else told_rates(published.manifest),
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
        if self.outside:
            digests["external"] = self.outside
        digests |= from_first(partial(self.improving.digests, drawn))
        return digests if self.base is None else {**digests, "base": self.base}

    # what they are made of

    def make_ready(self) -> None:
        """Takes the threads it may use; finds or makes the extractor's weights if it needs them."""
        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        check_shared({"lineage.root": self.lineage.path, "data.cache": self.data.cache})
        _ = self.outside
        if from_first(self.is_unfinished):
            self.measuring.prepare()
            self.treating.prepare()
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
            floor = self.measuring.doubled(self.measuring.floor)
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
            self.measuring.quantities(),
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
        if self.treating.treatment is not None:
            told["treatment"] = self.treating.treatment
        if self.improving:
            told["improve"] = self.improving.improvement
        if type(self) is not MetaTrainer:
            told["loop"] = {"class_path": class_path(type(self))}
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

    @cached_property
    def outside(self) -> str:
        """Digest of somebody else's samples, which are brought here if the policy takes some."""
        is_taken = self.policy.n_foreign(self.settings.generations)
        return bring(self.data, self.seed, self.store) if is_taken else ""

    def published_mix(self, t: int) -> Mix:
        """What the policy prescribes for generation ``t``, as a treatment publishes it."""
        return self.policy.mix(t).treated(self.treating.name)

    def fresh_generator(self, t: int) -> Generator:
        """A new generator with its own initial weights, the same on every process."""
        reseed(self.seed, t, "init")
        generator = self.build_generator()
        with at("generator"):
            generator.build(self.real.spec)
        return generator

    def trained(self, t: int) -> Generator:
        """The generator of a finished generation, as the ledger tells of it.

        Raises:
            OSError: If its weights are missing, damaged, or others.
        """
        generator, told = self.fresh_generator(t), self.told.get(t, {})
        load_told(generator, self.lineage.weights(t), told.get("generator"))
        self.improving.load(t, generator, told)
        return generator

    @cached_property
    def told(self) -> dict[int | None, dict[str, str]]:
        """Digests by generation, as the ledger has them; read once, for it can be long."""
        return {record.generation: record.digests for record in self.lineage.records()}

    def made_of(self, mix: Mix) -> str:
        """Digest of what decides the weights of a generation, beside the program itself."""
        facts = [
            self.seed,
            self.real.digest,
            self.real.content,
            {"generation": mix.generation, "parts": tuple(part.facts for part in mix.parts)},
            [self.store[name].manifest.sha256 for name in mix.shards],
            self.settings_digest,
            *([] if self.base is None else [self.base]),
        ]
        return sha256(repr(facts).encode()).hexdigest()

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
        progress = self.observers.progress(t, "train", tick)
        trial = None if generator.is_one_pass else self.sampling.trial(t)
        return self.trainers.for_fit(
            self.lineage.training(t),
            made_of,
            # Randomness first, so that all others draw by address too.
            first=[AddressedRandomness(self.seed, t), FromScratch(resumes), CrashOnly()],
            last=[Divergence(trial), curves, Progress(progress)],
            one_pass=generator.is_one_pass,
        )
