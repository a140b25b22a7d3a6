"""Two processes: one ledger, one set of samples, no noise in common."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mad_lightning.data.shards import Shard
from mad_lightning.lineage import LineageDirectory

ROOT = Path(__file__).parents[1]
WATCHED = ["--trainer.callbacks", "ddp_watch.Watch"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
WATCH = '''
import json, os
import lightning as L
import torch

class Watch(L.Callback):
    """Writes down what each rank sees and draws, and with which weights it starts and ends."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        row = {
            "generation": trainer.default_root_dir, "rank": trainer.global_rank,
            "place": [trainer.current_epoch, batch_idx], "step": trainer.global_step,
            "images": [hash(v.numpy().tobytes()) for v in batch.values],
            "noise": torch.rand(()).item(), "weights": pl_module.digest(),
        }
        with open(os.environ["WATCH"] + f".{trainer.global_rank}", "a") as file:
            file.write(json.dumps(row) + "\\n")
'''

pytestmark = pytest.mark.ddp


def train(arguments, tmp_path, *, command=("train.py",), code=0):
    (tmp_path / "ddp_watch.py").write_text(WATCH)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
        "WATCH": str(tmp_path / "watch"),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
    }
    done = subprocess.run(
        [sys.executable, *command, *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == code, done.stderr[-3000:]
    return done


def watched(tmp_path):
    rows = []
    for rank in (0, 1):
        path = tmp_path / f"watch.{rank}"
        rows += [json.loads(line) for line in path.read_text().splitlines()]
    return rows


def test_two_processes_make_one_lineage(arguments, diffusion, tmp_path):
    place = arguments.index("--callbacks")
    arguments[place + 1] = '[{"class_path": "SampleGrids"}, {"class_path": "WandB"}]'
    train([*arguments, *diffusion, *WATCHED, *TWO], tmp_path)
    directory = tmp_path / "runs" / "tiny"
    records = LineageDirectory(directory).records()
    assert [r.generation for r in records] == [1, 2, 3]
    assert {r.world_size for r in records} == {2}
    assert {r.images for r in records} == {2 * 4 * 32}
    assert len(list((directory / "wandb").glob("offline-run-*"))) == 1
    shard = Shard(LineageDirectory(directory).shard("001")).samples
    assert len(shard) == 200
    assert len({v.numpy().tobytes() for v in shard.values}) == 200  # no sample drawn twice

    rows = watched(tmp_path)
    assert len(rows) == 3 * 2 * 4 * 2  # generations, epochs, batches, ranks
    assert len({row["noise"] for row in rows}) == len(rows)
    by_place = {}
    for row in rows:
        by_place.setdefault((row["generation"], *row["place"]), []).append(row)
    for pair in by_place.values():
        assert pair[0]["weights"] == pair[1]["weights"]
        assert len(pair[0]["images"]) == len(pair[1]["images"]) == 16
    starts = [row for row in rows if row["place"] == [0, 0]]
    assert {row["step"] for row in starts} == {0}
    assert len({row["weights"] for row in starts}) == 3  # one start a generation, both ranks
    ends = {record.digests["generator"] for record in records}
    assert len(ends) == 3
    assert not ends & {row["weights"] for row in starts}


def test_the_same_weights_give_the_same_shard_on_one_and_two_processes(
    arguments, diffusion, tmp_path
):
    plain = [*arguments, *diffusion, "--lineage.generations", "1"]
    train([*plain, "--lineage.name", "one"], tmp_path)
    one, two = (tmp_path / "runs" / name for name in ("one", "two"))
    (two / "generation_001" / "train").mkdir(parents=True)
    for trained in ("generator.ckpt", "train/curves.csv"):
        shutil.copy(one / "generation_001" / trained, two / "generation_001" / trained)
    train([*plain, "--lineage.name", "two", *TWO], tmp_path)
    digests = [LineageDirectory(each).records()[0].digests["shard"] for each in (one, two)]
    assert digests[0] == digests[1]
    assert LineageDirectory(two).records()[0].world_size == 2


@pytest.mark.slow
def test_two_processes_tell_of_one_divergence(arguments, diffusion, tmp_path):
    done = train([*arguments, *diffusion, *TWO, "--generator.lr", "1e30"], tmp_path, code=1)
    assert done.stderr.count("Diffusion has diverged: the mean of loss in epoch 0 is nan") == 1
    assert "Traceback" not in done.stderr


def test_moments_of_two_processes_are_those_of_one(arguments, tmp_path):
    import torch

    plain = [*arguments, "--lineage.generations", "1", "--policy.n_initial", "151"]
    plain += ["--lineage.block_size", "256"]  # one block of features: a process has none
    train([*plain, "--lineage.name", "one", "--data.batch_size", "40"], tmp_path)
    train([*plain, "--lineage.name", "two", "--data.batch_size", "40", *TWO], tmp_path)
    states = [
        torch.load(
            tmp_path / "runs" / name / "generation_001" / "generator.ckpt", weights_only=True
        )["state_dict"]
        for name in ("one", "two")
    ]
    assert states[0]["n"].sum() == 151
    for moment in ("n", "mean", "scatter"):
        torch.testing.assert_close(states[0][moment], states[1][moment], rtol=1e-11, atol=1e-11)
    records = [LineageDirectory(tmp_path / "runs" / name).records()[0] for name in ("one", "two")]
    assert records[0].digests["shard"] == records[1].digests["shard"]
    assert records[0].images == records[1].images == 151


# --- at scale ------------------------------------------------------------------------------------


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """2,000 drawn faces of 128 px in an archive."""
    path = tmp_path_factory.mktemp("faces") / "faces.zip"
    benchmark("stand_in").make(path, 2000, 128)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["E1", "E2", "E7"])
def test_the_files_of_faces_run_whole_on_two_processes(experiment, faces):
    stand_in = benchmark("stand_in")
    stand_in.run(experiment, faces, faces.parent, "--trainer.max_epochs=1")
    records = LineageDirectory(faces.parent / experiment).records()
    assert [(r.generation, r.world_size, r.images) for r in records] == [(1, 2, 64), (2, 2, 64)]
    assert records[0].n_real == 1600
    later = (0, 1600)[experiment == "E7"]
    assert (records[1].n_real, records[1].n_synthetic) == (later, 200)
    assert records[1].sampling_bias == (0.7 if experiment == "E2" else 1.0)
    for record in records:
        shard = Shard(LineageDirectory(faces.parent / experiment).shard(record.drawn))
        assert tuple(shard.samples.values.shape) == (200, 3, 128, 128)
        assert shard.samples.values.flatten(1).float().std(dim=1).min() > 0.0


@pytest.mark.slow
def test_the_memory_of_two_processes_does_not_grow_with_the_pool():
    ranks = benchmark("ranks")
    few, many = (ranks.peaks(n, 64, ["--candidates", "2"]) for n in (300, 3000))
    for before, after in zip(few, many, strict=True):  # 35 MiB of pictures, twice that are drawn
        assert after < 1.05 * before, (few, many)
