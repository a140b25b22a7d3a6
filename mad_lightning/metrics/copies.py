"""Whether samples are copies of what the generator was trained on."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mad_lightning.lineage.quantities import MeasurementError, Quantity, quantities_of
from mad_lightning.metrics.base import Metric, View
from mad_lightning.metrics.functional import memorisation
from mad_lightning.metrics.functional.errors import halving_variances
from mad_lightning.metrics.functional.memorisation import compared, nearest_distances
from mad_lightning.refusal import Refused, check_within

__all__ = ["Memorisation"]


class Memorisation(Metric):
    """Distance to the nearest training sample, of synthetic samples against held-out real ones.

    Args:
        q: Quantile of the real distances below which a synthetic sample counts as memorised.
    """

    sets = ("real", "synthetic", "training")
    needs_training = True

    def __init__(self, q: float = 0.05) -> None:
        super().__init__()
        check_within("(0, 1)", "e.g. 0.05", q=q)
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
                "",
                "Memorisation needs the features of what the generator was trained on",
                "give them as the real side's training",
            )
        return memorisation(
            real.training, real.features, synthetic.features, self.q, team=self.team
        )

    def errors(self, real: View, synthetic: View, m: int) -> dict[str, MeasurementError]:
        """From halves of both sets; what the generator was trained on is as it is."""
        if real.training is None:
            return {}
        (x, of_x), (y, of_y) = real.first(m), synthetic.first(m)
        near_x, near_y = (nearest_distances(side, real.training) for side in (x, y))
        told = halving_variances(
            lambda a, b: compared(a, b, self.q), near_x, near_y, of_x, of_y, n=len(real.features)
        )
        return {name: variances.error() for name, variances in told.items()}

    def quantities(self, extractor: str) -> dict[str, Quantity]:
        """Copies."""
        return quantities_of(("nearest_synthetic", "nearest_real", "nearest_ratio", "memorised"))

    def protocol(self) -> dict[str, Any]:
        """The quantile."""
        return {"memorised_quantile": self.q}

    def _views(self) -> tuple[View, View]:
        real = View(self._rows("real"), training=self._rows("training"))
        return real, View(self._rows("synthetic"))
