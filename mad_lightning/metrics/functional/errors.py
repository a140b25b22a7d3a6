r"""How far a measured value may lie from what other samples of the same two laws would say.

A value of n samples a side is a statistic of two independent draws. Where it has derivatives its
variance is known in closed form: the derivative at a sample says what that sample moves, and the
variance of those, over n, is the error (the infinitesimal jackknife; Efron, 1982). Near zero a
distance is quadratic instead, derivatives are mere noise and count its variance twice; what a
distance of equal laws would scatter is known as well, and taken off once.

Shares of neighbours have no derivatives. There each side is *halved* several times, without
replacement, into two complementary halves, and the four pairs of them are looked at: the effect of
choosing one half of a side has, over its choices, the variance of the whole (the delete-half
jackknife; Shao and Wu, 1989). The k-th neighbour within a half is one of the nearest few of the
whole, so distances are found once and halves only choose among them. Quantiles are halved the same
way; counts of what is rare are not, as half as many samples find less of it.

Each error is told by its source. What the *reference* adds is the same for all who are measured
against it: averaging over generators never lowers it, it enters each of their means in full.

Errors fall with the root of n, so they are estimated on a part of the samples and scaled; all of
it costs a fraction of the values.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mad_lightning.lineage.quantities import MeasurementError
from mad_lightning.precision import true_float32
from mad_lightning.seeds import permutation

__all__ = [
    "Variances",
    "frechet_variances",
    "halving_variances",
    "kernel_variances",
    "neighbour_variances",
    "scatter",
]

_HALVINGS = 16
"""Times that sides are halved: their errors are known to a fifth, and four times 16 fill a word."""
_SHIFT, _MASK = np.uint64(_HALVINGS), np.uint64(2**_HALVINGS - 1)

Words = NDArray[Any]


class Variances(NamedTuple):
    """Variance of a value by its source."""

    reference: float
    samples: float

    def error(self) -> MeasurementError:
        """Roots of them."""
        return MeasurementError(math.sqrt(self.samples), math.sqrt(self.reference))


def scatter(values: Tensor, labels: Tensor | None) -> float:
    """Variance of numbers (N,) around their mean, or their classes' means where those are given.

    Sets that hold a fixed number of each class do not scatter by what classes differ.
    """
    values = values.double()
    if labels is None:
        return float(values.var())
    labels = labels.to(values.device)
    counts = labels.bincount()
    means = values.new_zeros(len(counts)).index_add_(0, labels, values) / counts
    freedom = len(values) - int((counts > 0).sum())
    return float((values - means[labels]).square().sum()) / max(freedom, 1)


def kernel_variances(
    real: Tensor,
    synthetic: Tensor,
    real_labels: Tensor | None = None,
    synthetic_labels: Tensor | None = None,
    n: int | None = None,
) -> Variances:
    """Of :func:`.kernel_distance` at n samples a side, from features (M, D) of some of them.

    Args:
        real: Features of the reference.
        synthetic: Features of the samples, as many.
        real_labels: Classes (M,), where sets hold a fixed number of each.
        synthetic_labels: The same of the samples.
        n: Samples that the value is of; None for M.
    """
    m, d = real.shape
    x, y = ((side.float() / math.sqrt(d)) for side in (real, synthetic))
    own, other, cross = (_cubes(a @ b.T) for a, b in ((x, x), (y, y), (x, y)))
    for gram in (own, other):
        gram.fill_diagonal_(0.0)
    pairs = m - 1
    at_x = own.sum(dim=1) / pairs - cross.mean(dim=1)
    at_y = other.sum(dim=1) / pairs - cross.mean(dim=0)
    linear_x = 4.0 * scatter(at_x, real_labels) / m
    linear_y = 4.0 * scatter(at_y, synthetic_labels) / m
    quadratic_x, quadratic_y = (2.0 * _centred(gram) / m**2 for gram in (own, other))
    mixed = cross - cross.mean(dim=0) - cross.mean(dim=1, keepdim=True) + cross.mean()
    quadratic = 4.0 * float(mixed.square().mean()) / m**2
    part = (n or m) / m
    return _told(linear_x, linear_y, quadratic_x, quadratic_y, quadratic, part)


def _cubes(products: Tensor) -> Tensor:
    products += 1.0
    return products.square().mul_(products)


def _centred(gram: Tensor) -> float:
    """Mean square of a kernel (M, M), centred, off its diagonal, which is 0."""
    m = len(gram)
    rows = gram.sum(dim=1) / (m - 1)
    centred = gram - rows - rows[:, None] + rows.mean()
    return float(centred.fill_diagonal_(0.0).square().sum()) / (m * (m - 1))


def _told(
    linear_x: float,
    linear_y: float,
    quadratic_x: float,
    quadratic_y: float,
    quadratic_xy: float,
    part: float = 1.0,
) -> Variances:
    """Variances by source, at ``part`` times as many samples as those that they are found at.

    A derivative's variance holds the linear part, twice its own side's quadratic one and once what
    is quadratic in both; the last is nobody's alone, and goes with the samples.
    """
    straight_x = (linear_x - 2.0 * quadratic_x - quadratic_xy) / part
    straight_y = (linear_y - 2.0 * quadratic_y - quadratic_xy) / part
    own_x, own_y = quadratic_x / part**2, (quadratic_y + quadratic_xy) / part**2
    # Near zero the straight part is a difference of like numbers, and may come out below 0.
    return Variances(max(straight_x + own_x, own_x / 2.0), max(straight_y + own_y, own_y / 2.0))


def frechet_variances(
    real: Tensor,
    synthetic: Tensor,
    real_labels: Tensor | None = None,
    synthetic_labels: Tensor | None = None,
) -> Variances:
    """Of :func:`.frechet_distance`.

    The derivative at a real sample x beside its mean is ``2 (m - n)'x + x'(1 - T)x``, where T is
    the map that takes one Gaussian to the other; for a synthetic one it has ``n - m`` and the
    inverse of T. Covariances are lifted by a millionth of their mean variance, so that they have an
    inverse. What equal Gaussians would scatter follows from the eigenvalues of their covariances.

    Args:
        real: Features (N, D) of the reference.
        synthetic: Features of the samples, as many.
        real_labels: Classes (N,), where sets hold a fixed number of each.
        synthetic_labels: The same of the samples.
    """
    m, d = real.shape
    (mean_x, x, cov_x), (mean_y, y, cov_y) = (_moments(side) for side in (real, synthetic))
    lift = 1e-6 * float(cov_x.trace() + cov_y.trace()) / (2 * d) or 1e-300
    eye = torch.eye(d, dtype=torch.float64, device=x.device)
    factor = torch.linalg.cholesky(cov_x + lift * eye)
    values, vectors = torch.linalg.eigh(factor.T @ (cov_y + lift * eye) @ factor)
    values = values.clamp(min=1e-12 * float(values[-1]) or 1e-300)
    back = torch.linalg.solve_triangular(factor, x.T, upper=False)  # T = L^-T M^1/2 L^-1
    moved_x = (values.pow(0.25)[:, None] * (vectors.T @ back)).square().sum(dim=0)
    moved_y = (values.pow(-0.25)[:, None] * (vectors.T @ (factor.T @ y.T))).square().sum(dim=0)
    apart = mean_x - mean_y
    at_x = 2.0 * (x @ apart) + x.square().sum(dim=1) - moved_x
    at_y = -2.0 * (y @ apart) + y.square().sum(dim=1) - moved_y
    linear = [
        scatter(at, labels) / m for at, labels in ((at_x, real_labels), (at_y, synthetic_labels))
    ]
    eigen = values.sqrt()  # those of equal covariances; between those of unequal ones
    meet = eigen[:, None] * eigen / (eigen[:, None] + eigen)
    quadratic = float(2.25 * eigen.square().sum() + meet.square().sum()) / m**2
    return _told(linear[0], linear[1], quadratic, quadratic, 2.0 * quadratic)


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (D,), samples beside it (M, D), covariance (D, D), float64."""
    x = x.double()
    mean = x.mean(dim=0)
    x = x - mean
    return mean, x, x.T @ x / (len(x) - 1)


