r"""The Fréchet distance: how far apart two Gaussians are.

For means m, n and covariances S, T it is, squared (Dowson and Landau, 1982),

    d² = ‖m - n‖² + tr S + tr T - 2 tr (S T)^½,

the squared 2-Wasserstein distance between them. FID is this number for Gaussians fitted to the
Inception features of two sample sets; nothing about it is tied to Inception, or to samples.

All the work is in the last term, and so are the errors: the root turns a rounding error of 1e-16
into one of 1e-8, and the root of the matrix ``S T`` itself need not even come out real. For any
factors ``S = A'A`` and ``T = B'B`` the term is the nuclear norm of ``A B'``, the sum of its
singular values, and the sum of the roots of the eigenvalues of ``A T A'``. The latter are several
times as fast, and an estimate of the error of their roots says where they will do; elsewhere we
take the singular values, which never square anything.

The factor decides the size of the problem. With no more samples than features it is the samples
themselves: N - 1 rows and an (N - 1)-th order problem, whatever D is. Else it is Cholesky's
(D, D), from the moments of the samples; these are all that one needs to keep of a large set, and
those of two sets merge into those of their union.

References:
    | GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (Heusel et
    | al., 2017), https://arxiv.org/abs/1706.08500
    | The Fréchet distance between multivariate normal distributions (Dowson and Landau, 1982),
    | https://doi.org/10.1016/0047-259X(82)90077-X
    | Algorithms for Computing the Sample Variance (Chan, Golub and LeVeque, 1983), eq. 2.1
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from mad_lightning.metrics.functional.checks import check_features
from mad_lightning.metrics.functional.matrices import (
    add_gram,
    between,
    eigenvalues,
    memory,
    singular_values,
)
from mad_lightning.processes import Team

__all__ = ["Moments", "frechet_distance", "gaussian_w2_squared"]

_FAIR = 1e-8
"""Largest relative error that we accept of eigenvalues' roots, by its own estimate."""
_NEGATIVE = 1e-6
"""What may pass for rounding below 0, relative to the variances. More is a fault."""
_ROWS = 2048
"""Samples whose float64 copies are in flight while moments are added up."""
_SQUARE = 256
"""Side of the squares in which a matrix is mirrored."""


