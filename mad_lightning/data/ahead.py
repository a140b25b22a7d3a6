"""One batch ahead: while a GPU computes, a thread gathers what comes next.

A gather from mapped files waits for a disk, and a copy to a GPU waits for the copy, unless it comes
from *pinned* memory, which the GPU reads by itself. Neither changes a batch: their order is
arithmetic, and nothing random happens in the thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

from mad_lightning.samples import Samples

__all__ = ["ahead", "pinned"]

S = TypeVar("S", bound=Samples)


def pinned(samples: S) -> S:
    """The same samples in pinned memory."""
    for name, values in samples.tensors().items():
        setattr(samples, name, values.pin_memory())
    return samples


def ahead(batches: Iterable[S], ready: Callable[[S], S] = pinned) -> Iterator[S]:
    """The same batches, each made while the one before is worked on.

    Args:
        batches: Nobody else iterates over them meanwhile.
        ready: What is done to each, in the thread.

    Yields:
        Batches; what goes wrong in making one is raised in its place.
    """
    queue: Queue[tuple[S | None, BaseException | None]] = Queue(maxsize=1)
    left = Event()

    def put(batch: S | None, error: BaseException | None = None) -> None:
        while not left.is_set():
            try:
                queue.put((batch, error), timeout=0.1)
            except Full:
                continue
            return

    def work() -> None:
        try:
            for batch in batches:
                put(ready(batch))
                if left.is_set():
                    return
        except BaseException as error:
            put(None, error)
        else:
            put(None)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            batch, error = queue.get()
            if error is not None:
                raise error
            if batch is None:
                return
            yield batch
    finally:
        left.set()
        thread.join()