def neighbour_variances(
    real: Tensor,
    synthetic: Tensor,
    k: int = 5,
    real_labels: Tensor | None = None,
    synthetic_labels: Tensor | None = None,
    n: int | None = None,
) -> dict[str, Variances]:
    """Of what :func:`.two_sample` says of n samples a side, from features (M, D) of some, M > 2 k.

    With classes also of :func:`.class_recall`. Halves are bits: a word of 64 holds, of one pair, in
    which of four times 16 pairs of halves it counts, so that a few operations on words decide them
    all.

    Args:
        real: Features of the reference.
        synthetic: Features of the samples, as many.
        k: Neighbour that sets the radius of a ball.
        real_labels: Classes (M,), where sets hold a fixed number of each.
        synthetic_labels: The same of the samples.
        n: Samples that the values are of; None for M.
    """
    part = (n or len(real)) / len(real)
    with torch.no_grad(), true_float32(real.device):
        about = real.mean(dim=0)
        x, y = ((side - about).float() for side in (real, synthetic))
        near_x, near_y = (_nearest(side, 3 * k + 4) for side in (x, y))
        across = torch.cdist(x, y)
        reach_x, reach_y = near_x[0][:, -1:], near_y[0][:, -1]
        i, j = ((across <= reach_x) | (across <= reach_y)).nonzero().unbind(dim=1)
        distance = across[i, j]
        ranks = [_rank(near_x[0], i, distance), _rank(near_y[0], j, distance)]
    halves_x = _halves(len(x), real_labels, "real")
    halves_y = _halves(len(y), synthetic_labels, "synthetic")
    first, second = i.cpu().numpy(), j.cpu().numpy()
    within = _outer(halves_x)[first] & _inner(halves_y)[second]  # both of the pair are there
    in_real = _outer(_reaches(halves_x, near_x[1], k))[first, ranks[0]] & within
    in_synthetic = _inner(_reaches(halves_y, near_y[1], k))[second, ranks[1]] & within
    size_x, size_y = _counts(_outer(halves_x)), _counts(_inner(halves_y))
    readings = {
        "precision": _counts(_any(in_real, second, len(y))) / size_y,
        "recall": _counts(_any(in_synthetic, first, len(x))) / size_x,
        "density": _counts(in_real) / (k * size_y),
        "coverage": _counts(_any(in_real, first, len(x))) / size_x,
    }
    if real_labels is not None:
        hit, there = _any(in_synthetic, first, len(x)), _outer(halves_x)
        classes = [(real_labels == of).cpu().numpy() for of in real_labels.unique()]
        with np.errstate(invalid="ignore"):  # a half may lack a class, whose recall is not known
            by_class = [_counts(hit[of]) / _counts(there[of]) for of in classes]
        readings["class_recall"] = np.mean(by_class, axis=0)
    return {name: _effects(series.reshape(4, -1), part) for name, series in readings.items()}


