r"""All distances between two sets, a tile at a time, between ends that are sure to hold.

The matrix form ``‖x‖² + ‖y‖² - 2 x·y`` is one matrix product, and in float32 it is wrong where
samples are close and far from the origin. Here it only brackets: a tile holds the *lower* ends of
squared distances, the upper ends lie at most twice the slack of row and column above them, and what
a bracket leaves open is settled by differences in float64. Norms and slack are two more features
of a sample, so that the product alone makes the tile.

References:
    | Accuracy and Stability of Numerical Algorithms (Higham, 2002), section 3.1: the error of an
    | inner product of length d is at most d times the unit roundoff, in any order of addition.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "WIDE",
    "Distinct",
    "Product",
    "Tile",
    "all_pairs",
    "full_precision",
    "own_pairs",
    "side_for",
    "squared_distances",
]

_PIECE = 512
"""Terms of an inner product that are added up apart from the others, so that errors stay small."""
_RUN = 16
"""Columns that share one minimum. Sets are padded to a multiple of it."""
_ROOM = 2**17
"""Float64 numbers in flight while pairs are settled: 1 MiB, so that they stay in the cache."""
_DOUBT = 1 / 16
"""Share of a tile above which a product in float64 costs less than settling pair by pair."""
WIDE = 512
"""Features from which on the product, not the search, is the cost of a tile."""

Work = Sequence[tuple[slice, slice]]


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, no TF32, no bfloat16 inside products: the slack covers float32 only."""
    mkldnn = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    backends = (torch.backends.cuda.matmul, mkldnn)
    found = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, found, strict=True):
            backend.fp32_precision = precision


