r"""How much fresh data will be enough, from a loop that had none: the limit predicted, not run.

Let z_t be the law of generation t's samples less the real law, in a space in which mixing is linear
and the distance is a squared length: the mean embedding of a kernel. A mix with real share p,
synthetic share q = 1 - p, is then off by q z_{t-1}, and to first order

.. math:: z_t = a + q K z_{t-1} + \xi_t, \qquad
    E|z_\infty|^2 = \frac{A}{(1 - q K_A)^2} + \frac{V (p + q\nu)}{1 - q^2 K^2}.

A = |a|² is the error that all seeds share (bias, budget, λ), V = E|ξ|² the one in which they differ
(noise of about c/n), K how much of what its training set is off a fit passes on, of either, and ν V
the noise of a fit to synthetic samples. Shared errors add up, others add up squared: they must be
told apart, and products between lineages do it: for seeds s ≠ s', E<z_1^s, z_1^s'> = A, exactly and
without a floor. Three generations of a fully synthetic loop (q = 1) hold all of it.

A scalar K is an average over directions, a limit is ruled by the largest, and few lineages can
agree by chance. So a prediction is *refused* where the same data contradict it, or say too little.

    A is fitted to products between lineages, with K_A near K (± 0.3) unless they say otherwise;
    intervals are the jackknife's, over lineages and over parts of the reference, by Student's t.

Source: derived and tried for this project on Gaussians, mixtures, kernel density estimates and
digits; thresholds were set on those.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from mad_lightning.refusal import Refused, check_within
from mad_lightning.verdict.intervals import Array

__all__ = ["LEAST_GENERATIONS", "LEAST_LINEAGES", "Law", "Prediction", "predict"]

LEAST_LINEAGES, LEAST_GENERATIONS = 4, 3
_PRIOR = 0.3
"""How far K_A may well lie from K."""
_KEPT = np.linspace(0.0, 2.0, 1001)
_SHARES = np.linspace(0.0, 1.0, 2001)  # q
_THIRD = 0.75, 1.33
"""Generation 3 over what generations 1 and 2 imply, where errors add up as they should."""
_CERTAIN = 240.0
"""Lineages times directions with which chance alone puts that ratio outside once in 50 times; with
half as many, once in 6 (simulated)."""
_MISFIT, _TENTH = 12.0, 0.1
_DIRECTIONS = 20.0
"""Lineages times directions in which they differ, at least, to know the distance within a third."""


@dataclass(frozen=True)
class Law:
    """How errors of a family add up.

    Attributes:
        shared: A, of all seeds alike.
        shared_kept: K_A, what of it a fit passes on.
        own: V, of each seed.
        own_kept: K.
        synthetic: ν, noise of a fit to synthetic samples over that of a fit to real ones.
    """

    shared: float
    shared_kept: float
    own: float
    own_kept: float
    synthetic: float = 1.0

    @property
    def first(self) -> float:
        """The distance of generation 1."""
        return self.shared + self.own

    def limit(self, share: Array | float) -> Array:
        """Where the fresh loop with a share of real data settles; infinity where it does not."""
        p = np.asarray(share, dtype=float)
        kept, own_kept = (1 - p) * self.shared_kept, (1 - p) * self.own_kept
        settles = (kept < 1.0 if self.shared > 0.0 else np.ones_like(p) > 0.0) & (own_kept < 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            noise = self.own * (p + (1 - p) * self.synthetic) / (1.0 - own_kept**2)
            value = self.shared / (1.0 - kept) ** 2 + noise
        return np.where(settles, value, np.inf)

    def share(self, margin: float) -> float:
        """The least share of fresh data with a limit within the margin of generation 1."""
        excess = self.limit(1.0 - _SHARES) - (1.0 + margin) * self.first
        beyond = np.flatnonzero(excess > 0.0)
        if not len(beyond):
            return 0.0
        place = int(beyond[0])
        if place == 0:
            return 1.0
        above, below = float(excess[place]), float(excess[place - 1])
        part = -below / (above - below) if math.isfinite(above) else 0.5
        return float(1.0 - _SHARES[place - 1] - part * (_SHARES[place] - _SHARES[place - 1]))


@dataclass(frozen=True)
class Prediction:
    """The least share of fresh data that keeps the distance near generation 1's.

    Attributes:
        share: The share.
        low: Lower end of its 95 % interval.
        high: Upper end.
        margin: By how much the limit may lie above generation 1's distance, in parts of it.
        law: What was fitted.
        distances: Of generations 1, 2, ... of the fully synthetic loop.
        lineages: How many there were.
        directions: In how many directions they differ.
        third: Generation 3's distance over what generations 1 and 2 imply.
        misfit: χ² of the products between lineages about the fit.
        reasons: Why it cannot be predicted; empty if it can.
    """

    share: float
    low: float
    high: float
    margin: float
    law: Law
    distances: tuple[float, ...]
    lineages: int
    directions: float
    third: float
    misfit: float
    reasons: tuple[str, ...]


def predict(products: Array, *, margin: float = 0.25, without: Sequence[Array] = ()) -> Prediction:
    """Predicts the share of fresh data that is needed, from fully synthetic lineages.

    Args:
        products: Unbiased estimates of <z_t^s, z_u^s'>, (T, S, T, S), T >= 3 and S >= 4, from
            samples that no generation was trained on.
        margin: How far above generation 1's distance the limit may lie, in parts of it.
        without: The same with a part of the reference left out, part by part.

    Raises:
        Refused: If there are too few lineages or generations, or a product is not finite.
    """
    g = np.asarray(products, dtype=float)
    check_within("(0, 1000)", "e.g. 0.25", margin=margin)
    if g.ndim != 4 or g.shape != (*g.shape[:2], *g.shape[:2]) or not np.isfinite(g).all():
        raise Refused("products", f"shape {g.shape}", "give finite numbers, (T, S, T, S)")
    if g.shape[1] < LEAST_LINEAGES or g.shape[0] < LEAST_GENERATIONS:
        problem = f"{g.shape[1]} lineages of {g.shape[0]} generations"
        remedy = f"give at least {LEAST_LINEAGES} of {LEAST_GENERATIONS}; 8 are better"
        raise Refused("lineages", problem, remedy)
    s = g.shape[1]
    spread = _jackknife([_between(rest)[_upper(g)] for rest in _left_out(g)])
    if len(without) > 1:
        parts = [_between(np.asarray(rest, dtype=float))[_upper(g)] for rest in without]
        spread = np.hypot(spread, _jackknife(parts))
    weights = 1.0 / np.maximum(spread**2, 1e-300)
    raw = np.array([_raw_synthetic(rest) for rest in _left_out(g)])
    wobble = float(_jackknife(raw)) ** 2
    away = (_raw_synthetic(g) - 1.0) ** 2
    trust = max(0.0, 1.0 - wobble / away) if away > 0.0 else 0.0  # noise is shrunk away

    def fitted(part: Array) -> Law:
        return _fit(part, weights, trust)

    law = fitted(g)
    share = law.share(margin)
    by_lineage = [fitted(rest) for rest in _left_out(g)]
    by_part = [fitted(np.asarray(rest, dtype=float)) for rest in without]
    half = _half([one.share(margin) for one in by_lineage], [one.share(margin) for one in by_part])
    logs = [
        [math.log(float(np.clip(one.limit(share), 1e-300, 1e300))) for one in laws]
        for laws in (by_lineage, by_part)
    ]
    upper = float(law.limit(share)) * math.exp(min(_half(*logs), 700.0))
    distances = tuple(float(np.mean(np.diagonal(g[t, :, t, :]))) for t in range(len(g)))
    directions = _directions(g)
    third, misfit = _third(g, float(spread[0])), _misfit(g, law, weights)
    reasons = _reasons(law, distances, s, directions, third, misfit, upper)
    low, high = max(0.0, share - half), min(1.0, share + half)
    return Prediction(
        share, low, high, margin, law, distances, s, directions, third, misfit, reasons
    )


def _reasons(
    law: Law,
    distances: Sequence[float],
    lineages: int,
    directions: float,
    third: float,
    misfit: float,
    upper: float,
) -> tuple[str, ...]:
    """What speaks against a prediction."""
    reasons = []
    known = lineages * directions * (law.first / law.own) ** 2 if law.own > 0.0 else math.inf
    if not law.first > 0.0:
        reasons.append("generation 1 is not told from real data")
    if known < _DIRECTIONS:
        needed = math.ceil(lineages * _DIRECTIONS / max(known, 1e-9))
        more = f"about {needed} lineages" if needed < 1000 else "many more lineages"
        reasons.append(
            f"{lineages} lineages that differ in {directions:.1f} directions do not tell their "
            f"distance within a third: it takes {more}, or a finer kernel"
        )
    if not upper <= (1.0 + _TENTH) * max(distances):
        first = max(law.first, 1e-300)
        bound = f"{upper / first:.2g} times" if upper < 1000 * first else "any number of times"
        reasons.append(
            f"at that share the distance may lie {bound} as high as generation 1's, beyond the "
            f"{max(distances) / first:.2g} times that were seen: it takes more generations or "
            "lineages"
        )
    if not _THIRD[0] <= third <= _THIRD[1]:
        enough = math.ceil(lineages * _CERTAIN / max(known, 1e-9))
        by_chance = 0.5 < third < 2.0 and lineages < enough
        chance = f", unless it is chance: {enough} lineages would tell" if by_chance else ""
        reasons.append(
            f"generation 3 is {third:.2g} times what generations 1 and 2 imply: errors do not add "
            f"up linearly{chance}"
        )
    if not misfit <= _MISFIT:
        reasons.append(
            "what lineages have in common does not add up as if one number told what is passed on "
            f"(χ² {misfit:.0f}, at most {_MISFIT:.0f})"
        )
    return tuple(reasons)


# what products say


def _left_out(g: Array) -> Iterator[Array]:
    """Products without one lineage, in turn."""
    for s in range(g.shape[1]):
        yield np.delete(np.delete(g, s, axis=1), s, axis=3)


def _within(g: Array) -> Array:
    """Mean product of each pair of generations of one lineage, (T, T)."""
    told = np.einsum("tsus->tu", g) / g.shape[1]
    return (told + told.T) / 2


def _between(g: Array) -> Array:
    """Mean product of each pair of generations of two lineages, (T, T)."""
    s = g.shape[1]
    told = (g.sum(axis=(1, 3)) - np.einsum("tsus->tu", g)) / (s * (s - 1))
    return (told + told.T) / 2


def _upper(g: Array) -> Any:
    return np.triu_indices(len(g))


def _raw_synthetic(g: Array) -> float:
    """ν: what generation 2 adds to what it got, over generation 1's."""
    own = _within(g) - _between(g)
    return float((own[1, 1] - _kept(own) ** 2 * own[0, 0]) / own[0, 0])


