r"""Two laws over words: single ones, and chains of them.

A learner that counts words and repeats them by their frequency is genetic drift: each generation
draws n with replacement (Wright and Fisher, 1931), a word that happens not to be drawn is gone for
ever, and the diversity :math:`H = 1 - \sum_k p_k^2` decays by a factor that nothing else of the law
can change,

.. math:: E H_t = (1 - 1/n)^t\,H_0.

A temperature does in a few generations what drift does in n: :math:`p_k^{1/\lambda}` sharpens for
λ < 1, to one word in the end, and flattens for λ > 1. A green list (Kirchenbauer et al., 2023)
multiplies the odds of its words by :math:`e^\delta` at every draw, and so does each generation that
learns from such text: they are :math:`e^{\delta t}` after t of them.

References:
    | Evolution in Mendelian populations (Wright, 1931), https://doi.org/10.1093/genetics/16.2.97
    | A watermark for large language models (Kirchenbauer et al., 2023),
    | https://arxiv.org/abs/2301.10226
    | Heat death of generative models in closed-loop learning (Marchi et al., 2024),
    | https://arxiv.org/abs/2404.02325: temperatures other than 1
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mad_lightning.policies import LoopPolicy
from mad_lightning.refusal import Refused
from mad_lightning.seeds import seed_for
from mad_lightning.theory.families import Array, Family, check_number, log
from mad_lightning.theory.limits import check_whole
from mad_lightning.theory.recursion import variance_factor

__all__ = ["Categorical", "Ngram"]


class _Counts(NamedTuple):
    """How often each word was seen (R, K)."""

    counts: Array


class _Shares(NamedTuple):
    """The probability of each word (R, K)."""

    shares: Array


class Categorical(Family):
    """Words by their frequency: a text of one-word sentences, a column of a table, class labels.

    The k-th most frequent of K words has a real probability of about 1 / k^zipf. λ > 0 is the
    temperature: words are drawn by p^(1/λ).

    Args:
        types: K, different words, at least 2.
        zipf: The exponent; 0 makes all words alike.
        green: The share of words on the green list, chosen once for all; 0 has no list.
        delta: δ, by which the logarithms of their odds grow when words are drawn.
    """

    measures = ("heterozygosity", "log_variance", "types", "entropy", "green_log_odds")
    biases = "(0, 10]"

    def __init__(
        self, types: int = 500, zipf: float = 1.0, green: float = 0.0, delta: float = 0.0
    ) -> None:
        check_whole("types", types, 2)
        if types > 10**6:
            raise Refused("types", f"{types}", "take at most a million words")
        check_number("zipf", zipf, "[0, 20]")
        check_number("green", green, "[0, 1)", "half of the words is usual")
        check_number("delta", delta, "[-20, 20]", "e.g. 2")
        self.types, self.zipf, self.green, self.delta = types, zipf, green, delta
        weights = np.arange(1, types + 1) ** -float(zipf)
        self.truth = weights / weights.sum()
        listed = np.random.default_rng(seed_for("green list", types)).permutation(types)
        self.listed = listed < round(green * types)

    def real(self, n: int, lineages: int, rng: np.random.Generator) -> _Counts:
        """Counts of n real words."""
        return _Counts(_multinomial(n, np.broadcast_to(self.truth, (lineages, self.types)), rng))

    def draw(
        self, law: _Shares, n: int, sampling_bias: float, t: int, rng: np.random.Generator
    ) -> _Counts:
        """Counts of n words, at a temperature, with a watermark."""
        odds = _tempered(law.shares, sampling_bias)
        if self.delta:
            odds = odds * np.where(self.listed, math.exp(self.delta), 1.0)
        return _Counts(_multinomial(n, odds / odds.sum(axis=1, keepdims=True), rng))

    def learn(self, seen: _Counts) -> _Shares:
        """Shares of all words seen."""
        return _Shares(seen.counts / seen.counts.sum(axis=1, keepdims=True))

    def measure(self, law: _Shares) -> dict[str, Array]:
        """``types`` that are left, ``entropy`` in bits; ``log_variance`` is log H.

        Which is the total variance of the words, each an axis. ``green_log_odds`` are those of
        words on the green list.
        """
        p = law.shares
        heterozygosity = 1 - np.square(p).sum(axis=1)
        heterozygosity[(p > 0).sum(axis=1) == 1] = 0.0  # not what rounding leaves
        green, red = (p[:, listed].sum(axis=1) for listed in (self.listed, ~self.listed))
        return {
            "heterozygosity": heterozygosity,
            "log_variance": log(heterozygosity),
            "types": (p > 0).sum(axis=1).astype(float),
            "entropy": -(p * np.log2(p, out=np.zeros_like(p), where=p > 0)).sum(axis=1),
            "green_log_odds": log(green) - log(red),
        }

    def expected(
        self, policy: LoopPolicy, generations: int, sampling_bias: float | str
    ) -> dict[str, Array]:
        """Heterozygosity without temperature and watermark."""
        if sampling_bias != 1.0 or self.delta:
            return {}
        factor = variance_factor(policy, generations)
        return {"heterozygosity": factor * (1 - float(np.square(self.truth).sum()))}


class _Chains(NamedTuple):
    """How often texts began with a context (R, C), and how often a word followed one (R, C, K)."""

    begun: Array
    followed: Array


class _Grammar(NamedTuple):
    """Probabilities of first contexts (R, C), next words (R, C, K) and all contexts (R, C)."""

    begun: Array
    followed: Array
    visited: Array


class Ngram(Family):
    """Texts of a fixed length, word by word, each by the words before it.

    The real language is a Markov chain whose rows are Dirichlet draws, the same for all. A sample
    is one text. λ > 0 is the temperature of every word: p^(1/λ). Where a context was seen at the
    ends of texts only, any word follows by its frequency.

    First contexts are categorical: their heterozygosity, ``first``, is the one quantity of this
    family that is known exactly.

    Args:
        order: A word hangs on the order - 1 before it; 2 makes bigrams.
        types: K, different words.
        length: Words of a text, more than the order.
        concentration: Of the Dirichlet law; small ones make every context prefer few words.
    """

    measures = ("heterozygosity", "log_variance", "ngrams", "entropy", "first")
    biases = "(0, 10]"

    def __init__(
        self, order: int = 2, types: int = 20, length: int = 20, concentration: float = 0.3
    ) -> None:
        check_whole("order", order, 2)
        check_whole("types", types, 2)
        check_whole("length", length, order)
        check_number("concentration", concentration, "(0, inf)")
        if order * math.log(types) > math.log(10**6):
            raise Refused("order", f"{types}^{order} n-grams", "take at most a million")
        self.order, self.types, self.length = order, types, length
        self.contexts = types ** (order - 1)
        rng = np.random.default_rng(seed_for("language", order, types))
        rows = rng.standard_gamma(concentration, (self.contexts, types)) + 1e-12
        self.truth = rows / rows.sum(axis=1, keepdims=True)
        self.beginning = _stationary(self.truth)

    def real(self, n: int, lineages: int, rng: np.random.Generator) -> _Chains:
        """Counts of n real texts, which begin as texts go on."""
        begun = np.broadcast_to(self.beginning, (lineages, self.contexts))
        return self._texts(
            n, begun, np.broadcast_to(self.truth, (lineages, *self.truth.shape)), rng
        )

    def draw(
        self, law: _Grammar, n: int, sampling_bias: float, t: int, rng: np.random.Generator
    ) -> _Chains:
        """Counts of n texts at a temperature; how they begin is drawn without."""
        odds = _tempered(law.followed, sampling_bias)
        return self._texts(n, law.begun, odds / odds.sum(axis=-1, keepdims=True), rng)

    def _texts(self, n: int, begun: Array, next_word: Array, rng: np.random.Generator) -> _Chains:
        """All n texts at once: how many stand at a context is all that the next word asks."""
        first = standing = _multinomial(n, begun, rng)
        followed = np.zeros(next_word.shape)
        for _ in range(self.length - self.order + 1):
            step = rng.multinomial(standing.astype(np.int64), next_word).astype(float)
            followed += step
            lineages = len(step)
            step = step.reshape(lineages, self.types, -1, self.types)  # oldest word, rest, next
            standing = step.sum(axis=1).reshape(lineages, self.contexts)
        return _Chains(first, followed)

    def learn(self, seen: _Chains) -> _Grammar:
        """Frequencies."""
        visits = seen.followed.sum(axis=-1)
        words = seen.followed.sum(axis=1, keepdims=True)
        rows = np.where(visits[..., None] > 0, seen.followed, words)
        return _Grammar(
            seen.begun / seen.begun.sum(axis=1, keepdims=True),
            rows / rows.sum(axis=-1, keepdims=True),
            visits / visits.sum(axis=1, keepdims=True),
        )

    def measure(self, law: _Grammar) -> dict[str, Array]:
        """Of the next word, over contexts as often as they occur.

        ``entropy`` in bits a word, ``ngrams`` that are left; ``first`` is the heterozygosity of how
        texts begin.
        """
        p = law.followed
        bits = -(p * np.log2(p, out=np.zeros_like(p), where=p > 0)).sum(axis=-1)
        several = (p > 0).sum(axis=-1) > 1
        diversity = np.where(several, 1 - np.square(p).sum(axis=-1), 0.0)
        heterozygosity = (law.visited * diversity).sum(axis=1)
        occurring = (p > 0) & (law.visited > 0)[..., None]
        return {
            "heterozygosity": heterozygosity,
            "log_variance": log(heterozygosity),
            "ngrams": occurring.sum(axis=(1, 2)).astype(float),
            "entropy": (law.visited * bits).sum(axis=1),
            "first": 1 - np.square(law.begun).sum(axis=1),
        }

    def expected(
        self, policy: LoopPolicy, generations: int, sampling_bias: float | str
    ) -> dict[str, Array]:
        """How texts begin."""
        start = 1 - float(np.square(self.beginning).sum())
        return {"first": variance_factor(policy, generations) * start}


def _multinomial(n: int, p: Array, rng: np.random.Generator) -> Array:
    return rng.multinomial(n, p).astype(float)


def _tempered(p: Array, temperature: float) -> Array:
    """Odds p^(1/λ), the largest 1."""
    if temperature == 1.0:
        return p
    largest = p.max(axis=-1, keepdims=True)
    return (p / largest) ** (1 / temperature)


def _stationary(rows: Array) -> Array:
    """How often each context occurs in a long text."""
    contexts, types = rows.shape
    share = np.full(contexts, 1 / contexts)
    for _ in range(1000):
        step = (share[:, None] * rows).reshape(types, -1, types)
        share = 0.5 * (share + step.sum(axis=0).reshape(contexts))
    return share / share.sum()
