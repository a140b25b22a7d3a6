r"""What becomes of a watermark in a loop that marks all it draws, exactly.

A mark that is added, :math:`x + a`, is learned: with a synthetic share q, a model that was trained
on marked samples for the k-th time holds

.. math:: m_k = a\,(q + q^2 + \dots + q^k) \;\to\; a\,\frac q{1 - q},

with nothing but its own samples k a, without end. Marked once, :math:`q^k a` is left. A green list
multiplies the odds of its words by :math:`e^\delta` at each draw: :math:`e^{\delta k}` times what
they really are, without fresh data. (Generation 1 is trained on real samples: generation t has been
trained on marked ones for k = t - 1 times.)

Both are seen in n samples by :math:`z = m \sqrt n / \sigma`, with m what the samples are off; those
that a model draws are marked once more than itself.

References:
    | A watermark for large language models (Kirchenbauer et al., 2023),
    | https://arxiv.org/abs/2301.10226
"""

from __future__ import annotations

import math

from mad_lightning.theory.families import check_number
from mad_lightning.theory.limits import check_whole

__all__ = ["added_mark", "added_mark_limit", "green_odds", "green_share", "green_share_limit"]


def added_mark(rounds: int, mark: float, synthetic_share: float = 1.0, once: bool = False) -> float:
    r"""What a model has learned of an added mark, in the mark's units.

    .. math:: a \sum_{i=1}^k q^i \quad\text{(all that is drawn is marked)}, \qquad
        a\,q^k \quad\text{(the first generation's samples alone)}

    Args:
        rounds: k, how often a generation was trained on samples of the one before; t - 1 for
            generation t.
        mark: a.
        synthetic_share: q in [0, 1], the same in each round; the rest is new and real.
        once: Whether only the first generation's samples are marked.

    Raises:
        Refused: If a number lies outside its range.
    """
    check_whole("rounds", rounds, 0)
    check_number("mark", mark, "(-inf, inf)")
    check_number("synthetic_share", synthetic_share, "[0, 1]")
    if once:
        return mark * synthetic_share**rounds if rounds else 0.0
    return mark * math.fsum(synthetic_share**i for i in range(1, rounds + 1))


def added_mark_limit(mark: float, synthetic_share: float) -> float:
    r"""Where :func:`added_mark` ends, :math:`a q / (1 - q)`; infinite without fresh data.

    Args:
        mark: a.
        synthetic_share: q in [0, 1].
    """
    check_number("mark", mark, "(-inf, inf)")
    check_number("synthetic_share", synthetic_share, "[0, 1]")
    if synthetic_share == 1.0:
        return math.copysign(math.inf, mark) if mark else 0.0
    return mark * synthetic_share / (1 - synthetic_share)


def green_odds(rounds: int, delta: float, odds: float = 1.0) -> float:
    r"""Odds of green words that a model has learned without fresh data, :math:`e^{\delta k} o`.

    Args:
        rounds: k, as in :func:`added_mark`.
        delta: δ.
        odds: o, of green words in the real text, at least 0.
    """
    check_whole("rounds", rounds, 0)
    check_number("delta", delta, "(-inf, inf)")
    check_number("odds", odds, "[0, inf)")
    return math.exp(delta * rounds) * odds


def green_share(rounds: int, delta: float, share: float, synthetic_share: float = 1.0) -> float:
    r"""The share of green words that a model has learned, with fresh data beside its own.

    .. math:: g_k = (1 - q)\,g_0 + q\,\frac{e^\delta g_{k-1}}{1 - g_{k-1} + e^\delta g_{k-1}}

    Exact for endless text; for n words, up to O(1/n).

    Args:
        rounds: k, as in :func:`added_mark`.
        delta: δ.
        share: g_0 in [0, 1], of green words in the real text.
        synthetic_share: q in [0, 1].
    """
    check_whole("rounds", rounds, 0)
    check_number("delta", delta, "[-700, 700]")
    check_number("share", share, "[0, 1]")
    check_number("synthetic_share", synthetic_share, "[0, 1]")
    learned = share
    for _ in range(rounds):
        learned = (1 - synthetic_share) * share + synthetic_share * _marked(learned, delta)
    return learned


def green_share_limit(delta: float, share: float, synthetic_share: float) -> float:
    r"""Where :func:`green_share` ends: the stable root of a quadratic.

    .. math:: (e^\delta - 1)\,g^2 + \left(1 - (e^\delta - 1)(1 - q)\,g_0 - q e^\delta\right) g
        - (1 - q)\,g_0 = 0

    Args:
        delta: δ.
        share: g_0 in [0, 1].
        synthetic_share: q in [0, 1].
    """
    check_number("delta", delta, "[-700, 700]")
    check_number("share", share, "[0, 1]")
    check_number("synthetic_share", synthetic_share, "[0, 1]")
    fresh = (1 - synthetic_share) * share
    if delta < 0:  # red words gain: the same with the colours exchanged
        return 1 - green_share_limit(-delta, 1 - share, synthetic_share)
    a = math.expm1(delta)
    b = 1 - a * fresh - synthetic_share * math.exp(delta)
    if a == 0.0:
        return share
    if fresh == 0.0 and (share == 0.0 or synthetic_share * math.exp(delta) <= 1.0):
        return 0.0
    return (-b + math.sqrt(b * b + 4 * a * fresh)) / (2 * a)


def _marked(share: float, delta: float) -> float:
    """The share of green words among those drawn."""
    odds = math.exp(delta)
    return odds * share / (1 - share + odds * share)