class Moments(NamedTuple):
    """Number, mean and scatter of a set of samples, float64.

    Attributes:
        n: Number of samples.
        mean: Mean (D,).
        scatter: ``sum (x - mean)(x - mean)'`` (D, D).
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, x: Tensor, team: Team | None = None) -> Moments:
        """Moments of samples (N, D), N >= 1, each process of the team seeing some of them."""
        if team is None or team.size == 1 or len(x) < team.size:
            mean, scatter = _moments_beside(x[0].double(), x)
            return cls(len(x), x[0].double() + mean, scatter)
        part = cls.of(x[team.rank :: team.size])
        means, scatters = team.gathered(part.mean), team.gathered(part.scatter)
        counts = [len(range(rank, len(x), team.size)) for rank in range(team.size)]
        return cls.merged(map(cls, counts, means, scatters))

    @classmethod
    def merged(cls, parts: Iterable[Moments]) -> Moments:
        """Moments of the union of disjoint sets (Chan et al., 1983)."""
        first, *rest = [part for part in parts if part.n]
        n, mean, scatter = first.n, first.mean.clone(), first.scatter.clone()
        for part in rest:
            apart, share = part.mean - mean, part.n / (n + part.n)
            scatter += part.scatter + torch.outer(apart, apart) * (n * share)
            mean += apart * share
            n += part.n
        return cls(n, mean, scatter)


def frechet_distance(
    real: Tensor | Moments,
    synthetic: Tensor | Moments,
    *,
    real_moments: Moments | None = None,
    team: Team | None = None,
) -> float:
    """Squared Fréchet distance between Gaussians fitted to two sets of features.

    It is biased upward for few samples: compare values at equal N and M only.

    Args:
        real: Features (N, D), floats, N >= 2; or their moments, where features are gone. Singular
            covariances keep more digits from features.
        synthetic: Features (M, D), floats, M >= 2, or their moments.
        real_moments: ``Moments.of(real)`` from before, as real sets outlive generations.
        team: Processes that share the moments; each has both sets and gets the result.

    Returns:
        The distance, in squared units of the features, at least 0. Covariances divide by N - 1.

    Raises:
        ValueError: If a set is not a matrix of finite floats, has fewer than 2 rows, or the sets
            differ in D.
        ArithmeticError: If the distance comes out below 0 by more than rounding.
    """
    real, synthetic = _checked(real, "real"), _checked(synthetic, "synthetic")
    d, e = (x.mean.numel() if isinstance(x, Moments) else x.shape[1] for x in (real, synthetic))
    if d != e:
        raise ValueError(f"real has {d} features a sample, synthetic has {e}")
    if real_moments is not None and (real_moments.n, real_moments.mean.numel()) != (
        real.n if isinstance(real, Moments) else len(real),
        d,
    ):
        raise ValueError(f"real_moments are of {real_moments.n} samples, not those of real")
    # The distance does not change when both sets move. Beside one of the samples, a set of copies
    # becomes exact zeros and an offset shared by all costs no digits.
    origin = real.mean if isinstance(real, Moments) else real[0].double()
    with torch.no_grad(), torch.autocast(origin.device.type, enabled=False):
        mean_real, s = _spread_of(real, origin, real_moments, team)
        mean_synthetic, t = _spread_of(synthetic, origin, None, team)
        return _distance(mean_real - mean_synthetic, s, t)


def _checked(x: Tensor | Moments, name: str) -> Tensor | Moments:
    if not isinstance(x, Moments):
        return check_features(x, name, 2)
    if x.n < 2 or not (x.mean.isfinite().all() and x.scatter.isfinite().all()):
        raise ValueError(f"{name} has moments of {x.n} samples; at least 2 finite ones are needed")
    return x


def gaussian_w2_squared(
    mean_real: Tensor, cov_real: Tensor, mean_synthetic: Tensor, cov_synthetic: Tensor
) -> float:
    """Squared 2-Wasserstein distance between two Gaussians, which is the Fréchet distance.

    Args:
        mean_real: Mean (D,).
        cov_real: Covariance (D, D), symmetric and positive semi-definite; it may be singular.
        mean_synthetic: Mean (D,).
        cov_synthetic: Covariance (D, D).

    Returns:
        The distance, in squared units of the features, at least 0.

    Raises:
        ValueError: If shapes do not fit, a number is not finite, or a matrix is no covariance.
        ArithmeticError: If the distance comes out below 0 by more than rounding.
    """
    d = mean_real.numel()
    for name, mean, cov in (
        ("real", mean_real, cov_real),
        ("synthetic", mean_synthetic, cov_synthetic),
    ):
        if mean.shape != (d,) or cov.shape != (d, d):
            raise ValueError(
                f"{name} has a mean of shape {tuple(mean.shape)} and a covariance of shape "
                f"{tuple(cov.shape)}, not ({d},) and ({d}, {d})"
            )
        if not (mean.isfinite().all() and cov.isfinite().all()):
            raise ValueError(f"{name} has a mean or covariance that is not finite")
        if float((cov - cov.T).abs().max()) > _NEGATIVE * float(cov.abs().max()):
            raise ValueError(f"{name} has a covariance that is not symmetric")
    with torch.no_grad(), torch.autocast(mean_real.device.type, enabled=False):
        spreads = [
            _Spread(None, cov.double(), partial(_root, cov.double(), name))
            for name, cov in (("real", cov_real), ("synthetic", cov_synthetic))
        ]
        return _distance(mean_real.double() - mean_synthetic.double(), *spreads)


class _Spread(NamedTuple):
    """A covariance: as a factor with few rows, where there is one, or as a matrix."""

    rows: Tensor | None
    """Factor A (R, D), R <= D, of the covariance A'A."""
    matrix: Tensor | None
    """The covariance (D, D), if there are no such rows."""
    root: Callable[[], Tensor]
    """Finds a factor with at most D rows at any price."""

    def trace(self) -> float:
        """Total variance."""
        if self.rows is not None:
            entries = self.rows.flatten()
            return float(entries.dot(entries))
        assert self.matrix is not None
        return float(self.matrix.trace())


