"""Studies: many loops at once, followed for some generations or run to their limits.

A study of Gaussians has a *grid* of fresh data loops (every combination of its lists) and asks one
of two questions. With ``generations`` it follows lineages and measures every generation, as the
paper's figure 10 does; without, it runs each loop to its limit point and says what the loop is
worth in real samples (figures 11, 12, 30, 31). The table is tidy: one row for each loop, or loop
and generation, one column for each variable, among them the Monte-Carlo error.

Any other family, and any other loop, is studied in a *laboratory* (:mod:`.laboratory`).
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TypedDict

import torch

from mad_lightning.policies import FreshData
from mad_lightning.refusal import Refused, at
from mad_lightning.seeds import seed_for
from mad_lightning.theory.closed_forms import Estimator
from mad_lightning.theory.laboratory import Laboratory, Row
from mad_lightning.theory.limits import FreshLoop, check_precision
from mad_lightning.theory.lineages import Setting, simulate
from mad_lightning.theory.sample_size import effective_sample_sizes

__all__ = ["LoopGrid", "Row", "Study", "relative_error"]

_OF_A_LOOP = (
    "grid", "dim", "estimator", "n_real", "n_synthetic", "n", "real_share", "sampling_bias", "k",
    "n_initial",
)  # fmt: skip
_OF_A_LIMIT = (
    "w2_squared", "standard_error", "bias", "n_e", "ratio", "ratio_low", "ratio_high", "admissible",
    "burn_in", "generations", "lineages", "settled",
)  # fmt: skip
_OF_A_GENERATION = (
    "generation", "w2_squared", "standard_error", "drift", "variance_mean", "variance_median",
    "lineages",
)  # fmt: skip
_PILOT = 16
"""Lineages of each loop that tell how many it takes."""
_LINEAGES = 400
"""Lineages of each combination of a laboratory."""


@dataclass
class LoopGrid:
    """Fresh data loops: every combination of the lists.

    Args:
        n_real: Fresh real samples a generation.
        n_synthetic: Synthetic samples a generation.
        n: Samples a generation of both kinds; with real_share, instead of the two above.
        real_share: The share of them that is real, in (0, 1].
        sampling_bias: λ in (0, 1].
        k: How many of the last generations the synthetic samples come from.
        n_initial: Real samples of generation 1; only where generations are followed.
    """

    n_real: list[int] = field(default_factory=list)
    n_synthetic: list[int] = field(default_factory=list)
    n: list[int] = field(default_factory=list)
    real_share: list[float] = field(default_factory=list)
    sampling_bias: list[float] = field(default_factory=lambda: [1.0])
    k: list[int] = field(default_factory=lambda: [1])
    n_initial: list[int] = field(default_factory=list)

    def counts(self) -> list[tuple[int, int]]:
        """Pairs (n_real, n_synthetic)."""
        if bool(self.n_real and self.n_synthetic) == bool(self.n and self.real_share):
            problem = "its loops have two sizes" if self.n else "its loops have no sizes"
            remedy = "give `n_real` and `n_synthetic`, or `n` and `real_share`"
            raise Refused("", problem, remedy)
        for share in self.real_share:
            if not 0.0 < share <= 1.0:
                raise Refused("real_share", f"{share} lies outside (0, 1]", "give a share")
        real = [(round(share * n), n) for share, n in product(self.real_share, self.n)]
        return [*product(self.n_real, self.n_synthetic), *((r, n - r) for r, n in real)]

    def rows(self, followed: bool) -> list[Row]:
        """The loops, as first columns of the table.

        Args:
            followed: Whether generations are followed, which needs n_initial.

        Raises:
            Refused: If a list is missing, or a value lies outside its range.
        """
        for name in ("sampling_bias", "k"):
            if not getattr(self, name):
                raise Refused(name, "an empty list", "give at least one value")
        if followed != bool(self.n_initial):
            problem = "a list" if self.n_initial else "none"
            raise Refused("n_initial", problem, "give it with generations, and only then")
        rows = []
        initial: list[int | None] = [*self.n_initial] or [None]
        for (n_real, n_synthetic), bias, k, n_initial in product(
            self.counts(), self.sampling_bias, self.k, initial
        ):
            n = n_real + n_synthetic
            values = (n_real, n_synthetic, n, n_real / max(n, 1), bias, k, n_initial)
            rows.append(dict(zip(_OF_A_LOOP[3:], values, strict=True)))
            try:
                _loop(rows[-1])
            except Refused as refused:
                by_share = refused.field == "n_real" and self.n
                field = "n and real_share" if by_share else refused.field
                raise Refused(field, refused.problem, refused.remedy) from None
        return rows


@dataclass
class Study:
    """What is asked of which loops.

    Args:
        grid: Fresh data loops of Gaussians.
        also: More loops, in a grid of their own.
        laboratory: Families, loops and what is asked of them, instead of a grid. Of what follows,
            it takes generations, lineages, seed and threads; a family has its own dimension.
        dim: Dimension d of the data, N(0, I).
        generations: How many to follow; null runs every loop to its limit.
        lineages: Lineages of each loop, where generations are followed; null takes as many as the
            precision asks for, and 400 in a laboratory.
        precision: Relative Monte-Carlo error of a squared W2 distance, 0.001 to 0.2.
        estimator: Whether covariances divide by n - 1 or by n.
        seed: Decides all random numbers.
        device: Where to compute.
        threads: CPU threads; null takes torch's number.

    Attributes:
        loops: The first columns of the table, a row a loop.
        columns: All columns of the table.

    Raises:
        Refused: If a field is wrong; nothing has been computed then.
    """

    grid: LoopGrid = field(default_factory=LoopGrid)
    also: LoopGrid | None = None
    laboratory: Laboratory = field(default_factory=Laboratory)
    dim: int = 100
    generations: int | None = None
    lineages: int | None = None
    precision: float = 0.01
    estimator: Estimator = "unbiased"
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("dim", 1), ("generations", 1), ("lineages", 2), ("threads", 1)):
            count = getattr(self, name)
            if count is not None and count < least:
                raise Refused(name, f"{count}", f"give at least {least}")
        check_precision(self.precision)
        _check_device(self.device)
        if self.laboratory.is_furnished:
            self._enter(self.laboratory)
            return
        followed = self.generations is not None
        self.columns = _OF_A_LOOP + (_OF_A_GENERATION if followed else _OF_A_LIMIT)
        self.loops: list[Row] = []
        for index, name in enumerate(("grid", "also"), 1):
            loops: LoopGrid | None = getattr(self, name)
            common = {"grid": index, "dim": self.dim, "estimator": self.estimator}
            with at(name):
                self.loops += [common | row for row in (loops.rows(followed) if loops else ())]

    def _enter(self, laboratory: Laboratory) -> None:
        """Checks what is asked of a laboratory."""
        for name, grid in (("grid", self.grid), ("also", self.also)):
            if grid not in (None, LoopGrid()):
                raise Refused(name, "there is a laboratory", "leave one of them out")
        least = 2 if laboratory.question == "collapse" else 1
        if self.generations is None or self.generations < least:
            problem = "none" if self.generations is None else f"{self.generations}"
            raise Refused("generations", problem, f"a laboratory follows at least {least}")
        self.columns = laboratory.columns
        with at("laboratory"):
            self.loops = [one.row for one in laboratory.settings(self.generations, self.seed)]

    def run(self, progress: Callable[[int], None] = lambda done: None) -> list[Row]:
        """Computes the table.

        Args:
            progress: Called with a number of loops when they are done; with a negative one when
                they turn out to need more lineages, and are begun anew.

        Returns:
            Its rows.
        """
        if self.laboratory.is_furnished:
            followed = self.generations or 1, self.lineages or _LINEAGES
            with at("laboratory"):
                return self.laboratory.run(*followed, self.seed, self.threads, progress)
        if self.generations is None:
            return self._to_the_limit(progress)
        lineages = self.lineages or _PILOT
        while True:
            rows = self._followed(self.generations, lineages, progress)
            short = max(map(relative_error, rows)) / self.precision
            if self.lineages is not None or short <= 1.0:
                return rows
            progress(-len(self.loops))
            lineages = math.ceil(1.1 * short**2 * lineages)

    def table(self, rows: Sequence[Row]) -> str:
        """Rows as CSV."""
        text = io.StringIO()
        table = csv.DictWriter(text, self.columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        return text.getvalue()

    def told(self, rows: Sequence[Row]) -> str:
        """How sure the rows are, in a few lines."""
        if self.laboratory.is_furnished:
            return self.laboratory.told(rows)
        errors = [relative_error(row) for row in rows]
        median, largest = statistics.median(errors), max(errors)
        text = f"Monte-Carlo error of W2² {median:.2%} (median), {largest:.2%} (largest)"
        unsettled = sum(not row.get("settled", True) for row in rows)
        return text + f"\n{unsettled} loops had not settled: see the column `settled`" * bool(
            unsettled
        )

    @property
    def _machine(self) -> _Machine:
        return {"estimator": self.estimator, "device": self.device, "threads": self.threads}

    def _to_the_limit(self, progress: Callable[[int], None]) -> list[Row]:
        sizes = effective_sample_sizes(
            [_loop(row) for row in self.loops],
            self.dim,
            precision=self.precision,
            seed=self.seed,
            progress=progress,
            **self._machine,
        )
        return [
            row
            | {name: getattr(size, name) for name in _OF_A_LIMIT if hasattr(size, name)}
            | dict(zip(("ratio_low", "ratio_high"), size.interval, strict=True))
            for row, size in zip(self.loops, sizes, strict=True)
        ]

    def _followed(
        self, generations: int, lineages: int, progress: Callable[[int], None]
    ) -> list[Row]:
        settings = []
        for place, row in enumerate(self.loops):
            loop = _loop(row)
            policy = FreshData(
                row["n_initial"],
                loop.n_real,
                loop.n_synthetic,
                synthetic_from="last" if loop.k == 1 else "last_k",
                k=loop.k,
            )
            settings.append(
                Setting(policy, loop.sampling_bias, seed_for(self.seed, "study", place))
            )
        trajectories = simulate(
            settings, self.dim, generations, lineages, progress=progress, **self._machine
        )
        rows = []
        for place, row in enumerate(self.loops):
            for t in range(generations):
                w2, drift, variance = (values[place, :, t] for values in trajectories)
                values = {
                    "generation": t + 1,
                    "w2_squared": float(w2.mean()),
                    "standard_error": float(w2.std()) / lineages**0.5,
                    "drift": float(drift.mean()),
                    "variance_mean": float(variance.mean()),
                    "variance_median": float(variance.median()),
                    "lineages": lineages,
                }
                rows.append(row | values)
        return rows


class _Machine(TypedDict):
    """Arguments that all simulations share."""

    estimator: Estimator
    device: str
    threads: int | None


def relative_error(row: Row) -> float:
    """Monte-Carlo error of a row's distance, as a share of it."""
    return float(row["standard_error"]) / float(row["w2_squared"])


def _loop(row: Row) -> FreshLoop:
    return FreshLoop(row["n_real"], row["n_synthetic"], row["sampling_bias"], row["k"])


def _check_device(device: str) -> None:
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        problem = str(error).splitlines()[0]
        raise Refused("device", f"{device!r}: {problem}", "use cpu, or e.g. cuda:0") from None
