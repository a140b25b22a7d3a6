r"""Is it MAD? A distance that grows, against noise and against what merely settles.

A loop into which nothing real comes and one into which something does are two questions. In the
first nothing pulls back, so a rise that the seeds show together is MAD. In the second a rise proves
little: a loop that settles rises too, at first, and how long that takes depends on how much of an
error a generation passes on, which nobody knows (a sampler may inflate what the mix dilutes). So
no memory is assumed or fitted; growth counts where it gathers pace as *no* settling loop does.

That can be told because the root of what a settling distance has gained is concave. Let
:math:`D_t - D_a = \alpha u + \beta u^2` with u relaxing towards 1 by :math:`u_t = \rho u_{t-1} +
(1 - \rho)`, whatever mixture of variance and squared bias it is, and
:math:`Y_t = \sqrt{D_t - D_a}`: then :math:`Y_t - q Y_{t-1}` never rises for any
:math:`q \ge \rho`. One test at :math:`q = 0.99` covers every memory up to that, and whatever bias
the distance holds cancels. The price: growth must outrun t² within the lineage before it is called
MAD, so with six generations and real data in the mix nothing can be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from mad_lightning.verdict.intervals import (
    UNKNOWN,
    Array,
    Interval,
    check_levels,
    matrix,
    ratio,
    shared_error,
    slopes,
)
from mad_lightning.verdict.single import one_lineage

__all__ = ["FEWEST", "Answer", "Floor", "Verdict", "fall", "verdict"]

Answer = Literal["MAD", "settled", "undecided"]

FEWEST = 6
"""Generations below which half a lineage is too short to have a slope."""

_SETTLED = 12
"""Generations that the word *settled* takes; before, it was said of loops that grew slowly."""

_MEMORY = 0.99
"""Memory of the slowest loop that growth is told from: half of an error lives 69 generations."""


@dataclass(frozen=True)
class Floor:
    """What a distance reads on real samples.

    Attributes:
        value: Its expectation; 0 for an unbiased distance.
        error: Standard error of ``value``, which all seeds share.
        scatter: Standard deviation of single readings: a loop this near is at home.
    """

    value: float = 0.0
    error: float = 0.0
    scatter: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """The answer, and the numbers it rests on.

    Attributes:
        answer: ``MAD``, ``settled`` or ``undecided``.
        reason: Why, and what was seen, in a sentence or two.
        closed: Whether nothing real comes in after generation 1.
        rise: Factor from generation 1 to the mean of the last third of the lineage; the difference
            where a distance is not positive.
        pace: Growth a generation within ``window``, in log-distance: 0.05 is 5 %; the difference
            where a distance is not positive.
        excess: What the last third has over real data, as a multiple of what generation 1 has.
        window: First and last generation of the later half.
        seeds: How many lineages.
        alpha: Error probability of each claim, and of each bound.
        margin: Growth (0.25 is 25 %) that would still be called none.
        sources: Whose chance the bounds hold: ``seeds``, and what else is known to vary.
        relative: Whether ``rise`` is a factor and ``pace`` a share; else they are differences.
        rose: Whether a rise is shown.
        stood: Whether no growth beyond the margin is seen within ``window``.
        by: The share whose fall shows that it is MAD where the distance does not; empty: the
            distance.
        lost: How much that share lost, at its own error probability.
    """

    answer: Answer
    reason: str
    closed: bool
    rise: Interval
    pace: Interval
    excess: Interval
    window: tuple[int, int]
    seeds: int
    alpha: float
    margin: float
    sources: tuple[str, ...] = ("seeds",)
    relative: bool = True
    rose: bool = False
    stood: bool = False
    by: str = ""
    lost: Interval = UNKNOWN


def verdict(
    distance: ArrayLike,
    *,
    closed: bool = False,
    floor: Floor | None = None,
    shared: ArrayLike = 0.0,
    alpha: float = 0.05,
    margin: float = 0.25,
) -> Verdict:
    """Is the expected distance increasing?

    Everything rests on one number a seed, and on Student's one-sided 1 - alpha bounds of the seeds'
    mean of it. Joint claims of several tests, each of level alpha, have level alpha (Berger, 1982).

    - It **rose** if the log-distance of the last third lies above that of generation 1, and by more
      than the largest fall of the seeds' mean from any generation to a later one: seeds that
      oscillate together return.
    - **MAD**, closed loop: it rose.
    - **MAD**, open loop, from 6 generations on: it rose; it still rises in the later half; and the
      root of what it gained since generation 2 bends upwards, as that of no settling loop does (see
      above), and so does that since the end of the first quarter, when fast transients are over.
    - **settled**, open loop, from 12 generations on: at the pace of the later half as many
      generations again would add less than ``margin`` to its excess over the floor.
    - **undecided** otherwise, and what was seen is said.

    In simulations of settling loops (one to three speeds with memories of .2 to .985, noise of 1 to
    12 %, 2 to 8 seeds, 6 to 30 generations) false MAD stayed below 5 %, in the worst two-speed case
    at 6 %; so did *settled* of loops that grow by 2 % a generation and more. Flat loops whose noise
    has heavy tails (Student's t with 1.5 or 3 degrees of freedom) are called MAD in at most 5 %,
    from 2 seeds on; closed ones that swing, all seeds together, in 20 to 45 % where less than a
    period was seen, which nothing can tell from growth, and never once a whole one was.

    Args:
        distance: Distances to the real law, shape (S, T): one row a seed, one column a generation.
        closed: Whether nothing real comes in after generation 1, neither in any mix nor in weights
            that a generation starts from.
        floor: What the distance reads on real samples. None if it is biased and no floor was
            measured: then neither *settled* nor the size of a rise can be told.
        shared: Standard error of each generation's distance that all seeds share, a number or (T,):
            what the one reference adds. It enters the bounds of rise, pace, excess and *settled*;
            whether growth gathers pace is tested over seeds alone.
        alpha: Error probability of each claim.
        margin: Growth that still counts as none; above 0.

    Raises:
        Refused: If an argument lies outside its range, or a distance is not finite.
    """
    d = matrix("distance", distance)
    check_levels(alpha, margin=margin)
    curve = _Curve(d, closed, floor, np.broadcast_to(shared, d.shape[1:]), alpha, margin)
    answer, reason = _answer(curve)
    seeds, last = d.shape
    window = (last // 2 + 1, last)
    return Verdict(
        answer,
        reason,
        closed,
        curve.rise.exp() if curve.positive else curve.rise,
        curve.pace,
        curve.excess,
        window,
        seeds,
        alpha,
        margin,
        ("seeds", "reference") if curve.shared.any() else ("seeds",),
        curve.positive,
        curve.rose,
        curve.stood,
    )


def fall(
    values: ArrayLike, *, shared: ArrayLike = 0.0, alpha: float = 0.05, tolerance: float = 0.02
) -> Interval | None:
    """By how much a share fell since generation 1, if the seeds show that it did; else None.

    As for a distance that **rose**: the last third lies below generation 1, by more than the seeds'
    mean ever rose on the way, and by more than the tolerance.

    Args:
        values: Shares, shape (S, T).
        shared: Standard error of each generation's share that all seeds share, a number or (T,).
        alpha: Error probability of the claim.
        tolerance: Fall that still counts as none, in units of the share.

    Raises:
        Refused: If an argument lies outside its range, or a value is not finite.
    """
    x = matrix("values", values)
    check_levels(alpha)
    lost, fell = _rise(-x, np.broadcast_to(shared, x.shape[1:]), alpha)
    return lost if fell and lost.low > tolerance else None


def _rise(y: Array, shared: Array, alpha: float) -> tuple[Interval, bool]:
    """What the last third of curves (S, T) has over generation 1, and whether they rose.

    They did if it is more than the seeds' mean ever fell on the way.
    """
    last = y.shape[1]
    late = max(last // 3, 1)
    ends = np.zeros(last)
    ends[-late:] = 1.0 / late
    ends[0] -= 1.0
    rise = Interval.of(y @ ends, alpha, shared_error(ends, shared))
    mean = y.mean(0)
    fell = float((np.maximum.accumulate(mean) - mean).max())
    return rise, last >= 3 and rise.low > max(fell, 0.0)


class _Curve:
    """The tests on one configuration's lineages, each by name.

    Args:
        d: Distances (S, T).
        closed: As in :func:`verdict`, and so on.
    """

    def __init__(
        self,
        d: Array,
        closed: bool,
        floor: Floor | None,
        shared: Array,
        alpha: float,
        margin: float,
    ) -> None:
        self.d, self.closed, self.floor, self.alpha, self.margin = d, closed, floor, alpha, margin
        self.shared = shared
        self.seeds, self.last = d.shape
        self.half = self.last // 2
        self.late = max(self.last // 3, 1)
        self.positive = bool((d > 0).all())
        self.y = np.log(d) if self.positive else d
        off = shared / d.mean(0) if self.positive else shared
        self.rise, self.rose = _rise(self.y, off, alpha)
        self.pace, self.later = UNKNOWN, slopes(np.eye(self.last), self.half + 1)
        if self.last >= FEWEST:
            self.pace = self.bounds(self.y @ self.later, shared_error(self.later, off))
        self.excess = UNKNOWN
        if floor is not None and self.seeds > 1 and self.last > 1:
            base = floor.value
            over = d[:, -self.late :].mean(1) - base
            late = float(np.sqrt(np.mean(shared[-self.late :] ** 2)))
            both = late, float(shared[0])
            self.excess = ratio(over, d[:, 0] - base, alpha, floor.error, both)

    def bounds(self, values: Array, error: float = 0.0) -> Interval:
        """Over seeds, at this level."""
        return Interval.of(values, self.alpha, error)

    @property
    def rises(self) -> bool:
        """Whether it still does in the later half."""
        slope = self.bounds(self.d @ self.later, shared_error(self.later, self.shared))
        return self.last >= FEWEST and slope.low > 0.0

    @property
    def gathers_pace(self) -> bool:
        """Whether it grows as no loop that settles does."""
        before = max(self.half, 3)  # roots of what is lost in noise bend anyhow
        off = math.hypot(self.shared[before - 1], self.shared[1])
        away = self.bounds(self.d[:, before - 1] - self.d[:, 1], off).low > 0.0
        return away and self._bends(2) and self._bends(self.last // 4 + 1)

    def _bends(self, reference: int) -> bool:
        """Whether roots of the gain since a generation head further up, in the later half."""
        gain = self.d - self.d[:, [reference - 1]]
        roots = np.sign(gain) * np.sqrt(np.abs(gain))
        heading = roots[:, 1:] - _MEMORY * roots[:, :-1]  # of generations 2, 3, ...
        first = max(self.half, reference + 1) + 1
        return self.bounds(slopes(heading, first - 1)).low > 0.0

    def stands(self, generations: int) -> bool:
        """Whether, at the pace of the later half, so many generations add less than the margin.

        Of the excess over real data: linear in slope and level, so that no ratio with a noisy
        denominator is formed (Fieller, 1954).
        """
        if self.floor is None or self.seeds < 2:
            return False
        rate = math.log1p(self.margin) / generations
        weights = self.later.copy()
        weights[self.half :] -= rate / (self.last - self.half)
        home = rate * (self.floor.value - self.floor.scatter)
        error = math.hypot(rate * self.floor.error, shared_error(weights, self.shared))
        return self.bounds(self.d @ weights + home, error).high < 0.0

    @property
    def stood(self) -> bool:
        """Whether no growth beyond the margin is seen within the later half."""
        span = self.last - self.half - 1
        return self.last >= 4 and self.stands(span)


def _answer(curve: _Curve) -> tuple[Answer, str]:
    """The answer and its reason."""
    last, first = curve.last, curve.half + 1
    if last < 3:
        return "undecided", f"{last} generations, it takes at least 3"
    if curve.seeds < 2:
        return "undecided", one_lineage(curve.d[0])
    if (curve.d == curve.d[0]).all():
        return "undecided", "all seeds say the same: they are copies, not seeds"
    rose, stood = curve.rose, curve.stood
    quiet = f"no growth above {curve.margin:.0%} seen in generations {first} to {last}"
    if curve.closed:
        if not rose:
            seen = f"; {quiet}" if stood else ""
            return "undecided", (
                f"no rise that the seeds show together in {last} generations{seen}; nothing real "
                "comes in that would pull it back"
            )
        reason = f"it rose {_by(curve)} and nothing real comes in that could pull it back"
        if stood:
            reason += f"; {quiet}: it stands far out"
        if last <= 4:
            reason += f" (seen in {last} generations: a swing of all seeds would look the same)"
        return "MAD", reason
    if rose and curve.rises and curve.gathers_pace:
        return "MAD", (
            f"it grows in generations {first} to {last} and gathers pace, as no loop that settles "
            f"with a memory of up to {_MEMORY:.0%} a generation does"
        )
    if last >= _SETTLED and curve.stands(last):
        return "settled", (
            f"at the pace of generations {first} to {last} another {last} would add less than "
            f"{curve.margin:.0%}; it stands at {_standing(curve.excess)}"
        )
    return "undecided", _seen(curve, rose, stood, quiet)


def _seen(curve: _Curve, rose: bool, stood: bool, quiet: str) -> str:
    """What an open loop showed that is neither shown to be MAD nor to have settled."""
    last = curve.last
    if stood:
        before = f"; before them it rose {_by(curve)}" if rose else ""
        if last < _SETTLED:
            return f"{quiet}{before}; the word settled takes {_SETTLED} generations"
        return f"{quiet}{before}; another {last} at that pace could still add as much"
    blind = "; its bias was not measured, so its standing still cannot be told"
    unmeasured = blind if curve.floor is None else ""
    if not rose:
        return f"no rise that the seeds show together, and none excluded{unmeasured}"
    still = f" and still grows in generations {curve.half + 1} to {last}" if curve.rises else ""
    return (
        f"it rose {_by(curve)}{still}, as a loop that settles could: with real data in the mix, "
        f"{last} generations cannot tell growth that goes on from growth that ends{unmeasured}"
    )


def _by(curve: _Curve) -> str:
    """How much it rose, at least."""
    if not curve.positive:
        return f"by at least {curve.rise.low:.3g} since generation 1"
    rise = curve.rise.exp()
    return f"×{rise.estimate:.3g} since generation 1 (at least ×{rise.low:.3g})"


def _standing(excess: Interval) -> str:
    """How far out it stands."""
    if not math.isfinite(excess.estimate):
        return "a distance that is not told from that of real data"
    high = f"{excess.high:.3g}" if math.isfinite(excess.high) else "∞"
    return f"{excess.estimate:.3g} times the excess of generation 1 ({excess.low:.3g} to {high})"