class Distinct(NamedTuple):
    """A set of samples as its distinct ones."""

    rows: Tensor
    """Distinct samples (n, D)."""
    place: Tensor
    """Which of them each sample is (N,)."""
    copies: Tensor
    """How often each occurs (n,); adds up to N."""

    @classmethod
    def of(cls, x: Tensor) -> Distinct:
        """Most sets have no two equal rows; a number from a few columns of each row tells."""
        few = x[:, :: max(1, x.shape[1] // 32)].double()
        weights = torch.arange(1, few.shape[1] + 1, dtype=few.dtype, device=x.device).sqrt()
        if len((few * weights).sum(dim=1).unique()) == len(x):
            place = torch.arange(len(x), device=x.device)
            return cls(x, place, torch.ones_like(place))
        return cls(*torch.unique(x, dim=0, return_inverse=True, return_counts=True))


class _Side(NamedTuple):
    """One side of the matrix product, in its dtype; padding rows are infinitely far away."""

    points: Tensor
    """``(x, 1, -low / 2)`` (n, D + 2): centred, scaled samples, and their squared norm less slack.

    Of rows, which are the left factor, ``(x, -low / 2, 1)``: minus twice an inner product is then
    the lower end of a squared distance.
    """
    slack: Tensor
    """What this side adds to the rounding error of a squared distance (n,), float64."""

    def part(self, block: slice) -> _Side:
        """Some of the samples."""
        return _Side(self.points[block], self.slack[block])

    def left(self) -> _Side:
        """The same samples as the left factor."""
        points = self.points.clone()
        points[:, -2:] = self.points[:, -2:].flip(1)
        return _Side(points, self.slack)


class Product(NamedTuple):
    """The matrix form of all distances between samples x and samples y, one tile at a time."""

    x: Tensor
    """Rows (n, D)."""
    y: Tensor
    """Columns (m, D)."""
    own: bool
    """Whether columns and rows are the same samples, of which none is its own neighbour."""
    centre: Tensor
    """Origin (D,), float64: rounding errors grow with the norms, and this keeps them small."""
    unit: float
    """A power of two, which scales without rounding: squares neither overflow nor vanish."""
    rows: _Side
    columns: _Side

    @classmethod
    def of(cls, x: Tensor, y: Tensor, own: bool) -> Product:
        """Centres both sets near the mean of all and scales them so that no number exceeds 2."""
        some = [z[:: max(1, len(z) // 512)] for z in (x, y)]  # any origin is right
        centre = torch.cat([z.double() for z in some]).mean(dim=0)
        unit = 2.0 ** math.frexp(max(abs(float(edge)) for z in (x, y) for edge in z.aminmax()))[1]
        columns = _side(y, centre, unit, torch.float32)
        rows = columns.left() if own else _side(x, centre, unit, torch.float32).left()
        return cls(x, y, own, centre, unit, rows, columns)

    def tiles(self, work: Work) -> Iterator[Tile]:
        """Brackets of pairs of blocks from a product in float32, each until the next is asked for.

        Tiles take turns in one piece of memory: to the system, fresh memory costs as much as a
        product of 80 features.
        """
        room = self.rows.points.new_empty(
            max(((b.stop - b.start) * (c.stop - c.start) for b, c in work), default=0)
        )
        for rows, columns in work:
            x, y = self.rows.part(rows), self.columns.part(columns)
            shape = len(x.points), len(y.points)
            yield self._tile(rows, columns, x, y, room[: math.prod(shape)].view(shape))

    def narrow_tile(self, rows: slice, columns: slice) -> Tile:
        """Brackets of the same pairs from a product in float64."""
        x = _side(self.x[rows], self.centre, self.unit, torch.float64).left()
        y = _side(self.y[columns], self.centre, self.unit, torch.float64)
        room = x.points.new_empty(len(x.points), len(y.points))
        return self._tile(rows, columns, x, y, room)

    def _tile(self, rows: slice, columns: slice, x: _Side, y: _Side, room: Tensor) -> Tile:
        for start in range(0, x.points.shape[1], _PIECE):
            piece = slice(start, start + _PIECE)
            beta = 0.0 if start == 0 else 1.0
            room.addmm_(x.points[:, piece], y.points[:, piece].T, beta=beta, alpha=-2.0)
        if self.own and rows == columns:
            room.fill_diagonal_(math.inf)
        return Tile(self.x[rows], self.y[columns], rows, columns, room, x.slack, y.slack, self)


def _side(samples: Tensor, centre: Tensor, unit: float, dtype: torch.dtype) -> _Side:
    """Samples (n, D) as one side of the product, padded to a multiple of the run length.

    The slack adds up, in unit roundoffs and relative to the squared norm: twice the length of a
    piece and the number of pieces for the inner product, whose terms add up to no more than twice
    the squared norms; 4 for the rounding of centred samples, 2 for that of the norm, and 2 log2 D +
    6 for the float64 sums by which pairs are settled. 64 covers all but the first. What is added to
    the norm covers underflow.
    """
    n, d = samples.shape
    size = -(-n // _RUN) * _RUN
    points = samples.new_empty(size, d + 2, dtype=dtype)
    points[n:] = 0.0
    points[:, -2] = 1.0
    norm = torch.zeros(size, dtype=torch.float64, device=samples.device)
    step = max(1, _ROOM // d)
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        centred = (samples[part].double() - centre).div_(unit)
        points[part, :-2] = centred
        norm[part] = centred.square_().sum(dim=1)
    kind = torch.finfo(dtype)
    length = min(d + 2, _PIECE) + -(-(d + 2) // _PIECE)
    roundoff = (2 * length + 64) * kind.eps / 2
    slack = roundoff / (1 - roundoff) * norm + 64 * (d + 64) * kind.tiny
    points[:, -1] = (norm - slack) / -2.0
    points[n:, -1] = -math.inf
    return _Side(points, slack)


class Tile(NamedTuple):
    """Brackets of the squared distances between some rows i and some columns j."""

    x: Tensor
    """Its rows (r, D), without padding."""
    y: Tensor
    """Its columns (c, D)."""
    rows: slice
    columns: slice
    lower: Tensor
    """Lower ends (R, C), float32 or float64, in squared units of the product."""
    slack_rows: Tensor
    slack_columns: Tensor
    """The upper end of (i, j) is ``lower[i, j] + 2 (slack_rows[i] + slack_columns[j])``."""
    product: Product

    def turned(self) -> Tile:
        """The same pairs, rows as columns."""
        return Tile(
            self.y,
            self.x,
            self.columns,
            self.rows,
            self.lower.T,
            self.slack_columns,
            self.slack_rows,
            self.product,
        )

    def narrowed(self) -> Tile:
        """Brackets of the same pairs from a product in float64."""
        if self.lower.is_contiguous():
            return self.product.narrow_tile(self.rows, self.columns)
        return self.product.narrow_tile(self.columns, self.rows).turned()

    def crowded(self, pairs: int) -> bool:
        """Whether so many pairs in doubt make it pay to narrow the brackets."""
        return self.lower.dtype == torch.float32 and pairs > _DOUBT * self.lower.numel()

    def within(self, limit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs whose lower end does not exceed the limit (R,) of their row: i, j, lower end."""
        limit = limit.to(self.lower.dtype).nextafter(self.lower.new_tensor(math.inf))
        limit = limit.clamp(max=torch.finfo(limit.dtype).max)  # padding never lies within
        minima = self._run_minima(_RUN)
        row, run = (minima <= limit[:, None]).nonzero(as_tuple=True)
        near = torch.unflatten(self.lower, 1, (_RUN, -1))[row, :, run]
        hit, member = (near <= limit[row, None]).nonzero(as_tuple=True)
        return row[hit], member * minima.shape[1] + run[hit], near[hit, member].double()

    def upper(self, i: Tensor, j: Tensor, lower: Tensor) -> Tensor:
        """Upper ends (P,) of given pairs, float64."""
        return lower + 2 * (self.slack_rows[i] + self.slack_columns[j])

    def nearest(self, k: int) -> Tensor:
        """Upper ends (R, m) to m different columns, m >= k unless there are fewer columns.

        They are those of the minima of runs, so likely to be small. Few columns make short runs.
        """
        columns = self.lower.shape[1]
        run = next(r for r in (_RUN, 8, 4, 2, 1) if r == 1 or columns // r >= 4 * k)
        slack = self.slack_columns.view(run, -1).amax(dim=0)
        return self._run_minima(run) + 2 * (self.slack_rows[:, None] + slack)

    def settled(self, i: Tensor, j: Tensor) -> Tensor:
        """Squared distances (P,) of given pairs, float64, in units of the features."""
        return squared_distances(self.x, i, self.y, j)

    def _run_minima(self, run: int) -> Tensor:
        """Smallest lower end (R, C / run) in each run of columns.

        Run c is every (C / run)-th column, starting at c. Samples may come sorted, so that
        neighbours in feature space are neighbours in a tile; this spreads them over the runs.
        """
        rows, columns = self.lower.shape
        if self.lower.is_contiguous():
            return self.lower.view(rows, run, -1).amin(dim=1)
        # Turned, the rows lie in memory as columns do; torch is ten times slower unless told.
        return self.lower.T.view(run, columns // run, rows).amin(dim=0).T


def squared_distances(x: Tensor, i: Tensor, y: Tensor, j: Tensor) -> Tensor:
    """Squared distances (P,) between rows i (P,) of x and rows j (P,) of y, float64.

    The one formula behind radii and settled pairs. A pair gives the same bits wherever it stands:
    terms are added by halves, element by element, which no kernel can reorder. Different pairs that
    are equally far in exact arithmetic only, as on a lattice of thirds, are told apart by rounding.
    """
    settled = torch.empty(len(i), dtype=torch.float64, device=x.device)
    step = max(1, _ROOM // x.shape[1])
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        terms = x.index_select(0, i[part]).double()
        terms = terms.sub_(y.index_select(0, j[part]).double()).square_()
        width = terms.shape[1]
        while width > 1:
            half = width // 2
            terms[:, :half] += terms[:, width - half : width]
            width -= half
        settled[part] = terms[:, 0]
    return settled


def side_for(d: int) -> int:
    """Side of a tile for D features: large ones multiply faster, small ones stay in the cache."""
    return 2048 if d >= WIDE else 1024


def _blocks(n: int, side: int, start: int = 0) -> list[slice]:
    """Blocks of a padded set."""
    side = max(_RUN, side // _RUN * _RUN)
    return [slice(at, min(at + side, n)) for at in range(start, n, side)]


def all_pairs(n: int, m: int, side: int) -> Work:
    """Blocks that hold each pair of two padded sets."""
    return [(rows, columns) for rows in _blocks(n, side) for columns in _blocks(m, side)]


def own_pairs(n: int, side: int, d: int) -> Work:
    """Blocks that hold each pair of one padded set once, but twice where rows are the columns.

    Those come first: they give every row a bound. Half of their products are for nothing, so with
    many features they are a quarter as wide.
    """
    blocks = _blocks(n, side)
    work = []
    for block in blocks:
        small = _blocks(block.stop, side // 4 if d >= WIDE else side, block.start)
        work += [(b, b) for b in small] + list(combinations(small, 2))
    return work + list(combinations(blocks, 2))
