"""Large matrices on CPUs: symmetric products at half the price, in memory that is cheap to touch.

Torch multiplies a matrix with its own transpose as it does any two, and finds eigenvalues and
singular values of a thousand rows in half as much time again as the libraries of NumPy and SciPy,
which are at hand on CPUs. Those take as many threads as torch does. Elsewhere torch does it all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["add_gram", "between", "eigenvalues", "memory", "singular_values"]


def memory(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Memory for many numbers, of no value yet, where another tensor lies and of its dtype.

    On Linux, NumPy asks the system for large pages: to touch them first costs a quarter.
    """
    empty = like.new_empty(0, dtype=dtype)
    if not empty.is_cpu:
        return empty.new_empty(shape)
    return torch.from_numpy(np.empty(shape, dtype=empty.numpy().dtype))


def add_gram(total: Tensor, x: Tensor) -> None:
    """Adds ``x'x`` of samples (N, D) to a matrix (D, D), on and above the diagonal; float64."""
    if not x.is_cpu:
        total.addmm_(x.T, x)
        return
    from scipy.linalg.blas import dsyrk

    with _threads():
        summed = dsyrk(1.0, x.numpy().T, beta=1.0, c=total.numpy().T, lower=1, overwrite_c=1)
    if not np.shares_memory(summed, total.numpy()):  # where SciPy took a copy
        total.copy_(torch.from_numpy(summed.T))


def between(factor: Tensor, matrix: Tensor) -> Tensor:
    """``L' T L`` for a lower triangular L and a symmetric T (D, D), on and below the diagonal."""
    if not factor.is_cpu:
        return factor.T @ matrix @ factor
    from scipy.linalg.lapack import dsygst

    with _threads():
        product, _ = dsygst(matrix.T.numpy(), factor.numpy(), itype=2, lower=1)  # it reads columns
    return torch.from_numpy(product)


def eigenvalues(matrix: Tensor) -> Tensor:
    """Eigenvalues (D,), ascending, of a symmetric matrix of which the lower half holds."""
    if not matrix.is_cpu:
        return torch.linalg.eigvalsh(matrix)
    with _threads():
        return torch.from_numpy(np.linalg.eigvalsh(matrix.numpy()))


def singular_values(matrix: Tensor) -> Tensor:
    """Singular values of a matrix, descending."""
    if not matrix.is_cpu:
        return torch.linalg.svdvals(matrix)
    with _threads():
        return torch.from_numpy(np.linalg.svd(matrix.numpy(), compute_uv=False))


@contextmanager
def _threads() -> Iterator[None]:
    """As many threads as torch takes, for libraries that have a number of their own."""
    with _libraries().limit(limits=torch.get_num_threads(), user_api="blas"):
        yield


@cache
def _libraries() -> Any:
    import scipy.linalg  # noqa: F401 - only what is loaded is found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
