"""Small lineages for all tests, hermetic: no network, no W&B account, one thread."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Before torch is imported. These networks gain nothing from a second thread, and on a busy machine
# two that wait for each other are many times slower than one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
os.environ["WANDB_MODE"] = "disabled"
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture
def arguments(tmp_path):
    """Arguments of a lineage that takes a second: Gaussians on real digits."""
    return [
        "--lineage.root", str(tmp_path / "runs"),
        "--lineage.name", "tiny",
        "--lineage.generations", "3",
        "--lineage.block_size", "32",
        "--lineage.threads", "1",
        "--policy", "FullySynthetic",
        "--policy.n_initial", "200",
        "--data.source", "Digits",
        "--data.n_reference", "100",
        "--data.cache", str(tmp_path / "cache"),
        "--generator", "Gaussian",
        "--evaluator.extractor", "Identity",
        "--evaluator.metrics", '[{"class_path": "Neighbours"}, {"class_path": "Frechet"}]',
        "--callbacks", '[{"class_path": "SampleGrids"}]',
        "--trainer.accelerator", "cpu",
    ]  # fmt: skip


@pytest.fixture
def diffusion():
    """Further arguments that make it a lineage of diffusion models: 2 epochs of 4 steps."""
    return [
        "--generator", "Diffusion",
        "--generator.network", "mad_lightning.nets.unet.UNet",
        "--generator.network.widths", "[8,8]",
        "--generator.sampling_steps", "3",
        "--data.batch_size", "32",
        "--data.images_per_epoch", "128",
        "--trainer.max_epochs", "2",
    ]  # fmt: skip


@pytest.fixture
def two_processes(tmp_path):
    """Runs a test's file as a program on two processes, which get their rank and a directory."""

    def run(file):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        processes = [
            subprocess.Popen(
                [sys.executable, file, str(rank), str(tmp_path)],
                env=environment, stderr=subprocess.PIPE, text=True,
            )
            for rank in (0, 1)
        ]  # fmt: skip
        for process in processes:
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors[-3000:]

    return run


@pytest.fixture
def crash():
    """Trains a lineage in a program that is killed at each of some places (see ``crash.py``)."""
    tests = Path(__file__).parent

    def run(tmp_path, places, arguments):
        done = subprocess.run(
            [
                sys.executable,
                str(tests / "crash.py"),
                str(tmp_path),
                json.dumps(places),
                *arguments,
            ],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tests.parent,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(tests.parent)},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run
