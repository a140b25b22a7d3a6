"""The door of the Gaussian laboratory: a grid of fresh data loops in, a table and a figure out.

    python -m mad_lightning.study --config configs/studies/e11.yaml

A study has a *grid* of loops (every combination of its lists) and asks one of two questions. With
``generations`` it follows lineages and measures every generation, as the paper's figure 10 does;
without, it runs each loop to its limit point and says what the loop is worth in real samples
(figures 11, 12, 30, 31). The table is tidy: one row for each loop, or loop and generation, one
column for each variable, among them the Monte-Carlo error.
"""

from __future__ import annotations

import csv
import io
import math
import os
import statistics
import sys
import time
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import rich.console
import rich.progress
import torch

from mad_lightning.cli import explain
from mad_lightning.lineage import write_atomically
from mad_lightning.policies import FreshData
from mad_lightning.refusal import Refused
from mad_lightning.seeds import seed_for
from mad_lightning.theory import FreshLoop, Setting, effective_sample_sizes, simulate
from mad_lightning.theory.sample_size import check_precision

__all__ = ["Axes", "Grid", "draw", "main", "study"]

HELP = """usage: python -m mad_lightning.study --config CONFIG [--key.sub value ...]

Many Gaussian lineages of the fresh data loop at once: what a loop settles at, and what it is worth.

examples:
  python -m mad_lightning.study --config configs/studies/e11.yaml
  python -m mad_lightning.study --config configs/studies/e13.yaml --grid.k "[1, 3]" --out k.csv

options:
  --grid.*         n_real, n_synthetic (or n, real_share), sampling_bias, k, n_initial: lists
  --also.*         a second grid beside it
  --axes.*         what the figure shows: x, y, line, panel, colour, log
  --dim            dimension of the data
  --generations N  follow the lineages for N generations; null: run every loop to its limit
  --precision      relative Monte-Carlo error of W2²
  --lineages       lineages of each loop, with --generations (default: by --precision)
  --out CSV        the table (default: runs/studies/<config>.csv)
  --figure PATH    the figure, .svg or .png (default: beside the table)
  --seed, --estimator, --device, --threads

  --print_config   print the resolved configuration and exit
  --full_help      every option with its type and default
"""

