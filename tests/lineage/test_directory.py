"""Everything of a lineage has one place, and two programs never work on one lineage."""

import io
import json
import re
import subprocess
import sys
from itertools import product

import pytest
from PIL import Image

from mad_lightning.files import Damaged
from mad_lightning.lineage import GenerationRecord, LineageDirectory
from mad_lightning.policies import Mix, Part
from mad_lightning.refusal import Refused


@pytest.fixture
def lineage(tmp_path):
    return LineageDirectory(tmp_path / "mine_seed0")


def test_a_shard_has_its_place_by_name(lineage):
    assert lineage.shard("003") == lineage.path / "generation_003" / "shard"
    assert lineage.shard("003.kept") == lineage.path / "generation_003" / "kept"
    assert lineage.shard("1234") == lineage.path / "generation_1234" / "shard"
    assert lineage.shard("foreign/laion") == lineage.path / "foreign" / "laion"


def test_no_two_names_share_a_place(lineage):
    names = ["001", "002", "001.kept", "001.other", "foreign/001", "foreign/kept"]
    assert len({lineage.shard(name) for name in names}) == len(names)


def test_mixes_come_back(lineage):
    mix = Mix(3, (Part("fresh", None, 5, 7), Part("synthetic", "002", 0, 9)))
    assert lineage.mix(3) is None
    lineage.keep_mix(mix)
    assert lineage.mix(3) == mix


def test_a_mix_from_before_shards_had_names_is_read(lineage):
    plain = {
        "generation": 3,
        "parts": [
            {"origin": "fresh", "start": 350, "count": 50, "generation": None},
            {"origin": "synthetic", "start": 301, "count": 151, "generation": 1},
            {"origin": "synthetic", "start": 0, "count": 150, "generation": 2},
        ],
    }
    lineage.mix_file(3).parent.mkdir(parents=True)
    lineage.mix_file(3).write_text(json.dumps(plain))
    mix = lineage.mix(3)
    assert (mix.n_fresh, mix.n_synthetic) == (50, 301)
    assert mix.ages() == {2: 151, 1: 150}


def test_configurations_and_curves_come_back(lineage):
    assert (lineage.config(), lineage.curves(1)) == ({}, [])
    lineage.keep_config({"b": 1, "a": {"name": "größer"}})
    assert lineage.config() == {"b": 1, "a": {"name": "größer"}}
    lineage.keep_curves(1, [{"epoch": 0, "loss": 0.1}, {"epoch": 1, "late": 1 / 3}])
    assert lineage.curves(1) == [{"epoch": 0, "loss": 0.1}, {"epoch": 1, "late": 1 / 3}]


def picture(lineage):
    file = io.BytesIO()
    Image.effect_noise((6, 5), 80).save(file, "PNG", dpi=(72, 72))
    lineage.picture(1).parent.mkdir(parents=True, exist_ok=True)
    lineage.picture(1).write_bytes(file.getvalue())


MIX = Mix(1, (Part("fresh", None, 5, 7),))
STORED = {
    "config.yaml": (
        lambda lineage: lineage.keep_config({"a": {"name": "größer"}, "b": [1, 2]}),
        lambda lineage: lineage.config(),
    ),
    "curves.csv": (
        lambda lineage: lineage.keep_curves(1, [{"epoch": 0, "a": 0.5}, {"epoch": 1, "a": 1e-9}]),
        lambda lineage: lineage.curves(1),
    ),
    "mix.json": (lambda lineage: lineage.keep_mix(MIX), lambda lineage: lineage.mix(1)),
    "samples.png": (picture, lambda lineage: lineage.sound_picture(1)),
}


