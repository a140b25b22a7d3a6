"""The Fréchet distance, against closed forms, other people's maths and 50 digits."""

import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch

from mad_lightning.metrics.functional import (
    Moments,
    frechet,
    frechet_distance,
    gaussian_w2_squared,
)
from mad_lightning.metrics.functional.frechet import _at_least_0


def normal(n, d, seed):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=rng, dtype=torch.float64)


def rotation(d, seed):
    return torch.linalg.qr(normal(d, d, seed)).Q


def with_moments(n, mean, scales, turn, seed):
    """Samples (n, D) with exactly this mean and the covariance ``turn' diag(scales²) turn``."""
    z = normal(n, len(scales), seed)
    white = torch.linalg.qr(z - z.mean(dim=0)).Q * math.sqrt(n - 1)
    return white * scales @ turn + mean


def moments(x):
    return x.mean(dim=0), torch.atleast_2d(x.T.cov())


def by_sqrtm(x, y):
    """The formula as written: the root of the product of the covariances."""
    (m, s), (n, t) = ([part.numpy() for part in moments(z.double())] for z in (x, y))
    root = scipy.linalg.sqrtm(s @ t)
    return float(((m - n) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(root).real)


def by_singular_values(x, y):
    """The formula through the samples alone, in NumPy: no product of covariances."""
    x, y = x.double().numpy(), y.double().numpy()
    m, n = x.mean(axis=0), y.mean(axis=0)
    a, b = (x - m) / math.sqrt(len(x) - 1), (y - n) / math.sqrt(len(y) - 1)
    a, b = (np.linalg.svd(z, full_matrices=False) for z in (a, b))
    overlap = np.linalg.svd((a.S[:, None] * a.Vh) @ (b.S[:, None] * b.Vh).T, compute_uv=False)
    return ((m - n) ** 2).sum() + (a.S**2).sum() + (b.S**2).sum() - 2 * overlap.sum()


D = 40
POWER = torch.arange(1, D + 1, dtype=torch.float64) ** -2.0
DECAY = torch.logspace(0, -6, D, dtype=torch.float64)
HALF = torch.cat([torch.ones(D // 2), torch.zeros(D // 2)]).double()
ONES = torch.ones(D, dtype=torch.float64)

SPECTRA = {
    "flat": (ONES, 0.7 * ONES),
    "power law": (POWER, 0.9 * POWER),
    "six decades": (DECAY, 0.9 * DECAY),
    "six decades, crossed": (DECAY, DECAY.flip(0)),
    "dead directions, synthetic": (ONES, HALF),
    "dead directions, both": (HALF, 0.5 * HALF),
    "dead directions, crossed": (HALF, HALF.flip(0)),
    "variance 1e-4": (ONES, 1e-2 * ONES),
    "variance 1e-8": (POWER, 1e-4 * POWER),
    "variance 1e-12": (DECAY, 1e-6 * DECAY),
    "constant synthetic": (ONES, 0 * ONES),
    "both variance 1e-12": (1e-6 * ONES, 2e-6 * ONES),
    "both tiny": (1e-100 * ONES, 3e-100 * ONES),
    "both huge": (1e45 * ONES, 3e45 * ONES),
    "nearly equal": (ONES, (1 + 1e-3) * ONES),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_commuting_covariances_have_a_closed_form(name):
    """Along common axes the distance is the sum of squared differences of standard deviations."""
    real, synthetic = SPECTRA[name]
    turn, apart = rotation(D, 1), 1e-1 * float(real[0]) * normal(1, D, 2)[0]
    expected = float((real - synthetic).square().sum() + apart.square().sum())
    x = with_moments(300, 0 * apart, real, turn, 3)
    y = with_moments(200, apart, synthetic, turn, 4)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-8, abs=0)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-8, abs=0)
    laws = [(turn.T * scales.square()) @ turn for scales in (real, synthetic)]
    value = gaussian_w2_squared(0 * apart, laws[0], apart, laws[1])
    # a covariance holds only half of the digits that its factor holds
    assert value == pytest.approx(expected, rel=1e-8 if name != "nearly equal" else 1e-6, abs=0)


@pytest.mark.parametrize(
    ("n", "m", "d"),
    [
        (500, 400, 30),
        (31, 400, 30),
        (30, 400, 30),
        (400, 12, 30),
        (10, 12, 30),
        (2, 2, 7),
        (9, 5, 1),
    ],
)
def test_agrees_with_other_formulas(n, m, d):
    """Every way through: more samples than features in both sets, in one, in none."""
    turn = normal(d, d, 5)
    x, y = (normal(n, d, 1) @ turn).float(), (0.8 * normal(m, d, 2) @ turn + 0.3).float()
    value = frechet_distance(x, y)
    assert value == pytest.approx(by_singular_values(x, y), rel=1e-11)
    if min(n, m) > d + 1:  # the product must not be singular
        assert value == pytest.approx(by_sqrtm(x, y), rel=1e-9)


def test_agrees_with_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    x, y = normal(500, 30, 1), 0.8 * normal(400, 30, 2) + 0.3
    theirs = float(fid._compute_fid(*moments(x), *moments(y)))
    assert frechet_distance(x, y) == pytest.approx(theirs, rel=1e-10)
    assert gaussian_w2_squared(*moments(x), *moments(y)) == pytest.approx(theirs, rel=1e-10)


@pytest.mark.parametrize("ratio", [1e-4, 1e-8, 1e-12])
@pytest.mark.parametrize(("n", "m"), [(300, 200), (30, 25), (300, 25), (30, 200)])
def test_variance_ratios_of_a_collapse(n, m, ratio):
    """More samples than features, or fewer, on either side; no closed form, but a careful other."""
    x, y = normal(n, 60, 1) @ normal(60, 60, 3), math.sqrt(ratio) * normal(m, 60, 2) + 0.1
    expected = by_singular_values(x, y)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-9)
    both = by_singular_values(math.sqrt(ratio) * x, y)
    assert frechet_distance(math.sqrt(ratio) * x, y) == pytest.approx(both, rel=1e-9)


@pytest.mark.parametrize("scales", ["flat", "decay"])
def test_general_covariances_to_fifty_digits(scales):
    """Covariances that do not commute, where only more digits can tell who is right."""
    d = 6
    spread = torch.logspace(0, 0 if scales == "flat" else -6, d, dtype=torch.float64)
    a, b = normal(d + 3, d, 1) * spread, normal(d + 5, d, 2) * spread.flip(0)
    with mpmath.workdps(50):
        exact = []
        for x in (a, b):
            rows = mpmath.matrix(x.tolist())
            mean = mpmath.matrix([sum(rows[:, j]) / len(x) for j in range(d)])
            centred = mpmath.matrix(len(x), d)
            for i in range(len(x)):
                for j in range(d):
                    centred[i, j] = rows[i, j] - mean[j]
            exact.append((mean, centred.T * centred / (len(x) - 1)))
        (m, s), (n, t) = exact
        factor = mpmath.cholesky(s)
        values = mpmath.eigsy(factor.T * t * factor, eigvals_only=True)
        overlap = sum(mpmath.sqrt(value) for value in values)
        trace = sum(s[j, j] + t[j, j] for j in range(d))
        expected = float(sum((m[j] - n[j]) ** 2 for j in range(d)) + trace - 2 * overlap)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-11)


def test_one_feature():
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[10.0], [11.0], [12.0]])
    assert frechet_distance(x, y) == pytest.approx(10**2 + (math.sqrt(2) - 1) ** 2, rel=1e-12)


