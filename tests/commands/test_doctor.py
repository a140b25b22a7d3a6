"""What is missing on a machine is marked, with its remedy, and nothing is left behind."""

import pytest
import torch

from mad_lightning.commands import main


@pytest.fixture(autouse=True)
def nothing_of_mine(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("WANDB_MODE", "offline")


def test_a_sound_machine_gets_a_line_a_fact(tmp_path, capsys):
    main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    facts = {line[2:].split()[0]: line for line in lines if not line.startswith("   ")}
    assert torch.__version__.partition("+")[0] in facts["torch"]
    assert facts["root"].endswith("written, locked and shared")
    assert "offline" in facts["wandb"]
    assert facts["lite0"].startswith("  ")  # its weights came with a package
    assert facts["inception"].startswith("! inception")
    assert [*tmp_path.iterdir()] == []


def test_a_place_that_cannot_hold_lineages_ends_with_code_1(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as left:
        main(["doctor", "--root", str(tmp_path / "file" / "runs")])
    assert left.value.code == 1
    assert "! root" in capsys.readouterr().out


def test_variables_that_decide_something_are_told(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_DIR", "elsewhere")
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    main(["doctor"])
    told = capsys.readouterr().out
    assert "WANDB_PROJECT=theirs is the project" in told
    assert "WANDB_DIR=elsewhere is not taken" in told
    assert "PL_GLOBAL_SEED" not in told
