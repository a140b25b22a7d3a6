"""mad study: many simulated lineages at once in, a table and a figure out.

A grid of Gaussian fresh data loops: what they settle at, and are worth in real samples. Or a
laboratory of families and loops: what becomes of their variance, beside what theory expects.

usage: mad study --config CONFIG [--config CONFIG ...] [--key.sub value ...]

Examples:
  mad study --config configs/studies/e11.yaml
  mad study --config configs/studies/e13.yaml --grid.k "[1, 3]" --out k.csv
  mad study --config configs/studies/collapse.yaml --lineages 1000

Options:
  --grid.*         n_real, n_synthetic (or n, real_share), sampling_bias, k, n_initial: lists
  --also.*         a second grid beside it
  --laboratory.*   families, loops, sampling_bias, measures, question, trained
  --axes.*         what the figure shows: x, y, line, panel, colour, log
  --dim            dimension of the data
  --generations N  follow the lineages for N generations; null: run every loop to its limit
  --precision      relative Monte-Carlo error of W2²
  --lineages       lineages of each loop, with --generations (default: by --precision)
  --out CSV        the table (default: runs/studies/<config>.csv)
  --figure PATH    the figure, .svg, .pdf or .png (default: beside the table)
  --seed, --estimator, --device, --threads

  --print_config   print the resolved configuration and exit
  --full_help      every option with its type and default
"""

from __future__ import annotations

import time
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich.console
import rich.progress
from jsonargparse import ArgumentParser, Namespace

from mad_lightning.commands.explain import explain
from mad_lightning.files import write
from mad_lightning.policies import LoopPolicy
from mad_lightning.refusal import Refused, at
from mad_lightning.theory import densities, discrete, exponential
from mad_lightning.theory.families import Family
from mad_lightning.theory.figures import Axes, draw
from mad_lightning.theory.study import Study

__all__ = ["build_parser", "run"]

_FAMILIES = densities, discrete, exponential  # which a configuration may name by their classes
_ROOMS = (Family, "families"), (LoopPolicy, "loops")
_LISTING = "mad study --full_help lists all fields"


def build_parser() -> ArgumentParser:
    """All that may be said to the laboratory."""
    parser = ArgumentParser(prog="mad study", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="A study; several compose.")
    parser.add_class_arguments(Study)
    parser.add_class_arguments(Axes, "axes")
    parser.add_argument("--out", type=Path | None, help="Where the table goes, .csv.")
    parser.add_argument(
        "--figure", type=Path | None, help="Where the figure goes, .svg, .pdf or .png."
    )
    return parser


def run(args: Sequence[str]) -> None:
    """Runs a study, writes its table and figure, and says how sure they are."""
    parser = build_parser()
    try:
        config = parser.parse_args(["--help" if arg == "--full_help" else arg for arg in args])
    except ArgumentError as error:
        raise explain(str(error), parser, _LISTING) from None
    given = _made(parser, config)
    files = [Path(str(file)) for file in given.pop("config") or [] if file]
    stem = Path("runs/studies") / (files[-1].stem if files else "study")
    out = given.pop("out") or stem.with_suffix(".csv")
    figure = given.pop("figure") or out.with_suffix(".svg")
    axes = given.pop("axes")
    if out.suffix != ".csv":
        raise Refused("out", f"{out} is no CSV", "name it *.csv")
    if figure.suffix not in (".svg", ".pdf", ".png"):
        problem = f"{figure} is neither SVG nor PDF nor PNG"
        raise Refused("figure", problem, "name it *.svg, *.pdf or *.png")
    study = Study(**given)
    with at("axes"):
        axes.check(study.columns)

    started = time.monotonic()
    with _bar(len(study.loops)) as progress:
        rows = study.run(progress)
    write(out, study.table(rows))
    write(figure, draw(rows, axes, figure.suffix[1:]))
    print(f"{len(rows)} rows in {time.monotonic() - started:.1f} s, {study.told(rows)}")
    print(f"table {out}, figure {figure}")


def _made(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """What a configuration describes.

    Raises:
        Refused: If a class refuses its arguments, with its place in the configuration.
    """
    raised: list[tuple[type, Refused]] = []

    def noted(made: type, *args: Any, **kwargs: Any) -> Any:
        try:
            return made(*args, **kwargs)
        except Refused as error:
            raised.append((made, error))
            raise

    try:
        return vars(parser.instantiate(config, instantiators=[(noted, object, True)]))
    except ValueError:  # the parser may wrap what a class has raised
        if not raised:
            raise
    culprit, error = raised[0]
    room = next((field for kind, field in _ROOMS if issubclass(culprit, kind)), "")
    with at(f"laboratory.{room}" if room else "laboratory"):
        raise error


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
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
