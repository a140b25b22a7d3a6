r"""Where fresh data loops settle, and how long that takes.

**When a loop has settled is judged by its data.** A run is cut in half. The first half is burn-in.
How far the second half still moves, from its own first half to its own second, is seen in each of R
independent lineages: a drift D with a standard error that needs no model of autocorrelation. What
relaxes in τ generations, known from the first two moments (:func:`~.closed_forms.relaxation`), and
moves by D between halves of h generations each, is on average :math:`(D/2) \coth(h/2\tau)` away
from its limit. That is the *bias*, and it is taken off, lineage by lineage, so that what is left
has its uncertainty in its standard error. The run ends when the bias, which rests on a model, and
that standard error are both within the precision asked for; else it grows by half.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch

from mad_lightning.policies import FreshData, LoopPolicy, Mix, Part
from mad_lightning.refusal import Refused, check_sampling_bias
from mad_lightning.seeds import seed_for
from mad_lightning.theory.closed_forms import (
    DriftAndVariance,
    Estimator,
    fresh_fixed_point,
    relaxation,
)
from mad_lightning.theory.cores import Work, in_turns
from mad_lightning.theory.lineages import GaussianLineages, Setting, batches

__all__ = ["FreshLoop", "Limit", "check_precision", "check_whole", "limits", "standard_error"]

_FEWEST = 4
"""Lineages of a loop, at least. Their intervals are Student's t: of the 390 loops of E12, those of
four lineages hold the value of an independent run, which errs itself, in 89 %, those of eight in
80 %; intervals that hold the truth in 95 % would in 83 %."""
_EXTENSIONS = 7
"""How often a run may grow by half: to 17 times its first length."""


@dataclass(frozen=True)
class FreshLoop:
    """A fresh data loop.

    Attributes:
        n_real: Fresh real samples a generation, at least 2.
        n_synthetic: Synthetic samples a generation.
        sampling_bias: λ in (0, 1].
        k: How many of the last generations the synthetic samples come from, in equal shares.

    Raises:
        Refused: If a number lies outside its range.
    """

    n_real: int
    n_synthetic: int
    sampling_bias: float = 1.0
    k: int = 1

    def __post_init__(self) -> None:
        check_whole("n_real", self.n_real, 2)
        check_whole("n_synthetic", self.n_synthetic, 0)
        check_whole("k", self.k, 1)
        check_sampling_bias(self.sampling_bias)

    def policy(self) -> LoopPolicy:
        """The loop policy, begun about where linear theory puts the limit.

        Any start will do, but a window that grows model by model gives the first of them a weight
        that takes many relaxations to fade. So all k begin on real samples of their own, as many as
        make their errors, weighed by how long each stays in the window, those of the limit: for
        k = 1 that is n_real (1 + q), q the synthetic share.
        """
        n, n_synthetic, k = self.n_real, self.n_synthetic, self.k
        start = round(n * (1 + n_synthetic / (n + n_synthetic)) * (2 * k + 1) / (3 * k))
        source: Literal["last", "last_k"] = "last" if k == 1 else "last_k"
        return _Begun(FreshData(start * k, n, n_synthetic, source, k), start)


class _Begun(LoopPolicy):
    """A fresh loop whose first k generations are real only; after that it is the loop's own."""

    def __init__(self, loop: FreshData, start: int) -> None:
        self.loop, self.start = loop, start

    def mix(self, t: int) -> Mix:
        if t > self.loop.k:
            return self.loop.mix(t)
        return Mix(t, (Part("real", None, (t - 1) * self.start, self.start),))


def check_precision(precision: float) -> None:
    """Refuses a relative error that nobody can want, or wait for."""
    if not 0.001 <= precision <= 0.2:
        raise Refused("precision", f"{precision}", "give a relative error, 0.001 to 0.2")


def check_whole(field: str, n: int, least: int) -> None:
    """Refuses what is no whole number, or too small a one."""
    if isinstance(n, bool) or not isinstance(n, int) or n < least:
        raise Refused(field, f"{n!r}", f"give a whole number, at least {least}")


