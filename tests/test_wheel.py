"""What a wheel brings, installed apart from the clone and used from an empty directory.

The package alone is installed; what it needs comes from the environment that runs the tests.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MINE = re.search(r"```python\n(# my_module\.py.*?)```", README, re.DOTALL)[1]
COMMAND = next(b for b in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) if "KeepAll" in b)
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]

pytestmark = pytest.mark.slow


def shell(command, directory, **environment):
    done = subprocess.run(
        command, cwd=directory, env=os.environ | environment,
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Where the wheel is installed."""
    pytest.importorskip("setuptools", minversion="77")
    source, place = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("mad_lightning", "configs"):
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=leave)
    shell([*PIP, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", place, source], place)
    (wheel,) = place.glob("*.whl")
    shell([*PIP, "install", "-q", "--no-deps", "--target", place / "site", wheel], place)
    return place / "site"


@pytest.fixture
def mad(site, tmp_path):
    """Runs the command in an empty directory."""

    def command(*words):
        program = [site / "bin" / "mad", *map(str, words)]
        return shell(program, tmp_path, PYTHONPATH=str(site), WANDB_MODE="disabled")

    return command


def test_the_package_is_the_wheels(site, tmp_path):
    told = "import mad_lightning; print(mad_lightning.__file__)"
    where = shell([sys.executable, "-c", told], tmp_path, PYTHONPATH=str(site))
    assert Path(where.strip()).is_relative_to(site)
    page = shell([sys.executable, "-m", "mad_lightning"], tmp_path, PYTHONPATH=str(site))
    assert "usage: mad VERB" in page


def test_configs_train_report_measure_and_export_work(mad, tmp_path):
    assert "gaussian_fresh" in mad("configs", "gaussian")
    mad("configs", "--copy", "gaussian_fresh")
    few = ["--lineage.generations", "2", "--trainer.accelerator", "cpu"]
    mad("train", "--config", "gaussian_fresh.yaml", *few)
    name = "runs/gaussian_fresh_seed0"
    (tmp_path / "values").mkdir()
    mad("report", name, "--html", "values/report.html", "--json", "values/report.json")
    assert (tmp_path / "values" / "report.html").stat().st_size > 10_000
    mad("measure", name, "--metrics", "Neighbours", "--name", "again")
    ledger = (tmp_path / name / "measured" / "again" / "lineage.jsonl").read_text()
    lines = [json.loads(line) for line in ledger.splitlines()]
    assert ["recall" in line["metrics"] for line in lines] == [True, True]
    assert not any("commit" in line["environment"] for line in lines), "it is no clone"
    assert all(line["time"] for line in lines)
    mad("export", name, "--to", "npz")
    assert (tmp_path / "gaussian_fresh_seed0-002.npz").exists()
    assert "mad_lightning" in mad("doctor")


def words_of_the_readme():
    """What README's command says, to the wheel's own door."""
    program, script, *words = shlex.split(COMMAND.replace("\\\n", " "))
    assert (program, script) == ("python", "train.py")
    return ["train", *words, "--trainer.accelerator", "cpu"]


def test_64_lines_of_ones_own_work_by_the_readme_alone(mad, tmp_path):
    assert len([line for line in MINE.splitlines() if line.strip()]) <= 64
    (tmp_path / "my_module.py").write_text(MINE)
    output = mad(*words_of_the_readme())
    ledger = (tmp_path / "runs" / "mine" / "lineage.jsonl").read_text()
    assert [json.loads(line)["n_synthetic"] for line in ledger.splitlines()] == [0, 300, 600, 900]
    assert output.count("\a") == 4


ERRORS = {
    "syntax": ("(self, t: int) -> Mix:", "(self, t: int -> Mix:", "SyntaxError: invalid syntax"),
    "import": ("import torch\n", "import torch\nimport nosuch\n", "No module named 'nosuch'"),
    "name": ("self.n = n", "self.n = m", "NameError: name 'm' is not defined"),
    "class": ("class KeepAll(", "class KeepNone(", "policy: my_module has no KeepAll"),
    "mix": ("return Mix(t, (real", "Mix(t, (real", "KeepAll.mix(1) returns a NoneType"),
    "pool": ("None, 0, self.n)", "None, 0, 9 * self.n)", "the pool of digits has 1197"),
    "build": ("register_buffer(\"mean\"", "buffer(\"mean\"", "AttributeError: 'Diagonal' object"),
    "draw": ("return self.mean + ", "return self.mean[:, :3] + ", "RuntimeError: The size of"),
    "shape": ("return self.mean + sampling_bias**0.5 * self.std * normal(seeds, *self.spec.shape)",
              "return normal(seeds, 3)", "Diagonal.draw returns torch.float32 of shape (2, 3)"),
    "training": ("self.seen.append(", "self.sen.append(", "AttributeError: 'Diagonal' object"),
    "metric": ("synthetic.features.std(0)", "synthetic.rows.std(0)", "'View' object has no"),
    "no number": ("float(synthetic.features.std(0).mean() / real.features.std(0).mean())",
                  "'much'", "Spread returns spread: 'much'"),
    "names": ('return {"spread": float', 'return {"spred": float', "returns spred, and explains"),
    "observer": ("metrics['spread']", "metrics['sprad']", "KeyError: 'sprad'"),
}  # fmt: skip
"""What is replaced in README's file, by what, and what is told of it."""
IN_THE_FILE = {"import", "name", "build", "draw", "training", "metric", "observer", "syntax"}
PROGRAM = """
import contextlib, io, json, shutil, sys
from pathlib import Path
from mad_lightning.commands import main

told = {}
for name, text in json.loads(Path("texts.json").read_text()).items():
    Path("my_module.py").write_text(text)
    for left in ("runs", "__pycache__"):
        shutil.rmtree(left, ignore_errors=True)
    sys.modules.pop("my_module", None)
    error, code = io.StringIO(), 0
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(json.loads(Path("words.json").read_text()))
        except SystemExit as left:
            code = left.code
    told[name] = [code, error.getvalue()]
Path("told.json").write_text(json.dumps(told))
"""


def test_errors_in_that_file_are_shown_as_what_they_are(site, tmp_path):
    assert all(MINE.count(old) >= 1 for old, _, _ in ERRORS.values())
    texts = {name: MINE.replace(old, new, 1) for name, (old, new, _) in ERRORS.items()}
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    (tmp_path / "words.json").write_text(json.dumps(words_of_the_readme()))
    (tmp_path / "program.py").write_text(PROGRAM)
    shell(
        [sys.executable, "-B", "program.py"], tmp_path, PYTHONPATH=str(site), WANDB_MODE="disabled"
    )
    told = json.loads((tmp_path / "told.json").read_text())
    for name, (_, _, words) in ERRORS.items():
        code, error = told[name]
        lines = [line for line in error.splitlines() if "Warning" not in line]
        assert code == 2, (name, error)
        assert words in error, (name, error)
        assert "remedy:" in error, name
        assert len(lines) <= 14, (name, error)
        if name in IN_THE_FILE:
            assert re.search(r'my_module\.py", line \d+', error), (name, error)