def test_identical_and_constant_sets():
    x = normal(200, 10, 1).float()
    constant = torch.full((50, 10), 0.1)
    assert 0 <= frechet_distance(x, x.clone()) < 1e-13
    assert 0 <= frechet_distance(x[:8], x[:8].clone()) < 1e-13
    assert frechet_distance(constant, constant) == 0
    assert frechet_distance(constant, constant + 1) == pytest.approx(10, rel=1e-6)
    zero, law = torch.zeros(3), torch.zeros(3, 3)
    assert gaussian_w2_squared(zero, law, zero + 2, law) == 12
    assert 0 <= gaussian_w2_squared(zero, torch.eye(3), zero, torch.eye(3)) < 1e-14


@pytest.mark.parametrize(("dtype", "offset"), [(torch.float32, 2**20), (torch.float64, 2**40)])
def test_a_common_offset_and_the_order_of_rows_cost_no_digits(dtype, offset):
    """Whole numbers survive the offset, so what is left of the features must count exactly."""
    x, y = (z.round().to(dtype) for z in (1000 * normal(300, 20, 1), 900 * normal(200, 20, 2)))
    expected = frechet_distance(x, y)
    assert frechet_distance(x + offset, y + offset) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(x.flip(0), y.flip(0)) == pytest.approx(expected, rel=1e-12)


