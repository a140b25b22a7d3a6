"""SLURM as engine: a job array of submitit's, a task a lineage.

A lineage of several devices is a job of as many tasks, which find each other as ``srun`` starts
them. When its time is up or something more urgent comes, a job is queued again and goes on. This
program waits for the jobs; Ctrl-C cancels them, and to run the sweep again queues what is missing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mad_lightning.refusal import Refused
from mad_lightning.sweeps.engine import TRIES, Changed, Engine, Outcome
from mad_lightning.sweeps.plan import Member
from mad_lightning.sweeps.worker import Command, train

__all__ = ["Slurm"]

_DAY = 24 * 60


class Slurm(Engine):
    """Jobs of SLURM.

    Args:
        command: What each task runs; importable by its name where jobs run.
        folder: Where submitit keeps jobs and their words; all machines see it.
        parallel: Jobs at a time; None leaves that to the queue.
        gpus: Cards of each task; 0 for none.
        threads: CPU threads of each.
        options: Of ``sbatch``, as submitit calls them: ``time`` (minutes), ``partition``, ``mem``,
            ``account``, ``qos``, ``constraint`` and so on.
        cluster: ``slurm``; ``local`` and ``debug`` are submitit's own stand-ins.

    Raises:
        Refused: If submitit is not installed, there is no SLURM here, or it has no such option.
    """

    def __init__(
        self,
        command: Command,
        folder: Path,
        parallel: int | None = None,
        gpus: int = 0,
        threads: int = 1,
        options: Mapping[str, Any] | None = None,
        cluster: str = "slurm",
    ) -> None:
        try:
            import submitit
        except ImportError:
            remedy = "pip install 'mad-lightning[slurm]', or take another engine"
            raise Refused("engine", "submitit is not installed", remedy) from None
        super().__init__(parallel or 0)
        self._submitit, self.command, self.folder = submitit, command, folder
        self.gpus, self.threads, self.cluster = gpus, threads, cluster
        self.options, self.pause = {"time": _DAY, **(options or {})}, 5.0
        self._jobs: list[Any] = []
        self._parameters(1, 1)  # refuses what sbatch does not know

    def script(self, members: Sequence[Member]) -> str:
        """The scripts that would be given to ``sbatch``, one an array."""
        return "\n".join(
            self._executor(devices, len(some), printed=True)._make_submission_file_text(
                self._executor(devices, len(some), printed=True)._submitit_command_str, "JOB"
            )
            for devices, some in _by_devices(members)
        )

    def work_off(
        self, members: Sequence[Member], changed: Changed = lambda outcome: None
    ) -> list[Outcome]:
        """As for all engines; jobs that are to be tried again are an array of their own."""
        outcomes = [Outcome.of(member) for member in members]
        try:
            while waiting := [one for one in outcomes if one.state == "waits"]:
                self._once(waiting, changed)
        except BaseException:
            self.interrupt()
            raise
        return outcomes

    def train(self, outcome: Outcome, place: int) -> int | None:
        """As an array of one."""
        self._once([outcome], lambda outcome: None)
        return None

    def interrupt(self) -> None:
        """Cancels all jobs."""
        for job in self._jobs:
            with suppress(Exception):  # it may have ended, or the queue be gone
                job.cancel()

    def _once(self, waiting: Sequence[Outcome], changed: Changed) -> None:
        """One try of each."""
        by_name = {outcome.member.name: outcome for outcome in waiting}
        at_work: list[tuple[Outcome, Any, float]] = []
        for devices, some in _by_devices([outcome.member for outcome in waiting]):
            executor = self._executor(devices, len(some))
            mine = [by_name[member.name] for member in some]
            for outcome in mine:
                outcome.began()
            with executor.batch():
                jobs = [
                    executor.submit(_Job(self.command), o.member.arguments, str(o.log.absolute()))
                    for o in mine
                ]
            self._jobs += jobs
            at_work += [(o, job, time.monotonic()) for o, job in zip(mine, jobs, strict=True)]
        for outcome, *_ in at_work:
            changed(outcome)
        while at_work:
            for one in [*at_work]:
                outcome, job, since = one
                if job.done():
                    at_work.remove(one)
                    outcome.ended(_code(job), time.monotonic() - since)
                    changed(outcome)
            if at_work:
                time.sleep(self.pause)

    def _executor(self, devices: int, jobs: int, printed: bool = False) -> Any:
        if printed or self.cluster == "slurm":
            kind = self._submitit.SlurmExecutor
            if not printed and kind.affinity() < 0:
                remedy = "run it on a machine that queues jobs, or take another engine"
                raise Refused("engine", "there is no SLURM on this machine", remedy)
            if printed:  # on any machine
                kind = type("Printed", (kind,), {"affinity": classmethod(lambda cls: 2)})
            executor = kind(self.folder, max_num_timeout=TRIES)
            executor.update_parameters(**self._parameters(devices, jobs))
            if jobs > 1 and printed:
                executor.parameters["map_count"] = jobs
            return executor
        executor = self._submitit.AutoExecutor(self.folder, cluster=self.cluster)
        executor.update_parameters(timeout_min=int(self.options["time"]))
        return executor

    def _parameters(self, devices: int, jobs: int) -> dict[str, Any]:
        """Of ``sbatch``."""
        known = self._submitit.slurm.slurm._get_default_parameters()
        if unknown := sorted({*self.options} - {*known}):
            raise Refused("slurm", f"sbatch has no {unknown[0]}", f"choose {', '.join(known)}")
        ours = {"job_name": "mad", "cpus_per_task": self.threads, "ntasks_per_node": devices}
        if self.gpus:
            ours["gpus_per_node"] = self.gpus * devices
        if self.parallel:
            ours["array_parallelism"] = min(self.parallel, jobs)
        return {**ours, **self.options}


class _Job:
    """What a task runs; when its time is up, it is queued again."""

    def __init__(self, command: Command) -> None:
        self.command = command

    def __call__(self, arguments: list[str], log: str) -> int:
        path = Path(log)
        path.parent.mkdir(parents=True, exist_ok=True)
        rank = int(os.environ.get("SLURM_PROCID", 0))  # the first one speaks
        return train(self.command, arguments, Path(os.devnull) if rank else path)

    def checkpoint(self, arguments: list[str], log: str) -> Any:
        """What to queue instead of a job that must leave."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, arguments, log)


def _by_devices(members: Sequence[Member]) -> list[tuple[int, list[Member]]]:
    """Jobs of one array ask for the same devices."""
    asked = dict.fromkeys(member.devices for member in members)
    return [(n, [member for member in members if member.devices == n]) for n in asked]


def _code(job: Any) -> int | None:
    """The exit code of an ended job's lineage; None if the job failed."""
    try:
        codes = [code for code in job.results() if isinstance(code, int)]
    except Exception:  # submitit raises what the job raised, and errors of its own
        return None
    return max(codes, default=None)
