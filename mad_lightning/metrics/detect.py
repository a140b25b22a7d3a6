"""Whether a watermark is in what was drawn: how sure that is, and how strong it has become.

Marks are looked for in the samples themselves, not in their features. Real samples have a score by
chance, so what is told is the difference between the two sets: z, how many standard errors the mean
score lies above that of real samples (Welch); p, how often chance alone would have it so; and the
mark's energy, 1 for samples that have just been marked, more where a loop has amplified it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mad_lightning.lineage.quantities import MeasurementError, Quantity, quantities_of
from mad_lightning.metrics.base import Metric, View
from mad_lightning.metrics.marks import Mark
from mad_lightning.refusal import Refused

__all__ = ["Detect"]


class Detect(Metric):
    """Looks for a mark.

    Args:
        mark: The one that was put in.
    """

    needs_stored = True

    def __init__(self, mark: Mark) -> None:
        super().__init__()
        if not isinstance(mark, Mark):
            raise Refused("mark", f"{mark!r} is none", "take e.g. `mark: Additive`")
        self.mark = mark

    def update(self, features: Tensor, real: bool) -> None:
        """Takes in a batch.

        Args:
            features: Samples as they are stored: images (N, C, H, W), uint8, or vectors (N, D).
            real: Whether they are real, else synthetic.
        """
        self._take("real" if real else "synthetic", self.mark.score(features)[:, None])

    def values(self, real: View, synthetic: View) -> dict[str, float]:
        """``mark_z``, ``mark_p`` and ``mark_energy``."""
        x, y = self._scores(real), self._scores(synthetic)
        apart = float(y.mean() - x.mean())
        error = math.sqrt(float(x.var() / len(x) + y.var() / len(y)))
        z = apart / error if error > 0.0 else math.copysign(math.inf, apart) if apart else 0.0
        p = 0.5 * math.erfc(z / math.sqrt(2.0))
        return {"mark_z": z, "mark_p": p, "mark_energy": apart / self.mark.strength}

    def errors(self, real: View, synthetic: View, m: int) -> dict[str, MeasurementError]:
        """Of the energy; z is in units of it already."""
        sides = (self._scores(synthetic), self._scores(real))
        each = (math.sqrt(float(s.var() / len(s))) / self.mark.strength for s in sides)
        return {"mark_energy": MeasurementError(*each)}

    def quantities(self, extractor: str) -> dict[str, Quantity]:
        """Neither is worse."""
        return quantities_of(("mark_z", "mark_p", "mark_energy"))

    def _scores(self, side: View) -> Tensor:
        """Scores (N,) of samples, or such as were taken in."""
        if side.stored is None:
            return side.features[:, 0].double()
        with torch.no_grad():
            return self.mark.score(side.stored.values)
