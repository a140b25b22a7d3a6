"""Correction: samples are moved towards where real ones lie.

A correction that knows a little of the truth stabilises a loop that would otherwise run away
(Gillman et al., 2024, "Self-Correcting Self-Consuming Loops for Generative Model Training"): with
strength γ a sample x becomes (x + γ c(x)) / (1 + γ), where c(x) is the nearest centre of clusters
of real samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mad_lightning.refusal import check_within
from mad_lightning.samples import to_floats
from mad_lightning.treatments.base import Candidates, Treated, Treatment, check_whole, distances

__all__ = ["Corrected"]

_TURNS = 100


class Corrected(Treatment):
    """Moves samples towards the nearest centre of clusters of real samples, of their class.

    Args:
        n_real: Real samples that the clusters are found in, which it has for itself.
        clusters: How many, of each class if there are classes.
        strength: γ: 0 changes nothing, 1 moves a sample half of the way.
    """

    needs_real = True

    def __init__(self, n_real: int, clusters: int = 16, strength: float = 1.0) -> None:
        super().__init__(1.0, n_real)
        check_whole(1, "e.g. 16", clusters=clusters)
        check_within("[0, 1000000]", "e.g. 1", strength=strength)
        self.clusters, self.strength = clusters, strength

    def __call__(self, drawn: Candidates) -> Treated:
        """Values (N, ...) as floats."""
        real, _ = drawn.own
        x, mine = to_floats(drawn.samples), to_floats(real.values).flatten(1).double()
        labels, known = drawn.labels, real.labels
        flat = x.flatten(1).double()
        for k in [None] if labels is None or known is None else labels.unique().tolist():
            rows = slice(None) if k is None else (labels == k).nonzero().flatten()
            lessons = mine if k is None else mine[known == k]
            if not len(lessons):
                continue  # nothing is known of it
            centres = centres_of(lessons, self.clusters)
            near = centres[distances(flat[rows], centres).argmin(dim=1)]
            flat[rows] = (flat[rows] + self.strength * near) / (1.0 + self.strength)
        return Treated(values=flat.view(x.shape).float())


def centres_of(x: Tensor, k: int) -> Tensor:
    """Centres (at most k, D) of clusters, by Lloyd's rule from points that are far apart.

    Args:
        x: Rows (N, D), float64.
        k: How many clusters.
    """
    nearest = (x - x.mean(dim=0)).square().sum(dim=1)
    centres = x[nearest.argmin()][None]
    while len(centres) < min(k, len(x)):
        nearest = distances(x, centres).min(dim=1).values
        if not bool(nearest.max() > 0.0):
            break  # there are no others
        centres = torch.cat([centres, x[nearest.argmax()][None]])
    before = torch.full((len(x),), -1)
    for _ in range(_TURNS):
        own = distances(x, centres).argmin(dim=1)
        if torch.equal(own, before):
            break
        before = own
        members = torch.nn.functional.one_hot(own, len(centres)).double()
        counts = members.sum(dim=0)
        moved = members.T @ x / counts.clamp(min=1.0)[:, None]
        centres = torch.where(counts[:, None] > 0, moved, centres)
    return centres
