"""What is lost first where a lineage shrinks: the tails.

A neighbourhood counts a real sample as covered if any synthetic one is near, so recall hardly sees
a tail get thinner until it is gone, and the Fréchet distance weighs it by its small share. Here
only tails count: how many synthetic samples lie where the reference has its most extreme ones.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from mad_lightning.lineage.quantities import MeasurementError, Quantity, quantities_of
from mad_lightning.metrics.base import Metric, View
from mad_lightning.metrics.functional.errors import halving_variances
from mad_lightning.refusal import Refused, check_within

__all__ = ["TailMass"]

_PART, _PART_VALUES = 400, 2**16
"""Samples, or values of them, that tell an error: many coordinates need fewer samples."""


class TailMass(Metric):
    """Share of synthetic samples in the tails of a coordinate, over that of fresh real samples.

    In each coordinate of the features the tails are what lies strictly below the (m+1)-th smallest
    and strictly above the (m+1)-th largest of the n values of the reference, with m = n * share /
    2. Counts of all coordinates are added and divided by what fresh real samples are expected to
    have there: (m + 1) / (n + 1) of a tail, not the m / n of the reference itself, which drew the
    line. So 1 is the mean over real sets, 0 means that tails are lost, more that they are heavier
    than real ones. As one end may gain what the other loses, each is told apart too.

    Args:
        share: Share of the reference in the two tails of a coordinate together.
    """

    def __init__(self, share: float = 0.02) -> None:
        super().__init__()
        check_within("(0, 1)", "e.g. 0.02", share=share)
        self.share = share

    def values(self, real: View, synthetic: View) -> dict[str, float]:
        """``tail_mass``, ``tail_mass_low`` and ``tail_mass_high``, at least 0.

        An end at which no coordinate has a tail is NaN.
        """
        values = self._compared(real.features, synthetic.features)
        if math.isnan(values["tail_mass"]):
            raise ValueError("no feature of the reference has tails: most of its values are equal")
        return values

    def errors(self, real: View, synthetic: View, m: int) -> dict[str, MeasurementError]:
        """From halves of both sets: the reference's part is where it drew the lines."""
        n, width = real.features.shape
        m = min(m, max(_PART, _PART_VALUES // width))
        (x, of_x), (y, of_y) = real.first(m), synthetic.first(m)
        told = halving_variances(self._compared, x, y, of_x, of_y, n=n)
        return {name: variances.error() for name, variances in told.items()}

    def _compared(self, real: torch.Tensor, synthetic: torch.Tensor) -> dict[str, float]:
        ends = [self._end(sign * real, sign * synthetic) for sign in (1, -1)]
        (low, fresh_low), (high, fresh_high) = ends
        fresh = fresh_low + fresh_high
        return {
            "tail_mass": (low + high) / fresh if fresh else math.nan,
            "tail_mass_low": low / fresh_low if fresh_low else math.nan,
            "tail_mass_high": high / fresh_high if fresh_high else math.nan,
        }

    def _end(self, real: torch.Tensor, synthetic: torch.Tensor) -> tuple[float, float]:
        """Values a sample has in low tails, of D: of synthetic ones, and expected of fresh ones.

        A fresh sample is to the reference what each sample of n + 1 is to the n others. Beyond the
        (m+1)-th smallest of the others lie the first m + 1 of all, but for those of them that equal
        the next: with most values of a coordinate equal there is no tail.
        """
        ranked = real.sort(dim=0).values
        m = round(len(ranked) * self.share / 2.0)
        fresh = int((ranked[: m + 1] < ranked[m + 1]).sum()) / (len(ranked) + 1)
        return int((synthetic < ranked[m]).sum()) / len(synthetic), fresh

    def quantities(self, extractor: str) -> dict[str, Quantity]:
        """Diversity."""
        return quantities_of(("tail_mass", "tail_mass_low", "tail_mass_high"))

    def protocol(self) -> dict[str, Any]:
        """The share that counts as tails, and what 1 means."""
        return {"tail_share": self.share, "tail_mass": "over fresh samples"}

    def check(self, n: int, extractor: str) -> None:
        """Each tail needs a sample."""
        if n * self.share < 2.0:
            raise Refused(
                "n",
                f"of {n} samples a share of {self.share} is none in each of two tails",
                f"hold out at least {math.ceil(2.0 / self.share)}, or raise `share`",
            )
