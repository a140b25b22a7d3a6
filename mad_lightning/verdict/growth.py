"""Is it MAD? A distance that grows, against noise and against what merely settles."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from mad_lightning.refusal import Refused
from mad_lightning.verdict.intervals import (
    UNKNOWN,
    Array,
    Interval,
    check_levels,
    matrix,
    slopes,
)

__all__ = ["FEWEST", "Answer", "Verdict", "verdict"]

Answer = Literal["MAD", "not MAD", "undecided"]

FEWEST = 6
"""Generations below which half a lineage is too short to have a slope."""

_FADED = 1 / 8
"""What may be left of generation 1 where growth is told from fading."""

_LIKELY = 0.9
"""The memory of the paper's fresh data loops (E9), the least that an unknown one is taken for."""


@dataclass(frozen=True)
class Verdict:
    """The answer, and the numbers it rests on.

    Attributes:
        answer: ``MAD``, ``not MAD`` or ``undecided``.
        reason: Why, in words.
        slope: Growth a generation within ``window``, in log-distance: 0.05 is 5 %.
        growth: Factor by which the distance grows in as many generations as the window has.
        pull: Slope of where the loop is heading, in roots of the distance a generation; None where
            nothing real comes in.
        window: First and last generation of the trend.
        seeds: How many lineages.
        memory: Share of an error that a generation passes on; None if unknown.
        alpha: Error probability of either claim, and of each bound.
        margin: Growth (0.25 is 25 %) within the window that would still be called none.
    """

    answer: Answer
    reason: str
    slope: Interval
    growth: Interval
    pull: Interval | None
    window: tuple[int, int]
    seeds: int
    memory: float | None
    alpha: float
    margin: float


def verdict(
    distance: ArrayLike,
    *,
    memory: float | None = None,
    alpha: float = 0.05,
    margin: float = 0.25,
) -> Verdict:
    r"""Is the expected distance increasing?

    The **window** is the later half of the lineage where real data comes in (``memory`` < 1), so
    that it shows a doubling of the number of generations, and a random walk (:math:`D_t \propto t`)
    doubles the distance in it. Where none comes in (``memory`` = 1) it is the whole lineage. A
    lineage's *growth* is the least-squares slope of its log-distance in the window, times the
    window's length. Logs, because the noise of a distance multiplies, and because at λ = 1 the mean
    of Gaussian lineages is ruled by a few that have not collapsed yet. (Distances that are not all
    positive, as unbiased KIDs can be, stay plain and are divided by their mean.)

    With Student's one-sided 1 - alpha bounds over seeds the answer is

    - **MAD** if the lower bound of the growth is above 0 *and*, where real data comes in, fading
      memory does not explain it. In a loop that relaxes, moments obey :math:`m_t = q m_{t-1} +
      (1-q) m_\infty` (for Gaussians: the recursion of the fresh data loop). Fréchet distances,
      squared W2 and KID are squares, so their roots :math:`R_t` relax alike, and
      :math:`(R_t - q R_{t-1})/(1-q)` says where the loop is heading, free of its transient. The
      lower bound of the slope of that must be above 0 too, in the later two thirds from the dip
      on: the lowest generation of the earlier half. Transients faster than q, as of what the
      sampling bias shrinks, rule before it and a little after. And the lineage must be long enough
      for generation 1 to have faded to an eighth, :math:`q^T \le 1/8`.
    - **not MAD** if the upper bound of the growth is below log(1 + margin): equivalence to no
      growth, one-sided (Schuirmann, 1987). Where nothing real comes in, that of the rise from
      generation 1 to the mean of the later half must be, too: what collapses at once has little
      slope left.
    - **undecided** otherwise.

    An unknown memory (None) could be anything, so a claim must hold in either reading: MAD as if
    real data came in, one sample in ten and enough for generation 1 to have faded; not MAD both in
    the later half and over the whole lineage. That decides little; ledgers know the memory.

    Stated error rates, each at most alpha: P(MAD) for a loop that does not grow in the window or
    that relaxes with a memory of at most q; P(not MAD) for one that grows by more than the margin.
    Joint claims of two tests, each of level alpha, have level alpha (Berger, 1982).

    Assumes seeds that are independent given the real data, and growths close enough to normal for
    Student's t with so few of them. It errs towards "undecided" on heavy tails.

    Args:
        distance: Distances to the real law, shape (S, T): one row a seed, one column a generation.
        memory: Share of an error that a generation passes on, within [0, 1]: that of synthetic
            samples in the mixes of generations 2..T, if they are those of the last generation.
        alpha: Error probability of either claim.
        margin: Growth within the window that still counts as none; above 0.

    Raises:
        Refused: If an argument lies outside its range, or a distance is not finite.
    """
    d = matrix("distance", distance)
    check_levels(alpha, margin=margin)
    if memory is not None and not 0.0 <= memory <= 1.0:
        raise Refused("memory", f"{memory}", "give the share of synthetic samples, within [0, 1]")
    seeds, last = d.shape
    logs, closed = _logs(d), memory == 1.0
    first = 1 if closed else last // 2 + 1
    known = Verdict(
        "undecided", "", UNKNOWN, UNKNOWN, None, (first, last), seeds, memory, alpha, margin
    )
    if last < (fewest := 3 if closed else FEWEST):
        return replace(known, reason=f"{last} generations, it takes at least {fewest}")
    if not np.isfinite(logs).all():
        return replace(known, reason="the distance is about 0, so that no growth can be told")

    trend = slopes(logs, first)
    growth = Interval.of(trend * (last - first + 1), alpha)
    known = replace(known, slope=Interval.of(trend, alpha), growth=growth.exp())
    if seeds < 2:
        return replace(known, reason="one seed: one throw of the dice has no error bars")
    if (d == d[0]).all():
        return replace(known, reason="all seeds say the same: they are copies, not seeds")

    pull = None if closed else _pull(d, memory, alpha)
    answer, reason = _answer(logs, growth, pull, memory, alpha, margin)
    return replace(known, answer=answer, reason=reason, pull=pull)


