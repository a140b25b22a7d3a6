"""A rule that ends a lineage."""

import math

import pytest

from mad_lightning.callbacks import StopWhenMAD
from mad_lightning.lineage import GenerationRecord, Quantity
from mad_lightning.lineage.quantities import known
from mad_lightning.refusal import Refused


def records(*recalls):
    return [
        GenerationRecord(t, "fresh", 0, 0, 0, 1.0, {"recall": recall})
        for t, recall in enumerate(recalls, start=1)
    ]


def test_it_stops_when_the_last_value_is_below():
    rule = StopWhenMAD("recall", below=0.3)
    assert rule.reason_to_stop(()) is None
    assert rule.reason_to_stop(records(0.9, 0.3)) is None
    assert rule.reason_to_stop(records(0.1, 0.9)) is None
    assert "recall = 0.290 < 0.3 in generation 2" in rule.reason_to_stop(records(0.9, 0.29))


def test_it_stops_when_a_distance_is_above():
    rule = StopWhenMAD("recall", above=0.5)
    assert rule.reason_to_stop(records(0.9, 0.5)) is None
    assert "recall = 0.510 > 0.5 in generation 2" in rule.reason_to_stop(records(0.1, 0.51))


def test_without_a_threshold_it_is_a_tenth():
    assert StopWhenMAD().reason_to_stop(records(0.1)) is None
    assert "0.09" in StopWhenMAD().reason_to_stop(records(0.09))


def test_a_value_that_is_no_number_is_no_reason():
    assert StopWhenMAD().reason_to_stop(records(math.nan)) is None


MEASURED = {"recall": known("recall"), "fid": known("fid"), "mine": Quantity()}


@pytest.mark.parametrize(
    ("rule", "field", "remedy"),
    [
        (lambda: StopWhenMAD("recal", 0.3).check(MEASURED), "metric", "recall, fid, mine"),
        (lambda: StopWhenMAD("recall", 0.3).check({}), "metric", "states"),
        (lambda: StopWhenMAD("fid", below=9.0).check(MEASURED), "below", "above"),
        (lambda: StopWhenMAD("fid").check(MEASURED), "below", "above"),
        (lambda: StopWhenMAD("recall", above=0.5).check(MEASURED), "above", "below"),
        (lambda: StopWhenMAD("recall", below=0.5, above=0.6), "above", "one of the two"),
    ],
)
def test_what_cannot_stop_a_lineage_that_goes_mad_is_refused(rule, field, remedy):
    with pytest.raises(Refused) as caught:
        rule()
    assert caught.value.field == field
    assert remedy in caught.value.remedy


def test_what_can_is_not():
    for rule in (
        StopWhenMAD("recall", 0.3),
        StopWhenMAD("fid", above=50.0),
        StopWhenMAD("mine", above=1.0),
        StopWhenMAD("mine", below=1.0),
    ):
        rule.check(MEASURED)
