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

Four more ideas keep it small and quick. A set is held as its distinct rows and their numbers of
copies, so a generator that emits one image ten thousand times costs one row. Within a tile, the
minimum over each run of columns tells which runs can hold anything near; only those are looked at.
Columns of a run have balls of about one size, so that one look finds who lies in the ball of either
side. And to know the k-th neighbour's distance one need not measure those that are surely nearer.

References:
    | Improved Precision and Recall Metric for Assessing Generative Models (Kynkäänniemi et al.,
    | 2019), https://arxiv.org/abs/1904.06991
    | Reliable Fidelity and Diversity Metrics for Generative Models (Naeem et al., 2020),
    | https://arxiv.org/abs/2002.09797
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mad_lightning.metrics.functional.checks import check_features, check_pair
from mad_lightning.metrics.functional.kernel import kernel_distance
from mad_lightning.metrics.functional.tiles import (
    Distinct,
    Product,
    Tile,
    alike_in_runs,
    all_pairs,
    own_pairs,
    side_for,
    squared_distances,
)
from mad_lightning.precision import true_float32
from mad_lightning.processes import Team

__all__ = ["recalled", "squared_nearest", "squared_radii", "two_sample"]

Balls = Literal["closed", "open"]


def two_sample(
    real: Tensor,
    synthetic: Tensor,
    k: int = 5,
    balls: Balls = "closed",
    *,
    kid: bool = False,
    real_radii: Tensor | None = None,
    tile: int | None = None,
    team: Team | None = None,
) -> dict[str, float]:
    """Precision, recall, density and coverage of synthetic samples against real ones.

    Args:
        real: Features (N, D), floats.
        synthetic: Features (M, D), floats on the same device. M may differ from N.
        k: Neighbour that sets the radius of a ball, not counting the sample itself.
        balls: ``closed`` counts a sample on the surface as inside, as Kynkäänniemi et al. define;
            ``open`` does not, as the package prdc.
        kid: Also the kernel distance, see :func:`.kernel_distance`.
        real_radii: ``squared_radii(real, k)`` from before, as real sets outlive generations.
        tile: Pairs are looked at in squares of this side. Decides speed and memory, no value; None
            suits the number of features.
        team: Processes that share the work; each has both sets and gets the result.

    Returns:
        ``precision``, ``recall``, ``coverage`` in [0, 1] and ``density`` in [0, N / k]; with
        ``kid`` also ``kid``.

    Raises:
        ValueError: If a set is not a matrix of finite floats, has no more than k rows, or the
            arguments do not fit together.
    """
    real, synthetic = _checked_pair(real, synthetic, k, balls)
    if real_radii is not None and real_radii.shape != (len(real),):
        raise ValueError(
            f"real_radii has shape {tuple(real_radii.shape)} for {len(real)} real samples"
        )
    team = team or Team()
    with torch.no_grad(), true_float32(real.device):
        ours, theirs = Distinct.of(real), Distinct.of(synthetic)
        if real_radii is None:
            reach = _Neighbourhoods(ours, ours, k, tile, team).squared_kth()
        else:
            reach = torch.empty(len(ours.rows), dtype=torch.float64, device=real.device)
            reach[ours.place] = real_radii.to(reach)
        their_reach = _Neighbourhoods(theirs, theirs, k, tile, team).squared_kth()
        members = _Memberships(ours, theirs, (reach, their_reach), balls == "closed", tile, team)
    values = {
        "precision": int(theirs.copies[members.precise].sum()) / len(synthetic),
        "recall": int(ours.copies[members.recalled].sum()) / len(real),
        "density": int(members.pairs) / (k * len(synthetic)),
        "coverage": int(ours.copies[members.filled].sum()) / len(real),
    }
    if kid:
        values["kid"] = kernel_distance(real, synthetic, tile=tile or 1024, team=team)
    return values


def squared_radii(
    x: Tensor, k: int = 5, *, tile: int | None = None, team: Team | None = None
) -> Tensor:
    """Squared distance from each sample to its k-th nearest other one.

    It stays squared: a root, squared again, would no longer tie with the distance it came from.

    Args:
        x: Features (N, D), floats, N > k.
        k: Which neighbour. The sample itself does not count, copies of it do.
        tile: Side of the squares of pairs that are looked at at once.
        team: Processes that share the work.

    Returns:
        Squared radii (N,), float64.

    Raises:
        ValueError: If ``x`` is not a matrix of finite floats with more than k rows.
    """
    _check_k(k)
    x = check_features(x, "x", k + 1, f"more than k = {k}")
    with torch.no_grad(), true_float32(x.device):
        own = Distinct.of(x)
        return _Neighbourhoods(own, own, k, tile, team or Team()).squared_kth()[own.place]


