"""One door: its pages, its verbs, and the one way to say no."""

import errno
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from mad_lightning.commands import VERBS, flag, main, page
from mad_lightning.commands.base import build_parser as base_parser
from mad_lightning.commands.completion import build_parser as completion_parser
from mad_lightning.commands.configs import build_parser as configs_parser
from mad_lightning.commands.doctor import build_parser as doctor_parser
from mad_lightning.commands.export import build_parser as export_parser
from mad_lightning.commands.measure import build_parser as measure_parser
from mad_lightning.commands.report import build_parser as report_parser
from mad_lightning.commands.study import build_parser as study_parser

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "lightning", "numpy", "scipy", "rich", "yaml", "jsonargparse", "PIL", "wandb"}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]], ids=str)
def test_alone_it_shows_all_verbs_on_less_than_a_screen(arguments, capsys):
    main(arguments)
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 24
    for verb in VERBS:
        assert re.search(rf"^  mad {verb} +\w", shown, re.MULTILINE)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_alone_or_asked_for_help_shows_its_page(verb, capsys):
    pages = []
    for arguments in ([], ["--help"], ["nowhere", "-h"]):
        if arguments or verb not in ("configs", "doctor"):  # which need none
            main([verb, *arguments])
            pages.append(capsys.readouterr().out)
    assert set(pages) == {page(verb) + "\n"}
    assert page(verb).startswith(f"mad {verb}: ")
    assert f"usage: mad {verb} " in page(verb)
    assert len(page(verb).splitlines()) < 45


@pytest.mark.parametrize(
    ("verb", "parser"),
    [
        ("report", report_parser()),
        ("measure", measure_parser()),
        ("study", study_parser()),
        ("export", export_parser()),
        ("base", base_parser()),
        ("completion", completion_parser()),
        ("configs", configs_parser()),
        ("doctor", doctor_parser()),
    ],
)
def test_the_page_tells_every_option_of_the_parser(verb, parser):
    options = {name for action in parser._actions for name in action.option_strings}
    groups = {name.partition(".")[0] for name in options if name.startswith("--")}
    told = set(re.findall(r"--\w+", page(verb)))
    assert groups - {"--help"} <= told
    assert told - groups <= {"--full_help", "--help", "--key", "--config", "--data"}


def test_trains_page_tells_every_group_of_options():
    for group in ("lineage", "policy", "data", "generator", "evaluator", "callbacks", "trainer"):
        assert f"--{group}" in page("train")


def test_there_is_a_page_for_every_file_of_a_verb():
    files = {path.stem for path in (ROOT / "mad_lightning" / "commands").glob("*.py")}
    assert files == {*VERBS, "__init__", "explain", "faults", "reading"}


def run_it(*command, **environment):
    """What a command prints."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


@pytest.mark.parametrize(
    "command",
    [("-m", "mad_lightning", "--help"), ("train.py", "--help"), ("-m", "mad_lightning", "report")],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(command):
    """What that saves is printed by ``benchmarks/startup.py``."""
    done = run_it("-X", "importtime", *command)
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "mad_lightning.commands" in imported
    assert not imported & {"torch", "lightning", "numpy", "jsonargparse", "yaml", "wandb"}


def test_help_and_an_unknown_verb_import_nothing_heavy():
    for arguments in (["--help"], *([verb, "--help"] for verb in VERBS), ["trian"]):
        code = (
            f"import sys\nfrom mad_lightning.commands import main\n"
            f"try: main({arguments})\nexcept SystemExit: pass\n"
            f"sys.exit(', '.join({HEAVY} & set(sys.modules)) or 0)"
        )
        done = run_it("-c", code)
        assert done.returncode == 0, done.stderr


def test_an_unknown_verb_is_refused_with_those_that_were_meant(refusal):
    message = refusal("trian", "--config", "x.yaml")
    assert message.startswith("error: trian: there is no such verb")
    assert "did you mean train? " in message
    message = refusal("dance")
    for verb in VERBS:
        assert verb in message


def test_the_script_the_module_and_train_py_are_one_door():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"mad": "mad_lightning.commands:main"}
    module = run_it("-m", "mad_lightning", "train", "--help")
    script = run_it("train.py", "--help")
    assert script.stdout == module.stdout == page("train") + "\n"


def test_only_the_first_of_several_processes_says_no(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")  # left over: nobody has launched anything
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path)])
    assert len(capsys.readouterr().err.splitlines()) == 2
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for rank, lines in (("0", 2), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as left:
            main(["report", str(tmp_path)])
        assert left.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == lines


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("data.source.resolution", ": 64", "--data.source.resolution 64"),
        ("data.source.root", ": ~/data/a-b.zip", "--data.source.root ~/data/a-b.zip"),
        ("data.n_reference", "", "data.n_reference"),
        ("policy.n_synthetic", ": (t-1) * 20", "--policy.n_synthetic '(t-1) * 20'"),
        ("evaluator.metrics.Neighbours.k", ": 3", "evaluator.metrics.Neighbours.k: 3"),
    ],
)
def test_parameters_are_told_as_flags(name, value, told):
    assert flag(name, value) == told


def ending(monkeypatch, raised, *flags):
    """How the door ends when a verb raises something."""

    scope = {"raised": raised}
    exec(compile("def run(verb, args):\n    raise raised", "<a library>", "exec"), scope)
    monkeypatch.setattr("mad_lightning.commands.run", scope["run"])
    with pytest.raises(SystemExit) as left:
        main(["report", "here", *flags])
    return left.value.code


MACHINE = {
    "a file in the way": (NotADirectoryError(errno.ENOTDIR, "Not a directory", "x/y"), "x/y: "),
    "a full disk": (OSError(errno.ENOSPC, "No space left on device", "runs/a"), "make room"),
    "no locks": (OSError(errno.ENOLCK, "No locks available", "runs/.lock"), "locks"),
    "read-only": (OSError(errno.EROFS, "Read-only file system", "runs"), "read-only"),
    "something new": (OSError(errno.EBADMSG, "Bad message", "f"), "f: Bad message"),
    "a full disk for torch": (
        RuntimeError("PytorchStreamWriter failed: file write failed"),
        "room",
    ),
    "a full disk for safetensors": (RuntimeError("I/O error: (os error 28)"), "make room"),
    "what Lightning cannot do": (MisconfigurationException("no `such` thing"), "trainer: no such"),
    "no memory": (MemoryError(), "memory: there is not enough"),
    "no memory for torch": (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "smaller"),
}


@pytest.mark.parametrize("case", MACHINE)
def test_what_the_machine_cannot_do_is_refused(case, monkeypatch, capsys):
    raised, told = MACHINE[case]
    assert ending(monkeypatch, raised) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert told in shown
    assert "remedy: " in shown
    assert "Traceback" not in shown
    assert ending(monkeypatch, raised, "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("mad_lightning.commands.faults.in_own_code", lambda error: iter(()))
    with pytest.raises(ZeroDivisionError):
        ending(monkeypatch, ZeroDivisionError())


def test_ctrl_c_ends_in_one_line(monkeypatch, capsys):
    assert ending(monkeypatch, KeyboardInterrupt()) == 130
    lightnings = SystemExit(1)
    lightnings.__context__ = KeyboardInterrupt()
    assert ending(monkeypatch, lightnings) == 130
    assert capsys.readouterr().err.splitlines() == [
        "interrupted; to go on, run the same command"
    ] * 2  # fmt: skip


def test_a_terminal_without_greek_letters_gets_its_help():
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = run_it("train.py", "--help", **plain)
    assert done.returncode == 0
    assert "--sampling_bias ?" in done.stdout
