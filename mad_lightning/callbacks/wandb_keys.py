"""What a W&B run carries of its lineage, and under which words.

Runs are compared by what stands in their *config* (how they were made), their *summary* (what came
out) and their *history* (a row a generation). A report in W&B names these words again, so they are
chosen once, here:

    config    family  data  policy  sampling_bias  n_<count>  seed  split_seed  arm
    summary   verdict  judged_by  ratio  excess  first/<metric>  last/<metric>  off_floor/<metric>
    history   <section>/<metric>  <section>/<metric>_floor  samples  data/<count>  seconds/<phase>

A floor stands in its metric's own section, so that one chart holds both. Lineages that differ only
in the seed are an *arm*, and ``arm`` is the same for all of them and for no other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from mad_lightning.files import finite
from mad_lightning.lineage.configuration import settings_digest
from mad_lightning.lineage.ledger import GenerationRecord, is_closed
from mad_lightning.schedules import spelled

__all__ = [
    "AXIS",
    "PICTURE",
    "arm",
    "floor_key",
    "history_row",
    "metric_key",
    "outcome",
    "settings",
]

AXIS = "generation"
PICTURE = "samples"


def metric_key(name: str, section: str) -> str:
    """A metric's key in the history."""
    return f"{section}/{name}"


def floor_key(name: str, section: str) -> str:
    """The key of its floor, beside it."""
    return f"{section}/{name}_floor"


def history_row(record: GenerationRecord) -> dict[str, Any]:
    """What W&B gets for one generation, without its picture."""
    sections = {name: quantity.section for name, quantity in record.quantities.items()}
    return {
        AXIS: record.generation,
        **{metric_key(name, sections[name]): value for name, value in record.metrics.items()},
        **{floor_key(name, sections[name]): value for name, value in record.floor.items()},
        **{f"data/{name}": getattr(record, name) for name in ("n_real", "n_fresh", "n_synthetic")},
        **({"data/n_external": record.n_external} if record.n_external else {}),
        **{f"seconds/{name}": value for name, value in record.seconds.items()},
    }


def settings(
    config: Mapping[str, Any], policy: str, sampling_bias: float | str, seed: int | None
) -> dict[str, Any]:
    """How a lineage was made, in short words, as far as its configuration tells."""
    data = _arguments(config.get("data"))
    told = {
        "family": _name(config.get("generator")),
        "data": _name(data.get("source")),
        "policy": policy,
        "sampling_bias": sampling_bias,
        **_counts(config),
        "seed": seed,
        "split_seed": "own" if data.get("split_seed", 0) is None else data.get("split_seed"),
    }
    return {name: value for name, value in told.items() if value is not None}


def arm(
    config: Mapping[str, Any],
    policy: str,
    sampling_bias: float | str,
    *,
    name: str,
    data: str,
    records: Sequence[GenerationRecord] = (),
) -> str:
    """What all seeds of a configuration share, and no other lineage has.

    Args:
        config: Its configuration; without one, the lineage's name stands in, less its seed.
        policy: Token of its loop policy.
        sampling_bias: λ, or its schedule.
        name: Name of the lineage.
        data: Digest of its real samples.
        records: Its finished generations, of which a branch has some from its parent.
    """
    made = settings_digest(config or {"name": re.sub(r"_seed\d+", "", name)})
    branched = [(r.generation, r.digests.get("settings")) for r in records if r.branched_from]
    digest = sha256(json.dumps([policy, made, data, branched]).encode()).hexdigest()
    fresh = {k: v for k, v in _counts(config).items() if k in ("n_real", "n_fresh")}
    words = [f"{key} {value}" for key, value in fresh.items()]
    return " ".join([policy, f"λ {spelled(sampling_bias)}", *words, digest[:8]])


def outcome(records: Sequence[GenerationRecord]) -> dict[str, Any]:
    """What came out of one lineage: its verdict in words, where its values began and end.

    ``ratio`` and ``excess`` are of the judged distance, from generation 1 to the last third of the
    lineage (:class:`mad_lightning.verdict.Verdict`); ``off_floor`` is the first generation from
    which on a share of fidelity or diversity is off its floor, None if it is not.
    """
    if not records:
        return {}
    from mad_lightning.verdict.lineages import judge_lineages

    first, last = records[0], records[-1]
    closed = is_closed([record.closed for record in records])
    judgement = judge_lineages([records], closed=closed, n=first.protocol.get("n"))
    verdict = judgement.verdict
    told = {
        "verdict": verdict.reason,
        "judged_by": judgement.distance,
        "ratio": verdict.rise.estimate if verdict.relative else None,
        "excess": verdict.excess.estimate,
        **{f"first/{name}": value for name, value in first.metrics.items()},
        **{f"last/{name}": value for name, value in last.metrics.items()},
        **{f"off_floor/{name}": left.generation for name, left in judgement.left.items()},
    }
    return finite(told)


def _counts(config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of samples that a policy was told; some are schedules in t."""
    told = _arguments(config.get("policy"))
    return {key: value for key, value in told.items() if re.fullmatch(r"n|n_\w+", key)}


def _arguments(part: Any) -> Mapping[str, Any]:
    """Arguments of a part of a configuration, whether or not it tells its class."""
    if not isinstance(part, Mapping):
        return {}
    return part.get("init_args") or {} if "class_path" in part else part


def _name(part: Any) -> str | None:
    """Name of the class of a part of a configuration."""
    path = part.get("class_path") if isinstance(part, Mapping) else part
    return str(path).rpartition(".")[2] if path else None
