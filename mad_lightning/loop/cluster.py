"""On a cluster: who has started the processes, and what it means that a job's time is up.

SLURM and torchrun start processes by themselves, and tell each its rank. Ranks are also left over,
from a shell or from tasks that train lineages of their own: a process that trains alone is the
first one whatever it is told, and several that were told nonsense are refused.

A lineage goes on from what stands on disk, so a job whose time is up needs nothing but to be queued
again. Lightning's own way to do that keeps a checkpoint in the middle of an epoch (``hpc_ckpt``),
from which no training ends as if it had never stopped: here it is switched off.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from mad_lightning.files import awaited, leave_mark
from mad_lightning.processes import from_all, from_first, is_first, together
from mad_lightning.refusal import Refused

__all__ = ["check_plugin", "check_shared", "environments", "is_launched", "meet", "requeueing"]

_PATIENCE = 5.0
"""Seconds until a disk that is shared shows a new file."""

_log = logging.getLogger(__name__)


def is_launched() -> bool:
    """Whether somebody else starts all processes of a lineage: torchrun, srun, or the first one."""
    return any(
        environment.detect() for environment in (TorchElasticEnvironment, SLURMEnvironment)
    ) or ("LOCAL_RANK" in os.environ and "MASTER_PORT" in os.environ)


def environments(devices: int, nodes: int) -> list[ClusterEnvironment]:
    """What Lightning is to believe of who has started this process; nothing: what it finds.

    Args:
        devices: Processes of a node.
        nodes: Machines.

    Raises:
        Refused: If other processes were started than are to train together.
    """
    is_elastic = TorchElasticEnvironment.detect()
    try:
        if is_elastic:
            TorchElasticEnvironment().validate_settings(devices, nodes)
            return []
        if devices * nodes == 1:  # with as many neighbours as it likes
            return [LightningEnvironment()]
        if SLURMEnvironment.detect():
            slurm = SLURMEnvironment(auto_requeue=False)
            slurm.validate_settings(devices, nodes)
            _ = slurm.global_rank(), slurm.local_rank(), slurm.node_rank()
            return [slurm]
    except KeyError as error:
        by, told = ("torchrun", "TORCHELASTIC_RUN_ID") if is_elastic else ("srun", "SLURM_NTASKS")
        problem = f"{error.args[0]} is not set: {by} did not start this, though {told} says so"
        raise Refused("devices", problem, f"start it by {by}, or unset {told}") from None
    except (ValueError, RuntimeError) as error:
        words = str(error).replace("`", "").partition(" HINT")[0]
        remedy = "start as many as `devices`, or one for each lineage with `devices: 1`"
        if "SLURM" in words:
            remedy += " (srun --ntasks-per-node); or unset SLURM_NTASKS, where it is left over"
        raise Refused("devices", words, remedy) from None
    if "LOCAL_RANK" in os.environ and "MASTER_PORT" not in os.environ:
        raise Refused(
            "devices",
            f"LOCAL_RANK is {os.environ['LOCAL_RANK']}, as if this process had been started by "
            "another one, and nothing says by which",
            "unset LOCAL_RANK, which is left over, or start all processes by torchrun",
        )
    for name in ("NODE_RANK", "GROUP_RANK"):
        if (place := os.environ.get(name, "0")) not in map(str, range(nodes)):
            problem = f"{name} is {place}, of {nodes} machines, which count from 0"
            raise Refused("num_nodes", problem, f"unset {name}, where it is left over")
    return []


def check_plugin(plugin: Any) -> None:
    """Refuses what would bring Lightning's own way to queue a job again."""
    if isinstance(plugin, SLURMEnvironment) and plugin.auto_requeue:
        raise Refused(
            "plugins",
            "SLURMEnvironment keeps a checkpoint in the middle of an epoch when it queues a job",
            "leave it out: SIGUSR1 queues the job again; or give it `auto_requeue: false`",
        )


def meet(trainer: L.Trainer) -> None:
    """Starts the other processes, unless somebody has, and waits until all are there."""
    strategy = trainer.strategy
    if strategy.launcher is not None:
        strategy.launcher.launch(strategy.setup_environment)


def check_shared(places: Mapping[str, Path]) -> None:
    """Refuses directories that the processes do not share: the first one leaves a mark for all.

    Args:
        places: By the field that names it.

    Raises:
        Refused: On all processes, if one of them does not see it within seconds.
    """
    for field, place in places.items() if together() else ():
        if (mark := from_first(partial(leave_mark, place))) is None:  # one may only read there
            continue
        seen = from_all(awaited(place / mark, _PATIENCE).exists())
        if is_first():
            (place / mark).unlink(missing_ok=True)
        if not all(seen):
            raise Refused(
                field,
                f"process {seen.index(False)} does not see what the first process writes in "
                f"{place.resolve()}",
                "take a directory on a disk that all machines share",
            )


@contextmanager
def requeueing() -> Iterator[None]:
    """Lets SLURM's word that the time is up queue the job again.

    That is ``#SBATCH --signal=SIGUSR1@90``, and ``#SBATCH --requeue``. Training goes on until SLURM
    ends it, and then from what stands.
    """
    before: Any = None
    if "SLURM_JOB_ID" in os.environ and hasattr(signal, "SIGUSR1"):
        with suppress(ValueError):  # not the main thread
            before = signal.getsignal(signal.SIGUSR1)
            if before is signal.SIG_DFL:  # nobody has other plans
                signal.signal(signal.SIGUSR1, lambda *_: _requeue())
    try:
        yield
    finally:
        if before is signal.SIG_DFL:
            signal.signal(signal.SIGUSR1, before)


def _requeue() -> None:
    if not is_first():
        return
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
        _log.warning("the time of job %s is up; it is queued again, and will go on", job)
    except (OSError, subprocess.CalledProcessError) as error:
        _log.warning("job %s could not be queued again: %s", job, error)