def test_singular_values_are_computed_only_where_they_are_needed(monkeypatch):
    x, y = normal(300, 20, 1), 0.9 * normal(200, 20, 2)
    monkeypatch.delattr(frechet, "singular_values")
    assert frechet_distance(x, y) > 0
    assert frechet_distance(x[:20], y) > 0
    assert frechet_distance(x[:12], y[:15]) > 0
    assert gaussian_w2_squared(*moments(x), *moments(y)) > 0
    with pytest.raises(NameError, match="singular_values"):
        frechet_distance(x, x)


def test_tiny_variances_far_from_the_origin():
    x = 100 + 1e-3 * normal(300, 20, 1)
    y = 100 + 1e-3 * normal(300, 20, 2)
    assert frechet_distance(x, y) == pytest.approx(by_singular_values(x, y), rel=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_features_are_left_as_they_are_and_autocast_is_ignored(dtype):
    x, y = normal(100, 8, 1).to(dtype).requires_grad_(), normal(90, 8, 2).to(dtype)
    before = x.detach().clone(), y.clone()
    expected = frechet_distance(x.double(), y.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert frechet_distance(x, y) == expected
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


X = normal(9, 4, 1)
NAN = X.clone()
NAN[[1, 7], 2] = torch.nan


@pytest.mark.parametrize(
    ("real", "synthetic", "words"),
    [
        (X, NAN, ["synthetic", "2 of 9"]),
        (X[:1], X, ["real", "1 samples", "at least 2"]),
        (X, X[:, :3], ["4", "3"]),
        (X[0], X, ["real", "(4,)"]),
        (X.long(), X, ["real", "int64"]),
    ],
)
def test_features_that_cannot_be_used_are_refused(real, synthetic, words):
    with pytest.raises(ValueError) as refusal:
        frechet_distance(real, synthetic)
    assert all(word in str(refusal.value) for word in words)


EYE, ZERO = torch.eye(3), torch.zeros(3)


@pytest.mark.parametrize(
    ("law", "words"),
    [
        ((ZERO[:2], EYE), "shape"),
        ((ZERO, EYE[:2]), "shape"),
        ((ZERO, EYE + EYE.roll(1, 0)), "not symmetric"),
        ((ZERO, -EYE), "negative variance"),
        ((ZERO, torch.diag(torch.tensor([1.0, 1.0, -0.1]))), "negative variance"),
        ((ZERO * torch.nan, EYE), "not finite"),
    ],
)
def test_laws_that_are_none_are_refused(law, words):
    with pytest.raises(ValueError, match=f"synthetic.*{words}"):
        gaussian_w2_squared(ZERO, EYE, *law)


def test_only_rounding_is_clamped():
    assert _at_least_0(-1e-7, 1.0) == 0.0
    assert _at_least_0(1e-7, 1.0) == 1e-7
    with pytest.raises(ArithmeticError, match=r"-0\.001"):
        _at_least_0(-1e-3, 1.0)


# --- moments that merge -------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_moments_of_parts_are_those_of_the_whole(offset):
    x = normal(500, 7, 1).double() * torch.logspace(0, -3, 7) + offset
    whole, cuts = Moments.of(x), (0, 1, 3, 250, 251, 500)
    for order in (1, -1):
        parts = [Moments.of(x[a:b]) for a, b in pairwise(cuts)][::order]
        merged = Moments.merged(parts)
        assert merged.n == 500
        centred = x.numpy().astype("longdouble")
        centred = centred - centred.mean(axis=0)
        scatter = torch.tensor((centred.T @ centred).astype("float64"))
        scale = scatter.diag().sqrt()
        for found in (whole, merged):
            assert ((found.scatter - scatter) / torch.outer(scale, scale)).abs().max() < 1e-12 * (
                1 + offset
            )
            torch.testing.assert_close(found.mean, x.mean(dim=0), rtol=1e-14, atol=1e-15)


def test_a_distance_from_moments_is_that_from_features():
    real, synthetic = normal(200, 9, 1), 0.8 * normal(90, 9, 2) + 0.2
    moments = Moments.of(real), Moments.of(synthetic)
    expected = frechet_distance(real, synthetic)
    assert frechet_distance(*moments) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(moments[0], synthetic) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(real, moments[1]) == pytest.approx(expected, rel=1e-12)
    kept = frechet_distance(real, synthetic, real_moments=moments[0])
    assert kept == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="real_moments are of 90"):
        frechet_distance(real, synthetic, real_moments=moments[1])
    with pytest.raises(ValueError, match="synthetic has moments of 1 samples"):
        frechet_distance(real, Moments.of(synthetic[:1]))
