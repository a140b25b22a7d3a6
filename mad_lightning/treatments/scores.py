"""What makes one sample better than another: a number a candidate, the higher the better.

A score must not be what the lineage is measured by, or the loop learns the measure. So scores know
nothing but the candidates and the treatment's own real samples, which are not the reference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from mad_lightning.identity import Described
from mad_lightning.refusal import Refused, check_within
from mad_lightning.samples import SampleSpec
from mad_lightning.treatments.base import (
    Candidates,
    as_tensor,
    check_function,
    check_whole,
    distances,
)

__all__ = ["Confidence", "Coordinate", "Nearness", "OwnScore", "Score", "scored"]


class Score(Described, ABC):
    """Abstract score."""

    needs_real: ClassVar[bool] = False
    """Whether it compares with real samples."""

    def check(self, spec: SampleSpec) -> None:
        """Refuses samples that it cannot tell apart.

        Raises:
            Refused: With one of its own parameters, or none.
        """

    @abstractmethod
    def __call__(self, drawn: Candidates) -> Tensor:
        """Scores (N,), the higher the better."""


def scored(score: Score, drawn: Candidates) -> Tensor:
    """Scores (N,), float64.

    Raises:
        Refused: If they are not one finite number a candidate.
    """
    scores = torch.as_tensor(score(drawn)).detach().cpu().double()
    if scores.shape != (len(drawn),) or not bool(scores.isfinite().all()):
        problem = f"it gave scores of shape {tuple(scores.shape)} for {len(drawn)} candidates, or "
        raise Refused("score", problem + "such as are not finite", "give one finite number each")
    return scores


class Nearness(Score):
    """Minus the mean distance to the nearest of the treatment's own real samples, of its class.

    Args:
        k: How many nearest ones.
    """

    needs_real = True

    def __init__(self, k: int = 5) -> None:
        check_whole(1, "e.g. 5", k=k)
        self.k = k

    def __call__(self, drawn: Candidates) -> Tensor:
        """Scores (N,)."""
        real, features = drawn.own
        apart = distances(drawn.features, features)
        if drawn.labels is not None and real.labels is not None:
            others = drawn.labels[:, None] != real.labels[None, :]
            apart = apart.masked_fill(others, apart.max() + 1.0)
        k = min(self.k, apart.shape[1])
        return -apart.topk(k, dim=1, largest=False).values.mean(dim=1)


class Confidence(Score):
    """How clearly a linear classifier takes a candidate for the class that was asked for.

    It is a ridge regression of the classes on the features of the treatment's own real samples,
    solved in closed form; the score is the output of the own class less the best of the others.

    Args:
        ridge: Weight of the penalty, in units of the features' mean square.
    """

    needs_real = True

    def __init__(self, ridge: float = 0.1) -> None:
        check_within("(0, 1000]", "e.g. 0.1", ridge=ridge)
        self.ridge = ridge

    def check(self, spec: SampleSpec) -> None:
        """Refuses samples without classes."""
        if spec.classes is None or spec.classes < 2:
            raise Refused("", "Confidence needs classes, samples have none", "take Nearness")

    def __call__(self, drawn: Candidates) -> Tensor:
        """Scores (N,)."""
        real, features = drawn.own
        assert drawn.labels is not None  # as checked
        assert real.labels is not None
        k = 1 + int(max(drawn.labels.max(), real.labels.max()))
        x = features.double()
        centre = x.mean(dim=0)
        x = x - centre
        penalty = self.ridge * float(x.square().sum()) / x.shape[1]
        gram = x.T @ x + penalty * torch.eye(x.shape[1], dtype=torch.float64)
        wanted = torch.nn.functional.one_hot(real.labels, k).double()
        shares = wanted.mean(dim=0)
        weights = torch.linalg.solve(gram, x.T @ (wanted - shares))
        outputs = (drawn.features.double() - centre) @ weights + shares
        own = outputs.gather(1, drawn.labels[:, None])
        others = outputs.scatter(1, drawn.labels[:, None], -torch.inf).max(dim=1).values
        return own[:, 0] - others


class Coordinate(Score):
    """One of the features, as it is: the reward of closed-form studies.

    Args:
        index: Which one, from 0.
        sign: 1: the larger the better; -1: the smaller.
    """

    def __init__(self, index: int = 0, sign: int = 1) -> None:
        check_whole(0, "e.g. 0", index=index)
        if sign not in (1, -1) or isinstance(sign, bool):
            raise Refused("sign", f"{sign!r}", "choose 1 or -1")
        self.index, self.sign = index, sign

    def __call__(self, drawn: Candidates) -> Tensor:
        """Scores (N,)."""
        if self.index >= (d := drawn.features.shape[1]):
            raise Refused("index", f"{self.index} of {d} features", f"choose 0 to {d - 1}")
        return self.sign * drawn.features[:, self.index].double()


class OwnScore(Score):
    """A score that is one function of your own.

    Args:
        function: Called as ``function(samples, features, labels)``; gives scores (N,).
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        check_function(function, "samples", "features", "labels")
        self.function = function

    def __call__(self, drawn: Candidates) -> Tensor:
        """Scores (N,)."""
        said = self.function(drawn.samples, drawn.features, drawn.labels)
        return as_tensor(said, "return one finite number for each sample")
