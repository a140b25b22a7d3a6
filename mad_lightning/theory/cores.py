"""Work for several cores, whose results do not depend on how many there are.

Each core computes on a thread of its own. Python's lock costs little, as a task spends its time
inside torch, and dealing tasks out beats splitting each small matrix. What a task computes is
decided before anybody knows who does it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from mad_lightning.processes import one_thread

__all__ = ["Work", "in_parallel", "in_turns"]

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")

Work = Generator[Sequence[Callable[[], Any]], list[Any], None]
"""Yields tasks that may be done at the same time, is sent their results, and yields more."""


def in_parallel(
    task: Callable[[_Job], _Result], jobs: Sequence[_Job], threads: int | None = None
) -> list[_Result]:
    """Does jobs on several threads, one core each, and returns their results in order.

    Args:
        task: Done once for each job.
        jobs: What to do; long ones first.
        threads: How many at a time; None takes torch's number of threads.
    """
    with one_thread() as available, ThreadPoolExecutor(threads or available) as pool:
        return list(pool.map(task, jobs))


def in_turns(works: Iterable[Work], threads: int | None = None) -> None:
    """Does works on several threads, one core each: as few at a time as keep all cores busy.

    Between its tasks a work goes on in the calling thread.

    Args:
        works: What to do; long ones first.
        threads: How many tasks at a time; None takes torch's number of threads.
    """
    with one_thread() as available, ThreadPoolExecutor(threads or available) as pool:
        coming = iter(works)
        under_way: dict[Future[Any], tuple[Work, list[Future[Any]]]] = {}

        def go_on(work: Work, results: list[Any] | None) -> None:
            try:
                tasks = next(work) if results is None else work.send(results)
            except StopIteration:
                return
            futures = [pool.submit(task) for task in tasks]
            under_way.update(dict.fromkeys(futures, (work, futures)))

        while True:
            while len(under_way) < (threads or available) and (work := next(coming, None)):
                go_on(work, None)
            if not under_way:
                return
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                work, futures = under_way.pop(future)
                if all(other not in under_way for other in futures):
                    go_on(work, [other.result() for other in futures])
