"""Processes that share one computation.

Every process holds both sets whole and takes every size-th piece of the work; then all put the
pieces together, so that each ends with the whole answer. What is put together here are integers,
flags and lists of nearest distances, which come out the same to the last bit however the work was
dealt out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, distributed

__all__ = ["Team", "gather_rows"]

T = TypeVar("T")


class Team(NamedTuple):
    """The processes at work. By default there is one.

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
        if not (distributed.is_available() and distributed.is_initialized()):
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
