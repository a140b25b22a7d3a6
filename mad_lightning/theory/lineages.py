r"""Thousands of Gaussian lineages at once, exact, without drawing a sample.

A Gaussian fitted to n points of :math:`\mathcal N(\mu, \Sigma)` sees of them only the mean and the
scatter :math:`S = \sum_i (x_i - \bar x)(x_i - \bar x)^\top`. Both can be drawn as they are, at a
cost that does not depend on n: independent of each other,

.. math:: \bar x \sim \mathcal N(\mu, \Sigma / n), \qquad S \sim W_d(\Sigma, n - 1),

and the Wishart law has a known triangular root (Bartlett, 1933): with :math:`\Sigma = U^\top U`,
:math:`S = (BU)^\top (BU)` where B is upper triangular, its entries above the diagonal are standard
normal and the squares on it are chi-square with n - 1, n - 2, ... degrees of freedom. B is the
triangle of a QR decomposition of n - 1 normal points. With n <= d it ends after n - 1 rows, which
makes a singular scatter as exact as any other. Moments of several parts merge by Chan et al.
(1983).

What a generation trains on is asked of the same :class:`~mad_lightning.policies.LoopPolicy` objects
that drive image lineages. Where a policy takes the same samples again (a fixed real set, a pool
that grows), the same moments are taken again: :func:`segments` cuts every source into runs of
samples that are always used together, and moments are kept until their last use. Only where a
policy chooses samples by chance, each lineage others, are all samples drawn (:mod:`.drawn`).

Real samples come from N(0, I). That is no loss: the loop commutes with affine maps, so a lineage on
any other non-singular normal law is the image of one of these.

References:
    | On the theory of statistical regression (Bartlett, 1933),
    | https://doi.org/10.1017/S0370164600015637
    | Algorithms for computing the sample variance (Chan et al., 1983),
    | https://doi.org/10.1080/00031305.1983.10483115
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from functools import lru_cache, partial
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from mad_lightning.seeds import seed_for
from mad_lightning.theory.closed_forms import Estimator, Laws
from mad_lightning.theory.cores import Work, in_turns
from mad_lightning.theory.drawn import DrawnLineages
from mad_lightning.theory.segments import (
    Segment,
    Setting,
    checked_segments,
    chooses,
    segments,
    shape,
)

__all__ = [
    "GaussianLineages",
    "Segment",
    "Setting",
    "Trajectories",
    "segments",
    "simulate",
]

_BLOCK = 2 * 2**20
"""Bytes of moments that are drawn at once: about what a core's cache holds."""
_STREAM = 20_000
"""Numbers of a fit, over all lineages that draw from one stream: a call then costs little."""
_PANEL = 34
"""Columns of a scatter that are computed at once: a third of those of the paper's d = 100."""


