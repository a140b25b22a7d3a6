"""Lineages with weights, schedules, choices and samples from outside, killed and resumed, too."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mad_lightning.commands.train import build
from mad_lightning.data.shards import Shard
from mad_lightning.lineage import LineageDirectory
from mad_lightning.loop.forecast import forecast
from mad_lightning.loop.verifying import damage
from mad_lightning.refusal import Refused
from mad_lightning.report.groups import load
from mad_lightning.report.provenance import ancestry

TESTS = Path(__file__).parents[1]


def bring(path, seed=0):
    """Somebody else's digits, as an array."""
    images = np.random.default_rng(seed).integers(0, 256, (120, 1, 8, 8)).astype("uint8")
    np.savez(path, values=images, labels=np.arange(120) % 10)
    return path


@pytest.fixture
def mixed(arguments, tmp_path):
    """A real share that vanishes, fresh samples that grow, others of somebody else, a weight and a
    bias that depends on the generation."""
    path = bring(tmp_path / "foreign.npz")
    place = arguments.index("--policy")
    return [
        *arguments[:place],
        "--policy", "Combined",
        "--policy.n_initial", "100",
        "--policy.n_real", "max(0, 100 - 60*(t-1))",
        "--policy.n_fresh", "10*t",
        "--policy.n_synthetic", "60",
        "--policy.n_external", "20*(t-1)",
        "--policy.weight_fresh", "2.5",
        "--sampling_bias", "max(0.5, 1 - 0.1*t)",
        "--data.external", "Arrays",
        "--data.external.path", str(path),
        "--data.external.values", "values",
        "--data.external.labels", "labels",
        *arguments[place + 4 :],
        "--generator.per_class", "false",
    ]  # fmt: skip


@pytest.fixture
def grown(mixed):
    """Three generations of that, finished."""
    meta = build(mixed)
    meta.fit()
    return meta


def test_the_ledger_tells_what_came_from_where_and_with_which_bias(grown, tmp_path):
    records = grown.lineage.records()
    told = [(r.n_real, r.n_fresh, r.n_synthetic, r.n_external, r.sampling_bias) for r in records]
    assert told == [(100, 0, 0, 0, 0.9), (40, 20, 60, 20, 0.8), (0, 30, 60, 40, 0.7)]
    assert [record.ages for record in records] == [{}, {1: 60}, {1: 60}]
    outside = Shard(grown.lineage.shard("foreign/external"))
    assert {record.digests["external"] for record in records} == {outside.manifest.sha256}
    assert len(outside.samples) == 120
    assert [Shard(grown.lineage.shard(f"00{t}")).manifest.sampling_bias for t in (1, 2, 3)] == [
        0.9, 0.8, 0.7,
    ]  # fmt: skip
    (group,) = load([grown.lineage.path])
    assert ancestry(group).parts["external"] == (0, 20, 40)
    assert group.sampling_bias == "max(0.5, 1 - 0.1*t)"
    assert not group.closed
    assert group.fresh_share is None  # it also has a fixed set
    assert [list(damage(grown.lineage, record)) for record in records] == [[], [], []]


def test_what_it_will_cost_says_what_comes_from_outside(mixed):
    text = str(forecast(build(mixed)))
    assert "external" in text.splitlines()[1]
    assert text.splitlines()[3].split()[:5] == ["2", "40", "20", "60", "20"]


def test_it_goes_on_with_the_same_samples_from_outside_wherever_they_lie(grown, mixed, tmp_path):
    moved = tmp_path / "elsewhere.npz"
    shutil.move(tmp_path / "foreign.npz", moved)
    longer = [*mixed, "--lineage.generations", "4"]
    longer[longer.index("--data.external.path") + 1] = str(moved)
    records = build(longer).fit()
    assert records[3].n_external == 60
    assert any("foreign.npz -> " in line for line in records[3].changed)
    bring(moved, seed=1)
    with pytest.raises(Refused) as caught:
        build([*longer, "--lineage.generations", "5"]).fit()
    assert caught.value.field == "data.external"


