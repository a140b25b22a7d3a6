"""Which changes of a configuration a lineage may go on under.

What numbers depend on may not change. Where the same data lie, how many devices share the work and
who watches may: the ledger says from which generation on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

__all__ = ["circumstances", "decisive", "differences", "settings_digest"]

_MAY_CHANGE = (
    "lineage.base",  # known by its weights
    "lineage.generations",
    "lineage.keep",
    "lineage.labels",  # asked of what was drawn: a lineage without classes does not care
    "lineage.n_grid",
    "lineage.name",
    "lineage.root",
    "lineage.threads",
    "callbacks",
    "data.cache",
    "data.device_batch",
    "data.external",  # known by the content of its samples
    "data.source",  # likewise
    "evaluator.n_errors",  # no value depends on it
    "evaluator.extractor.init_args.download",
    "evaluator.extractor.init_args.weights_path",  # the protocol has a digest of the weights
    "trainer.accelerator",
    "trainer.default_root_dir",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.enable_",
    "trainer.logger",
    "trainer.log_every_n_steps",
    "trainer.profiler",
)
_LIKE_ABSENT = (
    ("evaluator.preset", "held_out"),
    ("evaluator.n_drawn", None),
    ("evaluator.device", "cpu"),
    ("generator.init_args.beta_start", 1e-4),
    ("generator.init_args.beta_end", 0.02),
    ("generator.init_args.first_noise_within", None),
    ("generator.init_args.compile", None),
    ("improve", None),
)
"""Values of keys that configurations did not always have, and of what there was until then."""
_NO_CIRCUMSTANCES = ("lineage.generations", "lineage.keep")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What of a configuration that decides a lineage's numbers has changed.

    Returns:
        Lines ``key: old -> new``; empty if a lineage may go on under the new configuration.
    """
    return _changes(decisive(old), decisive(new))


def circumstances(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What of a configuration has changed that may change.

    Returns:
        Lines ``key: old -> new``; how many generations there are to be, and what is kept of them,
        is none.
    """
    before, after = (
        {
            key: value
            for key, value in _flatten(config)
            if key.startswith(_MAY_CHANGE) and key not in _NO_CIRCUMSTANCES
        }
        for config in (old, new)
    )
    return _changes(before, after)


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}: {before.get(key, '(absent)')} -> {after.get(key, '(absent)')}"
        for key in sorted(before.keys() | after.keys())
        if _unlike(before.get(key), after.get(key))
    ]


def _unlike(old: Any, new: Any) -> bool:
    """Whether two values differ; what is not a number is equal to itself."""
    return bool(old != new) and repr(old) != repr(new)


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration decides a lineage's numbers, by dotted key."""
    return {
        k: v
        for k, v in _flatten(config)
        if not k.startswith(_MAY_CHANGE) and (k, v) not in _LIKE_ABSENT
    }


def settings_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of what decides a lineage's numbers beside its seed and its data."""
    settings = {k: _same(v) for k, v in decisive(config).items() if k != "seed_everything"}
    return sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def _same(value: Any) -> Any:
    """Values that are equal as one value: 1 and 1.0 are the same setting."""
    if isinstance(value, list | tuple):
        return [_same(inner) for inner in value]
    whole = isinstance(value, float) and value.is_integer()
    return int(value) if whole else value


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(inner, Mapping) for inner in value):
        for place, inner in enumerate(value):
            yield from _flatten(inner, f"{prefix}.{place}")
    elif isinstance(value, str) and value.startswith("mad_lightning."):
        yield prefix, value.rpartition(".")[2]  # our classes are known by name, not by their room
    else:
        yield prefix, list(value) if isinstance(value, tuple) else value
