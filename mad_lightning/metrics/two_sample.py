"""What a lineage reports, by name.

A metric compares two sets and returns named values. The name carries what decides the value's
scale: a Fréchet distance is ``fid`` on Inception features and ``fd_<extractor>`` on any others.

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
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
import torchmetrics
from torch import Tensor

from mad_lightning.metrics.functional import (
    Moments,
    Team,
    class_recall,
    class_share,
    frechet_distance,
    gaussian_w2_squared,
    kernel_distance,
    kernel_distance_of_subsets,
    memorisation,
    squared_radii,
    two_sample,
)
from mad_lightning.metrics.functional.checks import check_features
from mad_lightning.metrics.functional.team import gather_rows
from mad_lightning.refusal import Refused
from mad_lightning.samples import Law

__all__ = [
    "Classes",
    "Frechet",
    "GaussianW2",
    "Kernel",
    "Memorisation",
    "Metric",
    "Neighbours",
    "View",
]

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
    """

    features: Tensor
    extractor: str = "identity"
    law: Law | None = None
    labels: Tensor | None = None
    training: Tensor | None = None


class Metric(torchmetrics.Metric, ABC):
    """Abstract comparison of two sets."""

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    sets: ClassVar[tuple[str, ...]] = ("real", "synthetic")
    """What ``update`` collects: rows (N, D), joined over processes."""
    extractor: str = "identity"
    """Name of what makes the features that ``update`` is given."""
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

    def protocol(self) -> dict[str, Any]:
        """What the values depend on besides n and the features."""
        return {}

    def check(self, n: int, extractor: str) -> None:
        """Refuses a number of samples, or an extractor, that the metric cannot work with."""

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


def _named(on_inception: str, prefix: str, extractor: str) -> str:
    return on_inception if extractor == "inception" else f"{prefix}_{extractor}"


class Neighbours(Metric):
    """Precision, recall (Kynkäänniemi et al., 2019), density and coverage (Naeem et al., 2020).

    Args:
        k: Neighbour that sets the radius of a ball; the paper uses 5.
        balls: ``closed`` counts a sample on the surface as inside, as the definition does; ``open``
            is the convention of the package prdc.
    """

    def __init__(self, k: int = 5, balls: Literal["closed", "open"] = "closed") -> None:
        super().__init__()
        if k < 1:
            raise Refused("evaluator.metrics.k", f"{k}", "take at least 1; the paper takes 5")
        self.k, self.balls = k, balls

    def values(self, real: View, synthetic: View) -> dict[str, float]:
        """``precision``, ``recall``, ``density``, ``coverage``; all but density lie in [0, 1]."""
        x = check_features(real.features, "real", self.k + 1, f"more than k = {self.k}")
        radii = self._of_real(x, lambda: squared_radii(x, self.k, team=self.team))
        return two_sample(
            x, synthetic.features, k=self.k, balls=self.balls, real_radii=radii, team=self.team
        )

    def protocol(self) -> dict[str, Any]:
        """k and the kind of balls."""
        return {"k": self.k, "balls": self.balls}

    def check(self, n: int, extractor: str) -> None:
        """n must exceed k."""
        if n <= self.k:
            raise Refused(
                "data.n_reference",
                f"{n} samples have no {self.k}-th neighbour each",
                f"hold out more than k = {self.k} samples",
            )


class Frechet(Metric):
    """Fréchet distance between Gaussians fitted to the features (Heusel et al., 2017, eq. 6).

    It is biased upward for few samples: compare it with its floor, at equal n only.

    Args:
        extractor: Name of what makes the features, where no evaluator tells it.
    """

    def __init__(self, extractor: str = "identity") -> None:
        super().__init__()
        self.extractor = extractor

    def values(self, real: View, synthetic: View) -> dict[str, float]:
        """``fid`` for Inception features, else ``fd_<extractor>``; at least 0, lower is better."""
        x = check_features(real.features, "real", 2)
        few = len(x) - 1 <= x.shape[1]  # then nothing is squared, and there is nothing to keep
        moments = None if few else self._of_real(x, lambda: Moments.of(x, self.team))
        value = frechet_distance(x, synthetic.features, real_moments=moments, team=self.team)
        return {_named("fid", "fd", real.extractor): value}


class Kernel(Metric):
    """Kernel distance with a cubic polynomial (Bińkowski et al., 2018), unbiased for any n.

    Args:
        subsets: None takes all pairs; a number takes the mean over as many random subsets, as
            papers report it, and adds its standard deviation.
        subset_size: Samples in a subset.
        seed: Decides the subsets, which are the same for each call.
        extractor: Name of what makes the features, where no evaluator tells it.
    """

    def __init__(
        self,
        subsets: int | None = None,
        subset_size: int = 1000,
        seed: int = 0,
        extractor: str = "identity",
    ) -> None:
        super().__init__()
        if subsets is not None and (subsets < 1 or subset_size < 2):
            raise Refused(
                "evaluator.metrics.subsets",
                f"{subsets} of {subset_size} samples",
                "take at least 1 subset of at least 2, or leave it out to use all pairs",
            )
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed
        self.extractor = extractor

    def values(self, real: View, synthetic: View) -> dict[str, float]:
        """``kid`` for Inception features, else ``kd_<extractor>``; around 0 for equal laws."""
        name = _named("kid", "kd", real.extractor)
        if self.subsets is None:
            return {name: kernel_distance(real.features, synthetic.features, team=self.team)}
        rng = torch.Generator().manual_seed(self.seed)
        mean, deviation = kernel_distance_of_subsets(
            real.features,
            synthetic.features,
            subsets=self.subsets,
            subset_size=self.subset_size,
            rng=rng,
        )
        return {name: mean, f"{name}_std": deviation}

    def protocol(self) -> dict[str, Any]:
        """The subsets, if any."""
        if self.subsets is None:
            return {}
        return {"kernel_subsets": self.subsets, "kernel_subset_size": self.subset_size}

    def check(self, n: int, extractor: str) -> None:
        """n must fill a subset."""
        least = 2 if self.subsets is None else self.subset_size
        if n < least:
            raise Refused(
                "data.n_reference",
                f"{n} samples do not fill a subset of {least}",
                "hold out more, or lower evaluator.metrics.subset_size",
            )