def _logs(d: Array) -> Array:
    """Log-distances; plain ones over their mean, if not all are positive; NaN if that is not."""
    if (d > 0).all():
        return np.log(d)
    level = float(np.mean(d))
    return d / level if level > 0 else np.full_like(d, np.nan)


def _pull(d: Array, memory: float | None, alpha: float) -> Interval:
    """Slope of where a loop is heading, in the later two thirds from the dip on."""
    last = d.shape[1]
    q = max(_LIKELY, _FADED ** (1.0 / last)) if memory is None else memory
    roots = np.sqrt(d) if (d > 0).all() else d
    dip = int(np.argmin(d.mean(0)[: last // 2 + 1]))
    heading = (roots[:, dip + 1 :] - q * roots[:, dip:-1]) / (1.0 - q)
    return Interval.of(slopes(heading[:, heading.shape[1] // 3 :], 1), alpha)


def _answer(
    logs: Array,
    growth: Interval,
    pull: Interval | None,
    memory: float | None,
    alpha: float,
    margin: float,
) -> tuple[Answer, str]:
    """The answer and its reason, where several seeds are long enough."""
    last, limit = logs.shape[1], math.log1p(margin)
    grows, settled = growth.low > 0.0, growth.high < limit
    faded = memory is None or memory == 1.0 or memory**last <= _FADED
    if grows and faded and (pull is None or pull.low > 0.0):
        return "MAD", "it grows" + (
            "" if pull is None else ", and not as a loop that settles would"
        )

    if memory == 1.0:
        rise = Interval.of(logs[:, last // 2 :].mean(axis=1) - logs[:, 0], alpha)
        settled = settled and rise.high < limit
    if settled and memory is None:
        whole = Interval.of(slopes(logs, 1) * last, alpha)
        if not whole.high < limit:
            return "undecided", (
                "it has settled, at home or far from it: say how much real data comes in (memory)"
            )
    if settled:
        return "not MAD", f"it grows by less than {margin:.0%}, if at all"

    if grows and memory is not None and not faded:
        longer = math.ceil(math.log(_FADED) / math.log(memory))
        return "undecided", f"it grows, but generation 1 fades only within {longer} generations"
    if grows:
        return "undecided", "it grows, but a loop that settles could so far"
    return "undecided", (
        f"growth of {margin:.0%} and none are both possible: more seeds, or more generations"
    )
