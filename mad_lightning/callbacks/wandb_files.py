"""Which run shows a lineage, and what its own file holds: the only witness of an offline run.

W&B writes ``run-<id>.wandb`` as it goes: 7 bytes, then a LevelDB log of protobuf records in blocks
of 32 KiB. A kill can cut the last record short, and a disk can spoil any: what comes after the
first record that is not whole, nobody will ever see, so it is not there.
"""

from __future__ import annotations

import json
import re
import secrets
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from mad_lightning.files import read_json, write_json
from mad_lightning.lineage.directory import LineageDirectory

__all__ = ["Notes", "Shown", "carried", "history", "is_closed", "is_unsynced", "run_id"]

_HEAD, _BLOCK = struct.Struct("<IHB"), 32 * 1024
_WHOLE, _FIRST, _LAST = 1, 2, 4


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log behind 7 bytes, up to the first that is not whole."""
    place, pieces = 7, b""
    while place + _HEAD.size <= len(content):
        left = _BLOCK - place % _BLOCK
        checksum, size, kind = _HEAD.unpack_from(content, place)
        if left < _HEAD.size or kind == size == 0:  # the rest of a block is padding
            place += left
            continue
        piece = content[place + _HEAD.size : place + _HEAD.size + size]
        if len(piece) < size or zlib.crc32(piece, zlib.crc32(bytes([kind]))) != checksum:
            return
        pieces = piece if kind in (_WHOLE, _FIRST) else pieces + piece
        if kind in (_WHOLE, _LAST):
            yield pieces
        place += _HEAD.size + size


def _told(directory: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What was told a run, in order: ``config``, ``summary`` or ``history``, and values by key."""
    from wandb.proto import wandb_internal_pb2

    for file in directory.glob("*.wandb"):
        for content in _records(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(content)
            match kind := record.WhichOneof("record_type"):
                case "run":
                    kind, values = "config", record.run.config.update
                case "config":
                    values = record.config.update
                case "summary":
                    values = record.summary.update
                case "history":
                    values = record.history.item
                case _:
                    continue
            pairs = ((value.key or "/".join(value.nested_key), value) for value in values)
            yield kind, {key: json.loads(value.value_json) for key, value in pairs}


def history(directory: Path) -> Iterator[dict[str, Any]]:
    """The rows that were logged into a run, in order; none if there is no file.

    Args:
        directory: ``offline-run-<time>-<id>`` or ``run-<time>-<id>``.
    """
    return (values for kind, values in _told(directory) if kind == "history")


def is_closed(directory: Path) -> bool:
    """Whether a run was told all, to its end."""
    from wandb.proto import wandb_internal_pb2

    contents = chain.from_iterable(
        _records(file.read_bytes()) for file in directory.glob("*.wandb")
    )
    records = map(wandb_internal_pb2.Record.FromString, contents)
    return any(record.WhichOneof("record_type") == "exit" for record in records)


def is_unsynced(directory: Path) -> bool:
    """Whether a run lies on this disk alone; `wandb sync` leaves a marker beside what it sent."""
    return directory.name.startswith("offline-") and not any(directory.glob("*.wandb.sync*"))


def carried(directory: Path) -> dict[str, dict[str, Any]]:
    """What a run carries when all was told: ``config``, ``summary``, and the last ``history``.

    Args:
        directory: As of :func:`history`.
    """
    last: dict[str, dict[str, Any]] = {"config": {}, "summary": {}, "history": {}}
    for kind, values in _told(directory):
        last[kind] |= values
    return last


@dataclass
class Shown:
    """What runs show of a lineage.

    Attributes:
        generations: How often each generation has its row.
        images: How often the curves have a point at so many images, counted through the lineage.
    """

    generations: Counter[int] = field(default_factory=Counter)
    images: Counter[int] = field(default_factory=Counter)

    def add(self, row: dict[str, Any]) -> None:
        """Counts a row of a history."""
        for key, counts in (("generation", self.generations), ("train/images", self.images)):
            if isinstance(row.get(key), int | float):
                counts[int(row[key])] += 1


@dataclass
class Notes:
    """The run's id, and whether it was closed.

    Attributes:
        path: The file.
        id: W&B's name of the run.
        complete: Whether the run was closed with nothing left to log.
        online: Whether W&B's server has confirmed that.
        generations: How many generations it showed then.
    """

    path: Path
    id: str
    complete: bool = False
    online: bool = False
    generations: int = 0

    @classmethod
    def read(cls, path: Path, folder: Path) -> Notes:
        """The notes of an earlier process; without them, the last run in its folder, or a new one.

        Notes that are damaged are no notes.
        """
        try:
            kept = read_json(path)
            if re.fullmatch(r"[\w-]+", kept["id"]):
                complete, online = (kept.get(name) is True for name in ("complete", "online"))
                return cls(path, kept["id"], complete, online, int(kept.get("generations", 0)))
        except (ValueError, KeyError, TypeError):
            pass
        runs = (
            re.fullmatch(r"(?:offline-)?run-(\d+_\d+)-(\w+)(?:-\d+)?", run.name)
            for run in folder.glob("*")
        )
        last = max((run.groups() for run in runs if run), default=None)
        return cls(path, last[1] if last else secrets.token_hex(4))

    def write(self) -> None:
        """Keeps them."""
        notes = {name: value for name, value in vars(self).items() if name != "path"}
        write_json(self.path, notes)


def run_id(directory: LineageDirectory) -> str | None:
    """W&B's name of the run that shows a lineage; None if none was begun."""
    notes = directory.wandb_notes
    return Notes.read(notes, directory.wandb_folder).id if notes.exists() else None
