"""Several processes: who is first, what they share, how they end; and one thread each.

The first process writes, announces and decides: what stands on disk it looks up for all, because a
disk that machines share may show the others an older state. All of them walk the same loop and
enter every collective. What they put together here (integers, flags, sums, rows) comes out the same
to the last bit on each of them, however the work was dealt out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from threading import Event, Thread
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import torch
from torch import Tensor, distributed

from mad_lightning.refusal import Refused

__all__ = [
    "Team",
    "alone",
    "barrier",
    "ending_together",
    "from_all",
    "from_first",
    "gather_rows",
    "is_first",
    "joined",
    "know_devices",
    "mean_over_all",
    "on_first",
    "one_thread",
    "part_ways",
    "take_from_first",
    "together",
]

T = TypeVar("T")


def together() -> bool:
    """Whether this process trains with others."""
    return distributed.is_available() and distributed.is_initialized()


_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


def is_first() -> bool:
    """Whether this process writes and announces: its rank, or what the launcher will make it."""
    if together():
        return distributed.get_rank() == 0
    return next((os.environ[name] for name in _RANKS if name in os.environ), "0") == "0"


def alone() -> None:
    """Tells this process that it trains by itself, whatever rank is left over around it."""
    for name in _RANKS:
        os.environ.pop(name, None)


def on_first(work: AbstractContextManager[T]) -> AbstractContextManager[T | None]:
    """Enters a context on the first process only; the others get None."""
    return work if is_first() else nullcontext()


def know_devices() -> None:
    """Asks the driver once whether there is a GPU, where there is none.

    Lightning lets torch load the driver's library anew for each such question, and every step of an
    optimiser asks: 0.15 ms, which only programs that fork before they use a GPU have need of.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def barrier() -> None:
    """Waits until all processes are here."""
    if together():
        on_gpu = distributed.get_backend() == "nccl"
        distributed.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)


class _Left(SystemExit):
    """A process that leaves without a word, because the first one has failed and will tell."""


def from_first(work: Callable[[], T]) -> T:
    """Lets the first process do something, and gives all of them what came of it.

    What fails there fails everywhere; the others leave without a word.

    Raises:
        SystemExit: On the others, if the work has failed.
    """
    if not together():
        return work()
    told: list[Any] = [True, None]
    if is_first():
        try:
            told = [False, work()]
        except BaseException:
            distributed.broadcast_object_list(told)
            raise
    distributed.broadcast_object_list(told)
    has_failed, came_out = told
    if has_failed:
        raise _Left(1)
    return came_out


def from_all(value: T) -> list[T]:
    """What each process brings, in their order."""
    if not together():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


_GRACE = 3.0
"""Seconds for a process to end by itself, with words of its own, when another one has failed."""


_GONE = "the first process is gone"


@contextmanager
def ending_together() -> Iterator[None]:
    """Ends all processes within seconds when one of them fails inside, wherever the others wait.

    One that waits for another in a collective cannot be told: NCCL waits for half an hour. So a
    thread of each looks twice a second at the store through which they met.
    """
    if not together() or "MASTER_PORT" not in os.environ:
        yield
        return
    key = from_first(lambda: f"failed/{uuid4().hex}")
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    patience = timedelta(seconds=30)
    reads, writes = (
        distributed.TCPStore(*place, is_master=False, timeout=patience)  # type: ignore[attr-defined]
        for _ in "rw"
    )
    left = Event()

    def watch() -> None:
        told = ""
        while not left.wait(0.5):
            try:
                told = reads.get(key).decode() if reads.check([key]) else ""
            except Exception:  # the store went with the first process
                told = _GONE
            if told:
                break
        if told and not left.wait(_GRACE):
            if is_first():
                sys.stderr.write(f"error: {told}\n")
            os._exit(1)

    Thread(target=watch, daemon=True).start()
    try:
        yield
        barrier()
    except _Left:
        raise
    except BaseException as error:
        told = ""
        try:
            if writes.check([key]):
                told = writes.get(key).decode()
            else:
                writes.set(key, f"process {distributed.get_rank()} has failed: {error}")
        except Exception:
            told = _GONE
        if not told or isinstance(error, Refused):
            raise
        if is_first():  # what has failed here is that the other one is gone
            sys.stderr.write(f"error: {told}\n")
        raise SystemExit(1) from error
    finally:
        left.set()


