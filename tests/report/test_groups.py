"""Lineages that differ only in the seed are one group, and groups stand side by side if alike."""

import statistics
import subprocess
import sys

import numpy as np
import pytest

from mad_lightning.lineage import LineageDirectory, Quantity
from mad_lightning.policies import (
    AccumulateSubsample,
    Combined,
    FreshData,
    FullySynthetic,
    SyntheticAugmentation,
)
from mad_lightning.refusal import Refused
from mad_lightning.report import Value, figure, judgements, load, metrics_of, page, table
from mad_lightning.report.groups import meanings_of
from mad_lightning.report.plan import plan

from .ledgers import PROTOCOL, config, fed, lineage, measured


def test_lineages_that_differ_only_in_the_seed_are_one_group(directories):
    groups = load(directories[::-1])
    assert [group.name for group in groups] == ["fresh", "synth_aug", "full_synth"]
    assert [[lineage.seed for lineage in group.lineages] for group in groups] == [[2, 1, 0]] * 3
    assert [len(group.lineages) for group in load([*directories, directories[0]])] == [3, 3, 3]


def test_any_other_difference_makes_another_group(tmp_path):
    changed = config("fresh", 1)
    changed["policy"]["n_fresh"] = 7
    pair = [
        lineage(tmp_path / "a", "fresh", 0),
        lineage(tmp_path / "b", "fresh", 1, config=changed),
    ]
    groups = load(pair)
    assert [group.name for group in groups] == [str(path) for path in pair]  # told apart
    told = [(line.key, line.values[groups[1].name]) for line in plan(groups).differences]
    assert told == [("policy.n_fresh", "7")]


def test_without_configurations_the_names_decide(tmp_path):
    runs = [("fresh", 0), ("fresh", 11), ("full_synth", 0)]
    groups = load(lineage(tmp_path, loop, seed, config=None) for loop, seed in runs)
    sizes = [(group.name, len(group.lineages)) for group in groups]
    assert sizes == [("fresh", 2), ("full_synth", 1)]
    assert groups[0].lineages[1].seed == 11


def test_a_name_keeps_a_word_at_least(tmp_path):
    for name in ("digits", "digits_fresh"):
        lineage(tmp_path, "fresh", 0, config=None).rename(tmp_path / name)
    groups = load([tmp_path / "digits", tmp_path / "digits_fresh"])
    assert [group.name for group in groups] == ["digits", "digits_fresh"]
    assert load([tmp_path / "digits_fresh"])[0].name == "digits_fresh"


def test_settings_of_a_sweep_that_do_not_vary_are_left_out(tmp_path):
    names = [f"digits,bias={bias},dim=2,n_fresh={n}" for bias, n in ((1, 5), (1, 9), (0.5, 5))]
    for name in names:
        lineage(tmp_path, "fresh", 0, config=None).rename(tmp_path / f"{name}_seed0")
    groups = load(tmp_path / f"{name}_seed0" for name in names)
    told = [group.name for group in groups]
    assert told == ["bias=1,n_fresh=5", "bias=1,n_fresh=9", "bias=0.5,n_fresh=5"]


def test_a_group_speaks_for_the_generations_that_all_its_seeds_have(tmp_path):
    runs = [lineage(tmp_path, "full_synth", seed, generations=6 - seed) for seed in range(3)]
    (group,) = load(runs)
    assert group.generations == 4
    assert np.array(group.values("recall")).shape == (3, 4)
    last = [measured("full_synth", seed, 4)["recall"] for seed in range(3)]
    assert [row[3] for row in group.values("recall")] == last
    assert group.value("recall", 4) == (statistics.fmean(last), statistics.stdev(last), 3)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Value(0.9126, 0.0041, 3), "0.913 ± 0.004"),
        (Value(1.0049, 0.02, 2), "1.005 ± 0.020"),
        (Value(86.52, 4.13, 3), "86.5 ± 4.1"),
        (Value(1234.5, 0.0, 1), "1234"),
        (Value(0.00031, 0.00002, 3), "3.1e-04 ± 2.0e-05"),
        (Value(0.0, 0.0, 1), "0.00"),
        (Value(float("nan"), float("nan"), 3), "–"),
    ],
)
def test_numbers_show_as_many_digits_as_they_are_worth(value, shown):
    assert str(value) == shown


# what metrics mean


def test_metrics_come_by_section_and_else_as_the_ledger_has_them(tmp_path):
    names = [
        "fid", "memorised", "sharpness", "modes", "precision", "class_recall", "kid_std", "emd",
        "recall",
    ]  # fmt: skip
    stated = {
        "sharpness": Quantity("fidelity", worse="lower", low=0.0, high=1.0),
        "emd": Quantity("distance", worse="higher"),
    }
    run = lineage(
        tmp_path, "fresh", 0, metrics=lambda *_: dict.fromkeys(names, 0.5), quantities=stated
    )
    assert metrics_of(load([run])) == [
        "sharpness", "precision", "modes", "class_recall", "recall", "fid", "emd", "memorised",
        "kid_std",
    ]  # fmt: skip
    assert meanings_of(load([run]))["emd"] == stated["emd"]


