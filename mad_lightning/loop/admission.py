"""What is refused before anything is written.

A lineage can run for weeks, so whatever can be known before it starts is asked here, and nothing is
made. Rooms refuse their own parameters; here they get the names that a configuration has for them.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch.callbacks import EarlyStopping

from mad_lightning.callbacks.base import Observers
from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.data.laws import LawSource
from mad_lightning.data.real import RealData
from mad_lightning.data.shards import Shard
from mad_lightning.files import Damaged, read_json
from mad_lightning.generators.base import Generator
from mad_lightning.lineage.configuration import differences, settings_digest
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.lineage.ledger import GenerationRecord
from mad_lightning.lineage.settings import LineageSettings
from mad_lightning.loop.checkpoints import load_weights
from mad_lightning.loop.improving import Improving
from mad_lightning.loop.machine import memory, nearest, sample_bytes, weight_bytes
from mad_lightning.loop.measuring import Measuring
from mad_lightning.loop.outside import check_outside
from mad_lightning.loop.rehearsal import rehearse
from mad_lightning.loop.retention import Retention
from mad_lightning.loop.sampling import Sampling
from mad_lightning.loop.trainers import Trainers
from mad_lightning.loop.treating import Treating
from mad_lightning.magnitudes import size
from mad_lightning.metrics.evaluator import Evaluator
from mad_lightning.policies import LoopPolicy, Mix
from mad_lightning.refusal import Diverged, Refused, at, check_system
from mad_lightning.samples import SampleSpec

__all__ = ["Candidate", "admit"]

_MOST_IMAGES = 10**11
"""Of a generation: more than a day for a million images a second."""


class Candidate(Protocol):
    """What is asked of a lineage that wants to be trained."""

    settings: LineageSettings
    policy: LoopPolicy
    bias: Callable[[int], float]
    seed: int
    data: GenerationDataModule
    evaluator: Evaluator
    lineage: LineageDirectory
    trainers: Trainers
    observers: Observers
    retention: Retention
    measuring: Measuring
    sampling: Sampling
    treating: Treating
    improving: Improving

    @property
    def real(self) -> RealData:
        """Pool and reference."""

    @property
    def config(self) -> Mapping[str, Any]:
        """What of objects and arguments makes the lineage what it is."""

    @property
    def base(self) -> str | None:
        """Digest of the weights that training starts from, if it is told any."""

    def published_mix(self, t: int) -> Mix:
        """What generation ``t`` trains on, as a treatment publishes it."""

    def fresh_generator(self, t: int) -> Generator:
        """A new generator with the first weights of generation ``t``."""


def admit(meta: Candidate) -> bool:
    """Refuses a lineage that cannot be trained as configured.

    Returns:
        Whether there are generations to train, or samples to draw again.

    Raises:
        Refused: With the field, what is wrong with it, and the remedy.
    """
    check_system()
    biases = {meta.bias(t) for t in _all(meta)}
    with at("trainer"):
        meta.trainers.check()
    check_places(meta)
    with at("lineage"):
        meta.lineage.check_unchanged(meta.config)
    with at("policy"):
        meta.policy.check(meta.settings.generations)
    if isinstance(meta.data.source, LawSource):
        check_memory(meta, meta.data.source.spec)  # before anything is drawn
    with at("data"):
        meta.data.real(meta.seed)
    check_memory(meta, meta.real.spec)
    check_begun(meta)
    check_pool(meta)
    check_outside(meta.policy, meta.settings.generations, meta.data, meta.seed, meta.lineage)
    with at("treatment"):
        meta.treating.check(meta.settings.generations)
    check_counts(meta)
    with at("evaluator"):
        quantities = meta.evaluator.quantities()
    meta.observers.check(quantities)
    generator = check_generator(meta, biases)
    check_epochs(meta, generator)
    check_stopping(meta)
    check_disk(meta, generator)
    unfinished = len(meta.lineage.records()) < meta.settings.generations
    return unfinished or bool(meta.retention.missed())


def check_begun(meta: Candidate) -> None:
    """A lineage goes on with the data, the loop and the protocol that its first generations had."""
    if not meta.lineage.is_begun:
        return
    other = "undo the change, or give the new lineage a `lineage.name` of its own"
    check_data(meta, meta.lineage)
    records = meta.lineage.records()
    for record in records:
        t = record.generation
        if not meta.lineage.generation(t).exists():
            problem = f"{meta.lineage.generation(t)} is gone"
            raise Refused("lineage", problem, "bring it back from a copy, or begin another lineage")
        if record.branched_from:
            continue  # made under the settings of another lineage
        now = {
            "policy": meta.policy.token,
            **meta.policy.summary(t),
            "sampling_bias": meta.bias(t),
            "start": meta.settings.start,
            "seed": meta.seed,
        }
        told = {name: getattr(record, name) for name in now}
        unlike = [n for n in now if told[n] != now[n] and told[n] is not None]
        if unlike:
            changes = ", ".join(f"{name} {told[name]}, now {now[name]}" for name in unlike)
            raise Refused("lineage", f"generation {t} of {meta.lineage} had {changes}", other)
        if meta.real.spec.classes is None:
            continue
        if record.protocol.get("split") != "by class":
            raise Refused(
                "lineage",
                f"{meta.lineage} was begun when references were held out blindly; now their "
                "classes come in the shares of the data, so other samples are held out",
                "give the new lineage a `lineage.name` of its own; the old one can be reported, "
                "and be finished by the version that began it",
            )
        drawn, labels = record.protocol.get("labels", "equal"), meta.settings.labels
        if drawn != labels:
            raise Refused(
                "lineage.labels",
                f"{labels}, and generation {t} of {meta.lineage} drew classes in shares {drawn!r}",
                f"go on with `lineage.labels: {drawn}`, or give the new lineage a `lineage.name` "
                "of its own",
            )
    check_settings(meta, records)
    check_ancestry(meta, meta.lineage, [r for r in records if r.branched_from])


def check_data(meta: Candidate, lineage: LineageDirectory) -> None:
    """The real samples must be those that a lineage was begun with, wherever they lie now."""
    records, kept = lineage.records(), lineage.config() if lineage.has_config else {}
    sources = ((config.get("data") or {}).get("source") for config in (kept, meta.config))
    spelled = differences(*({"source": source} for source in sources)) if kept else []
    if records and "data" in records[-1].digests:
        same = records[-1].digests["data"] == meta.real.content
    elif data := told_floor(lineage).get("data"):
        same = data == meta.real.digest
    else:  # it was begun before anything told
        same = not spelled
    if not same:
        how = f" ({'; '.join(spelled)})" if spelled else ""
        raise Refused(
            "data.source",
            f"other samples than {lineage} was begun with{how}",
            "bring the data back; or undo the change; or give the new lineage a `lineage.name` of "
            "its own",
        )


def told_floor(lineage: LineageDirectory) -> dict[str, Any]:
    """What was kept of a floor; nothing if that is damaged."""
    try:
        return read_json(lineage.floor_file)
    except Damaged:
        return {}


def check_settings(meta: Candidate, records: Sequence[GenerationRecord]) -> None:
    """The last generation must have been made under these settings, whatever became of its file."""
    own = [record for record in records if not record.branched_from]
    if not own:
        return
    digests = own[-1].digests
    for name, digest, what in (
        ("settings", settings_digest(meta.config), "other settings"),
        ("base", meta.base, "the weights of another `lineage.base`"),
    ):
        if digests.get(name, digest) != digest:
            raise Refused(
                "lineage",
                f"generation {own[-1].generation} of {meta.lineage} was trained under {what}, "
                f"which its {meta.lineage.config_file.name} does not tell",
                "bring that file back as it was and undo the change; or give the new lineage a "
                "`lineage.name` of its own",
            )


def check_ancestry(
    meta: Candidate, lineage: LineageDirectory, ancestors: Sequence[GenerationRecord]
) -> None:
    """Later generations must find what they take of generations that another policy prescribed.

    Args:
        meta: What is to go on.
        lineage: Where the generations lie.
        ancestors: The first ones, which were made under other settings.

    Raises:
        Refused: If a shard is too small, a fresh sample was used, or the pool has another order.
    """
    if not ancestors:
        return
    last, order = len(ancestors), ancestors[-1].seed
    if order is None:
        order = lineage.config().get("seed_everything")
    taken: dict[str, tuple[int, int]] = {}  # by shard, the furthest sample, and by which generation
    fresh: dict[int, int] = {}  # by place in the pool, which generation takes it as new
    for t in range(last + 1, meta.settings.generations + 1):
        for part in meta.published_mix(t).parts:
            if part.shard is None and order not in (None, meta.seed):
                raise Refused(
                    "seed_everything",
                    f"generation {t} takes real samples, and seed {meta.seed} puts them in another "
                    f"order than seed {order}: some would be used twice",
                    f"keep seed {order}; a loop without real samples can take any",
                )
            if part.origin == "fresh":
                fresh.setdefault(part.start, t)
            elif part.shard is not None and (part.generation or t) <= last:
                taken[part.shard] = max(taken.get(part.shard, (0, 0)), (part.stop, t))
    if fresh:
        check_fresh(lineage, last, *min(fresh.items()))
    for name, (stop, t) in taken.items():
        check_shard(lineage, name, stop, t)


def check_fresh(lineage: LineageDirectory, last: int, start: int, t: int) -> None:
    """What generation ``t`` takes as new, from a place in the pool on, was not used before."""
    mixes = (lineage.mix(earlier) for earlier in range(1, last + 1))
    used = max((p.stop for mix in mixes if mix for p in mix.parts if p.shard is None), default=0)
    if start < used:
        raise Refused(
            "policy",
            f"generation {t} takes real samples from place {start} on as fresh ones, "
            f"generations 1 to {last} have used the first {used}",
            f"set `policy.n_initial` so that the first fresh ones stand at {used} or later",
        )


def check_shard(lineage: LineageDirectory, name: str, stop: int, t: int) -> None:
    """What generation ``t`` takes of a shard that stands must be in it."""
    shard = Shard(lineage.shard(name))
    if not shard.exists:
        problem = f"generation {t} takes samples of {shard.values_file}, which is not there"
        raise Refused("policy", problem, "take samples that the parent has published")
    if stop > shard.manifest.count:
        raise Refused(
            "policy",
            f"generation {t} takes {stop} samples of {shard.values_file}, which has "
            f"{shard.manifest.count}",
            f"take at most {shard.manifest.count} of it",
        )


def check_first_weights(meta: Candidate, parent: LineageDirectory, t: int) -> None:
    """Where generation ``t`` starts from weights of the parent, they must fit its networks."""
    origin = meta.settings.starts_from(t)
    if isinstance(origin, int):
        try:
            load_weights(meta.fresh_generator(t), parent.weights(origin))
        except RuntimeError as error:
            raise Refused(
                "generator",
                f"the weights of generation {origin} of {parent} are those of other networks "
                f"({str(error).splitlines()[0]})",
                "keep the networks, or set `lineage.start: scratch`",
            ) from None


def check_pool(meta: Candidate) -> None:
    """The mixes of all generations must find their real samples."""
    generations, real = meta.settings.generations, meta.real
    if real.size is None or meta.policy.n_pool(generations) <= real.size:
        return
    held_out = f" ({meta.data.n_reference} more are held out)" if real.splits else ""
    raise Refused(
        f"policy.{meta.policy.pool_field}",
        f"{generations} generations need {meta.policy.arithmetic(generations)} real samples, "
        f"the pool of {meta.data.source.name} has {real.size}{held_out}",
        "lower the counts, train fewer generations, or hold out fewer with "
        "`data.n_reference`; no real sample is used twice as fresh",
    )


def check_counts(meta: Candidate) -> None:
    """Batches must be shared out equally, and metrics have enough samples."""
    processes = meta.trainers.world_size
    if meta.data.batch_size % processes:
        raise Refused(
            "data.batch_size",
            f"{meta.data.batch_size} images are not divisible by {processes} processes",
            "choose a multiple of the number of processes",
        )
    if meta.evaluator.is_full and meta.real.size is None:
        problem = "a law's samples never end, so that there are not all of them to compare with"
        raise Refused("evaluator.preset", problem, "take `evaluator.preset: held_out`")
    try:
        meta.evaluator.check(meta.evaluator.n_measured(meta.data.n_reference))
    except Refused as refused:  # a metric says n, which is a field of the data
        raise refused.renamed(
            lambda name: "data.n_reference" if name == "n" else f"evaluator.{name}"
        ) from None


def check_generator(meta: Candidate, biases: Collection[float]) -> Generator:
    """The family must fit the data, λ, the Trainer's flags and the weights to start from."""
    generator = meta.fresh_generator(1)
    for sampling_bias in sorted(biases):
        generator.check_bias(sampling_bias)
    with at("trainer"):
        generator.check_precision(meta.trainers.precision)
        generator.check_device(meta.trainers.kind, meta.trainers.precision)
    learned = meta.sampling.class_counts(1)
    counts = [len(meta.policy.mix(1))] if learned is None else learned.tolist()
    with at("generator"):
        generator.check_training(counts, meta.data.batch_size // meta.trainers.world_size)
    if not generator.automatic_optimization:
        check_steps_by_hand(meta, generator)
    check_draw(generator, meta.bias(1))
    with at("improve"):
        meta.improving.check(generator, meta.settings.generations)
    family, settings = type(generator).__name__, meta.settings
    if generator.is_alone and meta.trainers.world_size > 1:
        raise Refused(
            "trainer.devices",
            f"{meta.trainers.world_size} processes, and {family} is trained by one",
            "use `trainer.devices: 1`; programs of its own may use all devices",
        )
    if generator.exact_pass and meta.trainers.arguments().get("max_epochs") == -1:
        raise Refused("trainer.max_epochs", f"-1, and {family} takes no steps to end by", "use 1")
    if settings.start != "scratch" and generator.exact_pass:
        raise Refused(
            "lineage.start",
            f"{family} is fitted anew to samples, in closed form or by programs of its own: its "
            "start changes nothing",
            "use scratch",
        )
    if settings.base is None:
        return generator
    try:
        load_weights(generator, Path(settings.base))
    except OSError as error:
        remedy = f"name a {meta.lineage.WEIGHTS} of this family, size and kind of data"
        raise Refused("lineage.base", str(error), remedy) from None
    except (RuntimeError, TypeError, AttributeError) as error:
        first, *more = str(error).strip().splitlines()  # torch lists what is missing below
        reason = (more[0].strip() if more else first)[:300]
        raise Refused(
            "lineage.base",
            f"{settings.base} does not fit {family} on {meta.data.source.name}: {reason}",
            f"name a {meta.lineage.WEIGHTS} of this family, size and kind of data",
        ) from None
    return generator


def check_draw(generator: Generator, sampling_bias: float) -> None:
    """What a family of the user's own draws must be samples: that needs no training to be seen."""
    if type(generator).__module__.startswith("mad_lightning."):
        return
    labels = None if generator.spec.classes is None else torch.zeros(2, dtype=torch.int64)
    with at("generator"):
        try:
            generator.sample(torch.arange(2), sampling_bias, labels)
        except Diverged:
            return  # it may have to be trained first
        except Refused:
            raise
        except Exception:
            return  # likewise; what is wrong with it shows when it has been


def check_steps_by_hand(meta: Candidate, generator: Generator) -> None:
    """Trainer arguments that a family which steps by hand would have to obey itself."""
    arguments, family = meta.trainers.arguments(), type(generator).__name__
    for name, harmless, remedy in (
        ("accumulate_grad_batches", 1, "use `generator.accumulate` where the family has it"),
        ("gradient_clip_val", 0.0, "leave it out: adversarial families have penalties"),
    ):
        value = arguments.get(name)
        if value is not None and value != harmless:
            raise Refused(f"trainer.{name}", f"{value}, and {family} steps by hand", remedy)


def check_places(meta: Candidate) -> None:
    """The lineage and what it shares with others must find a directory, or a place for one."""
    path, cache = meta.lineage.path, meta.data.cache
    stand: dict[str, Path] = {}
    for field, wanted in (("lineage.root", path), ("data.cache", cache)):
        with at(field):
            stand[field] = nearest(wanted)
    if len(meta.lineage.records()) >= meta.settings.generations:
        return  # there is nothing to do
    for field, place in stand.items():
        is_warm = place == cache and field == "data.cache"
        if not is_warm and not os.access(place, os.W_OK | os.X_OK):
            raise Refused(field, f"{place} may not be written to", "name another directory")
    if path.resolve() == cache.resolve():
        raise Refused(
            "lineage.name",
            f"{meta.lineage} is where decoded data and features are kept",
            "give the lineage another `lineage.name`, or keep them elsewhere by `data.cache`",
        )


def check_memory(meta: Candidate, spec: SampleSpec) -> None:
    """What must be in memory at once must find room there."""
    policy, data = meta.policy, meta.data
    first, *later = map(policy.mix, (1, 2, meta.settings.generations))
    most_real = max(mix.n_real + mix.n_fresh for mix in later)
    sample, most = sample_bytes(spec), memory()
    for field, count in (
        ("data.n_reference", data.n_reference),
        ("data.batch_size", data.batch_size),
        (_of(policy, "n_initial"), first.n_real + first.n_fresh),
        (_of(policy, policy.pool_field), most_real),
        (_of(policy, "n_synthetic"), max(map(policy.n_draw, _all(meta)))),
        ("treatment.candidates", max(map(meta.treating.n_drawn, _all(meta)))),
        ("evaluator.n_drawn", meta.evaluator.n_measured(data.n_reference)),
    ):
        if count * sample > most:
            raise Refused(
                field,
                f"{count} samples of {sample} bytes take {size(count * sample)} of memory, this "
                f"machine has {size(most)}",
                f"take at most {most // sample}",
            )


def check_disk(meta: Candidate, generator: Generator) -> None:
    """What the generations to come will write must find room on the disk."""
    coming = range(len(meta.lineage.records()) + 1, meta.settings.generations + 1)
    disk = shutil.disk_usage(nearest(meta.lineage.path))
    drawn = meta.retention.most(meta.treating.n_stored, coming.start)
    samples = drawn * sample_bytes(generator.spec)
    weights = len(coming) * weight_bytes(generator) * (1 + bool(meta.improving))
    all_stay = meta.settings.keep == "all"
    if samples + weights > disk.free and disk.total:
        raise Refused(
            _of(meta.policy, "n_synthetic") if samples > weights else "lineage.root",
            f"{len(coming)} generations will write {size(samples)} of samples and {size(weights)} "
            f"of weights, {size(disk.free)} are free for {meta.lineage}",
            "make room, or train fewer generations (`lineage.generations`) on fewer samples"
            + (", or drop those that are done with (`lineage.keep: needed`)" if all_stay else ""),
        )


def check_epochs(meta: Candidate, generator: Generator) -> None:
    """An epoch must hold a batch, and a generation must end some day."""
    if generator.exact_pass:
        return
    data, arguments = meta.data, meta.trainers.arguments()
    if data.images_per_epoch is not None and data.images_per_epoch < data.batch_size:
        raise Refused(
            "data.images_per_epoch",
            f"{data.images_per_epoch} images are less than a batch of {data.batch_size}",
            "take at least `data.batch_size`",
        )
    images = data.images_per_epoch or max(data.batch_size, len(meta.policy.mix(1)))
    batches = math.ceil(images / data.batch_size)
    for field in ("limit_train_batches", "overfit_batches"):
        share = arguments.get(field)
        if isinstance(share, float) and share > 0 and int(share * batches) == 0:
            problem = f"{share} of {batches} batches is none"
            raise Refused(f"trainer.{field}", problem, "take at least one batch")
    epochs = max(1, arguments.get("max_epochs") or 1000)
    if images * epochs > _MOST_IMAGES and (arguments.get("max_steps") or -1) == -1:
        days = images * epochs / 1e6 / 86400
        raise Refused(
            "trainer.max_epochs" if epochs > images else "data.images_per_epoch",
            f"{epochs} epochs of {images} images a generation take {days:.1g} days at a million "
            "images a second",
            "lower `trainer.max_epochs` or `data.images_per_epoch`",
        )


def check_stopping(meta: Candidate) -> None:
    """Nobody may wait for a quantity that the family does not log; asked of one small batch."""
    given = meta.trainers.arguments()["callbacks"]
    waiting = [call for call in given if isinstance(call, EarlyStopping) and call.strict]
    if not waiting or meta.lineage.records():
        return
    generator, mix = meta.fresh_generator(1), meta.policy.mix(1)
    is_dear = generator.is_alone  # programs of its own train it, however small the batch
    logged = [] if is_dear else sorted(rehearse(generator, meta.data, mix, meta.seed))
    for callback in waiting:
        if callback.monitor not in logged:
            raise Refused(
                "trainer.callbacks",
                f"EarlyStopping waits for {callback.monitor!r}, which is never logged",
                f"choose {' or '.join(logged)}" if logged else "leave it out",
            )


def _all(meta: Candidate) -> range:
    return range(1, meta.settings.generations + 1)


def _of(policy: LoopPolicy, field: str) -> str:
    """A policy's field; the policy as a whole if it has none of that name."""
    return f"policy.{field}" if hasattr(policy, field) else "policy"
