r"""The verdict: has this loop gone MAD, and how sure is that?

A process is MAD if :math:`E[\mathrm{dist}(\mathcal G^t, P_r)]` grows with the generation t
(Alemohammad et al., 2023, section 2.1). That is an expectation over lineages, and a claim about
growth, which three things imitate:

- **Noise.** Generations of one lineage descend from each other; only *seeds* are independent. So
  every test here boils a lineage down to one number and compares the seeds' numbers with Student's
  t. Ten times as many generations are no reason to be ten times as sure, and one seed is none.
- **A loop that settles.** With real data coming in, what generation 1 left behind fades: of an
  error in generation t-1 the share of synthetic samples in the mix of t passes on. This *memory* q
  makes the distance relax, as :math:`D_\infty - c\,q^t` does, which at first looks like growth.
- **A loop with nothing left to lose** stops growing as well, far from home. Where no real data
  comes in (q = 1) nothing pulls back, and there any rise counts, however long ago.

What is not shown is not claimed: "not MAD" needs a bound on the growth, not the absence of proof,
and between the two lies "undecided". Everything here is arithmetic on numbers from ledgers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from mad_lightning.refusal import Refused

__all__ = [
    "Criterion",
    "Departure",
    "Interval",
    "Judgement",
    "SafeShare",
    "Verdict",
    "criteria",
    "departure",
    "distance_name",
    "judge",
    "safe_share",
    "verdict",
]

Array = NDArray[np.float64]
Answer = Literal["MAD", "not MAD", "undecided"]

_FEWEST = 6
"""Generations below which half a lineage is too short to have a slope."""

_FADED = 1 / 8
"""What may be left of generation 1 where growth is told from fading."""

_LIKELY = 0.9
"""The memory of the paper's fresh data loops (E9), the least that an unknown one is taken for."""


# what seeds say together


@dataclass(frozen=True)
class Interval:
    """A mean over seeds between two one-sided bounds, each right with probability 1 - alpha."""

    estimate: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Array, alpha: float, error: float = 0.0) -> Interval:
        """Student's interval of the mean of independent values.

        Args:
            values: One number a seed, shape (S,). A single one has no bounds.
            alpha: Error probability of each bound.
            error: Standard error that all values share, known from elsewhere; it adds, with degrees
                of freedom after Satterthwaite (1946).
        """
        n, mean = len(values), float(np.mean(values))
        if n < 2:
            return cls(mean, -math.inf, math.inf)
        own = float(np.var(values, ddof=1)) / n
        total = own + error**2
        freedom = (n - 1) * (total / own) ** 2 if own > 0 else math.inf
        half = float(stdtrit(min(freedom, 1e9), 1 - alpha)) * math.sqrt(total)
        return cls(mean, mean - half, mean + half)

    def exp(self) -> Interval:
        """Of a mean of logs: the geometric mean and its bounds."""
        return Interval(*(_exp(each) for each in (self.estimate, self.low, self.high)))


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def _slopes(series: Array, first: int) -> Array:
    """Least-squares slope over generations ``first``..T (from 1), one a seed: (S, T) -> (S,)."""
    t = np.arange(first, series.shape[1] + 1, dtype=float)
    t -= t.mean()
    return series[:, first - 1 :] @ (t / (t @ t))


