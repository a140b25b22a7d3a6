"""What clusters do to a lineage: late disks, separate disks, leftover ranks, jobs queued again."""

import builtins
import errno
import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch import distributed

from mad_lightning import (
    Digits,
    Evaluator,
    Frechet,
    FullySynthetic,
    GenerationDataModule,
    Glow,
    Identity,
    LineageCallback,
    LineageSettings,
    MetaTrainer,
)
from mad_lightning.data import shards
from mad_lightning.loop import cluster
from mad_lightning.processes import ending_together, from_first
from mad_lightning.refusal import Refused

ALONE = {"devices": 1}
TWO = {"devices": 2, "strategy": "ddp"}


def lineage(root, name, trainer, *, seed=0, callbacks=(), n=64, generations=2):
    """A lineage of tiny flows that trains for two epochs of two steps."""
    return MetaTrainer(
        LineageSettings(name, str(root), generations, block_size=20, threads=1),
        FullySynthetic(n_initial=n),
        GenerationDataModule(
            Digits(), batch_size=32, images_per_epoch=64, n_reference=60,
            cache=str(Path(root).parent / "cache"),
        ),
        Evaluator(Identity(), [Frechet()], n_errors=0),
        lambda: Glow(levels=1, couplings=1, hidden=4),
        lambda: {"accelerator": "cpu", "max_epochs": 2, **trainer},
        callbacks=callbacks,
        seed=seed,
    )  # fmt: skip


def digests(meta):
    return [record.digests for record in meta.fit()]


