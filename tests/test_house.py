"""The architecture, held by tests."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*command):
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_help_is_short_and_imports_nothing_heavy():
    code = (
        "import sys; from mad_lightning.cli import main; main(['--help']); "
        "heavy = {'torch', 'lightning', 'numpy', 'diffusers', 'wandb'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) < 45
    for group in ("lineage", "policy", "data", "generator", "evaluator", "callbacks", "trainer"):
        assert f"--{group}" in done.stdout


def test_no_room_for_odds_and_ends():
    names = {path.stem for path in (ROOT / "mad_lightning").rglob("*.py")}
    assert not names & {"utils", "helpers", "common", "core", "misc", "types"}


def test_the_readme_names_what_exists():
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"`((?:mad_lightning|configs|tests|docs|benchmarks)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path
    for config in re.findall(r"--config (\S+\.yaml)", text):
        assert (ROOT / config).exists(), config


def test_the_package_needs_no_wandb_or_torchvision_to_import():
    code = (
        "import sys; sys.modules['wandb'] = None; "
        "import mad_lightning.cli, mad_lightning.callbacks, mad_lightning.generators"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