def part_ways() -> None:
    """Lets processes that trained together end together.

    Lightning sees to that for NCCL alone; with gloo, one that still listens when the rest are gone
    may abort, after all is done.
    """
    if together() and distributed.get_backend() == "gloo":
        distributed.barrier()
        distributed.destroy_process_group()


def mean_over_all(*values: Tensor) -> tuple[Tensor, ...]:
    """Averages tensors of one dtype over all processes, in one message."""
    if not values or not together() or distributed.get_world_size() == 1:
        return values
    flat = torch.cat([value.detach().flatten() for value in values])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    pieces = flat.split([value.numel() for value in values])
    return tuple(piece.view_as(value) for piece, value in zip(pieces, values, strict=True))


def take_from_first(*tensors: Tensor) -> None:
    """Overwrites tensors by those of the first process, in place."""
    if together():
        for tensor in tensors:
            distributed.broadcast(tensor.data, 0)


class Team(NamedTuple):
    """The processes that share one computation. By default there is one.

    Every process holds both sets whole and takes every size-th piece of the work; then all put the
    pieces together, so that each ends with the whole answer.

    Attributes:
        rank: Which of them this is.
        size: How many there are. All of them must make the same calls.
        group: Their process group; None is that of all processes.
    """

    rank: int = 0
    size: int = 1
    group: distributed.ProcessGroup | None = None

    @classmethod
    def of(cls, group: distributed.ProcessGroup | None = None) -> Team:
        """All processes of a group, if any group was set up."""
        if not together():
            return cls()
        return cls(distributed.get_rank(group), distributed.get_world_size(group), group)

    def mine(self, work: Sequence[T]) -> Sequence[T]:
        """This process's pieces of the work."""
        return work[self.rank :: self.size]

    def gathered(self, part: Tensor) -> Tensor:
        """What each process brings (size, ...); all bring one shape and dtype."""
        if self.size == 1:
            return part[None]
        parts = [torch.empty_like(part) for _ in range(self.size)]
        distributed.all_gather(parts, part.contiguous(), self.group)
        return torch.stack(parts)


def gather_rows(rows: Tensor, group: distributed.ProcessGroup | None = None) -> list[Tensor]:
    """Rows of all processes, of which some have few and some have none.

    The ``dist_sync_fn`` of our metrics. torchmetrics' own wants as many dimensions on every process
    and waits for ever when one that has seen no sample brings an empty vector instead of a matrix.

    Args:
        rows: Rows (N, D), float32 or float64, or an empty vector where there are none.
        group: The processes that take part.

    Returns:
        Rows (N_r, D) of each process r, float64 if any process has such.

    Raises:
        ValueError: On every process, if rows differ in D.
    """
    team = Team.of(group)
    n, d = rows.shape if rows.ndim == 2 else (0, 0)
    facts = torch.tensor([n, d if n else 0, n and rows.dtype.itemsize], device=rows.device)
    shapes = team.gathered(facts).tolist()
    most, width, itemsize = (max(column) for column in zip(*shapes, strict=True))
    if {shape[1] for shape in shapes if shape[0]} - {width}:
        raise ValueError(f"processes hold samples of different widths: {shapes}")
    padded = rows.new_zeros((most, width), dtype=torch.float64 if itemsize == 8 else torch.float32)
    if n:
        padded[:n] = rows
    return [part[: shape[0]] for part, shape in zip(team.gathered(padded), shapes, strict=True)]


def joined(rows: Tensor) -> Tensor:
    """Rows (N, ...) of all processes, one process after the other; N may differ, or be 0."""
    team = Team.of()
    if team.size == 1:
        return rows
    counts = team.gathered(torch.tensor(len(rows), device=rows.device)).tolist()
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = team.gathered(padded)
    return torch.cat([part[:n] for part, n in zip(gathered, counts, strict=True)])


@contextmanager
def one_thread() -> Iterator[int]:
    """Computes on one thread, so that the bits do not depend on the number of cores.

    Yields:
        How many threads there were, for whoever shares work out among threads of its own.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
