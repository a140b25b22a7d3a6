"""What the README shows works as it stands there: in Python, and in a user's own file."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mad_lightning.lineage import LineageDirectory
from mad_lightning.loop.meta_trainer import MetaTrainer

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def block(language, holds):
    (found,) = (text for text in blocks(language) if holds in text)
    return found


def shell(command, directory):
    """Runs a command of the README where its ``train.py`` and a user's own file lie."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "WANDB_MODE": "offline",
    }
    done = subprocess.run(
        ["bash", "-c", command], cwd=directory, env=environment,
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_lineage_is_fifteen_lines_of_python(tmp_path, monkeypatch, capsys):
    code = block("python", "MetaTrainer(")
    body = code.split(")\n\n", 1)[1]  # after the imports
    assert len(body.strip().splitlines()) <= 15
    monkeypatch.chdir(tmp_path)
    made = MetaTrainer.__init__

    def small(self, *arguments, **keywords):
        """The same lineage with fewer steps and a small network."""
        from mad_lightning import Diffusion
        from mad_lightning.nets.unet import UNet

        generator = keywords["build_generator"]()
        assert isinstance(generator, Diffusion)
        keywords["build_generator"] = lambda: Diffusion(
            lambda spec: UNet(spec, widths=(8, 8)),
            beta_schedule=generator.beta_schedule,
            prediction=generator.prediction,
            sampling_steps=3,
        )
        keywords["build_trainer_arguments"] = lambda: {"max_epochs": 1, "accelerator": "cpu"}
        keywords["data"].images_per_epoch = 256
        made(self, *arguments, **keywords)

    monkeypatch.setattr(MetaTrainer, "__init__", small)
    exec(code, {"__name__": "shown"})
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    records = LineageDirectory(tmp_path / "runs" / "first").records()
    assert [record.n_synthetic for record in records] == [0, 900, 900]


def test_a_generator_trains_in_a_trainer_of_ones_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shown = {}
    exec(block("python", "DataLoader(TensorDataset"), shown)
    assert shown["samples"].shape == (1000, 2)


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """The lineage of somebody who has read nothing but the README."""
    directory = tmp_path_factory.mktemp("user")
    (directory / "my_module.py").write_text(block("python", "# my_module.py"))
    (directory / "train.py").write_text((ROOT / "train.py").read_text())
    command = block("bash", "my_module.KeepAll").strip()
    command += " --trainer.accelerator cpu"
    return directory, command, shell(command, directory)


def test_a_policy_a_metric_a_family_and_an_observer_are_a_class_each(mine):
    directory, _, output = mine
    records = LineageDirectory(directory / "runs" / "mine").records()
    assert [(r.policy, r.n_real, r.n_synthetic) for r in records] == [
        ("keep_all", 300, 300 * t) for t in range(4)
    ]
    assert [record.ages for record in records][3] == {3: 300, 2: 300, 1: 300}
    assert all(0.3 < record.metrics["spread"] < 1.5 for record in records)
    assert output.count("\a") == 4
    head = next(line for line in output.splitlines() if "diversity" in line)
    names = next(line for line in output.splitlines() if line.strip().startswith("gen"))
    assert head[: names.index("spread") + len("spread")].endswith("diversity ↓")


def test_every_view_reads_what_ones_own_metric_means(mine):
    directory, *_ = mine
    asked = "--json report.json --html report.html --markdown > report.md"
    shell(f"mad report runs/mine {asked}", directory)
    summary = json.loads((directory / "report.json").read_text())
    assert "spread" in summary["groups"][0]["metrics"]
    text = (directory / "report.md").read_text()
    assert "diversity" in text
    assert "(×" not in text  # it is no distance, and none was measured
    (notes,) = (directory / "runs" / "mine").glob("wandb/offline-run-*/*.wandb")
    assert b"diversity/spread" in notes.read_bytes()


def test_the_same_command_has_nothing_left_to_do(mine):
    directory, command, _ = mine
    before = (directory / "runs" / "mine" / "lineage.jsonl").read_bytes()
    shell(command, directory)
    assert (directory / "runs" / "mine" / "lineage.jsonl").read_bytes() == before