@dataclass
class _Run:
    """A loop's lineages on their way to the limit.

    Attributes:
        first: The generation that begins the run: the window of models is full.
        tau: Generations in which the distance forgets all but 1/e.
        length: Generations after ``first`` at which it is judged next.
        longest: Where it is given up.
        every: Generations between measurements.
        known: Where the drift of the mean and the total variance end, in expectation, if known.
        times: When it was measured.
        values: Squared distance, drift of the mean and total variance then, (3, R) each.
    """

    first: int
    tau: float
    length: int
    longest: int
    every: int
    known: DriftAndVariance | None = None
    times: list[int] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def of(cls, loop: FreshLoop, dim: int, estimator: Estimator) -> _Run:
        tau = relaxation(loop.n_real, loop.n_synthetic, loop.sampling_bias, loop.k, estimator)
        if loop.sampling_bias == 1.0 and loop.n_real >= dim:
            # The expected covariance stays where it is. Its errors fade at this rate, but count
            # squared.
            tau /= 2
        length = 6 + loop.k + math.ceil(2 * tau / loop.k)
        longest = math.ceil(length * 1.5**_EXTENSIONS)
        known = None
        if loop.k == 1:
            counts = loop.n_real, loop.n_synthetic
            known = fresh_fixed_point(*counts, loop.sampling_bias, dim, estimator)
        return cls(loop.k, tau, length, longest, max(1, int(tau / (2 * loop.k))), known)

    @property
    def horizon(self) -> int:
        """The last generation that may be needed."""
        return self.first + self.longest

    @property
    def burn_in(self) -> int:
        """The last generation that is left out."""
        return self.first + self.length // 2

    def wants(self, t: int) -> bool:
        """Whether generation t is one to measure."""
        return t > self.burn_in and t % self.every == 0

    def judge(self, precision: float) -> tuple[Limit, bool]:
        """The limit as far as it is known, and whether the run may end."""
        inside = [t > self.burn_in for t in self.times]
        times, values = np.array(self.times)[inside], self._steadied(np.stack(self.values)[inside])
        late = times > self.first + 0.75 * self.length
        drift = values[late].mean(axis=0) - values[~late].mean(axis=0)
        # An exponential that moves by D from the mean of one half to that of the other
        # is, on average over both, D/2 coth(h / 2τ) away from where it ends.
        away = -drift / (2.0 * math.tanh(self.length / 8 / self.tau)) if self.tau else 0.0 * drift
        per_lineage = values.mean(axis=0) - away
        mean, bias = float(per_lineage.mean()), float(away.mean())
        settled = max(abs(bias), standard_error(per_lineage)) <= precision * mean
        limit = Limit(per_lineage, bias, self.burn_in, self.first + self.length, settled)
        return limit, settled or math.ceil(1.5 * self.length) > self.longest

    def _steadied(self, measured: np.ndarray) -> np.ndarray:
        """Squared distances (m, R) less the chance that is known to be chance.

        Drift and variance wander, and their expectations are known. What of the distance follows
        their wandering (by least squares) is taken away: a control variate.
        """
        distance, others = measured[:, 0], measured[:, 1:]
        if self.known is None:
            return distance
        centred = (others - others.mean(axis=(0, 2), keepdims=True)).swapaxes(1, 2).reshape(-1, 2)
        slopes = np.linalg.lstsq(centred, (distance - distance.mean()).ravel())[0]
        away = others - np.array(self.known)[:, None]
        return distance - np.einsum("c,mcr->mr", slopes, away)


@dataclass(frozen=True)
class Limit:
    """What the distances of a loop's R lineages are on average once it has settled.

    Attributes:
        per_lineage: Of each lineage, with shape (R,).
        bias: What was taken off their mean after burn-in, because it was still moving.
        burn_in: Generations left out.
        generations: Generations of each lineage.
        settled: Whether the run passed its test.
    """

    per_lineage: np.ndarray
    bias: float
    burn_in: int
    generations: int
    settled: bool


