"""The share that is needed lies between two, and the interval holds it."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from mad_lightning.policies import FreshData
from mad_lightning.refusal import Refused
from mad_lightning.theory.lineages import Setting, simulate
from mad_lightning.verdict import Excess, border
from mad_lightning.verdict.intervals import level_of_look

SHARES = (0.1, 0.25, 0.5, 0.75)
SEEDS = (3, 8)


def seeds(values, first=0):
    return dict(enumerate(values, first))


def around(mean, spread=0.01, n=4):
    return seeds(mean + spread * np.linspace(-1, 1, n))


def arms(curve, spread=0.001, shares=SHARES):
    return [Excess(p, around(curve(p), spread)) for p in shares]


# --- what is shown --------------------------------------------------------------------------------


def test_the_border_lies_between_shares_that_are_shown():
    known = border(arms(lambda p: 1 / p - 3))
    assert known.states == {0.1: "too little", 0.25: "too little", 0.5: "enough", 0.75: "enough"}
    assert 0.25 <= known.low < 1 / 3 < known.high < 0.5
    assert known.low < known.estimate < known.high
    assert known.convex


def test_a_straight_line_is_bounded_where_it_crosses():
    known = border(arms(lambda p: 0.4 - p, spread=1e-6))
    assert (known.low, known.estimate, known.high) == pytest.approx((0.4, 0.4, 0.4), abs=0.006)


def test_where_convexity_is_contradicted_only_tried_shares_bound():
    def steep(p):
        return 1.0 if p < 0.3 else -1.0 + 0.9 * (p < 0.6)

    known = border([Excess(p, around(steep(p))) for p in (0.1, 0.2, 0.25, 0.5, 0.75)])
    assert not known.convex
    assert (known.low, known.high) == (0.25, 0.5)


@pytest.mark.parametrize(
    ("curve", "low", "high"),
    [
        (lambda p: -1.0 - p, 0.0, 0.1),  # all are enough
        (lambda p: 2.0 - p, 0.75, math.inf),  # none is
    ],
)
def test_a_border_beyond_what_was_tried_is_said_so(curve, low, high):
    known = border(arms(curve))
    assert (known.low, known.high) == (low, high)
    assert known.estimate in (0.0, math.inf) or low <= known.estimate <= high


def test_few_seeds_show_nothing_and_say_how_many_would():
    wide = border([Excess(p, around(0.4 - p, 0.3, 3)) for p in SHARES])
    assert (wide.low, wide.high) == (0.0, math.inf)
    assert set(wide.states.values()) == {"undecided"}
    for p in SHARES:
        n = wide.seeds_needed[p]
        assert n > 3
        n += n % 2
        away = 0.3 * ((n - 1) / n) ** 0.5  # so that the standard deviation is 0.3, as it was
        more = np.resize([0.4 - p - away, 0.4 - p + away], n)
        assert border([Excess(p, seeds(more))]).states[p] != "undecided"
    one = border([Excess(p, {0: 0.4 - p}) for p in SHARES])
    assert (one.low, one.high, one.estimate) == (0.0, math.inf, pytest.approx(0.4))
    assert set(one.seeds_needed.values()) == {None}


def test_a_reference_that_all_seeds_share_widens_the_interval():
    alone = border(arms(lambda p: 0.4 - p))
    beside = border([Excess(p, around(0.4 - p, 0.001), error=0.05) for p in SHARES])
    assert beside.low < alone.low < alone.high < beside.high
    assert border([Excess(p, around(0.4 - p, 0.001), error=9.0) for p in SHARES]).high == math.inf


def test_seeds_that_shares_have_in_common_are_compared_one_by_one():
    """What a seed brings into all its shares does not blur where they cross."""
    rng = np.random.default_rng(0)
    level = 0.05 * rng.standard_normal(6)
    told = [Excess(p, seeds(0.4 - p + w * level)) for p, w in ((0.3, 1.0), (0.5, -1.0))]
    apart = [told[0], Excess(0.5, seeds(told[1].values, first=10))]
    assert border(told).high < border(apart).high < 0.5


def test_means_that_rise_are_pooled():
    told = [(0.1, 1.0), (0.2, -0.5), (0.3, 0.5), (0.4, -2.0)]  # the middle two are 0 together
    known = border([Excess(p, around(mean, 5.0)) for p, mean in told])
    assert known.estimate == pytest.approx(0.2)


@pytest.mark.parametrize(
    "tried",
    [[], [Excess(0.1, {})], [Excess(0.1, {0: math.nan})], [Excess(2.0, {0: 1.0})],
     [Excess(0.1, {0: 1.0}), Excess(0.1, {1: 1.0})]],
)  # fmt: skip
def test_what_is_no_question_is_refused(tried):
    with pytest.raises(Refused):
        border(tried)


# --- several looks --------------------------------------------------------------------------------


@pytest.mark.parametrize("looks", [(3, 4, 5, 6, 7, 8), (3, 5, 8), (3, 4)])
def test_all_looks_together_err_as_rarely_as_one(looks):
    """By scipy's test of a mean, on seeds of its own; most is spent on the last look."""
    seeds = np.random.default_rng(7).standard_normal((40_000, max(looks)))
    told = np.zeros(len(seeds), dtype=bool)
    levels = [level_of_look(0.05, looks, n) for n in looks]
    for n, level in zip(looks, levels, strict=True):
        told |= ttest_1samp(seeds[:, :n], 0.0, axis=1, alternative="greater").pvalue <= level
    assert told.mean() == pytest.approx(0.05, abs=0.004)
    assert levels == sorted(levels)
    assert levels[-1] > 0.6 * 0.05


