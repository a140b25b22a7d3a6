"""A finished lineage, looked at again: is everything on disk what the ledger tells of?

While a lineage is trained, an artefact is checked when it is used. One that nothing uses any more
can rot unseen; here all of them are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from mad_lightning.data.shards import Shard
from mad_lightning.files import Damaged, read_json
from mad_lightning.generators.base import digest_of
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.lineage.ledger import GenerationRecord, values_digest
from mad_lightning.loop.checkpoints import read
from mad_lightning.policies import EXTERNAL, shard_name

__all__ = ["CHECKS", "DRAWN_AGAIN", "damage", "damage_of_whole", "evicted"]

DRAWN_AGAIN = "run the lineage's own command with `keep: all`, which draws them again"
"""How evicted samples come back."""


def mix(lineage: LineageDirectory, record: GenerationRecord) -> str:
    """What the generation was trained on."""
    kept = lineage.mix(record.generation)
    if kept is None:
        return f"{lineage.mix_file(record.generation)} is gone"
    is_as_told = all(n == getattr(record, name) for name, n in kept.counts().items())
    if is_as_told and record.ages in (None, kept.ages()):
        return ""
    return f"{lineage.mix_file(record.generation)} has other counts than the ledger"


def weights(lineage: LineageDirectory, record: GenerationRecord) -> str:
    """Its generator's weights."""
    path = lineage.weights(record.generation)
    if digest_of(read(path)["state_dict"]) == record.digests["generator"]:
        return ""
    return f"{path} holds other weights than the ledger tells of"


def auxiliary(lineage: LineageDirectory, record: GenerationRecord) -> str:
    """Its auxiliary's weights, and the note of how both are drawn by, if it had a second phase."""
    if "auxiliary" not in record.digests:
        return ""
    path, note = lineage.auxiliary(record.generation), lineage.improvement(record.generation)
    if digest_of(read(path)["state_dict"]) != record.digests["auxiliary"]:
        return f"{path} holds other weights than the ledger tells of"
    told = read_json(note)
    if (told.get("weight"), told.get("auxiliary")) != (
        record.sampler.get("improve_weight"),
        record.digests["auxiliary"],
    ):
        return f"{note} tells of another weight, or another auxiliary, than the ledger"
    return ""


def shard(lineage: LineageDirectory, record: GenerationRecord) -> str:
    """What it drew; of samples that were evicted, what the manifest still tells."""
    drawn = Shard(lineage.shard(record.drawn or shard_name(record.generation)))
    if not drawn.is_evicted:
        _ = drawn.samples  # reads them, and compares them with the manifest
    drawn_by = record.digests.get("improved", record.digests["generator"])
    told = (drawn_by, record.digests["shard"], record.sampling_bias)
    if (drawn.manifest.generator, drawn.manifest.sha256, drawn.manifest.sampling_bias) == told:
        return ""
    return f"{drawn.values_file} holds other samples than the ledger tells of"


def published(lineage: LineageDirectory, record: GenerationRecord) -> str:
    """What a treatment made of that, if there was one."""
    if record.published in ("", record.drawn):
        return ""
    published = Shard(lineage.shard(record.published))
    if not published.is_evicted:
        _ = published.samples
    if published.manifest.sha256 == record.digests.get("published", published.manifest.sha256):
        return ""
    return f"{published.values_file} holds other samples than the ledger tells of"


def external(lineage: LineageDirectory, record: GenerationRecord) -> str:
    """What somebody else's generator drew, if it was trained on that."""
    if not record.n_external:
        return ""
    outside = Shard(lineage.shard(EXTERNAL))
    _ = outside.samples
    if outside.manifest.sha256 == record.digests.get("external"):
        return ""
    return f"{outside.values_file} holds other samples than the ledger tells of"


def metrics(lineage: LineageDirectory, record: GenerationRecord) -> str:
    """What was measured."""
    values = read_json(lineage.metrics_file(record.generation)).get("values")
    if values_digest(values) == record.digests["metrics"]:
        return ""
    return f"{lineage.metrics_file(record.generation)} has other values than the ledger"


def curves(lineage: LineageDirectory, record: GenerationRecord) -> str:
    """What was logged while it trained."""
    rows = lineage.curves(record.generation)
    if (int(rows[-1]["images"]) if rows else 0) == record.images:
        return ""
    return f"{lineage.curves_file(record.generation)} does not end at {record.images} images"


def picture(lineage: LineageDirectory, record: GenerationRecord) -> str:
    """What can be looked at, if it was drawn."""
    _ = lineage.sound_picture(record.generation)
    return ""


def configuration(lineage: LineageDirectory) -> str:
    """What it was begun under."""
    return "" if lineage.config() or lineage.has_config else f"{lineage.config_file} is gone"


def floor(lineage: LineageDirectory) -> str:
    """What real samples score."""
    return "" if read_json(lineage.floor_file) else f"{lineage.floor_file} is gone"


def notes(lineage: LineageDirectory) -> str:
    """How far W&B goes, if it is told."""
    _ = read_json(lineage.wandb_notes)
    return ""


Check = Callable[[LineageDirectory, GenerationRecord], str]
CHECKS: tuple[Check, ...] = (
    mix,
    weights,
    auxiliary,
    shard,
    published,
    external,
    metrics,
    curves,
    picture,
)
"""Each says in words what is wrong; nothing if nothing is."""


def evicted(lineage: LineageDirectory, names: Iterable[str]) -> str:
    """Which of some shards have no samples any more, in words; nothing if all have."""
    gone = [name for name in names if Shard(lineage.shard(name)).is_evicted]
    if not gone:
        return ""
    shown = ", ".join(gone[:8]) + (", ..." if len(gone) > 8 else "")
    return f"the samples of shard{'s' * (len(gone) > 1)} {shown} were evicted"


def damage(
    lineage: LineageDirectory, record: GenerationRecord, checks: Sequence[Check] = CHECKS
) -> Iterator[str]:
    """All that is wrong with the artefacts of one finished generation."""
    for check in checks:
        yield from _words(check.__name__, partial(check, lineage, record))


def damage_of_whole(lineage: LineageDirectory) -> Iterator[str]:
    """All that is wrong with what a lineage keeps beside its generations."""
    for check in (configuration, floor, notes):
        yield from _words(check.__name__, partial(check, lineage))
    if not lineage.ledger.ends_well:
        yield f"{lineage.ledger.path} ends in a line that was not written to its end"
    beyond = lineage.generation(len(lineage.ledger) + 2)  # the next one may have been begun
    if beyond.exists():
        yield f"{lineage.ledger.path} ends before {beyond}, which is there"


def _words(what: str, check: Callable[[], str]) -> Iterator[str]:
    try:
        words = check()
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        named = isinstance(error, Damaged)
        words = str(error) if named else f"{what}: {type(error).__name__}: {error}"
    if words:
        yield words.partition("\n")[0]