class Classes(Metric):
    """What is left of each class, averaged over classes: its share, and its recall.

    Recall sees a class that fades where precision and the trace of the covariance do not.

    Args:
        k: Neighbour that sets the radius of a ball.
        balls: As for :class:`Neighbours`.
    """

    sets = ("real", "synthetic", "real_labels", "synthetic_labels")

    def __init__(self, k: int = 5, balls: Literal["closed", "open"] = "closed") -> None:
        super().__init__()
        if k < 1:
            raise Refused("evaluator.metrics.k", f"{k}", "take at least 1; the paper takes 5")
        self.k, self.balls = k, balls

    def update(self, features: Tensor, real: bool, labels: Tensor) -> None:  # type: ignore[override]
        """Takes in a batch.

        Args:
            features: Features (N, D), floats.
            real: Whether they are real, else synthetic.
            labels: Classes (N,), integers from 0 on.
        """
        name = "real" if real else "synthetic"
        if labels.shape != features.shape[:1] or labels.is_floating_point():
            raise ValueError(
                f"{name} has {len(features)} samples and labels of {labels.dtype} "
                f"and shape {tuple(labels.shape)}"
            )
        self._take(name, features)
        self._take(f"{name}_labels", labels[:, None].float())  # exact up to 2^24 classes

    def values(self, real: View, synthetic: View) -> dict[str, float]:
        """``class_share`` and ``class_recall``, in [0, 1]."""
        if real.labels is None or synthetic.labels is None:
            raise Refused(
                "evaluator.metrics",
                "Classes compares class by class, and these samples have no labels",
                "leave it out, or take a labelled source and a class-conditional generator",
            )
        return {
            "class_share": class_share(real.labels, synthetic.labels),
            "class_recall": class_recall(
                real.features, real.labels, synthetic.features, self.k, self.balls
            ),
        }

    def protocol(self) -> dict[str, Any]:
        """k and the kind of balls."""
        return {"k": self.k, "balls": self.balls}

    def _views(self) -> tuple[View, View]:
        real, synthetic = (
            View(self._rows(name), labels=self._rows(f"{name}_labels").squeeze(1).long())
            for name in ("real", "synthetic")
        )
        return real, synthetic


class Memorisation(Metric):
    """Distance to the nearest training sample, of synthetic samples against held-out real ones.

    Args:
        q: Quantile of the real distances below which a synthetic sample counts as memorised.
    """

    sets = ("real", "synthetic", "training")
    needs_training = True

    def __init__(self, q: float = 0.05) -> None:
        super().__init__()
        if not 0.0 < q < 1.0:
            raise Refused("evaluator.metrics.q", f"{q}", "take a fraction between 0 and 1")
        self.q = q

    def update(self, features: Tensor, real: bool, training: bool = False) -> None:
        """Takes in a batch.

        Args:
            features: Features (N, D), floats.
            real: Whether they are real, else synthetic.
            training: Whether the generator was trained on them.
        """
        self._take("training" if training else "real" if real else "synthetic", features)

    def values(self, real: View, synthetic: View) -> dict[str, float]:
        """``nearest_synthetic``, ``nearest_real``, their ``nearest_ratio``, ``memorised``."""
        if real.training is None:
            raise Refused(
                "evaluator.metrics",
                "Memorisation needs the features of what the generator was trained on",
                "give them as the real side's training",
            )
        return memorisation(
            real.training, real.features, synthetic.features, self.q, team=self.team
        )

    def protocol(self) -> dict[str, Any]:
        """The quantile."""
        return {"memorised_quantile": self.q}

    def _views(self) -> tuple[View, View]:
        real = View(self._rows("real"), training=self._rows("training"))
        return real, View(self._rows("synthetic"))


class GaussianW2(Metric):
    """Squared 2-Wasserstein distance between the law of the real data and the generator's.

    Both laws are known exactly where source and family are Gaussian; nothing is sampled, so the
    value has no sampling error. It is the paper's WD (section 5.2; its axes show the square), and
    it measures the fitted, unbiased law whatever λ the shard is drawn with. A set without a law,
    as on the real side of the floor, stands in with its sample moments.
    """

    def values(self, real: View, synthetic: View) -> dict[str, float]:
        """``w2_squared``, at least 0."""
        laws = [self._law(view) for view in (real, synthetic)]
        return {
            "w2_squared": gaussian_w2_squared(
                laws[0].mean, laws[0].covariance, laws[1].mean, laws[1].covariance
            )
        }

    def check(self, n: int, extractor: str) -> None:
        """Sample moments stand in for a law only in the space of the samples."""
        if extractor != "identity":
            raise Refused(
                "evaluator.metrics",
                f"GaussianW2 compares samples themselves, not {extractor} features",
                "use it with the extractor Identity",
            )

    def _law(self, view: View) -> Law:
        if view.law is not None:
            return view.law
        n, mean, scatter = Moments.of(check_features(view.features, "a set", 2), self.team)
        return Law(mean, scatter / (n - 1))
