"""What one lineage shows: that these generators left the data, and not that others would.

Users of large models have one lineage. Its values have measurement errors, told in its ledger: what
other samples of the same generators, and another reference, would change. Beside those a rise, a
step and a departure from the floor can be told from chance; whether the loop does this or this
lineage did cannot, as generations of one lineage descend from each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy.special import ndtri

from mad_lightning.verdict.departure import Departure
from mad_lightning.verdict.intervals import Array

__all__ = ["one_lineage"]


def one_lineage(
    values: Array,
    errors: Array | None = None,
    left: Mapping[str, Departure] | None = None,
    *,
    name: str = "it",
    alpha: float = 0.05,
) -> str:
    """A sentence on a single lineage.

    Args:
        values: Its distances (T,), T >= 2.
        errors: Measurement errors (T,); None where the ledger tells none.
        left: What left its floor, by metric.
        name: What the distance is called.
        alpha: Error probability of each claim, by itself.
    """
    steps = np.diff(values)
    if errors is None:
        told = (
            f"{name} went from {values[0]:.3g} to {values[-1]:.3g}, up in {int((steps > 0).sum())} "
            f"of {len(steps)} steps; its measurement errors were not told"
        )
    else:
        told = f"{_walk(values, errors, name, float(ndtri(1 - alpha)))} (± for other samples of "
        told += "these generators and another reference)"
    off = {name: t for name, one in (left or {}).items() if (t := one.generation)}
    since = ", ".join(
        f"{metric} {'is off its floor since generation' if place == 0 else 'since'} {t}"
        for place, (metric, t) in enumerate(off.items())
    )
    away = [since] if since else []
    last = "whether the loop does this or this lineage did takes two more seeds"
    return "; ".join([f"one lineage: {told}", *away, last])


def _walk(values: Array, errors: Array, name: str, z: float) -> str:
    """From where to where, and in which steps by more than can be put down to measuring."""
    steps, step_errors = np.diff(values), np.hypot(errors[1:], errors[:-1])
    whole = values[-1] - values[0]
    ends = f"from {_with_error(values[0], errors[0])} to {_with_error(values[-1], errors[-1])}"
    if abs(whole) <= z * math.hypot(errors[0], errors[-1]):
        return f"{name} went {ends}, by no more than its measurement error"
    sign, verb = (1.0, "rose") if whole > 0 else (-1.0, "fell")
    clear = sign * steps > z * step_errors
    count = "each" if clear.all() else str(int(clear.sum()))
    text = f"{name} {verb} {ends}, in {count} of {len(steps)} steps by more than its measurement "
    moved = np.flatnonzero(np.abs(steps) > z * step_errors)
    since = int(moved[-1]) + 2 if len(moved) else 1
    still = f", in none since generation {since}" if len(values) - since >= 2 else ""
    return f"{text}error{still}"


def _with_error(value: float, error: float) -> str:
    """With as many decimals as give the error two digits."""
    if not error > 0:
        return f"{value:.3g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}" if decimals < 7 else f"{value:.2e}"
