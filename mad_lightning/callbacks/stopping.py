"""Stopping a lineage that has gone MAD: no compute for generations nobody needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mad_lightning.callbacks.base import LineageCallback
from mad_lightning.lineage.ledger import GenerationRecord
from mad_lightning.lineage.quantities import Quantity
from mad_lightning.refusal import Refused

__all__ = ["StopWhenMAD"]


class StopWhenMAD(LineageCallback):
    """Stops when a metric passes a threshold on the side that is worse.

    Args:
        metric: Name of the metric in the ledger, e.g. ``recall`` or ``fid``.
        below: The threshold of a metric that is worse if lower.
        above: The threshold of a metric that is worse if higher, instead of ``below``.
    """

    def __init__(
        self, metric: str = "recall", below: float | None = None, above: float | None = None
    ) -> None:
        if below is not None and above is not None:
            raise Refused("above", f"{above}, and below is {below}", "give one of the two")
        self.metric, self.above = metric, above
        self.below = 0.1 if below is None and above is None else below

    def check(self, quantities: Mapping[str, Quantity]) -> None:
        """Refuses a metric that nobody measures, or a threshold on its better side."""
        if self.metric not in quantities:
            raise Refused(
                "metric",
                f"{self.metric!r} is not measured",
                f"choose one of {', '.join(quantities) or 'those that a metric states'}",
            )
        worse = quantities[self.metric].worse
        field, right = ("above", "lower") if self.below is None else ("below", "higher")
        if worse == right:
            other = "below" if field == "above" else "above"
            raise Refused(
                field, f"{self.metric} is worse if {worse}", f"give `{other}` instead, in its units"
            )

    def reason_to_stop(self, records: Sequence[GenerationRecord]) -> str | None:
        """The reason, once the last generation gives it."""
        if not records:
            return None
        last = records[-1]
        value = last.metrics.get(self.metric, math.nan)
        if self.below is not None and value < self.below:
            return f"{self.metric} = {value:.3f} < {self.below} in generation {last.generation}"
        if self.above is not None and value > self.above:
            return f"{self.metric} = {value:.3f} > {self.above} in generation {last.generation}"
        return None