def limits(
    loops: Sequence[FreshLoop],
    dim: int,
    estimator: Estimator,
    precision: float,
    seed: int,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Limit]:
    """Runs every loop until it has settled.

    Args:
        loops: The loops.
        dim: Dimension d.
        estimator: How covariances are estimated.
        precision: Relative standard error to reach.
        seed: Decides all random numbers.
        device: Where to compute.
        threads: CPU threads; None takes torch's number. The bits do not depend on it.
        progress: Called with a number of loops when they are done.

    Returns:
        One limit a loop, in order.
    """
    # The squared distance of a single lineage has a relative spread of about 2.5 / d.
    lineages = max(_FEWEST, math.ceil((1.5 / (precision * dim)) ** 2))
    settings = [
        Setting(loop.policy(), loop.sampling_bias, seed_for(seed, "limit", dim, *astuple(loop)))
        for loop in loops
    ]
    found: dict[int, Limit] = {}

    def settle(places: list[int]) -> Work:
        """Measures between one judgement and the next, as many parts at a time as there are."""
        runs = {place: _Run.of(loops[place], dim, estimator) for place in places}
        batch = [settings[place] for place in places]
        plan = partial(GaussianLineages, batch, dim, _needed(runs), lineages, estimator, device)
        parts = (yield [plan])[0].parts()
        while runs:
            until = min(run.first + run.length for run in runs.values())
            results = yield [partial(_measured, part, until, runs) for part in parts]
            for same in zip(*results, strict=True):
                place, t, _ = same[0]
                runs[place].times.append(t)
                runs[place].values.append(np.concatenate([values for *_, values in same], axis=1))
            for place, run in runs.items():
                if until == run.first + run.length:
                    limit, over = run.judge(precision)
                    run.length = math.ceil(1.5 * run.length)
                    if over:
                        found[place] = limit
            left = [at for at, place in enumerate(runs) if place not in found]
            if len(left) < len(runs):
                for part in parts:
                    part.keep(left)
                progress(len(runs) - len(left))
                runs = {place: run for place, run in runs.items() if place not in found}

    by_length: dict[int, list[int]] = defaultdict(list)
    for place, loop in enumerate(loops):
        by_length[_Run.of(loop, dim, estimator).horizon.bit_length()].append(place)
    works = [
        settle([places[at] for at in alike])
        for _, places in sorted(by_length.items(), reverse=True)  # long ones first
        for alike in batches(
            [settings[place] for place in places],
            dim,
            # A fresh loop is the same in each generation once its window is full.
            2 + 2 * max(loops[place].k for place in places),
        )
    ]
    in_turns(works, threads)
    return [found[place] for place in range(len(loops))]


def _needed(runs: Mapping[int, _Run]) -> int:
    """Generations that judging all runs takes, and one more: a law is kept if others draw of it."""
    return 1 + max(run.first + run.length for run in runs.values())


def _measured(
    part: GaussianLineages, until: int, runs: Mapping[int, _Run]
) -> list[tuple[int, int, np.ndarray]]:
    """Trains up to a generation and measures on the way what runs want.

    Returns:
        Run, generation, and squared distance, drift of the mean and total variance of each of the
        part's c lineages, (3, c).
    """
    if part.generations < _needed(runs):
        part.look_ahead(_needed(runs))
    measured = []
    while part.t < until:
        part.step()
        due = [at for at, run in enumerate(runs.values()) if run.wants(part.t)]
        if due:
            drift, variance = part.drift()[due], part.dim * part.variance()[due]
            values = torch.stack([part.w2_squared(due), drift, variance], dim=1).cpu().numpy()
            places = [*runs]
            measured += [(places[at], part.t, value) for at, value in zip(due, values, strict=True)]
    return measured


def standard_error(values: np.ndarray) -> float:
    """Of the mean of independent values (R,)."""
    return float(values.std(ddof=1) / len(values) ** 0.5)
