"""A file appears whole or not at all; what is dear is made once, and others wait."""

import errno
import json
import math
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import SoftFileLock

from mad_lightning import files
from mad_lightning.files import (
    Damaged,
    appearing,
    awaited,
    finite,
    folder_appearing,
    folder_passing,
    holder,
    leave_mark,
    locked,
    make_once,
    read_json,
    sweep,
    write,
    write_json,
)

ROOT = Path(__file__).parents[1]


def names(directory):
    return sorted(path.name for path in directory.iterdir())


# --- whole or not at all ------------------------------------------------------------------------


def test_a_file_appears_when_all_is_written(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with appearing(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert names(path.parent) == [temporary.name]
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert names(path.parent) == ["file.txt"]


def fail(path, error):
    with appearing(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [[], ["file.txt"]])
def test_a_failure_leaves_what_stood_before(tmp_path, error, before):
    for name in before:
        (tmp_path / name).write_text("old")
    with pytest.raises(error):
        fail(tmp_path / "file.txt", error)
    assert names(tmp_path) == before
    assert all((tmp_path / name).read_text() == "old" for name in before)


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (steps.append("fsync"), fsync(file)))
    monkeypatch.setattr(Path, "replace", lambda *paths: (steps.append("replace"), replace(*paths)))
    write(tmp_path / "a", "x")
    assert steps == ["fsync", "replace", "fsync"], "its content, its name, the folder of names"


def test_a_folder_may_hold_more_files_than_a_program_may_hold_open(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len([*Path("/dev/fd").iterdir()]) + 50, before[1]))
    try:
        with folder_appearing(tmp_path / "many") as place:
            for name in range(200):
                (place / f"{name}").write_text("x")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(names(tmp_path / "many")) == 200


KILLED = """
import os, sys
from pathlib import Path
from mad_lightning.files import appearing
with appearing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), 9)
"""


def test_a_killed_program_leaves_the_old_file_and_a_torn_one(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT)
    assert path.read_text() == "old"
    assert len(list(tmp_path.glob(".file.txt.*.tmp"))) == 1


def test_text_is_utf_8_and_bytes_are_bytes(tmp_path):
    write(tmp_path / "text", "λ = ½\n")
    write(tmp_path / "bytes", b"\x00\r\n")
    assert (tmp_path / "text").read_bytes() == "λ = ½\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\r\n"


def test_a_disk_that_is_full_is_told_with_the_files_name(tmp_path, monkeypatch):
    def full(place):
        raise OSError(errno.ENOSPC, "No space left on device")

    write(tmp_path / "a", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*a'$") as caught:
        write(tmp_path / "a", "new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a"))
    assert (names(tmp_path), (tmp_path / "a").read_text()) == (["a"], "old")


# --- JSON ---------------------------------------------------------------------------------------


def test_json_holds_plain_values_and_numbers_that_are_none_become_null(tmp_path):
    value = {"a": [1, 2.5, math.nan], "b": {"c": (math.inf, True)}, "λ": "½", "d": None}
    plain = {"a": [1, 2.5, None], "b": {"c": [None, True]}, "λ": "½", "d": None}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == finite(value) == plain
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "λ" in text
    json.loads(text, parse_constant=pytest.fail)


def test_no_file_is_an_empty_object(tmp_path):
    assert read_json(tmp_path / "no.json") == {}