def _kept(own: Array) -> float:
    """K, from the products of each generation with the next."""
    below = float(np.trace(own[:-1, :-1]))
    return max(float(np.trace(own[:-1, 1:])) / below, 0.0) if below > 0.0 else 0.0


def _sums(kept: Array, generations: int) -> Array:
    """1, 1 + k, 1 + k + k², ... for each k, (len(kept), T)."""
    return np.cumsum(kept[:, None] ** np.arange(generations), axis=1)


def _fit(g: Array, weights: Array, trust: float) -> Law:
    own, between = _within(g) - _between(g), _between(g)[_upper(g)]
    kept = _kept(own)
    f = _sums(_KEPT, len(g))
    rows, columns = _upper(g)
    shapes = f[:, rows] * f[:, columns]
    shared = np.maximum((shapes * weights) @ between / (shapes**2 @ weights), 0.0)
    loss = ((between - shared[:, None] * shapes) ** 2) @ weights + ((_KEPT - kept) / _PRIOR) ** 2
    best = int(np.argmin(loss))
    synthetic = max(1.0 + trust * (_raw_synthetic(g) - 1.0), 0.0)
    return Law(float(shared[best]), float(_KEPT[best]), max(float(own[0, 0]), 0.0), kept, synthetic)


def _misfit(g: Array, law: Law, weights: Array) -> float:
    """χ² of the products between lineages about the fit, as far as they are off by a tenth.

    Where little is shared, its products are all chance, and alike.
    """
    rows, columns = _upper(g)
    f, scale = _sums(np.array([law.shared_kept]), len(g))[0], np.diagonal(_within(g)).clip(0.0)
    away = _between(g)[rows, columns] - law.shared * f[rows] * f[columns]
    matters = np.abs(away) > _TENTH * np.sqrt(scale[rows] * scale[columns])
    return float((away * matters) ** 2 @ weights)