def _spread_of(
    x: Tensor | Moments, origin: Tensor, moments: Moments | None, team: Team | None
) -> tuple[Tensor, _Spread]:
    """Mean (D,) beside the origin and covariance of features (N, D), or of moments."""
    if isinstance(x, Moments):
        cov = x.scatter / (x.n - 1)
        return x.mean - origin, _Spread(None, cov, partial(_root, cov, "a set"))
    n, d = x.shape
    features = x
    if n - 1 > d:
        if moments is None and (team is None or team.size == 1):
            mean, scatter = _moments_beside(origin, x)
        else:
            _, mean, scatter = moments or Moments.of(x, team)
            mean = mean - origin
        return mean, _Spread(None, scatter / (n - 1), lambda: _small(features, origin, mean))
    x = x.to(torch.float64, copy=True).sub_(origin)
    mean = x.mean(dim=0)
    # A reflection that turns the direction of the mean, (1, .., 1), onto the first axis leaves all
    # of the scatter in the other N - 1 rows; Householder's needs one vector for them all.
    rows = x[1:].sub_((math.sqrt(n) * mean + x[0]) / (math.sqrt(n) + 1)).div_(math.sqrt(n - 1))
    return mean, _Spread(rows, None, lambda: rows)


def _moments_beside(origin: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) beside the origin (D,), and scatter (D, D), of samples (N, D).

    Samples are centred at the mean of some of them: that is off by no more than they are spread, so
    that putting it right afterwards costs no digits.
    """
    n = len(x)
    about = x[:: max(1, n // 512)].double().mean(dim=0)
    off, scatter = torch.zeros_like(about), memory(about, len(about), len(about)).zero_()
    room = memory(scatter, min(n, _ROWS), x.shape[1])
    for part in x.split(_ROWS):
        centred = room[: len(part)].copy_(part).sub_(about)
        off += centred.sum(dim=0) / n
        add_gram(scatter, centred)
    scatter.addr_(off, off, alpha=-n)
    for start in range(0, len(scatter), _SQUARE):  # what lies below the diagonal mirrors the rest
        strip = slice(start, start + _SQUARE)
        square = scatter[strip, strip]
        square.copy_(square.triu() + square.triu(1).T)
        scatter[strip.stop :, strip] = scatter[strip, strip.stop :].T
    return (about - origin) + off, scatter


def _small(x: Tensor, origin: Tensor, mean: Tensor) -> Tensor:
    """A factor (D, D) of the covariance of features (N, D), N > D, without squaring them."""
    centred = (x.double() - origin).sub_(mean)
    factor: Tensor = torch.linalg.qr(centred, mode="r").R / math.sqrt(len(x) - 1)
    return factor


def _root(cov: Tensor, name: str) -> Tensor:
    """A factor A (D, D) of a covariance that may be singular."""
    values, vectors = torch.linalg.eigh(cov)
    largest = float(values.abs().max())
    if float(values[0]) < -_NEGATIVE * largest:
        raise ValueError(f"{name} has a covariance with a negative variance, {float(values[0]):g}")
    # A variance below the rounding of the largest is none; its root would not be small.
    values[values < len(values) * torch.finfo(values.dtype).eps * largest] = 0.0
    root: Tensor = values.sqrt()[:, None] * vectors.T
    return root


def _distance(apart: Tensor, s: _Spread, t: _Spread) -> float:
    """The squared distance for a difference of means (D,)."""
    scales = s.trace(), t.trace()
    without = float(apart.square().sum()) + sum(scales)
    # A B' where factors are at hand
    inner = None if s.rows is None or t.rows is None else s.rows @ t.rows.T
    overlap, error = _overlap(s, t, scales, inner)
    distance = without - 2.0 * overlap
    if 2.0 * error <= _FAIR * distance:
        return distance
    inner = s.root() @ t.root().T if inner is None else inner
    overlap = float(singular_values(inner).sum())
    return _at_least_0(without - 2.0 * overlap, sum(scales))


def _overlap(
    s: _Spread, t: _Spread, scales: tuple[float, float], inner: Tensor | None
) -> tuple[float, float]:
    """``tr (S T)^½`` from eigenvalues and its error, infinite where the route is closed.

    An eigenvalue e of ``A T A'`` is off by up to ``u ‖A'A‖ ‖T‖``, its root by that over ``2 √e``.
    The errors of clear eigenvalues have random signs and add up as such; those of eigenvalues near
    rounding lean to one side, as none can go below 0, and add up in full. On the spectra of the
    tests the estimate was between as large as the error and a million times too large.
    """
    if not min(scales) > 0.0:
        return 0.0, math.inf
    scale = math.sqrt(scales[0]) * math.sqrt(scales[1])
    if inner is not None:  # scaled, lest tiny variances vanish in the product
        product, size = _gram(inner / scale)
    else:
        product, size = _product(_scaled(s, scales[0]), _scaled(t, scales[1]))
    if product is None:
        return 0.0, math.inf
    values = eigenvalues(product)
    off = torch.finfo(values.dtype).eps / 2 * size
    if float(values[0]) < -_NEGATIVE * float(values[-1]):
        return 0.0, math.inf
    errors, clear = off / (2.0 * values.clamp(min=off).sqrt()), values > 100.0 * off
    error = errors[clear].norm() + errors[~clear].sum()
    return scale * float(values.clamp(min=0.0).sqrt().sum()), scale * float(error)


def _scaled(spread: _Spread, scale: float) -> _Spread:
    rows, matrix, root = spread
    return _Spread(
        None if rows is None else rows / math.sqrt(scale),
        None if matrix is None else matrix / scale,
        root,
    )


def _product(s: _Spread, t: _Spread) -> tuple[Tensor | None, float]:
    """``A T A'`` for the cheapest factor A, of which the lower half holds, and what it scales with.

    None where neither covariance has a factor.
    """
    if s.rows is not None or t.rows is not None:
        rows, matrix = (s.rows, t.matrix) if s.rows is not None else (t.rows, s.matrix)
        assert rows is not None
        assert matrix is not None
        return rows @ matrix @ rows.T, float(matrix.norm())  # traces are 1, and ‖A'A‖ <= tr A'A
    for one, other in ((s.matrix, t.matrix), (t.matrix, s.matrix)):
        assert one is not None
        assert other is not None
        factor, failed = torch.linalg.cholesky_ex(one)
        if not int(failed):
            return between(factor, other), float(one.norm() * other.norm())
    return None, math.inf


def _gram(inner: Tensor) -> tuple[Tensor | None, float]:
    """``A T A'`` from ``A B'``, the smaller of the two, as :func:`_product` gives it.

    None where a small pivot says that eigenvalues near rounding are likely: a tenth of the price of
    finding them.
    """
    inner = inner if len(inner) > inner.shape[1] else inner.T
    d = inner.shape[1]
    product = memory(inner, d, d).zero_()
    add_gram(product, inner)
    product = product.T
    size = float(product.norm()) * math.sqrt(2.0)  # of half a symmetric matrix
    factor, failed = torch.linalg.cholesky_ex(product)
    pivot = 0.0 if int(failed) else float(factor.diagonal().min()) ** 2
    if pivot < d * torch.finfo(product.dtype).eps / 2 * size:
        return None, math.inf
    return product, size


def _at_least_0(distance: float, variance: float) -> float:
    """The distance, with rounding below 0 taken away and faults reported."""
    if distance < -_NEGATIVE * variance:
        raise ArithmeticError(
            f"a squared distance of {distance:g} between sets of total variance {variance:g}: "
            f"the singular values cannot be right"
        )
    return max(0.0, distance)