def squared_nearest(
    x: Tensor, y: Tensor, *, tile: int | None = None, team: Team | None = None
) -> Tensor:
    """Squared distance from each sample x to the nearest sample y.

    Args:
        x: Features (N, D), floats, N >= 1.
        y: Features (M, D), floats, M >= 1.
        tile: Side of the squares of pairs that are looked at at once.
        team: Processes that share the work.

    Returns:
        Squared distances (N,), float64; 0 exactly where y holds a copy.

    Raises:
        ValueError: If a set is not a matrix of finite floats, is empty, or they differ in D.
    """
    x, y = check_features(x, "x", 1), check_features(y, "y", 1)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} features a sample, y has {y.shape[1]}")
    with torch.no_grad(), true_float32(x.device):
        rows, columns = Distinct.of(x), Distinct.of(y)
        nearest = _Neighbourhoods(rows, columns, 1, tile, team or Team())
        return nearest.squared_kth()[rows.place]


def recalled(
    real: Tensor, synthetic: Tensor, k: int = 5, balls: Balls = "closed", *, tile: int | None = None
) -> Tensor:
    """Which real samples lie in the ball of at least one synthetic sample.

    Args:
        real: Features (N, D), floats, N > k.
        synthetic: Features (M, D), floats, M > k.
        k: Neighbour that sets the radius of a ball.
        balls: As for :func:`two_sample`.
        tile: Side of the squares of pairs that are looked at at once.

    Returns:
        Flags (N,), bool. Their mean is the recall.

    Raises:
        ValueError: As :func:`two_sample`.
    """
    real, synthetic = _checked_pair(real, synthetic, k, balls)
    with torch.no_grad(), true_float32(real.device):
        ours, theirs = Distinct.of(real), Distinct.of(synthetic)
        reach = _Neighbourhoods(theirs, theirs, k, tile, Team()).squared_kth()
        none = torch.full((len(ours.rows),), -math.inf, dtype=torch.float64, device=real.device)
        members = _Memberships(ours, theirs, (none, reach), balls == "closed", tile, Team())
        return members.recalled[ours.place]


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k = {k}: the nearest other sample is k = 1")


def _checked_pair(real: Tensor, synthetic: Tensor, k: int, balls: str) -> tuple[Tensor, Tensor]:
    _check_k(k)
    if balls not in ("closed", "open"):
        raise ValueError(f"balls = {balls!r}: choose closed or open")
    return check_pair(real, synthetic, k + 1, f"more than k = {k}")


