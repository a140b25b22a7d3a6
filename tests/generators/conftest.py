"""What the tests of all families share: quiet trainings, in one process and in two."""

import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch

from mad_lightning.loop.inside import AddressedRandomness

ROOT = Path(__file__).parents[2]


class Batches(list):
    """A loader of batches that are made already; a plain list would be several loaders."""


def quiet_trainer(max_epochs=1, **arguments):
    return L.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )


def train(module, batches, epochs=1, checkpoint=None, address=(0, 1), callbacks=(), **arguments):
    """Trains as a lineage does, with addressed randomness; returns the Trainer.

    Batches are a list, a loader, or a function of (rank, number of processes).
    """
    addressed = AddressedRandomness(*address)
    made = quiet_trainer(epochs, callbacks=[addressed, *callbacks], **arguments)
    if callable(batches):
        batches = batches(made.global_rank, made.world_size)
    if isinstance(batches, list):
        batches = Batches(batches)
    made.fit(module, batches, ckpt_path=checkpoint, weights_only=True)
    return made


def flat_weights(module):
    return torch.cat([value.flatten().double() for value in module.state_dict().values()])


@pytest.fixture(scope="session")
def trainer():
    """A Trainer that says, logs and keeps nothing."""
    return quiet_trainer


@pytest.fixture(scope="session")
def fit():
    return train


@pytest.fixture(scope="session")
def weights():
    """All numbers of a module's state in one vector."""
    return flat_weights


SCRIPT = """
import sys

import torch

sys.path.insert(0, {tests!r})
from conftest import train
from {module} import two_processes

for accumulate in (1, 2):
    generator, trainer = two_processes(train, accumulate)
    state = {{"weights": generator.state_dict(), "logged": dict(trainer.callback_metrics)}}
    torch.save(state, {out!r} + f"/{{accumulate}}.{{trainer.global_rank}}.pt")

torch.distributed.barrier()  # a process that is left behind while others exit aborts now and then
torch.distributed.destroy_process_group()
"""


@pytest.fixture
def run(tmp_path):
    """Runs Python on a script or a module of ours; returns what it printed."""

    def finished(*command, **environment):
        known = {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            env={**os.environ, **known, **environment},
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return finished


@pytest.fixture
def run_two(run, tmp_path, request):
    """Runs ``two_processes`` of the test's module under plain ddp: states by (accumulate, rank)."""
    module = request.module.__name__

    def states():
        script = tmp_path / "two.py"
        tests = str(Path(__file__).parent)
        script.write_text(SCRIPT.format(tests=tests, module=module, out=str(tmp_path)))
        run(script)
        return {
            (accumulate, rank): torch.load(tmp_path / f"{accumulate}.{rank}.pt", weights_only=True)
            for accumulate in (1, 2)
            for rank in (0, 1)
        }

    return states
