"""What a lineage will cost, before it starts: generations, images, disk, and time if it is known.

Counts are arithmetic on the configuration. Seconds, and what is kept besides samples, follow from
the pace of a lineage that stands, or of a probe (:mod:`mad_lightning.loop.pacing`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from mad_lightning.generators.base import Generator
from mad_lightning.loop.admission import admit
from mad_lightning.loop.machine import sample_bytes, weight_bytes
from mad_lightning.loop.meta_trainer import MetaTrainer
from mad_lightning.loop.pacing import Pace, known
from mad_lightning.magnitudes import duration, size

__all__ = ["Forecast", "computing", "counted", "forecast"]


@dataclass(frozen=True)
class Forecast:
    """The generations that a lineage lacks.

    Attributes:
        name: The lineage.
        finished: Generations that stand.
        mixes: Of each generation that comes: its number, real, fresh, synthetic and external
            samples.
        trained: Images (or vectors) that it is trained on, counted as often as they are seen.
        drawn: Samples that it draws.
        samples_bytes: What of them is on disk at once, at most.
        weights_bytes: What all weights weigh; None of a family that must be trained to have some.
        start: Seconds besides, each time a program starts.
        seconds: Of all that come; None as long as no pace is known.
        cpu: CPU seconds in each of these seconds; None if that is not known.
        kept: Bytes that will be kept besides samples, weights included; None as long as no pace is
            known.
        source: Where the pace is from.
    """

    name: str
    finished: int
    mixes: list[tuple[int, int, int, int, int]]
    trained: list[int]
    drawn: list[int]
    samples_bytes: int
    weights_bytes: int | None
    start: float
    seconds: float | None = None
    cpu: float | None = None
    kept: int | None = None
    source: str = ""

    def at(self, pace: Pace | None) -> Forecast:
        """The same at a pace, if one is known."""
        if pace is None or not self.mixes:
            return self
        first = not self.finished
        seconds = len(self.mixes) * pace.generation + sum(self.trained) * pace.image
        kept = len(self.mixes) * pace.kept + first * pace.once
        return replace(
            self,
            seconds=max(0.0, seconds + first * pace.first),
            start=self.start if pace.start is None else pace.start,
            cpu=pace.cpu,
            kept=round(kept),
            source=pace.source,
        )

    @property
    def disk(self) -> int:
        """All bytes that will be kept, as far as that is known."""
        return self.samples_bytes + ((self.weights_bytes or 0) if self.kept is None else self.kept)

    def __str__(self) -> str:
        return f"{self.counts}\n{self.cost}"

    @property
    def counts(self) -> str:
        """What is arithmetic, in words."""
        from_outside = any(mix[-1] for mix in self.mixes)
        head = f"{'generation':>10} {'real':>9} {'fresh':>9} {'synthetic':>10}"
        head += f" {'external':>9}" if from_outside else ""
        lines = [
            f"{self.name}: {len(self.mixes)} generations to come, {self.finished} finished",
            f"{head} {'trained on':>12} {'drawn':>9}",
        ]
        rows = zip(self.mixes, self.trained, self.drawn, strict=True)
        for place, ((t, real, fresh, synthetic, external), trained, drawn) in enumerate(rows):
            if 10 <= place < len(self.mixes) - 1:
                lines += [f"{'...':>10}"] if place == 10 else []
                continue
            counts = f"{t:>10} {real:>9,} {fresh:>9,} {synthetic:>10,}"
            counts += f" {external:>9,}" if from_outside else ""
            lines.append(f"{counts} {trained:>12,} {drawn:>9,}")
        total = f"{sum(self.trained):,} trained on, {sum(self.drawn):,} drawn"
        return "\n".join([*lines, f"in all: {total}"])

    @property
    def cost(self) -> str:
        """Disk and time, in words."""
        time = "known after generation 1"
        if self.seconds is not None:
            whole = self.seconds + self.start
            time = f"about {duration(whole)}{computing(whole, self.cpu)}, {self.source}"
        disk = f"{size(self.samples_bytes)} of samples, weights known after generation 1"
        if self.weights_bytes is not None:
            disk = f"{size(self.samples_bytes)} of samples, {size(self.weights_bytes)} of weights"
        if self.source:
            disk += f"; with all else {size(self.disk)}"
        return f"disk:   {disk}\ntime:   {time}"


def computing(seconds: float, cpu: float | None) -> str:
    """What of a time is spent computing, in words; nothing if that is not known."""
    return "" if cpu is None else f" ({duration(seconds * cpu)} of CPU time)"


def forecast(meta: MetaTrainer) -> Forecast:
    """What the lineage will cost, at the pace of lineages that stand beside it, if there are any.

    Nothing is trained or written.

    Raises:
        Refused: If it cannot be trained as configured.
    """
    told = counted(meta)
    return told.at(known(meta) if told.mixes else None)


def counted(meta: MetaTrainer) -> Forecast:
    """What the lineage will cost as far as that is arithmetic.

    Raises:
        Refused: If it cannot be trained as configured.
    """
    admit(meta)
    generator = meta.fresh_generator(1)
    finished = len(meta.lineage.records())
    coming = range(finished + 1, meta.settings.generations + 1)
    mixes = [meta.policy.mix(t) for t in coming]
    weights = weight_bytes(generator) or _weight_of_last(meta, finished)
    weighs = None if weights is None else len(coming) * weights * (1 + bool(meta.improving))
    most = meta.retention.most(meta.treating.n_stored, coming.start) if mixes else 0
    return Forecast(
        meta.lineage.name,
        finished,
        [
            (mix.generation, mix.n_real, mix.n_fresh, mix.n_synthetic, mix.n_external)
            for mix in mixes
        ],
        [_trained(meta, generator, len(mix)) + meta.improving.images(len(mix)) for mix in mixes],
        [meta.treating.n_drawn(t) for t in coming],
        most * sample_bytes(generator.spec),
        weighs,
        start=time.process_time() if mixes else 0.0,
        seconds=None if mixes else 0.0,
    )


def _weight_of_last(meta: MetaTrainer, finished: int) -> int | None:
    """What the last generator weighs on disk."""
    path = meta.lineage.weights(finished)
    return path.stat().st_size if finished and path.exists() else None


def _trained(meta: MetaTrainer, generator: Generator, mix: int) -> int:
    """Images of a generation."""
    if generator.exact_pass:
        return mix
    arguments, batch = meta.trainers.arguments(), meta.data.batch_size
    batches = math.ceil((meta.data.images_per_epoch or max(batch, mix)) / batch)
    limit = arguments.get("limit_train_batches")
    if limit is not None:
        is_count = isinstance(limit, int) or limit > 1.0  # parsers may make 2 of it or 2.0
        batches = min(batches, int(limit)) if is_count else int(limit * batches)
    epochs, most = arguments.get("max_epochs") or 1000, arguments.get("max_steps") or -1
    steps = batches * epochs if epochs > 0 else most
    return batch * (min(steps, most) if most > 0 else steps)
