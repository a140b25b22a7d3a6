"""Shards: immutable sets of synthetic samples, with provenance.

A shard is drawn once, in *blocks* of fixed size whose content depends on nothing but the generator
and the address of their samples. Blocks are what gets spread over devices and what survives a kill
in the middle of sampling; when all stand, they are joined into one file and a manifest that says
where the samples come from. The manifest is written last: a shard without one does not exist.

Tensors are stored as safetensors, read back by memory map, and their digest is checked. Nothing is
ever unpickled.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mad_lightning.lineage import write_json
from mad_lightning.samples import Samples, SampleSpec

__all__ = ["BlockLoader", "Blocks", "Shard", "ShardManifest", "load_tensors", "save_tensors"]


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes tensors as safetensors; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file({name: each.detach().cpu().contiguous() for name, each in tensors.items()}, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads tensors by memory map.

    Raises:
        OSError: If the file is missing or damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise OSError(f"{path} is damaged: {error}") from error


class Blocks:
    """A set of n rows that is computed block by block, on any number of processes.

    Args:
        directory: Where the blocks live until they are joined.
        n: Number of rows in all.
        block_size: Rows in a block; the last one may be shorter.
    """

    def __init__(self, directory: Path, n: int, block_size: int) -> None:
        self.directory, self.n, self.block_size = directory, n, block_size

    def __len__(self) -> int:
        return math.ceil(self.n / self.block_size)

    def path(self, index: int) -> Path:
        """File of one block."""
        return self.directory / f"{index:05d}.safetensors"

    def rows(self, index: int) -> slice:
        """The rows that a block holds."""
        return slice(index * self.block_size, min(self.n, (index + 1) * self.block_size))

    def write(self, index: int, tensors: dict[str, Tensor]) -> None:
        """Stores one block, atomically."""
        save_tensors(self.path(index), tensors)

    def join(self) -> dict[str, Tensor]:
        """All rows, in order."""
        blocks = [load_tensors(self.path(index)) for index in range(len(self))]
        return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


class BlockLoader:
    """The blocks of one process that do not stand yet, as batches.

    A block belongs to a process by its place among *all* blocks, so that processes which look at
    the disk at different moments still share the work without gap or overlap.

    Args:
        work: Sets of blocks, and what makes a batch from (job number, rows). The batch carries the
            job number as its ``job``.
    """

    def __init__(self, work: Sequence[tuple[Blocks, Callable[[int, slice], Any]]]) -> None:
        self.jobs = [(blocks, index, make) for blocks, make in work for index in range(len(blocks))]
        self.mine: list[int] = []

    def share(self, rank: int, world_size: int) -> int:
        """Takes this process's share of what is pending; tells how many blocks that is."""
        self.mine = [
            job
            for job in range(rank, len(self.jobs), world_size)
            if not self.jobs[job][0].path(self.jobs[job][1]).exists()
        ]
        return len(self.mine)

    def __len__(self) -> int:
        return len(self.mine)

    def __iter__(self) -> Iterator[Any]:
        for job in self.mine:
            blocks, index, make = self.jobs[job]
            yield make(job, blocks.rows(index))

    def write(self, batch: Any, computed: Samples | Tensor) -> None:
        """Stores what was computed from a batch."""
        blocks, index, _ = self.jobs[batch.job]
        if isinstance(computed, Tensor):
            blocks.write(index, {"features": computed})
        else:
            blocks.write(index, computed.tensors())


@dataclass(frozen=True)
class ShardManifest:
    """Where the samples of a shard come from.

    Attributes:
        origin: ``synthetic``.
        generation: Generation that drew them.
        sampling_bias: λ they were drawn with.
        seeds: Address of the samples' seeds: sample i has seed ``sample_seeds(i, 1, *seeds)``.
        sampler: What besides λ shapes the samples.
        generator: SHA-256 of the generator's weights.
        count: Number of samples.
        spec: Their :class:`~mad_lightning.samples.SampleSpec`, as plain values.
        sha256: Digest of values and labels.
    """

    origin: str
    generation: int
    sampling_bias: float
    seeds: tuple[int | str, ...]
    sampler: dict[str, Any]
    generator: str
    count: int
    spec: dict[str, Any]
    sha256: str = ""


class Shard:
    """A stored shard.

    Args:
        directory: Holds ``shard.safetensors`` and ``shard.json``.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def exists(self) -> bool:
        """Whether the shard is complete."""
        return (self.directory / "shard.json").exists()

    @cached_property
    def manifest(self) -> ShardManifest:
        """Where the samples come from."""
        plain = json.loads((self.directory / "shard.json").read_text())
        return ShardManifest(**plain | {"seeds": tuple(plain["seeds"])})

    @property
    def spec(self) -> SampleSpec:
        """What one sample looks like."""
        return SampleSpec.from_dict(self.manifest.spec)

    @cached_property
    def samples(self) -> Samples:
        """All samples, memory-mapped.

        Raises:
            OSError: If the stored samples are not those of the manifest.
        """
        samples = Samples(**load_tensors(self.directory / "shard.safetensors"))
        if samples.digest() != self.manifest.sha256:
            raise OSError(f"{self.directory / 'shard.safetensors'} does not match its manifest")
        return samples

    def write(self, samples: Samples, manifest: ShardManifest) -> ShardManifest:
        """Stores samples, then the manifest that makes them a shard."""
        save_tensors(self.directory / "shard.safetensors", samples.tensors())
        manifest = replace(manifest, count=len(samples), sha256=samples.digest())
        write_json(self.directory / "shard.json", asdict(manifest))
        return manifest
