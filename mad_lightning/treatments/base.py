"""The contract of all treatments, and one that is a function of your own.

A treatment is a pure function of what was drawn: the samples, features and classes of all
candidates, an address for whatever is random, and a budget. It tells which candidates to keep, or
other values for them, or how much each weighs. It reads no files and remembers nothing between
generations, so that a kept shard, like a drawn one, can be made again.

Two rates say how good a selection is (Feng et al., 2024): φ, the share of right candidates that it
keeps, and ψ, the share of wrong ones. Where a treatment has real samples of its own, a candidate is
*right* that lies among them (:func:`right`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor

from mad_lightning.identity import Described
from mad_lightning.metrics.features.base import FeatureExtractor
from mad_lightning.refusal import Refused, check_within
from mad_lightning.samples import Samples, SampleSpec, to_stored

__all__ = [
    "Candidates",
    "Own",
    "Treated",
    "Treatment",
    "as_tensor",
    "by_class",
    "check_function",
    "check_whole",
    "distances",
    "right",
    "treated",
]

_K = 5
"""A candidate is right within the distance from a real sample to its fifth neighbour."""
_ROWS = 512
_REMEDY = "return places (M,), a mask (N,), values (N, ...) or Treated"


@dataclass(frozen=True)
class Candidates:
    """What a treatment looks at.

    Attributes:
        samples: As they are stored: images (N, C, H, W), uint8, or vectors (N, D), float32.
        features: Features (N, D), float32; of a treatment without an extractor, the samples as
            floats, images in [-1, 1], flattened; (N, 0) for one that asks for none.
        labels: Classes (N,), int64, or None.
        address: Where randomness comes from, see :mod:`mad_lightning.seeds`; ``(lineage seed,
            generation, "treatment")``.
        budget: How many are to be kept.
        real: The treatment's own real samples, which no generator is trained on and nothing is
            compared with; None if it asked for none.
        real_features: Features (M, D) of those.
    """

    samples: Tensor
    features: Tensor
    labels: Tensor | None
    address: tuple[int | str, ...]
    budget: int
    real: Samples | None = None
    real_features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def own(self) -> tuple[Samples, Tensor]:
        """The treatment's own real samples, and their features.

        Raises:
            Refused: If it has none.
        """
        if self.real is None or self.real_features is None:
            problem = "0, and it has to know real samples"
            raise Refused("n_real", problem, "set some apart for it, e.g. `n_real: 200`")
        return self.real, self.real_features


@dataclass(frozen=True)
class Treated:
    """What a treatment makes of candidates.

    Attributes:
        places: Which of them are kept (M,), int64; None: all, from the first on. They are stored in
            the order in which they were drawn, and no more of them than the budget.
        values: What is stored instead (M, ...), as samples are stored, or images as floats in
            [-1, 1]; None: what was drawn.
        weights: How often each is met in training, beside others (M,); None: all alike.
    """

    places: Tensor | None = None
    values: Tensor | None = None
    weights: Tensor | None = None


class Treatment(Described, ABC):
    """Abstract treatment.

    Args:
        candidates: How many samples are drawn for each that is needed, at least 1.
        n_real: Real samples that it has for itself, from the end of the training pool.
        features: Makes the features that it looks at, which must not be those that the lineage is
            measured in; None: the samples themselves.
    """

    looks: ClassVar[bool] = False
    """Whether features decide what is kept."""
    sees: ClassVar[bool] = True
    """Whether it asks for features. If not, and if it has no real samples either, none are made:
    without an extractor those of pictures take four times what pictures do."""
    needs_real: ClassVar[bool] = False
    """Whether it cannot work without real samples of its own."""

    def __init__(
        self, candidates: float = 1.0, n_real: int = 0, features: FeatureExtractor | None = None
    ) -> None:
        check_within("[1, 1000]", "e.g. 4", candidates=candidates)
        check_whole(0, "e.g. 200", n_real=n_real)
        if isinstance(candidates, bool) or isinstance(features, str):
            field = "candidates" if isinstance(candidates, bool) else "features"
            raise Refused(field, "it is none", "see `candidates: 4`, `features: Classifier`")
        if self.needs_real and n_real < 2:
            problem = f"{n_real}, and {type(self).__name__} has to know real samples"
            raise Refused("n_real", problem, "set some apart for it, e.g. `n_real: 200`")
        self.candidates, self.n_real, self.features = candidates, n_real, features

    def n_candidates(self, budget: int) -> int:
        """How many samples are drawn, of which so many are to be kept."""
        return math.ceil(self.candidates * budget)

    def check(self, spec: SampleSpec) -> None:
        """Refuses samples that it cannot work with.

        Raises:
            Refused: With one of its own parameters, or none.
        """

    @abstractmethod
    def __call__(self, drawn: Candidates) -> Treated | Tensor:
        """Treats candidates.

        Returns:
            What becomes of them; or the places that are kept, or which are (N,), or other values
            for all of them.
        """


class Own(Treatment):
    """A treatment that is one function of your own.

    Args:
        function: Called as ``function(samples, features, labels, address, budget)`` with the
            attributes of :class:`Candidates`; its result is that of a treatment. In YAML the name
            that it can be imported by, ``my_rules.keep_bright``.
        candidates: As of every treatment.
        n_real: Real samples that tell which candidates are right; the function never sees them.
        features: As of every treatment.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        candidates: float = 1.0,
        n_real: int = 0,
        features: FeatureExtractor | None = None,
    ) -> None:
        super().__init__(candidates, n_real, features)
        check_function(function, "samples", "features", "labels", "address", "budget")
        self.function = function

    def __call__(self, drawn: Candidates) -> Treated | Tensor:
        """What the function says."""
        given = (drawn.samples, drawn.features, drawn.labels, drawn.address, drawn.budget)
        said = self.function(*given)
        return said if isinstance(said, Treated) else as_tensor(said, _REMEDY)


