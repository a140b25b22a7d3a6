"""How far the synthetic law is from the real one: Fréchet, kernel and Wasserstein distances."""

from __future__ import annotations

from typing import Any

import torch

from mad_lightning.lineage.quantities import MeasurementError, Quantity, quantities_of
from mad_lightning.metrics.base import Metric, View
from mad_lightning.metrics.functional import (
    Moments,
    frechet_distance,
    gaussian_w2_squared,
    kernel_distance,
    kernel_distance_of_subsets,
)
from mad_lightning.metrics.functional.checks import check_features
from mad_lightning.metrics.functional.errors import frechet_variances, kernel_variances
from mad_lightning.refusal import Refused, check_within
from mad_lightning.samples import Law

__all__ = ["Frechet", "GaussianW2", "Kernel"]


def _named(on_inception: str, prefix: str, extractor: str) -> str:
    return on_inception if extractor == "inception" else f"{prefix}_{extractor}"


class Frechet(Metric):
    """Fréchet distance between Gaussians fitted to the features (Heusel et al., 2017, eq. 6).

    It is biased upward for few samples: compare it with its floor, at equal n only.

    Args:
        extractor: Name of what makes the features, where no evaluator tells it.
    """

    takes_unequal_sets = True

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

    def errors(self, real: View, synthetic: View, m: int) -> dict[str, MeasurementError]:
        """From the distance's derivatives."""
        labels = real.labels, synthetic.labels
        variances = frechet_variances(real.features, synthetic.features, *labels)
        return {_named("fid", "fd", real.extractor): variances.error()}

    def quantities(self, extractor: str) -> dict[str, Quantity]:
        """A distance."""
        return quantities_of((_named("fid", "fd", extractor),))


class Kernel(Metric):
    """Kernel distance with a cubic polynomial (Bińkowski et al., 2018), unbiased for any n.

    Sets with classes hold a fixed number of each, and scatter less than independent samples; the
    estimate knows it, and subsets hold classes in the shares of their set.

    Args:
        subsets: None takes all pairs; a number takes the mean over as many random subsets, as
            papers report it, and adds its standard deviation.
        subset_size: Samples in a subset.
        seed: Decides the subsets, which are the same for each call.
        extractor: Name of what makes the features, where no evaluator tells it.
    """

    takes_unequal_sets = True

    def __init__(
        self,
        subsets: int | None = None,
        subset_size: int = 1000,
        seed: int = 0,
        extractor: str = "identity",
    ) -> None:
        super().__init__()
        check_within("[1, 100000]", "or leave it out to use all pairs", subsets=subsets)
        check_within("[2, inf)", "e.g. 1000", subset_size=subset_size)
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed
        self.extractor = extractor

    def values(self, real: View, synthetic: View) -> dict[str, float]:
        """``kid`` for Inception features, else ``kd_<extractor>``; around 0 for equal laws.

        With subsets also their standard deviation, under the same name with ``_std``.
        """
        name = _named("kid", "kd", real.extractor)
        sets, labels = (real.features, synthetic.features), (real.labels, synthetic.labels)
        if self.subsets is None:
            return {name: kernel_distance(*sets, labels=labels, team=self.team)}
        rng = torch.Generator().manual_seed(self.seed)
        mean, deviation = kernel_distance_of_subsets(
            *sets, labels=labels, subsets=self.subsets, subset_size=self.subset_size, rng=rng
        )
        return {name: mean, f"{name}_std": deviation}

    def errors(self, real: View, synthetic: View, m: int) -> dict[str, MeasurementError]:
        """From the distance's derivatives, of all pairs."""
        if self.subsets is not None:
            return {}
        (x, of_x), (y, of_y) = real.first(m), synthetic.first(m)
        variances = kernel_variances(x, y, of_x, of_y, n=len(real.features))
        return {_named("kid", "kd", real.extractor): variances.error()}

    def quantities(self, extractor: str) -> dict[str, Quantity]:
        """A distance, and how much subsets scatter."""
        name = _named("kid", "kd", extractor)
        return quantities_of((name,) if self.subsets is None else (name, f"{name}_std"))

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
                "n",
                f"{n} samples do not fill a subset of {least}",
                "hold out more, or lower `subset_size`",
            )


class GaussianW2(Metric):
    """Squared 2-Wasserstein distance between the law of the real data and the generator's.

    Both laws are known exactly where source and family are Gaussian; nothing is sampled, so the
    value has no sampling error. It is the paper's WD (section 5.2; its axes show the square), and
    it measures the fitted, unbiased law whatever λ the shard is drawn with. A set without a law,
    as on the real side of the floor, stands in with its sample moments.
    """

    def errors(self, real: View, synthetic: View, m: int) -> dict[str, MeasurementError]:
        """None where both laws are known."""
        exact = real.law is not None and synthetic.law is not None
        return {"w2_squared": MeasurementError(0.0, 0.0)} if exact else {}

    def values(self, real: View, synthetic: View) -> dict[str, float]:
        """``w2_squared``, at least 0."""
        laws = [self._law(view) for view in (real, synthetic)]
        return {
            "w2_squared": gaussian_w2_squared(
                laws[0].mean, laws[0].covariance, laws[1].mean, laws[1].covariance
            )
        }

    def quantities(self, extractor: str) -> dict[str, Quantity]:
        """A distance."""
        return quantities_of(("w2_squared",))

    def check(self, n: int, extractor: str) -> None:
        """Sample moments stand in for a law only in the space of the samples."""
        if extractor != "identity":
            raise Refused(
                "",
                f"GaussianW2 compares samples themselves, not {extractor} features",
                "use it with the extractor Identity",
            )

    def _law(self, view: View) -> Law:
        if view.law is not None:
            return view.law
        n, mean, scatter = Moments.of(check_features(view.features, "a set", 2), self.team)
        return Law(mean, scatter / (n - 1))
