"""Observers of a lineage.

A callback watches: it gets frozen records, changes nothing, and no number depends on it or on the
order of its siblings. (Evaluation is a phase of the loop, not a callback, for that reason.) Hooks
speak of lineages, generations and samples; they never reuse the name of a Lightning hook, because
Lightning's callbacks live inside one generation and these live outside all of them. They are
called on the first process only. The one exception is a stopping rule: every process asks it, and
it answers from the records alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mad_lightning.identity import Described
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.lineage.ledger import GenerationRecord, Start
from mad_lightning.lineage.quantities import Quantity, quantities_of
from mad_lightning.policies import Mix
from mad_lightning.processes import is_first
from mad_lightning.refusal import Refused, at
from mad_lightning.samples import Samples

__all__ = ["LineageCallback", "LineageInfo", "Observers"]


@dataclass(frozen=True)
class LineageInfo:
    """What stays the same over a lineage.

    Attributes:
        name: Its name.
        directory: Where its files lie.
        generations: How many it shall have.
        seed: The lineage's seed.
        policy: Token of the loop policy.
        sampling_bias: λ, or its schedule.
        floor: Real-against-real values of its metrics.
        protocol: What the values depend on.
        quantities: What each metric's name means.
        config: The resolved configuration, as plain values.
        start: Where the weights of a generation come from: ``scratch``, ``base``, ``previous``.
        data: Digest of its real samples, as the ledger has it; empty if that tells none.
        real_samples: Takes as many samples of the reference as a picture shows, each class in turn.
    """

    name: str
    directory: LineageDirectory
    generations: int
    seed: int
    policy: str
    sampling_bias: float | str
    floor: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    quantities: dict[str, Quantity] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    start: Start = "scratch"
    data: str = ""
    real_samples: Callable[[], Samples] | None = None

    def __post_init__(self) -> None:
        """Names that nobody explains are read as this package's own metrics."""
        object.__setattr__(self, "quantities", quantities_of(self.floor, self.quantities))


class LineageCallback(Described):
    """Base of all observers; every hook does nothing until overridden.

    Attributes:
        alone: Whether a lineage can have one of its class only.
    """

    alone: ClassVar[bool] = False

    def check(self, quantities: Mapping[str, Quantity]) -> None:
        """Called before anything is written; may raise ``Refused``.

        Args:
            quantities: What will be measured of each generation, by name.
        """

    def on_lineage_start(self, lineage: LineageInfo, records: Sequence[GenerationRecord]) -> None:
        """Before the first generation that is still to be made; ``records`` are the finished."""

    def on_generation_start(self, t: int, mix: Mix) -> None:
        """Before generation ``t`` trains."""

    def on_generation_progress(self, t: int, phase: str, done: int, total: int) -> None:
        """Within a phase (``train``, ``sample``, ``evaluate``), often."""

    def on_generation_curves(self, t: int, images: int, values: dict[str, float]) -> None:
        """After a training epoch ("tick"): ``images`` seen in this generation, logged values."""

    def wants_samples(self, t: int) -> bool:
        """Whether :meth:`on_samples_ready` has a use for the samples of generation ``t``.

        Called on every process: it must depend on nothing else.
        """
        return type(self).on_samples_ready is not LineageCallback.on_samples_ready

    def on_samples_ready(self, t: int, directory: Path, samples: Samples) -> None:
        """Samples from the same seeds and classes in every generation, for looking at.

        Called before generation ``t`` counts as sampled, so what is written into the generation's
        directory here is never missing.
        """

    def on_generation_end(self, record: GenerationRecord, directory: Path) -> None:
        """After the ledger has the record; ``directory`` is the generation's."""

    def reason_to_stop(self, records: Sequence[GenerationRecord]) -> str | None:
        """Why the lineage should not go on after these generations; None if it should.

        Called on every process, also when a lineage is resumed: it must depend on nothing else.
        """
        return None

    def on_lineage_stop(self, reason: str) -> None:
        """When a stopping rule has ended the lineage."""

    def on_lineage_end(self, records: Sequence[GenerationRecord], finished: bool) -> None:
        """After the last generation, or when something was raised (``finished`` is False)."""


