"""The verdict on a group is that of the numbers in its ledgers."""

import pytest

from mad_lightning.lineage import Quantity
from mad_lightning.policies import FreshData, FullySynthetic, LoopPolicy, Mix, Part, shard_name
from mad_lightning.report import judgements, load
from mad_lightning.verdict import judge

from .ledgers import FLOOR, GENERATIONS, fed, lineage, measured


def values(loop, metrics):
    """Three seeds, (S, T) each."""
    ts = range(1, GENERATIONS + 1)
    return {
        name: [[measured(loop, seed, t)[metric] for t in ts] for seed in range(3)]
        for name, metric in metrics.items()
    }


def test_the_verdict_is_that_of_the_numbers_in_the_ledgers(directories):
    floor = {name: [value] * 3 for name, value in FLOOR.items()}
    judged = judgements(load(directories))
    for loop, judgement in zip(("full_synth", "synth_aug", "fresh"), judged, strict=True):
        at = values(loop, {name: name for name in FLOOR})
        assert judgement == judge(at, floor, closed=True, n=800)
    assert judged[0].verdict.answer == "MAD"


def test_metrics_of_ones_own_are_judged_as_their_ledger_explains_them(tmp_path):
    names = {"sharpness": "precision", "variety": "recall", "emd": "fd_classifier"}
    stated = {
        "sharpness": Quantity("fidelity", worse="lower", low=0.0, high=1.0),
        "variety": Quantity("diversity", worse="lower", low=0.0, high=1.0),
        "emd": Quantity("distance", worse="higher", low=0.0),
    }

    def own(loop, seed, t):
        return {name: measured(loop, seed, t)[metric] for name, metric in names.items()}

    floor = {name: FLOOR[metric] for name, metric in names.items()}
    for told in (stated, {}):
        runs = [
            lineage(tmp_path / str(len(told)), "full_synth", seed, metrics=own, floor=floor,
                    quantities=told)
            for seed in range(3)
        ]  # fmt: skip
        (judgement,) = judgements(load(runs))
        if told:
            at = values("full_synth", {name: name for name in FLOOR})
            ours = judge(at, {name: [FLOOR[name]] * 3 for name in FLOOR}, closed=True, n=800)
            assert judgement.distance == "emd"
            assert judgement.verdict == ours.verdict
            assert judgement.left == {
                "sharpness": ours.left["precision"], "variety": ours.left["recall"],
            }  # fmt: skip
        else:
            assert (judgement.distance, judgement.left) == (None, {})


# the same mixes, the same verdict


class Window(LoopPolicy):
    """Fresh samples beside some of the last generations; it has no parameter of our names."""

    token = "window"

    def __init__(self, reach, counts):
        self.window, self.counts = reach, counts

    def mix(self, t):
        if t == 1:
            return Mix(t, (Part("real", None, 0, 12),))
        eaten = range(max(1, t - self.window), t)
        parts = (Part("synthetic", shard_name(s), 0, self.counts // len(eaten)) for s in eaten)
        return Mix(t, (Part("fresh", None, 12 + 6 * (t - 2), 6), *parts))


class Everything(Window):
    """Fresh samples beside as many of every generation."""

    def mix(self, t):
        parts = (Part("synthetic", shard_name(s), 0, 6) for s in range(1, t))
        return Mix(t, (Part("real" if t == 1 else "fresh", None, 0, 6 + 6 * (t == 1)), *parts))


class Closed(Window):
    """Nothing real after generation 1."""

    def mix(self, t):
        mix = super().mix(t)
        return mix if t == 1 else Mix(t, mix.parts[1:])


SAME = [
    (FreshData(12, 6, 6), Window(1, 6)),
    (FreshData(12, 6, 6, "last_k", k=3), Window(3, 6)),
    (FreshData(12, 6, "6 * (t - 1)", "all"), Everything(0, 0)),
    (FullySynthetic(12, 6), Closed(1, 6)),
]


@pytest.mark.parametrize("trend", [1.0, 1.02, 1.3])
@pytest.mark.parametrize(("ours", "handmade"), SAME)
def test_the_same_mixes_give_the_same_verdict_by_any_policy(tmp_path, ours, handmade, trend):
    """Our own policies say in a configuration what they draw from, others say it as they like."""
    arguments = {"synthetic_from": ours.synthetic_from, "k": ours.k}
    told = {"class_path": "FreshData", "init_args": arguments}
    (group,) = load(fed(tmp_path, "ours", ours, trend, policy=told))
    (other,) = load(fed(tmp_path, "mine", handmade, trend, policy={"class_path": "my_module.Mine"}))
    assert other.closed == group.closed
    assert other.fresh_share == group.fresh_share
    assert judgements([other]) == judgements([group])
