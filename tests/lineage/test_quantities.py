"""What a measured name means is stated once, and read by everybody."""

import json
import math

import pytest

from mad_lightning.lineage import Quantity, distance_name
from mad_lightning.lineage.quantities import SECTIONS, known, quantities_of

MEANINGS = {  # by the papers that define them, not by our table
    "precision": ("fidelity", "lower", 0, 1),
    "density": ("fidelity", "lower", 0, math.inf),
    "recall": ("diversity", "lower", 0, 1),
    "coverage": ("diversity", "lower", 0, 1),
    "class_recall": ("diversity", "lower", 0, 1),
    "class_share": ("diversity", "lower", 0, 1),
    "modes": ("diversity", "lower", 0, math.inf),
    "mode_variance": ("diversity", "lower", 0, math.inf),
    "tail_mass": ("diversity", "lower", 0, math.inf),
    "tail_mass_low": ("diversity", "lower", 0, math.inf),
    "tail_mass_high": ("diversity", "lower", 0, math.inf),
    "trace_lite0": ("diversity", "lower", 0, math.inf),
    "fid": ("distance", "higher", 0, math.inf),
    "fd_classifier": ("distance", "higher", 0, math.inf),
    "w2_squared": ("distance", "higher", 0, math.inf),
    "kid": ("distance", "higher", -math.inf, math.inf),  # unbiased: it may fall below 0
    "kd_pixels": ("distance", "higher", -math.inf, math.inf),
    "memorised": ("copies", "higher", 0, 1),
    "nearest_ratio": ("copies", "lower", 0, math.inf),
    "kid_std": ("other", None, -math.inf, math.inf),
    "kd_pixels_std": ("other", None, -math.inf, math.inf),
    "my_own": ("other", None, -math.inf, math.inf),
}


@pytest.mark.parametrize("name", MEANINGS)
def test_names_of_this_package_mean_what_their_papers_say(name):
    quantity = known(name)
    assert (quantity.section, quantity.worse, quantity.low, quantity.high) == MEANINGS[name]


@pytest.mark.parametrize("name", MEANINGS)
def test_a_quantity_survives_json(name):
    plain = json.loads(json.dumps(known(name).to_plain(), allow_nan=False))
    assert Quantity.from_plain(plain) == known(name)
    assert Quantity.from_plain({**plain, "of_a_later_version": 1}) == known(name)


def test_what_is_stated_wins():
    mine = Quantity("distance", "higher")
    assert quantities_of(["recall", "emd"], {"emd": mine}) == {
        "recall": known("recall"),
        "emd": mine,
    }
    assert quantities_of(["recall"], {"recall": mine})["recall"] == mine


@pytest.mark.parametrize(
    "wrong", [{"section": "beauty"}, {"worse": "sideways"}, {"low": 1.0, "high": 1.0}]
)
def test_a_quantity_that_makes_no_sense_is_an_error(wrong):
    with pytest.raises(ValueError, match="a quantity"):
        Quantity(**wrong)


def test_words():
    assert known("recall").words == "diversity, worse if lower"
    assert Quantity().words == "other"
    assert SECTIONS == ("fidelity", "diversity", "distance", "copies", "other", "kept")


@pytest.mark.parametrize(
    ("names", "distance"),
    [
        (["precision", "fd_lite0", "fid"], "fid"),
        (["fid", "kd_lite0", "fd_lite0"], "kd_lite0"),
        (["fd_lite0", "w2_squared"], "w2_squared"),
        (["kd_lite0", "kd_lite0_std"], "kd_lite0"),
        (["precision", "memorised", "nearest_ratio"], None),
        ([], None),
    ],
)
def test_the_distance_to_judge_by(names, distance):
    assert distance_name(quantities_of(names)) == distance


def test_a_distance_of_ones_own_is_judged_by_where_there_is_no_other():
    mine = {"emd": Quantity("distance", "higher"), "recall": known("recall")}
    assert distance_name(mine) == "emd"
    assert distance_name({**mine, "fd_lite0": known("fd_lite0")}) == "fd_lite0"
    assert distance_name({"score": Quantity("distance", "lower")}) is None
