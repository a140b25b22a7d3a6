"""Products of errors have no bias, and their squares are the distances of that name."""

import itertools

import numpy as np
import pytest
import torch

from mad_lightning.metrics.functional import (
    Moments,
    frechet_distance,
    gaussian_w2_squared,
    kernel_distance,
)
from mad_lightning.metrics.products import frechet_products, kernel_products
from mad_lightning.refusal import Refused
from mad_lightning.samples import Law


def normal(n, d, seed, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double() + shift


def classes(n, k=3):
    return torch.arange(n) % k


@pytest.mark.parametrize("labelled", [False, True])
def test_squares_of_the_cubic_kernel_are_the_kernel_distance(labelled):
    sets = [(normal(60, 4, seed, 0.3), classes(60) if labelled else None) for seed in (1, 2)]
    real = (normal(90, 4, 0), classes(90) if labelled else None)
    told = kernel_products(sets, real)
    for k, (x, of) in enumerate(sets):
        labels = (real[1], of)  # of which the reference's parts have as many each
        distance = kernel_distance(real[0], x, labels=labels)
        assert float(told.all[k, k]) == pytest.approx(distance, rel=1e-9 if of is None else 0.02)


def test_a_product_is_that_of_all_pairs():
    """Against loops over samples, with a kernel that is written down again."""
    x, y, r = normal(5, 2, 1), normal(6, 2, 2), normal(8, 2, 0)

    def mean(a, b, apart=False):
        pairs = itertools.product(range(len(a)), range(len(b)))
        values = [
            np.exp(-float((a[i] - b[j]).square().sum()) / (2 * 0.7**2))
            for i, j in pairs
            if not (apart and i == j)
        ]
        return np.mean(values)

    told = kernel_products([(x, None), (y, None)], (r, None), width=0.7)
    expected = mean(x, y) - mean(x, r) - mean(y, r) + mean(r, r, apart=True)
    assert float(told.all[0, 1]) == pytest.approx(expected)
    assert float(told.all[0, 0]) == pytest.approx(
        mean(x, x, apart=True) - 2 * mean(x, r) + mean(r, r, apart=True)
    )


def test_parts_of_the_reference_are_left_out_one_by_one():
    sets, r = [(normal(20, 2, 1), None)], normal(40, 2, 0)
    told = kernel_products(sets, (r, None))
    rest = torch.cat([r[k::10] for k in range(1, 10)])
    assert len(told.without) == 10
    assert float(told.without[0][0, 0]) == pytest.approx(
        float(kernel_products(sets, (rest, None)).all[0, 0])
    )


def test_small_errors_have_the_frechet_distance_as_their_square():
    """A law that is a little off, by many samples, against the distance itself."""
    d, n = 3, 200_000
    root = torch.linalg.cholesky(torch.tensor([[1.0, 0.3, 0], [0.3, 2.0, 0], [0, 0, 0.5]]).double())
    real = Law(torch.ones(d).double(), root @ root.T)
    off = 1.06 * normal(n, d, 1) @ root.T + 1.05
    told = frechet_products([(off, None)], (off[:10], None), real)
    _, mean, scatter = Moments.of(off)
    exact = gaussian_w2_squared(real.mean, real.covariance, mean, scatter / (n - 1))
    assert float(told.all[0, 0]) == pytest.approx(exact, rel=0.08)
    assert told.without == []
    half = normal(n, d, 2) @ root.T + 1.0
    sampled = frechet_products([(off, None)], (half, None))
    assert float(sampled.all[0, 0]) == pytest.approx(frechet_distance(half, off), rel=0.15)


@pytest.mark.parametrize("products", [kernel_products, frechet_products])
@pytest.mark.parametrize("labelled", [False, True])
def test_without_error_products_are_zero_in_the_mean(products, labelled):
    """Sets with as many of each class as the real law has, drawn 100 times."""
    shift = torch.tensor([-2.0, 0.0, 2.0]).double()

    def drawn(n, seed):
        labels = classes(n)
        return normal(n, 2, seed) + shift[labels][:, None], labels if labelled else None

    def one(turn):
        r, of = drawn(30, 3 * turn)
        if not labelled:  # classes by chance
            pool = torch.randint(3, (30,), generator=torch.Generator().manual_seed(turn))
            r = normal(30, 2, 3 * turn) + shift[pool][:, None]
        sets = [drawn(15, 3 * turn + k) for k in (1, 2)]
        if not labelled:
            rng = torch.Generator().manual_seed(10**6 + turn)
            sets = [
                (normal(15, 2, 3 * turn + k)
                 + shift[torch.randint(3, (15,), generator=rng)][:, None], None)
                for k in (1, 2)
            ]  # fmt: skip
        if products is frechet_products:
            variance = float(1 + 8 / 3)
            covariance = torch.tensor([[variance, 8 / 3], [8 / 3, variance]]).double()
            return frechet_products(sets, (r, of), Law(torch.zeros(2).double(), covariance)).all
        return products(sets, (r, of)).all

    values = torch.stack([one(turn) for turn in range(100)])
    error = values.std(0) / 100**0.5
    assert bool((values.mean(0).abs() < 4 * error).all())


def test_a_width_of_nothing_is_refused():
    sets = [(normal(10, 2, k), None) for k in range(2)]
    with pytest.raises(Refused, match="width"):
        kernel_products(sets, sets[0], width=0.0)