def test_one_look_has_the_level_itself_and_what_was_planned_bounds_the_others():
    assert level_of_look(0.05, (5,), 5) == level_of_look(0.05, (), 3) == 0.05
    looks = (3, 4, 5)
    assert level_of_look(0.05, looks, 9) == level_of_look(0.05, looks, 5)
    assert level_of_look(0.05, looks, 2) < level_of_look(0.05, looks, 3)  # a seed was lost


# --- the truth is held ----------------------------------------------------------------------------


def losses(n, dim, bias, generations, shares, lineages, seed, margin):
    """By how much more than the margin squared W2 distances grew, (shares, lineages)."""
    loops = [Setting(FreshData(n, round(p * n), n - round(p * n)), bias, seed) for p in shares]
    w2 = simulate(loops, dim, generations, lineages).w2_squared.numpy()
    return w2[..., -1] - (1 + margin) * w2[..., 0], w2


def true_border(n, dim, bias, generations, margin):
    """Where the expected distance is the margin above generation 1's, by many lineages."""
    shares = np.linspace(0.1, 0.9, 9)
    _, w2 = losses(n, dim, bias, generations, shares, 12_000 // dim, 10**6, margin)
    excess = w2[..., -1].mean(1) - (1 + margin) * w2[..., 0].mean()
    fine = np.linspace(0.1, 0.9, 2000)
    curve = np.polyval(np.polyfit(shares, excess, 6), fine)
    return fine[np.argmax(curve < 0)]


def as_given(values, most, adaptive):
    """The border of seeds that are all there, or that are given while a share is undecided."""
    if not adaptive:
        return border([Excess(p, seeds(row[:most])) for p, row in zip(SHARES, values, strict=True)])
    looks, given = tuple(range(3, most + 1)), dict.fromkeys(SHARES, 3)
    while True:
        rows = zip(SHARES, values, strict=True)
        known = border([Excess(p, seeds(row[: given[p]])) for p, row in rows], looks=looks)
        open_ = [p for p in SHARES if known.states[p] == "undecided" and given[p] < most]
        if not open_:
            return known
        for p in open_:
            given[p] += 1


def held(n, dim, bias, generations, margin, most, adaptive, trials):
    """How often the interval held the border, how often it was too high and too low."""
    truth = true_border(n, dim, bias, generations, margin)
    values, _ = losses(n, dim, bias, generations, SHARES, trials * most, 1, margin)
    values = values.reshape(len(SHARES), trials, most)
    known = [as_given(values[:, trial], most, adaptive) for trial in range(trials)]
    return np.mean([each.low <= truth <= each.high for each in known]), known, truth


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_interval_holds_the_border_of_gaussian_loops(adaptive):
    share, known, truth = held(100, 20, 1.0, 6, 0.5, 5, adaptive, 40)
    assert share >= 0.95 - 3 * (0.95 * 0.05 / 40) ** 0.5
    assert np.median([each.estimate for each in known]) == pytest.approx(truth, abs=0.03)
    assert np.mean([math.isfinite(each.high) for each in known]) > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("most", SEEDS)
@pytest.mark.parametrize(
    ("n", "dim", "bias", "generations", "margin"),
    [
        (400, 20, 1.0, 12, 0.25),
        (100, 5, 1.0, 8, 0.25),
        (50, 2, 1.0, 6, 0.5),
        (50, 2, 0.9, 6, 0.5),
        (200, 50, 0.95, 10, 1.0),
        (30, 1, 1.0, 20, 1.0),
    ],
)
def test_the_interval_holds_the_border_whatever_the_loop(
    n, dim, bias, generations, margin, most, adaptive
):
    share, *_ = held(n, dim, bias, generations, margin, most, adaptive, 300)
    assert share >= 0.93