def _together(dim: int) -> int:
    """How many lineages of a setting draw from one stream of random numbers."""
    return max(1, _STREAM // dim**2)


_Takes = tuple[tuple[int, float], ...]
"""Generation and weight of each use that is to come."""


class _Statistics(NamedTuple):
    """Counts (S, m), means (S, R, m, D) and roots of the scatters of m segments.

    A root has 1 + r rows, of which the first is left free for the distance of the segment's mean
    from the mean of all that it is merged with. First rows lie together, then second ones, and so
    on, (S, R, 1 + r, m, D): as roots are triangular, a scatter has no use for all of them.
    """

    n: Tensor
    mean: Tensor
    root: Tensor


class _Law(NamedTuple):
    """What a generation samples from: means (S, R, D), and roots of the covariances.

    A root is float32 (S, R, D, D) times a scale (S, R, 1, 1), lest collapse underflow.
    """

    mean: Tensor
    root: Tensor
    scale: Tensor

    @classmethod
    def of(cls, mean: Tensor, root: Tensor, spread: Tensor) -> _Law:
        """From float64 roots (S, R, r, D) with r <= D, and the factor (S,) that narrows them."""
        if (missing := root.shape[-1] - root.shape[-2]) > 0:
            root = torch.nn.functional.pad(root, (0, 0, 0, missing))
        scale = root.abs().amax(dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(root.dtype).tiny)
        return cls(mean, (root / scale).float(), scale * spread[:, None, None, None])


class GaussianLineages(Laws):
    """S settings, R lineages of each, one generation a step.

    Args:
        settings: Of one shape: their policies cut into the same segments, whatever their counts.
            :func:`simulate` takes any.
        dim: Dimension d, at least 1.
        generations: How many generations the policies are asked for.
        lineages: R, lineages a setting.
        estimator: ``unbiased`` covariances divide by n - 1, as in the paper, ``maximum_likelihood``
            by n.
        device: Where to compute, in float64. A setting's numbers depend on its seed and R alone, up
            to rounding; other devices draw other numbers.

    Lineages draw from streams of random numbers that a few of them share, so that they can be dealt
    out to several cores (:meth:`parts`) and find the same numbers there.

    Attributes:
        t: The last generation that was trained; 0 at first.
        mean: Its means, with shape (S, R, d).
        root: Factors A of its covariances A'A, with shape (S, R, r, d), r <= d.

    Raises:
        Refused: If a policy cannot be fed, or a generation is too small for the estimator.
        ValueError: If the settings differ in shape.
    """

    def __init__(
        self,
        settings: Sequence[Setting],
        dim: int,
        generations: int,
        lineages: int,
        estimator: Estimator = "unbiased",
        device: str | torch.device = "cpu",
    ) -> None:
        self.dim, self.lineages = dim, lineages
        self.estimator, self.device = estimator, torch.device(device)
        self._settings = list(settings)
        self._seeds = [setting.seed for setting in settings]
        self._streams = range(-(-lineages // _together(dim)))
        self._rngs: list[list[torch.Generator]] = []
        self.look_ahead(generations)
        self._laws: dict[int, _Law] = {}
        self._kept: dict[_Takes, _Statistics] = {}
        self.t = 0
        self.mean = self.root = torch.empty(0)

    def look_ahead(self, generations: int) -> None:
        """Asks the policies what every generation up to this one takes.

        Where no samples are taken again later it may be asked for more on the way, before the last
        generation that was asked for: planning all that could be needed is dear.

        Args:
            generations: How many, from the first.
        """
        plans = [checked_segments(one, generations, self.estimator) for one in self._settings]
        shapes = {shape(plan) for plan in plans}
        if len(shapes) != 1:
            raise ValueError(f"settings of {len(shapes)} shapes cannot be simulated as one batch")
        self.generations, self._plan = generations, plans[0]
        self._counts = torch.tensor([[segment.count for segment in plan] for plan in plans])
        self._first_uses: dict[int, list[int]] = defaultdict(list)
        self._last_draw: dict[int, int] = {}
        for place, segment in enumerate(self._plan):
            self._first_uses[segment.uses[0]].append(place)
            self._last_draw[segment.source] = segment.uses[0]

    def parts(self) -> list[GaussianLineages]:
        """These lineages dealt out, each stream by itself, before their first step.

        Returns:
            Parts that draw, each on a core of its own or one after the other, what the lineages
            together would; in order.
        """
        if self.t > 0:
            raise ValueError("lineages are dealt out before their first step")
        parts = []
        for stream in self._streams:
            part = copy(self)
            part._streams = range(stream, stream + 1)
            part.lineages = self._of_stream(stream)
            part._laws, part._kept = {}, {}
            parts.append(part)
        return parts

    def step(self) -> None:
        """Trains the next generation of every lineage."""
        if self.t == 0:
            self._rngs = [self._generators(seed) for seed in self._seeds]
        self.t = t = self.t + 1
        if t > self.generations:
            raise ValueError(f"the lineages were planned for {self.generations} generations")
        mix: list[tuple[_Statistics, float]] = []
        keep: dict[_Takes, list[_Statistics]] = defaultdict(list)
        drawn = [(self._plan[b[0]].takes, self._draw(b)) for b in self._blocks(self._first_uses[t])]
        for takes, moments in [*self._kept.items(), *drawn]:
            now = sum(use == t for use, _ in takes)
            mix += [(moments, weight) for _, weight in takes[:now]]
            if takes[now:]:
                keep[takes[now:]].append(moments)
        # Moments with the same future are one from here on.
        self._kept = {takes: _of_one_segment(*_merge(stacks)) for takes, stacks in keep.items()}
        n, self.mean, root = _merge(_weighed(mix))
        less = 1.0 if self.estimator == "unbiased" else 0.0
        self.root = root / (n - less).sqrt()[:, None, None, None]
        if self._last_draw.get(t, 0) > t:
            biases = [setting.bias(t) ** 0.5 for setting in self._settings]
            spread = torch.tensor(biases, dtype=torch.float64, device=self.device)
            self._laws[t] = _Law.of(self.mean, self.root, spread)
        self._laws = {g: law for g, law in self._laws.items() if self._last_draw.get(g, 0) > t}

    def keep(self, which: Sequence[int]) -> None:
        """Goes on with some of the settings only; it changes none of their numbers.

        Args:
            which: Their places, in order.
        """
        at = torch.tensor(which, dtype=torch.int64, device=self.device)
        self._seeds = [self._seeds[place] for place in which]
        self._rngs = [self._rngs[place] for place in which] if self._rngs else []
        self._settings = [self._settings[place] for place in which]
        self._counts = self._counts[at.cpu()]
        self._laws = {g: _Law(*(part[at] for part in law)) for g, law in self._laws.items()}
        self._kept = {
            uses: _Statistics(*(part[at] for part in moments))
            for uses, moments in self._kept.items()
        }
        self.mean, self.root = self.mean[at], self.root[at]

    # what a step is made of

    def _of_stream(self, stream: int) -> int:
        """How many lineages draw from a stream: the last one may have fewer."""
        size = _together(self.dim)
        return min(size, self.lineages - size * (stream - self._streams.start))

    def _generators(self, seed: int) -> list[torch.Generator]:
        """A setting's streams of random numbers."""
        return [
            torch.Generator(self.device).manual_seed(seed_for(seed, "lineages", stream))
            for stream in self._streams
        ]

    def _blocks(self, places: Iterable[int]) -> Iterator[list[int]]:
        """Segments that can be drawn in one go: all real or all synthetic, used alike."""

        def kind(place: int) -> tuple[bool, _Takes]:
            segment = self._plan[place]
            return segment.source == 0, segment.takes

        size = max(1, _BLOCK // (8 * self.lineages * self.dim * self.dim))
        for _, alike in groupby(places, kind):
            block = list(alike)
            for start in range(0, len(block), size):
                yield block[start : start + size]

    def _draw(self, places: list[int]) -> _Statistics:
        """Moments of new samples: real ones of N(0, I), synthetic ones of N(μ, λΣ)."""
        unit = self._bartlett(self._counts[:, places])
        n = self._counts[:, places].to(self.device, torch.float64)
        sources = [self._plan[place].source for place in places]
        if sources[0] == 0:
            root = _row_by_row(unit)
            return _Statistics(n, root[..., 0, :, :] / n.sqrt()[:, None, :, None], root)
        laws = zip(*(self._laws[g] for g in sources), strict=True)
        means, roots, scales = (
            torch.stack(parts, dim=2) if len(parts) > 1 else parts[0].unsqueeze(2) for parts in laws
        )
        # A product of float32 and float64 would take torch far longer than these two steps.
        root = _row_by_row(unit @ roots).mul_(scales.transpose(2, 3))
        mean = root[..., 0, :, :] / n.sqrt()[:, None, :, None]
        return _Statistics(n, mean + means, root)

    def _bartlett(self, n: Tensor) -> Tensor:
        """A normal row, for the mean, above Bartlett's root for n samples of N(0, I).

        Args:
            n: Counts (S, m), whole, on the CPU.

        Returns:
            Rows (S, R, m, 1 + r, d), float32; r <= d is the largest rank among the scatters.
        """
        ranks = (n.amax(dim=1) - 1).clamp(max=self.dim).tolist()
        rank = max(ranks)
        freedom = (n[:, None, :, None] - 1 - torch.arange(rank)).to(self.device, torch.float64)
        chi = (freedom.clamp(min=1.0) / 2.0).expand(-1, self.lineages, -1, -1).contiguous()
        # Draws and their products with a law are float32, of which torch makes six and two for each
        # in float64: the 24 bits are far below any Monte-Carlo error. All sums are in float64.
        z = torch.zeros(*chi.shape[:3], 1 + rank, self.dim, device=self.device)
        size = _together(self.dim)
        for place, rngs in enumerate(self._rngs):
            own = ranks[place]  # so that nobody's numbers depend on who else is in the batch
            upper = _upper(1 + own, self.dim).to(self.device)
            for number, rng in enumerate(rngs):
                here = slice(number * size, (number + 1) * size)
                gammas = torch._standard_gamma(
                    chi[place, here, :, :own].contiguous(), generator=rng
                )
                chi[place, here, :, :own] = (2.0 * gammas).sqrt_()
                fits = z[place, here].flatten(0, 1).flatten(1)
                draws = fits.new_empty((len(fits), len(upper))).normal_(generator=rng)
                fits.scatter_(1, upper.expand(len(fits), -1), draws)
        z.diagonal(-1, -2, -1).copy_(chi)
        if int(n.min()) - 1 < rank:  # some end earlier
            z[..., 1:, :] *= (freedom > 0.0)[..., None]
        return z


def _row_by_row(roots: Tensor) -> Tensor:
    """Roots (S, R, m, 1 + r, D) as moments have them: (S, R, 1 + r, m, D), float64."""
    return roots.transpose(2, 3).to(torch.float64, memory_format=torch.contiguous_format)


@lru_cache(maxsize=64)
def _upper(rows: int, columns: int) -> Tensor:
    """Where a flattened matrix has its upper triangle."""
    row, column = torch.triu_indices(rows, columns)
    return row * columns + column


def _weighed(mix: Sequence[tuple[_Statistics, float]]) -> list[_Statistics]:
    """Moments as a fit counts them, each with its weight.

    On the scale on which the sum of all weights is that of their squares, so that n - 1 is what
    an unbiased covariance divides by (Kish, 1965).
    """
    if len({weight for _, weight in mix}) < 2:
        return [moments for moments, _ in mix]
    sizes = [(moments.n.sum(dim=1), weight) for moments, weight in mix]
    total = sum((n * weight for n, weight in sizes), torch.zeros(()))
    squares = sum((n * weight**2 for n, weight in sizes), torch.zeros(()))
    scale = total / squares
    return [
        _Statistics(
            moments.n * (scale * weight)[:, None],
            moments.mean,
            moments.root * (scale * weight).sqrt()[:, None, None, None, None],
        )
        for moments, weight in mix
    ]


def _merge(stacks: Sequence[_Statistics]) -> tuple[Tensor, Tensor, Tensor]:
    """Count (S,), mean (S, R, D) and root (S, R, r, D) of all segments taken together.

    The distances of their means fill the free rows of their roots.
    """
    n = sum((stack.n.sum(dim=1) for stack in stacks), torch.zeros(()))
    if len(stacks) == 1 and stacks[0].n.shape[1] == 1:
        return n, stacks[0].mean[:, :, 0], stacks[0].root[:, :, 1:, 0]
    weighted = sum((stack.n[:, None, None] @ stack.mean for stack in stacks), torch.zeros(()))
    mean = weighted / n[:, None, None, None]
    for stack in stacks:
        gaps = stack.mean - mean
        torch.mul(gaps, stack.n.sqrt()[:, None, :, None], out=stack.root[..., 0, :, :])
    return n, mean[:, :, 0], _triangle([stack.root for stack in stacks])


def _of_one_segment(n: Tensor, mean: Tensor, root: Tensor) -> _Statistics:
    """Merged moments as those of one segment."""
    free = root.new_zeros((*root.shape[:-2], 1, root.shape[-1]))
    return _Statistics(n[:, None], mean[:, :, None], torch.cat([free, root], dim=-2)[:, :, :, None])


def _triangle(roots: Sequence[Tensor]) -> Tensor:
    """An upper triangular root (..., r, D) of the scatters of all roots (..., 1 + r, m, D)."""
    scatter = roots[0].new_zeros((*roots[0].shape[:-3], *roots[0].shape[-1:] * 2))
    for each in roots:
        _add_scatter(scatter, each)
    root, failed = torch.linalg.cholesky_ex(scatter, upper=True)
    if bool(failed.any()):  # singular: few points, or collapse
        rows = torch.cat([root.flatten(-3, -2) for root in roots], dim=-2)
        return torch.linalg.qr(rows, mode="r").R
    return root


def _add_scatter(scatter: Tensor, roots: Tensor) -> None:
    """Adds the upper triangle, at least, of the scatters of roots (..., 1 + r, m, D)."""
    dim = roots.shape[-1]
    for left in range(0, dim, _PANEL):  # a root has zeros below its second diagonal
        right = min(left + _PANEL, dim)
        rows = roots[..., : right + 1, :, left:].flatten(-3, -2)
        scatter[..., left:right, left:] += rows[..., : right - left].mT @ rows


# many settings


class Trajectories(NamedTuple):
    """What lineages do generation by generation, each with shape (S, R, T).

    Attributes:
        w2_squared: Squared W2 distance to N(0, I).
        drift: Squared length of the mean.
        variance: Mean variance tr Σ / d.
    """

    w2_squared: Tensor
    drift: Tensor
    variance: Tensor


def simulate(
    settings: Sequence[Setting],
    dim: int,
    generations: int,
    lineages: int,
    estimator: Estimator = "unbiased",
    device: str | torch.device = "cpu",
    threads: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Trajectories:
    """Follows lineages of any settings and measures every generation.

    Args:
        settings: S settings.
        dim: Dimension d.
        generations: T.
        lineages: R, lineages a setting.
        estimator: ``unbiased`` or ``maximum_likelihood`` covariances.
        device: Where to compute.
        threads: CPU threads; None takes torch's number.
        progress: Called with a number of settings when they are done.

    Returns:
        Float64 tensors (S, R, T) on the CPU.

    Raises:
        Refused: If a policy cannot be fed.
    """
    out = Trajectories(
        *(torch.empty(len(settings), lineages, generations).double() for _ in range(3))
    )

    def measured(part: GaussianLineages | DrawnLineages) -> list[Tensor]:
        """Distance, drift and variance of a part's lineages, (S, c, T) each."""
        values = []
        for _ in range(generations):
            part.step()
            values.append((part.w2_squared(), part.drift(), part.variance()))
        return [torch.stack(each, dim=-1).cpu() for each in zip(*values, strict=True)]

    def follow(places: list[int]) -> Work:
        batch = [settings[place] for place in places]
        parts: Sequence[GaussianLineages | DrawnLineages]
        if chooses(batch[0].policy):
            (setting,) = batch
            parts = DrawnLineages(setting, dim, generations, lineages, estimator, device).parts()
        else:
            parts = GaussianLineages(batch, dim, generations, lineages, estimator, device).parts()
        results = yield [partial(measured, part) for part in parts]
        for to, values in zip(out, zip(*results, strict=True), strict=True):
            to[places] = torch.cat(values, dim=1)
        progress(len(places))

    in_turns(map(follow, batches(settings, dim, generations)), threads)
    return out


def batches(settings: Sequence[Setting], dim: int, generations: int) -> list[list[int]]:
    """Places of settings of one shape, as many at a time as a core's cache likes of a stream.

    Args:
        settings: The settings.
        dim: Dimension d.
        generations: How many tell the shape.
    """
    shapes: dict[object, list[int]] = defaultdict(list)
    for place, setting in enumerate(settings):
        alone = chooses(setting.policy)
        kind = place if alone else shape(segments(setting.policy, generations))
        shapes[kind].append(place)
    size = max(1, _BLOCK // (8 * _together(dim) * dim * dim))
    return [
        alike[start : start + size]
        for alike in shapes.values()
        for start in range(0, len(alike), size)
    ]
