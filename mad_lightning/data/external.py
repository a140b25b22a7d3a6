"""Somebody else's samples: what gets into training sets from outside.

A folder of pictures, an archive or an array that another model has drawn, of the kind that the real
data are. It is read as real data are, by a :class:`~mad_lightning.data.sources.Source`, and is
no real data: nothing is held out, nothing is measured against it, and the ledger counts it apart.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from mad_lightning.data.sources import RealSet, Source
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec

__all__ = ["read_external"]


def read_external(
    source: Source, cache: Path, spec: SampleSpec, class_names: tuple[str, ...] = ()
) -> Samples:
    """Reads samples from outside.

    Args:
        source: Where they lie.
        cache: Directory where costly results may be kept.
        spec: What real samples look like.
        class_names: What the classes of the real data are called, where they are no numbers.

    Returns:
        All of them, in the order of the source; with classes where real samples have some.

    Raises:
        Refused: If they are not there, or are samples of another kind.
    """
    loaded = source.load(cache)
    if loaded.spec.shape != spec.shape:
        raise Refused(
            "",
            f"its samples have shape {loaded.spec.shape}, real ones {spec.shape}",
            "bring them to the size and the channels of the real data",
        )
    if spec.classes is None:
        return Samples(loaded.samples.values)
    if loaded.samples.labels is None:
        problem = "its samples have no classes, real ones have"
        remedy = "give `labels`, or train without classes of real samples"
        raise Refused("", problem, remedy)
    return Samples(loaded.samples.values, _as_real_ones(loaded, spec.classes, class_names))


def _as_real_ones(loaded: RealSet, n: int, names: tuple[str, ...]) -> Tensor:
    """Labels (N,) in the numbers that the real data have: by name, or by the number in it."""
    assert loaded.samples.labels is not None
    theirs = loaded.class_names or tuple(map(str, range(loaded.classes or 0)))
    numbers = []
    for name in theirs:
        digits = re.match(r"\d+", name)  # folders that were exported: 0007, 0007_seven
        number = names.index(name) if name in names else int(digits[0]) if digits else n
        if number >= n:
            known = ", ".join(names[:8]) if names else f"0 to {n - 1}"
            remedy = "name classes as the real data do"
            raise Refused("", f"its class {name!r} is none of the real data's ({known})", remedy)
        numbers.append(number)
    return torch.tensor(numbers)[loaded.samples.labels]
