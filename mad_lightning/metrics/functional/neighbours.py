r"""Precision, recall, density and coverage, decided exactly at the price of float32.

Around every sample lies a ball that reaches to its k-th nearest neighbour in its own set. All four
metrics ask one question, does this sample lie in that ball, of every pair ``(x, y)``:

    precision   fraction of synthetic samples in at least one real ball
    recall      fraction of real samples in at least one synthetic ball
    density     real balls a synthetic sample lies in, on average, over k
    coverage    fraction of real balls that hold at least one synthetic sample

The fast way to all distances is one matrix product, ``‖x‖² + ‖y‖² - 2 x·y``. In float32 it is wrong
where samples are close and far from the origin: a collapsing generator, which is what a lineage
watches for, then scores a perfect 1. So the product only *brackets* each squared distance. Its
rounding error is at most ``slack(x) + slack(y)``, in proportion to ``‖x‖² + ‖y‖²`` and to the
machine epsilon; a pair whose bracket holds no radius is decided, and the few others are settled by
differences in float64. Where most of a tile is in doubt its bracket is first narrowed by the same
product in float64. Radii and settled distances come from one formula that adds in a fixed order, so
that exact ties, such as copies of a real sample among the synthetic ones, are ties to the last bit.
What is returned is therefore the float64 answer, whatever the tile, the order of the rows, the
number of threads or the precision that the caller runs its networks in.

Two more ideas keep it small and quick. A set is held as its distinct rows and their numbers of
copies, so a generator that emits one image ten thousand times costs one row. And within a tile, the
minimum over each run of columns tells which runs can hold anything near; only those are looked at.

References:
    | Improved Precision and Recall Metric for Assessing Generative Models (Kynkäänniemi et al.,
    | 2019), https://arxiv.org/abs/1904.06991
    | Reliable Fidelity and Diversity Metrics for Generative Models (Naeem et al., 2020),
    | https://arxiv.org/abs/2002.09797
    | Accuracy and Stability of Numerical Algorithms (Higham, 2002), section 3.1: the error of an
    | inner product of length d is at most d times the unit roundoff, in any order of addition.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["squared_radii", "two_sample"]

_RUN = 32
"""Columns that share one minimum. Sets are padded to a multiple of it."""
_ROOM = 2**17
"""Float64 numbers in flight while pairs are settled: 1 MiB, so that they stay in the cache."""
_DOUBT = 1 / 16
"""Share of a tile above which a product in float64 costs less than settling pair by pair."""


def two_sample(
    real: Tensor,
    synthetic: Tensor,
    k: int = 5,
    balls: Literal["closed", "open"] = "closed",
    *,
    real_radii: Tensor | None = None,
    tile: int = 1024,
) -> dict[str, float]:
    """Precision, recall, density and coverage of synthetic samples against real ones.

    Args:
        real: Features (N, D), floats.
        synthetic: Features (M, D), floats on the same device. M may differ from N.
        k: Neighbour that sets the radius of a ball, not counting the sample itself.
        balls: ``closed`` counts a sample on the surface as inside, as Kynkäänniemi et al. define;
            ``open`` does not, as the package prdc.
        real_radii: ``squared_radii(real, k)`` from before, as real sets outlive generations.
        tile: Pairs are looked at in squares of this side. Decides speed and memory, no value.

    Returns:
        ``precision``, ``recall``, ``coverage`` in [0, 1] and ``density`` in [0, N / k].

    Raises:
        ValueError: If a set is not a matrix of finite floats, has no more than k rows, or the
            arguments do not fit together.
    """
    real, synthetic = _checked(real, "real", k), _checked(synthetic, "synthetic", k)
    if real.shape[1] != synthetic.shape[1]:
        raise ValueError(
            f"real has {real.shape[1]} features a sample, synthetic has {synthetic.shape[1]}"
        )
    if balls not in ("closed", "open"):
        raise ValueError(f"balls = {balls!r}: choose closed or open")
    if real_radii is not None and real_radii.shape != (len(real),):
        raise ValueError(
            f"real_radii has shape {tuple(real_radii.shape)} for {len(real)} real samples"
        )
    with torch.no_grad(), _full_precision(real.device):
        ours, theirs = _distinct(real), _distinct(synthetic)
        if real_radii is None:
            reach = _Neighbourhoods(ours, k).squared_radii(tile)
        else:
            reach = torch.empty(len(ours.rows), dtype=torch.float64, device=real.device)
            reach[ours.place] = real_radii.to(reach)
        their_reach = _Neighbourhoods(theirs, k).squared_radii(tile)
        return _compare(ours, theirs, reach, their_reach, k, balls == "closed", tile)


def squared_radii(x: Tensor, k: int = 5, *, tile: int = 1024) -> Tensor:
    """Squared distance from each sample to its k-th nearest other one.

    It stays squared: a root, squared again, would no longer tie with the distance it came from.

    Args:
        x: Features (N, D), floats, N > k.
        k: Which neighbour. The sample itself does not count, copies of it do.
        tile: Side of the squares of pairs that are looked at at once.

    Returns:
        Squared radii (N,), float64.

    Raises:
        ValueError: If ``x`` is not a matrix of finite floats with more than k rows.
    """
    x = _checked(x, "x", k)
    with torch.no_grad(), _full_precision(x.device):
        distinct = _distinct(x)
        return _Neighbourhoods(distinct, k).squared_radii(tile)[distinct.place]


def _checked(x: Tensor, name: str, k: int) -> Tensor:
    """The features, float64 as they are and every other kind in float32, if they can be used."""
    if x.ndim != 2 or not x.is_floating_point() or x.shape[1] == 0:
        raise ValueError(f"{name} is {x.dtype} of shape {tuple(x.shape)}, not floats (N, D)")
    if k < 1:
        raise ValueError(f"k = {k}: the nearest other sample is k = 1")
    if len(x) <= k:
        raise ValueError(f"{name} has {len(x)} samples, more than k = {k} are needed")
    if not all(edge.isfinite() for edge in x.aminmax()):
        unusable = int((~x.isfinite()).any(dim=1).sum())
        raise ValueError(f"{name} has {unusable} of {len(x)} samples with NaN or infinite features")
    return x.detach() if x.dtype == torch.float64 else x.detach().float()


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
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


class _Distinct(NamedTuple):
    """A set of samples as its distinct ones."""

    rows: Tensor
    """Distinct samples (n, D)."""
    place: Tensor
    """Which of them each sample is (N,)."""
    copies: Tensor
    """How often each occurs (n,); adds up to N."""


def _distinct(x: Tensor) -> _Distinct:
    return _Distinct(*torch.unique(x, dim=0, return_inverse=True, return_counts=True))


class _Factor(NamedTuple):
    """One side of the matrix product, in its dtype; padding rows are infinitely far away."""

    points: Tensor
    """Centred, scaled samples (n, D)."""
    low: Tensor
    """Squared norm less slack (n,)."""
    slack: Tensor
    """What this side adds to the rounding error of a squared distance (n,), float64."""


class _Product(NamedTuple):
    """The matrix form of all distances between samples x and samples y, one tile at a time."""

    x: Tensor
    """Rows (n, D)."""
    y: Tensor
    """Columns (m, D); if it is ``x`` itself, no row is its own neighbour."""
    centre: Tensor
    """Origin (D,), float64: rounding errors grow with the norms, and this keeps them small."""
    unit: float
    """A power of two, which scales without rounding: squares neither overflow nor vanish."""
    rows: _Factor
    columns: _Factor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> _Product:
        """Centres both sets at the mean of all and scales them so that no number exceeds 2."""
        total = x.sum(dim=0, dtype=torch.float64) + y.sum(dim=0, dtype=torch.float64)
        centre = total / (len(x) + len(y))
        unit = 2.0 ** math.frexp(max(abs(float(edge)) for z in (x, y) for edge in z.aminmax()))[1]
        rows = _factor(x, centre, unit, torch.float32)
        columns = rows if x is y else _factor(y, centre, unit, torch.float32)
        return cls(x, y, centre, unit, rows, columns)

    def turned(self) -> _Product:
        """The same distances, rows as columns."""
        return _Product(self.y, self.x, self.centre, self.unit, self.columns, self.rows)

    def tile(self, rows: slice, columns: slice) -> _Tile:
        """Brackets from a product in float32."""
        x = _Factor(*(part[rows] for part in self.rows))
        y = _Factor(*(part[columns] for part in self.columns))
        return self._tile(rows, columns, x, y)

    def narrow_tile(self, rows: slice, columns: slice) -> _Tile:
        """Brackets of the same pairs from a product in float64."""
        x = _factor(self.x[rows], self.centre, self.unit, torch.float64)
        y = _factor(self.y[columns], self.centre, self.unit, torch.float64)
        return self._tile(rows, columns, x, y)

    def _tile(self, rows: slice, columns: slice, x: _Factor, y: _Factor) -> _Tile:
        lower = torch.addmm(y.low, x.points, y.points.T, alpha=-2)
        lower += x.low[:, None]
        if self.x is self.y and rows == columns:
            lower.fill_diagonal_(math.inf)
        return _Tile(self, rows, columns, lower, x.slack, y.slack)


def _factor(samples: Tensor, centre: Tensor, unit: float, dtype: torch.dtype) -> _Factor:
    """Samples (n, D) as one side of the product, padded to a multiple of the run length.

    The slack adds up, in unit roundoffs and relative to the squared norm: D for the inner product,
    4 for the rounding of centred samples, 1 for that of the norm, about 6 for joining three terms,
    and 2 log2 D + 6 for the float64 sums by which pairs are settled. 64 covers all but the first.
    What is added to the norm covers underflow.
    """
    n, d = samples.shape
    size = -(-n // _RUN) * _RUN
    points = samples.new_empty(size, d, dtype=dtype)
    points[n:] = 0.0
    norm = torch.zeros(size, dtype=torch.float64, device=samples.device)
    step = max(1, _ROOM // d)
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        centred = (samples[part].double() - centre).div_(unit)
        points[part] = centred
        norm[part] = centred.square_().sum(dim=1)
    kind = torch.finfo(dtype)
    roundoff = (d + 64) * kind.eps / 2
    slack = roundoff / (1 - roundoff) * norm + 64 * (d + 64) * kind.tiny
    low = norm - slack
    low[n:] = math.inf
    return _Factor(points, low.to(dtype), slack)


class _Tile(NamedTuple):
    """Brackets of the squared distances between some rows i and some columns j."""

    product: _Product
    rows: slice
    columns: slice
    lower: Tensor
    """Lower ends (R, C), float32 or float64, in squared units of the product."""
    slack_rows: Tensor
    slack_columns: Tensor
    """The upper end of (i, j) is ``lower[i, j] + 2 (slack_rows[i] + slack_columns[j])``."""

    def turned(self) -> _Tile:
        """The same pairs, rows as columns."""
        slacks = (self.slack_columns, self.slack_rows)
        return _Tile(self.product.turned(), self.columns, self.rows, self.lower.T, *slacks)

    def narrowed(self) -> _Tile:
        """Brackets of the same pairs from a product in float64."""
        return self.product.narrow_tile(self.rows, self.columns)

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
        run = next(r for r in (_RUN, 16, 8, 4, 2, 1) if r == 1 or columns // r >= 4 * k)
        slack = self.slack_columns.view(run, -1).amax(dim=0)
        return self._run_minima(run) + 2 * (self.slack_rows[:, None] + slack)

    def settled(self, i: Tensor, j: Tensor) -> Tensor:
        """Squared distances (P,) of given pairs, float64, in units of the features."""
        x, y = self.product.x[self.rows], self.product.y[self.columns]
        return _squared_distances(x, i, y, j)

    def _run_minima(self, run: int) -> Tensor:
        """Smallest lower end (R, C / run) in each run of columns.

        Run c is every (C / run)-th column, starting at c. Samples come sorted, so that neighbours
        in feature space tend to be neighbours in a tile; this spreads them over the runs.
        """
        rows, columns = self.lower.shape
        if self.lower.is_contiguous():
            return self.lower.view(rows, run, -1).amin(dim=1)
        # Turned, the rows lie in memory as columns do; torch is ten times slower unless told.
        return self.lower.T.view(run, columns // run, rows).amin(dim=0).T


def _squared_distances(x: Tensor, i: Tensor, y: Tensor, j: Tensor) -> Tensor:
    """Squared distances (P,) between rows i (P,) of x and rows j (P,) of y, float64.

    The one formula behind radii and settled pairs. A pair gives the same bits wherever it stands:
    terms are added by halves, element by element, which no kernel can reorder. Different pairs that
    are equally far in exact arithmetic only, as on a lattice of thirds, are told apart by rounding.
    """
    settled = torch.empty(len(i), dtype=torch.float64, device=x.device)
    step = max(1, _ROOM // x.shape[1])
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        terms = x[i[part]].double().sub_(y[j[part]]).square_()
        width = terms.shape[1]
        while width > 1:
            half = width // 2
            terms[:, :half] += terms[:, width - half : width]
            width -= half
        settled[part] = terms[:, 0]
    return settled


def _blocks(n: int, tile: int) -> list[slice]:
    """Blocks of a padded set."""
    side = max(_RUN, tile // _RUN * _RUN)
    return [slice(start, min(start + side, n)) for start in range(0, n, side)]


class _Neighbourhoods:
    """The k nearest others of each distinct sample, gathered tile by tile.

    ``bound`` (n, k) holds upper ends of the distances to k different neighbours. Pairs below the
    largest of them are candidates and wait until later tiles have lowered it; those that still
    count are then settled, and ``exact`` (n, k) keeps the smallest.
    """

    def __init__(self, samples: _Distinct, k: int) -> None:
        self.samples, self.k = samples, k
        self.product = _Product.of(samples.rows, samples.rows)
        size = len(self.product.rows.points)
        self.exact = samples.rows.new_full((size, k), math.inf, dtype=torch.float64)
        self.bound = self.exact.clone()
        own_copies = torch.arange(k, device=self.exact.device) < samples.copies[:, None] - 1
        self.exact[: len(own_copies)][own_copies] = 0.0
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    def squared_radii(self, tile: int) -> Tensor:
        """Squared distance (n,) from each distinct sample to its k-th neighbour."""
        blocks = _blocks(len(self.exact), tile)
        for block in blocks:  # the diagonal first: it gives every row a bound
            self._search(self.product.tile(block, block))
        for place, rows in enumerate(blocks):
            for columns in blocks[place + 1 :]:
                pairs = self.product.tile(rows, columns)
                self._search(pairs)
                self._search(pairs.turned())
        self._settle()
        return self.exact[: len(self.samples.rows), -1]

    def _search(self, tile: _Tile) -> None:
        """Finds the candidates of one tile and, where it pays, a lower bound."""
        diagonal = tile.rows == tile.columns
        before = self.bound[tile.rows]
        bound = self._lowered(before, tile) if diagonal else before
        i, j, lower = tile.within(self._limit(tile.rows, bound))
        if tile.crowded(len(i)):
            tile = tile.narrowed()
            bound = self._lowered(before, tile)
            i, j, lower = tile.within(self._limit(tile.rows, bound))
        elif not diagonal and len(i) > 2 * len(bound):
            bound = self._lowered(before, tile)
        self.bound[tile.rows] = bound
        self.waiting.append((i + tile.rows.start, j + tile.columns.start, lower))
        if sum(len(found[0]) for found in self.waiting) > tile.lower.numel():
            self._settle()

    def _lowered(self, bound: Tensor, tile: _Tile) -> Tensor:
        return torch.cat([bound, tile.nearest(self.k)], dim=1).topk(self.k, largest=False).values

    def _limit(self, rows: slice, bound: Tensor) -> Tensor:
        """Upper ends of the squared radii of some rows, in squared units of the product."""
        return bound[:, -1].minimum(self.exact[rows, -1] / self.product.unit**2)

    def _settle(self) -> None:
        """Measures the candidates that still count and keeps the k nearest of each row."""
        if not self.waiting:
            return
        i, j, lower = (torch.cat(part) for part in zip(*self.waiting, strict=True))
        self.waiting.clear()
        alive = lower <= self._limit(slice(None), self.bound)[i]
        i, j = i[alive], j[alive]
        distance = _squared_distances(self.samples.rows, i, self.samples.rows, j)
        times = self.samples.copies[j].clamp(max=self.k)
        i, distance = i.repeat_interleave(times), distance.repeat_interleave(times)
        # Sorted by row, then by distance: the place within a row's stretch is the rank.
        order = distance.argsort()
        order = order[i[order].argsort(stable=True)]
        i, distance = i[order], distance[order]
        count = i.bincount(minlength=len(self.exact))
        rank = torch.arange(len(i), device=i.device) - (count.cumsum(0) - count)[i]
        near = rank < self.k
        fresh = torch.full_like(self.exact, math.inf)
        fresh[i[near], rank[near]] = distance[near]
        self.exact = torch.cat([self.exact, fresh], dim=1).topk(self.k, largest=False).values


def _inside(tile: _Tile, squared_radii: Tensor, closed: bool) -> tuple[Tensor, Tensor]:
    """Pairs (i, j) of a tile such that column j lies in the ball around row i."""
    limit = squared_radii / tile.product.unit**2
    i, j, lower = tile.within(limit)
    doubtful = tile.upper(i, j, lower) > limit[i]
    if tile.crowded(int(doubtful.sum())):
        return _inside(tile.narrowed(), squared_radii, closed)
    sure = ~doubtful
    asked_i, asked_j = i[doubtful], j[doubtful]
    distance, radius = tile.settled(asked_i, asked_j), squared_radii[asked_i]
    yes = distance <= radius if closed else distance < radius
    return torch.cat([i[sure], asked_i[yes]]), torch.cat([j[sure], asked_j[yes]])


def _compare(
    real: _Distinct,
    synthetic: _Distinct,
    real_radii: Tensor,
    synthetic_radii: Tensor,
    k: int,
    closed: bool,
    tile: int,
) -> dict[str, float]:
    """The four metrics of distinct samples with their squared radii (n,) and (m,)."""
    product = _Product.of(real.rows, synthetic.rows)
    n, m = len(product.rows.points), len(product.columns.points)
    # A ball around padding holds nothing, and nothing holds padding.
    real_radii = torch.nn.functional.pad(real_radii, (0, n - len(real_radii)))
    synthetic_radii = torch.nn.functional.pad(synthetic_radii, (0, m - len(synthetic_radii)))
    filled, recalled = (torch.zeros(n, dtype=torch.bool, device=real_radii.device) for _ in "fr")
    precise = torch.zeros(m, dtype=torch.bool, device=real_radii.device)
    memberships = 0
    for rows in _blocks(n, tile):
        for columns in _blocks(m, tile):
            pairs = product.tile(rows, columns)
            i, j = _inside(pairs, real_radii[rows], closed)
            i, j = i + rows.start, j + columns.start
            filled[i], precise[j] = True, True
            memberships += int((real.copies[i] * synthetic.copies[j]).sum())
            j, i = _inside(pairs.turned(), synthetic_radii[columns], closed)
            recalled[i + rows.start] = True
    n_real, n_synthetic = len(real.place), len(synthetic.place)
    return {
        "precision": int(synthetic.copies[precise[: len(synthetic.rows)]].sum()) / n_synthetic,
        "recall": int(real.copies[recalled[: len(real.rows)]].sum()) / n_real,
        "density": memberships / (k * n_synthetic),
        "coverage": int(real.copies[filled[: len(real.rows)]].sum()) / n_real,
    }
