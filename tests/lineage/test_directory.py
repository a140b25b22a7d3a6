"""Everything of a lineage has one place, and two programs never work on one lineage."""

import json
import subprocess
import sys

import pytest

from mad_lightning.lineage import LineageDirectory
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


def test_another_configuration_is_refused_with_the_difference(lineage):
    lineage.check_unchanged({"policy": {"n": 1}})  # nothing was begun
    lineage.keep_config({"policy": {"n": 1}})
    lineage.check_unchanged({"policy": {"n": 1}})
    with pytest.raises(Refused) as caught:
        lineage.check_unchanged({"policy": {"n": 2}})
    assert "policy.n: 1 -> 2" in caught.value.problem
    assert "`name`" in caught.value.remedy


def test_phases_are_timed_each_under_its_name(lineage):
    for phase in ("train", "sample", "train"):
        with lineage.timed(2, phase):
            pass
    assert lineage.seconds(2).keys() == {"train", "sample"}
    with pytest.raises(ZeroDivisionError), lineage.timed(2, "evaluate"):
        _ = 1 / 0
    assert lineage.seconds(2).keys() == {"train", "sample"}  # what failed took no time


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
    torn = lineage.generation(1) / ".mix.json.77.tmp"
    kept = lineage.generation(1) / "notes.tmp"
    torn.parent.mkdir(parents=True)
    for path in (torn, kept):
        path.write_text("half")
    with lineage.held():
        assert not torn.exists()
    assert kept.exists()


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
