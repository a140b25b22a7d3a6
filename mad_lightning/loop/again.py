"""Measuring again: the finished generations of a lineage, by other metrics, in other features.

A metric that was forgotten is no reason to train once more: all that was drawn is on disk. What is
measured again is a lineage to look at, in a directory beside the generations that it measures: the
same weights, samples and curves under second names, with a ledger and a floor of its own. Its
numbers are those of a lineage that was measured so from the start, and whatever reads lineages
(report, W&B, verification) reads it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from mad_lightning.files import with_nan
from mad_lightning.lineage.configuration import differences
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.lineage.ledger import GenerationRecord, now, values_digest
from mad_lightning.lineage.quantities import MeasurementError
from mad_lightning.loop.admission import check_data
from mad_lightning.loop.checkpoints import load_told
from mad_lightning.loop.meta_trainer import MetaTrainer
from mad_lightning.loop.verifying import (
    DRAWN_AGAIN,
    auxiliary,
    damage,
    evicted,
    mix,
    published,
    shard,
    weights,
)
from mad_lightning.policies import shard_name
from mad_lightning.processes import barrier, is_first
from mad_lightning.refusal import Refused, at

__all__ = ["MeasuredAgain"]


class MeasuredAgain(MetaTrainer):
    """Measures a lineage's generations again; nothing is trained or drawn.

    Args:
        of: The lineage.
        arguments: As for the lineage, but with another evaluator, in a directory of its own.
    """

    def __init__(self, of: LineageDirectory, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.of = of

    def fit(self) -> list[GenerationRecord]:
        """Measures the generations that were not measured so yet.

        Returns:
            The records, with other values.

        Raises:
            Refused: If what the lineage tells of is not there, or cannot be measured so.
        """
        for change in differences(self.of.config(), self.config):
            field, _, values = change.partition(": ")
            if not field.startswith("evaluator."):
                remedy = "undo the change: metrics and extractor alone may be others"
                raise Refused(field, f"{self.of} was trained otherwise: {values}", remedy)
        with at("data"):
            self.data.real(self.seed)
        check_data(self, self.of)
        return super().fit()

    def generation(self, t: int) -> GenerationRecord:
        """One generation, as the lineage has it, but for what is measured."""
        told = self.finished[t - 1]
        if is_first():
            for words in damage(self.of, told, (mix, weights, auxiliary, shard, published)):
                remedy = "bring it back from a copy, or run the lineage's own command"
                raise Refused(str(self.of), words, remedy)
            kept = self.of.mix(t) if self.evaluator.needs_training else None
            names = [told.drawn or shard_name(t), *(kept.shards if kept else ())]
            names += [told.published] if told.published else []
            if words := evicted(self.of, dict.fromkeys(names)):
                raise Refused(str(self.of), words, DRAWN_AGAIN)
            self.of.share(t, self.lineage, measured=False)
        barrier()
        kept = self.lineage.mix(t)
        assert kept is not None  # it has just been looked at
        self.observers.on_generation_start(t, kept)
        generator = self.fresh_generator(t)
        with at("lineage"):
            load_told(generator, self.lineage.weights(t), told.digests["generator"])
            self.improving.load(t, generator, told.digests)
        drawn = self.store[told.drawn or shard_name(t)]
        left = self.store[told.published or shard_name(t)]
        return self.enter(told, self.evaluate(t, generator, kept, drawn, left))

    def enter(self, told: GenerationRecord, measured: dict[str, Any]) -> GenerationRecord:
        """Enters the generation into its own ledger."""
        t, settings = told.generation, {}
        spent = self.lineage.spent(t)
        if not told.branched_from:
            settings = {"settings": self.settings_digest}
        record = replace(
            told,
            metrics=with_nan(measured["values"]),
            errors={k: MeasurementError(*v) for k, v in measured["errors"].items()},
            floor=with_nan(measured["floor"]),
            floor_errors=with_nan(measured["floor_errors"]),
            protocol=measured["protocol"],
            seconds=told.seconds | spent["seconds"],
            cpu_seconds=told.cpu_seconds | spent["cpu_seconds"],
            digests=told.digests | {"metrics": values_digest(measured["values"])} | settings,
            quantities=self.measuring.quantities(),
            changed=[],
            time=now(),
        )
        if is_first():
            self.lineage.settle(t)
            self.lineage.ledger.append(record)
            self.lineage.sweep(t)
        return record

    @cached_property
    def finished(self) -> list[GenerationRecord]:
        """The lineage's own records."""
        return self.of.records()
