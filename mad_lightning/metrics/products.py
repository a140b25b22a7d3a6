r"""Inner products of errors: how two generators are wrong alike.

In a space where a set's law is a mean, the embedding of a kernel, a generator's error is a vector
z = (law of its samples) - (real law), its squared length a distance, and two generators have a
product <z, z'>: large where they err alike. From samples it is estimated without bias, as means of
the kernel over pairs,

.. math:: \langle z, z' \rangle = k(x, x') - k(x, r) - k(x', r) + k(r, r'),

where no sample is paired with itself, so nothing is subtracted as a floor. What one reference adds
to all products is seen by leaving parts of it out.

Three spaces: the cubic kernel of the kernel distance (KID), a Gaussian kernel, and one in which the
squared length is the Fréchet distance, to second order: means, and second moments about the real
mean, those of axes i and j over :math:`\sqrt{2 (l_i + l_j)}`, l the real variances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mad_lightning.refusal import check_within
from mad_lightning.samples import Law

__all__ = ["Products", "frechet_products", "kernel_products"]

_PARTS = 10
"""Of the reference; one of them is left out at a time."""
_RIDGE = 0.05
"""Of the mean variance, added to all: networks have features that hardly move."""

Set = tuple[Tensor, Tensor | None]
"""Features (N, D), and classes (N,) where it holds a fixed number of each."""


class Products(NamedTuple):
    """Products of the errors of B sets.

    Attributes:
        all: With shape (B, B), float64.
        without: The same, each without a part of the reference; none where that is known exactly.
    """

    all: Tensor
    without: list[Tensor]


def kernel_products(sets: Sequence[Set], reference: Set, width: float | None = None) -> Products:
    """For the kernel (x·y / d + 1)³, or exp(-|x - y|² / 2h²).

    Args:
        sets: Samples of each generator, in features, two at least.
        reference: Real samples.
        width: h of a Gaussian kernel, in units of the features; None takes the cubic one.

    Raises:
        Refused: If the width is not above 0.
    """
    check_within("(0, inf)", "as wide as the finest that matters", width=width)

    def of(x: Tensor, y: Tensor) -> Tensor:
        if width is None:
            return (x @ y.T / x.shape[1] + 1.0) ** 3
        apart = x.square().sum(1)[:, None] + y.square().sum(1) - 2.0 * x @ y.T
        return torch.exp(apart.clamp(min=0.0) / (-2.0 * width**2))

    parts = _parted(reference)
    blocks = [(x.double(), labels) for x, labels in [*sets, *parts]]
    means = torch.zeros(len(blocks), len(blocks)).double()
    for row, (x, labels) in enumerate(blocks):
        means[row, row] = _own(of(x, x), labels)
        for column in range(row):
            means[row, column] = means[column, row] = of(x, blocks[column][0]).mean()
    return _about(means, len(sets), [len(x) for x, _ in parts])


def frechet_products(sets: Sequence[Set], reference: Set, law: Law | None = None) -> Products:
    """For the Fréchet distance, to second order.

    Args:
        sets: Samples of each generator, in features, two at least.
        reference: Real samples.
        law: The real law, where it is known.
    """
    real = reference[0].double()
    mean = real.mean(0) if law is None else law.mean.double()
    covariance = real.T.cov() if law is None else law.covariance.double()
    variances, axes = torch.linalg.eigh(torch.atleast_2d(covariance))
    variances = variances.clamp(min=0.0) + (0.0 if law else _RIDGE) * variances.mean()
    weights = (2.0 * (variances[:, None] + variances)).sqrt()

    def embedded(x: Tensor, labels: Tensor | None) -> tuple[Tensor, float]:
        """Mean embedding, and its squared length without samples paired with themselves."""
        u = (x.double() - mean) @ axes
        groups = [u] if labels is None else [u[labels == k] for k in labels.unique()]
        sums = [torch.cat([v.sum(0), ((v.T @ v) / weights).flatten()]) for v in groups]
        owns = [
            float(v.square().sum() + ((v.square() @ weights.pow(-2)) * v.square()).sum())
            for v in groups
        ]
        total, n = torch.stack(sums).sum(0), len(u)
        if labels is None:
            return total / n, (float(total @ total) - owns[0]) / (n * (n - 1))
        square = float(total @ total)
        for v, one, own in zip(groups, sums, owns, strict=True):
            alone = float(one @ one)
            pairs = (alone - own) * len(v) / (len(v) - 1) if len(v) > 1 else alone
            square += pairs - alone
        return total / n, square / n**2

    parts = [] if law else _parted(reference)
    told = [embedded(*each) for each in [*sets, *parts]]
    vectors = [vector for vector, _ in told]
    if law:
        exact = torch.cat([torch.zeros_like(mean), (variances.diag() / weights).flatten()])
        vectors.append(exact)
        told.append((exact, float(exact @ exact)))
    stacked = torch.stack(vectors)
    means = stacked @ stacked.T
    means.diagonal().copy_(torch.tensor([square for _, square in told]).double())
    return _about(means, len(sets), [len(x) for x, _ in parts] or [1])


def _about(means: Tensor, n: int, counts: Sequence[int]) -> Products:
    """From mean kernels of n sets and parts of the reference to products of errors."""

    def about(left_out: int | None) -> Tensor:
        sizes = torch.tensor(counts).double()
        if left_out is not None:
            sizes[left_out] = 0.0
        weights = sizes / sizes.sum()
        pairs = sizes.outer(sizes) - (sizes.diag() if len(counts) > 1 else 0.0)
        within = (means[n:, n:] * pairs).sum() / pairs.sum()
        to_real = means[:n, n:] @ weights
        return means[:n, :n] - to_real[:, None] - to_real + within

    several = range(len(counts) if len(counts) > 1 else 0)
    return Products(about(None), [about(part) for part in several])


def _parted(reference: Set) -> list[Set]:
    """A reference in parts, each with classes in the shares of the whole."""
    features, labels = reference
    least = len(features) if labels is None else int(labels.unique(return_counts=True)[1].min())
    n = min(_PARTS, max(1, least // 2))  # of each class two at least
    order = torch.arange(len(features)) if labels is None else labels.argsort(stable=True)
    rows = [order[part::n] for part in range(n)]
    return [(features[row], None if labels is None else labels[row]) for row in rows]


def _own(kernel: Tensor, labels: Tensor | None) -> float:
    """Mean kernel of a set with itself (N, N), without samples paired with themselves.

    Where it has a fixed number of each class, two of its samples are of one class more rarely than
    two independent ones; pairs of one class then count for those that are missing.
    """
    n, pairs = len(kernel), float(kernel.sum() - kernel.diagonal().sum())
    if labels is None:
        return pairs / (n * (n - 1))
    missing = []
    for k in labels.unique():
        inside = kernel[labels == k][:, labels == k]
        if len(inside) > 1:
            alike = float(inside.sum() - inside.diagonal().sum())
            missing.append(alike / (len(inside) - 1))
        else:
            missing.append(float(inside.sum()))
    return (pairs + math.fsum(missing)) / n**2
