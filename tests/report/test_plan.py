"""The plan holds all that a report shows, as plain data."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from safetensors.numpy import save_file

from mad_lightning.lineage import LineageDirectory, Quantity
from mad_lightning.policies import FreshData, FullySynthetic, SyntheticAugmentation
from mad_lightning.refusal import Refused
from mad_lightning.report import load
from mad_lightning.report.plan import plan

from .ledgers import FLOOR, GENERATIONS, PROTOCOL, fed, lineage, measured, picture


def test_it_is_json_and_names_every_group_and_metric(directories):
    told = plan(load(directories))
    assert json.loads(json.dumps(asdict(told), allow_nan=False))["protocol"] == PROTOCOL
    assert told.title == "digits_diffusion: full_synth, synth_aug, fresh"
    assert [group.verdict for group in told.groups] == ["MAD", "MAD", "undecided"]
    assert [len(group.lineages) for group in told.groups] == [3, 3, 3]
    assert {chart.metric for chart in told.charts} == set(FLOOR)
    for question in told.questions:
        assert [answer.group for answer in question.answers] == ["full_synth", "synth_aug", "fresh"]


def test_a_chart_has_means_seeds_and_its_floor(directories):
    chart = next(c for c in plan(load(directories)).charts if c.metric == "fd_classifier")
    seeds = [[measured("full_synth", s, t)["fd_classifier"] for s in range(3)] for t in (1, 6)]
    points = chart.curves[0].points
    assert [point.generation for point in points] == list(range(1, GENERATIONS + 1))
    for point, values in zip((points[0], points[-1]), seeds, strict=True):
        assert point.seeds == tuple(values)
        spread = np.std(values, ddof=1)
        assert (point.mean, point.spread) == pytest.approx((np.mean(values), spread))
    assert (chart.section, chart.worse, chart.floor) == ("distance", "higher", 4.56)


def test_values_that_are_missing_are_none_and_no_nan(tmp_path):
    def broken(loop, seed, t):
        return measured(loop, seed, t) | ({"recall": float("nan")} if t == 3 else {})

    runs = [lineage(tmp_path, "full_synth", 0, metrics=broken, generations=4)]
    told = plan(load(runs))
    json.dumps(asdict(told), allow_nan=False)
    recall = next(chart for chart in told.charts if chart.metric == "recall")
    assert [point.generation for point in recall.curves[0].points] == [1, 2, 4]
    assert [t for t, *_ in told.plane.walks[0].points] == [1, 2, 4]


def test_a_metric_of_ones_own_alone_has_a_chart_and_no_plane(tmp_path):
    stated = {"sharpness": Quantity("fidelity", worse="lower")}
    only = {"metrics": lambda *_: {"sharpness": 2.0}, "quantities": stated, "floor": {}}
    told = plan(load([lineage(tmp_path, "fresh", 0, **only)]))
    assert [(chart.metric, chart.floor) for chart in told.charts] == [("sharpness", None)]
    assert told.plane is None


def test_ancestry_tells_what_each_generation_ate(tmp_path):
    policies = {
        "full": FullySynthetic(100),
        "aug": SyntheticAugmentation(n_real=60, n_synthetic=40, synthetic_from="all"),
        "new": FreshData(n_initial=50, n_fresh=30, n_synthetic=20),
    }
    runs = [path for name, policy in policies.items() for path in fed(tmp_path, name, policy, 1.1)]
    full, aug, new = plan(load(runs)).ancestry
    assert full.parts == {"real": (100, *[0] * 11), "1 generation old": (0, *[100] * 11)}
    assert new.parts["real"] == (50, *[0] * 11)
    assert new.parts["fresh"] == (0, *[30] * 11)
    assert [sum(column) for column in zip(*aug.parts.values(), strict=True)][1:] == [100] * 11
    assert aug.parts["9 to 16 generations old"][-1] > 0


def test_all_pictures_are_there_and_a_damaged_one_is_refused_by_name(tmp_path):
    whole = lineage(tmp_path, "fresh", 0, picture=picture(20, 20))
    (strip,) = plan(load([whole])).strips
    assert [t for t, _ in strip.pictures] == list(range(1, GENERATIONS + 1))
    assert strip.real is None
    (whole / "real.png").write_bytes(picture(20, 20))
    assert plan(load([whole])).strips[0].real == str(whole / "real.png")
    torn = lineage(tmp_path / "torn", "fresh", 0, picture=picture(20, 20)[:-9])
    with pytest.raises(Refused, match=r"samples\.png is damaged"):
        plan(load([torn]))


def test_class_shares_come_from_the_labels_of_what_was_drawn(tmp_path):
    path = lineage(tmp_path, "fresh", 0, generations=2, picture=picture(8, 8))
    for t, labels in ((1, [0, 1, 1, 2]), (2, [1, 1, 1, 1])):
        stem = LineageDirectory(path).shard(f"{t:03d}")
        save_file({"labels": np.array(labels)}, stem.with_suffix(".safetensors"))
    (shares,) = plan(load([path])).classes
    assert shares.shares == ((0.25, 0.0), (0.5, 1.0), (0.25, 0.0))


def test_differences_are_the_settings_in_which_groups_differ(directories):
    told = plan(load(directories)).differences
    loops = {name: name for name in ("full_synth", "synth_aug", "fresh")}
    assert [(d.key, d.values) for d in told] == [("policy.class_path", loops)]
