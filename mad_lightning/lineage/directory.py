"""What a lineage keeps in its directory, and how it comes and goes.

The directory of a generation holds the artefact of each phase, and an artefact appears whole or not
at all (:mod:`mad_lightning.files`), so whatever kills the program, running the same command again
goes on where it stopped. Names are those of :mod:`mad_lightning.lineage.places`.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from mad_lightning.files import (
    BLANK,
    Damaged,
    appearing,
    folder_appearing,
    holder,
    read_json,
    sealed,
    sweep,
    to_disk,
    unsealed,
    write,
    write_json,
)
from mad_lightning.lineage.configuration import differences
from mad_lightning.lineage.ledger import GenerationRecord, Ledger
from mad_lightning.lineage.places import Places
from mad_lightning.policies import FOREIGN, Mix, Part, shard_name
from mad_lightning.refusal import Refused

__all__ = ["LineageDirectory", "finished_among"]

_SEAL = "seal"  # a column, empty up to the last row
_BLOCK = r"\d{5,}\.safetensors"
_UNFINISHED = ("blocks", "grid", "features", "own", "tried")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class LineageDirectory(Places):
    """The files of one lineage.

    Args:
        path: Its directory; it need not exist yet.
    """

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self._spent: dict[int, dict[str, dict[str, float]]] = {}  # on the generation at work

    # what they hold

    @property
    def has_ledger(self) -> bool:
        """Whether there is a ledger: not every directory is a lineage's."""
        return self.ledger.path.exists()

    @cached_property
    def ledger(self) -> Ledger:
        """One line a finished generation."""
        return Ledger(self.ledger_file)

    def records(self) -> list[GenerationRecord]:
        """All finished generations, in order."""
        return self.ledger.records()

    def config(self) -> dict[str, Any]:
        """The configuration; empty if none was kept.

        Raises:
            Damaged: If it is not what was written.
        """
        return _settings(self.config_file) if self.config_file.exists() else {}

    @property
    def has_config(self) -> bool:
        """Whether the configuration is there, and is what was written."""
        try:
            return bool(self.config()) or self.config_file.exists()
        except Damaged:
            return False

    def keep_config(self, config: Mapping[str, Any]) -> None:
        """Keeps a configuration."""
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        write(self.config_file, sealed(f"# seal: {BLANK}\n{text}"))

    def check_unchanged(self, config: Mapping[str, Any]) -> None:
        """Refuses to go on under a configuration that would give other numbers."""
        if not self.has_config or not self.is_begun:
            return
        changed = differences(self.config(), config)
        if changed:
            more = f"\n    ... and {len(changed) - 12} more" if len(changed) > 12 else ""
            raise Refused(
                "config",
                f"{self} was begun under another configuration:\n    "
                + "\n    ".join(changed[:12])
                + more,
                "undo the change, or give the new lineage a `name` of its own",
            )

    @property
    def is_one(self) -> bool:
        """Whether anything tells that it is a lineage's, be it only a start that failed."""
        known = (self.ledger_file, self.config_file, self.failed_file, self.generation(1))
        return any(path.exists() for path in known)

    @property
    def is_begun(self) -> bool:
        """Whether anything stands that the configuration has decided.

        Until then, and when the training of generation 1 has failed, another one may be tried.
        """
        if any(path.exists() for path in (self.ledger.path, self.generation(2))):
            return True
        failed = self.failed_file.exists() and not self.shard_stands(1)
        trained = (self.checkpoint(1), self.weights(1))
        return not failed and (self.shard_stands(1) or any(path.exists() for path in trained))

    def shard_stands(self, t: int) -> bool:
        """Whether anything that generation ``t`` drew was published."""
        return self.shard(shard_name(t)).with_suffix(".json").exists()

    def begin(self, config: Mapping[str, Any]) -> str:
        """Keeps the configuration, and drops what another one left of a start that failed.

        Returns:
            What was dropped, in words; usually nothing.
        """
        dropped = ""
        if not self.is_begun:
            failed = self.failed_file if self.failed_file.exists() else self.config_file
            try:
                changed = differences(_settings(failed), config) if failed.exists() else []
            except Damaged:
                changed = [f"{failed.name} was damaged"]
            if changed and self.generation(1).exists():
                self._drop(1)
                dropped = f"generation 1 begins anew ({'; '.join(changed[:3])})"
        self.failed_file.unlink(missing_ok=True)
        self.keep_config(config)
        return dropped

    def give_up(self, made: Sequence[Path]) -> None:
        """After a start that has failed: leaves nothing, or what a second start can go on from.

        Args:
            made: Directories that were made for it.
        """
        if self.ledger.path.exists() or self.generation(2).exists():
            return
        if any(path.exists() for path in (self.checkpoint(1), self.weights(1))):
            if self.config_file.exists() and not self.shard_stands(1):
                self.config_file.replace(self.failed_file)
            return
        self._drop(1)
        shutil.rmtree(self.wandb_folder, ignore_errors=True)
        for path in (self.config_file, self.failed_file, self.floor_file, self.wandb_notes):
            path.unlink(missing_ok=True)
        (self.path / ".lock").unlink(missing_ok=True)
        for path in made:
            with suppress(OSError):  # somebody keeps other things there
                path.rmdir()

    def _drop(self, t: int) -> None:
        """Drops what stands of an unfinished generation, and nothing that it did not make."""
        unfinished = map(partial(self.unfinished, t), _UNFINISHED)
        for path in (self.training(t), self.auxiliary_training(t), *unfinished):
            shutil.rmtree(path, ignore_errors=True)
        second = (self.auxiliary, self.improvement)
        for file in (self.mix_file, self.weights, *second, self.picture, self.seconds_file):
            file(t).unlink(missing_ok=True)
        with suppress(OSError):  # somebody keeps other things there
            self.generation(t).rmdir()

    def keep_mix(self, mix: Mix) -> None:
        """Keeps what a generation trains on, unless that stands."""
        with suppress(Damaged):
            if self.mix(mix.generation) == mix:
                return
        parts = [part.facts for part in mix.parts]
        kept = {"generation": mix.generation, "parts": parts}
        write_json(self.mix_file(mix.generation), kept, lasting=False)

    def mix(self, t: int) -> Mix | None:
        """What a generation was trained on; None if that was not kept.

        Raises:
            Damaged: If the file is not what was written.
        """
        plain = read_json(self.mix_file(t))
        if not plain:
            return None
        try:
            return Mix(t, tuple(map(_part, plain["parts"])))
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(self.mix_file(t)) from error

    def curves(self, t: int) -> list[dict[str, float]]:
        """What a generator logged: rows of ``epoch``, ``images`` and every logged value.

        Raises:
            Damaged: If the file is not what was written.
        """
        path = self.curves_file(t)
        if not path.exists():
            return []
        rows = list(csv.DictReader(io.StringIO(unsealed(path), newline="")))
        try:
            return [{k: float(v) for k, v in row.items() if v and k != _SEAL} for row in rows]
        except (ValueError, TypeError) as error:
            raise Damaged(path) from error

    def keep_curves(self, t: int, rows: Sequence[Mapping[str, float]]) -> None:
        """Keeps the curves of a generation, all rows of them."""
        text = io.StringIO()
        table = csv.DictWriter(text, [*sorted({name for row in rows for name in row}), _SEAL])
        table.writeheader()
        table.writerows([*rows[:-1], {**rows[-1], _SEAL: BLANK}])
        write(self.curves_file(t), sealed(text.getvalue()), lasting=False)

    def has_curves(self, t: int) -> bool:
        """Whether what a generator logged is there, and is what was written."""
        try:
            return bool(self.curves(t))
        except Damaged:
            return False

    def sound_picture(self, t: int) -> Path | None:
        """The picture of a generation, if there is one.

        Raises:
            Damaged: If it is not what was written.
        """
        path = self.picture(t)
        if not path.exists():
            return None
        if not _is_whole_png(path.read_bytes()):
            raise Damaged(path)
        return path

    def keep_measured(self, t: int, told: Mapping[str, Any]) -> None:
        """Keeps what was measured of a generation, as :meth:`measured` tells it."""
        write_json(self.metrics_file(t), dict(told), lasting=False)

    def measured(self, t: int) -> dict[str, Any]:
        """What was measured of a generation.

        ``values``, ``floor``, ``protocol`` and the digest of the ``shard``; and ``errors`` and
        ``floor_errors``, which were not always told.

        Empty if nothing was, or if the file is damaged.
        """
        try:
            return read_json(self.metrics_file(t))
        except Damaged:
            return {}

    def spent(self, t: int) -> dict[str, dict[str, float]]:
        """How long the phases of a generation took, as far as that was kept.

        Wall ``seconds`` and ``cpu_seconds`` of this process, by phase, as ledgers tell them.
        """
        told = self._spent.get(t, {})
        if not told:
            with suppress(Damaged):  # no number depends on it
                told = read_json(self.seconds_file(t))
        return {kind: told.get(kind, {}) for kind in ("seconds", "cpu_seconds")}

    def branch(self, path: Path, t: int, config: Mapping[str, Any]) -> None:
        """Begins another lineage with the first generations of this one, or leaves no trace.

        Files are shared where the disk can do that, else copied: neither lineage ever changes one.

        Args:
            path: Its directory.
            t: The last generation that both have.
            config: What it goes on under.
        """
        ancestors = zip(self.records()[:t], self.ledger.digests(), strict=False)
        with folder_appearing(path) as place:
            branch = LineageDirectory(place)
            for shared in range(1, t + 1):
                self.share(shared, branch)
            if self.floor_file.exists():
                _share(self.floor_file, branch.floor_file)
            for record, digest in ancestors:
                mark = record.branched_from or {"name": self.name, "digest": digest}
                branch.ledger.append(replace(record, branched_from=mark))
            branch.keep_config(config)

    def share(self, t: int, other: LineageDirectory, measured: bool = True) -> None:
        """Gives another directory the files of a finished generation that it lacks.

        Args:
            t: Generation.
            other: The other directory.
            measured: Whether with what was measured.
        """
        files = [*self.generation(t).rglob("*"), *(self.path / FOREIGN).rglob("*")]
        for file in (file for file in files if file.is_file() and file.name[0] != "."):
            target = other.path / file.relative_to(self.path)
            if not target.exists() and (measured or file != self.metrics_file(t)):
                target.parent.mkdir(parents=True, exist_ok=True)
                _share(file, target)

    # at work

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lineage against a second program, and sweeps what a killed one left half.

        What fails before anything was trained leaves nothing; what one may only read is not held.
        """
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        if not os.access(self.path, os.W_OK):
            yield
            return
        with self._lock():
            self.sweep_all()
            try:
                yield
            except OSError:  # the same command goes on when the machine can
                if not self.is_begun:
                    self.give_up(made)
                raise
            except Exception:
                self.give_up(made)
                raise

    def _lock(self) -> FileLock:
        """The lineage's lock, taken; the system drops it at any death."""
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise Refused(
                "name",
                f"another program is training {self} at this moment{holder(Path(lock.lock_file))}",
                "wait for it, or give this lineage a `name` of its own; if none is alive on any "
                f"machine, delete {lock.lock_file}",
            ) from None
        # filelock raises NotImplementedError where a system has no locks
        except (OSError, NotImplementedError) as error:
            if getattr(error, "errno", None) not in (None, *_NO_LOCKS):
                raise
            problem = f"the file system of {self} gives no locks: {error}"
            raise Refused("root", problem, "take a `root` on another file system") from None
        return lock

    @contextmanager
    def timed(self, t: int, phase: str) -> Iterator[Callable[[], None]]:
        """Keeps how long a phase takes, over all starts that it needs.

        Yields:
            To be called often while it goes on, so that a kill costs at most a second of the count.
        """
        before, used = self.spent(t), _cpu_seconds()
        start = last = time.perf_counter()

        def tick() -> None:
            nonlocal last
            now = time.perf_counter()
            more = {"seconds": now - start, "cpu_seconds": _cpu_seconds() - used}
            self._spent[t] = {
                kind: told | {phase: round(told.get(phase, 0.0) + more[kind], 3)}
                for kind, told in before.items()
            }
            if now - last > 1.0:
                write_json(self.seconds_file(t), self._spent[t], lasting=False)
                last = now

        yield tick
        tick()

    def settle(self, t: int) -> None:
        """Waits until what a generation keeps would survive a power cut; then the ledger may tell.

        Weights that are dear to make again have waited when they were written.
        """
        kept = (self.mix_file, self.picture, self.metrics_file, self.weights, self.curves_file)
        files = [*(file(t) for file in kept), *self.generation(t).glob("*.safetensors")]
        files += [file.with_suffix(".json") for file in files if file.suffix == ".safetensors"]
        to_disk(*filter(Path.exists, [*files, self.training(t), self.generation(t)]))

    def sweep_all(self) -> None:
        """Drops what killed programs left; whoever calls it holds the lineage."""
        sweep(self.path, r"config\.yaml|\w+\.json|mark-\w+|report\.html|real\.png", alone=True)
        finished = len(self.ledger)
        for place in self.path.glob(f"{self.GENERATION}*"):
            number = place.name.removeprefix(self.GENERATION)
            if number.isdecimal() and place == self.generation(t := int(number)):
                sweep(place, r"samples\.png|\w+\.(ckpt|json|safetensors)", alone=True)
                sweep(self.auxiliary_training(t), r"last\.ckpt", alone=True)
                sweep(self.training(t), r"last\.ckpt|curves\.csv", alone=True)
                if t <= finished:
                    self.sweep(t)

    def sweep(self, t: int) -> None:
        """Drops what only the making of a finished generation needed."""
        place = self.generation(t)
        there = {path.name for path in place.iterdir()} if place.is_dir() else set()
        for what in there.intersection(_UNFINISHED):
            for folder, _, names in os.walk(self.unfinished(t, what), topdown=False):
                sweep(Path(folder), _BLOCK, alone=True)
                for name in names:
                    if re.fullmatch(_BLOCK, name):
                        Path(folder, name).unlink(missing_ok=True)
                with suppress(OSError):  # somebody keeps a file of his own there
                    Path(folder).rmdir()
        for training in (self.training(t), self.auxiliary_training(t)):
            if training.name in there:
                (training / self.CHECKPOINT).unlink(missing_ok=True)
        with suppress(OSError):  # there is none, or somebody keeps a file of his own there
            self.auxiliary_training(t).rmdir()
        self.seconds_file(t).unlink(missing_ok=True)


