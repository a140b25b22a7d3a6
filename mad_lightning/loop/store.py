"""The shards of a lineage by name, and the weights that it kept."""

from __future__ import annotations

from pathlib import Path

import torch

from mad_lightning.data.shards import Shard
from mad_lightning.generators.base import Generator
from mad_lightning.lineage.directory import LineageDirectory

__all__ = ["Store", "load_weights"]


class Store(dict[str, Shard]):
    """Finds a shard where a lineage keeps it, whether it stands already or is still to be written.

    Args:
        lineage: Whose shards they are.
    """

    def __init__(self, lineage: LineageDirectory) -> None:
        super().__init__()
        self.lineage = lineage

    def __missing__(self, name: str) -> Shard:
        return Shard(self.lineage.shard(name))


def load_weights(generator: Generator, path: Path) -> None:
    """Loads the weights that a generation kept; nothing in them is unpickled."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    generator.load_state_dict(checkpoint["state_dict"])
