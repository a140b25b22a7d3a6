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

    refine: 0.05                       # halve what lies between a safe share and the next smaller

A field ``config`` names a further configuration, so that families can stand side by side. Seeds
vary slowest, so that all arms are known from one seed before any is known from two.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mad_lightning.files import Damaged
from mad_lightning.lineage.configuration import decisive
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.lineage.naming import dotted, label, named, word
from mad_lightning.lineage.settings import LineageSettings
from mad_lightning.refusal import Refused

__all__ = ["Member", "Sweep"]

_SEED, _CONFIG = "seed_everything", "config"
_FIELDS = ("base", "grid", "zip", "also", "refine")
_FRESH, _SYNTHETIC = "policy.n_fresh", "policy.n_synthetic"
_GENERATIONS = LineageSettings.generations


@dataclass(frozen=True)
class Member:
    """One lineage of a sweep.

    Attributes:
        arm: What it has in common with the other seeds.
        seed: Its seed.
        arguments: Of the command ``mad train``.
        directory: Where it lies.
        generations: How many it shall have.
        devices: Processes that train it, each with a device of its own. More than one must be
            started together, as a program of their own.
        threads: CPU threads of each; None if nobody told.
        wanted: What its configuration must say, as far as the sweep and its base do.
    """

    arm: str
    seed: int
    arguments: list[str]
    directory: LineageDirectory
    generations: int
    devices: int
    threads: int | None
    wanted: dict[str, str]

    @property
    def name(self) -> str:
        """Its name."""
        return self.directory.name

    @property
    def kind(self) -> tuple[tuple[str, str], ...]:
        """Settings that decide what an image costs: all but the mix, the bias and the seed."""
        free = ("policy", "sampling_bias", _SEED)
        return tuple(pair for pair in self.wanted.items() if not pair[0].startswith(free))

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
        refine: Arms that differ in ``policy.n_fresh`` and ``policy.n_synthetic`` alone get another
            one halfway between the smallest share of fresh samples that keeps a loop sane and the
            next smaller one, until they are no farther apart than this.
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
        refine: float | None = None,
        root: Path | None = None,
    ) -> None:
        self.base, self.root, self.refine = [*base], root, refine
        for field, values in (("grid", grid), ("zip", zip)):
            _check_values(field, values or {})
        lengths = {len(values) for values in (zip or {}).values()}
        if len(lengths) > 1:
            raise Refused("zip", f"its fields have {sorted(lengths)} values", "give all as many")
        if not isinstance(also, Sequence) or not all(isinstance(one, Mapping) for one in also):
            raise Refused("also", f"{also!r} are no settings", "give a list of {field: value}")
        self.settings = [_plain(one) for one in (*_product(grid or {}, zip or {}), *also)] or [{}]
        made = [self._member(one) for one in self.settings]
        self.members = sorted(made, key=lambda member: member.seed)
        twice = [name for name, n in Counter(member.name for member in made).items() if n > 1]
        if twice:
            raise Refused("also", f"{twice[0]} is there twice", "leave one of them out")
        if refine is not None:
            self._check_refining()

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
        for part in ("grid", "zip"):
            if isinstance(plain.get(part), dict) and isinstance(plain[part].get(_CONFIG), list):
                plain[part][_CONFIG] = [str(path.parent / str(x)) for x in plain[part][_CONFIG]]
        for one in plain.get("also") or ():
            if isinstance(one, dict) and _CONFIG in one:
                one[_CONFIG] = str(path.parent / str(one[_CONFIG]))
        files = [path.parent / str(name) for name in names]
        parts = (plain.get("grid"), plain.get("zip"), plain.get("also") or ())
        return cls(files, *parts, plain.get("refine"), root)

    @property
    def arms(self) -> dict[str, list[Member]]:
        """The lineages by arm, in the order of the sweep."""
        arms: dict[str, list[Member]] = {}
        for member in self.members:
            arms.setdefault(member.arm, []).append(member)
        return arms

    def refined(self, safe_arms: Collection[str]) -> dict[str, list[Member]]:
        """Adds an arm halfway to where the border may lie, for all that differ in their share.

        Args:
            safe_arms: Those whose share was shown to be enough.

        Returns:
            The arms that are new; none where the border is known well enough, or there is none.
        """
        if self.refine is None:
            return {}
        new: dict[str, list[Member]] = {}
        for settings in self._families():
            safe: dict[str, Any] | None = None
            for one in sorted(settings, key=_share, reverse=True):  # the largest share first
                if self._member(one).arm not in safe_arms:
                    break
                safe = one
            else:
                continue  # all are safe
            if safe is None or _share(safe) - _share(one) <= self.refine:
                continue
            fresh, n = (safe[_FRESH] + one[_FRESH]) // 2, safe[_FRESH] + safe[_SYNTHETIC]
            if fresh in (safe[_FRESH], one[_FRESH]):
                continue
            seeds = [each[_SEED] for each in self.settings if _but_share(each) == _but_share(safe)
                     and each[_FRESH] == safe[_FRESH]]  # fmt: skip
            halfway = {**safe, _FRESH: fresh, _SYNTHETIC: n - fresh}
            self.settings += (made := [{**halfway, _SEED: seed} for seed in seeds])
            new |= {self._member(made[0]).arm: [self._member(each) for each in made]}
        self.members += [member for members in new.values() for member in members]
        return new

    def _families(self) -> list[list[dict[str, Any]]]:
        """Settings of one seed that differ in their share alone."""
        families: dict[str, dict[int, dict[str, Any]]] = {}
        for one in self.settings:
            families.setdefault(_but_share(one), {}).setdefault(one[_FRESH], one)
        return [[*family.values()] for family in families.values()]

    def _check_refining(self) -> None:
        if isinstance(self.refine, bool) or not isinstance(self.refine, int | float) or not (
            0 < self.refine < 1
        ):  # fmt: skip
            raise Refused("refine", f"{self.refine!r}", "give a share within (0, 1), e.g. 0.05")
        whole = (_FRESH, _SYNTHETIC, _SEED)
        if any(type(one.get(key)) is not int for one in self.settings for key in whole):
            problem = f"not all arms have numbers of {', '.join(whole)}"
            raise Refused("refine", problem, "give them under `grid` or `zip`")
        for family in self._families():
            if len({one[_FRESH] + one[_SYNTHETIC] for one in family}) > 1:
                problem = "arms differ in how many samples a generation has"
                raise Refused("refine", problem, "let fresh and synthetic ones add up to as many")

    def _member(self, settings: Mapping[str, Any]) -> Member:
        files = [*self.base, *map(Path, [settings[_CONFIG]] if _CONFIG in settings else [])]
        if not files:
            raise Refused("base", "there is none", "name a configuration of mad train")
        told = {key: value for key, value in settings.items() if key != _CONFIG}
        known = _read(files) | told
        seed, generations = known.get(_SEED, 0), known.get("lineage.generations", _GENERATIONS)
        for field, number, least in ((_SEED, seed, 0), ("generations", generations, 1)):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise Refused(field, f"{number!r} is none", f"give whole numbers from {least} on")
        arm = label("+".join(file.stem for file in files), named(told))
        root = self.root or Path(str(known.get("lineage.root", "runs")))
        name = f"{arm}_seed{seed}"
        arguments = [f"--config={file}" for file in files]
        arguments += [f"--{key}={_text(value)}" for key, value in told.items()]
        arguments += [f"--lineage.name={name}", *([f"--lineage.root={root}"] if self.root else [])]
        threads = known.get("lineage.threads")
        return Member(
            arm,
            seed,
            arguments,
            LineageDirectory(root / name),
            generations,
            _devices(known),
            threads if isinstance(threads, int) else None,
            _words(known),
        )


