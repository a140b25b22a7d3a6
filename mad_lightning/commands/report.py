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
  --phase PATH         what is lost against the share of real data, .svg, .pdf or .png
  --html HTML          all metrics and samples on one page
  --json JSON          all numbers and verdicts, for programs
  --csv CSV            all that was measured, a row a lineage, generation and metric
  --wandb PROJECT      a report in W&B, from the lineages' runs; or ENTITY/PROJECT
  --wandb_view         and a saved view of the project's workspace
  --wandb_json JSON    what the report in W&B shows: run sets, keys, panels

Lineages that differ in their share of real data also say how much of it is enough:
  --keep METRIC        to keep what? (default: recall, else the distance that is judged)
  --margin M           how well? of a share, in its units (default: 0.05); of others, in parts of
                       what generation 1 has (default: 0.25)
  --last N             average the last N generations (default: 1)

Without an API key, or with WANDB_MODE=offline, --wandb prints what would be sent.
"""

from __future__ import annotations

import csv
import io
import os
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mad_lightning.commands.explain import PlainParser
from mad_lightning.drawing import painted
from mad_lightning.files import write, write_json
from mad_lightning.refusal import Refused
from mad_lightning.report.answers import Question, answers
from mad_lightning.report.figures import figure, plane
from mad_lightning.report.groups import load, metrics_of
from mad_lightning.report.judged import judgements
from mad_lightning.report.page import page
from mad_lightning.report.phase import phase
from mad_lightning.report.plan import Plan, plan
from mad_lightning.report.tables import measurements, summary, table, verdicts
from mad_lightning.report.terminal import report, screen
from mad_lightning.report.wandb import readable, specification, still_to_do
from mad_lightning.report.words import headline

__all__ = ["add_question", "build_parser", "question_of", "run"]


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
    add("--phase", type=Path, metavar="PATH")
    add("--html", type=Path, metavar="HTML")
    add("--json", type=Path, metavar="JSON")
    add("--csv", type=Path, metavar="CSV")
    add_question(parser)
    add("--wandb", metavar="PROJECT")
    add("--wandb_view", action="store_true")
    add("--wandb_json", type=Path, metavar="JSON")
    return parser


def add_question(parser: PlainParser) -> None:
    """What may be asked of lineages with several shares of real data."""
    parser.add_argument("--keep", metavar="METRIC")
    parser.add_argument("--margin", type=float, metavar="M")
    parser.add_argument("--last", type=int, default=1, metavar="N")


def question_of(given: Namespace, looks: Sequence[int] = ()) -> Question:
    """What was asked.

    Raises:
        Refused: If a number lies outside its range.
    """
    with asked():
        return Question(given.keep, given.margin, given.last, looks=tuple(looks))


@contextmanager
def asked() -> Iterator[None]:
    """Says what a question's fields are called here."""
    try:
        yield
    except Refused as refused:
        names = {"metric": "--keep", "": "--phase"}
        raise refused.renamed(lambda name: names.get(name, f"--{name}")) from refused.__cause__


def run(args: Sequence[str], looks: Sequence[int] = ()) -> None:
    """Writes what was asked for, and prints what it says; who reads may stop before its end.

    Args:
        args: Lineages and options.
        looks: Numbers of seeds after which a sweep could have given no more.
    """
    given = build_parser().parse_args(args)
    for option in ("--figure", "--plane", "--phase"):
        path = getattr(given, option[2:])
        if path and path.suffix not in _KINDS:
            problem = f"{path} is neither SVG nor PDF nor PNG"
            raise Refused(option, problem, f"name it *{', *'.join(_KINDS)}")
    if given.wandb and not re.fullmatch(r"([^/]+/)?[^/]+", given.wandb):
        raise Refused("--wandb", f"{given.wandb!r} is no project", "say PROJECT or ENTITY/PROJECT")
    if given.wandb_view and not given.wandb:
        raise Refused("--wandb_view", "a view of which project?", "add --wandb PROJECT")
    question = question_of(given, looks)
    groups = load(given.lineages)
    known = metrics_of(groups)
    with asked():
        told = answers(groups, question)
    curves = [name for name in ("precision", "recall") if name in known] or known
    shown, judged = given.metrics or known, judgements(groups, looks=question.looks)
    if given.figure:
        draw(given.figure, figure(groups, given.metrics or curves))
    if given.plane:
        draw(given.plane, plane(groups))
    if given.phase:
        with asked():
            draw(given.phase, phase(told, answers(groups, question, apart=False)))
    if given.html:
        write(given.html, page(groups, told))
    if given.json:
        write_json(given.json, summary(groups, told), seal=False)
    if given.csv:
        write_csv(given.csv, measurements(groups))
    if given.markdown:
        said = "\n\n".join([*map(str, told), *headline(groups, judged)])
        print(said, table(groups, shown), verdicts(groups), sep="\n\n", end="")
    else:
        console = screen()
        for part in report(groups, judged, shown, console.width, told):
            console.print(part)
    if given.wandb or given.wandb_json:
        to_wandb(plan(groups), given.wandb, given.wandb_view, given.wandb_json)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of the same columns as a table."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]) if rows else (), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write(path, text.getvalue())


def draw(path: Path, drawing: str) -> None:
    """Writes a drawing in the format that its name asks for."""
    write(path, drawing if path.suffix == ".svg" else painted(drawing, path.suffix[1:]))


def to_wandb(shown: Plan, target: str | None, with_view: bool, file: Path | None) -> None:
    """Makes the report in W&B, or says what it would be.

    Raises:
        Refused: If W&B does not take it.
    """
    spec = specification(shown)
    if file:
        write_json(file, spec.plain(), seal=False)
    if not target:
        return
    for sentence in still_to_do(shown):
        print(sentence)
    entity, _, project = target.rpartition("/")
    from mad_lightning.callbacks.wandb import has_key

    offline = os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled")
    if offline or not has_key():
        print(readable(spec, target))
        login = "without WANDB_MODE" if offline else "after `wandb login`"
        print(f"Nothing was sent: the same command {login} sends it.")
        return
    try:
        from mad_lightning.report.wandb_sent import send
    except ImportError:
        remedy = "pip install 'mad-lightning[wandb-report]'"
        raise Refused("--wandb", "it needs the package wandb-workspaces", remedy) from None
    try:
        made = send(spec, entity or os.environ.get("WANDB_ENTITY"), project, with_view)
    except Exception as error:
        reason = str(error).splitlines()[0]
        remedy = "mend that; WANDB_MODE=offline prints what would be sent"
        raise Refused("--wandb", f"W&B did not take it: {reason}", remedy) from None
    print(*(f"W&B: {url}" for url in made), sep="\n")