def test_a_name_means_what_the_first_line_says_that_explains_it(tmp_path):
    """A lineage that was begun before ledgers told goes on, and tells."""
    stated = {"sharpness": Quantity("fidelity", worse="lower")}
    runs = [
        lineage(tmp_path, "fresh", seed, metrics=lambda *_: {"sharpness": 0.5}, quantities=told)
        for seed, told in enumerate([{}, stated])
    ]
    assert meanings_of(load(runs)) == stated


# what comes in


@pytest.mark.parametrize(
    ("policy", "start", "closed"),
    [
        (FullySynthetic(9), "scratch", True),
        (FullySynthetic(9, "6 * (t - 1)", "all"), "scratch", True),
        (FullySynthetic(9), "base", False),  # weights that have seen real data
        (FullySynthetic(9), "previous", False),
        (FreshData(12, 6, 6), "scratch", False),
        (FreshData(12, 6, "6 * (t - 1)", "all"), "scratch", False),
        (SyntheticAugmentation(30, 10), "scratch", False),
        (SyntheticAugmentation("max(0, 30 - 10*t)", 10, 30), "scratch", True),  # from 3 on
        (SyntheticAugmentation("max(0, 90 - 10*t)", 10, 30), "scratch", False),  # from 9 on
        (SyntheticAugmentation("max(0, 10*(t-6))", 10, 30), "scratch", False),  # it grows
        (FreshData(12, "max(0, 9 - 3*t)", 6), "scratch", True),
        (Combined(12, n_synthetic=6, n_external=6), "scratch", True),  # which is no real data
        (Combined(12, n_fresh=1, n_synthetic=6, n_external=6), "scratch", False),
        (AccumulateSubsample(12), "scratch", False),
    ],
)
def test_a_loop_is_closed_where_nothing_real_comes_in_as_data_or_in_weights(
    tmp_path, policy, start, closed
):
    (group,) = load(fed(tmp_path, "loop", policy, 1.0, start=start))
    assert group.closed == closed
    assert judgements([group])[0].verdict.closed == closed


def test_the_fresh_share_is_that_of_all_later_generations(tmp_path):
    policy = FreshData(12, 6, "6 * (t - 1)", "all")
    (group,) = load(fed(tmp_path, "fresh", policy, 1.0))
    assert group.fresh_share == 11 * 6 / sum(len(policy.mix(t)) for t in range(2, 13))
    (beside,) = load(fed(tmp_path, "aug", SyntheticAugmentation(30, 10), 1.0))
    assert beside.fresh_share is None  # a fixed real set is not fresh
    outside = Combined(12, n_fresh=6, n_synthetic=8, n_external=10)
    (contaminated,) = load(fed(tmp_path, "outside", outside, 1.0))
    assert contaminated.fresh_share == 0.25
    (vanished,) = load(fed(tmp_path, "gone", FreshData(12, "max(0, 9 - 3*t)", 6), 1.0))
    assert vanished.fresh_share is None
    assert (vanished.last_real, contaminated.last_real) == (2, 12)


@pytest.mark.parametrize("policy", [FullySynthetic(9), FreshData(12, 6, 6, "last_k", k=3)])
def test_ledgers_that_tell_no_ages_leave_that_to_counts_or_to_the_mixes_on_disk(tmp_path, policy):
    runs = fed(tmp_path, "old", policy, 1.3, ages=False)
    closed = isinstance(policy, FullySynthetic)
    assert load(runs)[0].closed == closed
    for run in runs:
        for t in range(1, 13):
            LineageDirectory(run).keep_mix(policy.mix(t))
    assert load(runs)[0].closed == closed


# what is left out


def test_what_is_no_lineage_is_left_out_with_a_word(tmp_path, caplog):
    runs = fed(tmp_path, "full", FullySynthetic(9), 1.3)
    (tmp_path / "cache" / "digits").mkdir(parents=True)
    (tmp_path / "sweep.csv").write_text("arm,seed\n")
    for name in ("begun", "others/x_seed0"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "lineage.jsonl").write_text("")
    (group,) = load([*sorted(tmp_path.iterdir()), tmp_path / "nowhere"])
    assert [str(one.directory) for one in group.lineages] == sorted(map(str, runs))
    meant = ", ".join(f"{tmp_path}/{name}" for name in ("begun", "others", "nowhere"))
    assert f"left out, no lineage.jsonl: {meant}\n" in caplog.text
    assert f"left out, no generation is finished: {tmp_path}/empty/" in caplog.text
    assert len(caplog.records) == 2