def _third(g: Array, error: float) -> float:
    """Generation 3's distance over what generations 1 and 2 imply.

    Args:
        g: Products.
        error: Standard error of the shared one of generation 1. As far as it may be chance, what of
            it is passed on is taken to be what is of others.
    """
    own, between = _within(g) - _between(g), _between(g)
    kept = own[0, 1] / own[0, 0] if own[0, 0] > 0.0 else 0.0
    shared, passed = max(between[0, 0], 0.0), kept
    if shared > 0.0:
        known = shared**2 / (shared**2 + error**2)
        passed += known * (between[0, 1] / shared - 1.0 - kept)
    implied = shared * (1 + passed + passed**2) ** 2 + own[0, 0] * (1 + kept**2 + kept**4)
    return float(_within(g)[2, 2] / implied) if implied > 0.0 else math.nan


def _directions(g: Array) -> float:
    """In how many directions lineages differ: V² over the mean square of <ξ^s, ξ^s'>, s ≠ s'."""
    s = g.shape[1]
    one = (g[0, :, 0, :] + g[0, :, 0, :].T) / 2
    rows, columns = np.triu_indices(s, 1)
    design = np.zeros((len(rows), s))
    design[np.arange(len(rows)), rows] = design[np.arange(len(rows)), columns] = 1.0
    values = one[rows, columns]
    left = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    square = float(left @ left) / (len(rows) - s)
    own = float(_within(g)[0, 0] - _between(g)[0, 0])
    return own**2 / square if square > 0.0 else math.inf


def _jackknife(left_out: Sequence[Array] | Array) -> Array:
    """Standard error from values without one each."""
    values = np.asarray(left_out, dtype=float)
    n = len(values)
    return np.sqrt((n - 1) * values.var(axis=0))


def _half(by_lineage: Sequence[float], by_part: Sequence[float]) -> float:
    """Half a 95 % interval: jackknifed over lineages and over parts of the reference."""
    own = float(_jackknife(np.array(by_lineage))) ** 2
    shared = float(_jackknife(np.array(by_part))) ** 2 if len(by_part) > 1 else 0.0
    if own + shared == 0.0:
        return 0.0
    scatter = own**2 / (len(by_lineage) - 1) + shared**2 / max(len(by_part) - 1, 1)
    freedom = (own + shared) ** 2 / scatter
    return float(stdtrit(freedom, 0.975)) * math.sqrt(own + shared)
