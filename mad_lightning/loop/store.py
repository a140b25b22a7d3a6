"""The shards of a lineage, by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

from mad_lightning.data.shards import Shard
from mad_lightning.files import Damaged
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.policies import Part, shard_name
from mad_lightning.processes import from_first, is_first

__all__ = ["Store"]


class Store(dict[str, Shard]):
    """Finds a shard where a lineage keeps it, whether it stands already or is still to be written.

    What was read once is kept as long as mixes name it: a shard never changes, and its digest is
    checked once, by the first process for all.

    Args:
        lineage: Whose shards they are.
    """

    def __init__(self, lineage: LineageDirectory) -> None:
        super().__init__()
        self.lineage = lineage
        self._sound: set[str] = set()  # what the ledger tells of

    def __missing__(self, name: str) -> Shard:
        self[name] = Shard(self.lineage.shard(name))
        return self[name]

    def check(self, name: str, told: Mapping[int | None, Mapping[str, str]]) -> None:
        """Reads a shard, once.

        Args:
            name: Of the shard.
            told: Digests by generation, as the ledger has them.

        Raises:
            OSError: If it is not there, not whole, or not the one that the ledger tells of.
        """
        if name in self._sound:
            return
        if damage := from_first(partial(self._damage, name, told)):
            raise OSError(damage)
        self.seen_by_all(name)
        self._sound.add(name)

    def _damage(self, name: str, told: Mapping[int | None, Mapping[str, str]]) -> str:
        """What is wrong with a shard, in words; nothing if nothing is."""
        shard, t = self[name], Part("synthetic", name, 0, 1).generation
        kind = "shard" if t is not None and name == shard_name(t) else "published"
        try:
            _ = shard.samples
            if told.get(t, {}).get(kind, shard.manifest.sha256) != shard.manifest.sha256:
                raise Damaged(shard.values_file, "the ledger tells of other samples")
        except OSError as error:
            return str(error)
        return ""

    def learned(self, name: str) -> tuple[int, ...]:
        """How often the generator of an evicted shard met each class; empty of any other shard."""
        return self[name].manifest.learned if self[name].is_evicted else ()

    def seen_by_all(self, name: str) -> Shard:
        """A shard that the first process has read or written, as every process has it from now on.

        Raises:
            OSError: If its samples are not there.
        """
        manifest = from_first(lambda: self[name].manifest)
        if not is_first() and vars(self[name]).get("manifest") != manifest:
            self[name] = Shard(self.lineage.shard(name))
            self[name].trust(manifest)
        return self[name]

    def drop_others(self, names: Collection[str]) -> None:
        """Lets go of the shards that are not among these."""
        self.drop(self.keys() - {*names})

    def drop(self, names: Collection[str]) -> None:
        """Lets go of these shards."""
        for name in self.keys() & {*names}:
            del self[name]

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self._sound.discard(name)