def halving_variances(
    statistic: Callable[[Tensor, Tensor], Mapping[str, float]],
    real: Tensor,
    synthetic: Tensor,
    real_labels: Tensor | None = None,
    synthetic_labels: Tensor | None = None,
    n: int | None = None,
) -> dict[str, Variances]:
    """Of any statistic of quantiles and means, which is asked of 64 pairs of halves.

    Args:
        statistic: Named values of two sets of any size, rows of the reference and of the samples.
        real: Rows (M, ...) of the reference.
        synthetic: Rows of the samples, as many.
        real_labels: Classes (M,), where sets hold a fixed number of each.
        synthetic_labels: The same of the samples.
        n: Samples that the values are of; None for M.
    """
    halves_x = _halves(len(real), real_labels, "real")
    halves_y = _halves(len(synthetic), synthetic_labels, "synthetic")
    readings: dict[str, list[float]] = defaultdict(list)
    for of_x, of_y in product((0, _HALVINGS), repeat=2):
        for turn in range(_HALVINGS):
            x, y = _chosen(real, halves_x, of_x + turn), _chosen(synthetic, halves_y, of_y + turn)
            for name, value in statistic(x, y).items():
                readings[name].append(value)
    part = (n or len(real)) / len(real)
    return {name: _effects(np.reshape(series, (4, -1)), part) for name, series in readings.items()}


def _chosen(rows: Tensor, halves: Words, bit: int) -> Tensor:
    """Rows of one half."""
    there = np.flatnonzero(halves >> np.uint64(bit) & np.uint64(1))
    return rows[torch.from_numpy(there).to(rows.device)]


def _nearest(x: Tensor, count: int) -> tuple[Tensor, Words]:
    """Distances, roughly, and places (M, L) of each sample's nearest others, nearest first."""
    m, count = len(x), min(count, len(x) - 1)
    own = torch.cdist(x, x).fill_diagonal_(math.inf).cpu().numpy()
    # The last bits of a distance make room for whose it is: one fast sort of whole numbers.
    room = np.int32((1 << (m - 1).bit_length()) - 1)
    keys = own.view(np.int32) & ~room | np.arange(m, dtype=np.int32)
    nearest = np.sort(np.partition(keys, count - 1, axis=1)[:, :count], axis=1)
    return torch.from_numpy(nearest.view(np.float32)).to(x.device), nearest & room


