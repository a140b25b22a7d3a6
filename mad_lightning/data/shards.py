"""Shards: immutable sets of synthetic samples, with provenance.

A shard has a name, and is not its generation: ``003`` is what generation 3 drew, ``003.kept`` what
a treatment left of it, and its manifest names the parent. The manifest is written last: a shard
without one does not exist.

Tensors are stored as safetensors, read back by memory map, and their digest is checked. Nothing is
ever unpickled.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mad_lightning.files import Damaged, appearing, awaited, read_json, write_json
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec

__all__ = ["Shard", "ShardManifest", "load_tensors", "opening", "save_samples", "save_tensors"]

_DTYPES = {torch.uint8: "U8", torch.float32: "F32", torch.int64: "I64"}


def opening(
    tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]],
    metadata: Mapping[str, str] | None = None,
    separators: tuple[str, str] = (",", ":"),
) -> bytes:
    """How a safetensors file begins: length, then JSON; then come the tensors, one by one.

    By hand, as ``save_file`` wants all tensors in memory: 14 GB for FFHQ at 256.

    Args:
        tensors: Kind and shape by name, in the order of the file.
        metadata: What the file says beside them.
        separators: Of the JSON.
    """
    head: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    start = 0
    for name, (dtype, shape) in tensors.items():
        stop = start + dtype.itemsize * math.prod(shape)
        offsets = [start, stop]
        head[name] = {"dtype": _DTYPES[dtype], "shape": [*shape], "data_offsets": offsets}
        start = stop
    text = json.dumps(head, separators=separators).encode()
    text += b" " * (-len(text) % 8)  # keeps the tensors aligned
    return len(text).to_bytes(8, "little") + text


def save_samples(path: Path, samples: Samples, lasting: bool = True) -> str:
    """Writes samples as :func:`save_tensors` would, piece by piece.

    Args:
        path: The file.
        samples: They need not fit into memory.
        lasting: Whether to wait until the file would survive a power cut.

    Returns:
        Their digest, taken on the way.

    Raises:
        OSError: If it cannot be written.
    """
    one = samples[:0].values
    kinds = {"values": (one.dtype, (len(samples), *one.shape[1:]))}
    beside = {"labels": samples.labels, "weights": samples.weights}
    kinds |= {k: (x.dtype, tuple(x.shape)) for k, x in beside.items() if x is not None}
    # As safetensors does: wider numbers first, then by name.
    order = sorted(kinds, key=lambda name: (-kinds[name][0].itemsize, name))
    digest = ""
    with appearing(path, lasting) as temporary, temporary.open("wb") as file:
        file.write(opening({name: kinds[name] for name in order}))
        for name in order:
            if name == "values":
                digest = samples.digest(hand_on=file.write)
            elif (tensor := beside[name]) is not None:
                file.write(tensor.detach().cpu().contiguous().numpy().data)
        file.flush()
    return digest


def save_tensors(
    path: Path,
    tensors: dict[str, Tensor],
    metadata: dict[str, str] | None = None,
    lasting: bool = True,
) -> None:
    """Writes tensors as safetensors; the file appears whole or not at all.

    Args:
        path: The file.
        tensors: By name.
        metadata: What the file says beside them.
        lasting: Whether to wait until it would survive a power cut.

    Raises:
        OSError: If it cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with appearing(path, lasting) as temporary:
        try:
            save_file(plain, temporary, metadata)
        except SafetensorError as error:  # it hides which error of the system it was
            told = re.search(r"os error (\d+)", str(error))
            code = int(told[1]) if told else errno.EIO
            raise OSError(code, os.strerror(code), str(path)) from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads tensors, by memory map, and what the file says beside them; neither is checked.

    Raises:
        OSError: If the file is missing, or is none.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict, it cannot be iterated
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise Damaged(path, str(error)) from error


@dataclass(frozen=True)
class ShardManifest:
    """Where the samples of a shard come from.

    Attributes:
        origin: ``synthetic``.
        generation: Generation that drew them.
        sampling_bias: λ they were drawn with.
        seeds: Address of the samples' seeds: sample i has seed ``sample_seeds(i, 1, *seeds)``.
        sampler: What besides λ shapes the samples.
        generator: SHA-256 of the generator's weights.
        count: Number of samples.
        spec: Their :class:`~mad_lightning.samples.SampleSpec`, as plain values.
        sha256: Digest of values and labels.
        name: Name of the shard, e.g. ``003.kept``; empty in manifests that were written before
            shards had names.
        parents: Names of the shards that it was made from; none of what a generator drew.
        labels: Shares that classes were asked for in, ``mix`` or ``equal``; empty without classes.
        classes: What the classes 0, 1, ... are called, where the data says.
        environment: With what they were computed: precision, device, versions. Empty in manifests
            that were written before manifests told.
        learned: How often its generator met each class (K,); empty without classes.
        evicted: Whether the samples were dropped, to be drawn again when somebody needs them.
        treatment: Of what a treatment left: which one, and how much of what it kept.
    """

    origin: str
    generation: int
    sampling_bias: float
    seeds: tuple[int | str, ...]
    sampler: dict[str, Any]
    generator: str
    count: int
    spec: dict[str, Any]
    sha256: str = ""
    name: str = ""
    parents: tuple[str, ...] = ()
    labels: str = ""
    classes: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    learned: tuple[int, ...] = ()
    evicted: bool = False
    treatment: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> ShardManifest:
        """From the values of a JSON file; keys of later versions are ignored."""
        values = {field.name: plain[field.name] for field in fields(cls) if field.name in plain}
        if "labels" not in values and values.get("spec", {}).get("classes") is not None:
            values["labels"] = "equal"  # there was no other way before manifests told
        lists = ("seeds", "parents", "classes", "learned")
        return cls(**values | {k: tuple(values.get(k, ())) for k in lists})

    def to_plain(self) -> dict[str, Any]:
        """As JSON has it; what only treated shards tell stands in theirs alone."""
        plain = {**vars(self)}
        if not self.treatment:
            del plain["treatment"]
        return plain


