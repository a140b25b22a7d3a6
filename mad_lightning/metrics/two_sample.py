"""What a lineage reports, by name.

A metric compares two sets and returns named values. The name carries what decides the value's
scale: a Fréchet distance is ``fid`` on Inception features and ``fd_<extractor>`` on any others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mad_lightning.metrics.functional import (
    frechet_distance,
    gaussian_w2_squared,
    squared_radii,
    two_sample,
)
from mad_lightning.refusal import Refused
from mad_lightning.samples import Law

__all__ = ["Frechet", "GaussianW2", "Metric", "Neighbours", "View"]


@dataclass(frozen=True)
class View:
    """One of the two sets, as a measure sees it.

    Attributes:
        features: Features (N, D), float32.
        extractor: Name of what made them.
        law: Exact mean and covariance behind the set, where they are known.
    """

    features: Tensor
    extractor: str = "identity"
    law: Law | None = None


class Metric(ABC):
    """Abstract comparison of two sets."""

    @abstractmethod
    def __call__(self, real: View, synthetic: View) -> dict[str, float]:
        """Named values. ``real`` is the reference."""

    def protocol(self) -> dict[str, Any]:
        """What the values depend on besides n and the features."""
        return {}

    def check(self, n: int, extractor: str) -> None:  # noqa: B027 - most metrics take any number
        """Refuses a number of samples, or an extractor, that the metric cannot work with."""


class Neighbours(Metric):
    """Precision, recall (Kynkäänniemi et al., 2019), density and coverage (Naeem et al., 2020).

    Args:
        k: Neighbour that sets the radius of a ball; the paper uses 5.
        balls: ``closed`` counts a sample on the surface as inside, as the definition does; ``open``
            is the convention of the package prdc.
    """

    def __init__(self, k: int = 5, balls: Literal["closed", "open"] = "closed") -> None:
        if k < 1:
            raise Refused("evaluator.metrics.k", f"{k}", "take at least 1; the paper takes 5")
        self.k, self.balls = k, balls
        self._known: tuple[Tensor, Tensor] | None = None  # the reference outlives generations

    def _radii(self, real: Tensor) -> Tensor:
        """Squared radii of the real balls, kept while the real features stay the same object."""
        if self._known is None or self._known[0] is not real:
            self._known = (real, squared_radii(real, self.k))
        return self._known[1]

    def __call__(self, real: View, synthetic: View) -> dict[str, float]:
        """``precision``, ``recall``, ``density``, ``coverage``; all but density lie in [0, 1]."""
        return two_sample(
            real.features,
            synthetic.features,
            k=self.k,
            balls=self.balls,
            real_radii=self._radii(real.features),
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
    """

    def __call__(self, real: View, synthetic: View) -> dict[str, float]:
        """``fid`` for Inception features, else ``fd_<extractor>``; at least 0, lower is better."""
        name = "fid" if real.extractor == "inception" else f"fd_{real.extractor}"
        return {name: frechet_distance(real.features, synthetic.features)}


class GaussianW2(Metric):
    """Squared 2-Wasserstein distance between the law of the real data and the generator's.

    Both laws are known exactly where source and family are Gaussian; nothing is sampled, so the
    value has no sampling error. It is the paper's WD (section 5.2; its axes show the square), and
    it measures the fitted, unbiased law whatever λ the shard is drawn with. A set without a law,
    as on the real side of the floor, stands in with its sample moments.
    """

    def __call__(self, real: View, synthetic: View) -> dict[str, float]:
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

    @staticmethod
    def _law(view: View) -> Law:
        if view.law is not None:
            return view.law
        x = view.features.double()
        return Law(x.mean(dim=0), torch.atleast_2d(x.T.cov()))
