"""Figures are true to the numbers, and say what they show."""

import re
import xml.etree.ElementTree as ET

import pytest

from mad_lightning.lineage import Quantity
from mad_lightning.report import figure, load, plane

from .ledgers import GENERATIONS, lineage, measured

SVG = "{http://www.w3.org/2000/svg}"


def points(shape):
    return [tuple(map(float, point.split(","))) for point in shape.get("points").split()]


def words(drawn):
    return [text.text for text in drawn.iter(f"{SVG}text")]


def rules(drawn):
    """Heights of the rules across a panel, from the bottom up."""
    lines = [line for line in drawn.iter(f"{SVG}line") if line.get("stroke") == "#e4e4e4"]
    return sorted((float(line.get("y1")) for line in lines), reverse=True)


def test_the_figure_has_one_line_and_one_band_a_group_and_panel(directories):
    text = figure(load(directories), ["precision", "recall"])
    drawn = ET.fromstring(text)
    lines = list(drawn.iter(f"{SVG}polyline"))
    assert len(lines) == len(list(drawn.iter(f"{SVG}polygon"))) == 3 * 2
    assert {len(points(line)) for line in lines} == {GENERATIONS}
    assert len({line.get("stroke") for line in lines}) == 3
    assert sum("stroke-dasharray" in line.attrib for line in drawn.iter(f"{SVG}line")) == 2 + 1
    shown = {"real vs real", "precision", "recall", "full_synth", "generation", "0", "1"}
    assert shown <= set(words(drawn))
    assert drawn[0].tag == f"{SVG}rect"
    assert drawn[0].get("fill") == "#fff"
    assert len(text.encode()) < 30_000
    assert not re.search(r"<script|href|url\(|@import", text)


def test_heights_are_true(directories):
    """In a panel from 0 to 1, points lie as far apart as the means do."""
    groups = load(directories)
    drawn = ET.fromstring(figure(groups, ["recall"]))
    bottom, *_, top = rules(drawn)
    for group, line in zip(groups, drawn.iter(f"{SVG}polyline"), strict=True):
        values = [(bottom - height) / (bottom - top) for _, height in points(line)]
        assert values == pytest.approx([v.mean for _, v in group.curve("recall")], abs=1e-3)


@pytest.mark.parametrize(
    ("name", "stated", "says", "ends"),
    [
        ("recall", {}, "diversity, worse if lower", ("0", "1")),
        ("class_recall", {}, "diversity, worse if lower", ("0", "1")),
        ("class_share", {}, "diversity, worse if lower", ("0", "1")),
        ("memorised", {}, "copies, worse if higher", ("0", "1")),
        ("modes", {}, "diversity, worse if lower", ("0", "0.3")),
        ("tail_mass", {}, "diversity, worse if lower", ("0", "0.3")),
        ("nearest_ratio", {}, "copies, worse if lower", ("0", "0.3")),
        ("fid", {}, "distance, worse if higher", ("0", "0.3")),
        ("sharpness", {}, "other", ("0", "0.3")),
        (
            "sharpness",
            {"sharpness": Quantity("fidelity", worse="lower", low=0.0, high=1.0)},
            "fidelity, worse if lower",
            ("0", "1"),
        ),
        (
            "emd",
            {"emd": Quantity("distance", worse="higher")},
            "distance, worse if higher",
            ("0", "0.3"),
        ),
    ],
)
def test_a_panel_says_what_its_metric_means_and_shares_have_all_their_room(
    tmp_path, name, stated, says, ends
):
    run = lineage(
        tmp_path, "fresh", 0, metrics=lambda *_: {name: 0.28}, floor={}, quantities=stated
    )
    drawn = ET.fromstring(figure(load([run]), [name]))
    shown = words(drawn)
    assert shown[shown.index(name) + 1] == says
    numbers = [text.text for text in drawn.iter(f"{SVG}text") if text.get("text-anchor") == "end"]
    assert (numbers[0], numbers[-1]) == ends


def test_all_that_is_written_fits_between_its_neighbours(tmp_path):
    """Fourteen panels of long names, twelve groups: nothing reaches into what is next to it."""
    names = [f"nearest_synthetic_of_my_own_extractor_{k}" for k in range(14)]
    told = {"metrics": lambda *_: dict.fromkeys(names, 0.5), "generations": 2}
    runs = [lineage(tmp_path, f"{k:02d}_{'LONG' * 7}", 0, **told) for k in range(12)]
    drawn = ET.fromstring(figure(load(runs), names))
    starts = [
        (float(text.get("y")), float(text.get("x")), len(text.text))
        for text in drawn.iter(f"{SVG}text")
        if text.get("text-anchor") == "start"
    ]
    width = float(drawn.get("width"))
    for y, x, length in starts:
        letter = 8.0 if length == 31 else 6.3
        later = [other for height, other, _ in starts if height == y and other > x]
        assert x + letter * length < min([*later, width])


def test_a_missing_value_is_no_point(tmp_path):
    def broken(loop, seed, t):
        return measured(loop, seed, t) | ({"recall": float("nan")} if t == 3 else {})

    groups = load([lineage(tmp_path, "full_synth", 0, metrics=broken, generations=3)])
    drawn = ET.fromstring(figure(groups, ["recall"]))
    assert [len(points(line)) for line in drawn.iter(f"{SVG}polyline")] == [2]


def test_the_plane_walks_from_recall_to_precision(directories):
    lines = list(ET.fromstring(plane(load(directories))).iter(f"{SVG}polyline"))
    assert len(lines) == 3
    start, *_, end = points(lines[0])
    assert end[0] < start[0]  # less recall
    assert end[1] > start[1]  # less precision: further down the page


def test_long_lineages_stay_small(tmp_path):
    text = figure(load([lineage(tmp_path, "fresh", 0, generations=300)]), ["recall", "precision"])
    line = next(ET.fromstring(text).iter(f"{SVG}polyline"))
    assert 60 <= len(points(line)) <= 65
    assert len(text) < 12_000


def test_nine_groups_can_be_told_apart(tmp_path):
    runs = [lineage(tmp_path, f"lambda{k}", 0, metrics=lambda *_: {"w2": 0.1}) for k in range(9)]
    drawn = ET.fromstring(figure(load(runs), ["w2"]))
    marks = {(dot.get("fill"), dot.get("stroke")) for dot in drawn.iter(f"{SVG}circle")}
    assert len(marks) == 9


def test_a_floor_is_as_broad_as_its_error(tmp_path):
    runs = [lineage(tmp_path / name, "fresh", 1, floor_errors=told)
            for name, told in (("a", {}), ("b", {"recall": 0.01}))]  # fmt: skip
    drawn = [figure(load([run]), ["recall"]) for run in runs]
    bands = [list(ET.fromstring(svg).iter(f"{SVG}polygon")) for svg in drawn]
    broad = [{len(points(band)) for band in each} for each in bands]
    assert len(bands[1]) == len(bands[0]) + 1
    assert 4 in broad[1]
