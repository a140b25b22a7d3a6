"""A generation's second phase: what it leaves, and that nothing else depends on it."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import mad_lightning
from mad_lightning.commands import main
from mad_lightning.commands.train import build
from mad_lightning.data.shards import Shard
from mad_lightning.files import read_json
from mad_lightning.lineage import LineageDirectory
from mad_lightning.loop.forecast import forecast
from mad_lightning.loop.verifying import damage
from mad_lightning.policies import FullySynthetic
from mad_lightning.refusal import Diverged, Refused
from mad_lightning.seeds import sample_seeds

ROOT = Path(__file__).parents[2]


def options(root, *more):
    """Two generations of diffusion models on real digits, without a picture."""
    return [
        "--lineage.root", str(root / "runs"),
        "--lineage.name", "plain",
        "--lineage.generations", "2",
        "--lineage.block_size", "32",
        "--lineage.threads", "1",
        "--policy", "FullySynthetic",
        "--policy.n_initial", "100",
        "--data.source", "Digits",
        "--data.n_reference", "60",
        "--data.cache", str(root / "cache"),
        "--data.batch_size", "32",
        "--data.images_per_epoch", "128",
        "--generator", "Diffusion",
        "--generator.network", "mad_lightning.nets.unet.UNet",
        "--generator.network.widths", "[8,8]",
        "--generator.network.layers", "1",
        "--generator.sampling_steps", "3",
        "--evaluator.extractor", "Identity",
        "--evaluator.metrics", '[{"class_path": "Frechet"}]',
        "--callbacks", "[]",
        "--trainer.accelerator", "cpu",
        *more,
    ]  # fmt: skip


def improved(name, **given):
    given = {"images": 128, "samples": 64} | given
    if name == "Autoguidance":
        del given["samples"]
    spec = json.dumps({"class_path": name, "init_args": given})
    return ["--improve", spec, "--lineage.name", name.lower()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A lineage without a second phase, one with SIMS that keeps the last shard only, and Neon."""
    root = tmp_path_factory.mktemp("trained")
    build(options(root)).fit()
    build(options(root, *improved("SIMS"), "--lineage.keep", "last")).fit()
    build(options(root, *improved("Neon", weight=0.5), "--lineage.generations", "1")).fit()
    return root / "runs"