_LABELS = {
    "dim": "d",
    "n_real": "n_r",
    "n_synthetic": "n_s",
    "real_share": "p",
    "sampling_bias": "λ",
    "k": "K",
    "n_initial": "n_ini",
    "generation": "generation t",
    "w2_squared": "E W₂²",
    "ratio": "n_e / n_r",
}
_COLUMNS = (
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
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind people tell apart."""


@dataclass
class Grid:
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
            problem = "its loops have no sizes" if not self.n else "its loops have two sizes"
            raise Refused("grid", problem, "give n_real and n_synthetic, or n and real_share")
        for share in self.real_share:
            if not 0.0 < share <= 1.0:
                raise Refused("grid.real_share", f"{share} lies outside (0, 1]", "give a share")
        real = [(round(share * n), n) for share, n in product(self.real_share, self.n)]
        return [*product(self.n_real, self.n_synthetic), *((r, n - r) for r, n in real)]

    def points(self, followed: bool) -> list[dict[str, Any]]:
        """The loops, as first columns of the table.

        Args:
            followed: Whether generations are followed, which needs n_initial.

        Raises:
            Refused: If a list is missing, or a value lies outside its range.
        """
        for name in ("sampling_bias", "k"):
            if not getattr(self, name):
                raise Refused(f"grid.{name}", "an empty list", "give at least one value")
        if followed != bool(self.n_initial):
            problem = "a list" if self.n_initial else "none"
            raise Refused("grid.n_initial", problem, "give it with generations, and only then")
        points = []
        initial: list[int | None] = [*self.n_initial] or [None]
        for (n_real, n_synthetic), bias, k, n_initial in product(
            self.counts(), self.sampling_bias, self.k, initial
        ):
            n = n_real + n_synthetic
            values = (n_real, n_synthetic, n, n_real / max(n, 1), bias, k, n_initial)
            points.append(dict(zip(_COLUMNS[3:], values, strict=True)))
            try:
                _loop(points[-1])
            except Refused as refused:
                where = "n and grid.real_share" if refused.field == "n_real" and self.n else None
                field = f"grid.{where or refused.field}"
                raise Refused(field, refused.problem, refused.remedy) from None
        return points


@dataclass
class Axes:
    """What the figure shows; each field names a column of the table.

    Args:
        x: Across.
        y: Up.
        line: One line for each combination of these; none draws one.
        panel: One panel for each value; null draws one.
        colour: A map of this column over x and y instead of lines, with its contour at 1.
        log: The axes that are logarithmic.
    """

    x: str = "n_synthetic"
    y: str = "ratio"
    line: list[str] = field(default_factory=lambda: ["sampling_bias"])
    panel: str | None = None
    colour: str | None = None
    log: Literal["", "x", "y", "xy"] = "x"


def study(
    grid: Grid,
    axes: Axes,
    also: Grid | None = None,
    dim: int = 100,
    generations: int | None = None,
    lineages: int | None = None,
    precision: float = 0.01,
    estimator: Literal["unbiased", "maximum_likelihood"] = "unbiased",
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    out: Path | None = None,
    figure: Path | None = None,
) -> list[dict[str, Any]]:
    """Runs a study and writes its table and figure.

    Args:
        grid: The loops.
        axes: What the figure shows.
        also: More loops, in a grid of their own.
        dim: Dimension d of the data, N(0, I).
        generations: How many to follow; null runs every loop to its limit.
        lineages: Lineages of each loop, where generations are followed; null takes as many as the
            precision asks for.
        precision: Relative Monte-Carlo error of a squared W2 distance, 0.001 to 0.2.
        estimator: Whether covariances divide by n - 1 or by n.
        seed: Decides all random numbers.
        device: Where to compute.
        threads: CPU threads; null takes torch's number.
        out: Where the table goes, .csv; null writes none.
        figure: Where the figure goes, .svg or .png; null writes none.

    Returns:
        The rows of the table.

    Raises:
        Refused: Before anything is computed, if a field is wrong.
    """
    if out is not None and out.suffix != ".csv":
        raise Refused("out", f"{out} is no CSV", "name it *.csv")
    if figure is not None and figure.suffix not in (".svg", ".png"):
        raise Refused("figure", f"{figure} is neither SVG nor PNG", "name it *.svg or *.png")
    for name, count, least in (("dim", dim, 1), ("lineages", lineages, 2), ("threads", threads, 1)):
        if count is not None and count < least:
            raise Refused(name, f"{count}", f"give at least {least}")
    check_precision(precision)
    if generations is not None and generations < 1:
        raise Refused("generations", f"{generations}", "give at least 1, or null for the limit")
    points = [
        {"grid": index, "dim": dim, "estimator": estimator} | point
        for index, each in enumerate([grid] if also is None else [grid, also], 1)
        for point in each.points(followed=generations is not None)
    ]
    columns = _COLUMNS + (_OF_A_LIMIT if generations is None else _OF_A_GENERATION)
    shown = [(name, getattr(axes, name)) for name in ("x", "y", "panel", "colour")]
    for name, wanted in [*shown, *(("line", each) for each in axes.line)]:
        if wanted is not None and wanted not in columns:
            raise Refused(f"axes.{name}", f"no column {wanted}", f"choose {', '.join(columns)}")
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        problem = str(error).splitlines()[0]
        raise Refused("device", f"{device!r}: {problem}", "use cpu, or e.g. cuda:0") from None
    machine: Machine = {"estimator": estimator, "device": device, "threads": threads}
    with _progress(len(points)) as progress:
        if generations is None:
            rows = _to_the_limit(points, precision, seed, progress, machine)
        else:
            count = lineages or _PILOT
            while True:
                rows = _followed(points, generations, count, seed, progress, machine)
                short = max(map(_error, rows)) / precision
                if lineages is not None or short <= 1.0:
                    break
                progress(-len(points))  # not sure enough: from the start again
                count = math.ceil(1.1 * short**2 * count)
    if out is not None:
        text = io.StringIO()
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_atomically(out, text.getvalue().encode())
    if figure is not None:
        write_atomically(figure, draw(rows, axes, figure.suffix[1:]))
    return rows


class Machine(TypedDict):
    """Arguments that all simulations share."""

    estimator: Literal["unbiased", "maximum_likelihood"]
    device: str
    threads: int | None


def _error(row: dict[str, Any]) -> float:
    return float(row["standard_error"]) / float(row["w2_squared"])


def _loop(point: dict[str, Any]) -> FreshLoop:
    names = ("n_real", "n_synthetic", "sampling_bias", "k")
    return FreshLoop(*(point[name] for name in names))


def _to_the_limit(
    points: list[dict[str, Any]],
    precision: float,
    seed: int,
    progress: Callable[[int], None],
    machine: Machine,
) -> list[dict[str, Any]]:
    loops = [_loop(point) for point in points]
    dim = points[0]["dim"]
    found = effective_sample_sizes(
        loops, dim, precision=precision, seed=seed, progress=progress, **machine
    )
    return [
        point
        | {name: getattr(each, name) for name in _OF_A_LIMIT if hasattr(each, name)}
        | dict(zip(("ratio_low", "ratio_high"), each.interval, strict=True))
        for point, each in zip(points, found, strict=True)
    ]


def _followed(
    points: list[dict[str, Any]],
    generations: int,
    lineages: int,
    seed: int,
    progress: Callable[[int], None],
    machine: Machine,
) -> list[dict[str, Any]]:
    settings = []
    for place, point in enumerate(points):
        loop = _loop(point)
        policy = FreshData(
            point["n_initial"],
            loop.n_real,
            loop.n_synthetic,
            synthetic_from="last" if loop.k == 1 else "last_k",
            k=loop.k,
        )
        settings.append(Setting(policy, loop.sampling_bias, seed_for(seed, "study", place)))
    found = simulate(
        settings, points[0]["dim"], generations, lineages, progress=progress, **machine
    )
    rows = []
    for place, point in enumerate(points):
        for t in range(generations):
            w2, drift, variance = (each[place, :, t] for each in found)
            values = {
                "generation": t + 1,
                "w2_squared": float(w2.mean()),
                "standard_error": float(w2.std()) / lineages**0.5,
                "drift": float(drift.mean()),
                "variance_mean": float(variance.mean()),
                "variance_median": float(variance.median()),
                "lineages": lineages,
            }
            rows.append(point | values)
    return rows


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar where somebody watches."""
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(),
        rich.progress.MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal or console.is_dumb_terminal,
    ) as bar:
        task = bar.add_task("loops", total=total)
        yield lambda done: bar.advance(task, done)


