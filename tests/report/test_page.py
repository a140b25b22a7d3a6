"""The page holds everything, in one file that opens from disk."""

import re

import pytest

from mad_lightning.lineage import Quantity
from mad_lightning.refusal import Refused
from mad_lightning.report import load, page

from .ledgers import GENERATIONS, lineage, measured, picture


def test_the_page_holds_everything(directories, tmp_path):
    small = picture(60, 40, "L")
    shown = lineage(tmp_path / "more", "fresh", 7, picture=small)
    text = page(load([*directories, shown]))
    assert text.count("<svg") == 2
    assert "<h2>Verdict</h2>" in text
    assert "<td>MAD<td>fd_classifier" in text
    assert "<td>catastrophic increase" in text
    assert text.count('src="data:image/png;base64,') == GENERATIONS
    assert "<figcaption>generation 6<" in text
    assert "fresh" in text
    assert "policy.class_path: full_synth -&gt; fresh" in text
    assert "weights = 833f" in text
    assert not re.search(r"<script|http://(?!www.w3.org)|https://", text)


def test_what_a_metric_means_stands_in_the_table_and_in_the_figure(tmp_path):
    stated = {"sharpness": Quantity("fidelity", worse="lower")}
    runs = [lineage(tmp_path, "fresh", 0, metrics=lambda *_: {"sharpness": 2}, quantities=stated)]
    text = page(load(runs))
    assert "<td>fidelity, worse if lower" in text
    assert ">fidelity, worse if lower</text>" in text
    assert text.count("<svg") == 1  # without precision and recall there is no plane


def test_a_lineage_of_which_nothing_was_measured_has_a_page(tmp_path):
    text = page(load([lineage(tmp_path, "fresh", 0, metrics=lambda *_: {}, floor={})]))
    assert "no distance was measured" in text


def test_large_pictures_are_shrunk_to_two_megabytes(tmp_path):
    large = picture(342, 274)
    runs = [lineage(tmp_path, "fresh", seed, picture=large) for seed in range(4)]
    text = page(load(runs))
    assert len(large) * 24 > 5e6
    assert text.count('src="data:image/jpeg;base64,') == 24
    assert len(text) < 2.1e6


def test_a_damaged_picture_is_refused_by_name(tmp_path):
    directory = lineage(tmp_path, "fresh", 0, picture=picture(20, 20)[:-9])
    with pytest.raises(Refused, match=r"samples\.png is damaged"):
        page(load([directory]))


def test_a_missing_value_leaves_no_trace(tmp_path):
    def broken(loop, seed, t):
        return measured(loop, seed, t) | ({"recall": float("nan")} if t == 3 else {})

    groups = load([lineage(tmp_path, "full_synth", 0, metrics=broken, generations=3)])
    assert "nan" not in page(groups)
