"""Somebody else's samples, brought into a lineage.

Whoever drew them may drop them, or draw others into the same folder. So a lineage keeps a copy, as
a shard of its own (``foreign/external``) with a digest that the ledger tells, and what lies outside
is compared with it at every start.
"""

from __future__ import annotations

from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.data.shards import ShardManifest
from mad_lightning.identity import description
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.loop.store import Store
from mad_lightning.policies import EXTERNAL, LoopPolicy
from mad_lightning.processes import from_first
from mad_lightning.refusal import Refused, at

__all__ = ["bring", "check_outside"]


def check_outside(
    policy: LoopPolicy,
    generations: int,
    data: GenerationDataModule,
    seed: int,
    lineage: LineageDirectory,
) -> None:
    """Refuses a lineage that takes samples from outside which are not there, or others by now.

    Raises:
        Refused: With the numbers.
    """
    wanted = policy.n_foreign(generations)
    for name, n in wanted.items():
        if name != EXTERNAL:
            problem = f"it asks for the shard {name}, which nobody brings"
            raise Refused("policy", problem, f"name samples from outside {EXTERNAL}")
        with at("data"):
            there = len(data.outside(seed))
        if n > there:
            problem, remedy = f"{n} samples from outside, there are {there}", "or bring more"
            with at("policy"):
                raise Refused("n_external", problem, f"take at most {there}, {remedy}")
    told = {record.digests.get("external") for record in lineage.records()} - {None}
    if wanted and told and told != {data.outside(seed).digest()}:
        problem = f"other samples than {lineage} was begun with"
        remedy = "bring them back as they were, or give the new lineage a name of its own"
        with at("data"):
            raise Refused("external", problem, remedy)


def bring(data: GenerationDataModule, seed: int, store: Store) -> str:
    """Brings the samples from outside into the lineage, unless they stand there.

    Every process must ask, and at the same place.

    Returns:
        Their digest.
    """
    samples, real = data.outside(seed), data.real(seed)

    def brought() -> None:
        try:
            if store[EXTERNAL].samples.digest() == samples.digest():
                return
        except OSError:  # it is not there, or damaged
            pass
        manifest = ShardManifest(
            name=EXTERNAL,
            origin="external",
            generation=0,
            sampling_bias=1.0,
            seeds=(),
            sampler={"source": description(data.external)},
            generator="",
            count=len(samples),
            spec=real.spec.to_dict(),
            classes=real.class_names,
        )
        store[EXTERNAL].write(samples, manifest)

    from_first(brought)
    return store.seen_by_all(EXTERNAL).manifest.sha256