def _heading(distances: Array, q: float) -> Array:
    """Where a loop with memory ``q`` is heading, in the later two thirds from the dip on."""
    roots = np.sqrt(distances) if (distances > 0).all() else distances
    dip = int(np.argmin(distances.mean(0)[: distances.shape[1] // 2 + 1]))
    heading = (roots[:, dip + 1 :] - q * roots[:, dip:-1]) / (1.0 - q)
    return heading[:, heading.shape[1] // 3 :]


def _matrix(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=float)
    if array.ndim != 2 or 0 in array.shape:
        raise Refused(name, f"shape {array.shape}", "give (seeds, generations), at least one each")
    if not np.isfinite(array).all():
        seed, t = (int(place[0]) for place in np.nonzero(~np.isfinite(array)))
        problem = f"{array[seed, t]} for seed number {seed}, generation {t + 1}"
        raise Refused(name, problem, "measure it again, or leave the lineage out")
    return array


def _check(alpha: float, **positive: float) -> None:
    if not 0.0 < alpha < 0.5:
        raise Refused("alpha", f"{alpha}", "choose an error probability within (0, 0.5)")
    for name, value in positive.items():
        if not value > 0.0:
            raise Refused(name, f"{value}", "take a number above 0")


# is it MAD?


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
        memory: Share of synthetic samples in the mixes of generations 2..T, within [0, 1].
        alpha: Error probability of either claim.
        margin: Growth within the window that still counts as none; above 0.

    Raises:
        Refused: If an argument lies outside its range, or a distance is not finite.
    """
    d = _matrix("distance", distance)
    _check(alpha, margin=margin)
    if memory is not None and not 0.0 <= memory <= 1.0:
        raise Refused("memory", f"{memory}", "give the share of synthetic samples, within [0, 1]")
    seeds, last = d.shape
    closed = memory == 1.0
    level = float(np.mean(d))
    y = np.log(d) if (d > 0).all() else d / level if level > 0 else np.full_like(d, np.nan)
    first = 1 if closed else last // 2 + 1
    window = (first, last)

    def say(
        answer: Answer, reason: str, slopes: Array | None = None, pull: Interval | None = None
    ) -> Verdict:
        slope = unknown if slopes is None else Interval.of(slopes, alpha)
        growth = unknown if slopes is None else Interval.of(slopes * n, alpha).exp()
        return Verdict(answer, reason, slope, growth, pull, window, seeds, memory, alpha, margin)

    unknown, n = Interval(math.nan, -math.inf, math.inf), last - first + 1
    if last < (fewest := 3 if closed else _FEWEST):
        return say("undecided", f"{last} generations, it takes at least {fewest}")
    if not np.isfinite(y).all():
        return say("undecided", "the distance is about 0, so that no growth can be told")
    slopes = _slopes(y, first)
    if seeds < 2:
        return say("undecided", "one seed: one throw of the dice has no error bars", slopes)
    if (d == d[0]).all():
        return say("undecided", "all seeds say the same: they are copies, not seeds", slopes)

    limit = math.log1p(margin)
    growth = Interval.of(slopes * n, alpha)
    grows, settled, pull = growth.low > 0.0, growth.high < limit, None
    if closed:
        rise = Interval.of(y[:, last // 2 :].mean(axis=1) - y[:, 0], alpha)
        settled = settled and rise.high < limit
    whole = Interval.of(_slopes(y, 1) * last, alpha)
    if not closed:
        q = max(_LIKELY, _FADED ** (1.0 / last)) if memory is None else memory
        pull = Interval.of(_slopes(_heading(d, q), 1), alpha)

    faded = closed or memory is None or memory**last <= _FADED
    if grows and faded and (pull is None or pull.low > 0.0):
        reason = "it grows" + ("" if closed else ", and not as a loop that settles would")
        return say("MAD", reason, slopes, pull)
    if settled and (memory is not None or whole.high < limit):
        return say("not MAD", f"it grows by less than {margin:.0%}, if at all", slopes, pull)
    if settled:
        reason = "it has settled, at home or far from it: say how much real data comes in (memory)"
        return say("undecided", reason, slopes, pull)
    if grows and memory is not None and not faded:
        longer = math.ceil(math.log(_FADED) / math.log(memory))
        reason = f"it grows, but generation 1 fades only within {longer} generations"
        return say("undecided", reason, slopes, pull)
    if grows:
        return say("undecided", "it grows, but a loop that settles could so far", slopes, pull)
    reason = f"growth of {margin:.0%} and none are both possible: more seeds, or more generations"
    return say("undecided", reason, slopes, pull)


# when did it leave the floor?


@dataclass(frozen=True)
class Departure:
    """Since when a metric is worse than real data is.

    Attributes:
        generation: First generation from which on every one is; None if that is not shown.
        bounds: What the metric is at most (a distance: at least) in each generation, pointwise.
        limit: The floor, less (a distance: plus) the tolerance.
        reason: Why there is no generation; empty if there is one.
    """

    generation: int | None
    bounds: tuple[float, ...]
    limit: float
    reason: str = ""


def departure(
    values: ArrayLike,
    floor: ArrayLike,
    *,
    tolerance: float = 0.02,
    floor_error: float = 0.0,
    higher_is_better: bool = True,
    alpha: float = 0.05,
) -> Departure:
    """The generation at which a metric left the real-vs-real floor for good.

    Generations are tested from the last one backwards, each with Student's one-sided bound on the
    seeds' mean, until one does not lie beyond the floor and the tolerance. In such a fixed order no
    test pays for the others (Maurer, Hothorn and Lehmacher, 1995): to name a generation that is too
    early, the last one in which the metric had *not* left must be taken for one in which it had,
    and that has probability alpha at most, however generations depend on each other. A metric that
    left and came back has not left.

    Args:
        values: The metric, shape (S, T).
        floor: What real samples score against others: one estimate that all seeds share, or one a
            seed, shape (S,), whose scatter then counts with the seeds'.
        tolerance: How much worse than the floor still counts as on it, in units of the metric.
        floor_error: Standard error of a floor that all seeds share.
        higher_is_better: False for distances.
        alpha: Probability of naming a generation that is too early.

    Raises:
        Refused: If an argument lies outside its range, or a value is not finite.
    """
    x = _matrix("values", values)
    _check(alpha)
    base = np.broadcast_to(np.asarray(floor, dtype=float), x.shape[:1])
    sign = 1.0 if higher_is_better else -1.0
    excess = sign * (x - base[:, None]) + tolerance
    highs = np.array([Interval.of(each, alpha, floor_error).high for each in excess.T])
    limit = float(np.mean(base)) - sign * tolerance
    left, reason = len(highs) + 1, ""
    while left > 1 and highs[left - 2] < 0.0:
        left -= 1
    if left > len(highs):
        reason = "one seed" if len(x) < 2 else "not shown to be beyond it in the last generation"
    bounds = tuple(float(limit + sign * each) for each in highs)
    return Departure(None if reason else left, bounds, limit, reason)


# how much fresh data is safe?


@dataclass(frozen=True)
class SafeShare:
    """What lineages that differ in their fresh share say about the share that is needed.

    Attributes:
        largest_mad: Largest share that was judged MAD; None if none was.
        smallest_safe: Smallest share such that it and all larger ones were judged not MAD; None if
            the largest one was not.
        undecided: Shares that were judged neither.
        contradicted: Shares that were judged not MAD although a larger one was judged MAD.
    """

    largest_mad: float | None
    smallest_safe: float | None
    undecided: tuple[float, ...]
    contradicted: tuple[float, ...]

    def __str__(self) -> str:
        if self.smallest_safe is None:
            text = "no share was shown to be safe"
            if self.largest_mad is not None:
                text += f"; it takes more than {self.largest_mad:.3g}"
        else:
            low = "not bounded below: none was judged MAD"
            if self.largest_mad is not None:
                low = f"needed: between {self.largest_mad:.3g} and {self.smallest_safe:.3g}"
            text = f"{self.smallest_safe:.3g} is the smallest share shown to be safe ({low})"
        for name in ("undecided", "contradicted"):
            if shares := getattr(self, name):
                text += f"; {name}: {', '.join(f'{each:.3g}' for each in shares)}"
        return text


def safe_share(answers: Sequence[tuple[float, Answer]]) -> SafeShare:
    """The smallest share of fresh data that keeps a loop from going MAD, between two bounds.

    Shares are read from the largest down, and the reading stops at the first that is not judged
    safe, so P(a share at which the loop is MAD is called safe) is at most the alpha of one verdict,
    however many shares were tried (as in :func:`departure`). The lower end is the largest of k
    shares judged MAD, and wrong with probability k alpha at most. A share that several lineages
    have is safe if all say so, and MAD if any does.

    Args:
        answers: Pairs of n_fresh / (n_fresh + n_synthetic) and a verdict's answer, in any order.

    Raises:
        Refused: If there are none.
    """
    if not answers:
        raise Refused("answers", "there are none", "give a share and an answer at least")
    by_share: dict[float, set[Answer]] = {}
    for share, answer in sorted(answers, reverse=True):
        by_share.setdefault(share, set()).add(answer)
    mad = [share for share, said in by_share.items() if "MAD" in said]
    calm = [share for share, said in by_share.items() if said == {"not MAD"}]
    safe: float | None = None
    for share in by_share:
        if share not in calm:
            break
        safe = share
    return SafeShare(
        largest_mad=max(mad, default=None),
        smallest_safe=safe,
        undecided=tuple(sorted(by_share.keys() - {*mad, *calm})),
        contradicted=tuple(sorted(each for each in calm if mad and each < max(mad))),
    )


# what else is called collapse


@dataclass(frozen=True)
class Criterion:
    """One of the field's definitions of collapse, and what the ledgers say to it.

    Attributes:
        name: What is asked.
        source: Whose definition it is.
        number: What ``value`` is, and which values mean yes.
        value: Over seeds; None if the ledgers cannot say.
        answer: ``yes``, ``no``, ``undecided``, or ``not measured``.
    """

    name: str
    source: str
    number: str
    value: Interval | None
    answer: Literal["yes", "no", "undecided", "not measured"]


_POSITION = "Schaeffer et al., 2025"  # arXiv 2503.03150: eight definitions, numbered as there
_CATASTROPHE, _HALF = 10.0, 0.5


def criteria(
    metrics: Mapping[str, ArrayLike],
    floor: Mapping[str, ArrayLike] | None = None,
    *,
    alpha: float = 0.05,
    margin: float = 0.25,
) -> tuple[Criterion, ...]:
    """The field's competing definitions of collapse, side by side.

    Schaeffer et al. (2025, arXiv 2503.03150) count eight; a loop can satisfy one and fail another.
    Each question is answered by itself, from the last generation unless it is about the whole
    curve, with one-sided bounds of level alpha: *yes* beyond the threshold, *no* on its other side.
    Thresholds that a source leaves open are ours, and stated: catastrophic is tenfold, lost is less
    than half of what real data scores.

    Args:
        metrics: Values by name, each (S, T), all of the same lineages.
        floor: Real-vs-real values by name, scalar or (S,).
        alpha: Error probability of each bound.
        margin: Relative increase that still counts as none.
    """
    _check(alpha, margin=margin)
    floor = floor or {}
    known = {name: _matrix(name, values) for name, values in metrics.items()}
    made: list[Criterion] = []

    def ask(
        name: str,
        source: str,
        number: str,
        value: Interval | None,
        yes_above: float = math.inf,
        no_below: float = -math.inf,
        yes_below: float = -math.inf,
        no_above: float = math.inf,
    ) -> None:
        answer: Literal["yes", "no", "undecided", "not measured"] = "undecided"
        if value is None:
            answer = "not measured"
        elif value.low > yes_above or value.high < yes_below:
            answer = "yes"
        elif value.high < no_below or value.low > no_above:
            answer = "no"
        made.append(Criterion(name, source, number, value, answer))

    def of_floor(name: str | None) -> Interval | None:
        """A metric in the last generation over its floor."""
        if name is None or name not in known or name not in floor:
            return None
        base = np.asarray(floor[name], dtype=float)
        return Interval.of(known[name][:, -1] / base, alpha) if (base > 0).all() else None

    d = known.get(distance_name(known) or "")
    risk = steady = bend = None
    if d is not None and d.shape[1] >= 2:
        if (d[:, [0, -1]] > 0).all():
            risk = Interval.of(np.log(d[:, -1] / d[:, 0]), alpha).exp()
        if d.shape[1] >= 4:
            half = d.shape[1] // 2
            late, early = _slopes(d, d.shape[1] - half), _slopes(d[:, : half + 1], 1)
            bend = Interval.of((late - early) / (np.abs(d).mean() or 1.0), alpha)
        if d.shape[1] >= _FEWEST:
            steady = verdict(d, alpha=alpha, margin=margin)
    ask(
        "any increase over real-only training",
        f"Dohmatob et al., 2024 (strong collapse); {_POSITION}, 2",
        "distance, last / first (> 1)",
        risk,
        yes_above=1.0,
        no_below=1.0 + margin,
    )
    ask(
        "catastrophic increase",
        f"{_POSITION}, 1",
        f"distance, last / first (> {_CATASTROPHE:g})",
        risk,
        yes_above=_CATASTROPHE,
        no_below=_CATASTROPHE,
    )
    ask(  # without a sign of settling; finitely many generations can say no more than that
        "diverging",
        f"{_POSITION}, 3",
        "growth of the distance in the later half (> 1, not slowing down)",
        None if steady is None else steady.growth,
        yes_above=1.0 if steady is not None and steady.answer == "MAD" else math.inf,
        no_below=1.0 + margin,
    )
    ask(
        "faster than linear",
        "Gerstgrasser et al., 2024 (replacing is linear)",
        "slope of the distance over its mean, later - earlier half (> 0)",
        bend,
        yes_above=1e-9,  # rounding
        no_below=1e-9,
    )
    trace = next((name for name in known if name.startswith("trace_")), None)
    for name, source, metric, what in (
        ("collapsing variance", f"Shumailov et al., 2024; {_POSITION}, 5", trace, "trace"),
        ("diversity lost", "Alemohammad et al., 2023", "recall", "recall"),
        ("fidelity lost", "Alemohammad et al., 2023", "precision", "precision"),
        ("tails lost", f"Shumailov et al., 2024 (early); {_POSITION}, 7", "tail_mass", "tail mass"),
        ("modes lost", f"{_POSITION}, 6", "modes", "modes alive"),
    ):
        number = f"{what} / floor (< {_HALF:g})"
        ask(name, source, number, of_floor(metric), yes_below=_HALF, no_above=_HALF)
    outside = None
    if "precision" in known and "precision" in floor:
        base = 1.0 - np.asarray(floor["precision"], dtype=float)
        if (base > 0).all():
            outside = Interval.of((1.0 - known["precision"][:, -1]) / base, alpha)
    number = "share of samples off the real ones, over the floor's (> 2)"
    ask("hallucinated samples", f"{_POSITION}, 8", number, outside, yes_above=2.0, no_below=2.0)
    ask(
        "change of scaling law",
        f"Dohmatob et al., 2024 (tails); {_POSITION}, 4",
        "needs lineages of several sizes",
        None,
    )
    ask(
        "memorisation",
        "Shi et al., 2025",
        "share of samples as near to the training set as few real ones are, over the floor's (> 2)",
        of_floor("memorised"),
        yes_above=2.0,
        no_below=2.0,
    )
    return tuple(made)


# all of it for one configuration


@dataclass(frozen=True)
class Judgement:
    """All that the seeds of one configuration say.

    Attributes:
        distance: Name of the distance that the verdict is about; None if none was measured.
        verdict: On that distance.
        left: Departure from the floor by metric (those of precision and recall that were measured).
        criteria: The field's definitions of collapse, side by side.
    """

    distance: str | None
    verdict: Verdict
    left: dict[str, Departure]
    criteria: tuple[Criterion, ...]


def distance_name(metrics: Sequence[str] | Mapping[str, object]) -> str | None:
    """The distance to judge by: ``fid``, else ``w2_squared``, ``fd_*``, ``kid``; None if none."""
    for start in ("fid", "w2_squared", "fd_", "kid"):
        if found := next((name for name in metrics if name.startswith(start)), None):
            return found
    return None


def judge(
    metrics: Mapping[str, ArrayLike],
    floor: Mapping[str, ArrayLike] | None = None,
    *,
    memory: float | None = None,
    n: int | None = None,
    alpha: float = 0.05,
    margin: float = 0.25,
    tolerance: float = 0.02,
) -> Judgement:
    """Judges the lineages of one configuration by all that was measured of them.

    Args:
        metrics: Values by name, each (S, T). A metric with a value that is not finite is left out.
        floor: Real-vs-real values by name, scalar or (S,).
        memory: As in :func:`verdict`.
        n: Samples behind a floor, whose standard error is then that of a share.
        alpha: Error probability of each claim, by itself.
        margin: As in :func:`verdict`.
        tolerance: As in :func:`departure`.
    """
    arrays = {name: np.asarray(values, dtype=float) for name, values in metrics.items()}
    whole = {name: array for name, array in arrays.items() if np.isfinite(array).all()}
    name, floor = distance_name(arrays), floor or {}
    if name in whole:
        said = verdict(whole[name], memory=memory, alpha=alpha, margin=margin)
    else:
        unknown = Interval(math.nan, -math.inf, math.inf)
        reason = f"a value of {name} is missing" if name else "no distance was measured"
        seeds, last = next((array.shape for array in arrays.values()), (0, 0))
        said = Verdict(
            "undecided", reason, unknown, unknown, None, (1, last), seeds, memory, alpha, margin
        )
    left: dict[str, Departure] = {}
    for each in ("precision", "recall"):
        if each in whole and each in floor:
            base = np.asarray(floor[each], dtype=float)
            share = min(max(float(np.mean(base)), 0.0), 1.0)
            shared = base.ndim == 0 or bool((base == base[0]).all())
            error = math.sqrt(share * (1 - share) / n) if n and shared else 0.0
            left[each] = departure(
                whole[each], base, tolerance=tolerance, floor_error=error, alpha=alpha
            )
    return Judgement(name, said, left, criteria(whole, floor, alpha=alpha, margin=margin))
