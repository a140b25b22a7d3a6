"""Names that say what a lineage has of its own, and that no two settings share.

    digits_diffusion_fresh,sampling_bias=0.8,n_fresh=90,generator.lr=0.001_seed0

A field is told by its whole dotted name, so that ``data.n`` and ``generator.n`` are two; those of
the policy, which studies vary most, go without ``policy``. A value is told so that it can be read
back; what cannot stand in a file's name, or is long, has a digest behind it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import PurePath
from typing import Any

import yaml

from mad_lightning.lineage.configuration import decisive

__all__ = ["dotted", "label", "named", "overridden", "word"]

_SEED = "seed_everything"
_POLICY = "policy."
_BESIDE_POLICY = ("sampling_bias", _SEED)
_PLACES = ("root", "path")
"""Fields of a source that say where the data lie: a move shall not rename a lineage."""
_LONG = 40
_MOST = 200
"""Bytes of a name; file systems take 255, and logs and locks beside it have an ending."""


def label(base: str, settings: Mapping[str, Any]) -> str:
    """A name of what stands in ``base`` under settings by dotted field, without a seed."""
    name = ",".join([base, *(f"{_short(key)}={word(settings[key], key)}" for key in settings)])
    name = re.sub(r"[^\w.+=,~-]", "-", name)
    if len(name.encode()) <= _MOST:
        return name
    return name.encode()[: _MOST - 11].decode(errors="ignore") + f"~{_digest(name, 10)}"


def named(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Of settings by dotted field, those that belong into a name: what decides numbers, and data.

    Seeds have a place of their own in names.
    """
    kept = {*decisive(dict.fromkeys(fields, ""))}
    kept |= {key for key in fields if key.startswith("data.source")}
    return {key: value for key, value in fields.items() if key in kept and key != _SEED}


def overridden(arguments: Sequence[str], files: Mapping[str, Any]) -> dict[str, Any]:
    """What a command's flags say otherwise than its configuration files, by dotted field.

    Args:
        arguments: Of ``mad train``.
        files: What its files say, by dotted field.
    """
    said: dict[str, Any] = {}
    for key, text in _flags(arguments):
        value = _value(text)
        if key.endswith("+"):  # one more of a list
            value = [*said.get(key, []), value]
        said[key] = value
    for key, value in said.items():
        if key.endswith("+") and len(value) == 1:
            said[key] = value[0]
    return {
        key: value
        for key, value in named({key: said[key] for key in sorted(said)}).items()
        if key not in files or word(files[key], key) != word(value, key)
    }


def word(value: Any, field: str = "") -> str:
    """A value as part of a name; equal values, and only they, have equal words."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        whole = isinstance(value, int) or (value.is_integer() and abs(value) < 1e15)
        return str(int(value)) if whole else repr(value)
    if not isinstance(value, str):
        return _digest(json.dumps(value, sort_keys=True, default=str))
    if field.rpartition(".")[2] in _PLACES:
        value = PurePath(value).name or value
    if value.startswith("mad_lightning."):
        value = value.rpartition(".")[2]
    plain = re.sub(r"[^\w.+-]", "-", value)
    if plain == value and value and len(value) <= _LONG:
        return value
    return f"{plain[: _LONG // 2]}~{_digest(value)}"


def dotted(plain: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted field; ``class_path`` and ``init_args`` as mad train's flags spell them."""
    fields: dict[str, Any] = {}
    if not isinstance(plain, Mapping):
        return {prefix: plain}
    for key, value in plain.items():
        inner = prefix if key in ("class_path", "init_args") else f"{prefix}.{key}".lstrip(".")
        fields |= dotted(value, inner)
    return fields


def _short(field: str) -> str:
    rest = field.removeprefix(_POLICY)
    return field if rest in _BESIDE_POLICY or "." in rest else rest


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs of a dotted field and its text; ``+=`` keeps its plus."""
    waiting: str | None = None
    for argument in arguments:
        if waiting is not None and not argument.startswith("--"):
            yield waiting, argument
            waiting = None
        elif argument.startswith("--"):
            key, is_whole, text = argument.removeprefix("--").partition("=")
            waiting = None if is_whole or key == "config" else key
            if is_whole and key != "config":
                yield key, text


def _value(text: str) -> Any:
    """What a flag's text means, as far as a name must know it."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _digest(text: str, letters: int = 6) -> str:
    return sha256(text.encode()).hexdigest()[:letters]
