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
  --figure PATH        curves (default: precision and recall), .svg, .pdf or .png
  --plane PATH         fidelity against diversity, .svg, .pdf or .png
  --html HTML          all metrics and samples on one page
  --json JSON          all numbers and verdicts, for programs
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mad_lightning.commands.explain import PlainParser
from mad_lightning.drawing import painted
from mad_lightning.files import write, write_json
from mad_lightning.refusal import Refused
from mad_lightning.report.figures import figure, plane
from mad_lightning.report.groups import load, metrics_of
from mad_lightning.report.judged import judgements
from mad_lightning.report.page import page
from mad_lightning.report.tables import summary, table, verdicts
from mad_lightning.report.terminal import report, screen
from mad_lightning.report.words import headline

__all__ = ["build_parser", "run"]


_KINDS = (".svg", ".pdf", ".png")


def build_parser() -> PlainParser:
    """All that may be said to the report."""
    parser = PlainParser("report")
    add = parser.add_argument
    add("lineages", nargs="+", metavar="DIRECTORY")
    add("--metrics", nargs="+", metavar="NAME")
    add("--markdown", action="store_true")
    add("--figure", type=Path, metavar="PATH")
    add("--plane", type=Path, metavar="PATH")
    add("--html", type=Path, metavar="HTML")
    add("--json", type=Path, metavar="JSON")
    return parser


def run(args: Sequence[str]) -> None:
    """Prints table and verdict, and writes what else was asked for."""
    given = build_parser().parse_args(args)
    for option, path in (("--figure", given.figure), ("--plane", given.plane)):
        if path and path.suffix not in _KINDS:
            problem = f"{path} is neither SVG nor PDF nor PNG"
            raise Refused(option, problem, f"name it *{', *'.join(_KINDS)}")
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
        _draw(given.figure, figure(groups, given.metrics or curves))
    if given.plane:
        _draw(given.plane, plane(groups))
    if given.html:
        write(given.html, page(groups))
    if given.json:
        write_json(given.json, summary(groups), seal=False)


def _draw(path: Path, drawing: str) -> None:
    write(path, drawing if path.suffix == ".svg" else painted(drawing, path.suffix[1:]))
