"""What is measured is what was drawn; what later generations eat may be something else."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from mad_lightning.commands.train import build
from mad_lightning.commands.verify import run as verify
from mad_lightning.data.shards import Shard
from mad_lightning.loop.branching import branch
from mad_lightning.loop.forecast import forecast
from mad_lightning.loop.meta_trainer import MetaTrainer
from mad_lightning.refusal import Refused

TOP = [
    "--treatment", "TopShare", "--treatment.score", "Nearness", "--treatment.n_real", "150",
    "--treatment.candidates", "2", "--evaluator.extractor", "Pixels",
    "--evaluator.extractor.resolution", "4",
]  # fmt: skip
ADDITIVE = {"class_path": "Additive", "init_args": {"strength": 0.3}}
GAUSSIAN = [
    "--lineage.root", "runs", "--lineage.name", "gaussian", "--lineage.threads", "1",
    "--lineage.block_size", "20000", "--data.source", "StandardNormal", "--data.source.dim", "2",
    "--data.n_reference", "20000", "--generator", "Gaussian", "--evaluator.extractor", "Identity",
    "--treatment", "Watermark", "--treatment.mark", "Additive", "--treatment.mark.strength", "0.3",
    "--callbacks", "[]", "--trainer.accelerator", "cpu", "--evaluator.metrics",
    json.dumps([{"class_path": "Detect", "init_args": {"mark": ADDITIVE}}]),
]  # fmt: skip


@pytest.fixture
def selecting(arguments):
    return [*arguments, *TOP]


def digests(records):
    return [(r.digests["shard"], r.digests["published"], r.digests["metrics"]) for r in records]


def test_later_generations_eat_what_was_published_and_the_ledger_says_so(selecting):
    meta = build(selecting)
    records = meta.fit()
    assert [(r.drawn, r.published) for r in records] == [
        (f"{t:03d}", f"{t:03d}.kept") for t in (1, 2, 3)
    ]
    assert meta.lineage.mix(2).shards == ("001.kept",)
    assert [record.ages for record in records] == [{}, {1: 200}, {1: 200}]
    drawn, kept = (Shard(meta.lineage.shard(name)) for name in ("001", "001.kept"))
    assert (drawn.manifest.count, kept.manifest.count) == (400, 200)
    assert kept.manifest.parents == ("001",)
    fed = meta.data.feed(meta.mix(2), meta.seed, meta.store).training_set()
    assert fed.digest() == kept.samples.digest()

    told = records[0].treatment
    assert told == {k: v for k, v in kept.manifest.treatment.items() if k in told}
    assert (told["candidates"], told["kept"], told["keep_rate"]) == (400, 200, 0.5)
    rows = {tuple(row.tolist()) for row in kept.samples.values.flatten(1)}
    is_kept = torch.tensor([tuple(row.tolist()) in rows for row in drawn.samples.values.flatten(1)])
    labels = drawn.samples.labels
    rates = [float(is_kept[labels == k].double().mean()) for k in range(10)]
    assert told["by_class"] == pytest.approx(rates)
    right = told["right"]
    assert told["phi"] * right + told["psi"] * (1.0 - right) == pytest.approx(0.5)
    assert told["phi"] > told["psi"]


def test_the_kept_set_is_measured_beside_what_was_drawn_under_names_of_its_own(
    selecting, arguments
):
    meta = build([*selecting, "--lineage.generations", "2"])
    records = meta.fit()
    names = {"precision", "recall", "density", "coverage", "fd_pixels"}
    assert set(records[0].metrics) == names | {f"kept_{name}" for name in names}
    assert set(records[0].floor) == set(records[0].metrics)
    for name in names:
        assert records[0].floor[name] == records[0].floor[f"kept_{name}"]
        assert records[0].quantities[f"kept_{name}"].section == "kept"
        assert records[0].quantities[f"kept_{name}"].worse == records[0].quantities[name].worse
    plain = build(
        [*arguments, *TOP[-4:], "--lineage.name", "plain", "--lineage.generations", "1"]
    ).fit()[0]
    assert plain.treatment == {}
    assert plain.digests["generator"] == records[0].digests["generator"]
    drawn = {name: records[0].metrics[name] for name in names}
    assert drawn == plain.metrics  # the first candidates are what would have been drawn
    again = build([*selecting, "--lineage.generations", "3"]).fit()  # goes on, floor and all
    assert set(again[2].floor) == set(records[0].floor)


@pytest.mark.parametrize("phase", ["treat", "record"])
def test_killed_in_any_phase_it_ends_with_the_same_digests(selecting, phase):
    options = [*selecting, "--lineage.generations", "2"]
    calm = build([*options, "--lineage.name", "calm"]).fit()
    meta = build(options)
    original = getattr(meta, phase)

    def late(t, *rest):
        if t == 2:
            if phase == "treat":  # half of it stands
                original(t, *rest)
                meta.lineage.shard("002.kept").with_suffix(".json").unlink()
            raise KeyboardInterrupt
        return original(t, *rest)

    setattr(meta, phase, late)
    with pytest.raises(KeyboardInterrupt):
        meta.fit()
    assert digests(build(options).fit()) == digests(calm)


def test_kept_shards_are_evicted_mended_verified_and_branched(selecting):
    options = [*selecting, "--lineage.keep", "last"]
    meta = build(options)
    records = meta.fit()
    store = meta.lineage.shard
    for name in ("001", "001.kept", "002", "002.kept"):
        assert Shard(store(name)).is_evicted, name
    assert not Shard(store("003.kept")).is_evicted
    verify([str(meta.lineage.path)])
    build([*selecting, "--lineage.keep", "all"]).fit()
    for record in records:
        kept = Shard(store(record.published))
        assert kept.samples.digest() == record.digests["published"]
    store("002.kept").with_suffix(".safetensors").write_bytes(b"torn")
    more = build([*selecting, "--lineage.generations", "4", "--policy.synthetic_from", "last"])
    store("003.kept").with_suffix(".safetensors").unlink()
    assert len(more.fit()) == 4
    assert Shard(store("003.kept")).samples.digest() == records[2].digests["published"]
    with pytest.raises(Refused, match=r"kept\.safetensors"):  # nobody trains on it: it stays torn
        verify([str(meta.lineage.path)])
    other = build([*selecting, "--lineage.name", "other", "--lineage.generations", "2"])
    branch(other, meta.lineage, 1)
    assert (
        Shard(other.lineage.shard("001.kept")).samples.digest() == records[0].digests["published"]
    )
    assert digests(other.fit()) == digests(records)[:2]


def test_a_third_partys_treatment_is_one_function(arguments, tmp_path, monkeypatch):
    (tmp_path / "my_rules.py").write_text(
        "def brightest(samples, features, labels, address, budget):\n"
        "    return features.sum(dim=1).argsort(descending=True)[:budget]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    options = [
        *arguments, "--lineage.generations", "1", "--treatment", "Own",
        "--treatment.function", "my_rules.brightest", "--treatment.candidates", "3",
    ]  # fmt: skip
    meta = build(options)
    meta.fit()
    drawn, kept = (Shard(meta.lineage.shard(name)).samples for name in ("001", "001.kept"))
    light = drawn.values.flatten(1).long().sum(dim=1)
    assert len(drawn) == 600
    assert kept.values.flatten(1).long().sum(dim=1).min() >= light.sort().values[-200]


def wrong(samples, features, labels, address, budget):
    return features[:, 0] * 1.5


def test_what_a_function_returns_is_tried_before_anything_is_trained(arguments, tmp_path):
    meta = build(arguments)
    told = {name: getattr(meta, name) for name in ("settings", "policy", "data", "evaluator")}
    more = {"build_generator": meta.build_generator, "build_trainer_arguments": dict}
    with pytest.raises(Refused, match="float32 of shape") as refused:
        MetaTrainer(**told, **more, treatment=wrong).fit()
    assert refused.value.field == "treatment"
    assert not (tmp_path / "runs" / "tiny").exists()
    with pytest.raises(Refused) as refused:
        MetaTrainer(**told, **more, treatment=3)
    assert refused.value.field == "treatment.function"


def test_what_does_not_fit_is_refused_before_anything_is_written(arguments, tmp_path):
    top = ["--treatment", "TopShare", "--treatment.score", "Nearness", "--treatment.n_real", "150"]
    pixels = ["--treatment.features", "Pixels", "--evaluator.extractor", "Pixels"]
    normal = ["--data.source", "StandardNormal", "--treatment", "TopShare"]
    for options, field, told in (
        (top, "treatment.features", "identity"),
        ([*top, *pixels], "treatment.features", "pixels"),
        ([*top, *pixels[2:], "--treatment.n_real", "1690"], "treatment.n_real", "pool"),
        ([*normal, "--treatment.score", "Confidence", "--treatment.n_real", "9"],
         "treatment.score", "classes"),
        (["--treatment", "Watermark", "--treatment.mark", "Additive",
          "--treatment.mark.strength", "0.1"], "treatment.mark.strength", "rounded"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=told) as refused:
            build([*arguments, *options]).fit()
        assert refused.value.field == field
        assert not (tmp_path / "runs" / "tiny").exists()


def test_a_dry_run_counts_candidates(selecting):
    told = forecast(build(selecting))
    assert told.drawn == [400, 400, 400]
    assert told.samples_bytes == 3 * (400 + 200) * (64 + 8)


# --- a mark in a loop: exact amplification --------------------------------------------------------


def energies(tmp_path, monkeypatch, *options):
    monkeypatch.chdir(tmp_path)
    return [record.metrics["mark_energy"] for record in build([*GAUSSIAN, *options]).fit()]


def test_a_mark_grows_to_q_over_1_minus_q_with_fresh_data(tmp_path, monkeypatch):
    fresh = ["--policy", "FreshData", "--policy.n_initial", "20000", "--policy.n_fresh", "10000",
             "--policy.n_synthetic", "10000", "--lineage.generations", "5"]  # fmt: skip
    seen = energies(tmp_path, monkeypatch, *fresh)
    wanted = [sum(0.5**k for k in range(1, t)) for t in range(1, 6)]  # to 1
    assert seen == pytest.approx(wanted, abs=0.12)  # four standard errors of a mean of 20,000


def test_a_mark_grows_linearly_without_and_fades_where_it_was_put_in_once(tmp_path, monkeypatch):
    full = ["--policy", "FullySynthetic", "--policy.n_initial", "20000", "--lineage.generations"]
    seen = energies(tmp_path, monkeypatch, *full, "4")
    assert seen == pytest.approx([0.0, 1.0, 2.0, 3.0], abs=0.2)
    once = ["--policy", "SyntheticAugmentation", "--policy.n_real", "10000",
            "--policy.n_synthetic", "10000", "--lineage.generations", "4",
            "--lineage.name", "once", "--treatment.when", "once"]  # fmt: skip
    seen = energies(tmp_path, monkeypatch, *once)
    assert seen == pytest.approx([0.0, 0.5, 0.25, 0.125], abs=0.15)


# --- several processes ----------------------------------------------------------------------------


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_keep_what_one_does(selecting, two_processes, tmp_path):
    options = [*selecting, "--lineage.generations", "2", "--treatment.features", "Pixels",
               "--evaluator.extractor", "Classifier"]  # fmt: skip
    (tmp_path / "options.json").write_text(json.dumps(options))
    one = build([*options, "--lineage.name", "one"]).fit()
    two_processes(__file__)
    two = build(options).lineage.records()
    assert digests(one) == digests(two)
    assert [record.world_size for record in two] == [2, 2]


if __name__ == "__main__":
    rank, place = sys.argv[1:]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29563", "RANK": rank,
                   "LOCAL_RANK": rank, "WORLD_SIZE": "2", "NODE_RANK": "0"}  # fmt: skip
    options = json.loads(Path(place, "options.json").read_text())
    build([*options, "--trainer.devices", "2", "--trainer.strategy", "ddp"]).fit()