def _cpu_seconds() -> float:
    """Of this process, all threads, and of the programs that it ran and waited for."""
    told = os.times()
    return time.process_time() + told.children_user + told.children_system


def _settings(path: Path) -> dict[str, Any]:
    """A configuration.

    Raises:
        Damaged: If it is not what was written.
    """
    try:
        return yaml.safe_load(unsealed(path)) or {}
    except yaml.YAMLError as error:
        raise Damaged(path) from error


def _share(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the disk has no second names."""
    try:
        os.link(source, target)
    except OSError:
        with appearing(target) as copy:
            shutil.copy2(source, copy)


def _is_whole_png(content: bytes) -> bool:
    """Whether every chunk (length, name, data, checksum) is there, up to the last, and whole."""
    at, name = 8, b""
    while at < len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        checksum = zlib.crc32(content[at + 4 : end])
        if content[end : end + 4] != checksum.to_bytes(4, "big"):
            return False
        at, name = end + 4, content[at + 4 : at + 8]
    return content.startswith(b"\x89PNG\r\n\x1a\n") and name == b"IEND"


def _part(plain: dict[str, Any]) -> Part:
    """A part of a kept mix; before shards had names, it told the generation alone."""
    if "shard" not in plain:
        t = plain.pop("generation")
        plain = {**plain, "shard": None if t is None else shard_name(t)}
    return Part(**plain)


def finished_among(paths: Sequence[str]) -> list[LineageDirectory]:
    """Lineages that have finished a generation; what else ``runs/*`` brings along is passed over.

    Raises:
        Refused: If a path is not there, or none is such a lineage.
    """
    remedy = "give lineages' directories, e.g. runs/*"
    for path in paths:
        if not Path(path).exists():
            raise Refused(path, "there is no such directory", remedy)
    found = [lineage for lineage in map(LineageDirectory, paths) if lineage.has_ledger]
    if not found:
        raise Refused(paths[0], "no generation is finished", remedy)
    return found
