"""The loop in W&B's lineage graph: shard → generator → shard.

That graph is made of *artifacts*, and of runs that use some and make others. The run that shows a
lineage uses and makes all of them, which would be one knot; so each training and each sampling is a
small run of its own, beside it. Samples and weights are large and stay where they are: an artifact
holds one small file, which says what made it and by which digest the ledger knows it. So what is
the same is the same to W&B, whichever run tells of it, and however often.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mad_lightning.files import write_json
from mad_lightning.lineage.ledger import GenerationRecord
from mad_lightning.policies import EXTERNAL, Mix, Part, shard_name

__all__ = ["Artifact", "Step", "draw", "steps"]


@dataclass(frozen=True)
class Artifact:
    """A shard, a generator, or the real data.

    Attributes:
        name: Unique in its project, for all that is made alike.
        kind: ``shard``, ``generator`` or ``real``.
        facts: What is known of it, as plain values.
    """

    name: str
    kind: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A phase of a generation: what it uses and what it makes."""

    phase: str
    generation: int
    uses: tuple[Artifact, ...]
    makes: Artifact


def steps(lineage: str, records: Sequence[GenerationRecord], t: int, mix: Mix) -> Iterator[Step]:
    """The phases of generation ``t``: training, sampling, and a treatment if there is one.

    Args:
        lineage: Its name.
        records: Generations 1 to t at least.
        t: The generation.
        mix: What it trained on.
    """
    record = records[t - 1]
    made = {
        "generation": t,
        "sha256": record.digests.get("generator"),
        "settings": record.digests.get("settings"),
        "images": record.images,
        **{name: getattr(record, name) for name in ("n_real", "n_fresh", "n_synthetic")},
        **({"n_external": record.n_external} if record.n_external else {}),
    }
    generator = _artifact(lineage, f"generator-{t:03d}", "generator", made)
    eaten = [_shard(lineage, records, name) for name in mix.shards]
    if record.n_real or record.n_fresh:
        digest = record.digests.get("data", "")
        eaten.insert(0, _artifact("real", digest[:8] or lineage, "real", {"sha256": digest}))
    yield Step("train", t, tuple(eaten), generator)
    drawn = _shard(lineage, records, record.drawn or shard_name(t))
    yield Step("sample", t, (generator,), drawn)
    if record.published not in ("", record.drawn):
        yield Step("treat", t, (drawn,), _shard(lineage, records, record.published))


def _shard(lineage: str, records: Sequence[GenerationRecord], name: str) -> Artifact:
    t = Part("synthetic", name, 0, 1).generation
    facts: dict[str, Any] = {"shard": name}
    if name == EXTERNAL:
        facts["sha256"] = records[-1].digests.get("external")
    if t is not None:
        record = records[t - 1]
        digest = "shard" if name == (record.drawn or shard_name(t)) else "published"
        facts |= {
            "generation": t,
            "sha256": record.digests.get(digest),
            "generator": record.digests.get("generator"),
            "sampling_bias": record.sampling_bias,
        }
    return _artifact(lineage, f"shard-{name}", "shard", facts)


def _artifact(owner: str, name: str, kind: str, facts: dict[str, Any]) -> Artifact:
    return Artifact(re.sub(r"[^\w.-]", "-", f"{owner}-{name}"), kind, facts)


def draw(step: Step, run: Any, folder: Path) -> None:
    """Draws one step, and ends its run.

    Args:
        step: The step.
        run: A run of W&B that is for this step alone.
        folder: Where the artifacts' files are kept, until they are synced.
    """
    for artifact in step.uses:  # what use_artifact does, which refuses offline and waits online
        run._log_artifact(_logged(artifact, folder), is_user_created=True, use_after_commit=True)
    run.log_artifact(_logged(step.makes, folder))
    run.finish()


def _logged(artifact: Artifact, folder: Path) -> Any:
    import wandb

    file = folder / f"{artifact.name}.json"
    write_json(file, artifact.facts, seal=False)
    logged = wandb.Artifact(artifact.name, artifact.kind, metadata=artifact.facts)
    logged.add_file(str(file.resolve()), "made.json", policy="immutable", skip_cache=True)
    return logged
