"""Ray as engine: places by CPU and GPU, on this machine or on a cluster that stands.

Ray keeps its worker processes, so imports are paid once a worker here as well. It would retry a
task whose worker died; whether a lineage is tried again is decided where it is for all engines.

Since 2.60 Ray writes ``~/.ray/auth_token`` when it starts on a machine for the first time. Nobody
has asked for that file, so a Ray that is started here gets a token that lives as long as it does.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mad_lightning.refusal import Refused
from mad_lightning.sweeps.engine import Engine, Outcome
from mad_lightning.sweeps.worker import Command, Program, train

__all__ = ["Ray"]

_STORE = 100_000_000  # bytes for objects that tasks hand on; ours hand on a number


class Ray(Engine):
    """Tasks of Ray.

    Args:
        command: What a lineage of one device runs in a worker; importable by its name there.
        program: Starts ``mad train``; its arguments follow.
        parallel: Lineages at a time; None takes as many as the cluster has cores for.
        gpus: Cards that they share; 0 for none.
        threads: CPU threads of a lineage.
        devices: The most that a lineage takes.
        address: Of a cluster that stands, or ``auto``; None starts one here, for as long as this
            engine lives.

    Raises:
        Refused: If Ray is not installed, or there is no cluster at the address.
    """

    def __init__(
        self,
        command: Command,
        program: Sequence[str],
        parallel: int | None = None,
        gpus: int = 0,
        threads: int = 1,
        devices: int = 1,
        address: str | None = None,
    ) -> None:
        try:
            import ray
        except ImportError:
            remedy = "pip install 'mad-lightning[ray]', or take another engine"
            raise Refused("engine", "Ray is not installed", remedy) from None
        self._ray, self.command, self.program = ray, command, program
        self.threads = threads
        self._at_work: dict[int, object] = {}
        settings: dict[str, object] = {
            "log_to_driver": False,
            "logging_level": "ERROR",
            "configure_logging": False,
        }
        settings["runtime_env"] = {"env_vars": {"RAY_DEDUP_LOGS": "0"}}
        if address is None:
            places = parallel or max(1, (os.cpu_count() or 1) // threads)
            settings |= {"num_cpus": places * threads * devices, "include_dashboard": False}
            settings |= {"num_gpus": gpus or None, "object_store_memory": _STORE}
            with _own_token():
                ray.init(**settings)
        else:
            try:
                ray.init(address=address, **settings)
            except (ConnectionError, ValueError, RuntimeError) as error:
                problem = f"no cluster answers at {address}: {str(error).splitlines()[0]}"
                raise Refused(
                    "address", problem, "say where a cluster stands, or leave it out"
                ) from None
        there = int(ray.cluster_resources().get("CPU", 1))
        super().__init__(parallel or max(1, there // threads))
        self.gpus = gpus / self.parallel if gpus else 0.0
        self._task = ray.remote(max_retries=0)(_train)

    def train(self, outcome: Outcome, place: int) -> int | None:
        """As a task, which waits until there is room for it."""
        devices = outcome.member.devices
        cards = devices if devices > 1 and self.gpus else min(self.gpus, 1.0)
        task = self._task.options(num_cpus=self.threads * devices, num_gpus=cards)
        told = task.remote(
            self.command,
            self.program if devices > 1 else None,
            outcome.member.arguments,
            str(outcome.log.absolute()),
            str(Path.cwd()),
        )
        self._at_work[place] = told
        try:
            return self._ray.get(told)
        except self._ray.exceptions.RayError as error:
            with outcome.log.open("a") as log:  # a worker that died could not say why
                log.write(f"{error}\n")
            return None
        finally:
            self._at_work.pop(place, None)

    def interrupt(self) -> None:
        """Ctrl-C in each worker."""
        for told in [*self._at_work.values()]:
            with suppress(self._ray.exceptions.RayError, ValueError):
                self._ray.cancel(told)

    def close(self) -> None:
        """Leaves the cluster; one that was started here ends."""
        self._ray.shutdown()


def _train(
    command: Command, program: Sequence[str] | None, arguments: list[str], log: str, here: str
) -> int:
    """In a worker of Ray."""
    with suppress(OSError):
        os.chdir(here)  # paths of the command are told from there
    if here not in sys.path:
        sys.path.append(here)
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    if program is not None:
        return Program([*program, *arguments], Path(log)).wait()
    return train(command, arguments, Path(log))


@contextmanager
def _own_token() -> Iterator[None]:
    """Lets a Ray that begins have a token of its own, where nobody has told another."""
    told = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if not {*told} & {*os.environ} and not (Path.home() / ".ray" / "auth_token").exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    yield
