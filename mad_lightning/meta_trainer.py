"""The loop of the paper: train, sample, measure, record, and again from scratch.

:meth:`MetaTrainer.fit` and :meth:`MetaTrainer.generation` are the whole of it. A generation is a
pure function of the configuration and of what is on disk: every phase leaves one artefact that
appears whole or not at all, and a phase whose artefact stands is not repeated. So resuming is
running the same command again, and a lineage that was killed anywhere ends with the same numbers
as one left alone.

Several processes (DDP) all walk this loop. Only the Trainer's own entry points (``fit``,
``predict``) hold collectives; which of them comes next is read from artefacts in the order newest
first, and an artefact is deleted only after a newer one stands, so that all processes agree even
while the first one is writing. The first process alone writes and announces.
"""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from filelock import FileLock, Timeout
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from mad_lightning.callbacks.base import LineageCallback, LineageInfo
from mad_lightning.callbacks.inside import (
    AddressedRandomness,
    BlockWriter,
    CrashOnly,
    Curves,
    FromScratch,
    Progress,
)
from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.data.shards import BlockLoader, Blocks, Shard, ShardManifest
from mad_lightning.generators.base import Generator
from mad_lightning.lineage import (
    GenerationRecord,
    Ledger,
    LineageSettings,
    differences,
    read_json,
    write_atomically,
    write_json,
)
from mad_lightning.metrics.evaluator import Evaluator
from mad_lightning.policies import LoopPolicy, Mix
from mad_lightning.refusal import Refused, check_sampling_bias
from mad_lightning.samples import SampleBlock, Samples, SeedBlock
from mad_lightning.seeds import reseed, sample_seeds

__all__ = ["MetaTrainer"]


