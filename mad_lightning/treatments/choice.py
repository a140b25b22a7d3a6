"""Choice by a score: the top share of all, or the best of K as people choose.

Who picks the best of what a model drew, and lets the next one learn that, optimises a reward that
nobody wrote down: the mean walks to where the score is highest and the variance falls (Ferbach et
al., 2024, "Self-Consuming Generative Models with Curated Data Provably Optimize Human
Preferences"). On Gaussians that is order statistics: the best of 4 standard normal draws has mean
1.029 and variance .492.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mad_lightning.metrics.features.base import FeatureExtractor
from mad_lightning.refusal import Refused, at, check_within
from mad_lightning.samples import SampleSpec
from mad_lightning.seeds import sample_seeds, uniform
from mad_lightning.treatments.base import Candidates, Treatment, by_class, check_whole
from mad_lightning.treatments.scores import Score, scored

__all__ = ["BestOf", "TopShare"]


class _ByScore(Treatment):
    """What has a score."""

    looks = True

    def __init__(
        self, score: Score, candidates: float, n_real: int, features: FeatureExtractor | None
    ) -> None:
        if not isinstance(score, Score):
            raise Refused("score", f"{score!r} is none", "take e.g. `score: Nearness`")
        super().__init__(candidates, n_real, features)
        if score.needs_real and n_real < 2:
            problem = f"{n_real}, and {type(score).__name__} compares with real samples"
            raise Refused("n_real", problem, "set some apart for it, e.g. `n_real: 200`")
        self.score = score

    def check(self, spec: SampleSpec) -> None:
        """Refuses samples that its score cannot tell apart."""
        with at("score"):
            self.score.check(spec)


class TopShare(_ByScore):
    """Keeps the candidates with the highest scores: with 4 candidates for each, the top quarter.

    Args:
        score: Of a candidate.
        candidates: How many are drawn for each that is kept.
        n_real: Real samples that the score compares with, and that tell which candidates are right.
        features: As of every treatment.
        by_class: Whether the best of each class are kept, in the shares in which classes were
            drawn; else the best of all, and classes that score low die out.
    """

    def __init__(
        self,
        score: Score,
        candidates: float = 4.0,
        n_real: int = 0,
        features: FeatureExtractor | None = None,
        by_class: bool = False,
    ) -> None:
        super().__init__(score, candidates, n_real, features)
        self.by_class = by_class

    def check(self, spec: SampleSpec) -> None:
        """Refuses samples that its score cannot tell apart."""
        super().check(spec)
        if self.by_class and spec.classes is None:
            raise Refused("by_class", "samples have no classes", "leave it out")

    def __call__(self, drawn: Candidates) -> Tensor:
        """Places (budget,); of equal scores the first ones."""
        scores = scored(self.score, drawn)

        def best(places: Tensor, n: int) -> Tensor:
            return places[scores[places].argsort(descending=True, stable=True)[:n]]

        if self.by_class:
            return by_class(drawn.labels, drawn.budget, best)
        return best(torch.arange(len(drawn)), drawn.budget)


class BestOf(_ByScore):
    """Keeps one of each K candidates: the best, or one as the Bradley-Terry model has it chosen.

    With a temperature τ candidate i is chosen with probability exp(s_i / τ) / sum_j exp(s_j / τ),
    the choice among K that extends Bradley and Terry's between two (Ferbach et al., 2024).

    Args:
        score: Of a candidate.
        k: How many candidates stand beside each other.
        temperature: τ, in units of the score; 0 takes the best.
        n_real: As of :class:`TopShare`.
        features: As of every treatment.
    """

    def __init__(
        self,
        score: Score,
        k: int = 4,
        temperature: float = 0.0,
        n_real: int = 0,
        features: FeatureExtractor | None = None,
    ) -> None:
        check_whole(1, "e.g. 4", k=k)
        check_within("[1, 1000]", "e.g. 4", k=k)
        check_within("[0, 1000000]", "e.g. 0.5", temperature=temperature)
        super().__init__(score, float(k), n_real, features)
        self.k, self.temperature = k, temperature

    def __call__(self, drawn: Candidates) -> Tensor:
        """Places (budget,): one of places 0 .. K-1, one of K .. 2K-1, and so on."""
        scores = scored(self.score, drawn)[: self.k * drawn.budget]
        if self.temperature > 0.0:  # the largest of noisy scores is such a choice (Gumbel)
            noise = uniform(sample_seeds(0, len(scores), *drawn.address), 1)[:, 0]
            scores = scores / self.temperature - (-noise.log()).log()
        groups = scores.view(drawn.budget, self.k)
        return groups.argmax(dim=1) + self.k * torch.arange(drawn.budget)