def check_function(function: Any, *parameters: str) -> None:
    """Refuses what is no function of so many parameters, before it is called.

    Raises:
        Refused: With the field ``function``.
    """
    remedy = f"name a function of ({', '.join(parameters)}) that can be imported"
    if not callable(function):
        raise Refused("function", f"{function!r} cannot be called", remedy)
    try:
        signature(function).bind(*parameters)
    except TypeError as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise Refused("function", f"{name} takes something else: {error}", remedy) from None
    except ValueError:  # some that are built in do not tell what they take
        return


def as_tensor(said: Any, remedy: str) -> Tensor:
    """What a function of the user's own has returned, as a tensor.

    Raises:
        Refused: If it is none, with the remedy.
    """
    try:
        return torch.as_tensor(said)
    except (TypeError, ValueError, RuntimeError):
        raise Refused("", f"it returned a {type(said).__name__}", remedy) from None


def treated(said: Treated | Tensor, drawn: Candidates, spec: SampleSpec) -> Treated:
    """What a treatment has said, in full: places in the order drawn, values as they are stored.

    Raises:
        Refused: If it is no such thing, or keeps too few.
    """
    n, remedy = len(drawn), _REMEDY
    if isinstance(said, Tensor):
        if said.shape == drawn.samples.shape:
            said = Treated(values=said)
        elif said.ndim == 1 and said.dtype == torch.bool and len(said) == n:
            said = Treated(said.nonzero().flatten())
        else:
            said = Treated(said)
    places = torch.arange(n) if said.places is None else said.places.detach().cpu()
    places = places if places.numel() else places.long()
    if places.ndim != 1 or places.is_floating_point() or places.dtype == torch.bool:
        problem = f"it returned {places.dtype} of shape {tuple(places.shape)} for {n} candidates"
        raise Refused("", problem, remedy)
    places = places.long()
    if len(places) and not 0 <= int(places.min()) <= int(places.max()) < n:
        raise Refused("", f"it kept places outside 0 .. {n - 1}", remedy)
    if len(places) < drawn.budget:
        problem = f"it kept {len(places):,} of {n:,} candidates, {drawn.budget:,} are needed"
        raise Refused("candidates", problem, "draw more of them, or let it be less strict")
    order = places.argsort(stable=True)[: drawn.budget]
    values, weights = said.values, said.weights
    if values is not None:
        values = _stored(values, len(places), spec)[order]
    if weights is not None:
        weights = weights.detach().cpu().float()
        sound = weights.shape == (len(places),) and bool((weights >= 0.0).all())
        if not sound or not bool(weights.isfinite().all()) or not bool(weights.sum() > 0.0):
            problem = f"weights of shape {tuple(weights.shape)} for {len(places)} samples, or such "
            raise Refused("", problem + "as are negative or not finite", "return one each, above 0")
        weights = weights[order]
    return Treated(places[order], values, weights)


