"""Watermarks in a loop: closed forms against their recursions, and against lineages."""

import math

import numpy as np
import pytest
from plain_lineages import hits

from mad_lightning import FreshData, FullySynthetic
from mad_lightning.refusal import Refused
from mad_lightning.theory import Categorical, Normal, follow
from mad_lightning.theory.marks import (
    added_mark,
    added_mark_limit,
    green_odds,
    green_share,
    green_share_limit,
)


@pytest.mark.parametrize(("q", "marks"), [(0.5, (0.15, 0.29, 0.30)), (0.9, (0.27, 1.11, 2.59))])
def test_an_added_mark_ends_at_a_q_over_1_minus_q(q, marks):
    told = [added_mark(k, 0.3, q) for k in (1, 5, 30)]
    assert told == pytest.approx(marks, abs=0.005)
    assert added_mark(2000, 0.3, q) == pytest.approx(0.3 * q / (1 - q))
    assert added_mark_limit(0.3, q) == pytest.approx(0.3 * q / (1 - q))


def test_without_fresh_data_a_mark_grows_for_ever_and_one_that_is_not_renewed_fades():
    assert [added_mark(k, 0.3) for k in (0, 1, 5, 30)] == pytest.approx([0, 0.3, 1.5, 9.0])
    assert added_mark_limit(0.3, 1.0) == math.inf
    assert added_mark_limit(0.0, 1.0) == 0.0
    faded = [added_mark(k, 0.3, 0.9, once=True) for k in (1, 5, 30)]
    assert faded == pytest.approx([0.27, 0.177, 0.0127], abs=5e-4)


@pytest.mark.parametrize(
    ("marked", "n_fresh"), [("every", 50), ("every", 10), ("every", 0), ("once", 10)]
)
def test_lineages_learn_what_the_closed_form_says(marked, n_fresh):
    n, mark, generations = 100, -0.3, 16
    policy = FreshData(n, n_fresh, n - n_fresh) if n_fresh else FullySynthetic(n)
    told = follow(Normal(mark=mark, marked=marked), policy, generations, lineages=1000)
    for t in (2, 7, 16):
        value = added_mark(t - 1, mark, 1 - n_fresh / n, once=marked == "once")
        assert hits(told["mean"][:, t - 1], value)


def test_unmarked_samples_carry_nothing():
    told = follow(Normal(mark=5.0, marked="never"), FullySynthetic(50), 5, lineages=500)
    assert hits(told["mean"][:, -1], 0.0)


@pytest.mark.parametrize(("delta", "green"), [(0.5, 0.55), (-1.0, 0.5), (2.0, 0.1)])
def test_odds_of_green_words_multiply_by_e_to_the_delta(delta, green):
    family = Categorical(types=60, zipf=0.7, green=green, delta=delta)
    share = family.truth[family.listed].sum()
    told = follow(family, FullySynthetic(10**7), 7, lineages=50)
    for t in (1, 4, 7):
        odds = green_odds(t - 1, delta, share / (1 - share))
        learned = told["green_log_odds"][:, t - 1].mean()
        assert learned == pytest.approx(math.log(odds), abs=0.01)
        learned = green_share(t - 1, delta, share)
        assert learned / (1 - learned) == pytest.approx(odds)


def test_a_green_list_of_the_field_study():
    assert green_odds(6, 0.5, 1.23) == pytest.approx(24.7, abs=0.1)


@pytest.mark.parametrize("delta", [-2.0, 0.3, 2.0])
@pytest.mark.parametrize("q", [0.3, 0.9])
def test_with_fresh_data_the_share_of_green_words_settles(delta, q):
    settled = green_share(10_000, delta, 0.3, q)
    assert green_share_limit(delta, 0.3, q) == pytest.approx(settled)
    family = Categorical(types=30, green=0.3, delta=delta)
    share = float(family.truth[family.listed].sum())
    fresh = round(10**6 * (1 - q))
    told = follow(family, FreshData(10**6, fresh, 10**6 - fresh), 80, lineages=20)
    learned = 1 / (1 + np.exp(-told["green_log_odds"]))
    assert learned[:, -1].mean() == pytest.approx(green_share(79, delta, share, q), abs=1e-3)


def test_what_has_no_fresh_data_or_no_list_ends_where_it_must():
    assert green_share_limit(1.0, 0.3, 1.0) == pytest.approx(1.0)
    assert green_share_limit(-1.0, 0.3, 1.0) == pytest.approx(0.0)
    assert green_share_limit(0.0, 0.3, 0.5) == 0.3
    assert green_share_limit(1.0, 0.0, 0.5) == 0.0


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: added_mark(-1, 0.3), "rounds"),
        (lambda: added_mark(1.5, 0.3), "rounds"),
        (lambda: added_mark(1, math.nan), "mark"),
        (lambda: added_mark(1, 0.3, 1.1), "synthetic_share"),
        (lambda: added_mark_limit(0.3, "all"), "synthetic_share"),
        (lambda: green_odds(1, 0.5, -1.0), "odds"),
        (lambda: green_share(1, 0.5, np.nan), "share"),
        (lambda: green_share_limit(True, 0.5, 0.5), "delta"),
    ],
)
def test_what_cannot_be_is_refused(call, field):
    with pytest.raises(Refused) as caught:
        call()
    assert caught.value.field == field
