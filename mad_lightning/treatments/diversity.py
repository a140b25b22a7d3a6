"""Selection for diversity: samples that lie far from each other.

Loops lose the rare first. Whoever keeps the samples that are farthest apart keeps the rims of what
was drawn, at a price in fidelity. *k-centre* takes the one farthest from all that were taken, again
and again (Gonzalez, 1985): no sample is then farther from a taken one than twice the least that is
possible. *Threshold decay* takes what is farther than a threshold from all that were taken, which
falls until enough are; distances to the nearest one are what an estimate of entropy is made of
(Kozachenko and Leonenko), which is what it raises (Shi et al., 2025, "A Closer Look at Model
Collapse").

Each sample that is taken costs a pass over all candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mad_lightning.metrics.features.base import FeatureExtractor
from mad_lightning.refusal import Refused, check_within
from mad_lightning.samples import SampleSpec
from mad_lightning.treatments.base import Candidates, Treatment, by_class

__all__ = ["Diverse", "Entropy"]


class Diverse(Treatment):
    """Greedy k-centre, beginning with the candidate nearest to the mean.

    Args:
        candidates: How many are drawn for each that is kept.
        n_real: Real samples that tell which candidates are right; 0: nobody asks.
        features: As of every treatment.
        by_class: Whether each class is spread by itself, in the shares in which classes were drawn.
    """

    looks = True

    def __init__(
        self,
        candidates: float = 4.0,
        n_real: int = 0,
        features: FeatureExtractor | None = None,
        by_class: bool = False,
    ) -> None:
        super().__init__(candidates, n_real, features)
        self.by_class = by_class

    def check(self, spec: SampleSpec) -> None:
        """Refuses to part classes where there are none."""
        if self.by_class and spec.classes is None:
            raise Refused("by_class", "samples have no classes", "leave it out")

    def __call__(self, drawn: Candidates) -> Tensor:
        """Places (budget,)."""
        x = drawn.features.double()

        def spread(places: Tensor, n: int) -> Tensor:
            return places[self._spread(x[places], n)]

        if self.by_class:
            return by_class(drawn.labels, drawn.budget, spread)
        return self._spread(x, drawn.budget)

    def _spread(self, x: Tensor, n: int) -> Tensor:
        taken = torch.empty(n, dtype=torch.int64)
        nearest = torch.full((len(x),), torch.inf, dtype=torch.float64)
        place = int(_off(x, x.mean(dim=0)).argmin())
        for i in range(n):
            taken[i] = place
            nearest = torch.minimum(nearest, _off(x, x[place]))
            nearest[place] = -1.0  # also where others are the same
            place = int(nearest.argmax())
        return taken


class Entropy(Diverse):
    """Threshold decay: what is farther than a threshold from all that were taken, in turn.

    The threshold begins at the largest distance from the mean.

    Args:
        decay: What it is multiplied by after each pass, in (0, 1).
        candidates: How many are drawn for each that is kept.
        n_real: Real samples that tell which candidates are right; 0: nobody asks.
        features: As of every treatment.
        by_class: Whether each class is spread by itself, in the shares in which classes were drawn.
    """

    def __init__(
        self,
        decay: float = 0.9,
        candidates: float = 4.0,
        n_real: int = 0,
        features: FeatureExtractor | None = None,
        by_class: bool = False,
    ) -> None:
        super().__init__(candidates, n_real, features, by_class)
        check_within("(0, 1)", "e.g. 0.9", decay=decay)
        if decay > 0.999:
            raise Refused("decay", f"{decay}: thousands of passes", "choose at most 0.999")
        self.decay = decay

    def _spread(self, x: Tensor, n: int) -> Tensor:
        taken = list[int]()
        nearest = torch.full((len(x),), torch.inf, dtype=torch.float64)
        threshold = float(_off(x, x.mean(dim=0)).max().sqrt())
        least = 1e-9 * threshold
        while len(taken) < n:
            place = -1
            while len(taken) < n:
                later = (nearest[place + 1 :] > threshold**2).nonzero()
                if not len(later):
                    break
                place += 1 + int(later[0])
                taken.append(place)
                nearest = torch.minimum(nearest, _off(x, x[place]))
                nearest[place] = -1.0
            threshold = threshold * self.decay if threshold > least else -0.0
            if threshold <= 0.0:  # the rest are copies
                rest = (nearest >= 0.0).nonzero().flatten().tolist()
                taken += rest[: n - len(taken)]
        return torch.tensor(taken)


def _off(x: Tensor, point: Tensor) -> Tensor:
    """Squared distances (N,) from a point."""
    return (x - point).square().sum(dim=1)
