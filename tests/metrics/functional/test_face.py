"""The maths needs torch, and nothing heavier."""

import subprocess
import sys

import pytest

HEAVY = {"lightning", "pytorch_lightning", "torchmetrics", "scipy", "sklearn", "torchvision"}


def loaded(code):
    """Modules that are loaded after some code."""
    code = f"{code}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_beside_torch_it_loads_itself_alone():
    """What that costs is printed by ``benchmarks/startup.py``."""
    own = loaded("import mad_lightning.metrics.functional") - loaded("import torch")
    assert {name.partition(".")[0] for name in own} <= {"mad_lightning", "lazy_loader"}


def test_it_loads_nothing_heavy():
    modules = loaded("from mad_lightning.metrics.functional import two_sample")
    assert "torch" in modules
    assert not HEAVY & modules


@pytest.mark.parametrize(
    "face", ["mad_lightning.metrics", "mad_lightning.metrics.features", "mad_lightning.data"]
)
def test_other_faces_load_nothing_and_hand_on_every_name(face):
    assert not (HEAVY | {"torch", "numpy"}) & loaded(f"import {face}")
    names = loaded(f"import {face} as face; assert [getattr(face, name) for name in face.__all__]")
    assert "torch" in names
