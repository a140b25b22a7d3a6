"""The evaluator: one feature pass over a shard feeds every metric.

A number means something beside its protocol and its floor. The protocol says what it depends on
(n, k, extractor, weight hash, resize). The floor is the same metric between the reference and as
many *other real* samples: what a perfect generator would score. Both go with every value into the
ledger, and so does what the value means.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from mad_lightning.identity import Described
from mad_lightning.lineage.quantities import Quantity
from mad_lightning.metrics.base import Metric, View
from mad_lightning.metrics.features.base import FeatureExtractor
from mad_lightning.refusal import Refused

__all__ = ["Evaluator"]


class Evaluator(Described):
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

    def quantities(self) -> dict[str, Quantity]:
        """What the values mean, by name, as far as metrics say."""
        quantities: dict[str, Quantity] = {}
        for metric in self.metrics:
            quantities |= metric.quantities(self.extractor.name)
        return quantities

    def protocol(self, n: int) -> dict[str, Any]:
        """What the values depend on, with n samples on each side."""
        protocol: dict[str, Any] = {"n": n, **self.extractor.protocol()}
        for metric in self.metrics:
            protocol |= metric.protocol()
        return protocol

    def check(self, n: int) -> None:
        """Refuses what a metric cannot work with, before there is anything to measure.

        Args:
            n: Samples of the reference.

        Raises:
            Refused: With the field ``n``, or a metric (``metrics.Neighbours``) or its parameter.
        """
        for metric in self.metrics:
            with _mounted(metric):
                metric.check(n, self.extractor.name)

    def compare(self, real: View, synthetic: View) -> dict[str, float]:
        """All values by name.

        Args:
            real: The reference.
            synthetic: The other set. Both hold features of this evaluator's extractor.

        Raises:
            Refused: If a metric needs something of the sets that they do not have.
        """
        name, values = self.extractor.name, dict[str, float]()
        real, synthetic = replace(real, extractor=name), replace(synthetic, extractor=name)
        for metric in self.metrics:
            with _mounted(metric):
                values |= metric(real, synthetic)
        return values


@contextmanager
def _mounted(metric: Metric) -> Iterator[None]:
    """Says which metric refuses; n, the number of samples, is the parameter of none of them."""
    place = f"metrics.{type(metric).__name__}"

    def rename(name: str) -> str:
        return name if name == "n" else f"{place}.{name}" if name else place

    try:
        yield
    except Refused as refused:
        raise refused.renamed(rename) from refused.__cause__
