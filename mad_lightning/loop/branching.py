"""A branch: a lineage that begins after some generation of another one, under other settings.

After a divergence one wants another learning rate, not the good generations once more; and "what if
fresh data came in from here on" is a question about one and the same history. The generations that
both share are the parent's, artefacts and digests and lines of the ledger, each line marked with
where it comes from. From then on a branch is a lineage as any other: a branch without a change ends
with the numbers of its parent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mad_lightning.files import read_json
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.loop.admission import admit, check_ancestry, check_data, check_first_weights
from mad_lightning.loop.meta_trainer import MetaTrainer
from mad_lightning.loop.verifying import DRAWN_AGAIN, damage, evicted
from mad_lightning.refusal import Refused, at

__all__ = ["branch"]


def branch(meta: MetaTrainer, parent: LineageDirectory, t: int | None = None) -> int:
    """Begins a lineage with the generations of another one; nothing is trained.

    Args:
        meta: The branch, whose directory does not exist yet.
        parent: The lineage that it leaves.
        t: The last generation that both have; None takes the last that is finished.

    Returns:
        That generation.

    Raises:
        Refused: If the branch could not go on from there. Nothing is written then.
    """
    if os.path.lexists(meta.lineage.path):
        with at("lineage"):
            problem = f"{meta.lineage} exists already"
            raise Refused("name", problem, "give the branch a `name` of its own")
    records = parent.records()
    t = len(records) if t is None else t
    if not 1 <= t <= len(records):
        finished = f"{len(records)} generations are finished" if records else "none is finished"
        raise Refused("from", f"{parent} has no generation {t}: {finished}", "name one that it has")
    for record in records[:t]:
        for words in damage(parent, record):
            raise Refused("from", words, "bring it back from a copy, or branch off before that")
    coming = range(t + 1, max(t + 1, meta.settings.generations) + 1)
    eaten = {name for after in coming for name in meta.published_mix(after).shards}
    drawn = {name for s in range(1, t + 1) for name in meta.retention.names(s)}
    if words := evicted(parent, sorted(eaten & drawn)):
        raise Refused("from", f"{parent}: {words}", DRAWN_AGAIN)
    with _as_in_the_parent():
        check_data(meta, parent)
        held_out = read_json(parent.floor_file).get("data", meta.real.digest)
        if held_out != meta.real.digest:
            raise Refused("data", f"{parent} holds out other samples as its reference", "")
    admit(meta)
    check_ancestry(meta, parent, records[:t])
    check_first_weights(meta, parent, t + 1)
    with _as_in_the_parent():
        meta.measuring.prepare()
        meta.measuring.check_protocol(parent)
    parent.branch(meta.lineage.path, t, meta.config)
    return t


@contextmanager
def _as_in_the_parent() -> Iterator[None]:
    """What is refused inside can be mended in one way only."""
    try:
        yield
    except Refused as refused:
        remedy = "a branch has the data and the metrics of its parent: undo the change"
        raise Refused(refused.field, refused.problem, remedy) from None
