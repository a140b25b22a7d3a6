"""The ledger: what happened, one line a finished generation.

``lineage.jsonl`` is the truth about a lineage; the console table, the W&B run and every report are
views of it. A generation is finished when its line stands, and not before. Its directory holds the
artefact of each phase, and an artefact appears whole or not at all (:func:`write_atomically`), so
whatever kills the program, running the same command again goes on where it stopped.

    runs/<lineage>/
      config.yaml  lineage.jsonl
      generation_001/
        mix.json  train/{last.ckpt, curves.csv}  generator.ckpt
        shard.safetensors  shard.json  samples.png  metrics.json
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from mad_lightning.refusal import Refused

__all__ = [
    "GenerationRecord",
    "Ledger",
    "LineageSettings",
    "Start",
    "differences",
    "read_json",
    "write_atomically",
    "write_json",
]

Start = Literal["scratch", "base", "previous"]


@dataclass(frozen=True)
class GenerationRecord:
    """One finished generation.

    Attributes:
        generation: Index t, from 1.
        policy: Token of the loop policy.
        n_real: Samples of the fixed real set in its training mix.
        n_fresh: Real samples used for the first time.
        n_synthetic: Samples of earlier generators.
        sampling_bias: λ that its own shard was drawn with.
        metrics: Measured values by name; each name states its extractor where it matters.
        floor: The same metrics, real against other real samples at the same n.
        protocol: What the values depend on: n, k, extractor, weight hash, resize.
        sampler: What besides λ shapes its samples: sampler, steps, clipping, weights used.
        images: Training images it has seen.
        seconds: Wall seconds by phase.
        digests: SHA-256 by artefact (``generator``, ``shard``, ``metrics``).
        world_size: Processes that trained it.
        start: Where its first weights came from: ``scratch``, ``base`` or ``previous``.
    """

    generation: int
    policy: str
    n_real: int
    n_fresh: int
    n_synthetic: int
    sampling_bias: float
    metrics: dict[str, float]
    floor: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    images: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    world_size: int = 1
    start: Start = "scratch"

    def to_json(self) -> str:
        """One line of JSON; values that are not finite become null."""
        return json.dumps(_finite(asdict(self)), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> GenerationRecord:
        """Inverse of :meth:`to_json`; null metrics become NaN, unknown keys are ignored."""
        known = {each.name for each in fields(cls)}
        plain = {key: value for key, value in json.loads(line).items() if key in known}
        for name in ("metrics", "floor"):
            values = plain.get(name) or {}
            plain[name] = {k: math.nan if v is None else v for k, v in values.items()}
        return cls(**plain)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file that readers see whole or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Writes plain values as JSON, atomically; values that are not finite become null."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False)
    write_atomically(path, (text + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; empty if there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


class Ledger:
    """The records of one lineage, on disk.

    Args:
        directory: The lineage's directory; it need not exist yet.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "lineage.jsonl"

    def _lines(self) -> Iterator[bytes]:
        if self.path.exists():
            for line in self.path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):  # a line torn by a kill was never finished
                    yield line

    def records(self) -> list[GenerationRecord]:
        """All finished generations, in order."""
        return [GenerationRecord.from_json(line.decode()) for line in self._lines()]

    def append(self, record: GenerationRecord) -> None:
        """Adds a finished generation, durably.

        Raises:
            ValueError: If it is not the next one.
        """
        lines = list(self._lines())
        if record.generation != len(lines) + 1:
            raise ValueError(f"generation {record.generation} cannot follow {len(lines)}")
        with self.path.open("ab") as file:
            file.truncate(sum(map(len, lines)))
            file.write(record.to_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


@dataclass
class LineageSettings:
    """Where a lineage lives and how long it is.

    Args:
        name: Its name and directory under ``root``; None makes one from the configuration files'
            names and the seed.
        root: Directory of all lineages.
        generations: How many generations to train; may be raised later to go on.
        block_size: Samples drawn and stored at a time: the unit that is spread over devices and
            that survives a kill.
        n_grid: Samples in the picture of each generation.
        threads: CPU threads of each process; None leaves it to torch. Small networks are as fast on
            one thread, unharmed by a busy machine, and give the same bits on any number of cores.
        start: The weights that training starts from: ``scratch``, new ones in each generation, as
            in the paper; ``base``, the same checkpoint each time; ``previous``, those that the
            generation before ended with. The last two are what the literature on fine-tuning loops
            does (Bertrand et al., 2024; Gillman et al., 2024). Optimisers always start anew.
        base: A ``generator.ckpt`` to start from: every generation for ``base``, the first one for
            ``previous``. None: generation 1 starts from scratch, and is the base of later ones.
    """

    name: str | None = None
    root: str = "runs"
    generations: int = 6
    block_size: int = 256
    n_grid: int = 80
    threads: int | None = None
    start: Start = "scratch"
    base: str | None = None

    def __post_init__(self) -> None:
        if self.base is not None and self.start == "scratch":
            raise Refused(
                "lineage.base",
                f"{self.base} would not be used: every generation starts from scratch",
                "set lineage.start to base or previous, or leave lineage.base out",
            )
        if self.base is not None and not Path(self.base).is_file():
            raise Refused(
                "lineage.base",
                f"there is no file {self.base}",
                "name a generator.ckpt, e.g. runs/<lineage>/generation_001/generator.ckpt",
            )
        for name in ("generations", "block_size", "n_grid", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise Refused(f"lineage.{name}", f"{value}", "take at least 1")

    @property
    def directory(self) -> Path:
        """The lineage's directory."""
        return Path(self.root) / (self.name or "lineage")

    def starts_from(self, t: int) -> int | Path | None:
        """Where the first weights of generation ``t`` come from.

        Returns:
            An earlier generation, a checkpoint's file, or None for new weights.
        """
        if self.start == "scratch":
            return None
        if t == 1 or (self.start == "base" and self.base is not None):
            return None if self.base is None else Path(self.base)
        return 1 if self.start == "base" else t - 1


_MAY_CHANGE = (
    "lineage.generations",
    "lineage.n_grid",
    "lineage.name",
    "lineage.root",
    "callbacks",
    "data.cache",
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
    before, after = dict(_flatten(old)), dict(_flatten(new))
    return [
        f"{key}: {before.get(key, '(absent)')} -> {after.get(key, '(absent)')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not key.startswith(_MAY_CHANGE)
    ]


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _flatten(each, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
        for place, each in enumerate(value):
            yield from _flatten(each, f"{prefix}.{place}")
    else:
        yield prefix, list(value) if isinstance(value, tuple) else value
