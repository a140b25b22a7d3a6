r"""The Gaussian family: the paper's theory as a generator.

Trained by taking moments, :math:`\mu_t` and :math:`\Sigma_t` (Alemohammad et al., 2023, section
3.1), in one pass, whatever the number of batches and processes: partial moments merge exactly
(Chan et al., 1983). Sampled from :math:`\mathcal N(\mu_t, \lambda\Sigma_t)`. Even this family,
with no optimiser to blame, goes MAD.

Samples that have weights are weighed in the moments. They count as :math:`(\sum w)^2 / \sum w^2`
samples do (Kish, 1965), and so the unbiased covariance stays unbiased.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self, get_args

import torch
from torch import Tensor

from mad_lightning.generators.closed_form import ClosedForm, Estimator
from mad_lightning.processes import Team
from mad_lightning.refusal import Refused, check_memory, check_one_of
from mad_lightning.samples import Batches, Law, Samples, SampleSpec, to_floats
from mad_lightning.seeds import normal

__all__ = ["Gaussian"]


class Gaussian(ClosedForm):
    r"""Normal distribution with full covariance, on vectors or flattened images.

    λ scales the covariance: samples come from :math:`\mathcal N(\mu, \lambda\Sigma)` (section 3.1).

    Args:
        estimator: ``unbiased`` divides by n - 1, as the paper does; ``maximum_likelihood`` by n, as
            part of the later literature does (the trace then shrinks by 1 - 1/n a generation).
        per_class: One Gaussian a class where samples carry labels.

    Example:
        >>> x = torch.randn(1000, 2) @ torch.tensor([[1.0, 0.5], [0.0, 2.0]])
        >>> gaussian = Gaussian().build(SampleSpec.of(x))
        >>> L.Trainer(max_epochs=1).fit(gaussian, DataLoader(TensorDataset(x), batch_size=100))
        >>> torch.allclose(gaussian.law().covariance.float(), x.T.cov(), atol=1e-4)
        True
        >>> gaussian.sample(seeds=torch.arange(5), sampling_bias=0.8).values.shape
        torch.Size([5, 2])
    """

    is_one_pass = needs_float64 = weighs = True

    n: Tensor
    mean: Tensor
    scatter: Tensor

    def __init__(
        self,
        estimator: Estimator = "unbiased",
        per_class: bool = True,
    ) -> None:
        super().__init__()
        check_one_of(get_args(Estimator), estimator=estimator)
        self.estimator, self.per_class = estimator, per_class
        self._factors: dict[int, Tensor] = {}

    def build(self, spec: SampleSpec) -> Self:
        """Allocates the moments: count (K,), mean (K, D), scatter (K, D, D), float64."""
        self.spec = spec
        groups = spec.classes if self.per_class and spec.classes else 1
        dim = math.prod(spec.shape)
        what = f"covariances of {groups:,} Gaussians in {dim:,} dimensions"
        check_memory("", 8.0 * groups * dim**2, what, "take smaller samples, or another family")
        self._squares = torch.zeros(groups).double()  # sums of squared weights
        self.register_buffer("n", torch.zeros(groups).double())
        self.register_buffer("mean", torch.zeros(groups, dim).double())
        self.register_buffer("scatter", torch.zeros(groups, dim, dim).double())
        return self

    def check_training(self, counts: Sequence[int], batch_size: int) -> None:
        """One sample has no spread that could be divided by n - 1 = 0."""
        super().check_training(counts, batch_size)
        counts = counts if self.per_class else [sum(counts)]
        if self.estimator == "unbiased" and 1 in counts:
            one = (
                f"class {list(counts).index(1)} has one sample"
                if len(counts) > 1
                else "there is one sample"
            )
            raise Refused(
                "estimator",
                f"unbiased, and {one} to train on, which has no variance",
                "train on more samples, or take `per_class: false` or "
                "`estimator: maximum_likelihood`",
            )

    def on_train_epoch_start(self) -> None:
        """Every epoch estimates anew."""
        self._factors.clear()
        self._squares = torch.zeros_like(self.n)
        for moment in (self.n, self.mean, self.scatter):
            moment.zero_()

    def training_step(self, batch: Samples, batch_idx: int) -> None:
        """Adds a batch to the moments, or several, one after the other."""
        for one in batch.apart() if isinstance(batch, Batches) else [batch]:
            self._add(one)

    def _add(self, batch: Samples) -> None:
        x = to_floats(batch.values).double().flatten(1)
        if x.device.type != "cpu" and len(self.n) > 1 and batch.labels is not None:
            self._add_unseen(x, batch.labels, batch.weights)
            return
        groups = {0: x} if len(x) else {}
        if len(self.n) > 1 and batch.labels is not None:
            groups = {k: x[batch.labels == k] for k in batch.labels.unique().tolist()}
        for k, rows in groups.items():
            if batch.weights is not None:
                weights = batch.weights if len(groups) < 2 else batch.weights[batch.labels == k]
                self._weigh(k, rows, weights.double())
                continue
            mean = rows.mean(dim=0)
            centred = rows.sub_(mean)
            self._squares[k] += len(rows)
            self._merge(k, float(len(rows)), mean, centred.T @ centred)

    def _weigh(self, k: int, rows: Tensor, weights: Tensor) -> None:
        """Adds rows (N, D) that count by weights (N,) to the moments of group k."""
        total = weights.sum()
        if total == 0.0:
            return
        mean = weights @ rows / total
        centred = rows.sub_(mean)
        self._squares[k] += weights.square().sum()
        self._merge(k, total, mean, centred.T @ (centred * weights[:, None]))

    def _add_unseen(self, x: Tensor, labels: Tensor, weights: Tensor | None) -> None:
        """Adds samples of classes that only the device knows, without asking it for them."""
        classes = torch.arange(len(self.n), device=x.device)
        member = (labels == classes[:, None]).to(x.dtype)
        member = member if weights is None else member * weights.to(x.dtype)
        n = member.sum(dim=1)
        self._squares.add_(member.square().sum(dim=1))
        means = member @ x / n.where(n > 0, 1.0)[:, None]
        centred = x - means[labels]
        total = self.n + n
        total = total.where(total > 0, 1.0)
        gaps = (means - self.mean) * (n > 0)[:, None]
        between = self.n * n / total
        for k, gap in enumerate(gaps):
            of_class = centred * member[k][:, None]
            self.scatter[k].add_(of_class.T @ centred).add_(gap.outer(gap).mul_(between[k]))
        self.mean.add_(gaps.mul_((n / total)[:, None]))
        self.n.add_(n)

    def _merge(self, k: int, n: Tensor | float, mean: Tensor, scatter: Tensor) -> None:
        """Adds partial moments to those of group k (Chan et al., 1983, equation 2.1)."""
        before = self.n[k]
        total = before + n
        gap = mean - self.mean[k]
        self.scatter[k].add_(scatter.add_(gap.outer(gap).mul_(before * n / total)))
        self.mean[k].add_(gap.mul_(n / total))
        self.n[k] = total

    def on_train_epoch_end(self) -> None:
        """Merges the moments of all processes, in the order of their ranks.

        Weights are brought to a scale on which their sum is that of their squares.
        """
        team = Team.of()
        if team.size > 1:
            moments = (self.n, self.mean, self.scatter)
            gathered = [team.gathered(moment) for moment in moments]
            self._squares = team.gathered(self._squares).sum(dim=0)
            for moment in moments:
                moment.zero_()
            for n, mean, scatter in zip(*gathered, strict=True):
                for k in range(len(n)):
                    if n[k] > 0:
                        self._merge(k, n[k], mean[k], scatter[k])
        scale = self.n / self._squares
        for k in (self._squares > 0.0).nonzero().flatten().tolist():
            if scale[k] != 1.0:
                self.n[k] *= scale[k]
                self.scatter[k] *= scale[k]

    def covariance(self) -> Tensor:
        """Covariances with shape (K, D, D), float64."""
        less = 1.0 if self.estimator == "unbiased" else 0.0
        return self.scatter / (self.n - less).clamp(min=1.0)[:, None, None]

    def law(self) -> Law | None:
        """The fitted mean and covariance, if there is one group."""
        return Law(self.mean[0], self.covariance()[0]) if len(self.n) == 1 else None

    def sampler(self) -> dict[str, Any]:
        """How the covariance was estimated."""
        return {"estimator": self.estimator}

    def factor(self, k: int) -> Tensor:
        """The symmetric root of group k's covariance, (D, D).

        It exists where collapse has made the covariance singular, and unlike other roots it is
        unique, so that rounding in the moments cannot turn into other samples.
        """
        if k not in self._factors:
            variances, axes = torch.linalg.eigh(self.covariance()[k])
            self._factors[k] = (axes * variances.clamp(min=0.0).sqrt()) @ axes.T
        return self._factors[k]

    def draw(self, seeds: Tensor, sampling_bias: float, labels: Tensor | None) -> Tensor:
        """Draws from N(μ, λΣ)."""
        z = normal(seeds, self.mean.shape[1]).double().mul_(sampling_bias**0.5)
        groups: dict[int, slice | Tensor] = {0: slice(None)}
        if labels is not None and len(self.n) > 1:
            groups = {k: labels == k for k in labels.unique().tolist()}
        asked = torch.tensor([*groups], dtype=torch.int64, device=z.device)
        self.check_met(asked, self.n != 0.0)
        for k, rows in groups.items():
            z[rows] = (z[rows] @ self.factor(k).T).add_(self.mean[k])
        return z.reshape(len(seeds), *self.spec.shape)
