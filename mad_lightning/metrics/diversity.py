"""Measures of diversity that recall competes with (Alemohammad et al., 2023, appendix B.2).

When modes of a distribution die one by one, three numbers could tell. The trace of the covariance
needs nothing, but depends on *which* modes are left: two far corners have a larger trace than the
whole grid. The variance within the modes needs to know the modes, and sees those alone that are
left. The number of modes alive is the truth, where one knows what to count. Recall, in
:mod:`.neighbours`, falls with every mode, and need not know that there are any.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mad_lightning.lineage.quantities import MeasurementError, Quantity, quantities_of
from mad_lightning.metrics.base import Metric, View
from mad_lightning.metrics.functional.errors import scatter
from mad_lightning.refusal import Refused, check_within

__all__ = ["LogDeterminant", "Modes", "Trace"]


class Trace(Metric):
    """Trace of the covariance of the synthetic features; the floor says that of real ones."""

    def values(self, real: View, synthetic: View) -> dict[str, float]:
        """``trace_<extractor>``, in squared units of the features, divided by n - 1."""
        x = synthetic.features.double()
        trace = float(x.var(dim=0).sum())
        return {f"trace_{synthetic.extractor}": trace}

    def errors(self, real: View, synthetic: View, m: int) -> dict[str, MeasurementError]:
        """From how squared distances from the samples' mean scatter; no reference is asked."""
        x = synthetic.features.double()
        squares = (x - x.mean(dim=0)).square().sum(dim=1)
        variance = scatter(squares, synthetic.labels) / len(x)
        return {f"trace_{synthetic.extractor}": MeasurementError(variance**0.5, 0.0)}

    def quantities(self, extractor: str) -> dict[str, Quantity]:
        """Diversity."""
        return quantities_of((f"trace_{extractor}",))


class LogDeterminant(Metric):
    """Logarithm of the determinant of the samples' covariance, a dimension.

    Theory's measure of collapse: a Gaussian of d dimensions that is fitted to n of its own samples
    again and again loses about (d + 1) / 2n of it a generation. NaN where there are no more
    samples than dimensions, or all lie in a subspace. ``mad study`` sets it
    beside what is known of other families (``configs/studies/collapse.yaml``).
    """

    def values(self, real: View, synthetic: View) -> dict[str, float]:
        """``log_det_<extractor>``; the covariance is divided by n - 1."""
        x = synthetic.features.double()
        sign, log = torch.linalg.slogdet(self._cov(x))
        full = len(x) > x.shape[1] and float(sign) > 0 and math.isfinite(log)
        return {self._name(synthetic): float(log) / x.shape[1] if full else math.nan}

    def errors(self, real: View, synthetic: View, m: int) -> dict[str, MeasurementError]:
        """From how squared Mahalanobis distances scatter; no reference is asked."""
        x = synthetic.features.double()
        if math.isnan(self.values(real, synthetic)[self._name(synthetic)]):
            return {}
        centred = x - x.mean(dim=0)
        distances = (centred * torch.linalg.solve(self._cov(x), centred.T).T).mean(dim=1)
        variance = scatter(distances, synthetic.labels) / len(x)
        return {self._name(synthetic): MeasurementError(variance**0.5, 0.0)}

    def _cov(self, x: Tensor) -> Tensor:
        return x.T.cov().reshape(x.shape[1], -1)

    def _name(self, synthetic: View) -> str:
        return f"log_det_{synthetic.extractor}"

    def quantities(self, extractor: str) -> dict[str, Quantity]:
        """Diversity."""
        return quantities_of((f"log_det_{extractor}",))


class Modes(Metric):
    """How many modes of the real law are alive, and how wide they are.

    A sample belongs to the mode whose centre is nearest, if it lies within ``radius`` of it. A mode
    is alive if at least ``least`` samples belong to it. The law of the source says where the modes
    are (:class:`~mad_lightning.data.laws.Grid25` does).

    No measurement error is told: modes that hang by a few samples decide both values, and how many
    of those other samples would hit cannot be seen from these. Half of them find fewer, not others.

    Args:
        radius: Largest distance to a mode's centre, in units of the samples.
        least: Samples that make a mode count as alive.
    """

    def __init__(self, radius: float, least: int = 1) -> None:
        super().__init__()
        check_within("(0, inf)", "e.g. 0.25 for Grid25, 5 times a mode's std", radius=radius)
        check_within("[1, inf)", least=least)
        self.radius, self.least = radius, least

    def values(self, real: View, synthetic: View) -> dict[str, float]:
        """``modes``, a count, and ``mode_variance``.

        The second is the variance of a mode's samples in one coordinate (around their own mean,
        divided by their number less 1, averaged over coordinates), averaged over the modes that are
        alive and have at least two samples; NaN if none has.

        Raises:
            Refused: If the source does not say where its modes are.
        """
        centres = None if real.law is None else real.law.modes
        if centres is None:
            raise Refused(
                "",
                "Modes needs to know where the modes of the real data are, this source does not",
                "leave it out, or use the source Grid25",
            )
        x = synthetic.features.double()
        owner = self._owner(x, centres.to(x.device))
        counts = owner[owner >= 0].bincount(minlength=len(centres))
        wide = [
            float(x[owner == mode].var(dim=0).mean())
            for mode in (counts >= max(2, self.least)).nonzero().flatten().tolist()
        ]
        return {
            "modes": float((counts >= self.least).sum()),
            "mode_variance": sum(wide) / len(wide) if wide else math.nan,
        }

    def _owner(self, x: Tensor, centres: Tensor) -> Tensor:
        """The mode that each sample belongs to (N,), int64; -1 for those far from all."""
        squared = torch.stack([(x - centre).square().sum(dim=1) for centre in centres])
        nearest, owner = squared.min(dim=0)
        return torch.where(nearest <= self.radius**2, owner, -1)

    def quantities(self, extractor: str) -> dict[str, Quantity]:
        """Diversity."""
        return quantities_of(("modes", "mode_variance"))

    def protocol(self) -> dict[str, Any]:
        """The radius, and the samples that make a mode."""
        return {"mode_radius": self.radius, "mode_least": self.least}

    def check(self, n: int, extractor: str) -> None:
        """Modes lie in the space of the samples."""
        if extractor != "identity":
            raise Refused(
                "",
                f"Modes are places among samples themselves, not among {extractor} features",
                "use it with the extractor Identity",
            )
