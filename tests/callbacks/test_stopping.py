"""A rule that ends a lineage."""

import pytest

from mad_lightning.callbacks import StopWhenMAD
from mad_lightning.lineage import GenerationRecord
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


def test_a_metric_that_is_not_measured_is_refused():
    with pytest.raises(Refused, match="choose one of recall"):
        StopWhenMAD("fid").reason_to_stop(records(0.9))
