"""A finished lineage, looked at again: is everything on disk what the ledger tells of?

While a lineage is trained, an artefact is checked when it is used. One that nothing uses any more
can rot unseen; here all of them are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import sha256

from mad_lightning.data.shards import Shard
from mad_lightning.generators.base import digest_of
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.lineage.ledger import GenerationRecord
from mad_lightning.loop.checkpoints import read
from mad_lightning.policies import shard_name

__all__ = ["CHECKS", "damage"]


def mix(lineage: LineageDirectory, record: GenerationRecord) -> str:
    """What the generation was trained on."""
    kept = lineage.mix(record.generation)
    if kept is None:
        return f"{lineage.mix_file(record.generation)} is gone"
    told = (record.n_real, record.n_fresh, record.n_synthetic)
    is_as_told = (kept.n_real, kept.n_fresh, kept.n_synthetic) == told
    if is_as_told and record.ages in (None, kept.ages()):
        return ""
    return f"{lineage.mix_file(record.generation)} has other counts than the ledger"


def weights(lineage: LineageDirectory, record: GenerationRecord) -> str:
    """Its generator's weights."""
    path = lineage.weights(record.generation)
    if digest_of(read(path)["state_dict"]) == record.digests["generator"]:
        return ""
    return f"{path} holds other weights than the ledger tells of"


def shard(lineage: LineageDirectory, record: GenerationRecord) -> str:
    """What it drew."""
    drawn = Shard(lineage.shard(record.drawn or shard_name(record.generation)))
    _ = drawn.samples  # reads them, and compares them with the manifest
    told = (record.digests["generator"], record.digests["shard"], record.sampling_bias)
    if (drawn.manifest.generator, drawn.manifest.sha256, drawn.manifest.sampling_bias) == told:
        return ""
    return f"{drawn.values_file} holds other samples than the ledger tells of"


def published(lineage: LineageDirectory, record: GenerationRecord) -> str:
    """What a treatment made of that, if there was one."""
    if record.published not in ("", record.drawn):
        _ = Shard(lineage.shard(record.published)).samples
    return ""


def metrics(lineage: LineageDirectory, record: GenerationRecord) -> str:
    """What was measured."""
    values = lineage.measured(record.generation).get("values")
    if sha256(json.dumps(values).encode()).hexdigest() == record.digests["metrics"]:
        return ""
    return f"{lineage.metrics_file(record.generation)} has other values than the ledger"


def curves(lineage: LineageDirectory, record: GenerationRecord) -> str:
    """What was logged while it trained."""
    rows = lineage.curves(record.generation)
    if (int(rows[-1]["images"]) if rows else 0) == record.images:
        return ""
    return f"{lineage.curves_file(record.generation)} does not end at {record.images} images"


CHECKS: tuple[Callable[[LineageDirectory, GenerationRecord], str], ...] = (
    mix,
    weights,
    shard,
    published,
    metrics,
    curves,
)
"""Each says in words what is wrong; nothing if nothing is."""


def damage(lineage: LineageDirectory, record: GenerationRecord) -> Iterator[str]:
    """All that is wrong with the artefacts of one finished generation."""
    for check in CHECKS:
        try:
            words = check(lineage, record)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            words = f"{check.__name__}: {type(error).__name__}: {error}".splitlines()[0]
        if words:
            yield words
