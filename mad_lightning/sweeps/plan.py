"""What a sweep holds: the lineages of a product of settings, each with a name of its own.

    base: ../digits_diffusion_full_synth.yaml
    grid:                              # all combinations
      sampling_bias: [1.0, 0.66]
      seed_everything: [0, 1, 2]
    zip:                               # side by side: as many values each
      policy.n_fresh: [0, 100]
      policy.n_synthetic: [900, 800]
    also:                              # single ones besides
      - {sampling_bias: 0.5, seed_everything: 0}

Seeds vary slowest, so that all arms are known from one seed before any is known from two.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from mad_lightning.files import Damaged
from mad_lightning.lineage.configuration import decisive
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.refusal import Refused

__all__ = ["Member", "Sweep"]

_SEED = "seed_everything"
_FIELDS = ("base", "grid", "zip", "also")


@dataclass(frozen=True)
class Member:
    """One lineage of a sweep.

    Attributes:
        arm: What it has in common with the other seeds.
        seed: Its seed.
        arguments: Of the command ``mad train``.
        directory: Where it lies.
        generations: How many it shall have.
        wanted: What its configuration must say, as far as the sweep and its base do.
    """

    arm: str
    seed: int
    arguments: list[str]
    directory: LineageDirectory
    generations: int
    wanted: dict[str, str]

    @property
    def name(self) -> str:
        """Its name."""
        return self.directory.name

    @property
    def reached(self) -> int:
        """Generations that stand.

        Raises:
            Refused: If its ledger is not what was written.
        """
        return len(self.directory.ledger)

    @property
    def is_finished(self) -> bool:
        """Whether all generations stand, made of these settings."""
        if self.reached < self.generations:
            return False
        try:
            kept = _words(self.directory.config())
        except Damaged:
            return False  # its own command says what is wrong
        return all(kept.get(key, value) == value for key, value in self.wanted.items())


class Sweep:
    """The lineages of one question.

    Args:
        base: Configurations of ``mad train`` that all have in common; later ones win.
        grid: Values by dotted field; all combinations.
        zip: Values by dotted field, as many each; one after the other.
        also: Settings of single lineages besides.
        root: Directory of all lineages; None takes the base's.

    Raises:
        Refused: If a field is not what it should be, or two lineages would have one name.
    """

    def __init__(
        self,
        base: Sequence[Path],
        grid: Mapping[str, Sequence[Any]] | None = None,
        zip: Mapping[str, Sequence[Any]] | None = None,
        also: Sequence[Mapping[str, Any]] = (),
        root: Path | None = None,
    ) -> None:
        self.base, self.root = [*base], root
        if not self.base:
            raise Refused("base", "there is none", "name a configuration of mad train")
        for field, values in (("grid", grid), ("zip", zip)):
            _check_values(field, values or {})
        lengths = {len(values) for values in (zip or {}).values()}
        if len(lengths) > 1:
            raise Refused("zip", f"its fields have {sorted(lengths)} values", "give all as many")
        if not isinstance(also, Sequence) or not all(isinstance(one, Mapping) for one in also):
            raise Refused("also", f"{also!r} are no settings", "give a list of {field: value}")
        self._common = self._read()
        settings = [*_product(grid or {}, zip or {}), *map(dict, also)]
        fields = dict.fromkeys(key for one in settings for key in one)
        self._named = [key for key in decisive(fields) if key != _SEED]  # the rest may change
        made = [self._member(one) for one in settings]
        self.members = sorted(made, key=lambda member: member.seed)
        twice = [name for name, n in Counter(member.name for member in made).items() if n > 1]
        if twice:
            raise Refused("also", f"{twice[0]} is there twice", "leave one of them out")

    @classmethod
    def read(cls, path: Path, root: Path | None = None) -> Sweep:
        """From a YAML file; its ``base`` is named from where the file lies.

        Raises:
            Refused: If the file is no sweep.
        """
        try:
            plain = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            raise Refused("config", f"{path} cannot be read: {reason}", "name a sweep") from None
        if not isinstance(plain, dict):
            raise Refused("config", f"{path} is no sweep", f"give {', '.join(_FIELDS)}")
        if unknown := sorted(plain.keys() - {*_FIELDS}):
            raise Refused(
                str(unknown[0]), "there is no such field", f"a sweep has {', '.join(_FIELDS)}"
            )
        base = plain.get("base") or []
        names = base if isinstance(base, list) else [base]
        files = [path.parent / str(name) for name in names]
        return cls(files, plain.get("grid"), plain.get("zip"), plain.get("also") or (), root)

    @property
    def arms(self) -> dict[str, list[Member]]:
        """The lineages by arm, in the order of the sweep."""
        arms: dict[str, list[Member]] = {}
        for member in self.members:
            arms.setdefault(member.arm, []).append(member)
        return arms

    @property
    def threads(self) -> int | None:
        """CPU threads of each lineage, where the base says."""
        told = self._common.get("lineage.threads")
        return told if isinstance(told, int) else None

    def _read(self) -> dict[str, Any]:
        """What the base says, by dotted field."""
        common: dict[str, Any] = {}
        for file in self.base:
            try:
                plain = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
                problem = f"{file} cannot be read: {reason}"
                raise Refused("base", problem, "name configurations of mad train") from None
            common |= _dotted(plain)
        return common

    def _member(self, settings: Mapping[str, Any]) -> Member:
        known = self._common | dict(settings)
        seed = settings.get(_SEED, self._common.get(_SEED, 0))
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise Refused(_SEED, f"{seed!r} is no seed", "give whole numbers")
        parts = ["+".join(file.stem for file in self.base)]
        parts += [
            f"{key.rpartition('.')[2]}={_word(settings[key])}"
            for key in self._named
            if key in settings
        ]
        arm = re.sub(r"[^\w.+=,-]", "-", ",".join(parts))
        root = self.root or Path(str(known.get("lineage.root", "runs")))
        generations = known.get("lineage.generations", 10)
        name = f"{arm}_seed{seed}"
        arguments = [f"--config={file}" for file in self.base]
        arguments += [f"--{key}={_text(value)}" for key, value in settings.items()]
        arguments += [f"--lineage.name={name}", *([f"--lineage.root={root}"] if self.root else [])]
        place = LineageDirectory(root / name)
        return Member(arm, seed, arguments, place, generations, _words(known))


def _check_values(field: str, values: Any) -> None:
    if not isinstance(values, Mapping):
        raise Refused(field, f"{values!r} are no fields", "give {field: [value, ...]}")
    for key, several in values.items():
        if not isinstance(several, list | tuple) or not several:
            raise Refused(field, f"{key}: {several!r} is no list", "give its values in a list")


def _product(
    grid: Mapping[str, Sequence[Any]], beside: Mapping[str, Sequence[Any]]
) -> Iterator[dict[str, Any]]:
    if not grid and not beside:
        return
    rows = [dict(zip(beside, row, strict=True)) for row in zip(*beside.values(), strict=True)] or [
        {}
    ]
    for row, *values in itertools.product(rows, *grid.values()):
        yield dict(zip(grid, values, strict=True)) | row


def _dotted(plain: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted field; ``class_path`` and ``init_args`` as mad train's flags spell them."""
    fields: dict[str, Any] = {}
    if not isinstance(plain, Mapping):
        return {prefix: plain}
    for key, value in plain.items():
        inner = prefix if key in ("class_path", "init_args") else f"{prefix}.{key}".lstrip(".")
        fields |= _dotted(value, inner)
    return fields


def _words(config: Mapping[str, Any]) -> dict[str, str]:
    """Single values that decide a lineage's numbers, by dotted field."""
    fields = decisive({k: v for k, v in _dotted(config).items() if not isinstance(v, list | tuple)})
    return {key: _word(value) for key, value in fields.items()}


def _word(value: Any) -> str:
    """A value as part of a name."""
    if isinstance(value, str) and value:
        return value.rpartition(".")[2] if re.fullmatch(r"[\w.]+", value) else value
    if isinstance(value, bool | int | float) or value is None:
        return str(value).lower() if isinstance(value, bool) or value is None else f"{value:g}"
    return sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:6]


def _text(value: Any) -> str:
    """A value as a flag has it."""
    return value if isinstance(value, str) else json.dumps(value)
