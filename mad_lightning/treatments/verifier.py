"""Verification: by somebody with a bias, or by a detector whose error rates are known.

Samples that a verifier accepts are worth learning from as long as it keeps right ones often enough:
with a share p of wrong ones among the candidates, most of what is kept is right if and only if
p < 1 / (1 + ψ/φ) (Feng et al., 2024, "Beyond Model Collapse"). In the long run it is the verifier
that is learned: a loop that only eats what a biased one accepts ends at the verifier's own centre
(Yi et al., 2025).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mad_lightning.metrics.features.base import FeatureExtractor
from mad_lightning.refusal import check_within
from mad_lightning.seeds import sample_seeds, uniform
from mad_lightning.treatments.base import Candidates, Treatment, right

__all__ = ["Detector", "Verified"]


class Verified(Treatment):
    """Keeps what a verifier accepts, which is trained on real samples of its own.

    It knows the centre of its real samples (of each class, if there are classes) and how widely
    they scatter along each feature, and accepts what lies within ``radius`` of the centre. Its
    bias displaces that centre. As many are kept as are needed, the first ones that pass.

    Args:
        n_real: Real samples that it is trained on.
        radius: Root mean square, over all features, of how many standard deviations a sample may
            lie off; real samples have about 1.
        bias: How many standard deviations its centre lies off along every feature.
        candidates: How many are drawn for each that is kept; it must not accept a smaller share.
        features: As of every treatment.
    """

    looks = True
    needs_real = True

    def __init__(
        self,
        n_real: int,
        radius: float = 1.0,
        bias: float = 0.0,
        candidates: float = 4.0,
        features: FeatureExtractor | None = None,
    ) -> None:
        super().__init__(candidates, n_real, features)
        check_within("(0, 1000]", "e.g. 1", radius=radius)
        check_within("[-1000, 1000]", "0 has none", bias=bias)
        self.radius, self.bias = radius, bias

    def __call__(self, drawn: Candidates) -> Tensor:
        """Which are accepted (N,)."""
        return self.off(drawn) <= self.radius

    def off(self, drawn: Candidates) -> Tensor:
        """Root mean square of the standard deviations that candidates lie off its centre (N,)."""
        real, features = drawn.own
        x, mine = drawn.features.double(), features.double()
        own, asked = real.labels, drawn.labels
        if own is None or asked is None:
            own, asked = torch.zeros(len(mine)).long(), torch.zeros(len(x)).long()
        off = torch.full((len(x),), torch.inf, dtype=torch.float64)
        for k in asked.unique().tolist():
            known = mine[own == k]
            if len(known) < 2:
                continue  # it accepts nothing that it does not know
            scale = known.std(dim=0)
            scale = scale.clamp(min=1e-3 * float(scale.max()) or 1e-12)
            centre = known.mean(dim=0) + self.bias * scale
            rows = asked == k
            off[rows] = ((x[rows] - centre) / scale).square().mean(dim=1).sqrt()
        return off


class Detector(Treatment):
    """Keeps what a detector of wrong samples lets pass, whose error rates are given.

    It is no method but a question: how good would a detector have to be? It knows the truth, see
    :func:`~mad_lightning.treatments.base.right`, and errs as often as it is told, at random.

    Args:
        n_real: Real samples that tell which candidates are right.
        false_positives: Share of right candidates that it throws away, 1 - φ.
        false_negatives: Share of wrong candidates that it lets pass, ψ.
        candidates: How many are drawn for each that is kept.
        features: As of every treatment.
    """

    looks = True
    needs_real = True

    def __init__(
        self,
        n_real: int,
        false_positives: float = 0.05,
        false_negatives: float = 0.05,
        candidates: float = 4.0,
        features: FeatureExtractor | None = None,
    ) -> None:
        super().__init__(candidates, n_real, features)
        check_within("[0, 1]", "e.g. 0.05", false_positives=false_positives)
        check_within("[0, 1]", "e.g. 0.05", false_negatives=false_negatives)
        self.false_positives, self.false_negatives = false_positives, false_negatives

    def __call__(self, drawn: Candidates) -> Tensor:
        """Which pass (N,)."""
        true = right(drawn)
        assert true is not None  # it has real samples
        chance = torch.where(true, 1.0 - self.false_positives, self.false_negatives)
        return uniform(sample_seeds(0, len(drawn), *drawn.address), 1)[:, 0] < chance
