"""The report on a terminal: 80 columns whatever is reported, and all that was asked is answered."""

import io
import re

import pytest
from rich.console import Console

from mad_lightning.report import headline, judgements, load, metrics_of
from mad_lightning.report.terminal import report, screen

from .ledgers import FLOOR, lineage, measured


def printed(groups, width=80, **console):
    file = io.StringIO()
    out = Console(file=file, width=width, emoji=False, highlight=False, **console)
    for part in report(groups, judgements(groups), metrics_of(groups), width):
        out.print(part)
    return file.getvalue()


def many(root, n_groups, n_metrics, length=0):
    """Groups with names as long as that, of two seeds each, with so many metrics."""
    names = [*FLOOR, *(f"nearest_synthetic_{k}" for k in range(n_metrics - len(FLOOR)))]

    def metrics(loop, seed, t):
        return {name: measured("full_synth", seed, t).get(name, 1234.5 - seed) for name in names}

    labels = [f"{k}{'x' * (length - len(str(k)))}" for k in range(n_groups)]
    told = {"metrics": metrics, "floor": FLOOR}
    return [lineage(root, label, seed, **told) for label in labels for seed in (0, 1)]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(("n_groups", "n_metrics"), [(1, 14), (2, 4), (12, 3)])
def test_no_line_is_wider_than_the_terminal(tmp_path, n_groups, n_metrics, width):
    groups = load(many(tmp_path, n_groups, n_metrics, length=30))
    text = printed(groups, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    values = text[text.index("\nValues") : text.index("\nCollapse")]
    for metric in metrics_of(groups):
        assert len(re.findall(rf"^ *{metric}\b", values, re.M)) == 1


def test_sentences_come_first_then_the_verdict_values_answers_and_notes(directories):
    groups = load(directories)
    text = printed(groups)
    words = " ".join(text.split())
    assert words.startswith(" ".join(headline(groups, judgements(groups))))
    heads = ["Verdict", "Values", "Collapse, as others define it", "Not measured:", "Measured with"]
    places = [text.index(f"\n{head}") for head in heads]
    assert places == sorted(places)


def test_values_stand_below_one_another(directories):
    text = printed(load(directories))
    block = text[text.index("\nrecall") :].splitlines()[1:5]
    assert block[0] == "recall  diversity, worse if lower; real vs real 0.970"
    row = " ".join(block[1].split())
    assert row == "full_synth 0.960 ± 0.004 → 0.650 ± 0.024 since 2"
    assert len({line.index("→") for line in block[1:]}) == 1


def test_a_group_alone_has_a_row_a_metric_beside_its_floor(tmp_path):
    text = printed(load([lineage(tmp_path, "fresh", 1, generations=1)]))
    assert "as others define it" in text
    (row,) = [line for line in text.splitlines() if line.startswith("  recall")]
    assert row.split() == ["recall", "0.960", "–", "0.970"]


def test_answers_stand_beside_their_questions(directories):
    text = printed(load(directories))
    rows = [line for line in text.splitlines() if line.startswith("any increase")]
    assert re.search(r"real-only training  +yes: full_synth \d", rows[0])
    assert "no: " in text


def test_where_nothing_can_be_asked_there_is_no_table_of_questions(tmp_path):
    text = printed(load([lineage(tmp_path, "mine", 0, metrics=lambda *_: {"spread": 1.0})]))
    assert "as others define it" not in text
    assert "Not measured: any increase" in text


def test_only_a_terminal_is_coloured(directories, monkeypatch):
    groups = load(directories)
    assert "\x1b[1;31mMAD" in printed(groups, force_terminal=True, color_system="standard")
    assert "\x1b[1mMAD" in printed(groups, force_terminal=True, no_color=True)
    assert "\x1b" not in printed(groups)
    monkeypatch.setenv("COLUMNS", "200")
    assert not screen().is_terminal
    assert screen().width == 80


def test_what_looks_like_markup_is_printed_as_it_is(tmp_path):
    names = ("[red]x", ":smile:")
    curves = {"metrics": lambda _, *at: measured("full_synth", *at)}
    text = printed(load([lineage(tmp_path, name, 0, **curves) for name in names]))
    assert "[red]x" in text
    assert ":smile:" in text
