"""The evaluator: one feature pass over a shard feeds every metric.

A number means something beside its protocol and its floor. The protocol says what it depends on
(n, k, extractor, weight hash, resize). The floor is the same metric between the reference and as
many *other real* samples: what a perfect generator would score. Both go with every value into the
ledger.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mad_lightning.metrics.features import FeatureExtractor
from mad_lightning.metrics.two_sample import Metric, View
from mad_lightning.samples import Law

__all__ = ["Evaluator"]


class Evaluator:
    """Measures shards against the reference.

    Args:
        extractor: Makes the features that all metrics share.
        metrics: What to report.
    """

    def __init__(self, extractor: FeatureExtractor, metrics: list[Metric]) -> None:
        self.extractor = extractor
        self.metrics = metrics

    @property
    def needs_training(self) -> bool:
        """Whether a metric wants features of what the generator was trained on."""
        return any(metric.needs_training for metric in self.metrics)

    def protocol(self, n: int) -> dict[str, Any]:
        """What the values depend on, with n samples on each side."""
        protocol: dict[str, Any] = {"n": n, **self.extractor.protocol()}
        for metric in self.metrics:
            protocol |= metric.protocol()
        return protocol

    def compare(
        self,
        real: Tensor,
        synthetic: Tensor,
        real_law: Law | None = None,
        synthetic_law: Law | None = None,
        *,
        real_labels: Tensor | None = None,
        synthetic_labels: Tensor | None = None,
        training: Tensor | None = None,
    ) -> dict[str, float]:
        """All values by name.

        Args:
            real: Features of the reference (N, D).
            synthetic: Features of the other set (M, D).
            real_law: Exact law of the real data, where known.
            synthetic_law: Exact law of the generator, where known.
            real_labels: Classes of the reference (N,), where there are classes.
            synthetic_labels: Classes of the other set (M,).
            training: Features of what the generator was trained on, where at hand.
        """
        name = self.extractor.name
        ours = View(real, name, real_law, real_labels, training)
        theirs = View(synthetic, name, synthetic_law, synthetic_labels)
        values: dict[str, float] = {}
        for metric in self.metrics:
            values |= metric(ours, theirs)
        return values
