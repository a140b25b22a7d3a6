"""Which changes of a configuration a lineage may go on under."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["decisive", "differences"]

_MAY_CHANGE = (
    "lineage.generations",
    "lineage.labels",  # asked of what was drawn: a lineage without classes does not care
    "lineage.n_grid",
    "lineage.name",
    "lineage.root",
    "lineage.threads",
    "callbacks",
    "data.cache",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.enable_",
    "trainer.logger",
    "trainer.log_every_n_steps",
    "trainer.profiler",
)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What of a configuration that decides a lineage's numbers has changed.

    Returns:
        Lines ``key: old -> new``; empty if a lineage may go on under the new configuration.
    """
    before, after = decisive(old), decisive(new)
    return [
        f"{key}: {before.get(key, '(absent)')} -> {after.get(key, '(absent)')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration decides a lineage's numbers, by dotted key."""
    return {k: v for k, v in _flatten(config) if not k.startswith(_MAY_CHANGE)}


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
