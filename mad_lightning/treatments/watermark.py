"""A mark in each sample, and what throws marked samples away.

A mark that is put into every sample and learned with them grows: with a share q of synthetic
samples in each mix an additive one of size a is found with a q / (1 - q) in what the generators
draw, and with t a without any fresh data. One that is put in once fades as q^t a. How it looks and
how it is found stands in :mod:`mad_lightning.metrics.marks`; whether it is in what was drawn is
measured by :class:`~mad_lightning.metrics.detect.Detect`.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from mad_lightning.metrics.marks import Mark
from mad_lightning.refusal import Refused, at, check_within
from mad_lightning.samples import SampleSpec
from mad_lightning.treatments.base import Candidates, Treated, Treatment

__all__ = ["Unmarked", "Watermark"]

When = Literal["always", "once", "never"]


def _check_mark(mark: Mark) -> None:
    if not isinstance(mark, Mark):
        raise Refused("mark", f"{mark!r} is none", "take e.g. `mark: Additive`")


class Watermark(Treatment):
    """Marks what is published; what is measured is what the generator draws of its own.

    Args:
        mark: What it looks like.
        when: ``always``, in every generation; ``once``, in the first; or ``never``, the control.
    """

    sees = False

    def __init__(self, mark: Mark, when: When = "always") -> None:
        super().__init__()
        _check_mark(mark)
        if when not in get_args(When):
            raise Refused("when", f"{when!r}", f"choose {', '.join(get_args(When))}")
        self.mark, self.when = mark, when

    def check(self, spec: SampleSpec) -> None:
        """Refuses samples that cannot carry the mark."""
        with at("mark"):
            self.mark.check(spec)

    def __call__(self, drawn: Candidates) -> Treated:
        """All candidates, with the mark."""
        t = drawn.address[1]
        if self.when == "never" or (self.when == "once" and t != 1):
            return Treated()
        return Treated(values=self.mark.put(drawn.samples))


class Unmarked(Treatment):
    """Throws away what a detector takes for marked: a filter by provenance.

    It knows how widely the detector's score scatters over real samples, and throws away what lies
    too far above. As many are kept as are needed, the first ones that pass.

    Args:
        mark: The mark that it looks for.
        n_real: Real samples that it compares with, which it has for itself.
        false_positives: Share of unmarked samples that it throws away, if scores are normal.
        candidates: How many are drawn for each that is kept.
    """

    needs_real = True

    def __init__(
        self,
        mark: Mark,
        n_real: int,
        false_positives: float = 0.01,
        candidates: float = 2.0,
    ) -> None:
        super().__init__(candidates, n_real)
        _check_mark(mark)
        check_within("(0, 1)", "e.g. 0.01", false_positives=false_positives)
        self.mark, self.false_positives = mark, false_positives

    def check(self, spec: SampleSpec) -> None:
        """Refuses samples that cannot carry the mark."""
        with at("mark"):
            self.mark.check(spec)

    def __call__(self, drawn: Candidates) -> Tensor:
        """Which pass (N,)."""
        real, _ = drawn.own
        known = self.mark.score(real.values)
        quantile = math.sqrt(2.0) * float(
            torch.erfinv(torch.tensor(1.0 - 2.0 * self.false_positives, dtype=torch.float64))
        )
        return self.mark.score(drawn.samples) <= known.mean() + quantile * known.std()
