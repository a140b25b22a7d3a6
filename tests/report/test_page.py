"""The page holds everything, in one file that opens from disk."""

import json
import re
from html.parser import HTMLParser

import pytest

from mad_lightning.lineage import Quantity
from mad_lightning.refusal import Refused
from mad_lightning.report import load
from mad_lightning.report.page import page
from mad_lightning.report.plan import plan

from .ledgers import GENERATIONS, lineage, measured, picture

EMPTY = {"meta", "link", "input", "img", "br"}


class Tree(HTMLParser):
    """Checks that what is opened is closed, and gathers texts by tag."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.links = [], {}, []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.links += [v for k, v in attributes if k in ("src", "href")]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data.strip())


def test_the_page_holds_everything_in_one_well_formed_file(directories, tmp_path):
    shown = lineage(tmp_path / "more", "fresh", 7, picture=picture(60, 40, "L"))
    groups = load([*directories, shown])
    text = page(groups)
    tree, told = Tree(text), plan(groups)
    assert tree.texts["h1"] == [told.headline[0]]
    assert all(link.startswith("data:") for link in tree.links)
    assert not re.search(r"http://(?!www\.w3\.org)|https://|url\(|@import", text)
    for chart in told.charts:
        assert {chart.metric, chart.words} <= set(tree.texts["text"])
    answers = [answer.answer for question in told.questions for answer in question.answers]
    chips = tree.texts["b"]
    assert sorted(chips) == sorted(
        answers
        + [question.name for question in told.questions]
        + [group.verdict for group in told.groups]
    )
    assert "policy.class_path" in tree.texts["code"]
    assert dict(zip(tree.texts["dt"], tree.texts["dd"], strict=True))["weights"] == "833f"
    data = next(text for text in tree.texts["script"] if text.startswith("{"))
    assert json.loads(data)["title"] == told.title


def test_every_generation_is_in_every_strip(tmp_path):
    small = picture(60, 40, "L")
    runs = [lineage(tmp_path, loop, 0, picture=small) for loop in ("fresh", "full_synth")]
    text = page(load(runs))
    assert text.count('src="data:image/png;base64,') == 2 * GENERATIONS
    for t in range(1, GENERATIONS + 1):
        assert text.count(f'data-generation="{t}"') == 2


def test_a_metric_of_ones_own_alone_has_a_page_without_a_plane(tmp_path):
    stated = {"sharpness": Quantity("fidelity", worse="lower")}
    runs = [lineage(tmp_path, "fresh", 0, metrics=lambda *_: {"sharpness": 2}, quantities=stated)]
    text = page(load(runs))
    Tree(text)
    assert ">fidelity, worse if lower</text>" in text
    assert 'id="plane"' not in text


def test_a_lineage_of_which_nothing_was_measured_has_a_page(tmp_path):
    text = page(load([lineage(tmp_path, "fresh", 0, metrics=lambda *_: {}, floor={})]))
    Tree(text)
    assert "no distance was measured" in text
    assert 'id="curves"' not in text


def test_large_pictures_are_shrunk_to_three_megabytes(tmp_path):
    large = picture(342, 274)
    runs = [lineage(tmp_path, "fresh", seed, picture=large) for seed in range(4)]
    text = page(load(runs))
    assert len(large) * 24 > 5e6
    assert text.count('src="data:image/webp;base64,') == 24
    assert len(text.encode()) < 3e6


def test_a_damaged_picture_is_refused_by_name(tmp_path):
    directory = lineage(tmp_path, "fresh", 0, picture=picture(20, 20)[:-9])
    with pytest.raises(Refused, match=r"samples\.png is damaged"):
        page(load([directory]))


def test_a_missing_value_leaves_no_trace(tmp_path):
    def broken(loop, seed, t):
        return measured(loop, seed, t) | ({"recall": float("nan")} if t == 3 else {})

    text = page(load([lineage(tmp_path, "full_synth", 0, metrics=broken, generations=3)]))
    assert not re.search(r"\bnan\b|\bNaN\b", text)


def test_names_of_lineages_are_text_and_no_markup(tmp_path):
    run = lineage(tmp_path, "<b>&'x", 0, metrics=lambda *_: {"<i>": 1.0}, picture=picture(8, 8))
    text = page(load([run]))
    Tree(text)
    assert "<b>&'x" not in text
    assert "<i>" not in text.replace('<i class="', "")
