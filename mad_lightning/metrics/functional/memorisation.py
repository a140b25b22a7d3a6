"""Memorisation: are synthetic samples nearer to the training set than fresh real ones are?

A generator that copies its training set passes every test of fidelity and diversity. What gives it
away is the distance to the nearest training sample, and that means something only beside the same
distance of real samples that were never trained on: data that lies densely has near neighbours
without anybody copying.

References:
    | How Faithful is your Synthetic Data? (Alaa et al., 2022), which judges each sample by its
    | nearest training sample, https://arxiv.org/abs/2102.08921
"""

from __future__ import annotations

import torch
from torch import Tensor

from mad_lightning.metrics.functional.checks import check_features
from mad_lightning.metrics.functional.neighbours import squared_nearest
from mad_lightning.processes import Team

__all__ = ["memorisation", "nearest_distances"]

_AT_ONCE = 2**26
"""Bytes of training features that are compared with at a time: all of them may be more than fit."""


def memorisation(
    training: Tensor,
    reference: Tensor,
    synthetic: Tensor,
    q: float = 0.05,
    *,
    tile: int | None = None,
    team: Team | None = None,
) -> dict[str, float]:
    """Distances to the nearest training sample, synthetic ones against real ones.

    Args:
        training: Features of what the generator was trained on (N, D), floats.
        reference: Features of other real samples (M, D).
        synthetic: Features of its samples (L, D).
        q: Quantile in (0, 1) of the real distances below which a sample counts as too near.
        tile: Side of the squares of pairs that are looked at at once.
        team: Processes that share the work.

    Returns:
        ``nearest_synthetic`` and ``nearest_real``, the median distances; ``nearest_ratio``, the
        first over the second, near 1 for fresh samples and 0 for copies (infinite if only the
        real distances vanish, 1 if both do); ``memorised``, the fraction of synthetic samples
        nearer than the q-quantile of the real distances, about q for fresh samples.

    Raises:
        ValueError: If a set is not a matrix of finite floats or is empty, the sets differ in D, or
            q lies outside (0, 1).
    """
    if not 0.0 < q < 1.0:
        raise ValueError(f"q = {q} lies outside (0, 1)")
    sets = {"training": training, "reference": reference, "synthetic": synthetic}
    training, reference, synthetic = (check_features(x, name, 1) for name, x in sets.items())
    real, other = (
        nearest_distances(x, training, tile=tile, team=team) for x in (reference, synthetic)
    )
    return compared(real, other, q)


def nearest_distances(
    x: Tensor, training: Tensor, *, tile: int | None = None, team: Team | None = None
) -> Tensor:
    """Distances (N,) from features x (N, D) to the nearest of (M, D), whose copies are not kept.

    Args:
        x: Features of samples.
        training: Features of what was trained on, in memory or in a mapped file.
        tile: As for :func:`.squared_nearest`.
        team: As for :func:`.squared_nearest`.
    """
    rows = max(1, _AT_ONCE // max(1, training[:1].nbytes))
    nearest = [squared_nearest(x, part, tile=tile, team=team) for part in training.split(rows)]
    return torch.stack(nearest).amin(dim=0).sqrt()


def compared(real: Tensor, other: Tensor, q: float) -> dict[str, float]:
    """What :func:`memorisation` says, of distances (M,) and (L,) to the nearest training sample."""
    # The distance of a real sample itself, not one in between: torch.quantile interpolates.
    limit = real.sort().values[int(q * len(real))]
    near, usual = float(_median(other)), float(_median(real))
    return {
        "nearest_synthetic": near,
        "nearest_real": usual,
        "nearest_ratio": near / usual if usual else (torch.inf if near else 1.0),
        "memorised": int((other < limit).sum()) / len(other),
    }


def _median(x: Tensor) -> Tensor:
    """Mean of the middle one or two."""
    x = x.sort().values
    return (x[(len(x) - 1) // 2] + x[len(x) // 2]) / 2