class Observers:
    """All observers of a lineage as one, with the same hooks, on the first process only.

    Args:
        callbacks: The observers, told in this order.
    """

    def __init__(self, callbacks: Sequence[LineageCallback]) -> None:
        self.callbacks = tuple(callbacks)

    @property
    def told(self) -> tuple[LineageCallback, ...]:
        """Those that are told: all on the first process, none on the others."""
        return self.callbacks if is_first() else ()

    def check(self, quantities: Mapping[str, Quantity]) -> None:
        """Lets each refuse; a refusal names the observer's class."""
        names = Counter(type(callback).__name__ for callback in self.callbacks if callback.alone)
        if doubled := next((name for name, n in names.items() if n > 1), None):
            with at("callbacks"):
                problem = "two of them would show each generation twice in one place"
                raise Refused(doubled, problem, "give its settings to the one that is there")
        for callback in self.callbacks:
            with at(f"callbacks.{type(callback).__name__}"):
                callback.check(quantities)

    @contextmanager
    def watching(
        self, lineage: LineageInfo, records: list[GenerationRecord]
    ) -> Iterator[list[GenerationRecord]]:
        """Tells start and end of a lineage.

        Yields:
            The finished generations, to which the loop adds.
        """
        self.on_lineage_start(lineage, tuple(records))
        finished = False
        try:
            yield records
            finished = True
        finally:
            self.on_lineage_end(tuple(records), finished)

    def stop(self, records: Sequence[GenerationRecord]) -> bool:
        """Whether a stopping rule ends the lineage here; every process comes to the same answer."""
        reason = self.reason_to_stop(tuple(records))
        if reason is not None:
            self.on_lineage_stop(reason)
        return reason is not None

    def wants_samples(self, t: int) -> bool:
        """Whether any has a use for samples of generation ``t`` to look at."""
        return any(callback.wants_samples(t) for callback in self.callbacks)

    def progress(
        self, t: int, phase: str, tick: Callable[[], None] | None
    ) -> Callable[[int, int], None]:
        """Tells the clock of a phase that it goes on, and the observers how far it is.

        Args:
            t: Generation.
            phase: ``train``, ``sample`` or ``evaluate``.
            tick: Of the clock; None where none runs.

        Returns:
            To be called with (done, all of them).
        """

        def announce(done: int, total: int) -> None:
            if tick is not None:
                tick()
            self.on_generation_progress(t, phase, done, total)

        return announce

    def on_lineage_start(self, lineage: LineageInfo, records: Sequence[GenerationRecord]) -> None:
        """Tells each."""
        for callback in self.told:
            callback.on_lineage_start(lineage, records)

    def on_generation_start(self, t: int, mix: Mix) -> None:
        """Tells each."""
        for callback in self.told:
            callback.on_generation_start(t, mix)

    def on_generation_progress(self, t: int, phase: str, done: int, total: int) -> None:
        """Tells each."""
        for callback in self.told:
            callback.on_generation_progress(t, phase, done, total)

    def on_generation_curves(self, t: int, images: int, values: dict[str, float]) -> None:
        """Tells each."""
        for callback in self.told:
            callback.on_generation_curves(t, images, values)

    def on_samples_ready(self, t: int, directory: Path, samples: Samples) -> None:
        """Tells each."""
        for callback in self.told:
            callback.on_samples_ready(t, directory, samples)

    def on_generation_end(self, record: GenerationRecord, directory: Path) -> None:
        """Tells each."""
        for callback in self.told:
            callback.on_generation_end(record, directory)

    def reason_to_stop(self, records: Sequence[GenerationRecord]) -> str | None:
        """The first reason that one gives, on every process."""
        reasons = (callback.reason_to_stop(records) for callback in self.callbacks)
        return next((reason for reason in reasons if reason), None)

    def on_lineage_stop(self, reason: str) -> None:
        """Tells each."""
        for callback in self.told:
            callback.on_lineage_stop(reason)

    def on_lineage_end(self, records: Sequence[GenerationRecord], finished: bool) -> None:
        """Tells each."""
        for callback in self.told:
            callback.on_lineage_end(records, finished)
