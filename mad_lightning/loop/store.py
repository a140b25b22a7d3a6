"""The shards of a lineage, by name."""

from __future__ import annotations

from collections.abc import Collection

from mad_lightning.data.shards import Shard
from mad_lightning.lineage.directory import LineageDirectory

__all__ = ["Store"]


class Store(dict[str, Shard]):
    """Finds a shard where a lineage keeps it, whether it stands already or is still to be written.

    What was read once is kept as long as mixes name it: a shard never changes, and its digest is
    checked once.

    Args:
        lineage: Whose shards they are.
    """

    def __init__(self, lineage: LineageDirectory) -> None:
        super().__init__()
        self.lineage = lineage

    def __missing__(self, name: str) -> Shard:
        self[name] = Shard(self.lineage.shard(name))
        return self[name]

    def drop_others(self, names: Collection[str]) -> None:
        """Lets go of the shards that are not among these."""
        for name in self.keys() - {*names}:
            del self[name]
