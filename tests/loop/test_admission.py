"""What is refused before anything is written, in the words of a configuration."""

import pytest

from mad_lightning.callbacks import LineageCallback, Observers, StopWhenMAD
from mad_lightning.commands.train import build
from mad_lightning.lineage import Quantity
from mad_lightning.loop.admission import admit
from mad_lightning.metrics.base import Metric
from mad_lightning.policies import LoopPolicy, Mix, Part
from mad_lightning.refusal import Refused


class Greedy(LoopPolicy):
    """Asks shards for more than they are drawn with; says no where it is asked."""

    token = "greedy"

    def __init__(self, refuse=None):
        self.refuse = refuse

    def mix(self, t):
        return Mix(t, (Part("real", None, 0, 100),))

    def check(self, generations):
        if self.refuse is not None:
            raise Refused(self.refuse, "no", "see `other: 1`")


class Fussy(Metric):
    """A metric that wants many samples, or nothing of the sort."""

    def __init__(self, refuse):
        super().__init__()
        self.refuse = refuse

    def values(self, real, synthetic):
        return {"fussy": 1.0}

    def check(self, n, extractor):
        raise Refused(self.refuse, "no", "see `other: 1`")


def refusal(meta):
    with pytest.raises(Refused) as caught:
        admit(meta)
    assert not meta.lineage.path.exists()
    return caught.value


@pytest.mark.parametrize(("field", "told"), [("n_odd", "policy.n_odd"), ("", "policy")])
def test_a_policy_refuses_its_own_parameter(arguments, field, told):
    meta = build(arguments)
    meta.policy = Greedy(field)
    refused = refusal(meta)
    assert refused.field == told
    assert "`policy.other: 1`" in refused.remedy


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("n", "data.n_reference"),
        ("width", "evaluator.metrics.Fussy.width"),
        ("", "evaluator.metrics.Fussy"),
    ],
)
def test_a_metric_refuses_its_own_parameter_or_the_number_of_samples(arguments, field, told):
    meta = build(arguments)
    meta.evaluator.metrics = [Fussy(field)]
    assert refusal(meta).field == told


def test_a_stopping_rule_learns_that_its_metric_does_not_exist_before_anything_is_trained(
    arguments,
):
    meta = build(arguments)
    meta.observers = Observers([StopWhenMAD("recal")])
    refused = refusal(meta)
    assert refused.field == "callbacks.StopWhenMAD.metric"
    assert "recall" in refused.remedy


def test_an_observer_is_told_what_will_be_measured(arguments):
    asked = {}

    class Ask(LineageCallback):
        def check(self, quantities):
            asked.update(quantities)

    meta = build(arguments)
    meta.observers = Observers([Ask()])
    admit(meta)
    records = meta.fit()
    assert asked.keys() == records[0].metrics.keys()
    assert asked["recall"] == Quantity("diversity", "lower", low=0.0, high=1.0)


def test_asking_makes_nothing(arguments, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    place = arguments.index("--evaluator.extractor")
    arguments[place + 1] = "Classifier"
    meta = build(arguments)
    admit(meta)
    assert sorted(tmp_path.rglob("*")) == before
    assert "weights" not in vars(meta.evaluator.extractor) or not meta.evaluator.extractor.weights
