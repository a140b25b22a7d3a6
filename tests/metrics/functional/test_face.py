"""The maths needs torch, and nothing heavier."""

import resource
import subprocess
import sys

import pytest

HEAVY = {"lightning", "pytorch_lightning", "torchmetrics", "scipy", "sklearn", "torchvision"}


def cpu_seconds(code):
    """What Python spends on some code, the least of three runs."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


def loaded(code):
    """Modules that are loaded after some code."""
    code = f"{code}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_it_costs_hardly_more_than_torch():
    functional = cpu_seconds("import mad_lightning.metrics.functional")
    assert functional < cpu_seconds("import torch") + 0.3


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