# the figure


def draw(rows: Sequence[dict[str, Any]], axes: Axes, form: str = "svg") -> bytes:
    """Draws rows of a table.

    Args:
        rows: The rows.
        axes: What to show.
        form: ``svg`` or ``png``.

    Returns:
        The content of the file.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels = _split(rows, [axes.panel] if axes.panel else [])
    style: Any = {"font.size": 9, "svg.hashsalt": "study", "svg.fonttype": "none"}
    with rc_context(style):
        paper = Figure(figsize=(1.2 + 3.2 * len(panels), 3.2), layout="constrained")
        places = paper.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        shown: Any = None
        for place, inside in zip(places, panels.values(), strict=True):
            if axes.colour:
                shown = _map(place, inside, axes)
            else:
                _lines(place, inside, axes)
            place.set(xlabel=_LABELS.get(axes.x, axes.x))
            if "x" in axes.log:
                place.set_xscale("log")
            if "y" in axes.log:
                place.set_yscale("log")
            if axes.panel in _LABELS:
                place.set_title(_named(axes.panel, inside[0]), fontsize=9)
        places[0].set_ylabel(_LABELS.get(axes.y, axes.y))
        if axes.colour:
            paper.colorbar(shown, ax=places, label=_LABELS.get(axes.colour, axes.colour))
        content = io.BytesIO()
        undated = {"Date": None} if form == "svg" else None
        paper.savefig(content, format=form, dpi=150, metadata=undated)
    return content.getvalue()


def _split(
    rows: Sequence[dict[str, Any]], columns: Sequence[str]
) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Rows by their values in some columns, in the order of the table."""
    parts: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        parts.setdefault(tuple(row[name] for name in columns), []).append(row)
    return parts


