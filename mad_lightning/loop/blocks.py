"""What is computed block by block, on any number of processes, and survives a kill.

Samples and features are rows, and a row depends on nothing but its own address. So a set of rows is
cut into *blocks* of fixed size: the unit that is spread over processes, and the unit that a kill
cannot take back. When all stand they are joined. A block carries a digest of its rows, and one that
does not match it was never computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from mad_lightning.data.shards import load_tensors, save_tensors
from mad_lightning.files import Damaged, appearing, awaited
from mad_lightning.processes import together
from mad_lightning.samples import Parts, Samples

__all__ = ["Announce", "BlockLoader", "BlockWriter", "Blocks"]

Announce = Callable[[int, int], None]
"""Called with (blocks or batches done, all of them) of this process."""
_DIGEST = "sha256"


class Blocks:
    """A set of n rows that is computed block by block.

    Args:
        directory: Where the blocks live until they are joined.
        n: Number of rows in all.
        block_size: Rows in a block; the last one may be shorter.
        passing: Whether nobody reads them after they are joined. A process that is alone then
            keeps a set of one block in memory: what is made of it is written next.
    """

    def __init__(self, directory: Path, n: int, block_size: int, passing: bool = False) -> None:
        self.directory, self.n, self.block_size = directory, n, block_size
        self.passing = passing
        self._read: dict[int, dict[str, Tensor]] = {}  # checked once a process, mapped to memory

    def __len__(self) -> int:
        return math.ceil(self.n / self.block_size)

    def path(self, index: int) -> Path:
        """File of one block."""
        return self.directory / f"{index:05d}.safetensors"

    def rows(self, index: int) -> slice:
        """The rows that a block holds."""
        return slice(index * self.block_size, min(self.n, (index + 1) * self.block_size))

    def write(self, index: int, tensors: dict[str, Tensor]) -> None:
        """Stores one block, whole or not at all; one that a power cut has torn is made again."""
        if self.passing and len(self) == 1 and not together():
            self._read[index] = tensors
        else:
            save_tensors(self.path(index), tensors, {_DIGEST: _digest(tensors)}, lasting=False)

    def read(self, index: int) -> dict[str, Tensor]:
        """The rows of one block.

        Raises:
            OSError: If it does not stand, or is not what was written.
        """
        if index not in self._read:
            tensors, metadata = load_tensors(self.path(index))
            if metadata != {_DIGEST: _digest(tensors)}:
                raise Damaged(self.path(index))
            self._read[index] = tensors
        return self._read[index]

    def stands(self, index: int) -> bool:
        """Whether one block is there, and is what was written."""
        try:
            self.read(index)
        except (FileNotFoundError, Damaged):
            return False
        return True

    def apart(self) -> list[dict[str, Tensor]]:
        """All rows, block after block, as they lie: those on disk are mapped to memory.

        Raises:
            OSError: If a block does not stand, or is not what was written.
        """
        for index in range(len(self)) if together() else ():
            awaited(self.path(index))  # others have written there
        return [self.read(index) for index in range(len(self))]

    def join(self) -> dict[str, Tensor]:
        """All rows, in order, in memory.

        Raises:
            OSError: As :meth:`apart`.
        """
        blocks = self.apart()
        return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}

    def samples(self) -> Parts:
        """All rows, in order, where rows are samples; they stay where they are."""
        return Parts([Samples(**block) for block in self.apart()])

    def mapped(self, name: str) -> Tensor:
        """All rows of one name, in order, in a file that goes with them: they may exceed memory.

        Raises:
            OSError: As :meth:`apart`, or if the disk has no room.
        """
        parts = [block[name] for block in self.apart()]
        if len(parts) == 1:
            return parts[0]
        path, first = self.path(len(self)), parts[0]
        with appearing(path, lasting=False) as temporary:
            with temporary.open("wb") as file:
                for part in parts:
                    file.write(part.detach().cpu().contiguous().numpy().data)
            size = self.n * first[0].numel()
            rows = torch.from_file(str(temporary), shared=False, size=size, dtype=first.dtype)
        path.unlink(missing_ok=True)  # what is mapped stays until nobody holds it
        return rows.view(self.n, *first.shape[1:])


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = sha256()
    for name, tensor in sorted(tensors.items()):
        rows = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(rows.shape)} {rows.dtype} ".encode())
        digest.update(rows.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class BlockLoader:
    """The blocks of one process that do not stand yet, as batches.

    A block belongs to a process by its place among *all* blocks, so that processes which look at
    the disk at different moments still share the work without gap or overlap.

    Args:
        work: Sets of blocks, and what makes a batch from (job number, rows). The batch carries the
            job number as its ``job``; what is computed from it has ``tensors()`` by name, or is a
            tensor of features.
        at_once: Rows of a batch, at most; None: whole blocks. A block that is computed in parts is
            stored when the last of them is there.
    """

    def __init__(
        self, work: Mapping[Blocks, Callable[[int, slice], Any]], at_once: int | None = None
    ) -> None:
        self.at_once = at_once
        self._parts: list[dict[str, Tensor]] = []
        self.jobs = [
            (blocks, index, make) for blocks, make in work.items() for index in range(len(blocks))
        ]
        self.mine: list[int] = []

    def share(self, rank: int, world_size: int) -> int:
        """Takes this process's share of what is pending; tells how many batches that is."""
        self.mine = [
            job
            for job in range(rank, len(self.jobs), world_size)
            if not self.jobs[job][0].stands(self.jobs[job][1])
        ]
        return len(self)

    def __len__(self) -> int:
        return sum(len(self._cut(job)) for job in self.mine)

    def __iter__(self) -> Iterator[Any]:
        self._parts.clear()
        for job in self.mine:
            for rows in self._cut(job):
                yield self.jobs[job][2](job, rows)

    def _cut(self, job: int) -> list[slice]:
        """The rows of a block, as they are computed."""
        blocks, index, _ = self.jobs[job]
        rows = blocks.rows(index)
        step = self.at_once or max(1, rows.stop - rows.start)
        starts = range(rows.start, rows.stop, step)
        return [slice(start, min(start + step, rows.stop)) for start in starts]

    def write(self, batch: Any, computed: Any) -> None:
        """Stores what was computed from a batch, once all of its block is there."""
        blocks, index, _ = self.jobs[batch.job]
        is_features = isinstance(computed, Tensor)
        self._parts.append({"features": computed} if is_features else computed.tensors())
        if len(self._parts) < len(self._cut(batch.job)):
            return
        parts = [*self._parts]
        self._parts.clear()
        if len(parts) > 1:
            parts = [{name: torch.cat([part[name] for part in parts]) for name in parts[0]}]
        blocks.write(index, parts[0])


class BlockWriter(L.Callback):
    """Stores each block as soon as it is computed.

    Args:
        write: Called with (batch, outputs) of every block.
    """

    def __init__(self, write: Callable[[Any, Any], None]) -> None:
        self.write = write

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """One block."""
        self.write(batch, outputs)