class Shard:
    """A stored shard.

    Args:
        stem: Path without an ending: ``<stem>.safetensors`` holds the samples, ``<stem>.json`` the
            manifest.
    """

    def __init__(self, stem: Path) -> None:
        self.values_file = stem.with_name(f"{stem.name}.safetensors")
        self.manifest_file = stem.with_name(f"{stem.name}.json")

    @property
    def exists(self) -> bool:
        """Whether the shard is complete."""
        return self.manifest_file.exists()

    @cached_property
    def manifest(self) -> ShardManifest:
        """Where the samples come from.

        Raises:
            OSError: If the manifest is missing, or is not what was written.
        """
        plain = read_json(self.manifest_file)
        try:
            return ShardManifest.from_plain(plain)
        except TypeError as error:
            problem = "it is no manifest" if plain else "it is missing"
            raise Damaged(self.manifest_file, problem) from error

    @property
    def is_evicted(self) -> bool:
        """Whether its samples were dropped, see :meth:`evict`."""
        try:
            return not self.values_file.exists() and self.manifest.evicted
        except OSError:
            return False

    @property
    def spec(self) -> SampleSpec:
        """What one sample looks like."""
        return SampleSpec.from_dict(self.manifest.spec)

    @cached_property
    def samples(self) -> Samples:
        """All samples, memory-mapped.

        Raises:
            OSError: If the stored samples are not those of the manifest.
        """
        manifest = self.manifest
        if self.is_evicted:
            raise FileNotFoundError(f"{self.values_file} was evicted")
        tensors, metadata = load_tensors(self.values_file)
        if not metadata and {"values"} <= tensors.keys() <= {"values", "labels", "weights"}:
            samples = Samples(**tensors)
            if samples.digest() == manifest.sha256:
                return samples
        raise Damaged(self.values_file, "it does not match its manifest")

    def trust(self, manifest: ShardManifest) -> None:
        """Takes another process's word for what is stored: nothing is checked again.

        Raises:
            OSError: If the samples are not there, nor come to be seen.
        """
        samples = Samples(**load_tensors(awaited(self.values_file))[0])
        vars(self).update(manifest=manifest, samples=samples)

    def holds(self, manifest: ShardManifest) -> bool:
        """Whether the shard is complete, whole, and drawn as a manifest says.

        Raises:
            Refused: If it was drawn otherwise: from other weights, with another λ, or elsewhere.
        """
        if not self.exists:
            return False
        try:
            drawn = self.manifest
        except Damaged:  # no manifest of ours: it is written anew
            return False
        facts = ("generation", "sampling_bias", "seeds", "generator", "count", "spec", "labels")
        unlike = [name for name in facts if getattr(drawn, name) != getattr(manifest, name)]
        if unlike:
            remedy = "bring back what belongs here, or take that generation away: it is made anew"
            if unlike == ["labels"]:
                remedy = f"go on with `labels: {drawn.labels}`, or {remedy.partition(', or ')[2]}"
            raise Refused(
                "",
                f"{self.manifest_file} tells of samples that were drawn otherwise: "
                + ", ".join(f"{name} {getattr(drawn, name)}" for name in unlike),
                remedy,
            )
        try:
            _ = self.samples
        except (FileNotFoundError, Damaged):
            return False
        return True

    def write(
        self, samples: Samples, manifest: ShardManifest, lasting: bool = True
    ) -> ShardManifest:
        """Stores samples, then the manifest that makes them a shard.

        Args:
            samples: All of them; :class:`~mad_lightning.samples.Parts` are written part by part.
                Weights, if they have some, are stored beside the values.
            manifest: Where they come from; count and digest are filled in.
            lasting: Whether to wait until both would survive a power cut.
        """
        sha256 = save_samples(self.values_file, samples, lasting)
        manifest = replace(manifest, count=len(samples), sha256=sha256)
        write_json(self.manifest_file, manifest.to_plain(), lasting=lasting)
        written = Samples(**load_tensors(self.values_file)[0])  # mapped; its digest is known
        vars(self).update(manifest=manifest, samples=written)
        return manifest

    def evict(self) -> None:
        """Drops the samples, and lets the manifest say so first."""
        write_json(self.manifest_file, replace(self.manifest, evicted=True).to_plain())
        self.values_file.unlink(missing_ok=True)
        for kept in ("manifest", "samples"):
            vars(self).pop(kept, None)