def _read(files: Sequence[Path]) -> dict[str, Any]:
    """What configurations say together, by dotted field; later ones win."""
    common: dict[str, Any] = {}
    for file in files:
        try:
            plain = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            problem = f"{file} cannot be read: {reason}"
            raise Refused("base", problem, "name configurations of mad train") from None
        if not isinstance(plain, Mapping):
            raise Refused("base", f"{file} is no configuration", "name one of mad train")
        common |= dotted(plain)
    return common


def _share(settings: Mapping[str, Any]) -> float:
    """Of fresh samples."""
    return settings[_FRESH] / (settings[_FRESH] + settings[_SYNTHETIC])


def _but_share(settings: Mapping[str, Any]) -> str:
    """All else that an arm has of its own."""
    rest = {k: v for k, v in settings.items() if k not in (_FRESH, _SYNTHETIC, _SEED)}
    return json.dumps(rest, sort_keys=True, default=str)


def _devices(known: Mapping[str, Any]) -> int:
    """Processes of a lineage; where nobody says, one."""
    told, nodes = known.get("trainer.devices", "auto"), known.get("trainer.num_nodes") or 1
    if isinstance(told, list):
        return len(told)
    if isinstance(told, str) and told.isdecimal():
        told = int(told)
    several = str(known.get("trainer.strategy", "auto")).startswith("ddp")
    one = told if isinstance(told, int) and told > 0 else 2 if several else 1
    return one * (nodes if isinstance(nodes, int) else 1)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as flags spell them."""
    return {str(key).replace(".init_args.", "."): value for key, value in settings.items()}


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


def _words(config: Mapping[str, Any]) -> dict[str, str]:
    """Single values that decide a lineage's numbers, by dotted field."""
    fields = decisive({k: v for k, v in dotted(config).items() if not isinstance(v, list | tuple)})
    return {key: word(value) for key, value in fields.items()}


def _text(value: Any) -> str:
    """A value as a flag has it."""
    return value if isinstance(value, str) else json.dumps(value)
