"""Other libraries' products and spectra against torch's own."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from mad_lightning.metrics.functional import matrices
from mad_lightning.metrics.functional.matrices import (
    add_gram,
    between,
    eigenvalues,
    memory,
    singular_values,
)


def numbers(*shape, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("layout", ["rows", "columns", "every other row", "total in columns"])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (7, 5), (40, 33), (3, 64)])
def test_a_gram_is_added_above_the_diagonal_however_samples_lie(layout, n, d):
    x, total = numbers(n, d), numbers(d, d, seed=2)
    if layout == "columns":
        x = x.T.contiguous().T
    elif layout == "every other row":
        x = x.repeat_interleave(2, dim=0)[::2]
    elif layout == "total in columns":
        total = total.T.contiguous().T
    expected, before = total + x.T @ x, x.clone()
    add_gram(total, x)
    torch.testing.assert_close(total.triu(), expected.triu(), rtol=1e-13, atol=1e-13)
    assert torch.equal(x, before)


@pytest.mark.parametrize("d", [1, 6, 130])
def test_products_and_spectra_are_those_of_torch(d):
    x, factor = numbers(d + 3, d), numbers(d, d, seed=3).tril()
    matrix = x.T @ x
    product = between(factor, matrix)
    full = factor.T @ matrix @ factor
    torch.testing.assert_close(product.tril(), full.tril(), rtol=1e-12, atol=1e-11)
    largest = float(torch.linalg.eigvalsh(full)[-1])
    found = eigenvalues(full.tril())
    assert torch.allclose(found, torch.linalg.eigvalsh(full), rtol=0, atol=1e-13 * largest)
    torch.testing.assert_close(singular_values(x), torch.linalg.svdvals(x), rtol=1e-11, atol=1e-12)


def test_memory_is_like_another_tensor():
    like = torch.zeros(3, dtype=torch.float32)
    assert (memory(like, 4, 5).shape, memory(like, 4, 5).dtype) == ((4, 5), torch.float32)
    assert memory(like, 2, dtype=torch.float64).dtype == torch.float64
    assert memory(torch.zeros(3, device="meta"), 2, 2).device.type == "meta"


def test_it_takes_as_many_threads_as_torch(monkeypatch):
    def counted(matrix):
        taken.update(
            pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"
        )
        return np.zeros(1)

    taken, threads = set(), torch.get_num_threads()
    monkeypatch.setattr(matrices.np.linalg, "eigvalsh", counted)
    try:
        torch.set_num_threads(1)
        eigenvalues(torch.eye(2))
    finally:
        torch.set_num_threads(threads)
    assert taken == {1}
