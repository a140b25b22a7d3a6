r"""How much real data is enough? The border between shares that are and shares that are not.

Each share p of real data was tried by some seeds, and each seed says one number: its *excess*, by
how much more than the margin it lost. The border p* is where the expected excess c(p) is 0. It is
bounded by *inverting tests*: a share is taken out of the interval if a test shows that it is not
the border, and the border itself is taken out as rarely as one test errs, however many shares were
tried. Two things are taken for granted:

- **More real data never hurts**: c falls with p.
- **It helps less and less**: c is convex. To first order a loop passes on a share q = 1 - p of its
  errors, so its distance after any number of generations is a polynomial in q whose coefficients
  are not negative, as is its limit. A chord then lies above the curve and its extensions below, so
  that a chord that is shown to be below 0 shows shares between two that were tried to be enough,
  and an extension that is shown to be above 0 shows others to be too small.

From the largest share down, shares are shown to be enough, by chords; the first that is not bounds
the border from above. From the smallest up, tried ones are shown to be too small, and then, by an
extension, some beyond the last of them. Nothing is fitted: few seeds and shares make a wide
interval and no bold one. Where the data contradict convexity, only shares that were tried bound it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq
from scipy.special import stdtrit

from mad_lightning.refusal import Refused
from mad_lightning.verdict.intervals import Array, Interval, level_of_look

__all__ = ["Border", "Excess", "State", "border"]

State = Literal["enough", "too little", "undecided"]
_STEPS = 50
"""Places between two shares at which an interval may end."""
_MOST_SEEDS = 1000


@dataclass(frozen=True)
class Excess:
    """What the seeds at one share say.

    Attributes:
        share: p in [0, 1].
        by_seed: Loss beyond the margin by seed: above 0, the share is too little.
        error: Standard error that all seeds share, in all shares alike: the reference's.
    """

    share: float
    by_seed: Mapping[int, float]
    error: float = 0.0

    @cached_property
    def values(self) -> Array:
        """One number a seed."""
        return np.array([*self.by_seed.values()], dtype=float)


@dataclass(frozen=True)
class Border:
    """The least share that is enough, between two bounds.

    Attributes:
        estimate: Where the means, made to fall, cross 0: 0 or infinity outside of what was tried.
        low: Lower end of the interval; 0 where no share was shown to be too little.
        high: Upper end; infinity where none was shown to be enough.
        states: What was shown of each share that was tried, from the smallest.
        means: Mean excess of each, between bounds.
        seeds_needed: Seeds of each that would show it if mean and scatter stay; None for more than
            a thousand.
        convex: Whether the data left room for convexity.
        alpha: How often the interval misses the border.
    """

    estimate: float
    low: float
    high: float
    states: Mapping[float, State]
    means: Mapping[float, Interval]
    seeds_needed: Mapping[float, int | None]
    convex: bool
    alpha: float

    @property
    def shares(self) -> list[float]:
        """Shares that were tried, from the smallest."""
        return [*self.states]


def border(tried: Sequence[Excess], *, alpha: float = 0.05, looks: Sequence[int] = ()) -> Border:
    """The least share of real data that is enough.

    Args:
        tried: One of each share, in any order, with one seed at least.
        alpha: How often the interval may miss the border, half of that at either end.
        looks: Numbers of seeds after which a share could have been given no more of them, because
            it was decided; empty where seeds were given as planned.

    Raises:
        Refused: If there is none, a share twice, or a value that is not finite.
    """
    arms = sorted(tried, key=lambda arm: arm.share)
    if not arms or any(not arm.by_seed for arm in arms):
        raise Refused("tried", "a share without a seed" if arms else "no shares", "give some")
    if any(one.share == two.share for one, two in pairwise(arms)):
        raise Refused("tried", "a share is there twice", "give all its seeds together")
    for arm in arms:
        if not (0.0 <= arm.share <= 1.0 and np.isfinite(arm.values).all()):
            raise Refused("tried", f"{arm}", "give shares within [0, 1] and finite numbers")
    test = _Tests(arms, alpha / 2, tuple(looks))
    low, high = test.low(), test.high()
    estimate = min(max(_crossing(arms), low), high)
    return Border(
        estimate=estimate,
        low=low,
        high=high,
        states={arm.share: test.state(place) for place, arm in enumerate(arms)},
        means={arm.share: test.of({place: 1.0}) for place, arm in enumerate(arms)},
        seeds_needed={arm.share: _needed(arm, test.level(max(looks, default=0))) for arm in arms},
        convex=test.convex,
        alpha=alpha,
    )


@dataclass
class _Tests:
    """Bounds of weighted sums over shares.

    Attributes:
        arms: From the smallest share.
        alpha: Error probability of each bound, over all looks.
        looks: Numbers of seeds at which somebody looked.
    """

    arms: Sequence[Excess]
    alpha: float
    looks: tuple[int, ...]

    def level(self, seeds: int) -> float:
        """Error probability of a bound from so many seeds."""
        return level_of_look(self.alpha, self.looks, seeds)

    def of(self, weights: Mapping[int, float]) -> Interval:
        """The weighted sum of the shares' means, between bounds.

        Seeds that all of the shares have are compared seed by seed: they have had the same first
        generation.
        """
        chosen = [self.arms[place] for place in weights]
        parts = np.array([*weights.values()])
        error = float(sum(abs(w) * arm.error for w, arm in zip(parts, chosen, strict=True)))
        common = set.intersection(*(set(arm.by_seed) for arm in chosen))
        if len(common) > 1 or len(chosen) == 1:
            order = sorted(common)
            rows = np.array([[arm.by_seed[seed] for seed in order] for arm in chosen])
            return Interval.of(parts @ rows, self.level(len(order)), error)
        fewest = min(len(arm.by_seed) for arm in chosen)
        return _of_strangers(parts, chosen, self.level(fewest), error)

    def state(self, place: int) -> State:
        """What is shown of a share that was tried."""
        told = self.of({place: 1.0})
        return "enough" if told.high < 0.0 else "too little" if told.low > 0.0 else "undecided"

    @cached_property
    def convex(self) -> bool:
        """Whether no share was shown to lose more than the chord of its neighbours."""
        return not any(
            self.of({k - 1: -w, k: 1.0, k + 1: w - 1.0}).low > 0.0
            for k in range(1, len(self.arms) - 1)
            for w in [self._between(self.arms[k].share, k - 1, k + 1)]
        )

    def _between(self, share: float, left: int, right: int) -> float:
        """Weight of the left of two shares in the line through them at a third one."""
        one, two = self.arms[left].share, self.arms[right].share
        return (two - share) / (two - one)

    def high(self) -> float:
        """The last share, from the largest down, that is not shown to be enough."""
        last = len(self.arms) - 1
        if self.state(last) != "enough":
            return math.inf
        for left in range(last - 1, -1, -1):
            right = left + 1
            for step in range(1, _STEPS + 1 if self.convex else 1):
                w = step / _STEPS
                if not self.of({left: w, right: 1.0 - w} if w < 1.0 else {left: 1.0}).high < 0.0:
                    return self._place(left, right, (step - 1) / _STEPS)
            if self.state(left) != "enough":
                return self.arms[right].share
        return self.arms[0].share

    def low(self) -> float:
        """The first share, from the smallest up, that is not shown to be too little."""
        shown = -1
        while shown + 1 < len(self.arms) and self.state(shown + 1) == "too little":
            shown += 1
        if shown < 0:
            return 0.0
        share = self.arms[shown].share
        if shown + 1 == len(self.arms) or not self.convex:
            return share
        for step in range(1, _STEPS):
            place = self._place(shown, shown + 1, 1.0 - step / _STEPS)
            weights = self._extension(place, shown)
            if weights is None or not self.of(weights).low > 0.0:
                break
            share = place
        return share

    def _place(self, left: int, right: int, weight: float) -> float:
        """Between two shares, with that weight of the left one."""
        return weight * self.arms[left].share + (1.0 - weight) * self.arms[right].share

    def _extension(self, share: float, left: int) -> dict[int, float] | None:
        """The line through two shares on one side of a third: the side that is nearer."""
        sides = [(left - 1, left), (left + 1, left + 2)]
        there = [(one, two) for one, two in sides if one >= 0 and two < len(self.arms)]
        lines = [{one: (w := self._between(share, one, two)), two: 1.0 - w} for one, two in there]
        return min(lines, key=lambda line: sum(w * w for w in line.values()), default=None)


def _of_strangers(weights: Array, arms: Sequence[Excess], level: float, error: float) -> Interval:
    """The weighted sum of independent means, with degrees of freedom after Satterthwaite."""
    mean = float(sum(w * arm.values.mean() for w, arm in zip(weights, arms, strict=True)))
    if any(len(arm.values) < 2 for arm in arms):
        return Interval(mean, -math.inf, math.inf)
    own = [
        w * w * float(arm.values.var(ddof=1)) / len(arm.values)
        for w, arm in zip(weights, arms, strict=True)
    ]
    total = sum(own) + error**2
    scatter = sum(v * v / (len(arm.values) - 1) for v, arm in zip(own, arms, strict=True))
    freedom = total**2 / scatter if scatter > 0.0 else 1e9
    half = float(stdtrit(min(freedom, 1e9), 1.0 - level)) * math.sqrt(total)
    return Interval(mean, mean - half, mean + half)


def _crossing(arms: Sequence[Excess]) -> float:
    """Where the means cross 0, neighbours that rise pooled: on the monotone cubic through them."""
    blocks: list[list[Excess]] = []
    for arm in arms:
        blocks.append([arm])
        while len(blocks) > 1 and _mean(blocks[-2]) < _mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    means = [_mean(block) for block in blocks for _ in block]
    if means[0] <= 0.0:
        return 0.0
    if means[-1] > 0.0:
        return math.inf
    shares = np.array([arm.share for arm in arms])
    curve = PchipInterpolator(shares, means)
    right = next(place for place, mean in enumerate(means) if mean <= 0.0)
    return float(brentq(curve, shares[right - 1], shares[right]))


def _mean(arms: Sequence[Excess]) -> float:
    """Of all seeds of several shares."""
    return float(np.concatenate([arm.values for arm in arms]).mean())


def _needed(arm: Excess, level: float) -> int | None:
    """Seeds with which this mean, at this scatter, would be shown to have its sign."""
    if len(arm.values) < 2:
        return None
    mean, deviation = abs(float(arm.values.mean())), float(arm.values.std(ddof=1))
    for n in [*range(2, 30), *np.geomspace(30, _MOST_SEEDS, 40).astype(int).tolist()]:
        error = math.hypot(deviation / math.sqrt(n), arm.error)
        if float(stdtrit(n - 1, 1.0 - level)) * error < mean:
            return int(n)
    return None
