"""What the loop makes and uses, as W&B's lineage graph takes it."""

import os
import sys

import pytest

from mad_lightning.callbacks.base import LineageInfo
from mad_lightning.callbacks.wandb import WandB
from mad_lightning.callbacks.wandb_files import is_closed
from mad_lightning.callbacks.wandb_graph import steps
from mad_lightning.lineage import GenerationRecord, LineageDirectory
from mad_lightning.policies import FreshData, Mix, Part

POLICY = FreshData(9, 3, 6, "last_k", k=2)


@pytest.fixture(autouse=True)
def _nobodys_settings(tmp_path, monkeypatch):
    for name in [*os.environ]:
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield
    if hasattr(sys.modules.get("wandb"), "teardown"):
        sys.modules["wandb"].teardown()


def records(n, **more):
    digests = {"data": "d" * 64, "settings": "s"}
    counts = [POLICY.mix(t) for t in range(1, n + 1)]
    return [
        GenerationRecord(
            mix.generation, "fresh", mix.n_real, mix.n_fresh, mix.n_synthetic, 1.0, {},
            digests=digests | {"generator": f"g{mix.generation}", "shard": f"s{mix.generation}"},
            drawn=f"{mix.generation:03d}", published=f"{mix.generation:03d}", **more,
        )
        for mix in counts
    ]  # fmt: skip


def arrows(t, told, mix=None):
    return [
        (step.phase, [part.name for part in step.uses], step.makes.name)
        for step in steps("x y", told, t, mix or POLICY.mix(t))
    ]


def test_a_generation_eats_real_data_and_shards_and_its_generator_draws_the_next():
    assert arrows(3, records(3)) == [
        ("train", ["real-dddddddd", "x-y-shard-001", "x-y-shard-002"], "x-y-generator-003"),
        ("sample", ["x-y-generator-003"], "x-y-shard-003"),
    ]
    made, used = ([*steps("x", records(3), t, POLICY.mix(t))] for t in (1, 2))
    assert made[1].makes in used[0].uses  # with all that is known of it


def test_a_treatment_and_samples_of_somebody_else_are_in_the_graph():
    told = [GenerationRecord(1, "mine", 0, 0, 9, 1.0, {}, drawn="001", published="001.kept")]
    mix = Mix(1, (Part("synthetic", "foreign/laion", 0, 9),))
    assert arrows(1, told, mix) == [
        ("train", ["x-y-shard-foreign-laion"], "x-y-generator-001"),
        ("sample", ["x-y-generator-001"], "x-y-shard-001"),
        ("treat", ["x-y-shard-001"], "x-y-shard-001.kept"),
    ]


def test_an_offline_lineage_has_each_step_once_and_no_file_leaves_it(tmp_path):
    directory = LineageDirectory(tmp_path / "runs" / "mine_seed0")
    for t in (1, 2):
        directory.keep_mix(POLICY.mix(t))
    info = LineageInfo("mine_seed0", directory, 2, 0, "fresh", 1.0)
    callback = WandB(artifacts=True)
    callback.on_lineage_start(info, records(1))
    callback.on_lineage_end(records(1), finished=False)  # killed
    callback.on_lineage_start(info, records(1))
    callback.on_generation_end(records(2)[1], directory.generation(2))
    callback.on_lineage_end(records(2), finished=True)
    assert callback.failure is None

    graph = directory.wandb_folder / "graph"
    runs = sorted(graph.glob("wandb/offline-run-*"))
    phases = sorted(run.name.partition(f"{callback._notes.id}-")[2] for run in runs)
    assert phases == ["sample-001", "sample-002", "train-001", "train-002"]
    assert all(map(is_closed, runs))
    made = {file.stem for file in graph.glob("*.json")}
    assert made == {
        "real-dddddddd",
        *(f"mine_seed0-{kind}-00{t}" for kind in ("generator", "shard") for t in (1, 2)),
    }
    content = b"".join(next(run.glob("*.wandb")).read_bytes() for run in runs)
    assert content.count(str(tmp_path / "runs").encode()) > 0  # artifacts' files are the lineage's
    assert b"/staging/" not in content
    assert len([*directory.wandb_folder.glob("offline-run-*")]) == 1