def test_a_copy_that_rots_is_told_of_and_made_anew(grown, mixed):
    path = grown.lineage.shard("foreign/external").with_suffix(".safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert any("external" in words for words in damage(grown.lineage, grown.lineage.records()[1]))
    build([*mixed, "--lineage.generations", "4"]).fit()
    assert not list(damage(grown.lineage, grown.lineage.records()[1]))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"--sampling_bias": "1 - 0.6*(t-1)"}, "sampling_bias"),
        ({"--policy.n_external": "200*(t-1)"}, "policy.n_external"),
        ({"--policy.n_real": "50 - 30*t"}, "policy.n_real"),
        ({"--policy.n_fresh": "1000*t"}, "policy.n_fresh"),
        ({"--data.external.path": "nowhere.npz"}, "data.external.path"),
    ],
)
def test_what_some_later_generation_lacks_is_refused_before_the_first(mixed, change, field):
    for option, value in change.items():
        mixed[mixed.index(option) + 1] = value
    meta = build(mixed)
    with pytest.raises(Refused) as caught:
        meta.fit()
    assert caught.value.field == field
    assert not meta.lineage.path.exists()


def test_seeds_with_other_samples_from_outside_are_no_seeds_of_one_group(mixed, tmp_path):
    runs = []
    for seed in (0, 1):
        name = [*mixed, "--lineage.name", f"x_seed{seed}", "--seed_everything", str(seed)]
        bring(tmp_path / "foreign.npz", seed)
        runs.append(build([*name, "--lineage.generations", "2"]))
        runs[-1].fit()
    assert len(load([run.lineage.path for run in runs])) == 2


def test_choices_are_the_seeds_own(arguments):
    place = arguments.index("--policy")
    options = [*arguments[:place], "--policy", "AccumulateSubsample", *arguments[place + 2 :]]
    by_seed = []
    for seed in ("0", "1"):
        meta = build([*options, "--lineage.name", seed, "--seed_everything", seed])
        by_seed.append([(r.n_real, r.n_synthetic, r.ages) for r in meta.fit()])
        assert build([*options, "--lineage.name", seed, "--seed_everything", seed]).fit()
    assert by_seed[0][1:] != by_seed[1][1:]
    assert {n_real + n_synthetic for row in by_seed for n_real, n_synthetic, _ in row} == {200}


def test_sigkill_changes_nothing(tmp_path, mixed, diffusion, crash):
    """Networks that meet samples by weight, in the middle of an epoch's order."""
    options = [*mixed[: mixed.index("--callbacks")], "--trainer.accelerator", "cpu", *diffusion]
    results = crash(tmp_path / "lineages", [["train", 6]], options)
    calm = results.pop("calm")
    assert calm["codes"] == [0]
    assert len(results) == 1
    for name, result in results.items():
        assert result["codes"] == [-signal.SIGKILL, 0], name
        assert result["outcome"] == calm["outcome"], name


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_give_the_digests_of_one(mixed, tmp_path):
    """Moments to rounding, and so samples as bytes to the last one, in every generation."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent), "WANDB_MODE": "disabled"}
    for name, more in (
        ("one", []),
        ("two", ["--trainer.devices", "2", "--trainer.strategy", "ddp"]),
    ):
        done = subprocess.run(
            [sys.executable, "train.py", *mixed, "--lineage.name", name, *more],
            cwd=TESTS.parent, env=environment, capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (LineageDirectory(tmp_path / "runs" / name).records() for name in ("one", "two"))
    assert [record.world_size for record in two] == [2, 2, 2]
    for mine, theirs in zip(one, two, strict=True):
        for digest in ("shard", "data", "settings", "external"):
            assert mine.digests[digest] == theirs.digests[digest]
        assert (mine.n_real, mine.n_external, mine.ages) == (
            theirs.n_real, theirs.n_external, theirs.ages,
        )  # fmt: skip