def test_copies_are_no_seeds(tmp_path, caplog):
    runs = [
        lineage(tmp_path, "full_synth", seed, digests={"generator": f"{max(seed, 1):064x}"})
        for seed in range(3)
    ]
    (group,) = load(runs)
    assert [one.seed for one in group.lineages] == [0, 2]
    assert "full_synth_seed1 has the generators of" in caplog.text


# what is refused


def test_what_is_no_lineage_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"no lineage\.jsonl"):
        load([tmp_path])
    (tmp_path / "lineage.jsonl").write_text("")
    with pytest.raises(Refused, match="no generation is finished"):
        load([tmp_path])
    (tmp_path / "lineage.jsonl").write_text('{"epoch": 1}\n')
    with pytest.raises(Refused, match="line 1 is no record of a generation"):
        load([tmp_path])


def test_unknown_metrics_are_refused_with_those_that_are_known(directories):
    for show in (table, figure):
        with pytest.raises(Refused, match="no ledger has fid") as caught:
            show(load(directories[:1]), ["recall", "fid"])
        assert caught.value.field == "metrics"
        assert "precision, recall, fd_classifier" in caught.value.remedy


def test_a_copy_is_no_second_seed(tmp_path):
    twins = [lineage(tmp_path / name, "fresh", 0) for name in "ab"]
    with pytest.raises(Refused, match="same configuration and seed 0"):
        load(twins)


@pytest.mark.parametrize("change", [{"n": 400}, {"k": 3}, {"extractor": "random", "weights": "b"}])
def test_values_that_were_not_measured_alike_share_no_axis(tmp_path, change):
    runs = [
        lineage(tmp_path, "fresh", 0),
        lineage(tmp_path, "fresh", 1, protocol=PROTOCOL | change),
    ]
    for show in (table, figure):
        with pytest.raises(Refused, match="protocol") as caught:
            show(load(runs), ["recall"])
        for key, value in change.items():
            problem = f"{key} is {PROTOCOL[key]} in {runs[0]} and {value} in {runs[1]}"
            assert problem in caught.value.problem


def test_other_data_share_no_axis(tmp_path):
    other = config("fresh", 1) | {"data": {"source": {"class_path": "MNIST"}}}
    runs = [lineage(tmp_path, "fresh", 0), lineage(tmp_path, "fresh", 1, config=other)]
    with pytest.raises(Refused, match=r"real samples are those of .*Digits.* and those of .*MNIST"):
        page(load(runs))


@pytest.mark.parametrize("digests", ["aa", "ab"])
def test_data_are_known_by_their_digest_and_not_by_where_they_lie(tmp_path, digests):
    places = [{"source": {"class_path": "Images", "init_args": {"root": r}}} for r in "xy"]
    runs = [
        lineage(
            tmp_path, "fresh", seed,
            config=config("fresh", seed) | {"data": places[seed if digests == "aa" else 0]},
            digests={"data": digests[seed] * 64, "generator": f"{seed:064x}"},
        )
        for seed in (0, 1)
    ]  # fmt: skip
    groups = load(runs)
    if digests == "aa":
        assert len(groups) == 1
        page(groups)
    else:
        assert len(groups) == 2
        with pytest.raises(Refused, match=r"SHA-256 aaaaaaaaaaaa in .* and SHA-256 bbbbbbbbbbbb"):
            page(groups)


def test_the_same_data_whose_class_has_moved_share_an_axis(tmp_path):
    runs = [
        lineage(
            tmp_path, "fresh", seed,
            config=config("fresh", seed) | {"data": {"source": {"class_path": path}}},
        )
        for seed, path in enumerate(("mad_lightning.Digits", "mad_lightning.data.sources.Digits"))
    ]  # fmt: skip
    (group,) = load(runs)
    assert "fd_classifier" in table([group], ["fd_classifier"])


def test_a_protocol_of_fewer_metrics_is_no_contradiction(tmp_path):
    fewer = {key: value for key, value in PROTOCOL.items() if key != "k"}
    runs = [lineage(tmp_path, "fresh", 0), lineage(tmp_path, "fresh", 1, protocol=fewer)]
    assert "k = 5" in table(load(runs), ["fd_classifier"])


@pytest.mark.parametrize("name", ["mad_lightning.report", "mad_lightning.report.groups"])
def test_it_starts_without_torch(name):
    heavy = "{'torch', 'numpy', 'PIL', 'matplotlib'}"
    code = f"import sys, {name}; sys.exit(bool({heavy} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_all_of_a_report_is_made_without_torch():
    code = "import sys, mad_lightning.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
