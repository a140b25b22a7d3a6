r"""The Gaussian mixture family: the smallest world in which modes can die.

Fitted by expectation-maximisation (Dempster et al., 1977), which is maximum likelihood and nothing
else: no step size, no network, no budget. On the 25 modes of a grid it shows what a self-consuming
loop does to a distribution of many modes (Alemohammad et al., 2023, appendix B.2). Each generation
counts how often each mode was drawn and believes that count, so the shares of the modes perform the
random walk that biologists call neutral drift (Wright, 1931): a share that touches zero stays
there. The mean over lineages stays right for ever; each lineage ends in one mode.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self, get_args

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from mad_lightning.generators.closed_form import ClosedForm, Estimator
from mad_lightning.processes import joined
from mad_lightning.refusal import check_memory, check_one_of, check_within
from mad_lightning.samples import Law, Samples, SampleSpec, to_floats
from mad_lightning.seeds import normal, seed_for, uniform

__all__ = ["Components", "Mixture", "assign", "expect", "fit", "maximise"]

_TINY = 1e-30
"""Least variance where all samples are equal, in squared units of the data: nothing, but not 0."""
_AT_A_TIME = 2**16
"""Numbers in the largest temporary tensor: half a MiB, which stays near the processor."""


class Components(NamedTuple):
    """K Gaussians with weights, float64.

    Covariances are kept as eigenvalues and eigenvectors: the least variance, whitening and the
    root that samples are drawn with are all read off them.

    Attributes:
        weight: Shares (K,), which sum to 1; an empty component has 0.
        mean: Means (K, D).
        variances: Eigenvalues of the covariances (K, D), all positive.
        axes: Their eigenvectors (K, D, D), in columns.
    """

    weight: Tensor
    mean: Tensor
    variances: Tensor
    axes: Tensor

    def root(self) -> Tensor:
        """Symmetric roots of the covariances (K, D, D), the only ones that are unique."""
        return (self.axes * self.variances.sqrt()[:, None, :]) @ self.axes.mT


def expect(x: Tensor, components: Components) -> tuple[Tensor, Tensor]:
    """The E-step: who made each sample (Bishop, 2006, equation 9.23).

    Args:
        x: Samples (N, D), float64.
        components: K Gaussians.

    Returns:
        Responsibilities (N, K), rows of which sum to 1, and the log-likelihood of each sample (N,),
        natural logarithm.
    """
    weight, mean, variances, axes = components
    k, dim = mean.shape
    constant = weight.log() - 0.5 * (variances.log().sum(dim=1) + dim * math.log(2.0 * math.pi))
    whitening = (axes / variances.sqrt()[:, None, :]).mT
    responsibilities, log_likelihoods = [], []
    for rows in x.T.split(max(1, _AT_A_TIME // (k * dim)), dim=1):
        z = whitening @ (rows - mean[:, :, None])  # (K, D, rows)
        joint = constant[:, None] - 0.5 * z.square().sum(dim=1)
        log_likelihoods.append(joint.logsumexp(dim=0))
        responsibilities.append((joint - log_likelihoods[-1]).exp())
    return torch.cat(responsibilities, dim=1).T, torch.cat(log_likelihoods)


def maximise(x: Tensor, responsibilities: Tensor, least_variance: float) -> Components:
    """The M-step: weighted moments (Bishop, 2006, equations 9.24 to 9.26).

    Eigenvalues below ``least_variance`` are raised to it. That is the exact maximum among the
    covariances that have none below, so the likelihood still never falls; adding a constant to the
    diagonal, as is often done, would break that, and would add it anew in every generation.

    Args:
        x: Samples (N, D), float64.
        responsibilities: Non-negative weights (N, K).
        least_variance: Smallest eigenvalue of a covariance.

    Returns:
        K Gaussians; one that answers for no sample has weight 0.
    """
    k, dim = responsibilities.shape[1], x.shape[1]
    n = responsibilities.sum(dim=0)
    shares = responsibilities / n.clamp(min=1e-300)
    mean = shares.T @ x
    covariance = x.new_zeros(k, dim, dim)
    size = max(1, _AT_A_TIME // (k * dim))
    for rows, share in zip(x.T.split(size, dim=1), shares.T.split(size, dim=1), strict=True):
        centred = rows - mean[:, :, None]  # (K, D, rows)
        covariance += (centred * share[:, None, :]) @ centred.mT
    variances, axes = torch.linalg.eigh(covariance)
    return Components(n / n.sum(), mean, variances.clamp(min=least_variance), axes)


def in_order(x: Tensor) -> Tensor:
    """Rows (N, D), each as often as given, in the order of a dictionary.

    The first numbers tell the order, in a tenth of the time, of all rows that do not begin alike.
    """
    first, order = x[:, 0].sort()
    rows, alike = x[order], first[1:] == first[:-1]
    if alike.any():
        none = alike.new_zeros(1)
        tied = torch.cat([none, alike]) | torch.cat([alike, none])
        different, times = rows[tied].unique(dim=0, return_counts=True)
        rows[tied] = different.repeat_interleave(times, dim=0)
    return rows


def assign(x: Tensor, k: int, rng: torch.Generator) -> Tensor:
    """Assigns samples to k centres that are samples themselves, far from each other.

    Greedy k-means++ (Arthur and Vassilvitskii, 2007, section 7): each centre is the best of several
    candidates, drawn in proportion to their squared distance to the nearest centre so far.

    Args:
        x: Samples (N, D), float64.
        k: Number of centres.
        rng: Draws the candidates, on the CPU.

    Returns:
        Responsibilities (N, k), one 1 a row. There are no more centres than different samples:
        columns beyond them are 0.
    """
    trials = 2 + int(math.log(k))
    nearest = torch.full((len(x),), math.inf, dtype=x.dtype, device=x.device)
    owner = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for centre in range(k):
        chances = torch.ones_like(nearest) if centre == 0 else nearest
        cumulative = chances.cumsum(dim=0)
        places = torch.rand(trials, dtype=x.dtype, generator=rng).to(x.device) * cumulative[-1]
        candidates = torch.searchsorted(cumulative, places, right=True).clamp(max=len(x) - 1)
        exact = "donot_use_mm_for_euclid_dist"  # the other way 0 would come out as 1e-8
        distances = torch.cdist(x[candidates], x, compute_mode=exact).square()  # (trials, N)
        best = distances[distances.minimum(nearest).sum(dim=1).argmin()]
        owner[best < nearest] = centre  # none, once every sample is a centre's equal
        nearest = nearest.minimum(best)
    return nn.functional.one_hot(owner, k).to(x.dtype)


def fit(
    x: Tensor,
    k: int,
    rng: torch.Generator,
    least_share: float = 1e-6,
    tolerance: float = 1e-3,
    max_iterations: int = 200,
) -> tuple[Components, list[float]]:
    """Fits k Gaussians by expectation-maximisation.

    Args:
        x: Samples (N, D), float64, N at least 1.
        k: Number of components.
        rng: Draws the centres to start from.
        least_share: Smallest eigenvalue of a covariance over the mean variance of the samples.
        tolerance: Ends when an iteration adds less to the mean log-likelihood, in nats a sample.
        max_iterations: Ends at the latest then.

    Returns:
        The components, and the mean log-likelihood before each iteration.
    """
    x = x.T.contiguous().T  # columns lie together, as all sums below want them
    least = max(_TINY, least_share * float((x - x.mean(dim=0)).square().mean()))
    components = maximise(x, assign(x, k, rng), least)
    history: list[float] = []
    for _ in range(max_iterations):
        responsibilities, log_likelihood = expect(x, components)
        history.append(float(log_likelihood.mean()))
        if len(history) > 1 and history[-1] - history[-2] < tolerance:
            break
        components = maximise(x, responsibilities, least)
    return components, history


class Mixture(ClosedForm):
    r"""Mixture of Gaussians with full covariances, on vectors or flattened images.

    Where samples carry labels, each class has a mixture of its own.

    λ scales the covariance of every component: samples come from
    :math:`\sum_k \pi_k \mathcal N(\mu_k, \lambda\Sigma_k)`. The paper runs this family without bias
    only (appendix B.2); this is its definition for one Gaussian (section 3.1) applied to each. It
    costs diversity within the modes and leaves their shares alone.

    A fit is a function of the training samples as a set and of its seed: neither their order nor
    batches nor processes matter. All processes gather the samples and compute the same fit.

    Args:
        components: Number of components K, of each class. Those that find no sample of their own,
            as where there are fewer different samples than K, keep weight 0 and are never drawn.
        estimator: ``maximum_likelihood`` takes covariances as expectation-maximisation leaves them;
            ``unbiased`` then multiplies each by n / (n - 1), where n is the number of samples that
            its component answers for. With one component that is the unbiased :class:`Gaussian`'s
            estimate; with several it is exact as far as they do not overlap.
        least_variance: Smallest eigenvalue of a component's covariance, as a share of the mean
            variance of the training samples. It keeps the likelihood finite where a component
            answers for fewer samples than dimensions.
        tolerance: A fit ends when an iteration adds less than this to the mean log-likelihood, in
            nats a sample.
        max_iterations: A fit ends at the latest then, with a warning.

    Example:
        >>> y = torch.arange(600) % 3
        >>> x = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])[y] + torch.randn(600, 2)
        >>> mixture = Mixture(components=3).build(SampleSpec.of(x))
        >>> L.Trainer(max_epochs=1).fit(mixture, DataLoader(TensorDataset(x), batch_size=100))
        >>> mixture.sample(seeds=torch.arange(5), sampling_bias=0.8).values.shape
        torch.Size([5, 2])
    """

    is_one_pass = needs_float64 = True

    weight: Tensor
    mean: Tensor
    root: Tensor

    def __init__(
        self,
        components: int = 25,
        estimator: Estimator = "unbiased",
        least_variance: float = 1e-6,
        tolerance: float = 1e-3,
        max_iterations: int = 200,
    ) -> None:
        super().__init__()
        check_within("[1, 100000]", components=components)
        check_one_of(get_args(Estimator), estimator=estimator)
        check_within("(0, 1)", "e.g. 1e-6 of the variance", least_variance=least_variance)
        check_within("[0, inf)", "e.g. 1e-3", tolerance=tolerance)
        check_within("[1, 1000000]", max_iterations=max_iterations)
        self.components, self.estimator = components, estimator
        self.least_variance = least_variance
        self.tolerance, self.max_iterations = tolerance, max_iterations
        self._seed = 0
        self._batches: list[Samples] = []

    def build(self, spec: SampleSpec) -> Self:
        """Allocates weights (G, K), means (G, K, D), roots of covariances (G, K, D, D), float64."""
        self.spec = spec
        groups, k, dim = spec.classes or 1, self.components, math.prod(spec.shape)
        what = f"covariances of {groups * k:,} components in {dim:,} dimensions"
        remedy = "take fewer `components`, smaller samples, or a family with networks"
        check_memory("", 8.0 * groups * k * dim**2, what, remedy)
        self.register_buffer("weight", torch.zeros(groups, k).double())
        self.register_buffer("mean", torch.zeros(groups, k, dim).double())
        self.register_buffer("root", torch.zeros(groups, k, dim, dim).double())
        return self

    def on_fit_start(self) -> None:
        """Draws the seed of all starts."""
        self._seed = self.common_seed()

    def training_step(self, batch: Samples, batch_idx: int) -> None:
        """Keeps a batch until the epoch ends; every epoch fits anew."""
        self._batches.append(batch)

    def on_train_epoch_end(self) -> None:
        """Fits one mixture a class to the samples of all processes, if it has any."""
        values = joined(torch.cat([batch.values for batch in self._batches]))
        labels = [batch.labels for batch in self._batches if batch.labels is not None]
        group = joined(torch.cat(labels)) if labels else values.new_zeros(len(values)).long()
        self._batches.clear()
        for g in range(len(self.weight)):
            x = to_floats(values[group == g]).double().flatten(1)
            if not len(x):
                for fitted in (self.weight, self.mean, self.root):
                    fitted[g] = 0.0
                continue
            components, history = fit(
                in_order(x),  # whoever had them
                self.components,
                torch.Generator().manual_seed(seed_for(self._seed, g)),
                self.least_variance,
                self.tolerance,
                self.max_iterations,
            )
            if len(history) == self.max_iterations:
                rank_zero_warn(
                    f"expectation-maximisation was stopped after {len(history)} iterations; see "
                    "max_iterations and tolerance"
                )
            self.weight[g], self.mean[g] = components.weight, components.mean
            self.root[g] = components.root()
            if self.estimator == "unbiased":
                n = components.weight * len(x)
                self.root[g] *= (n / (n - 1.0).clamp(min=1.0)).clamp(min=1.0).sqrt()[:, None, None]

    def law(self) -> Law | None:
        """Mean and covariance of the whole mixture, if there is one group."""
        if len(self.weight) > 1:
            return None
        weight, root = self.weight[0], self.root[0]
        mean = weight @ self.mean[0]
        apart = self.mean[0] - mean
        within = (weight[:, None, None] * (root @ root.mT)).sum(dim=0)
        return Law(mean, within + (weight[:, None] * apart).T @ apart)

    def sampler(self) -> dict[str, Any]:
        """How many components there are, and how their covariances were estimated."""
        return {"components": self.components, "estimator": self.estimator}

    def draw(self, seeds: Tensor, sampling_bias: float, labels: Tensor | None) -> Tensor:
        """Draws a component by its weight, then from N(μ, λΣ)."""
        groups, k, dim = self.mean.shape
        z = normal(seeds, dim).double() * sampling_bias**0.5
        group = labels if labels is not None and groups > 1 else torch.zeros_like(seeds)
        self.check_met(group, self.weight.sum(dim=1) != 0.0)
        cumulative = self.weight.cumsum(dim=1)
        # u > 0 and the left side: a component of weight 0 is never hit
        u = uniform(seeds, 1, stream=1) * cumulative[group, -1:]
        component = torch.searchsorted(cumulative[group], u).squeeze(1).clamp(max=k - 1)
        origin = group * k + component
        out = torch.empty_like(z)
        for place in origin.unique().tolist():
            rows, of = origin == place, divmod(place, k)
            out[rows] = self.mean[of] + z[rows] @ self.root[of]
        return out.reshape(len(seeds), *self.spec.shape)
