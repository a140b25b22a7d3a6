"""Other people's programs get what they should, and end with us."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mad_lightning.programs import Command, last_words, run
from mad_lightning.refusal import Refused

STAND_IN = Path(__file__).parent / "generators" / "stand_in.py"
SLOW = [sys.executable, str(STAND_IN), "train", "--fault", "slow"]


def test_a_path_with_a_space_is_one_argument_and_other_braces_are_left_alone():
    command = Command("x --out={out} '{\"width\": 8}' 'a b'", ("out",), ("out",))
    filled = command.filled({"out": "/my runs/{out}"})
    assert filled == ["x", "--out=/my runs/{out}", '{"width": 8}', "a b"]
    assert Command("{python} x", (), ()).filled({}) == [sys.executable, "x"]


def test_nothing_goes_through_a_shell(tmp_path):
    run(["echo", "$HOME; exit 3", "*"], tmp_path / "log")
    assert (tmp_path / "log").read_text().endswith("\n$HOME; exit 3 *\n")


def test_last_words_fit_a_screen_whatever_was_said(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"\n".join([b"x" * 500] * 90) + b"\r 1 of 9\r 2 of 9\n\xff `name: 1`\n\n")
    lines = last_words(log).splitlines()
    assert len(lines) == 12
    assert max(map(len, lines)) < 170
    assert lines[-2].strip() == "2 of 9"
    assert "`" not in lines[-1]


def test_a_long_one_shows_where_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mad_lightning.programs._FIRST", 0.2)
    run(["sh", "-c", "echo step 3; sleep 1"], tmp_path / "log", what="train")
    assert "step 3" in capsys.readouterr().out


def is_alive(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    return False


def pids(log):
    """Of the program and of what it has started, as soon as it tells them."""
    for _ in range(600):
        if log.exists() and len(told := log.read_text().partition("pids ")[2].split()) == 2:
            return [int(pid) for pid in told]
        time.sleep(0.05)
    raise AssertionError("it never started")


def gone(processes):
    for _ in range(200):
        if not any(map(is_alive, processes)):
            return True
        time.sleep(0.05)
    return False


def test_a_program_without_an_end_is_ended_with_all_that_it_has_started(tmp_path):
    with pytest.raises(Refused, match=r"after 1.5 s without an end"):
        run(SLOW, tmp_path / "log", patience=1.5)
    assert gone(pids(tmp_path / "log"))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_when_we_are_killed_the_program_goes_too(end, tmp_path):
    log = tmp_path / "log"
    code = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
from pathlib import Path
from mad_lightning.programs import run
run({SLOW!r}, Path({str(log)!r}))
"""
    ours = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    processes = pids(log)
    assert all(map(is_alive, processes))
    os.kill(ours.pid, end)
    assert gone(processes)
    assert ours.wait() != 0
