"""Families beside each other: what loops do to them, and whose variance collapses.

A laboratory has families, loops and sampling biases, and asks one of two questions of every
combination. ``generations`` follows lineages and tells each measure in each generation, beside what
theory expects where it knows. ``collapse`` tells one number: how fast the logarithm of the variance
changes (of its determinant a dimension, where there are several), in the first generations, against
1 / n. A normal law's is about -1 / (n - 1). And it says what became of the variance in the end,
some multiples of n generations later.

Generators that were really trained stand beside them: their ledgers tell ``log_det_<extractor>`` of
each generation's samples (:class:`mad_lightning.metrics.LogDeterminant`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mad_lightning.files import Damaged
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.policies import LoopPolicy
from mad_lightning.refusal import Refused, at
from mad_lightning.seeds import seed_for
from mad_lightning.theory.families import Array, Family, follow
from mad_lightning.verdict.intervals import UNKNOWN, Interval

__all__ = ["Laboratory", "Row", "Verdict"]

Row = dict[str, Any]
"""One row of a table: its values by column."""
Verdict = Literal["collapses", "grows", "neither", "falls so far", "grows so far", "no trend"]
"""What becomes of a family's variance; of a trained one, what it did as far as it was followed."""

_OF_A_SETTING = (
    "family", "loop", "n_real", "n_fresh", "n_synthetic", "n", "sampling_bias",
)  # fmt: skip
"""Counts are those of generation 2."""
_OF_A_MEASURE = (
    "generation", "samples", "measure", "mean", "standard_error", "carriers", "median", "expected",
    "lineages",
)  # fmt: skip
_OF_A_RATE = (
    "inverse_n", "rate", "standard_error", "low", "high", "expected", "generations", "lineages",
    "final", "final_generation", "verdict",
)  # fmt: skip
_LONG = 10
"""Multiples of n generations after which a variance is asked what became of it."""
_LONGEST = 1000
"""Generations that nobody follows it beyond."""
_FEW = 100
"""Lineages whose median tells."""
_GONE = math.log(0.01)
"""The logarithm of the share of its variance that a law has lost for good."""


class _Setting(NamedTuple):
    """One combination, with its first columns and the address of its random numbers."""

    family: Family
    policy: LoopPolicy
    sampling_bias: float | str
    row: Row
    seed: int


