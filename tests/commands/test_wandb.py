"""A W&B run is a view of the ledger, so it can be drawn again whenever somebody wants it."""

import json
import sys

import pytest
from wandb.proto import wandb_internal_pb2

from mad_lightning.callbacks.wandb_files import history
from mad_lightning.commands import main
from mad_lightning.lineage import GenerationRecord, LineageDirectory


@pytest.fixture(autouse=True)
def _offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    yield
    if hasattr(sys.modules.get("wandb"), "teardown"):
        sys.modules["wandb"].teardown()


@pytest.fixture
def lineage(tmp_path):
    """Three generations that somebody trained without W&B, into another project."""
    lineage = LineageDirectory(tmp_path / "mine_seed3")
    wandb = {"class_path": "mad_lightning.callbacks.WandB", "init_args": {"project": "theirs"}}
    lineage.keep_config({"seed_everything": 3, "callbacks": [wandb]})
    for t in (1, 2, 3):
        lineage.keep_curves(t, [{"epoch": 0, "images": 50, "loss": 1 / t}])
        lineage.ledger.append(
            GenerationRecord(t, "fresh", 0, 10, 90, 1.0, {"recall": 1 / t}, images=50)
        )
    return lineage


def runs(lineage):
    return sorted(lineage.wandb_folder.glob("offline-run-*"))


def test_a_run_is_drawn_whole_from_the_ledger_and_drawn_again_it_is_replaced(lineage, capsys):
    before = lineage.ledger.path.read_bytes()
    for _ in range(2):
        main(["wandb", str(lineage)])
        (run,) = runs(lineage)
        rows = list(history(run))
        assert [row["generation"] for row in rows if "generation" in row] == [1, 2, 3]
        assert [row["diversity/recall"] for row in rows if "generation" in row] == [1, 1 / 2, 1 / 3]
        assert [row["train/images"] for row in rows if "train/images" in row] == [50, 100, 150]
        said = capsys.readouterr().out
        assert f"wandb sync {run}" in said
        assert "3 generations and 3 points of their curves are logged" in said
    assert lineage.ledger.path.read_bytes() == before
    assert b"theirs" in next(run.glob("*.wandb")).read_bytes()


def test_a_run_that_was_synced_stays_as_it_is(lineage):
    main(["wandb", str(lineage)])
    (first,) = runs(lineage)
    (file,) = first.glob("*.wandb")
    file.with_suffix(".wandb.synced").touch()
    content = file.read_bytes()
    main(["wandb", str(lineage)])
    (second,) = {*runs(lineage)} - {first}
    assert file.read_bytes() == content
    assert first.name.rpartition("-")[2] != second.name.rpartition("-")[2]
    assert sum("generation" in row for row in history(second)) == 3


def test_what_is_not_there_is_refused_before_any_run_is_drawn(lineage, tmp_path, refusal):
    assert "there is no such directory" in refusal("wandb", lineage, tmp_path / "nowhere")
    assert "no generation is finished" in refusal("wandb", lineage.ledger.path)
    assert not lineage.wandb_folder.exists()
    assert not (tmp_path / "nowhere").exists()


def test_what_else_lies_in_runs_is_passed_over(lineage, tmp_path, capsys):
    (tmp_path / "cache").mkdir()
    (tmp_path / "sweep.csv").write_text("arm,seed\n")
    main(["wandb", *map(str, sorted(tmp_path.iterdir()))])
    assert len(runs(lineage)) == 1


@pytest.mark.parametrize("mode", ["disabled", "nonsense"])
def test_a_mode_that_logs_nothing_is_refused(lineage, refusal, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    assert mode in refusal("wandb", lineage)


# the file that tells what a run holds


def block_log(*contents):
    """A log as LevelDB writes it, every record in pieces of 5 bytes."""
    import struct
    import zlib

    log = b":W&B\0\0\0"
    for content in contents:
        pieces = [content[i : i + 5] for i in range(0, len(content), 5)]
        for place, piece in enumerate(pieces):
            kind = 2 if place == 0 else 4 if place == len(pieces) - 1 else 3
            checksum = zlib.crc32(bytes([kind]) + piece)
            log += struct.pack("<IHB", checksum, len(piece), kind) + piece
    return log


def test_rows_behind_damage_are_not_there(tmp_path):
    contents = []
    for t in (1, 2, 3):
        record = wandb_internal_pb2.Record()
        item = record.history.item.add()
        item.nested_key.append("generation")
        item.value_json = json.dumps(t)
        contents.append(record.SerializeToString())
    log = block_log(*contents)
    file = tmp_path / "run-a.wandb"
    seen = set()
    for end in range(len(log) + 1):
        file.write_bytes(log[:end])
        rows = [row["generation"] for row in history(tmp_path)]
        assert rows == [1, 2, 3][: len(rows)]
        seen.add(len(rows))
    assert seen == {0, 1, 2, 3}
    for place in range(7, len(log)):
        broken = bytearray(log)
        broken[place] ^= 4
        file.write_bytes(bytes(broken))
        rows = [row["generation"] for row in history(tmp_path)]
        assert rows == [1, 2, 3][: len(rows)]
        assert len(rows) < 3