def _stored(values: Tensor, n: int, spec: SampleSpec) -> Tensor:
    """Values (n, ...) as they are stored."""
    values = values.detach().cpu()
    if values.shape != (n, *spec.shape):
        problem = f"it returned values of shape {tuple(values.shape)}, not {(n, *spec.shape)}"
        raise Refused("", problem, "return one of that shape for each sample")
    if values.is_floating_point():
        if not bool(values.isfinite().all()):
            raise Refused("", "it returned values that are not finite", "return finite ones")
        return to_stored(values, spec)
    if values.dtype != spec.dtype:
        problem = f"it returned values of {values.dtype}, samples are stored as {spec.dtype}"
        raise Refused("", problem, "return these, or floats; images of floats lie in [-1, 1]")
    return values


def check_whole(least: int, example: str, **numbers: int) -> None:
    """Refuses what is no whole number, or less than the least.

    Raises:
        Refused: With the field.
    """
    for field, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int):
            raise Refused(field, f"{number!r} is no whole number", f"choose one, {example}")
        check_within(f"[{least}, 1000000000]", example, **{field: number})


def by_class(labels: Tensor | None, budget: int, select: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Selects within each class, so that classes keep the shares that they were drawn in.

    Args:
        labels: Classes (N,) of the candidates; None: there is one.
        budget: How many to select in all.
        select: Called with the places of a class and how many to take: gives the chosen ones.

    Returns:
        The places that were chosen.
    """
    if labels is None:
        raise Refused("by_class", "samples have no classes", "leave it out")
    counts = labels.bincount()
    exact = counts.double() * budget / len(labels)
    shares = exact.floor().long()
    left = budget - int(shares.sum())
    shares[(exact - shares).argsort(descending=True, stable=True)[:left]] += 1
    chosen = [
        select((labels == k).nonzero().flatten(), int(share))
        for k, share in enumerate(shares.tolist())
        if share
    ]
    return torch.cat(chosen)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (N, M) between rows, float64; equal rows have exactly 0."""
    mode = "donot_use_mm_for_euclid_dist"
    parts = [torch.cdist(rows, y.double(), compute_mode=mode) for rows in x.double().split(_ROWS)]
    return torch.cat(parts) if parts else x.new_empty(0, len(y)).double()


def right(drawn: Candidates) -> Tensor | None:
    """Which candidates lie among the treatment's own real samples (N,); None if it has none.

    A candidate does whose distance to some real sample, of its class if there are classes, is at
    most that sample's distance to its fifth nearest: the manifold of improved precision
    (Kynkäänniemi et al., 2019), of samples that no metric sees.
    """
    if drawn.real is None or drawn.real_features is None:
        return None
    found = torch.zeros(len(drawn), dtype=torch.bool)
    classes = [None] if drawn.labels is None else drawn.labels.unique().tolist()
    for k in classes:
        mine = torch.arange(len(drawn)) if k is None else (drawn.labels == k).nonzero().flatten()
        real = drawn.real_features
        if k is not None and drawn.real.labels is not None:
            real = real[drawn.real.labels == k]
        if len(real) < 2:
            continue
        n = min(_K, len(real) - 1) + 1  # each is its own nearest
        radius = distances(real, real).topk(n, dim=1, largest=False).values.amax(dim=1)
        found[mine] = (distances(drawn.features[mine], real) <= radius).any(dim=1)
    return found