class MetaTrainer:
    """Trains a lineage.

    Args:
        settings: Where it lives and how long it is.
        policy: Prescribes what each generation trains on.
        sampling_bias: λ in (0, 1] of every shard.
        data: Real data, and batches.
        evaluator: Measures shards.
        build_generator: Makes a fresh, unbuilt generator; called once a generation.
        build_trainer_arguments: Makes fresh arguments for Lightning's Trainer, callbacks included.
        callbacks: Observers.
        seed: The lineage's seed.
        config: The resolved configuration as plain values, kept beside the lineage.
    """

    def __init__(
        self,
        settings: LineageSettings,
        policy: LoopPolicy,
        sampling_bias: float,
        data: GenerationDataModule,
        evaluator: Evaluator,
        build_generator: Callable[[], Generator],
        build_trainer_arguments: Callable[[], dict[str, Any]],
        callbacks: Sequence[LineageCallback] = (),
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings, self.policy, self.sampling_bias = settings, policy, sampling_bias
        self.data, self.evaluator = data, evaluator
        self.build_generator = build_generator
        self.build_trainer_arguments = build_trainer_arguments
        self.callbacks = list(callbacks)
        self.seed = seed
        self.config = dict(config or {})
        self.directory = settings.directory
        self.ledger = Ledger(self.directory)

    # the loop

    def fit(self) -> list[GenerationRecord]:
        """Trains the generations that the ledger does not have yet.

        Returns:
            All records of the lineage.

        Raises:
            Refused: Before anything is written, if the lineage cannot be trained as configured.
        """
        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        self.check()
        with self.alone(), self.observed() as records:
            for t in range(len(records) + 1, self.settings.generations + 1):
                if self.stops(records):
                    break
                records.append(self.generation(t))
                self.announce("on_generation_end", records[-1], self.path(t))
        return records

    def generation(self, t: int) -> GenerationRecord:
        """One generation, from whatever of it stands on disk."""
        mix = self.policy.mix(t)  # which samples, from where, how many: pure arithmetic
        self.announce("on_generation_start", t, mix)
        generator = self.fresh_generator(t)
        self.train(t, generator, mix)
        shard = self.sample(t, generator)
        self.evaluate(t, generator, mix, shard)
        return self.record(t, mix, shard)

    # its phases, each skipped where its artefact stands

    def train(self, t: int, generator: Generator, mix: Mix) -> None:
        """Trains from scratch on the mix -> ``generator.ckpt``."""
        final, directory = self.path(t) / "generator.ckpt", self.path(t) / "train"
        if final.exists():
            load_weights(generator, final)
            return
        with self.phase(t, "train"):
            if self.is_first:
                write_json(self.path(t) / "mix.json", asdict(mix))
            self.feed(mix, exact=generator.exact_pass)
            last = directory / "last.ckpt"
            resumes = last.exists()
            trainer = self.trainer_for_fit(t, directory, resumes)
            if not resumes:
                self.start(t, generator)
            untrained = generator.digest()
            trainer.fit(generator, datamodule=self.data, ckpt_path=str(last) if resumes else None)
            if not resumes and generator.digest() == untrained:
                raise RuntimeError(f"generation {t} was trained and its weights did not move")
            trainer.save_checkpoint(final, weights_only=True)  # ends in a barrier

    def sample(self, t: int, generator: Generator) -> Shard:
        """Draws the shard, block by block on all processes -> ``shard.json``."""
        shard = Shard(self.path(t))
        if shard.exists:
            return shard
        with self.phase(t, "sample"):
            n = max(self.policy.n_draw(t), self.data.n_reference)
            address = (self.seed, t, "sample")
            blocks = Blocks(self.path(t) / "blocks", n, self.settings.block_size)
            grid = Blocks(self.path(t) / "grid", self.n_grid, self.n_grid)
            self.predict(
                t,
                "sample",
                generator,
                [
                    (blocks, lambda job, rows: self.seed_block(job, rows, *address)),
                    (grid, lambda job, rows: self.seed_block(job, rows, self.seed, "grid")),
                ],
            )
            if self.is_first:
                looked_at = Samples(**grid.join())
                self.announce("on_samples_ready", t, self.path(t), looked_at, self.columns)
                shard.write(
                    Samples(**blocks.join()),
                    ShardManifest(
                        origin="synthetic",
                        generation=t,
                        sampling_bias=self.sampling_bias,
                        seeds=address,
                        sampler=generator.sampler(),
                        generator=generator.digest(),
                        count=n,
                        spec=generator.spec.to_dict(),
                    ),
                )
            self.barrier()
        return shard

    def evaluate(self, t: int, generator: Generator, mix: Mix, shard: Shard) -> None:
        """Measures the shard against the reference, from one feature pass -> ``metrics.json``."""
        path = self.path(t) / "metrics.json"
        if path.exists():
            return
        with self.phase(t, "evaluate"):
            synthetic = shard.samples[: self.data.n_reference]
            sides = {"synthetic": synthetic} | self.training_set(mix)
            features = self.features(t, sides, self.path(t) / "features")
            if self.is_first:
                values = self.evaluator.compare(
                    self.real_features["reference"],
                    features["synthetic"],
                    self.data.real.law,
                    generator.law(),
                    real_labels=self.data.real.reference.labels,
                    synthetic_labels=synthetic.labels,
                    training=features.get("training"),
                )
                protocol = self.evaluator.protocol(self.data.n_reference)
                write_json(path, {"values": values, "floor": self.floor, "protocol": protocol})
            self.barrier()

    def record(self, t: int, mix: Mix, shard: Shard) -> GenerationRecord:
        """Enters the generation into the ledger, then drops what only its making needed."""
        measured = json.loads((self.path(t) / "metrics.json").read_text())
        curves = Curves.read(self.path(t) / "train" / "curves.csv")
        record = GenerationRecord(
            generation=t,
            policy=self.policy.token,
            n_real=mix.n_real,
            n_fresh=mix.n_fresh,
            n_synthetic=mix.n_synthetic,
            sampling_bias=self.sampling_bias,
            metrics=measured["values"],
            floor=measured["floor"],
            protocol=measured["protocol"],
            sampler=shard.manifest.sampler,
            images=int(curves[-1]["images"]) if curves else 0,
            seconds=read_json(self.path(t) / "seconds.json"),
            digests={
                "generator": shard.manifest.generator,
                "shard": shard.manifest.sha256,
                "metrics": sha256(json.dumps(measured["values"]).encode()).hexdigest(),
            },
            world_size=self.world_size,
            start=self.settings.start,
        )
        if self.is_first:
            self.ledger.append(record)
            for leftover in ("blocks", "grid", "features"):
                shutil.rmtree(self.path(t) / leftover, ignore_errors=True)
            (self.path(t) / "train" / "last.ckpt").unlink(missing_ok=True)
        return record

    # what they are made of

    def check(self) -> None:
        """Refuses what cannot be trained, before anything is written; finds or makes weights."""
        check_sampling_bias(self.sampling_bias)
        self.world_size = self.check_trainer()
        self.check_unchanged()
        self.policy.check(self.settings.generations)
        real = self.data.open(self.seed)
        n_pool = self.policy.n_pool(self.settings.generations)
        if real.size is not None and n_pool > real.size:
            arithmetic = self.policy.arithmetic(self.settings.generations)
            held_out = f" ({self.data.n_reference} more are held out)" if real.splits else ""
            raise Refused(
                f"policy.{self.policy.pool_field}",
                f"{self.settings.generations} generations need {arithmetic} real samples, "
                f"the pool of {self.data.source.name} has {real.size}{held_out}",
                "lower the counts, train fewer generations, or hold out fewer with "
                "data.n_reference; no real sample is used twice as fresh",
            )
        if self.data.batch_size % self.world_size:
            raise Refused(
                "data.batch_size",
                f"{self.data.batch_size} images are not divisible by {self.world_size} processes",
                "choose a multiple of the number of processes",
            )
        for metric in self.evaluator.metrics:
            metric.check(self.data.n_reference, self.evaluator.extractor.name)
        for callback in self.callbacks:
            callback.check()
        generator = self.fresh_generator(1)
        generator.check_bias(self.sampling_bias)
        if not generator.automatic_optimization:
            self.check_manual(generator)
        if self.settings.start != "scratch" and generator.exact_pass:
            raise Refused(
                "lineage.start",
                f"{type(generator).__name__} is fitted in closed form: its start changes nothing",
                "use scratch",
            )
        if self.settings.base is not None:
            try:
                load_weights(generator, Path(self.settings.base))
            except (RuntimeError, KeyError, pickle.UnpicklingError) as error:
                raise Refused(
                    "lineage.base",
                    f"{self.settings.base} does not fit {type(generator).__name__} on "
                    f"{self.data.source.name}: {str(error).strip().splitlines()[-1].strip()}",
                    "name a generator.ckpt of this family, size and kind of data",
                ) from None
        if len(self.ledger.records()) < self.settings.generations:
            self.evaluator.extractor.prepare(real.pool, real.spec, real.digest, self.data.cache)

    def check_manual(self, generator: Generator) -> None:
        """Refuses Trainer arguments that a family which steps by hand would have to obey itself."""
        arguments, family = self.build_trainer_arguments(), type(generator).__name__
        for name, harmless, remedy in (
            ("accumulate_grad_batches", 1, "use generator.accumulate where the family has it"),
            ("gradient_clip_val", 0.0, "leave it out: adversarial families have penalties"),
        ):
            value = arguments.get(name)
            if value is not None and value != harmless:
                raise Refused(f"trainer.{name}", f"{value}, and {family} steps by hand", remedy)

    def check_trainer(self) -> int:
        """Refuses Trainer arguments that a lineage cannot stand; tells the number of processes."""
        arguments = self.build_trainer_arguments()
        strategy = arguments.get("strategy")
        if isinstance(strategy, str) and any(
            word in strategy for word in ("spawn", "fork", "notebook")
        ):
            raise Refused(
                "trainer.strategy",
                f"{strategy} copies the generator into other processes and loses it after training",
                "use ddp",
            )
        for callback in arguments.get("callbacks") or []:
            if isinstance(callback, OnExceptionCheckpoint):
                raise Refused(
                    "trainer.callbacks",
                    "OnExceptionCheckpoint makes a generation continue an earlier one's weights",
                    "leave it out: every epoch is checkpointed, any kill resumes",
                )
        try:
            return L.Trainer(**arguments).world_size
        except (MisconfigurationException, ValueError) as error:
            names = ("strategy", "devices", "accelerator", "precision", "num_nodes")
            said = next((name for name in names if f"{name}=" in str(error)), "accelerator")
            raise Refused(f"trainer.{said}", str(error), "--full_help lists its flags") from None

    def check_unchanged(self) -> None:
        """Refuses to go on with a lineage under another configuration."""
        path = self.directory / "config.yaml"
        if not path.exists():
            return
        changed = differences(yaml.safe_load(path.read_text()), self.config)
        if changed:
            raise Refused(
                "config",
                f"{self.directory} was begun under another configuration:\n    "
                + "\n    ".join(changed[:12])
                + (f"\n    ... and {len(changed) - 12} more" if len(changed) > 12 else ""),
                "undo the change, or give the new lineage its own --lineage.name",
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the lineage against a second program, and sweeps what a killed one left half."""
        if not self.is_first:
            yield
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.directory / ".lock")  # the system drops it at any death
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise Refused(
                "lineage.name",
                f"another program is training {self.directory} at this moment",
                "wait for it, or give this lineage its own --lineage.name",
            ) from None
        with lock:
            for torn in self.directory.rglob(".*.tmp"):
                torn.unlink(missing_ok=True)
            yield

    @contextmanager
    def observed(self) -> Iterator[list[GenerationRecord]]:
        """Measures the floor, keeps the configuration, and tells the callbacks start and end.

        Yields:
            The finished generations, to which the loop adds.
        """
        records = self.ledger.records()
        self.floor: dict[str, float] = records[0].floor if records else {}
        if len(records) < self.settings.generations:
            bar = {"enable_progress_bar": sys.stdout.isatty()}  # nobody observes the lineage yet
            self.real_features = self.features(
                0,
                {"reference": self.data.real.reference, "floor": self.data.real.floor},
                self.data.cache / f"features-{self.features_key()}",
                **bar,
            )
            if not records:
                training = self.training_set(self.policy.mix(1))  # real samples only
                features = self.features(0, training, self.path(1) / "features", **bar)
                self.floor = self.evaluator.compare(
                    self.real_features["reference"],
                    self.real_features["floor"],
                    self.data.real.law,
                    real_labels=self.data.real.reference.labels,
                    synthetic_labels=self.data.real.floor.labels,
                    training=features.get("training"),
                )
            if self.is_first:
                text = yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True)
                write_atomically(self.directory / "config.yaml", text.encode())
        info = LineageInfo(
            self.settings.name or self.directory.name,
            self.directory,
            self.settings.generations,
            self.seed,
            self.policy.token,
            self.sampling_bias,
            self.floor,
            self.evaluator.protocol(self.data.n_reference),
            self.config,
            self.settings.start,
        )
        self.announce("on_lineage_start", info, tuple(records))
        finished = False
        try:
            yield records
            finished = True
        finally:
            self.announce("on_lineage_end", tuple(records), finished)

    def fresh_generator(self, t: int) -> Generator:
        """A new generator with its own initial weights, the same on every process."""
        reseed(self.seed, t, "init")
        generator = self.build_generator()
        generator.build(self.data.real.spec)
        return generator

    def feed(self, mix: Mix, exact: bool = False) -> None:
        """Brings a mix to the data module."""
        earlier = {part.generation for part in mix.parts if part.generation is not None}
        self.data.feed(mix, {each: Shard(self.path(each)) for each in earlier}, exact)

    def training_set(self, mix: Mix) -> dict[str, Samples]:
        """What a mix holds, under the name ``training``; nothing unless a metric asks for it."""
        if not self.evaluator.needs_training:
            return {}
        self.feed(mix)
        return {"training": self.data.training_set()}

    def start(self, t: int, generator: Generator) -> None:
        """Gives a generator the weights that generation ``t`` starts from."""
        origin = self.settings.starts_from(t)
        if origin is None:
            reseed(self.seed, t, "initialise")
            generator.initialise(next(iter(self.data.loader())))
        else:
            path = self.path(origin) / "generator.ckpt" if isinstance(origin, int) else origin
            load_weights(generator, path)

    def trainer_for_fit(self, t: int, directory: Path, resumes: bool) -> L.Trainer:
        """A new Trainer with new inner callbacks, in a directory of its own."""
        arguments = self.build_trainer_arguments()
        checkpoints = ModelCheckpoint(
            directory,
            "last",
            save_top_k=1,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        )
        curves = Curves(
            directory / "curves.csv",
            self.data.loader().images,
            lambda images, values: self.announce("on_generation_curves", t, images, values),
        )
        arguments["callbacks"] = [
            AddressedRandomness(self.seed, t),  # first, so that all others draw by address too
            FromScratch(resumes),
            CrashOnly(),
            *(arguments.get("callbacks") or []),
            curves,
            self.progress(t, "train"),
            *([] if arguments.get("fast_dev_run") else [checkpoints]),
        ]
        return L.Trainer(**{**arguments, "default_root_dir": directory})

    def predict(
        self,
        t: int,
        phase: str,
        module: L.LightningModule,
        work: Sequence[tuple[Blocks, Callable[[int, slice], Any]]],
        **arguments: Any,
    ) -> None:
        """Computes all blocks that do not stand yet, spread over the processes.

        Args:
            t: Generation.
            phase: For the progress bar.
            module: What computes them, in its ``predict_step``.
            work: Blocks, and what makes the batch of (job number, rows).
            arguments: For the Trainer, over the configured ones.
        """
        jobs = BlockLoader(work)
        passed_on = ("accelerator", "strategy", "devices", "num_nodes", "precision", "plugins")
        configured = self.build_trainer_arguments()
        trainer = L.Trainer(
            **{name: configured[name] for name in passed_on if name in configured}
            | {
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                "inference_mode": False,
                "callbacks": [BlockWriter(jobs.write), CrashOnly(), self.progress(t, phase)],
            }
            | arguments
        )
        module.allow_zero_length_dataloader_with_multiple_devices = True  # blocks may be few
        # Every process enters, also one without work: the Trainer's start holds collectives.
        if jobs.share(trainer.global_rank, trainer.world_size) or trainer.world_size > 1:
            trainer.predict(module, jobs, return_predictions=False)
        self.strategy = trainer.strategy
        self.barrier()

    def features(
        self, t: int, sides: Mapping[str, Samples], directory: Path, **arguments: Any
    ) -> dict[str, torch.Tensor]:
        """Features of sample sets by name, in full precision; kept in ``directory``."""
        if not sides:
            return {}

        def make(samples: Samples) -> Callable[[int, slice], SampleBlock]:
            return lambda job, rows: SampleBlock(job, samples[rows])

        blocks = {
            name: Blocks(directory / name, len(samples), self.settings.block_size)
            for name, samples in sides.items()
        }
        self.predict(
            t,
            "evaluate",
            self.evaluator.extractor,
            [(blocks[name], make(samples)) for name, samples in sides.items()],
            precision="32-true",
            **arguments,
        )
        return {name: each.join()["features"] for name, each in blocks.items()}

    def features_key(self) -> str:
        """Names the cache of the real side's features: other data or weights, another name."""
        parts = [
            self.data.real.digest,
            self.evaluator.extractor.protocol(),
            self.settings.block_size,
        ]
        return sha256(repr(parts).encode()).hexdigest()[:12]

    def seed_block(self, job: int, rows: slice, *address: int | str) -> SeedBlock:
        """Samples to draw: their seeds by place, their classes in turn."""
        seeds = sample_seeds(rows.start, rows.stop - rows.start, *address)
        classes = self.data.real.spec.classes
        labels = None if classes is None else torch.arange(rows.start, rows.stop) % classes
        return SeedBlock(job, seeds, labels, self.sampling_bias)

    @property
    def n_grid(self) -> int:
        """Samples to look at: pictures, or ten times as many dots."""
        return self.settings.n_grid * (1 if self.data.real.spec.kind == "image" else 10)

    @property
    def columns(self) -> int:
        """Columns of the picture: one a class, if they fit."""
        classes = self.data.real.spec.classes or 0
        return classes if 2 <= classes <= 20 else 10

    def path(self, t: int) -> Path:
        """Directory of generation ``t``."""
        return self.directory / f"generation_{t:03d}"

    @property
    def is_first(self) -> bool:
        """Whether this process writes and announces."""
        return bool(getattr(rank_zero_only, "rank", 0) == 0)

    def barrier(self) -> None:
        """Waits until all processes are here."""
        self.strategy.barrier()

    @contextmanager
    def phase(self, t: int, name: str) -> Iterator[None]:
        """Times a phase."""
        start = time.perf_counter()
        yield
        if self.is_first:
            path = self.path(t) / "seconds.json"
            write_json(path, read_json(path) | {name: round(time.perf_counter() - start, 3)})

    def progress(self, t: int, phase: str) -> Progress:
        """Tells the callbacks how far a phase is."""
        return Progress(
            lambda done, total: self.announce("on_generation_progress", t, phase, done, total)
        )

    def stops(self, records: Sequence[GenerationRecord]) -> bool:
        """Whether a stopping rule ends the lineage here; every process comes to the same answer."""
        reasons = [each.reason_to_stop(tuple(records)) for each in self.callbacks]
        reason = next((each for each in reasons if each), None)
        if reason is not None:
            self.announce("on_lineage_stop", reason)
        return reason is not None

    def announce(self, hook: str, *arguments: Any) -> None:
        """Calls a hook of every callback, on the first process."""
        for callback in self.callbacks if self.is_first else ():
            getattr(callback, hook)(*arguments)


def load_weights(generator: Generator, path: Path) -> None:
    """Loads what :meth:`MetaTrainer.train` kept; nothing in it is unpickled."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    generator.load_state_dict(checkpoint["state_dict"])
