r"""The kernel distance: how far apart two sets are for a cubic polynomial.

KID is the squared maximum mean discrepancy of two sets of Inception features for the kernel
``k(x, y) = (x·y / d + 1)³``. Unlike a Fréchet distance its estimate is unbiased: with few samples
it scatters, also below 0, but not upward. Here it is the full U-statistic, over all pairs: a mean
over random subsets has the same expectation and much more noise, and is there for comparison with
papers.

The kernel is an inner product of triples. With ``z = (x / √d, 1)`` it is ``(z·z')³``, so a set's
mean embedding is the tensor ``E[z_a z_b z_c]`` of its third moments, and the distance is that
between two such tensors. With few features that costs ``n d³ / 3`` operations, nothing grows with
the square of n, and no large sums are subtracted. With many features the kernel is summed over all
pairs, a tile at a time. Both in float64.

References:
    | Demystifying MMD GANs (Bińkowski et al., 2018), https://arxiv.org/abs/1801.01401
    | A Kernel Two-Sample Test (Gretton et al., 2012), lemma 6: the unbiased estimate
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mad_lightning.metrics.functional.checks import check_pair
from mad_lightning.processes import Team

__all__ = ["kernel_distance", "kernel_distance_of_subsets"]

Labels = tuple[Tensor | None, Tensor | None]
_ALL_BY_CHANCE: Labels = (None, None)
_ROWS = 1024
"""Samples in flight while third moments are added up."""


def kernel_distance(
    real: Tensor,
    synthetic: Tensor,
    *,
    labels: Labels = _ALL_BY_CHANCE,
    tile: int = 1024,
    team: Team | None = None,
) -> float:
    """Squared maximum mean discrepancy for the kernel (x·y / d + 1)³, unbiased; KID.

    Args:
        real: Features (N, D), floats, N >= 2.
        synthetic: Features (M, D), floats, M >= 2. M may differ from N.
        labels: Classes of either set, (N,) and (M,) int64, where it holds a *fixed* number of each
            instead of as many as chance brought. Two samples of such a set are of one class more
            rarely than two independent ones, and without labels the distance of equal laws would be
            below 0 in the mean.
        tile: Pairs are looked at in squares of this side. Decides speed and memory, no value.
        team: Processes that share the work.

    Returns:
        The distance. Around 0, also below it, where the sets are alike.

    Raises:
        ValueError: If a set is not a matrix of finite floats, has fewer than 2 rows, or the sets
            differ in D.
    """
    real, synthetic = check_pair(real, synthetic, at_least=2)
    with torch.no_grad(), torch.autocast(real.device.type, enabled=False):
        n, m, d = len(real), len(synthetic), real.shape[1]
        if d**2 <= 3 * (n + m):
            return _by_moments(_lifted(real), _lifted(synthetic), labels)
        return _by_pairs(real, synthetic, labels, tile, team or Team())


def kernel_distance_of_subsets(
    real: Tensor,
    synthetic: Tensor,
    *,
    labels: Labels = _ALL_BY_CHANCE,
    subsets: int = 100,
    subset_size: int = 1000,
    rng: torch.Generator | None = None,
) -> tuple[float, float]:
    """Mean and standard deviation of the kernel distance over random subsets, as papers report it.

    Args:
        real: Features (N, D), floats.
        synthetic: Features (M, D), floats.
        labels: As for :func:`kernel_distance`. Subsets then hold classes in the shares of the set.
        subsets: Number of subsets.
        subset_size: Samples that each takes from either set, without replacement.
        rng: What draws them, on the CPU; None is a new one with seed 0. The global one is never
            touched.

    Returns:
        Mean and standard deviation (divided by the number of subsets).

    Raises:
        ValueError: If the features cannot be used or a set has fewer rows than a subset.
    """
    if subsets < 1 or subset_size < 2:
        raise ValueError(
            f"{subsets} subsets of {subset_size} samples: take at least 1 subset of at least 2"
        )
    real, synthetic = check_pair(real, synthetic, at_least=subset_size)
    rng = torch.Generator().manual_seed(0) if rng is None else rng
    values = []
    for _ in range(subsets):
        drawn = [
            _subset(x, of, subset_size, rng)
            for x, of in zip((real, synthetic), labels, strict=True)
        ]
        (x, of_x), (y, of_y) = drawn
        values.append(kernel_distance(x, y, labels=(of_x, of_y)))
    mean = math.fsum(values) / subsets
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / subsets)


def _subset(
    x: Tensor, labels: Tensor | None, size: int, rng: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Random rows of a set, and their classes: of each class its share, within one."""
    rows = torch.randperm(len(x), generator=rng)
    if labels is None:
        return x[rows[:size].to(x.device)], None
    rows = rows[labels.cpu()[rows].argsort(stable=True)]
    rows = rows[(2 * torch.arange(size) + 1) * len(x) // (2 * size)]  # at even distances
    return x[rows.to(x.device)], labels[rows.to(labels.device)]


def _lifted(x: Tensor) -> Tensor:
    """``z = (x / √d, 1)`` (N, D + 1), float64, so that the kernel is (z·z')³."""
    x = x.double() / math.sqrt(x.shape[1])
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


def _by_moments(x: Tensor, y: Tensor, labels: Labels = _ALL_BY_CHANCE) -> float:
    """From third moments of lifted samples (N, D + 1).

    The unbiased estimate is the squared distance of the mean embeddings, less what their own
    scatter adds to it: the variances of the embedding over n - 1 and m - 1, or of each class over
    one less than its number. Only entries with
    a <= b <= c are computed; each stands for 6, 3 or 1 equal ones.
    """
    n, m, d = len(x), len(y), x.shape[1]
    apart = norm_x = norm_y = 0.0
    parts_x, parts_y = _parts(x), _parts(y)
    for b in range(d):
        weight = x.new_full((b + 1, d - b), 6.0)
        weight[-1, :] = weight[:, 0] = 3.0  # a = b, b = c
        weight[-1, 0] = 1.0
        mean_x, mean_y = _third_moments(parts_x, b) / n, _third_moments(parts_y, b) / m
        apart += float((weight * (mean_x - mean_y).square()).sum())
        norm_x += float((weight * mean_x.square()).sum())
        norm_y += float((weight * mean_y.square()).sum())
    for z, norm, of in ((x, norm_x, labels[0]), (y, norm_y, labels[1])):
        n, own = len(z), float(z.square().sum(dim=1).pow(3).mean())
        if of is None:
            apart -= (own - norm) / (n - 1)
        else:
            apart -= (own - _within(z, of, 1024, Team()) / n) / n
    return apart


def _parts(z: Tensor) -> list[Tensor]:
    """Samples (N, D) in parts that stay in the cache, features as rows: products run along them."""
    return [rows.T.contiguous() for rows in z.split(_ROWS)]


def _third_moments(parts: list[Tensor], b: int) -> Tensor:
    """Sums of ``z_a z_b z_c`` for all a <= b <= c, with shape (b + 1, D - b)."""
    total = parts[0].new_zeros(b + 1, len(parts[0]) - b)
    for z in parts:
        total.addmm_(z[: b + 1], (z[b] * z[b:]).T)
    return total


def _by_pairs(x: Tensor, y: Tensor, labels: Labels, tile: int, team: Team) -> float:
    """From the kernel of all pairs of samples (N, D), (M, D)."""
    x, y = _lifted(x), _lifted(y)
    value = -2.0 * _sum_of_pairs(x, y, tile, team) / (len(x) * len(y))
    for z, of in zip((x, y), labels, strict=True):
        n, own = len(z), _sum_of_pairs(z, z, tile, team)
        if of is None:
            value += own / (n * (n - 1))
        else:
            value += (own + _within(z, of, tile, team)) / n**2
    return value


def _within(z: Tensor, labels: Tensor, tile: int, team: Team) -> float:
    """Sum over classes of the kernel over pairs of one class, over one less than its number.

    What a lone sample of a class scatters cannot be known: such classes count as one, or with the
    smallest other one.
    """
    classes = labels.to(z.device).unique(return_inverse=True)[1]
    counts = classes.bincount()
    lone = counts == 1
    if lone.any() and len(counts) > 1:
        least = counts.masked_fill(lone, len(z) + 1).argmin()
        first = least if int(lone.sum()) == 1 else lone.nonzero()[0, 0]
        classes = torch.where(lone[classes], first, classes)
    groups = [z[classes == of] for of in classes.unique()]
    return math.fsum(_sum_of_pairs(x, x, tile, team) / (len(x) - 1) for x in groups)


def _sum_of_pairs(x: Tensor, y: Tensor, tile: int, team: Team) -> float:
    """Sum over pairs of lifted samples, without those of one with itself where x is y."""
    rows, columns = x.split(tile), y.split(tile)
    work = [(i, j) for i in range(len(rows)) for j in range(i if x is y else 0, len(columns))]
    sums = torch.zeros(len(work), dtype=torch.float64, device=x.device)
    for place in team.mine(range(len(work))):
        i, j = work[place]
        values = rows[i] @ columns[j].T
        values *= values.square()
        if x is y and i == j:
            values.fill_diagonal_(0.0)
        # Off the diagonal of a set with itself, a tile stands for its mirror image too.
        sums[place] = values.sum() * (2 if x is y and i != j else 1)
    # Each sum comes from one process and the others bring zeros: nothing depends on the team.
    return math.fsum(team.gathered(sums).sum(dim=0).tolist())
