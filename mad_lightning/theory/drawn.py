"""Gaussian lineages that draw every sample, for loops that choose among samples by chance.

Which samples meet again in which generation is then another matter in every lineage, and moments of
whole runs say nothing of that. So the samples themselves are kept, all that were ever drawn, and a
fit takes those that were chosen. It costs memory and time that grow with n, and is meant for small
n, where chance matters.
"""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor

from mad_lightning.policies import Mix
from mad_lightning.refusal import Refused
from mad_lightning.seeds import seed_for
from mad_lightning.theory.closed_forms import Estimator, Laws
from mad_lightning.theory.segments import Setting

__all__ = ["DrawnLineages"]

_NUMBERS = 8 * 2**20
"""Of all samples of the lineages that are followed at once: 64 MiB, in float64."""


class DrawnLineages(Laws):
    """R lineages of one setting, one generation a step.

    Args:
        setting: The loop; its policy may choose samples by chance (``LoopPolicy.union``).
        dim: Dimension d, at least 1.
        generations: How many generations there will be.
        lineages: R.
        estimator: ``unbiased`` covariances divide by n - 1, ``maximum_likelihood`` by n.
        device: Where to compute, in float64.

    Attributes:
        t: The last generation that was trained; 0 at first.
        mean: Its means (1, R, d).
        root: Roots A of its covariances A'A (1, R, d, d).

    Raises:
        Refused: If the samples of one lineage do not fit into memory.
    """

    def __init__(
        self,
        setting: Setting,
        dim: int,
        generations: int,
        lineages: int,
        estimator: Estimator = "unbiased",
        device: str | torch.device = "cpu",
    ) -> None:
        self.setting, self.dim, self.generations = setting, dim, generations
        self.lineages, self.estimator, self.device = lineages, estimator, torch.device(device)
        policy = setting.policy
        policy.check(generations)
        drawn = sum(policy.n_draw(t) for t in range(1, generations + 1))
        self._numbers = (policy.n_pool(generations) + drawn) * dim
        if self._numbers > 100 * _NUMBERS:
            problem = f"{self._numbers:,} numbers a lineage, which are all drawn and kept"
            raise Refused("policy", problem, "take fewer samples, or fewer generations")
        self._first = 0
        self._rng = torch.Generator(self.device)
        self._stores: dict[int, Tensor] = {}  # samples (R, n, d) by source, 0 is the real pool
        self.t = 0
        self.mean = self.root = torch.empty(0)

    def parts(self) -> list[DrawnLineages]:
        """These lineages dealt out, some tens of MiB of samples each; in order."""
        size, parts = max(1, _NUMBERS // self._numbers), []
        for first in range(0, self.lineages, size):
            part = copy(self)
            part._first, part.lineages = first, min(size, self.lineages - first)
            part._rng, part._stores = torch.Generator(self.device), {}
            parts.append(part)
        return parts

    def step(self) -> None:
        """Trains the next generation of every lineage."""
        policy = self.setting.policy
        if self.t == 0:
            self._rng.manual_seed(seed_for(self.setting.seed, "drawn", self._first))
            self._stores[0] = self._normal(policy.n_pool(self.generations))
        self.t = t = self.t + 1
        x, weights = self._chosen(policy.union(t), len(policy.mix(t)))
        # On the scale on which weights sum up to what their squares do.
        weights = weights * (weights.sum(1) / weights.square().sum(1))[:, None]
        n = weights.sum(dim=1)[:, None, None]
        mean = (weights[:, :, None] * x).sum(dim=1) / n[:, 0]
        centred = (x - mean[:, None]) * weights.sqrt()[:, :, None]
        less = 1.0 if self.estimator == "unbiased" else 0.0
        covariance = centred.mT @ centred / (n - less)
        values, axes = torch.linalg.eigh(covariance)
        root = (axes * values.clamp(min=0.0).sqrt()[:, None]) @ axes.mT
        self.mean, self.root = mean[None], root[None]
        if (count := policy.n_draw(t)) and t < self.generations:
            spread = self.setting.bias(t) ** 0.5
            self._stores[t] = mean[:, None] + spread * (self._normal(count) @ root)

    def _chosen(self, union: Mix, n: int) -> tuple[Tensor, Tensor]:
        """Samples (R, n, d) and their weights (R, n), each lineage's own choice of the union."""
        parts = [
            self._stores[part.generation or 0][:, part.start : part.stop] for part in union.parts
        ]
        x = torch.cat(parts, dim=1)
        told = [torch.full((part.count,), part.weight).double() for part in union.parts]
        weights = torch.cat(told).to(self.device).expand(self.lineages, -1)
        if n == x.shape[1]:
            return x, weights
        keys = torch.rand(x.shape[:2], generator=self._rng, device=self.device)
        places = keys.topk(n, dim=1).indices
        return x.gather(1, places[:, :, None].expand(-1, -1, self.dim)), weights.gather(1, places)

    def _normal(self, count: int) -> Tensor:
        """Standard normal samples (R, count, d)."""
        size = (self.lineages, count, self.dim)
        return torch.randn(size, generator=self._rng, device=self.device, dtype=torch.float64)
