"""An earlier shard that is damaged, lost or evicted, made again as it was.

A shard is a function of its generator's weights and its address, and the ledger tells its digest:
what is drawn again is either the same, or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mad_lightning.data.shards import Shard
from mad_lightning.generators.base import Generator
from mad_lightning.loop.store import Store
from mad_lightning.policies import Part, shard_name
from mad_lightning.processes import barrier, is_first
from mad_lightning.refusal import Refused, at

__all__ = ["Mending"]


class Mending:
    """Makes the earlier shards of one lineage again.

    Args:
        store: The lineage's shards.
        told: Gives digests by generation, as the ledger has them.
        trained: Gives the generator of a finished generation; OSError where it is not there.
        draw: Draws the shard of a generation.
        treat: Makes of it what is published.
    """

    def __init__(
        self,
        store: Store,
        told: Callable[[], Mapping[int | None, Mapping[str, str]]],
        trained: Callable[[int], Generator],
        draw: Callable[[int, Generator], Shard],
        treat: Callable[[int, Shard], Shard],
    ) -> None:
        self.store, self.lineage = store, store.lineage
        self.told, self.trained = told, trained
        self.draw, self.treat = draw, treat

    def mend(self, name: str) -> None:
        """Draws an earlier shard again that is not what the ledger tells of.

        Raises:
            Refused: If its generator's weights are not, either.
        """
        try:
            self.store.check(name, self.told())
            return
        except OSError as error:
            damage = str(error)
        try:
            self.draw_again(name)
            self.store.check(name, self.told())
        except OSError as error:
            remedy = "bring it back from a copy; or begin another lineage, with a `name` of its own"
            with at("lineage"):
                raise Refused("", f"{damage}; {error}", remedy) from None

    def draw_again(self, name: str) -> None:
        """Draws a shard from the weights that its generator had; treats it, if it was treated.

        Raises:
            OSError: If they are not there any more, or no generator drew it.
        """
        t = Part("synthetic", name, 0, 1).generation
        if t is None or self.lineage.records()[t - 1].branched_from:
            raise OSError("no generator of this lineage drew it")
        if name != shard_name(t):
            self.treat_again(t, name)
            return
        generator = self.trained(t)
        self._forget(name)
        self.draw(t, generator)
        if is_first():
            self.lineage.sweep(t)

    def treat_again(self, t: int, name: str) -> None:
        """Makes again what a treatment left of what generation ``t`` drew."""
        self.mend(shard_name(t))
        self._forget(name)
        if self.treat(t, self.store[shard_name(t)]).manifest.name != name:
            raise OSError("no treatment of this lineage left it")
        if is_first():
            self.lineage.sweep(t)

    def _forget(self, name: str) -> None:
        """Takes away what is left of a shard, but not what tells that it was evicted."""
        if is_first() and not self.store[name].is_evicted:
            self.store[name].manifest_file.unlink(missing_ok=True)
        barrier()
        del self.store[name]
