"""What curves of every kind are called, wherever that can be read: terminal, Markdown, plan, JSON.

A report of five loops, in each of which every metric does the same: it rises, falls, stays, rises
or falls and then stays, or swings. What must be said of each was written down by looking at them.
"""

import io
import re

import numpy as np
import pytest
from rich.console import Console

from mad_lightning.report import headline, judgements, load, summary, verdicts
from mad_lightning.report.plan import plan
from mad_lightning.report.terminal import report

from .ledgers import lineage, section

LAST = 12
FLOOR = {"recall": 0.97, "precision": 0.97, "memorised": 0.05, "fd_classifier": 1.0, "odd": 1.0}


def curve(kind, low, high):
    """Twelve values between two; what saturates does so in the way that is worse."""
    t = np.arange(LAST) / (LAST - 1)
    return {
        "rising": low + (high - low) * t,
        "falling": high - (high - low) * t,
        "flat": np.full(LAST, high),
        "swinging": high - (high - low) * 0.1 * (1 - np.cos(4 * np.pi * t)),
    }[kind]


KINDS = ("rising", "falling", "flat", "saturating", "swinging")
ENDS = {
    "recall": (0.2, 0.95),
    "precision": (0.3, 0.95),
    "memorised": (0.02, 0.3),
    "fd_classifier": (4.0, 60.0),
    "odd": (1.0, 9.0),
}
RELAXED = 1 - 0.3 ** np.arange(LAST)


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    noise = 1 + 2e-3 * np.random.default_rng(3).standard_normal((3, LAST))

    def values(kind, seed, t):
        def of(name, low, high):
            if kind != "saturating":
                return curve(kind, low, high)[t - 1]
            worse = name not in ("recall", "precision")
            return low + (high - low) * (RELAXED[t - 1] if worse else 1 - RELAXED[t - 1])

        return {name: of(name, *ends) * noise[seed, t - 1] for name, ends in ENDS.items()}

    told = {"generations": LAST, "metrics": values, "floor": FLOOR}
    told["floor_errors"] = {name: 0.01 * value for name, value in FLOOR.items()}
    root = tmp_path_factory.mktemp("curves")
    return load([lineage(root, kind, seed, **told) for kind in KINDS for seed in range(3)])


RIGHT = {  # by what is asked, the answer for each of KINDS
    "any increase over real-only training": "yes no no yes no",
    "catastrophic increase": "yes no no yes no",
    "diverging": "undecided no no no no",  # a loop that settles could rise for so long
    "faster than linear": "no no no no no",
    "diversity lost": "no yes no yes no",
    "fidelity lost": "no yes no yes no",
    "hallucinated samples": "undecided yes undecided yes undecided",  # .05 / .03 ± .01
    "memorisation": "yes no yes yes yes",
}
UNASKED = ["collapsing variance", "tails lost", "modes lost", "change of scaling law"]
VERDICTS = ["MAD", "undecided", "undecided", "MAD", "undecided"]
OFF_FLOOR = {  # since which generation
    "recall": [None, 2, None, 2, None],
    "precision": [None, 2, None, 2, None],
}


def test_in_the_sentence_before_all(groups):
    mad, quiet = headline(groups, judgements(groups))
    assert mad.startswith("rising and saturating went MAD: nothing real comes in, and the distance")
    assert quiet.startswith("Of falling, flat and swinging no growth above 25% was seen")


def test_on_the_terminal(groups):
    file = io.StringIO()
    for part in report(groups, judgements(groups), list(ENDS), 160):
        Console(file=file, width=160).print(part)
    *_, table, values, collapse, notes = file.getvalue().split("\n\n")
    rows = [line.split() for line in table.splitlines()[2:]]
    assert [(row[0], row[4]) for row in rows] == list(zip(KINDS, VERDICTS, strict=True))
    told = {}
    for line in collapse.splitlines()[1:]:
        question, said = line[:80].strip(), line[80:].strip()
        if question in RIGHT:
            asked = question
        word, _, names = said.partition(": ")
        for name in names.split(", ") if names else ():
            told[asked, name.split()[0]] = word
    assert told == {
        (question, kind): answer
        for question, row in RIGHT.items()
        for kind, answer in zip(KINDS, row.split(), strict=True)
    }
    assert all(name in notes.partition(".")[0] for name in UNASKED)
    blocks = {part.split()[0]: part for part in re.split(r"\n(?! )", values)[1:]}
    assert set(blocks) == set(ENDS)
    for metric in ENDS:
        ends = [line.split()[-2:] for line in blocks[metric].splitlines()[1:]]
        since = [int(end[1]) if end[0] == "since" else None for end in ends]
        assert since == OFF_FLOOR.get(metric, [None] * len(KINDS))


def test_in_markdown(groups):
    text = verdicts(groups)
    rows = section(text, "lineage")
    assert [rows[kind]["verdict"] for kind in KINDS] == VERDICTS
    for metric, since in OFF_FLOOR.items():
        told = [rows[kind][f"{metric} left at"] for kind in KINDS]
        assert told == ["–" if t is None else str(t) for t in since]
    asked = {row.partition(" (")[0]: cells for row, cells in section(text, "collapse").items()}
    for question, row in RIGHT.items():
        assert [asked[question][kind].partition(" (")[0] for kind in KINDS] == row.split()
    for question in UNASKED:
        assert {asked[question][kind] for kind in KINDS} == {"not measured"}


def test_in_the_plan_and_for_programs(groups):
    planned, plain = plan(groups), summary(groups)["groups"]
    assert [group.verdict for group in planned.groups] == VERDICTS
    assert [group["verdict"]["answer"] for group in plain] == VERDICTS
    asked = {q.name: [answer.answer for answer in q.answers] for q in planned.questions}
    for question, row in RIGHT.items():
        assert asked[question] == row.split()
        told = [{one["name"]: one["answer"] for one in group["criteria"]} for group in plain]
        assert [each[question] for each in told] == row.split()
    for metric, since in OFF_FLOOR.items():
        assert [group.left[metric] for group in planned.groups] == since