def _named(column: str, row: dict[str, Any]) -> str:
    shown = f"{row[column]:g}" if isinstance(row[column], float) else str(row[column])
    return f"{_LABELS.get(column, column)} = {shown}"


def _lines(place: Any, rows: Sequence[dict[str, Any]], axes: Axes) -> None:
    """One line for each combination, with its Monte-Carlo interval as a band."""
    told = [name for name in axes.line if len(_split(rows, [name])) > 1]
    for index, line in enumerate(_split(rows, axes.line).values()):
        line = sorted(line, key=lambda row: row[axes.x])
        x, y = ([row[name] for row in line] for name in (axes.x, axes.y))
        colour, dots = _COLOURS[index % 7], "o" if len(line) <= 24 else ""
        label = ", ".join(_named(name, line[0]) for name in told)
        place.plot(x, y, dots + "-", color=colour, markersize=3, label=label)
        if axes.y == "ratio":
            ends = [[row[name] for row in line] for name in ("ratio_low", "ratio_high")]
        elif axes.y == "w2_squared":
            ends = [[row[axes.y] + s * row["standard_error"] for row in line] for s in (-2, 2)]
        else:
            continue
        place.fill_between(x, *ends, color=colour, alpha=0.25, linewidth=0)
    if axes.y == "ratio":
        place.axhline(1.0, color="#555", linestyle="--", linewidth=1)
    if told:
        place.legend(frameon=False, fontsize=8)


def _map(place: Any, rows: Sequence[dict[str, Any]], axes: Axes) -> Any:
    """A column in colours over two others, and where it is 1: the edge of the admissible."""
    x, y = (sorted({row[name] for row in rows}) for name in (axes.x, axes.y))
    # A limit farther than 2 real samples get has no n_e; it is as good as none.
    value = {(row[axes.x], row[axes.y]): row[axes.colour or ""] for row in rows}
    z = np.nan_to_num(np.array([[value.get((a, b), math.nan) for a in x] for b in y], float))
    shown = place.pcolormesh(x, y, z, shading="nearest", cmap="viridis", vmin=0.0, vmax=2.5)
    if min(z.shape) > 1:
        place.contour(x, y, z, levels=[1.0], colors="#fff", linewidths=1.5)
    return shown


# the door


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; exits with code 2 if the input was refused."""
    args = list(sys.argv[1:] if args is None else args)
    if not args or "-h" in args or "--help" in args:
        print(HELP, end="")
        return
    try:
        _run(["--help" if each == "--full_help" else each for each in args])
    except Refused as refused:
        print(f"error: {refused}", file=sys.stderr)
        raise SystemExit(2) from None


def _run(args: list[str]) -> None:
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="python -m mad_lightning.study", exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="A study; several compose.")
    parser.add_function_arguments(study)
    try:
        config = parser.parse_args(args)
    except ArgumentError as error:
        listing = "python -m mad_lightning.study --full_help lists all fields"
        raise explain(str(error), parser, listing) from None
    given = parser.instantiate(config)
    files = [Path(str(each)) for each in given.pop("config") or [] if each]
    stem = Path("runs/studies") / (files[-1].stem if files else "study")
    given.out = given.out or stem.with_suffix(".csv")
    given.figure = given.figure or given.out.with_suffix(".svg")
    started = time.monotonic()
    rows = study(**given)
    errors = [_error(each) for each in rows]
    print(
        f"{len(rows)} rows in {time.monotonic() - started:.1f} s, Monte-Carlo error of W2² "
        f"{statistics.median(errors):.2%} (median), {max(errors):.2%} (largest)"
    )
    unsettled = sum(not each.get("settled", True) for each in rows)
    if unsettled:
        print(f"{unsettled} loops had not settled: see the column `settled`")
    print(f"table {given.out}, figure {given.figure}")


if __name__ == "__main__":
    main()
