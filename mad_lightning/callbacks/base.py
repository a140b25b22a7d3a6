"""Observers of a lineage.

A callback watches: it gets frozen records, changes nothing, and no number depends on it or on the
order of its siblings. (Evaluation is a phase of the loop, not a callback, for that reason.) Hooks
speak of lineages, generations and samples; they never reuse the name of a Lightning hook, because
Lightning's callbacks live inside one generation and these live outside all of them. They are
called on the first process only. The one exception is a stopping rule: every process asks it, and
it answers from the records alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mad_lightning.lineage import GenerationRecord, Start
from mad_lightning.policies import Mix
from mad_lightning.samples import Samples

__all__ = ["LineageCallback", "LineageInfo"]


@dataclass(frozen=True)
class LineageInfo:
    """What stays the same over a lineage.

    Attributes:
        name: Its name.
        directory: Where it lives.
        generations: How many it shall have.
        seed: The lineage's seed.
        policy: Token of the loop policy.
        sampling_bias: λ.
        floor: Real-against-real values of its metrics.
        protocol: What the values depend on.
        config: The resolved configuration, as plain values.
        start: Where the weights of a generation come from: ``scratch``, ``base``, ``previous``.
    """

    name: str
    directory: Path
    generations: int
    seed: int
    policy: str
    sampling_bias: float
    floor: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    start: Start = "scratch"

    def generation_directory(self, t: int) -> Path:
        """Where generation ``t`` keeps its artefacts."""
        return self.directory / f"generation_{t:03d}"


class LineageCallback:
    """Base of all observers; every hook does nothing until overridden."""

    def check(self) -> None:
        """Called before anything is written; may raise ``Refused``."""

    def on_lineage_start(self, lineage: LineageInfo, records: Sequence[GenerationRecord]) -> None:
        """Before the first generation that is still to be made; ``records`` are the finished."""

    def on_generation_start(self, t: int, mix: Mix) -> None:
        """Before generation ``t`` trains."""

    def on_generation_progress(self, t: int, phase: str, done: int, total: int) -> None:
        """Within a phase (``train``, ``sample``, ``evaluate``), often."""

    def on_generation_curves(self, t: int, images: int, values: dict[str, float]) -> None:
        """After a training epoch ("tick"): ``images`` seen in this generation, logged values."""

    def on_samples_ready(self, t: int, directory: Path, samples: Samples, columns: int) -> None:
        """Samples from the same seeds and classes in every generation, for looking at.

        Called before generation ``t`` counts as sampled, so what is written here is never missing.
        """

    def on_generation_end(self, record: GenerationRecord, directory: Path) -> None:
        """After the ledger has the record."""

    def reason_to_stop(self, records: Sequence[GenerationRecord]) -> str | None:
        """Why the lineage should not go on after these generations; None if it should.

        Called on every process, also when a lineage is resumed: it must depend on nothing else.
        """
        return None

    def on_lineage_stop(self, reason: str) -> None:
        """When a stopping rule has ended the lineage."""

    def on_lineage_end(self, records: Sequence[GenerationRecord], finished: bool) -> None:
        """After the last generation, or when something was raised (``finished`` is False)."""
