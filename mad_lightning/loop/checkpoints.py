"""Checkpoints: whole, sealed, and known by what they were made of.

A checkpoint is trusted for what it says, not because it is there. Each carries a digest of its own
content as the comment of its zip archive, where torch reads over it, and a digest of all that
decided it: data, mix, the shards in it, settings. One that a kill, a full disk or a flipped bit has
spoilt is made again; one that was made of something else is refused.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from mad_lightning.files import appearing
from mad_lightning.generators.base import Generator
from mad_lightning.refusal import Refused

__all__ = ["SealedCheckpoints", "load_weights", "read", "stands"]

_SIGN = b"sha256 "
_SEAL = len(_SIGN) + 64
"""Bytes of a seal, the comment of an archive; its length stands in the two bytes before it."""


class SealedCheckpoints(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, beside where they belong, and seals them.

    Lightning's own way writes into the system's temporary directory first. On another disk the last
    step is then a copy, which a kill can cut in half, and half a checkpoint resumes nothing.

    Args:
        made_of: Digest of what the training is made of.
    """

    def __init__(self, made_of: str = "") -> None:
        self.made_of = made_of

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Keeps the one before until this one stands."""
        with appearing(Path(path)) as temporary:
            torch.save(checkpoint | {"made_of": self.made_of}, temporary)
            _seal(temporary)


def _digest(path: Path, size: int) -> bytes:
    """Of the first bytes of an archive, with no comment at its end."""
    digest, left = hashlib.sha256(), size - 2
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(left, 2**20))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest().encode()


def _seal(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(_SEAL.to_bytes(2, "little") + _SIGN + _digest(path, size))


def _is_broken(path: Path) -> bool:
    """Whether a sealed archive is not what was written; one without a seal may be anything."""
    size = path.stat().st_size - _SEAL
    if size < 2:
        return True
    with path.open("rb") as file:
        file.seek(size)
        seal = file.read()
    return seal.startswith(_SIGN) and seal[len(_SIGN) :] != _digest(path, size)


def read(path: Path) -> dict[str, Any]:
    """Reads a checkpoint; nothing in it is unpickled.

    Raises:
        OSError: If it is missing, or not what was written.
    """
    try:
        if not _is_broken(path):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(checkpoint, dict) and "state_dict" in checkpoint:
                return checkpoint
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise OSError(f"{path} is damaged: {str(error).strip().splitlines()[0]}") from error
    raise OSError(f"{path} is damaged, or holds no weights")


def stands(path: Path, made_of: str) -> bool:
    """Whether a checkpoint is there, whole, and made of this.

    Raises:
        Refused: If it is whole and was made of something else.
    """
    if not path.exists():
        return False
    try:
        found = read(path).get("made_of", made_of)  # checkpoints did not always tell
    except OSError:
        return False
    if found != made_of:
        raise Refused(
            "",
            f"{path} was made of other data, samples or settings than this lineage has",
            "bring back what belongs here, or take that generation away: it is made anew",
        )
    return True


def load_weights(generator: Generator, path: Path) -> None:
    """Loads the weights that a generation kept.

    Raises:
        OSError: If the file is missing or damaged.
        RuntimeError: If the weights are those of another network.
    """
    generator.load_state_dict(read(path)["state_dict"])