# --- SLURM --------------------------------------------------------------------------------------


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """SLURM's variables, and a stand-in for its ``scontrol`` that writes down what it is asked."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("RANK", "LOCAL_RANK", "MASTER_PORT", "SLURM_NTASKS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)

    def task(place):
        told = {"NTASKS": 4, "JOB_NAME": "train", "JOB_ID": 7, "PROCID": place, "LOCALID": place}
        for name, value in told.items():
            monkeypatch.setenv(f"SLURM_{name}", str(value))

    return task


class TimeIsUp(LineageCallback):
    """SLURM's signal in the first epoch, and SLURM's kill two batches later."""

    def on_generation_progress(self, t, phase, done, total):
        if done == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        if done == 3:
            raise SystemExit


def test_a_job_whose_time_is_up_is_queued_again_and_ends_with_the_same_digests(slurm, tmp_path):
    calm = digests(lineage(tmp_path / "calm", "x", ALONE))
    slurm(0)
    with pytest.raises(SystemExit):
        lineage(tmp_path / "runs", "x", ALONE, callbacks=[TimeIsUp()]).fit()
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    assert not list((tmp_path / "runs").rglob("hpc_ckpt*"))
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    slurm(0)
    assert digests(lineage(tmp_path / "runs", "x", ALONE)) == calm


def test_what_requeueing_once_left_blocks_no_lineage(slurm, tmp_path):
    calm = digests(lineage(tmp_path / "calm", "x", ALONE, generations=1))
    stray = tmp_path / "runs" / "x" / "generation_001" / "train" / "hpc_ckpt_1.ckpt"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"of a training in the middle of an epoch")
    slurm(0)
    assert digests(lineage(tmp_path / "runs", "x", ALONE, generations=1)) == calm
    assert not stray.exists()


def test_four_tasks_of_one_step_train_a_lineage_each(slurm, tmp_path):
    ends = []
    for task in range(4):
        slurm(task)
        meta = lineage(tmp_path / "runs", f"task{task}", ALONE, seed=task, generations=1)
        (record,) = meta.fit()
        assert (record.world_size, record.seed) == (1, task)
        ends.append(record.digests["generator"])
    assert len({*ends}) == 4


def test_members_of_an_array_are_queued_again_by_their_own_name(slurm, monkeypatch, tmp_path):
    slurm(0)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with cluster.requeueing():
        os.kill(os.getpid(), signal.SIGUSR1)
    assert (tmp_path / "asked").read_text() == "requeue 12_3\n"
    (tmp_path / "bin" / "scontrol").unlink()
    with cluster.requeueing():
        os.kill(os.getpid(), signal.SIGUSR1)  # nobody answers: training goes on all the same


def test_who_has_plans_for_the_signal_keeps_them(slurm):
    slurm(0)
    told = []
    before = signal.signal(signal.SIGUSR1, lambda *_: told.append(True))
    try:
        with cluster.requeueing():
            os.kill(os.getpid(), signal.SIGUSR1)
        assert told == [True]
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize(
    ("left_over", "field", "told"),
    [
        ({"NODE_RANK": "1"}, "num_nodes", "NODE_RANK is 1, of 1 machines"),
        ({"GROUP_RANK": "x"}, "num_nodes", "GROUP_RANK is x, of 1 machines"),
        ({"LOCAL_RANK": "0"}, "devices", "LOCAL_RANK is 0, as if"),
        ({"TORCHELASTIC_RUN_ID": "a"}, "devices", "WORLD_SIZE is not set: torchrun did not"),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "a"}, "devices", "--ntasks=2"),
    ],
)
def test_what_another_start_left_over_stops_two_processes_at_once(
    slurm, monkeypatch, left_over, field, told
):
    for name, value in left_over.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Refused, match=told) as refused:
        cluster.environments(2, 1)
    assert refused.value.field == field
    if "RANK" in told:  # alone, a process is the first one
        assert len(cluster.environments(1, 1)) == 1


# --- two processes, as torchrun starts them -----------------------------------------------------


def see_late(root, folders=("",)):
    """What was written less than a second ago in a lineage is not seen, as on a network disk."""
    status, opened, mapped = os.stat, io.open, shards.safe_open

    def missing(path):
        try:
            name, state = os.fspath(path), status(path)
        except (OSError, TypeError):
            return False
        is_here = str(name).startswith(str(root)) and any(part in name for part in folders)
        return is_here and stat.S_ISREG(state.st_mode) and time.time() - state.st_mtime < 1.0

    def unless_new(reads):
        def read(path, *args, **kwargs):
            is_read = "w" not in str(args[:1]) and "a" not in str(args[:1]) and "x" not in str(args)
            if is_read and missing(path):
                raise FileNotFoundError(errno.ENOENT, "not seen yet", str(path))
            return reads(path, *args, **kwargs)

        return read

    os.stat = unless_new(status)
    io.open = builtins.open = unless_new(opened)
    shards.safe_open = lambda path, **kwargs: unless_new(mapped)(path, **kwargs)


class Stumbles(LineageCallback):
    """Raises between two Trainers."""

    def on_samples_ready(self, t, directory, samples):
        raise ValueError("stumbled")


def stumbles(*_):
    raise RuntimeError("lost its way")


def calm(rank, place):
    return digests(lineage(place / "runs", "calm", TWO))


def late(rank, place):
    see_late(place / "runs" / "late", ("",) if rank else ("/blocks/", "/features"))
    return digests(lineage(place / "runs", "late", TWO))


def apart(rank, place):
    with pytest.raises(Refused, match=r"lineage.root: process 1 does not see"):
        lineage(place / f"runs{rank}", "apart", TWO).fit()


def first_stumbles(rank, place):
    lineage(place / "runs", "first", TWO, callbacks=[Stumbles()]).fit()


def second_stumbles(rank, place):
    meta = lineage(place / "runs", "second", TWO)
    if rank == 1:
        meta.treat = stumbles
    meta.fit()


def first_fails_for_all(rank, place):
    """The other one hears of it first, and does not speak for it."""
    tell = distributed.broadcast_object_list

    def fails():
        distributed.broadcast_object_list = lambda told: (tell(told), time.sleep(1.5))
        raise RuntimeError("lost its way")

    distributed.init_process_group("gloo")
    with ending_together():
        from_first(fails)


def second_is_refused(rank, place):
    lineage(place / "runs", "refused", TWO, n=(64, 64000)[rank]).fit()


CASES = (calm, late, apart, first_stumbles, second_stumbles, first_fails_for_all, second_is_refused)


def fork(case, rank, place, port):
    """Begins one case in a process of its own, which is killed when it hangs."""
    if (child := os.fork()) == 0:
        signal.alarm(120)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), MASTER_PORT=port)
        with (place / f"{case.__name__}.{rank}.log").open("w") as log:
            os.dup2(log.fileno(), 2)
        try:
            told = case(rank, place)
            (place / f"{case.__name__}.{rank}.json").write_text(json.dumps(told))
        except SystemExit as left:
            os._exit(left.code)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(3)
        os._exit(0)
    return child


def main(place):
    """All cases, one after the other: what is dear is imported once."""
    os.environ.update(
        TORCHELASTIC_RUN_ID="test", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1",
    )  # fmt: skip
    codes = {}
    for case in CASES:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        children = [fork(case, rank, place, port) for rank in (0, 1)]
        ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        codes[case.__name__] = ends
    print(json.dumps(codes))


@pytest.mark.ddp
def test_two_processes_agree_on_a_late_disk_and_end_together(tmp_path):
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], check=True, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    codes = json.loads(done.stdout.splitlines()[-1])
    words = {path.stem: path.read_text() for path in tmp_path.glob("*.log")}
    for name in ("calm", "late", "apart"):
        assert codes[name] == [0, 0], (words[f"{name}.0"], words[f"{name}.1"])
    told = [
        json.loads((tmp_path / f"{name}.{rank}.json").read_text())
        for name in ("calm", "late")
        for rank in (0, 1)
    ]
    assert told[0] == told[1] == told[2] == told[3]
    assert not [*tmp_path.glob("runs[01]")]  # nothing was begun
    # 3: it has raised by itself; 1: it was ended
    assert codes["first_stumbles"] == [3, 1]
    assert codes["second_stumbles"] == [1, 3]
    assert "error: process 1 has failed: lost its way" in words["second_stumbles.0"]
    assert codes["first_fails_for_all"] == [3, 1]
    assert words["first_fails_for_all.0"] == "RuntimeError: lost its way\n"
    assert codes["second_is_refused"] == [3, 3]
    assert "process 1 refuses: policy.n_initial" in words["second_is_refused.0"]
    assert not (tmp_path / "runs" / "refused").exists()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
