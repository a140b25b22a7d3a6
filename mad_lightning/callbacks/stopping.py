"""Stopping a lineage that has gone MAD: no compute for generations nobody needs."""

from __future__ import annotations

from collections.abc import Sequence

from mad_lightning.callbacks.base import LineageCallback
from mad_lightning.lineage import GenerationRecord
from mad_lightning.refusal import Refused

__all__ = ["StopWhenMAD"]


class StopWhenMAD(LineageCallback):
    """Stops when a metric falls below a threshold.

    Args:
        metric: Name of the metric in the ledger, e.g. ``recall``.
        below: The threshold.
    """

    def __init__(self, metric: str = "recall", below: float = 0.1) -> None:
        self.metric, self.below = metric, below

    def reason_to_stop(self, records: Sequence[GenerationRecord]) -> str | None:
        """The reason, once the last generation gives it."""
        if not records:
            return None
        last = records[-1]
        if self.metric not in last.metrics:
            raise Refused(
                "callbacks.StopWhenMAD.metric",
                f"{self.metric!r} is not measured",
                f"choose one of {', '.join(last.metrics)}",
            )
        value = last.metrics[self.metric]
        if value >= self.below:
            return None
        return f"{self.metric} = {value:.3f} < {self.below} in generation {last.generation}"
