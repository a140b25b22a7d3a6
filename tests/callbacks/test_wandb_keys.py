"""What runs carry: enough to compare lineages by, in words that seeds of one arm share."""

import copy
from dataclasses import replace

import pytest

from mad_lightning.callbacks.wandb_keys import arm, history_row, outcome, settings
from mad_lightning.lineage import GenerationRecord
from mad_lightning.lineage.quantities import MeasurementError

CONFIG = {
    "seed_everything": 7,
    "lineage": {"name": "digits_seed7", "root": "runs"},
    "policy": {
        "class_path": "mad_lightning.FreshData",
        "init_args": {"n_initial": 900, "n_fresh": "90 * t", "n_synthetic": 810, "k": 1},
    },
    "data": {"source": {"class_path": "mad_lightning.Digits"}, "split_seed": 0},
    "generator": {"class_path": "mad_lightning.Diffusion", "init_args": {"lr": 0.006}},
}


def changed(**more):
    return {**copy.deepcopy(CONFIG), **more}


def arm_of(config=CONFIG, policy="fresh", bias=1.0, name="digits_seed7", data="d1", records=()):
    return arm(config, policy, bias, name=name, data=data, records=records)


def record(t, **more):
    error = MeasurementError(0.001, 0.001)
    plain = GenerationRecord(
        t, "fresh", 9, 0, 0 if t == 1 else 9, 1.0,
        {"precision": 0.9, "recall": 1 - 0.2 * t, "fid": 3.0 * t, "mine": float("nan")},
        errors={"precision": error, "recall": error, "fid": MeasurementError(0.1, 0.1)},
        floor={"precision": 0.91, "recall": 0.95, "fid": 1.0}, ages={1: 9} if t > 1 else {},
    )  # fmt: skip
    return replace(plain, **more)


def test_how_a_lineage_was_made_is_said_in_short_words():
    assert settings(CONFIG, "fresh", 0.5, 7) == {
        "family": "Diffusion",
        "data": "Digits",
        "policy": "fresh",
        "sampling_bias": 0.5,
        "n_initial": 900,
        "n_fresh": "90 * t",
        "n_synthetic": 810,
        "seed": 7,
        "split_seed": 0,
    }


def test_what_a_configuration_does_not_tell_is_left_out():
    assert settings({}, "fresh", 1.0, None) == {"policy": "fresh", "sampling_bias": 1.0}
    own = changed(data={"class_path": "my.Data", "init_args": {"split_seed": None}})
    assert settings(own, "fresh", 1.0, 7)["split_seed"] == "own"
    assert settings({"policy": "my.Policy"}, "mine", 1.0, 7).keys() == {
        "policy", "sampling_bias", "seed"
    }  # fmt: skip


def test_seeds_share_an_arm():
    other = changed(seed_everything=8, lineage={"name": "elsewhere_seed8", "root": "there"})
    assert arm_of(other, name="elsewhere_seed8") == arm_of()
    assert arm_of().startswith("fresh λ 1 n_fresh 90 * t ")
    assert arm_of({}, name="mine_seed1") == arm_of({}, name="mine_seed2")


@pytest.mark.parametrize(
    "other",
    [
        {"policy": "full_synth"},
        {"bias": 0.9, "config": changed(sampling_bias=0.9)},
        {"data": "d2"},
        {"config": changed(generator={"class_path": "mad_lightning.Glow"})},
        {"config": {}, "name": "mine"},
        {"records": [record(1, branched_from={"name": "x", "digest": "f"})]},
    ],
    ids=["policy", "λ", "data", "family", "no configuration", "branch"],
)
def test_whatever_else_differs_is_another_arm(other):
    assert arm_of(**other) != arm_of()


def test_a_floor_stands_beside_its_metric():
    row = history_row(record(2))
    assert row["diversity/recall"] == 0.6
    assert row["diversity/recall_floor"] == 0.95
    assert not [key for key in row if key.startswith("floor/")]


def test_what_came_out_is_said_of_this_lineage_alone():
    told = outcome([record(t) for t in (1, 2, 3)])
    assert told["verdict"].startswith("one lineage: fid rose from 3.00 ± 0.14 to 9.00 ± 0.14")
    assert told["judged_by"] == "fid"
    assert told["ratio"] == pytest.approx(3.0)
    assert (told["first/recall"], told["last/recall"]) == pytest.approx((0.8, 0.4))
    assert told["off_floor/recall"] == 1  # 0.8 is below 0.95 - 0.02
    assert told["off_floor/precision"] is None
    assert told["last/mine"] is None  # JSON has no NaN


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.filterwarnings("error")
def test_a_short_lineage_has_no_verdict_and_nothing_fails(n):
    told = outcome([record(t) for t in range(1, n + 1)])
    assert told.get("verdict", "takes at least 3").endswith("takes at least 3")
    assert outcome([GenerationRecord(1, "fresh", 9, 0, 0, 1.0, {})])["judged_by"] is None