@pytest.fixture
def copied(trained, tmp_path):
    """The same, to be spoilt; at their second names."""
    shutil.copytree(trained.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "runs"


def shards(records):
    return [record.digests["shard"] for record in records]


def redrawn(lineage, t, n=40):
    """The first samples of a generation, drawn again by what ``mad_lightning.load`` gives."""
    shard = Shard(LineageDirectory(lineage).shard(f"{t:03d}"))
    seeds = sample_seeds(0, n, *shard.manifest.seeds)
    again = mad_lightning.load(lineage, t).sample(seeds, 1.0, shard.samples.labels[:n])
    return again.values, shard.samples.values[:n]


def export(lineage, out):
    import_module("mad_lightning.commands.export").run(
        [str(lineage), "--to", "diffusers", "--generation", "1", "--out", str(out)]
    )


def test_what_a_second_phase_leaves(trained, tmp_path):
    plain = LineageDirectory(trained / "plain").records()
    lineage = LineageDirectory(trained / "sims")
    records = lineage.records()
    first = records[0]
    assert first.digests["generator"] == plain[0].digests["generator"]  # trained alike
    assert first.digests["shard"] != plain[0].digests["shard"]
    assert "improved" not in plain[0].digests
    assert first.digests["improved"] not in (first.digests["generator"], None)
    told = {k: v for k, v in first.sampler.items() if k not in plain[0].sampler}
    assert told == {
        "improve": "SIMS", "improve_weight": 0.5, "improve_images": 128, "network_calls": 6,
    }  # fmt: skip
    assert {"train", "improve", "sample"} <= first.seconds.keys()
    assert [list(damage(lineage, record)) for record in records] == [[], []]
    left = {path.name for path in lineage.generation(1).iterdir()}
    assert left >= {"auxiliary.ckpt", "improvement.json"}
    assert not left & {"auxiliary", "own", "tried", "blocks"}
    assert torch.equal(*redrawn(lineage.path, 2))
    with pytest.raises(Refused, match="asks one network a step, this generator two"):
        export(lineage.path, tmp_path / "p")


def test_what_is_not_as_the_ledger_tells_is_noticed(copied):
    lineage = LineageDirectory(copied / "sims")
    record = lineage.records()[1]
    lineage.auxiliary(2).write_bytes(lineage.auxiliary(1).read_bytes())
    assert "auxiliary.ckpt holds other weights" in next(damage(lineage, record))
    with pytest.raises(Refused, match="the ledger tells of other weights"):
        mad_lightning.load(lineage.path, 2)
    lineage.auxiliary(2).unlink()
    assert "auxiliary" in next(damage(lineage, record))


def test_neon_in_a_lineage(trained, tmp_path):
    lineage = LineageDirectory(trained / "neon")
    assert lineage.records()[0].sampler["network_calls"] == 3
    assert torch.equal(*redrawn(lineage.path, 1))
    generator = mad_lightning.load(lineage.path, 1)
    r, s = (
        torch.load(path, weights_only=True)["state_dict"]
        for path in (lineage.weights(1), lineage.auxiliary(1))
    )
    for name, value in generator.ema.net.named_parameters():
        key = f"ema.net.{name}"
        torch.testing.assert_close(value, 1.5 * r[key] - 0.5 * s[key], rtol=1e-4, atol=1e-6)
    export(lineage.path, tmp_path / "p")
    assert (tmp_path / "p" / "model_index.json").exists()


@pytest.mark.parametrize(
    "name", ["SIMS", *(pytest.param(n, marks=pytest.mark.slow) for n in ("Neon", "Autoguidance"))]
)
def test_with_a_weight_of_0_all_samples_are_those_of_the_generator(trained, tmp_path, name):
    plain = LineageDirectory(trained / "plain").records()
    one = [*improved(name, weight=0), "--lineage.generations", "1"]
    (record,) = build(options(tmp_path, *one)).fit()
    assert record.digests["shard"] == plain[0].digests["shard"]
    assert record.metrics == plain[0].metrics


def test_a_weight_is_chosen_by_samples_that_nobody_else_sees(tmp_path):
    given = [*improved("SIMS", weight=[0, 0.5, 4], validation=70), "--lineage.generations", "1"]
    meta = build(options(tmp_path, *given))
    (record,) = meta.fit()
    note = read_json(meta.lineage.improvement(1))
    distances = {float(name): value for name, value in note["distances"].items()}
    assert distances.keys() == {0.0, 0.5, 4.0}
    assert all(map(math.isfinite, distances.values()))
    assert note["weight"] == min(distances, key=distances.get) == record.sampler["improve_weight"]

    size = meta.real.size
    kept = {value.numpy().tobytes() for value in meta.real.kept_back(70).values}
    trained = {value.numpy().tobytes() for value in meta.real.read(0, 100).values}
    assert not kept & (trained | {v.numpy().tobytes() for v in meta.real.reference.values})
    too_many = improved("SIMS", weight="auto", validation=size - 99)
    with pytest.raises(Refused, match=f"take 100 of the {size} in the pool") as refused:
        build(options(tmp_path, *too_many, "--lineage.name", "many")).fit()
    assert refused.value.field == "improve.validation"
    assert not (tmp_path / "runs" / "many").exists()


def test_who_chooses_a_weight_and_who_keeps_samples_have_real_ones_of_their_own(tmp_path):
    selects = [
        "--treatment", "TopShare",
        "--treatment.score", "Nearness",
        "--treatment.n_real", "40",
        "--treatment.candidates", "2",
        "--evaluator.extractor", "Pixels",
        "--evaluator.extractor.resolution", "8",
    ]  # fmt: skip
    size = build(options(tmp_path)).real.size
    both = [*improved("SIMS", weight="auto", validation=size - 139), *selects]
    with pytest.raises(Refused, match=f"take 100 of the {size} .*, and the treatment 40"):
        build(options(tmp_path, *both, "--lineage.generations", "1")).fit()
    real = build(options(tmp_path)).real
    sides = [real.read(0, size - 110), real.kept_back(70, after=40), real.kept_back(40)]
    parts = [torch.stack(list(side.values)) for side in sides]
    assert torch.equal(torch.cat(parts), torch.stack(list(real.read(0, size).values)))


def test_samples_come_back_as_they_were_drawn(copied):
    first = Shard(LineageDirectory(copied / "sims").shard("001"))
    assert first.is_evicted
    meta = build(options(copied.parent, *improved("SIMS"), "--lineage.keep", "all"))
    records = meta.fit()
    assert not Shard(meta.lineage.shard("001")).is_evicted
    assert [list(damage(meta.lineage, record)) for record in records] == [[], []]


def test_what_is_measured_again_was_drawn_by_both(copied):
    main(["measure", str(copied / "neon"), "--name", "again", "--metrics", "Kernel"])
    again = LineageDirectory(copied / "neon" / "measured" / "again").records()
    records = LineageDirectory(copied / "neon").records()
    assert [r.digests["improved"] for r in again] == [r.digests["improved"] for r in records]


def test_a_branch_has_its_parents_second_phases(copied):
    branch = options(copied.parent, *improved("SIMS"), "--lineage.name", "branch")
    main(["branch", "--from", f"{copied / 'sims'}@2", *branch])
    lineage = LineageDirectory(copied / "branch")
    records = lineage.records()
    assert shards(records) == shards(LineageDirectory(copied / "sims").records())
    assert list(damage(lineage, records[1])) == []
    assert torch.equal(*redrawn(lineage.path, 2))


def test_what_it_costs_is_forecast(tmp_path):
    more = improved("SIMS", images=100)
    plain, dear = (forecast(build(options(tmp_path, *given))) for given in ([], more))
    assert [b - a for a, b in zip(plain.trained, dear.trained, strict=True)] == [128, 128]
    assert dear.weights_bytes == 2 * plain.weights_bytes


def test_what_cannot_be_is_refused_before_anything_is_written(arguments, tmp_path):
    for given, field, words in (
        ([*arguments, *improved("SIMS")], "improve", "along gradients"),
        (options(tmp_path, *improved("SIMS", weight=-1)), "improve.weight", "outside"),
        (options(tmp_path, *improved("Neon", images=0)), "improve.images", "outside"),
        (options(tmp_path, *improved("Neon", lr=0)), "improve.lr", "outside"),
    ):
        with pytest.raises(Refused, match=words) as refused:
            build(given).fit()
        assert refused.value.field == field
    assert not (tmp_path / "runs").exists()


def test_an_auxiliary_that_breaks_takes_nothing_with_it(tmp_path):
    meta = build(options(tmp_path, *improved("SIMS", lr=1e30)))
    with pytest.raises(Diverged, match="its auxiliary has broken") as told:
        meta.fit()
    assert "improve.lr" in told.value.remedy
    assert meta.lineage.weights(1).exists()
    assert not meta.lineage.auxiliary(1).exists()


def test_in_python(tmp_path):
    meta = build(options(tmp_path, *improved("SIMS")))
    kind = type(meta)
    given = {
        "settings": meta.settings,
        "policy": FullySynthetic(200),
        "data": meta.data,
        "evaluator": meta.evaluator,
        "build_generator": meta.build_generator,
        "build_trainer_arguments": meta.trainers.build_arguments,
    }
    told = kind(**given, improvement=meta.improving.improvement).config
    assert told["improve"]["init_args"]["images"] == 128
    assert "improve" not in kind(**given).config


@pytest.mark.slow
def test_sigkill_in_a_second_phase_changes_nothing(tmp_path):
    second = improved("SIMS", weight=[0, 0.5], images=256, validation=40)[:2]
    plain = options(tmp_path)
    at = plain.index("--callbacks")
    del plain[at : at + 2]
    # Own samples in 2 blocks, 2 epochs of 4 batches, then 2 blocks of each weight's.
    places = [["improve", 1], ["improve", 5], ["improve", 8]]
    program = [sys.executable, str(ROOT / "tests" / "crash.py"), str(tmp_path / "lineages")]
    done = subprocess.run(
        [*program, json.dumps(places), *plain, *second],
        capture_output=True, text=True, timeout=300, cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout.splitlines()[-1])
    calm = results.pop("calm")
    assert calm["codes"] == [0]
    assert len(calm["outcome"]) == 2
    for name, result in results.items():
        assert result["codes"] == [-signal.SIGKILL, 0], name
        assert result["outcome"] == calm["outcome"], name
        assert result["leftovers"] == []


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_draw_by_both_what_one_would(tmp_path):
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--lineage.generations", "1"]
    done = subprocess.run(
        [sys.executable, "train.py", *options(tmp_path, *improved("SIMS"), *two)],
        cwd=ROOT, capture_output=True, text=True, timeout=280,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lineage = LineageDirectory(tmp_path / "runs" / "sims")
    (record,) = lineage.records()
    assert record.world_size == 2
    assert list(damage(lineage, record)) == []
    assert torch.equal(*redrawn(lineage.path, 1))