@pytest.mark.parametrize("value", [{"a": [1, 2.5], "name": "größer"}, {}])
def test_any_flipped_bit_and_any_missing_end_of_json_is_noticed(tmp_path, value):
    path = tmp_path / "x.json"
    write_json(path, value)
    assert read_json(path) == value
    whole = path.read_bytes()
    for place in range(8 * len(whole)):
        broken = bytearray(whole)
        broken[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(broken))
        with pytest.raises(Damaged, match=r"x\.json is damaged"):
            read_json(path)
    for size in range(len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(Damaged):
            read_json(path)


def test_json_without_a_seal_is_read_as_it_is(tmp_path):
    write_json(tmp_path / "x.json", {"sha256": "0" * 64}, seal=False)
    assert read_json(tmp_path / "x.json") == {"sha256": "0" * 64}
    assert "seal" not in (tmp_path / "x.json").read_text()
    (tmp_path / "x.json").write_text("[1, 2]")
    with pytest.raises(Damaged):
        read_json(tmp_path / "x.json")


# --- made once ----------------------------------------------------------------------------------


def test_what_stands_is_not_made_again(tmp_path):
    made = []

    def make(temporary):
        made.append(temporary)
        temporary.write_text("dear")

    for _ in range(3):
        assert make_once(tmp_path / "new" / "dear", make) == tmp_path / "new" / "dear"
    assert len(made) == 1
    assert set(names(tmp_path / "new")) - {"dear.lock"} == {"dear"}


def test_a_failure_leaves_nothing_and_the_next_one_makes_it(tmp_path):
    def broken(temporary):
        temporary.write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        make_once(tmp_path / "dear", broken)
    assert not set(names(tmp_path)) - {"dear.lock"}
    make_once(tmp_path / "dear", lambda temporary: temporary.write_text("whole"))
    assert (tmp_path / "dear").read_text() == "whole"


def test_what_is_damaged_is_made_again(tmp_path):
    def make(temporary):
        temporary.write_text("whole")

    def is_whole(path):
        return path.exists() and path.read_text() == "whole"

    make_once(tmp_path / "dear", make, is_whole)
    (tmp_path / "dear").write_text("whale")
    make_once(tmp_path / "dear", make, is_whole)
    assert (tmp_path / "dear").read_text() == "whole"


def test_what_stands_in_a_place_that_is_only_read_needs_no_lock(tmp_path, monkeypatch):
    (tmp_path / "dear").write_text("whole")
    monkeypatch.setattr("mad_lightning.files.FileLock", lambda *_: pytest.fail("a lock"))
    assert make_once(tmp_path / "dear", pytest.fail) == tmp_path / "dear"
    assert names(tmp_path) == ["dear"]


@contextmanager
def temporaries(directory):
    """One of this process, of a killed one, of another host, from before hosts were told."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with appearing(directory / "x.json") as mine:
        mine.touch()
        host = mine.name.split(".")[-3]
        paths = [directory / f".x.json.{host}.{dead.pid}.tmp"]
        paths += [directory / name for name in (".x.json.00000000.1.tmp", ".x.json.77.tmp")]
        for path in paths:
            path.touch()
        yield [mine.name, *(path.name for path in paths)]
        mine.touch()


def test_temporaries_go_when_their_process_is_gone_or_when_nobody_else_writes(tmp_path):
    foreign = [".notes.tmp", ".y.json.77.tmp", "x.json.77.tmp", ".x.json.tmp"]
    for name in foreign:
        (tmp_path / name).touch()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / ".x.json.77.tmp").touch()
    with temporaries(tmp_path) as (mine, killed, elsewhere, old):
        sweep(tmp_path, r"x\.json")
        assert set(names(tmp_path)) == {mine, elsewhere, old, *foreign, "deeper"}, killed
        os.utime(tmp_path / elsewhere, (1.0, 1.0))
        sweep(tmp_path, r"x\.json")
        assert set(names(tmp_path)) == {mine, old, *foreign, "deeper"}
        sweep(tmp_path, r"x\.json", alone=True)
        assert set(names(tmp_path)) == {*foreign, "deeper"}
    assert names(tmp_path / "deeper") == [".x.json.77.tmp"]


MAKER = """
import sys, time
from pathlib import Path
from mad_lightning.files import make_once

def make(temporary):
    with Path(sys.argv[2]).open("a") as log:
        log.write("x")
    temporary.write_text("half")
    time.sleep(float(sys.argv[3]))
    temporary.write_text("whole")

print(make_once(Path(sys.argv[1]), make).read_text())
"""


def maker(path, log, seconds):
    command = [sys.executable, "-c", MAKER, str(path), str(log), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_of_several_programs_one_makes_it_and_the_others_wait(tmp_path):
    programs = [maker(tmp_path / "dear", tmp_path / "log", 0.5) for _ in range(3)]
    assert [program.communicate(timeout=60)[0].strip() for program in programs] == ["whole"] * 3
    assert (tmp_path / "log").read_text() == "x"


def test_should_the_maker_die_the_next_one_makes_it(tmp_path):
    dying = maker(tmp_path / "dear", tmp_path / "log", 60)
    while not (tmp_path / "log").exists():
        assert dying.poll() is None
        time.sleep(0.01)
    waiting = threading.Thread(
        target=make_once,
        args=(tmp_path / "dear", lambda temporary: temporary.write_text("mine")),
    )
    waiting.start()
    time.sleep(0.1)
    assert waiting.is_alive()
    dying.kill()
    dying.communicate()
    waiting.join(30)
    assert (tmp_path / "dear").read_text() == "mine"
    assert set(names(tmp_path)) == {"dear", "dear.lock", "log"}, "what it left half made is gone"


def test_a_long_file_is_sealed_too(tmp_path):
    """A thousand parts on one line between the braces, the seal on the next."""
    path, value = tmp_path / "mix.json", {"parts": [{"shard": f"{t:03d}"} for t in range(1000)]}
    write_json(path, value)
    assert read_json(path) == value
    assert len(path.read_text().splitlines()) == 4
    assert json.loads(path.read_text())["parts"] == value["parts"]
    path.write_text(path.read_text().replace("017", "018"))
    with pytest.raises(Damaged):
        read_json(path)


def test_a_lock_without_a_system_behind_it_tells_whose_it_is_and_how_it_is_freed(tmp_path):
    path = tmp_path / "a.lock"
    assert holder(path) == ""
    path.touch()  # the system's own locks are empty
    assert holder(path) == ""
    path.unlink()
    with SoftFileLock(path):
        words = holder(path)
    assert f"held by process {os.getpid()} on {platform.node()}" in words
    assert f"delete {path}" in words


def test_who_waits_long_for_a_lock_is_told_for_whom(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("mad_lightning.files._LONG", 0.05)
    monkeypatch.setattr("mad_lightning.files.FileLock", SoftFileLock)
    path, held = tmp_path / "a.lock", threading.Event()

    def hold():
        with SoftFileLock(path):
            held.set()
            time.sleep(0.3)

    threading.Thread(target=hold).start()
    assert held.wait(60)
    with locked(path):
        assert path.exists()
    assert f"waiting for {path}, held by process {os.getpid()}" in caplog.text


def test_a_file_that_others_write_is_waited_for_but_not_for_ever(tmp_path):
    path = tmp_path / "late"
    assert awaited(path, 0.05) == path
    threading.Timer(0.2, path.touch).start()
    assert awaited(path).exists()


def test_marks_are_new_names_that_are_swept(tmp_path):
    first, second = (leave_mark(tmp_path / "x") for _ in range(2))
    assert first != second
    sweep(tmp_path / "x", r"mark-\w+", alone=True)
    assert not [*(tmp_path / "x").iterdir()]
    (tmp_path / "file").touch()
    assert leave_mark(tmp_path / "file") is None


def test_a_passing_folder_goes_and_takes_those_of_killed_programs_along(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = subprocess.Popen(["true"])
    dead.wait()
    with folder_passing("mine") as mine:
        left = [tmp_path / f"mad-x-1.{files._HOST}.{dead.pid}", tmp_path / "mad-notes"]
        for folder in left:
            (folder / "deep").mkdir(parents=True)
        with folder_passing("other") as other:
            assert {*tmp_path.iterdir()} == {Path(mine), Path(other), left[1]}
    assert {*tmp_path.iterdir()} == {left[1]}