class _Neighbourhoods:
    """The k nearest columns of each row, gathered tile by tile.

    ``bound`` (n,) holds an upper end of the distance to the k-th neighbour. Pairs below it are
    candidates and wait, as i, j, lower and upper end, until enough of them are there to lower it.
    Those that still count in the end are settled; ``exact`` (n, k) keeps the smallest.

    Args:
        rows: Samples whose neighbours are wanted.
        columns: Their possible neighbours; if these are the rows, none is its own.
        k: Number of neighbours.
        tile: Side of the squares of pairs that are looked at at once.
        team: Processes that share the tiles.
    """

    def __init__(
        self, rows: Distinct, columns: Distinct, k: int, tile: int | None, team: Team
    ) -> None:
        self.rows, self.columns, self.k, self.tile, self.team = rows, columns, k, tile, team
        self.own = rows is columns
        self.product = Product.of(rows.rows, columns.rows, self.own)
        size = len(self.product.rows.points)
        self.exact = rows.rows.new_full((size, k), math.inf, dtype=torch.float64)
        self.places = torch.arange(k, device=self.exact.device)
        if self.own and team.rank == 0:  # a pair counts once in all the team
            own_copies = self.places < rows.copies[:, None] - 1
            self.exact[: len(own_copies)][own_copies] = 0.0
        self.bound = self.exact[:, -1].clone()
        self.bound[len(rows.rows) :] = -math.inf  # padding looks for nobody
        self.waiting: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self.few = 4 * k * size
        """Candidates that may wait until they are put to use."""
        self.copied = len(columns.rows) < len(columns.place)

    def squared_kth(self) -> Tensor:
        """Squared distance (n,) from each distinct row to the k-th nearest column."""
        n, m = len(self.exact), len(self.product.columns.points)
        d = self.product.x.shape[1]
        side = self.tile or side_for(d)
        work = own_pairs(n, side, d) if self.own else all_pairs(n, m, side)
        for tile in self.product.tiles(self.team.mine(work)):
            tile = self._search(tile)
            if self.own and tile.rows != tile.columns:
                self._search(tile.turned())
        self._settle(last=self.team.size == 1)
        lists = self.team.gathered(self.exact).movedim(0, 1).flatten(1)
        return lists.topk(self.k, largest=False).values[: len(self.rows.rows), -1]

    def _search(self, tile: Tile) -> Tile:
        """Finds the candidates of one tile.

        Returns:
            The tile, with narrow brackets if they were needed: turned, it will need them too.
        """
        if bool(self.bound[tile.rows].isposinf().any()):
            self._lower(tile)
        i, j, lower = tile.within(self.bound[tile.rows])
        while tile.crowded(len(i)):
            tile = tile.narrowed()
            self._lower(tile)
            i, j, lower = tile.within(self.bound[tile.rows])
        upper = tile.upper(i, j, lower)
        self.waiting.append((i + tile.rows.start, j + tile.columns.start, lower, upper))
        if sum(len(i) for i, *_ in self.waiting) > self.few:
            self._forget()
            if len(self.waiting[0][0]) > self.few // 2:
                self._settle()
        return tile

    def _lower(self, tile: Tile) -> None:
        """Lowers the bounds of a tile's rows by the nearest columns that it shows at a glance."""
        ends = tile.nearest(self.k)
        if ends.shape[1] >= self.k:
            kth = ends.topk(self.k, largest=False).values[:, -1]
            self.bound[tile.rows] = self.bound[tile.rows].minimum(kth)

    def _forget(self) -> None:
        """Lowers the bounds by all that wait and drops those that they rule out."""
        i, j, lower, upper = (torch.cat(part) for part in zip(*self.waiting, strict=True))
        self.bound = self.bound.minimum(self._kth(i, j, upper, up=True))
        alive = (lower <= self.bound[i]).nonzero().squeeze(1)
        self.waiting = [(i[alive], j[alive], lower[alive], upper[alive])]

    def _settle(self, last: bool = False) -> None:
        """Measures the candidates that still count and keeps the k nearest of each row.

        At last, only the k-th place matters. Who is surely nearer than the k-th smallest lower end
        is nearer than the k-th neighbour, and takes a place before it without being measured.
        """
        if not self.waiting:
            return
        self._forget()
        ((i, j, lower, upper),) = self.waiting
        self.waiting = []
        if last:
            kth = self._kth(i, j, lower, up=False)
            sure = upper < kth[i]
            taken = self._each_copy(i[sure], j[sure], upper[sure])[0].bincount(minlength=len(kth))
            self.exact = self._with(torch.where(self.places < taken[:, None], 0.0, math.inf))
            i, j = i[~sure], j[~sure]
        distance = squared_distances(self.rows.rows, i, self.columns.rows, j)
        self.exact = self._with(self._smallest(i, j, distance))
        self.bound = self.bound.minimum(self.exact[:, -1] / self.product.unit**2)

    def _kth(self, i: Tensor, j: Tensor, ends: Tensor, up: bool) -> Tensor:
        """The k-th smallest end (n,) of each row, among those settled and those of pairs i, j.

        Rows and ends, as float32, make one whole number a pair, which sorts fastest.

        Args:
            i: Rows (P,).
            j: Columns (P,).
            ends: Lower or upper ends (P,), float64.
            up: Whether to round up, else down.
        """
        i, ends = self._each_copy(i, j, ends)
        known = self.exact.isfinite()
        i = torch.cat([i, known.nonzero()[:, 0]])
        ends = torch.cat([ends, self.exact[known] / self.product.unit**2])
        bits = (ends.clamp(min=0.0) + 0.0).float().view(torch.int32)  # in the order of the ends
        keys = (i << 32) + bits
        keys = torch.from_numpy(np.sort(keys.numpy())) if keys.is_cpu else keys.sort().values
        count = i.bincount(minlength=len(self.exact))
        place = (count.cumsum(0) - count + self.k - 1).clamp(max=len(keys) - 1)
        kth = (keys[place] & 0xFFFFFFFF).int().view(torch.float32)
        kth = kth.nextafter(torch.full_like(kth, math.inf if up else -math.inf))
        return torch.where(count >= self.k, kth.double(), math.inf)

    def _smallest(self, i: Tensor, j: Tensor, value: Tensor) -> Tensor:
        """The k smallest values (n, k) of each row, of pairs i, j; infinite where fewer are."""
        i, value = self._each_copy(i, j, value)
        # Sorted by row, then by value: the place within a row's stretch is the rank.
        order = value.argsort()
        order = order[i[order].argsort(stable=True)]
        i, value = i[order], value[order]
        count = i.bincount(minlength=len(self.exact))
        rank = torch.arange(len(i), device=i.device) - (count.cumsum(0) - count)[i]
        near = rank < self.k
        smallest = torch.full_like(self.exact, math.inf)
        smallest[i[near], rank[near]] = value[near]
        return smallest

    def _each_copy(self, i: Tensor, j: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and values, as often as there are copies of the column, but k times at most."""
        if not self.copied:
            return i, value
        times = self.columns.copies[j].clamp(max=self.k)
        return i.repeat_interleave(times), value.repeat_interleave(times)

    def _with(self, others: Tensor) -> Tensor:
        """The k smallest of what was settled and of other values (n, k)."""
        return torch.cat([self.exact, others], dim=1).topk(self.k, largest=False).values


class _Memberships:
    """Who lies in whose balls, by distinct sample.

    Pairs that may lie in a ball wait, as i, j, lower and upper end, until many are there: what the
    brackets of all tiles leave open is then measured in one go.

    Args:
        real: Real samples.
        synthetic: Synthetic samples.
        radii: Squared radii around the distinct samples of each, (n,) and (m,), float64.
        closed: Whether the surface belongs to a ball.
        tile: Side of the squares of pairs that are looked at at once.
        team: Processes that share the tiles.
    """

    def __init__(
        self,
        real: Distinct,
        synthetic: Distinct,
        radii: tuple[Tensor, Tensor],
        closed: bool,
        tile: int | None,
        team: Team,
    ) -> None:
        self.real, self.synthetic, self.radii, self.closed = real, synthetic, radii, closed
        side = tile or side_for(real.rows.shape[1])
        order = alike_in_runs(radii[1], side)
        self.product = Product.of(real.rows, synthetic.rows, own=False, order=order)
        self.precise = torch.zeros(len(radii[1]), dtype=torch.bool, device=order.device)
        """Synthetic samples (m,) in a real ball."""
        self.recalled = torch.zeros(len(radii[0]), dtype=torch.bool, device=order.device)
        """Real samples (n,) in a synthetic ball."""
        self.filled = self.recalled.clone()
        """Real samples (n,) whose ball holds a synthetic one."""
        self.pairs = torch.zeros((), dtype=torch.int64, device=order.device)
        """Pairs of a real ball and a synthetic sample in it, copies counted."""
        self.waiting: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        n, m = len(self.product.rows.points), len(self.product.columns.points)
        # A ball around padding holds nothing, and nothing holds padding.
        reach = torch.nn.functional.pad(radii[0], (0, n - len(radii[0])))
        their_reach = torch.nn.functional.pad(radii[1][order], (0, m - len(order)))
        for block in self.product.tiles(team.mine(all_pairs(n, m, side))):
            self._search(block, reach[block.rows], their_reach[block.columns])
            if sum(len(i) for i, *_ in self.waiting) > 8 * (n + m):
                self._decide()
        self._decide()
        self.precise, self.recalled, self.filled = (
            team.gathered(flags).any(dim=0) for flags in (self.precise, self.recalled, self.filled)
        )
        self.pairs = team.gathered(self.pairs).sum()

    def _search(self, tile: Tile, reach: Tensor, their_reach: Tensor) -> None:
        """Finds the pairs of a tile that may lie in a ball.

        Args:
            tile: Rows are real samples, columns synthetic ones.
            reach: Squared radii (R,) of the rows.
            their_reach: Squared radii (C,) of the columns.
        """
        unit = self.product.unit**2
        i, j, lower = tile.within(reach / unit, their_reach / unit)
        upper = tile.upper(i, j, lower)
        i, j = i + tile.rows.start, self.product.order[j + tile.columns.start]
        if tile.crowded(len(i)) and tile.crowded(int(self._known(i, j, lower, upper)[1].sum())):
            self._search(tile.narrowed(), reach, their_reach)
        else:
            self.waiting.append((i, j, lower, upper))

    def _known(self, i: Tensor, j: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """What brackets tell of pairs.

        Returns:
            Two flags (2, P): whether j surely lies in the ball around i, and i in that around j;
            and whether either is open (P,).
        """
        limits = torch.stack([self.radii[0][i], self.radii[1][j]]) / self.product.unit**2
        sure = upper < limits
        return sure, ((lower <= limits) & ~sure).any(dim=0)

    def _decide(self) -> None:
        """Decides the pairs that wait."""
        if not self.waiting:
            return
        i, j, lower, upper = (torch.cat(part) for part in zip(*self.waiting, strict=True))
        self.waiting = []
        inside, asked = self._known(i, j, lower, upper)
        asked = asked.nonzero().squeeze(1)
        radii = torch.stack([self.radii[0][i[asked]], self.radii[1][j[asked]]])
        distance = squared_distances(self.real.rows, i[asked], self.synthetic.rows, j[asked])
        inside[:, asked] = distance <= radii if self.closed else distance < radii
        self.recalled[i[inside[1]]] = True
        i, j = i[inside[0]], j[inside[0]]
        self.filled[i], self.precise[j] = True, True
        self.pairs += (self.real.copies[i] * self.synthetic.copies[j]).sum()
