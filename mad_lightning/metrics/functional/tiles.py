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
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mad_lightning.metrics.functional.matrices import memory

__all__ = [
    "WIDE",
    "Distinct",
    "Product",
    "Tile",
    "alike_in_runs",
    "all_pairs",
    "own_pairs",
    "places",
    "side_for",
    "squared_distances",
]

_PIECE = 512
"""About as many terms of an inner product are added up apart from others, to keep errors small."""
_RUN = 16
"""Columns that share one minimum. Sets are padded to a multiple of it."""
_ROOM = 2**17
"""Float64 numbers in flight while pairs are settled: 1 MiB, so that they stay in the cache."""
_CENTRED = 2**18
"""Numbers in flight while a side is centred."""
_DOUBT = 1 / 32
"""Share of a tile above which a product in float64 costs less than settling pair by pair."""
_MASSES = 32
"""Masses of samples close to each other that are told apart."""
_CLOSE = 1e-8
"""Squared radius of such a mass, relative to the spread of all: float64 copes with larger ones."""
WIDE = 512
"""Features from which on the product, not the search, is the cost of a tile."""

Work = Sequence[tuple[slice, slice]]


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
    tail: Tensor
    """The last piece of the same samples as the left factor (n, p); other pieces do not differ."""
    slack: Tensor
    """What this side adds to the rounding error of a squared distance (n,), float64."""

    def part(self, block: slice) -> _Side:
        """Some of the samples."""
        return _Side(self.points[block], self.tail[block], self.slack[block])