@pytest.mark.parametrize("name", STORED)
def test_any_flipped_bit_and_any_half_of_what_is_stored_is_noticed(lineage, name):
    keep, read = STORED[name]
    keep(lineage)
    assert read(lineage)
    (path,) = lineage.path.rglob(name)
    whole = path.read_bytes()
    for place, bit in product(range(len(whole)), (0, 3, 5)):
        broken = bytearray(whole)
        broken[place] ^= 1 << bit
        path.write_bytes(bytes(broken))
        with pytest.raises(Damaged, match=re.escape(str(path))):
            read(lineage)
    for size in range(len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(Damaged):
            read(lineage)
    path.write_bytes(b"")
    with pytest.raises(Damaged):
        read(lineage)


def test_files_from_before_they_were_sealed_are_read(lineage):
    lineage.training(1).mkdir(parents=True)
    lineage.config_file.write_text("a: 1\n")
    lineage.curves_file(1).write_text("epoch,images\r\n0,64\r\n")
    assert (lineage.config(), lineage.curves(1)) == ({"a": 1}, [{"epoch": 0, "images": 64}])


def test_a_damaged_mix_is_written_anew_and_a_whole_one_is_left_alone(lineage):
    lineage.keep_mix(MIX)
    path, whole = lineage.mix_file(1), lineage.mix_file(1).read_bytes()
    before = path.stat().st_ino
    lineage.keep_mix(MIX)
    assert path.stat().st_ino == before
    path.write_bytes(whole[:40])
    lineage.keep_mix(MIX)
    assert path.read_bytes() == whole


def test_another_configuration_is_refused_with_the_difference(lineage):
    lineage.check_unchanged({"policy": {"n": 1}})  # nothing was begun
    lineage.keep_config({"policy": {"n": 1}})
    lineage.check_unchanged({"policy": {"n": 1}})
    lineage.check_unchanged({"policy": {"n": 2}})  # nothing was trained
    stands(lineage.weights(1))
    with pytest.raises(Refused) as caught:
        lineage.check_unchanged({"policy": {"n": 2}})
    assert "policy.n: 1 -> 2" in caught.value.problem
    assert "`name`" in caught.value.remedy


def stands(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


def failing(lineage, error, *made):
    """A start that makes some files, and fails."""
    with pytest.raises(type(error)), lineage.held():  # noqa: PT012
        lineage.begin({"lr": float("nan")})
        stands(*made)
        raise error


@pytest.mark.parametrize("error", [ValueError("lr"), OSError(28, "No space left")], ids=str)
def test_a_start_that_failed_leaves_nothing(lineage, error, tmp_path):
    deep = LineageDirectory(tmp_path / "runs" / "deep" / "mine")
    failing(deep, error, deep.mix_file(1), deep.curves_file(1), deep.floor_file, deep.wandb_notes)
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_failed_leaves_what_it_did_not_make(lineage):
    notes = [lineage.path / "notes.txt", lineage.generation(1) / "notes.txt"]
    stands(*notes)
    failing(lineage, ValueError(), lineage.mix_file(1))
    assert [path for path in sorted(lineage.path.rglob("*")) if path.is_file()] == sorted(notes)


def test_a_training_that_failed_goes_on_or_gives_way_to_other_settings(lineage):
    failing(lineage, ValueError(), lineage.checkpoint(1))
    assert lineage.checkpoint(1).exists()
    assert not lineage.config_file.exists()
    lineage.check_unchanged({"lr": 0.1})
    assert lineage.begin({"lr": float("nan")}) == ""  # the same again, which may help on a day
    assert lineage.checkpoint(1).exists()
    failing(lineage, ValueError(), lineage.checkpoint(1))
    assert "lr: nan -> 0.1" in lineage.begin({"lr": 0.1})
    assert not lineage.checkpoint(1).exists()
    assert lineage.config() == {"lr": 0.1}
    assert not lineage.failed_file.exists()


def test_what_was_trained_before_the_disk_was_full_is_kept_and_bound(lineage):
    failing(lineage, OSError(28, "No space left"), lineage.checkpoint(1))
    assert lineage.config_file.exists()
    with pytest.raises(Refused):
        lineage.check_unchanged({"lr": 0.1})


def test_a_lineage_with_a_finished_generation_outlives_a_failure(lineage):
    made = [lineage.ledger.path, lineage.shard("001").with_suffix(".json"), lineage.mix_file(2)]
    failing(lineage, ValueError(), *made)
    assert all(path.exists() for path in [*made, lineage.config_file])


def test_where_the_file_system_gives_no_locks_it_says_so(lineage, monkeypatch):
    def acquire(self, timeout):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with pytest.raises(Refused) as caught, lineage.held():
        pass
    assert caught.value.field == "root"


def test_what_one_may_only_read_is_not_held(lineage, monkeypatch):
    lineage.path.mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with lineage.held():
        assert list(lineage.path.iterdir()) == []


def test_phases_are_timed_each_under_its_name(lineage):
    for phase in ("train", "sample", "train"):
        with lineage.timed(2, phase):
            pass
    assert [phases.keys() for phases in lineage.spent(2).values()] == [{"train", "sample"}] * 2
    with pytest.raises(ZeroDivisionError), lineage.timed(2, "evaluate"):
        _ = 1 / 0
    assert lineage.spent(2)["seconds"].keys() == {"train", "sample"}  # what failed took no time
    assert not lineage.seconds_file(2).exists(), "a kill may cost a second of the count"


def test_long_phases_are_counted_over_kills(lineage, monkeypatch):
    now, busy = iter([0.0, 5.0, 5.5, 100.0, 101.2]), iter([0.0, 2.0, 2.5, 7.0, 7.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    monkeypatch.setattr("mad_lightning.lineage.directory._cpu_seconds", lambda: next(busy))
    killed = lineage.timed(2, "train")
    tick = killed.__enter__()
    tick()  # at 5.0: kept
    tick()  # at 5.5: lost with the kill
    again = LineageDirectory(lineage.path)
    assert again.spent(2) == {"seconds": {"train": 5.0}, "cpu_seconds": {"train": 2.0}}
    with again.timed(2, "train"):
        pass
    whole = {"seconds": {"train": 6.2}, "cpu_seconds": {"train": 2.5}}
    assert LineageDirectory(lineage.path).spent(2) == whole
    again.sweep(2)
    assert not again.seconds_file(2).exists(), "the ledger tells"


def test_it_is_held_against_a_second_program_until_the_first_is_gone(lineage):
    with lineage.held():
        other = (
            "import sys; from mad_lightning.lineage import LineageDirectory as D\n"
            f"with D({str(lineage.path)!r}).held(): pass"
        )
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
        assert "another program is training" in done.stderr
    with lineage.held():
        pass


def test_what_a_killed_program_left_half_written_is_swept_and_nothing_else(lineage):
    first = lineage.generation(1)
    torn = [
        lineage.path / ".config.yaml.0123abcd.77.tmp",
        first / ".mix.json.77.tmp",
        first / ".kept.safetensors.0123abcd.77.tmp",
        lineage.training(1) / ".last.ckpt.0123abcd.77.tmp",
    ]
    kept = [
        first / "notes.tmp",
        first / ".notes.tmp",
        first / ".notes.txt.77.tmp",
        first / "mine" / ".mix.json.77.tmp",
        lineage.path.parent / "other" / "generation_001" / ".mix.json.77.tmp",
        lineage.path / "generation_1" / ".mix.json.77.tmp",
    ]
    for path in (*torn, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    with lineage.held():
        assert not any(path.exists() for path in torn)
    assert all(path.exists() for path in kept)


def test_what_a_kill_after_the_last_line_left_is_swept_at_the_next_start(lineage):
    lineage.path.mkdir()
    lineage.ledger.append(GenerationRecord(1, "fresh", 0, 1, 0, 1.0, {}))
    block = lineage.unfinished(1, "blocks") / "0a1b" / "00000.safetensors"
    torn = lineage.unfinished(1, "features") / "training" / ".00001.safetensors.0123abcd.77.tmp"
    going_on = lineage.unfinished(2, "blocks") / "0a1b" / "00000.safetensors"
    mine = lineage.unfinished(1, "features") / "mine.npy"
    for path in (block, torn, going_on, mine, lineage.checkpoint(1), lineage.checkpoint(2)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with lineage.held():
        pass
    assert not lineage.unfinished(1, "blocks").exists()
    assert [path.name for path in mine.parent.iterdir()] == ["mine.npy"]
    assert not lineage.checkpoint(1).exists()
    assert going_on.exists()
    assert lineage.checkpoint(2).exists()


def test_a_finished_generation_keeps_what_is_read_later(lineage):
    for what in ("blocks", "grid", "features"):
        lineage.unfinished(1, what).mkdir(parents=True)
    for path in (lineage.checkpoint(1), lineage.weights(1), lineage.picture(1)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    lineage.sweep(1)
    assert {path.name for path in lineage.generation(1).iterdir()} == {
        "train", "generator.ckpt", "samples.png",
    }  # fmt: skip
    assert not lineage.checkpoint(1).exists()
