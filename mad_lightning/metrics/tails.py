"""What is lost first where a lineage shrinks: the tails.

A neighbourhood counts a real sample as covered if any synthetic one is near, so recall hardly sees
a tail get thinner until it is gone, and the Fréchet distance weighs it by its small share. Here
only tails count: how many synthetic samples lie where the reference has its most extreme ones.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from mad_lightning.lineage.quantities import Quantity, quantities_of
from mad_lightning.metrics.base import Metric, View
from mad_lightning.refusal import Refused, check_within

__all__ = ["TailMass"]


class TailMass(Metric):
    """Share of synthetic samples in the reference's tails, over the reference's own share.

    In each coordinate of the features the tails are what lies strictly below the (m+1)-th smallest
    and strictly above the (m+1)-th largest value of the reference, with m = n * share / 2. Counts
    of all coordinates are added, those of the synthetic set are divided by those of the reference.
    1 means that tails are kept, 0 that they are lost, more that they are heavier than real ones.

    Args:
        share: Share of the reference in the two tails of a coordinate together.
    """

    def __init__(self, share: float = 0.02) -> None:
        super().__init__()
        check_within("(0, 1)", "e.g. 0.02", share=share)
        self.share = share

    def values(self, real: View, synthetic: View) -> dict[str, float]:
        """``tail_mass``, at least 0."""
        reference = real.features.sort(dim=0).values
        m = round(len(reference) * self.share / 2.0)
        low, high = reference[m], reference[-1 - m]

        def share(x: torch.Tensor) -> float:
            return int(((x < low) | (x > high)).sum()) / len(x)

        expected = share(reference)
        if expected == 0.0:
            raise ValueError("no feature of the reference has tails: most of its values are equal")
        return {"tail_mass": share(synthetic.features) / expected}

    def quantities(self, extractor: str) -> dict[str, Quantity]:
        """Diversity."""
        return quantities_of(("tail_mass",))

    def protocol(self) -> dict[str, Any]:
        """The share that counts as tails."""
        return {"tail_share": self.share}

    def check(self, n: int, extractor: str) -> None:
        """Each tail needs a sample."""
        if n * self.share < 2.0:
            raise Refused(
                "n",
                f"of {n} samples a share of {self.share} is none in each of two tails",
                f"hold out at least {math.ceil(2.0 / self.share)}, or raise `share`",
            )
