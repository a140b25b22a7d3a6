"""A metric: two sets in, named values out.

A metric compares two sets and returns named values. The name carries what decides the value's
scale: a Fréchet distance is ``fid`` on Inception features and ``fd_<extractor>`` on any others.
What a value means, it states once (:meth:`Metric.quantities`): the ledger carries that, and whoever
draws, words or judges the value reads it there.

Each is a torchmetrics ``Metric``, which is used in one of two ways. The evaluator has both sets
whole and calls it: ``metric(View(real), View(synthetic))``. A Lightning loop feeds it batch by
batch, ``metric.update(features, real=True)``, and asks for ``metric.compute()``; then Lightning
moves and checkpoints what was seen, processes that saw different numbers of samples, or none, join
theirs, and all share the work. Either way what is worked out of the real side alone is kept, as
real sets outlive generations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
import torchmetrics
from torch import Tensor

from mad_lightning.identity import Described
from mad_lightning.lineage.quantities import MeasurementError, Quantity
from mad_lightning.processes import Team, gather_rows
from mad_lightning.samples import Law, Samples

__all__ = ["Metric", "View"]

T = TypeVar("T")


@dataclass(frozen=True)
class View:
    """One of the two sets, as a metric sees it.

    Attributes:
        features: Features (N, D), float32.
        extractor: Name of what made them.
        law: Exact mean and covariance behind the set, where they are known.
        labels: Classes (N,), where samples have them.
        training: On the real side, features of what the generator was trained on, where at hand.
        seen: Classes (N,) that the extractor takes samples for, where it can tell.
        stored: The samples themselves, where a metric asks for them.
    """

    features: Tensor
    extractor: str = "identity"
    law: Law | None = None
    labels: Tensor | None = None
    training: Tensor | None = None
    seen: Tensor | None = None
    stored: Samples | None = None

    def to(self, device: str) -> View:
        """The same on a device; the samples themselves stay where they are."""
        law = self.law
        if torch.device(device) == self.features.device:
            return self
        if law is not None:
            modes = None if law.modes is None else law.modes.to(device)
            law = Law(law.mean.to(device), law.covariance.to(device), modes)
        moved = {
            name: value.to(device)
            for name in ("features", "labels", "training", "seen")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, law=law, **moved)

    def first(self, m: int) -> tuple[Tensor, Tensor | None]:
        """Features and classes of the first samples."""
        return self.features[:m], None if self.labels is None else self.labels[:m]


class Metric(Described, torchmetrics.Metric, ABC):
    """Abstract comparison of two sets."""

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    sets: ClassVar[tuple[str, ...]] = ("real", "synthetic")
    """What ``update`` collects: rows (N, D), joined over processes."""
    extractor: str = "identity"
    """Name of what makes the features that ``update`` is given."""
    takes_unequal_sets: ClassVar[bool] = False
    """Whether it is defined between a reference and another number of samples."""
    needs_stored: ClassVar[bool] = False
    """Whether both sides must bring the samples themselves."""
    needs_training: ClassVar[bool] = False
    """Whether the real side must bring features of what the generator was trained on."""

    def __init__(self) -> None:
        super().__init__(dist_sync_fn=gather_rows)
        for name in self.sets:
            self.add_state(name, [], dist_reduce_fx="cat")
        self._known: tuple[Tensor, Any] | None = None

    @abstractmethod
    def values(self, real: View, synthetic: View) -> dict[str, float]:
        """Named values. ``real`` is the reference; each process of the team holds both sets."""

    @property
    def team(self) -> Team:
        """Who shares the work: all processes once they have joined their samples, else this one."""
        return Team.of(self.process_group) if self._is_synced else Team()

    def forward(self, real: View, synthetic: View) -> dict[str, float]:
        """Compares two sets that are at hand, in this process; what ``update`` saw is untouched."""
        return self.values(real, synthetic)

    def update(self, features: Tensor, real: bool) -> None:
        """Takes in a batch.

        Args:
            features: Features (N, D), floats.
            real: Whether they are real, else synthetic.
        """
        self._take("real" if real else "synthetic", features)

    def compute(self) -> dict[str, float]:
        """Compares what all processes have taken in. Every process must ask."""
        return self.values(*self._views())

    def forget_synthetic(self) -> None:
        """Makes ready for the next generation; ``reset`` forgets the real side too."""
        kept = {name: list(getattr(self, name)) for name in self.sets if "synthetic" not in name}
        known = self._known
        self.reset()
        self._known = known
        for name, rows in kept.items():
            setattr(self, name, rows)

    def reset(self) -> None:
        """Forgets all that it has taken in."""
        super().reset()
        self._known = None

    def quantities(self, extractor: str) -> dict[str, Quantity]:
        """What the values mean, by the names that they have with an extractor of this name.

        Values that no metric explains are drawn by themselves, and judged by nobody.
        """
        return {}

    def errors(self, real: View, synthetic: View, m: int) -> dict[str, MeasurementError]:
        """How far values may lie from those of other samples, and of another reference.

        Args:
            real: The reference.
            synthetic: As many samples.
            m: How many of each, the first ones, to look at where all would be dear.

        Returns:
            Errors by the values' names; nothing where a metric does not know.
        """
        return {}

    def protocol(self) -> dict[str, Any]:
        """What the values depend on besides n and the features."""
        return {}

    def check(self, n: int, extractor: str) -> None:
        """Refuses what the metric cannot work with.

        Args:
            n: Samples of the reference, and as many of the other set.
            extractor: Name of what makes the features.

        Raises:
            Refused: With the field ``n``, one of the metric's own parameters, or none.
        """

    def _views(self) -> tuple[View, View]:
        real, synthetic = (View(self._rows(name), self.extractor) for name in ("real", "synthetic"))
        return real, synthetic

    def _take(self, name: str, rows: Tensor) -> None:
        if rows.ndim != 2 or not rows.is_floating_point():
            raise ValueError(
                f"{name} is {rows.dtype} of shape {tuple(rows.shape)}, not floats (N, D)"
            )
        if len(rows):
            rows = rows.detach()
            getattr(self, name).append(rows if rows.dtype == torch.float64 else rows.float())

    def _rows(self, name: str) -> Tensor:
        """All rows taken in; joined once, so that what is known of them keeps their memory only."""
        rows = getattr(self, name)
        if isinstance(rows, list) and rows:
            rows = torch.cat(rows)
            setattr(self, name, [rows])
        if not len(rows):
            raise ValueError(f"{name} has 0 samples: update the metric before computing it")
        return rows

    def _of_real(self, real: Tensor, find: Callable[[], T]) -> T:
        """What was found of this very set before, else what is found now.

        All processes of a team must agree on that: finding it is work that they share.
        """
        known = self._known
        same = (
            known is not None
            and (known[0].dtype, known[0].device) == (real.dtype, real.device)
            and torch.equal(known[0], real)
        )
        if known is None or not self.team.gathered(torch.tensor(same, device=real.device)).all():
            self._known = known = (real, find())
        return known[1]
