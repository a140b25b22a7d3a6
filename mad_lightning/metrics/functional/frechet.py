r"""The Fréchet distance: how far apart two Gaussians are.

For means m, n and covariances S, T it is, squared (Dowson and Landau, 1982),

    d² = ‖m - n‖² + tr S + tr T - 2 tr (S T)^½,

the squared 2-Wasserstein distance between them. FID is this number for Gaussians fitted to the
Inception features of two sample sets; nothing about it is tied to Inception, or to samples.

All the work is in the last term, and so are the errors: the root turns a rounding error of 1e-16
into one of 1e-8, and the root of the matrix ``S T`` itself need not even come out real. For any
factors ``S = A'A`` and ``T = B'B`` the term is the nuclear norm, the sum of the singular values, of
``A B'``. Factors that come straight from the samples never square anything, which makes this the
most accurate route; with fewer samples than features it is the cheapest too. Else we take the
eigenvalues of ``L' T L`` with Cholesky's ``S = L L'``, several times as fast, wherever an estimate
of the error of their roots says that they will do.

References:
    | GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (Heusel et
    | al., 2017), https://arxiv.org/abs/1706.08500
    | The Fréchet distance between multivariate normal distributions (Dowson and Landau, 1982),
    | https://doi.org/10.1016/0047-259X(82)90077-X
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["frechet_distance", "gaussian_w2_squared"]

_FAIR = 1e-8
"""Largest relative error that we accept of the Cholesky route, by its own estimate."""
_NEGATIVE = 1e-6
"""What may pass for rounding below 0, relative to the variances. More is a fault."""


def frechet_distance(real: Tensor, synthetic: Tensor) -> float:
    """Squared Fréchet distance between Gaussians fitted to two sets of features.

    It is biased upward for few samples: compare values at equal N and M only.

    Args:
        real: Features (N, D), floats, N >= 2.
        synthetic: Features (M, D), floats, M >= 2.

    Returns:
        The distance, in squared units of the features, at least 0. Covariances divide by N - 1.

    Raises:
        ValueError: If a set is not a matrix of finite floats, has fewer than 2 rows, or the sets
            differ in D.
        ArithmeticError: If the distance comes out below 0 by more than rounding.
    """
    for name, x in (("real", real), ("synthetic", synthetic)):
        if x.ndim != 2 or not x.is_floating_point() or x.shape[1] == 0:
            raise ValueError(f"{name} is {x.dtype} of shape {tuple(x.shape)}, not floats (N, D)")
        if len(x) < 2:
            raise ValueError(f"{name} has {len(x)} samples, a covariance needs at least 2")
        unusable = int((~x.isfinite()).any(dim=1).sum())
        if unusable:
            raise ValueError(
                f"{name} has {unusable} of {len(x)} samples with NaN or infinite features"
            )
    if real.shape[1] != synthetic.shape[1]:
        raise ValueError(
            f"real has {real.shape[1]} features a sample, synthetic has {synthetic.shape[1]}"
        )
    with torch.no_grad(), torch.autocast(real.device.type, enabled=False):
        # The distance does not change when both sets move. Beside one of the samples, a set of
        # copies becomes exact zeros and an offset shared by all costs no digits.
        origin = real[0].double()
        mean_real, a = _centred(real.double() - origin)
        mean_synthetic, b = _centred(synthetic.double() - origin)
        apart = float((mean_real - mean_synthetic).square().sum())
        variance = float(a.square().sum() + b.square().sum())
        if min(len(a), len(b)) > a.shape[1]:
            overlap, error = _overlap_by_cholesky(a.T @ a, b.T @ b)
            distance = apart + variance - 2.0 * overlap
            if 2.0 * error <= _FAIR * distance:
                return distance
        return _at_least_0(apart + variance - 2.0 * _overlap(_small(a), _small(b)), variance)


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
        s, t = cov_real.double(), cov_synthetic.double()
        apart = float((mean_real.double() - mean_synthetic.double()).square().sum())
        variance = float(s.trace() + t.trace())
        overlap, error = _overlap_by_cholesky(s, t)
        distance = apart + variance - 2.0 * overlap
        if 2.0 * error <= _FAIR * distance:
            return distance
        overlap = _overlap(_root(s, "real"), _root(t, "synthetic"))
        return _at_least_0(apart + variance - 2.0 * overlap, variance)


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and the factor A (N, D) with covariance A'A."""
    mean = x.mean(dim=0)
    return mean, (x - mean) / math.sqrt(len(x) - 1)


def _small(a: Tensor) -> Tensor:
    """A factor of no more than D rows with the same covariance."""
    return a if len(a) <= a.shape[1] else torch.linalg.qr(a, mode="r").R


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


def _overlap(a: Tensor, b: Tensor) -> float:
    """``tr (S T)^½`` from factors (N, D), (M, D): the nuclear norm of their product."""
    return float(torch.linalg.svdvals(a @ b.T).sum())


def _overlap_by_cholesky(s: Tensor, t: Tensor) -> tuple[float, float]:
    """``tr (S T)^½`` from covariances (D, D) and its error, infinite where the route is closed.

    An eigenvalue e of ``L' T L`` is off by up to ``u ‖S‖ ‖T‖``, its root by that over ``2 √e``. The
    errors of clear eigenvalues have random signs and add up as such; those of eigenvalues near
    rounding lean to one side, as none can go below 0, and add up in full. On the spectra of the
    tests the estimate was between as large as the error and a million times too large.
    """
    scale_s, scale_t = float(s.trace()), float(t.trace())
    if not (scale_s > 0.0 and scale_t > 0.0):
        return 0.0, math.inf
    s, t = s / scale_s, t / scale_t  # lest tiny variances vanish in the product
    factor, failed = torch.linalg.cholesky_ex(s)
    if int(failed):
        return 0.0, math.inf
    values = torch.linalg.eigvalsh(factor.T @ t @ factor)
    off = torch.finfo(values.dtype).eps / 2 * s.norm() * t.norm()
    if float(values[0]) < -_NEGATIVE * float(values[-1]):
        return 0.0, math.inf
    scale = math.sqrt(scale_s) * math.sqrt(scale_t)
    errors, clear = off / (2.0 * values.clamp(min=off).sqrt()), values > 100.0 * off
    error = errors[clear].norm() + errors[~clear].sum()
    return scale * float(values.clamp(min=0.0).sqrt().sum()), scale * float(error)


def _at_least_0(distance: float, variance: float) -> float:
    """The distance, with rounding below 0 taken away and faults reported."""
    if distance < -_NEGATIVE * variance:
        raise ArithmeticError(
            f"a squared distance of {distance:g} between sets of total variance {variance:g}: "
            f"the singular values cannot be right"
        )
    return max(0.0, distance)