def _rank(near: Tensor, place: Tensor, distance: Tensor) -> Words:
    """How many of a sample's nearest (M, L) are nearer than each of its pairs (P,).

    One search for all: rows lie one after the other on a line, a unit apart.
    """
    m, count = near.shape
    unit = 2.0 * float(torch.cat([near.flatten(), distance]).max()) or 1.0
    line = near.double() / unit + torch.arange(m, device=near.device)[:, None]
    ranks = torch.searchsorted(line.flatten(), distance.double() / unit + place)
    return (ranks - place * count).cpu().numpy()


def _halves(m: int, labels: Tensor | None, name: str) -> Words:
    """Words (M,) of 32 bits: in which halves a sample lies, and above them in which complements."""
    classes = None if labels is None else labels.cpu().numpy().astype(np.int64).tobytes()
    return _halves_of(m, classes, name)


@lru_cache(maxsize=8)  # classes are the same in each generation
def _halves_of(m: int, classes: bytes | None, name: str) -> Words:
    labels = None if classes is None else np.frombuffer(classes, dtype=np.int64)
    words = np.zeros(m, dtype=np.uint64)
    for turn in range(_HALVINGS):
        order = permutation(m, "halves", name, turn).numpy()
        if labels is not None:  # class by class
            order = order[labels[order].argsort(kind="stable")]
        words[order[::2]] |= np.uint64(1 << turn)
        words[order[1::2]] |= np.uint64(1 << (turn + _HALVINGS))
    return words


def _reaches(halves: Words, places: Words, k: int) -> Words:
    """Words (M, L + 1): the halves in which fewer than k of the nearest 0, 1, ... L are there.

    So far the ball of a sample reaches there. Bits are counted in words, too: of k words the last
    tells where k were met.
    """
    m, count = places.shape
    full = np.uint64(2 ** (2 * _HALVINGS) - 1)
    met = np.zeros((k, m), dtype=np.uint64)
    reaches = np.empty((m, count + 1), dtype=np.uint64)
    for rank in range(count):
        reaches[:, rank] = full & ~met[-1]
        there = halves[places[:, rank]]
        for already in range(k - 1, 0, -1):
            met[already] |= met[already - 1] & there
        met[0] |= there
    reaches[:, count] = 0  # beyond the nearest that were looked at
    return reaches


def _outer(words: Words) -> Words:
    """Bits of halves and complements of the first side, spread over the four pairs of halves."""
    half, complement = words & _MASK, words >> _SHIFT
    return (
        half
        | half << _SHIFT
        | complement << (np.uint64(2) * _SHIFT)
        | complement << (np.uint64(3) * _SHIFT)
    )


def _inner(words: Words) -> Words:
    """The same of the second side, which alternates faster."""
    return words | words << (np.uint64(2) * _SHIFT)


def _any(words: Words, place: Words, m: int) -> Words:
    """Words (M,) of bits that any pair (P,) at a place has."""
    order = place.argsort(kind="stable")
    place, words = place[order], words[order]
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    total = np.zeros(m, dtype=np.uint64)
    if len(starts):
        total[place[starts]] = np.bitwise_or.reduceat(words, starts)
    return total


def _counts(words: Words) -> NDArray[np.float64]:
    """How many words have each bit, (64,): eighth bits are added as bytes."""
    counts = np.zeros((8, 8))
    for shift in range(8):
        bytes_ = words >> np.uint64(shift) & np.uint64(0x0101010101010101)
        if len(words):  # no byte counts beyond 255
            bytes_ = np.add.reduceat(bytes_, np.arange(0, len(words), 255))
        counts[:, shift] = bytes_.astype("<u8").view(np.uint8).reshape(-1, 8).sum(axis=0)
    return counts.flatten()


def _effects(readings: NDArray[np.float64], part: float) -> Variances:
    """Variances from readings (4, B) of pairs of halves: 00, 01, 10, 11, the reference's first.

    A sample that one half of the reference counts and the other does not is nobody's alone. Other
    samples would throw that anew, so it goes with them; it is in what halves of the reference
    differ by, and found by what remains of this between halves of the samples.
    """
    r = readings / 4.0
    with np.errstate(invalid="ignore"):  # of infinite readings nothing is known
        reference, samples, both = (
            np.mean((r[0] + first * r[1] + second * r[2] + first * second * r[3]) ** 2).item()
            for first, second in ((1, -1), (-1, 1), (-1, -1))
        )
    own = max(reference - both, reference / 4.0)  # two estimates may differ by chance, below 0 too
    return Variances(own / part, (samples + reference - own) / part)
