"""What one lineage shows beside its measurement errors, and how often that is wrong."""

import re

import numpy as np
import pytest
from truths import tolerated

from mad_lightning.verdict import departure, judge
from mad_lightning.verdict.departure import Departure
from mad_lightning.verdict.single import one_lineage

KD = np.array([172.0, 594, 1207, 1862, 2353, 3024])  # full_synth of the digits, n = 800
KD_ERRORS = np.array([83.0, 130, 150, 220, 190, 210])


def test_a_rise_is_told_with_its_errors_and_steps():
    told = one_lineage(KD, KD_ERRORS, {"recall": Departure(3, (), 0.95)}, name="kd")
    assert told == (
        "one lineage: kd rose from 172 ± 83 to 3024 ± 210, in each of 5 steps by more than its "
        "measurement error (± for other samples of these generators and another reference); recall "
        "is off its floor since generation 3; whether the loop does this or this lineage did takes "
        "two more seeds"
    )
    assert "in 4 of 5 steps" in one_lineage(KD, KD_ERRORS * 1.1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (KD[::-1], "fell from 3024 ± 210 to 172 ± 83, in each of 5 steps"),
        (KD[:1].repeat(6), "by no more than its measurement error"),
        ([172, 594, 1207, 1210, 1190, 1200], "in 2 of 5 steps.*, in none since generation 3 "),
        ([172, 900, 150, 950, 160, 1000], "rose from 172.*in 3 of 5 steps"),
    ],
)
def test_other_curves_are_told_as_they_are(values, words):
    errors = KD_ERRORS[::-1] if values[0] > values[-1] else KD_ERRORS
    assert re.search(words, one_lineage(np.array(values), errors))


def test_without_errors_that_is_said():
    assert "up in 5 of 5 steps; its measurement errors were not told" in one_lineage(KD)


def test_a_judgement_of_one_lineage_claims_what_its_errors_allow():
    recall = np.array([[0.96, 0.93, 0.86, 0.82, 0.68, 0.58]])
    errors = {
        "kd_x": np.stack([KD_ERRORS * 0.6, KD_ERRORS * 0.8], axis=-1)[None],
        "recall": np.full((1, 6, 2), 0.012),
    }
    judged = judge({"kd_x": KD[None], "recall": recall}, {"recall": 0.97}, errors=errors)
    assert judged.verdict.answer == "undecided"
    assert "kd_x rose from 172 ± 83 to 3024 ± 210" in judged.verdict.reason
    assert "recall is off its floor since generation 3" in judged.verdict.reason
    blind = judge({"kd_x": KD[None], "recall": recall}, {"recall": 0.97})
    assert blind.left["recall"].generation is None
    assert "not told" in blind.verdict.reason


def test_one_lineage_rarely_leaves_its_floor_too_early():
    rng, early, exact = np.random.default_rng(3), 0, 0
    truth = np.where(np.arange(8) < 5, 0.94, 0.85)
    for _ in range(2000):
        floor = 0.96 + 0.008 * rng.standard_normal()
        values = truth + 0.012 * rng.standard_normal(8)
        named = departure(values[None], floor, floor_error=0.008, errors=np.full(8, 0.012))
        early += named.generation is not None and named.generation < 6
        exact += named.generation == 6
    assert early <= 2000 * tolerated(2000)
    assert exact > 1800


def test_a_flat_distance_rarely_rises_beyond_its_errors():
    rng = np.random.default_rng(4)
    trials = 1000
    rose = sum(
        " rose " in one_lineage(300 + 80 * rng.standard_normal(6), np.full(6, 80.0))
        for _ in range(trials)
    )
    assert rose <= trials * tolerated(trials)
