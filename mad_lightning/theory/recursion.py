r"""What any loop does to a mean, exactly: expectations of its first two moments, for any policy.

Many families learn an average and nothing else: the mean of a normal law, the share of a word, the
rate of a Poisson law, the points of a kernel density, the slope of a line. Whatever policy feeds
them, the average that generation t learns is a weighted sum of averages of segments, and the
average of a segment of n samples is that of the law it came from, plus chance of variance
:math:`V_s / n`, independent of all before. So all first moments and all products follow from one
step, *a linear combination of what is there, plus noise of known variance*:

.. math:: X = \sum_i a_i X_i + \varepsilon, \qquad
    E\,X X_j = \sum_i a_i E\,X_i X_j, \qquad E\,X^2 = \sum_{ij} a_i a_j E\,X_i X_j + E V_s / n.

What a family adds is how the variance of its law hangs on what it learned (:data:`Spread`). Where
that is at most quadratic in the learned mean and linear in the variance of the training samples,
the expectation is exact: in the normal law, in kernel densities, and in the exponential families
whose variance is a quadratic of their mean (Morris, 1982): Bernoulli, Poisson, gamma and the rest.

References:
    | Natural exponential families with quadratic variance functions (Morris, 1982),
    | https://doi.org/10.1214/aos/1176345690
    | Lost in Retraining (Jangjoo et al., 2026), https://arxiv.org/abs/2506.20623: why the averages
    | of exponential families are martingales, and what one real sample does about it
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mad_lightning.policies import LoopPolicy
from mad_lightning.theory.families import weights_of
from mad_lightning.theory.segments import segments

__all__ = ["Expected", "Prior", "Seen", "Spread", "expected_moments", "variance_factor"]

Array = NDArray[np.float64]
_ONE = "1"


class Seen(NamedTuple):
    """What a generation sees of its training samples, in expectation.

    Attributes:
        n: How many, a prior's among them.
        mean: Their mean, E m.
        square: Its square, E m².
        variance: Their variance around it, divided by n.
    """

    n: float
    mean: float
    square: float
    variance: float


Spread = Callable[[Seen], float]
"""The expected variance of the law that a generation learns from what it sees."""


class Prior(NamedTuple):
    """Samples that were never drawn: every generation learns them as well.

    Attributes:
        strength: How many samples it is worth; 0 is no prior.
        mean: Their mean.
        variance: Their variance.
    """

    strength: float = 0.0
    mean: float = 0.0
    variance: float = 1.0


NO_PRIOR = Prior()


class Expected(NamedTuple):
    """Expectations for generations 1 to T, each with shape (T,).

    Attributes:
        mean: E μ_t of the mean that was learned.
        square: E μ_t².
        variance: E of the variance of the law that was learned.
    """

    mean: Array
    square: Array
    variance: Array


class _Variables:
    """Random variables by name, and the expectations of all their products.

    The first variable is the number 1, so that its products are the means.
    """

    def __init__(self) -> None:
        self.names: list[Hashable] = [_ONE]
        self.products = np.ones((1, 1))

    def add(self, name: Hashable, weights: Mapping[Hashable, float], noise: float = 0.0) -> None:
        """A linear combination of others, and independent noise of a variance."""
        a = np.array([weights.get(other, 0.0) for other in self.names])
        row = a @ self.products
        self.names.append(name)
        self.products = np.pad(self.products, (0, 1))
        self.products[-1, :-1] = self.products[:-1, -1] = row
        self.products[-1, -1] = row @ a + noise

    def mean(self, name: Hashable) -> float:
        return float(self.products[0, self.names.index(name)])

    def square(self, name: Hashable) -> float:
        place = self.names.index(name)
        return float(self.products[place, place])

    def drop(self, names: set[Hashable]) -> None:
        """Forgets what nobody asks for any more."""
        places = [place for place, name in enumerate(self.names) if name not in names]
        self.names = [self.names[place] for place in places]
        self.products = self.products[np.ix_(places, places)]


def expected_moments(
    policy: LoopPolicy,
    generations: int,
    spread: Spread,
    *,
    mean: float = 0.0,
    variance: float = 1.0,
    sampling_bias: Callable[[int], float] = lambda generation: 1.0,
    prior: Prior = NO_PRIOR,
    shift: Callable[[int], float] = lambda generation: 0.0,
) -> Expected:
    """Exact expectations of what lineages learn, whatever the policy.

    Args:
        policy: The loop.
        generations: T.
        spread: How a family's variance hangs on what it sees.
        mean: Of the real law.
        variance: Of the real law.
        sampling_bias: λ by generation: what it draws has λ times the variance of the law.
        prior: What every generation learns beside its samples.
        shift: What is added to the samples that a generation draws, by generation: a mark.

    Returns:
        Expectations, in time of about T times the number of segments alive.
    """
    plan = segments(policy, generations)
    users: dict[int, list[tuple[int, float]]] = defaultdict(list)  # places in the plan, weights
    drawn_until: dict[int, int] = {}
    for place, segment in enumerate(plan):
        drawn_until[segment.source] = segment.uses[0]  # they come in that order
        for t, weight in segment.takes:
            users[t].append((place, weight))
    vary = _Variables()
    second: dict[Hashable, float] = {}  # E of a segment's mean squared sample
    spreads = {0: variance}
    found = np.empty((3, generations))
    for t in range(1, generations + 1):
        for place in dict(users[t]):
            source, count = plan[place].source, plan[place].count
            if plan[place].uses[0] == t:
                add: dict[Hashable, float] = {_ONE: shift(source) if source else mean}
                if source:
                    add["law", source] = 1.0
                noise = spreads[source] * (sampling_bias(source) if source else 1.0)
                vary.add(place, add, noise / count)
                second[place] = vary.square(place) + noise * (1 - 1 / count)
        counts = weights_of([(plan[place].count, weight) for place, weight in users[t]])
        shares: dict[Hashable, float] = defaultdict(float)
        for (place, _), weight in zip(users[t], counts, strict=True):
            shares[place] += plan[place].count * weight
        n = sum(shares.values()) + prior.strength
        shares = {place: share / n for place, share in shares.items()}
        virtual = prior.strength / n
        vary.add(("law", t), {**shares, _ONE: virtual * prior.mean})
        mu, square = vary.mean(("law", t)), vary.square(("law", t))
        squares = sum(share * second[place] for place, share in shares.items())
        squares += virtual * (prior.mean**2 + prior.variance)
        spreads[t] = spread(Seen(n, mu, square, squares - square))
        found[:, t - 1] = mu, square, spreads[t]
        done: set[Hashable] = {place for place, _ in users[t] if plan[place].uses[-1] == t}
        laws = {("law", s) for s in range(1, t + 1) if drawn_until.get(s, 0) <= t}
        vary.drop(done | laws)
    return Expected(*found)


def variance_factor(policy: LoopPolicy, generations: int) -> Array:
    r"""What a loop leaves of the diversity of any categorical law, exactly, by generation.

    .. math:: E H_t = c_t H_0, \qquad H = 1 - \sum_k p_k^2

    The share of each word is a Bernoulli mean, and what happens to the variance p (1 - p) of it is
    a factor that does not depend on p. In the fully synthetic loop it is
    :math:`c_t = (1 - 1/n)^t`, the law of Wright and Fisher.

    Args:
        policy: The loop, whose samples are words, n a generation.
        generations: T.

    Returns:
        Factors c_1 ... c_T, with shape (T,).
    """
    coin = expected_moments(
        policy, generations, lambda seen: seen.mean - seen.square, mean=0.5, variance=0.25
    )
    return coin.variance / 0.25