@dataclass(frozen=True)
class Product:
    """The matrix form of all distances between samples x and samples y, one tile at a time."""

    x: Tensor
    """Samples (n, D) that are the rows."""
    y: Tensor
    """Samples (m, D) that are the columns."""
    order: Tensor
    """Which of y each column is (m,)."""
    own: bool
    """Whether columns and rows are the same samples, of which none is its own neighbour."""
    centre: Tensor
    """Origin (D,), float64: rounding errors grow with the norms, and this keeps them small."""
    unit: float
    """A power of two, which scales without rounding: squares neither overflow nor vanish."""
    rows: _Side
    columns: _Side

    @classmethod
    def of(cls, x: Tensor, y: Tensor, own: bool, order: Tensor | None = None) -> Product:
        """Centres both sets near the mean of all and scales them so that no number exceeds 2."""
        if order is None:
            order = torch.arange(len(y), device=y.device)
        sets = (x,) if own else (x, y)
        some = [z[:: max(1, len(z) // 512)] for z in sets]
        # Any origin is right. One that float32 holds can be taken from float32 in one rounding.
        coarse = min((z.dtype for z in sets), key=lambda dtype: dtype.itemsize)
        centre = torch.cat([z.double() for z in some]).mean(dim=0).to(coarse).double()
        unit = 2.0 ** math.frexp(max(abs(float(edge)) for z in sets for edge in z.aminmax()))[1]
        columns = _side(y, order, centre, unit, torch.float32)
        rows = columns
        if not own:
            rows = _side(x, torch.arange(len(x), device=x.device), centre, unit, torch.float32)
        return cls(x, y, order, own, centre, unit, rows, columns)

    def tiles(self, work: Work) -> Iterator[Tile]:
        """Brackets of pairs of blocks from a product in float32, each until the next is asked for.

        Tiles take turns in one piece of memory: to the system, fresh memory costs as much as a
        product of 80 features.
        """
        pairs = max(((b.stop - b.start) * (c.stop - c.start) for b, c in work), default=0)
        room = memory(self.rows.points, pairs)
        for rows, columns in work:
            x, y = self.rows.part(rows), self.columns.part(columns)
            shape = len(x.points), len(y.points)
            yield self._tile(rows, columns, x, y, room[: math.prod(shape)].view(shape))

    def narrow_tile(self, rows: slice, columns: slice) -> Tile:
        """Brackets of the same pairs from a product in float64."""
        return self._tile(rows, columns, *self._narrow(*self._places(rows, columns), self.centre))

    def narrowest(self, tile: Tile) -> Tile:
        """Narrows a narrow tile, where it lies, within masses of samples that are nearly equal.

        Far from the origin even float64 tells those badly apart. So each mass has an origin of its
        own, and the brackets that come of it are cut with the others.
        """
        lower, upper = tile.lower, tile.lower + 2 * (tile.slack_rows[:, None] + tile.slack_columns)
        places = self._places(tile.rows, tile.columns)
        pivots, *masses = self._masses
        for mass, pivot in enumerate(pivots):
            i, j = (
                (own[at] == mass).nonzero().squeeze(1)
                for own, at in zip(masses, places, strict=True)
            )
            if len(i) and len(j):
                x, y = self._narrow(places[0][i], places[1][j], pivot)
                local, block = _lower_ends(x, y), (i[:, None], j)
                ends = local + 2 * (x.slack[:, None] + y.slack)
                lower[block] = lower[block].maximum(local[: len(i), : len(j)])
                upper[block] = upper[block].minimum(ends[: len(i), : len(j)])
        if self.own and tile.rows == tile.columns:
            lower.fill_diagonal_(math.inf)
            upper.fill_diagonal_(math.inf)
        return tile._replace(ends=upper)

    def _places(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Which of x and which of y are meant, padding left out."""
        return torch.arange(len(self.x), device=self.x.device)[rows], self.order[columns]

    def _narrow(self, rows: Tensor, columns: Tensor, centre: Tensor) -> tuple[_Side, _Side]:
        """Some samples x and some samples y, in float64."""
        return (
            _side(self.x, rows, centre, self.unit, torch.float64),
            _side(self.y, columns, centre, self.unit, torch.float64),
        )

    @cached_property
    def _masses(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where samples crowd (K, D), and which place each x (n,) and each y (m,) is nearest to.

        Places are samples that are farthest from those before (Gonzalez, 1985), among some of all:
        if there are few masses, one in each. A wrong guess costs time only.
        """
        sides = (self.rows,) if self.own else (self.rows, self.columns)
        sizes = len(self.x), len(self.y)
        some = [
            side.points[:size:max(1, size // 512), :-2]
            for side, size in zip(sides, sizes, strict=False)
        ]  # fmt: skip
        points = torch.cat(some)
        chosen, nearest = [0], (points - points[0]).square().sum(dim=1)
        spread = nearest.max()
        while len(chosen) < _MASSES and nearest.max() > _CLOSE * spread:
            chosen.append(int(nearest.argmax()))
            nearest = nearest.minimum((points - points[chosen[-1]]).square().sum(dim=1))
        pivots = points[torch.tensor(chosen, device=points.device)]
        norm = pivots.square().sum(dim=1)
        x, y = (
            torch.addmm(norm, side.points[:size, :-2], pivots.T, alpha=-2.0).argmin(dim=1)
            for side, size in zip((self.rows, self.columns), sizes, strict=True)
        )
        return (
            pivots.double() * self.unit + self.centre,
            x,
            torch.empty_like(y).scatter(0, self.order, y),
        )

    def _tile(
        self, rows: slice, columns: slice, x: _Side, y: _Side, room: Tensor | None = None
    ) -> Tile:
        lower = _lower_ends(x, y, room)
        if self.own and rows == columns:
            lower.fill_diagonal_(math.inf)
        return Tile(rows, columns, lower, x.slack, y.slack, self, False, None)


def _lower_ends(x: _Side, y: _Side, room: Tensor | None = None) -> Tensor:
    """Lower ends of all pairs of two sides (R, C)."""
    if room is None:
        room = x.points.new_empty(len(x.points), len(y.points))
    pieces = _pieces(x.points.shape[1] - 2)
    for piece in pieces:
        left = x.tail if piece == pieces[-1] else x.points[:, piece]
        beta = 0.0 if piece.start == 0 else 1.0
        room.addmm_(left, y.points[:, piece].T, beta=beta, alpha=-2.0)
    return room


def _pieces(d: int) -> list[slice]:
    """The pieces, as even as can be, of a product of D + 2 terms; the last has both norms."""
    *pieces, last = _strips(d, math.ceil(d / max(1, round(d / _PIECE))))
    return [*pieces, slice(last.start, d + 2)]


def _side(samples: Tensor, order: Tensor, centre: Tensor, unit: float, dtype: torch.dtype) -> _Side:
    """Some samples of a set (N, D) as one side of the product, padded to whole runs.

    The slack adds up, in unit roundoffs and relative to the squared norm: twice the length of a
    piece and the number of pieces for the inner product, whose terms add up to no more than twice
    the squared norms; 4 for the rounding of centred samples, 2 for that of the norm, and 2 log2 D +
    6 for the float64 sums by which pairs are settled. 64 covers all but the first. What is added to
    the norm covers underflow.
    """
    n, d = len(order), samples.shape[1]
    size = _padded(n)
    points = memory(samples, size, d + 2, dtype=dtype)
    points[n:] = 0.0
    points[:, -2] = 1.0
    norm = torch.zeros(size, dtype=torch.float64, device=samples.device)
    work = torch.promote_types(samples.dtype, dtype)
    centre = (centre / unit).to(work)
    step = max(1, _CENTRED // d)
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        centred = samples.index_select(0, order[part]).to(work).div_(unit).sub_(centre)
        points[part, :-2] = centred
        norm[part] = centred.square_().sum(dim=1, dtype=torch.float64)
    kind = torch.finfo(dtype)
    pieces = _pieces(d)
    roundoff = (2 * (pieces[0].stop + 2 + len(pieces)) + 64) * kind.eps / 2
    slack = roundoff / (1 - roundoff) * norm + 64 * (d + 64) * kind.tiny
    points[:, -1] = (norm - slack) / -2.0
    points[n:, -1] = -math.inf
    last = points[:, pieces[-1]]
    tail = memory(last, *last.shape).copy_(last)
    tail[:, -2:] = points[:, -2:].flip(1)
    return _Side(points, tail, slack)


class Tile(NamedTuple):
    """Brackets of the squared distances between some rows i and some columns j."""

    rows: slice
    columns: slice
    lower: Tensor
    """Lower ends (R, C), float32 or float64, in squared units of the product."""
    slack_rows: Tensor
    slack_columns: Tensor
    """The upper end of (i, j) is ``lower[i, j] + 2 (slack_rows[i] + slack_columns[j])``."""
    product: Product
    is_turned: bool
    """Whether rows are the columns of the product. They lie in memory as they do there."""
    ends: Tensor | None
    """Upper ends (R, C) where the slacks do not tell them."""

    def turned(self) -> Tile:
        """The same pairs, rows as columns."""
        return Tile(
            self.columns,
            self.rows,
            self.lower.T,
            self.slack_columns,
            self.slack_rows,
            self.product,
            not self.is_turned,
            None if self.ends is None else self.ends.T,
        )

    def narrowed(self) -> Tile:
        """Narrower brackets of the same pairs."""
        if self.is_turned:
            return self.turned().narrowed().turned()
        if self.lower.dtype == torch.float32:
            return self.product.narrow_tile(self.rows, self.columns)
        return self.product.narrowest(self)

    def crowded(self, pairs: int) -> bool:
        """Whether so many pairs in doubt make it pay to narrow the brackets, if they can be."""
        return self.ends is None and pairs > _DOUBT * self.lower.numel()

    def within(
        self, row_limit: Tensor, column_limit: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs whose lower end does not exceed a limit, and a few more: i, j, lower end (P,).

        Args:
            row_limit: What it may be, for each row (R,).
            column_limit: Or what it may be, for each column (C,). It is raised to the largest of a
                run, whose columns should be alike in it.
        """
        limits = self._upward(row_limit)[:, None]
        if column_limit is not None:
            limits = limits.maximum(self._upward(column_limit).view(_RUN, -1).amax(dim=0))
        minima = self._run_minima(self.lower, _RUN)
        row, run = places(minima <= limits)
        near = torch.unflatten(self.lower, 1, (_RUN, -1))[row, :, run]
        pair, member = places(near <= limits.expand_as(minima)[row, run, None])
        return row[pair], member * minima.shape[1] + run[pair], near[pair, member].double()

    def upper(self, i: Tensor, j: Tensor, lower: Tensor) -> Tensor:
        """Upper ends (P,) of given pairs, float64."""
        if self.ends is not None:
            return self.ends[i, j]
        return lower + 2 * (self.slack_rows[i] + self.slack_columns[j])

    def nearest(self, k: int) -> Tensor:
        """Upper ends (R, m) to m different columns, m >= k unless there are fewer columns.

        They are those of the minima of runs, so likely to be small. Few columns make short runs.
        """
        columns = self.lower.shape[1]
        run = next(r for r in (_RUN, 8, 4, 2, 1) if r == 1 or columns // r >= 4 * k)
        if self.ends is not None:
            return self._run_minima(self.ends, run)
        slack = self.slack_columns.view(run, -1).amax(dim=0)
        return self._run_minima(self.lower, run) + 2 * (self.slack_rows[:, None] + slack)

    def _upward(self, limit: Tensor) -> Tensor:
        """Limits in the dtype of the lower ends, rounded up; padding never lies within."""
        limit = limit.to(self.lower.dtype).nextafter(self.lower.new_tensor(math.inf))
        return limit.clamp(max=torch.finfo(limit.dtype).max)

    def _run_minima(self, ends: Tensor, run: int) -> Tensor:
        """Smallest of the ends (R, C) in each run of columns, with shape (R, C / run).

        Run c is every (C / run)-th column, starting at c. Samples may come sorted, so that
        neighbours in feature space are neighbours in a tile; this spreads them over the runs.
        """
        rows, columns = ends.shape
        if not self.is_turned:
            return ends.view(rows, run, -1).amin(dim=1)
        # Rows lie in memory as columns do here; torch is ten times slower unless told.
        return ends.T.view(run, columns // run, rows).amin(dim=0).T


def places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Where a mask (R, C) is true: row and column (P,) of each place.

    On CPUs NumPy's search is several times as fast as torch's.
    """
    if not mask.is_contiguous():
        column, row = places(mask.T.contiguous())
        return row, column
    flat = mask.view(-1)
    if mask.device.type == "cpu":
        place = torch.from_numpy(np.flatnonzero(flat.numpy()))
    else:
        place = flat.nonzero().squeeze(1)
    width = mask.shape[1]
    if width & (width - 1) == 0:  # shifts are several times as fast as divisions
        return place >> (width.bit_length() - 1), place & (width - 1)
    return place // width, place % width


def alike_in_runs(values: Tensor, side: int) -> Tensor:
    """An order (n,) of columns in which those of a run of a tile are alike in value.

    Args:
        values: One for each column (n,).
        side: Columns of a tile.
    """
    ranked = values.argsort(stable=True)
    order = torch.empty_like(ranked)
    for block in _blocks(_padded(len(values)), side):
        runs = (block.stop - block.start) // _RUN
        inside = torch.arange(min(block.stop, len(values)) - block.start, device=values.device)
        order[block.start + (inside % runs).argsort(stable=True)] = ranked[block]
    return order


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
    return 2048 if d >= WIDE else 1536


def _padded(n: int) -> int:
    """How many samples there are when n are padded to whole runs."""
    return math.ceil(n / _RUN) * _RUN


def _strips(n: int, width: int, start: int = 0) -> list[slice]:
    """What lies between start and n, in strips."""
    return [slice(at, min(at + width, n)) for at in range(start, n, width)]


def _blocks(n: int, side: int, start: int = 0) -> list[slice]:
    """Blocks of a padded set."""
    return _strips(n, max(_RUN, side // _RUN * _RUN), start)


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