@dataclass
class Laboratory:
    """Families, loops and biases: every combination, and what is asked of it.

    Args:
        families: What is trained: subclasses of Family. With neither families nor loops, there is
            no laboratory.
        loops: On what: loop policies.
        sampling_bias: λ, as each family understands it: numbers, or schedules in t as text.
        measures: Which measures to tell; none lists all that the families have.
        question: ``generations``: every measure in each generation; ``collapse``: how fast the
            variance goes.
        trained: Directories of lineages that were really trained, and patterns of such, as
            ``runs/collapse/*``; for ``collapse`` only.

    Raises:
        Refused: If a list is empty where it must not be, or a measure is unknown.
    """

    families: list[Family] = field(default_factory=list)
    loops: list[LoopPolicy] = field(default_factory=list)
    sampling_bias: list[float | str] = field(default_factory=lambda: [1.0])
    measures: list[str] = field(default_factory=list)
    question: Literal["generations", "collapse"] = "generations"
    trained: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, kind in (("families", Family), ("loops", LoopPolicy)):
            given = getattr(self, name)
            if not isinstance(given, list) or not all(isinstance(one, kind) for one in given):
                raise Refused(name, f"{given!r}", f"give a list of {kind.__name__}")
        for name in ("families", "loops", "sampling_bias"):
            if not getattr(self, name) and self.is_furnished:
                raise Refused(name, "an empty list", "give at least one")
        known = dict.fromkeys(name for family in self.families for name in family.measures)
        for name in self.measures:
            if name not in known:
                raise Refused("measures", f"no family tells {name}", f"choose {', '.join(known)}")
        if self.question not in ("generations", "collapse"):
            raise Refused("question", f"{self.question!r}", "choose generations or collapse")
        for family in self.families if self.question == "collapse" else ():
            if "log_variance" not in family.measures:
                problem = f"{family.label} has no variance that could collapse"
                raise Refused("families", problem, "leave it out")
        if self.trained and self.question != "collapse":
            raise Refused("trained", f"{self.trained}", "give it with `question: collapse`")

    @property
    def is_furnished(self) -> bool:
        """Whether there is anything in it."""
        return bool(self.families or self.loops)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the table."""
        of = _OF_A_RATE if self.question == "collapse" else _OF_A_MEASURE
        return _OF_A_SETTING + of

    def settings(self, generations: int, seed: int) -> list[_Setting]:
        """Every combination, checked.

        Args:
            generations: How many are followed.
            seed: Decides the random numbers.

        Raises:
            Refused: If a policy cannot be fed, or λ means nothing to a family.
        """
        made: list[_Setting] = []
        for family, policy, bias in product(self.families, self.loops, self.sampling_bias):
            try:
                family.check(policy, generations, bias)
            except Refused as refused:
                own = {"sampling_bias": "sampling_bias", "policy": "loops"}
                name = own.get(refused.field, "loops")
                raise Refused(name, refused.problem, refused.remedy) from None
            mix = policy.summary(min(2, generations))
            counts = {key: mix[key] for key in ("n_real", "n_fresh", "n_synthetic")}
            row = {
                "family": family.label,
                "loop": policy.token,
                **counts,
                "n": sum(counts.values()),
                "sampling_bias": bias,
            }
            made.append(_Setting(family, policy, bias, row, seed_for(seed, "study", len(made))))
        return made

    def run(
        self,
        generations: int,
        lineages: int,
        seed: int = 0,
        threads: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[Row]:
        """Computes the table.

        Args:
            generations: How many to follow; for ``collapse``, over how many a rate is taken.
            lineages: Of each combination.
            seed: Decides all random numbers.
            threads: CPU threads; None takes torch's number.
            progress: Called with a number of combinations when they are done.

        Returns:
            Its rows.
        """
        rows = []
        for setting in self.settings(generations, seed):
            told = self._collapse if self.question == "collapse" else self._followed
            rows += told(setting, generations, lineages, threads)
            progress(1)
        with at("trained"):
            return [*rows, *(self._trained() if self.trained else ())]

    def told(self, rows: Sequence[Row]) -> str:
        """What came out, in a few lines."""
        if self.question == "collapse":
            fates: dict[str, dict[str, None]] = defaultdict(dict)
            for row in rows:
                fates[row["verdict"]][f"{row['family']} ({row['loop']})"] = None
            return "\n".join(
                f"variance {verdict}: {', '.join(names)}" for verdict, names in fates.items()
            )
        known = [row for row in rows if math.isfinite(row["expected"]) and row["standard_error"]]
        fit = [row for row in known if row["carriers"] >= row["lineages"] / 5]
        away = [abs(row["mean"] - row["expected"]) / row["standard_error"] for row in fit]
        text = "no mean has a known expectation"
        if away:
            near = sum(z <= 2 for z in away) / len(away)
            text = f"{len(away)} means have a known expectation: {near:.1%} lie within 2 standard "
            text += f"errors, the farthest {max(away):.1f} away"
        if len(known) > len(fit):
            text += f"\n{len(known) - len(fit)} more are carried by a few lineages, whose scatter "
            text += "says too little: see the columns `carriers` and `median`"
        return text

    def _followed(
        self, setting: _Setting, generations: int, lineages: int, threads: int | None
    ) -> list[Row]:
        family, policy, bias, row, seed = setting
        values = follow(family, policy, generations, lineages, bias, seed, threads)
        expected = family.expected(policy, generations, bias)
        rows = []
        for t in range(1, generations + 1):
            mix = policy.summary(t)
            samples = mix["n_real"] + mix["n_fresh"] + mix["n_synthetic"]
            now = {**row, "generation": t, "samples": samples}
            for name in family.measures:
                if self.measures and name not in self.measures:
                    continue
                x = values[name][:, t - 1]
                told = {"measure": name, **_mean(x), "median": float(np.median(x))}
                theory = float(expected[name][t - 1]) if name in expected else math.nan
                rows.append({**now, **told, "expected": theory, "lineages": lineages})
        return rows

    def _collapse(
        self, setting: _Setting, generations: int, lineages: int, threads: int | None
    ) -> list[Row]:
        family, policy, bias, row, seed = setting
        values = follow(family, policy, generations, lineages, bias, seed, threads)
        expected = family.expected(policy, generations, bias).get("log_variance")
        theory = math.nan if expected is None else _rates(expected[None])[0]
        told = {**_of_rates(_rates(values["log_variance"])), "expected": theory}
        # The median is a lineage's own fate; the mean would be that of a lucky few.
        last = max(generations, min(_LONG * row["n"], _LONGEST))
        few = min(lineages, _FEW)
        late = follow(family, policy, last, few, bias, seed, threads)["log_variance"]
        first, final = float(np.median(late[:, 0])), float(np.median(late[:, -1]))
        change = final - first if math.isfinite(first) else -math.inf
        verdict: Verdict = "neither"
        if abs(change) > -_GONE:
            verdict = "collapses" if change < 0 else "grows"
        end = {"final": _exp(change), "final_generation": last, "verdict": verdict}
        followed = {"generations": generations, "lineages": lineages}
        return [{**row, "inverse_n": 1 / row["n"], **told, **followed, **end}]

    def _trained(self) -> Iterator[Row]:
        """One row for all seeds of a family, a source, a loop and an n."""
        seeds: dict[tuple[Any, ...], list[Array]] = defaultdict(list)
        for path in sorted({path for pattern in self.trained for path in _found(pattern)}):
            if not (directory := LineageDirectory(path)).has_ledger:
                continue
            for key, values in _log_determinants(directory):
                seeds[key].append(values)
        if not seeds:
            problem = f"no lineage of {', '.join(self.trained)} tells its determinant"
            remedy = "train some with the metric LogDeterminant, see configs/sweeps, or name none"
            raise Refused("", problem, remedy)
        for key, several in sorted(seeds.items()):
            shortest = min(map(len, several))
            told = _of_rates(_rates(np.stack([values[:shortest] for values in several])))
            verdict: Verdict = "no trend"
            if told["high"] < 0 or told["low"] > 0:
                verdict = "falls so far" if told["high"] < 0 else "grows so far"
            final = float(np.mean([values[shortest - 1] - values[0] for values in several]))
            yield {
                **dict(zip(_OF_A_SETTING, key, strict=True)),
                "inverse_n": 1 / key[5],
                **told,
                "expected": math.nan,
                "generations": shortest,
                "lineages": len(several),
                "final": _exp(final),
                "final_generation": shortest,
                "verdict": verdict,
            }


def _found(pattern: str) -> Iterator[Path]:
    """Directories of that name, or that a pattern fits."""
    path = Path(pattern)
    return Path(path.anchor).glob(str(path.relative_to(path.anchor)))


def _log_determinants(directory: LineageDirectory) -> Iterator[tuple[tuple[Any, ...], Array]]:
    """Of a lineage: its setting's columns, and what its ledger tells by generation."""
    try:
        records, config = directory.records(), directory.config()
    except Damaged as error:
        raise Refused("", f"{directory}: {error}", "mad verify says more") from None
    if len(records) < 2:
        return
    names = [name for name in records[0].metrics if name.startswith("log_det_")]
    generator, source = (
        str(part.get("class_path", "?")).rpartition(".")[2]
        for part in (config.get("generator", {}), config.get("data", {}).get("source", {}))
    )
    second = records[1]
    counts = second.n_real, second.n_fresh, second.n_synthetic
    for name in names:
        family = f"{generator} on {source}"
        values = np.array([record.metrics.get(name, math.nan) for record in records])
        yield (family, second.policy, *counts, sum(counts), second.sampling_bias), values


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def _mean(x: Array) -> Row:
    """Mean, standard error, and how many lineages as good as carry them (Kish, 1965).

    Where ever fewer lineages carry ever more of a mean, the scatter that is seen is too small.
    """
    size, squares = np.abs(x), np.square(x)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = float(np.std(x, ddof=1)) / math.sqrt(len(x)) if len(x) > 1 else math.nan
        carriers = float(size.sum() ** 2 / squares.sum())
        return {"mean": float(np.mean(x)), "standard_error": error, "carriers": carriers}


def _rates(values: Array) -> Array:
    """Change a generation (R or less,) of logarithms (R, T); of what died, while it lived."""
    values = values[np.isfinite(values[:, 0])]
    alive = np.isfinite(values)
    last = np.where(alive, np.arange(values.shape[1]), 0).max(axis=1)
    change = np.take_along_axis(values, last[:, None], axis=1)[:, 0] - values[:, 0]
    return np.asarray(change / np.maximum(last, 1), np.float64)


def _of_rates(rates: Array) -> Row:
    """Mean, its error and its interval, 95 % in all."""
    mean = Interval.of(rates, 0.025) if len(rates) else UNKNOWN
    error = float(np.std(rates, ddof=1)) / math.sqrt(len(rates)) if len(rates) > 1 else math.nan
    return {
        "rate": mean.estimate, "standard_error": error, "low": mean.low, "high": mean.high,
    }  # fmt: skip
