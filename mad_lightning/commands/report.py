"""mad report: lineages' directories in, a table and a verdict out.

usage: mad report DIRECTORY [DIRECTORY ...] [options]

Examples:
  mad report runs/digits_*
  mad report runs/digits_* --figure curves.svg --html report.html

Lineages that differ only in the seed are one group. What the seeds of a group allow to conclude
is said first, in a sentence or two; then come its values, and the field's definitions of collapse.

Options:
  --metrics NAME ...   what to show (default: all)
  --markdown           print all that is known as Markdown, not for a terminal
  --figure SVG         curves (default: precision and recall)
  --html HTML          all metrics and samples on one page
  --json JSON          all numbers and verdicts, for programs
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mad_lightning.commands.explain import PlainParser
from mad_lightning.files import write, write_json
from mad_lightning.refusal import Refused
from mad_lightning.report.figures import figure
from mad_lightning.report.groups import load, metrics_of
from mad_lightning.report.judged import judgements
from mad_lightning.report.page import page
from mad_lightning.report.tables import summary, table, verdicts
from mad_lightning.report.terminal import report, screen
from mad_lightning.report.words import headline

__all__ = ["build_parser", "run"]


def build_parser() -> PlainParser:
    """All that may be said to the report."""
    parser = PlainParser("report")
    add = parser.add_argument
    add("lineages", nargs="+", metavar="DIRECTORY")
    add("--metrics", nargs="+", metavar="NAME")
    add("--markdown", action="store_true")
    add("--figure", type=Path, metavar="SVG")
    add("--html", type=Path, metavar="HTML")
    add("--json", type=Path, metavar="JSON")
    return parser


def run(args: Sequence[str]) -> None:
    """Prints table and verdict, and writes what else was asked for."""
    given = build_parser().parse_args(args)
    if given.figure and given.figure.suffix != ".svg":
        raise Refused("--figure", f"{given.figure} is no SVG", "name it *.svg")
    groups = load(given.lineages)
    known = metrics_of(groups)
    curves = [name for name in ("precision", "recall") if name in known] or known
    shown, judged = given.metrics or known, judgements(groups)
    if given.markdown:
        said = "\n\n".join(headline(groups, judged))
        print(said, table(groups, shown), verdicts(groups), sep="\n\n", end="")
    else:
        console = screen()
        for part in report(groups, judged, shown, console.width):
            console.print(part)
    if given.figure:
        write(given.figure, figure(groups, given.metrics or curves))
    if given.html:
        write(given.html, page(groups))
    if given.json:
        write_json(given.json, summary(groups), seal=False)
