"""Checkpoints: whole, sealed, and known by what they were made of.

A checkpoint is trusted for what it says, not because it is there. Each carries a digest of its own
content as the comment of its zip archive, where torch reads over it, and a digest of all that
decided it: data, mix, the shards in it, settings. One that a kill, a full disk or a flipped bit has
spoilt is made again; one that was made of something else is refused.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from mad_lightning.files import Damaged, appearing
from mad_lightning.generators.base import Generator, digest_of
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.refusal import Refused, at

__all__ = [
    "SealedCheckpoints",
    "digest_of_base",
    "load_told",
    "load_weights",
    "read",
    "standing",
    "stands",
]

_SIGN = b"sha256 "
_SEAL = len(_SIGN) + 64
"""Bytes of a seal, the comment of an archive; its length stands in the two bytes before it."""


class SealedCheckpoints(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, beside where they belong, and seals them.

    Lightning's own way writes into the system's temporary directory first. On another disk the last
    step is then a copy, which a kill can cut in half, and half a checkpoint resumes nothing.

    Args:
        made_of: Digest of what the training is made of.
        lasting: Whether to wait until they would survive a power cut.
    """

    def __init__(self, made_of: str = "", lasting: bool = True) -> None:
        self.made_of, self.lasting = made_of, lasting

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Keeps the one before until this one stands.

        Raises:
            OSError: If it cannot be written, with its name.
        """
        with (
            appearing(Path(path), self.lasting) as temporary,
            _Sealing(io.FileIO(temporary, "w")) as file,
        ):
            file.take(checkpoint | {"made_of": self.made_of})


class _Sealing(io.BufferedWriter):
    """A file that is digested while it is written, and tells why it could not be written.

    Torch would say "unexpected pos". The last two bytes are not digested: they will stand before
    the seal and tell its length.
    """

    error: OSError | None = None

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw)
        self.digest, self._last = hashlib.sha256(), b""

    def write(self, content: Any) -> int:
        """Digests, and remembers what torch drops."""
        try:
            written = super().write(content)
        except OSError as error:
            self.error = error
            raise
        given = memoryview(content).cast("B")
        if len(given) < 2:
            given = memoryview(self._last + bytes(given))
        else:
            self.digest.update(self._last)
        self.digest.update(given[:-2])
        self._last = bytes(given[-2:])
        return written

    def take(self, checkpoint: dict[str, Any]) -> None:
        """Writes a checkpoint, and its seal."""
        try:
            torch.save(checkpoint, self)
        except RuntimeError as error:
            raise self.error or error from None
        self.seek(-2, os.SEEK_END)
        super().write(_SEAL.to_bytes(2, "little") + _SIGN + self.digest.hexdigest().encode())


def _digest(path: Path, size: int) -> bytes:
    """Of the first bytes of an archive, with no comment at its end."""
    digest, left = hashlib.sha256(), size - 2
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(left, 2**20))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest().encode()


def _is_sealed(path: Path) -> bool:
    """Whether an archive is what was written; one without a seal may be anything.

    Raises:
        Damaged: If it is not. One flipped bit spoils a seal's length or its sign, never both.
    """
    size = path.stat().st_size - _SEAL
    if size < 2:
        return False
    with path.open("rb") as file:
        file.seek(size - 2)
        length, sign, digest = file.read(2), file.read(len(_SIGN)), file.read()
    parts = (length == _SEAL.to_bytes(2, "little"), sign == _SIGN)
    if not any(parts):
        return False
    if not all(parts) or digest != _digest(path, size):
        raise Damaged(path)
    return True


def read(path: Path) -> dict[str, Any]:
    """Reads a checkpoint; nothing in it is unpickled.

    Raises:
        OSError: If it is missing, or not what was written.
    """
    is_sealed = _is_sealed(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # readers raise what they please on a broken file
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]  # torch goes on long
        raise Damaged(path, f"or no checkpoint ({reason[:200]})") from error
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
        raise Damaged(path, "it holds no weights")
    if "made_of" in checkpoint and not is_sealed:  # all that tell are sealed
        raise Damaged(path)
    return checkpoint


def stands(path: Path, made_of: str) -> dict[str, Any] | None:
    """The checkpoint that is there, if it is whole and made of this.

    Raises:
        Refused: If it is whole and was made of something else.
    """
    if not path.exists():
        return None
    try:
        checkpoint = read(path)
    except Damaged:  # what may not be read is another matter
        return None
    if checkpoint.get("made_of", made_of) != made_of:  # checkpoints did not always tell
        raise Refused(
            "",
            f"{path} was made of other data, samples or settings than this lineage has",
            "bring back what belongs here, or take that generation away: it is made anew",
        )
    return checkpoint


def standing(lineage: LineageDirectory, t: int, made_of: str) -> tuple[bool, bool]:
    """What there is of a generation: its trained weights, or a checkpoint to go on from.

    Only what was logged counts: without its curves, a generation is trained once more.

    Raises:
        Refused: If one is whole and was made of something else.
    """
    with at("lineage"):
        logged = lineage.has_curves(t)
        trained = logged and stands(lineage.weights(t), made_of) is not None
        resumes = logged and not trained and stands(lineage.checkpoint(t), made_of) is not None
    for stray in lineage.training(t).glob("hpc_ckpt_*"):  # SLURM's: Lightning would go on from it
        stray.unlink(missing_ok=True)
    return trained, resumes


def digest_of_base(path: Path) -> str:
    """Digest of the weights that somebody else's checkpoint brings.

    Raises:
        Refused: If it brings none.
    """
    try:
        return digest_of(read(path)["state_dict"])
    except (OSError, AttributeError, TypeError) as error:
        problem = f"{path} holds no weights: {error}"
        with at("lineage"):
            raise Refused("base", problem, "bring it back from a copy") from None


def load_weights(generator: Generator, path: Path) -> None:
    """Loads the weights that a generation kept.

    Raises:
        OSError: If the file is missing or damaged.
        RuntimeError: If the weights are those of another network.
    """
    generator.load_state_dict(read(path)["state_dict"])


def load_told(generator: Generator, path: Path, told: str | None) -> None:
    """Loads weights with the digest that was told, if one was.

    Raises:
        OSError: If they are missing, damaged, or others.
    """
    try:
        load_weights(generator, path)
    except RuntimeError as error:
        raise Damaged(path, "it holds the weights of another network") from error
    if told not in (None, generator.digest()):
        raise Damaged(path, "the ledger tells of other weights")
