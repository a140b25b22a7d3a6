"""The verdict keeps its stated error rates on lineages whose truth is known."""

from collections import Counter

import numpy as np
import pytest
from scipy import stats
from truths import COLLAPSING, STABLE, gaussians, series, share, tolerated

from mad_lightning.refusal import Refused
from mad_lightning.verdict import verdict


def rates(lineages, **more):
    """Share of each answer: (trials, seeds, generations) -> {answer: share}."""
    counts = Counter(verdict(each, **more).answer for each in lineages)
    return {name: counts[name] / len(lineages) for name in ("MAD", "not MAD", "undecided")}


# error rates


@pytest.mark.parametrize("name", COLLAPSING)
@pytest.mark.parametrize(("seeds", "generations"), [(3, 6), (5, 20)])
def test_a_loop_without_real_data_is_never_called_safe(name, seeds, generations):
    rng = np.random.default_rng(0)
    lineages = gaussians(rng, 200, seeds, generations, **COLLAPSING[name])
    share_of = rates(lineages, memory=1.0)
    assert share_of["not MAD"] == 0.0
    assert share_of["MAD"] >= (0.8 if seeds == 3 else 0.98)
    assert rates(lineages)["not MAD"] == 0.0  # not knowing what comes in does no harm


@pytest.mark.parametrize("name", STABLE)
@pytest.mark.parametrize(("seeds", "generations"), [(3, 10), (5, 20)])
def test_a_loop_that_settles_is_rarely_called_mad(name, seeds, generations):
    rng = np.random.default_rng(1)
    loop = STABLE[name]
    lineages = gaussians(rng, 250, seeds, generations, **loop)
    assert rates(lineages, memory=share(loop))["MAD"] <= tolerated(250)


def test_a_settled_loop_is_called_so_where_its_noise_allows():
    rng = np.random.default_rng(2)
    loop = {"d": 10, "first": 200, "fresh": 20, "synthetic": 180, "bias": 0.8}
    lineages = gaussians(rng, 40, 5, 24, **loop)
    assert rates(lineages, memory=0.9)["not MAD"] >= 0.8
    assert rates(lineages)["not MAD"] == 0.0  # it rose first, and may have nothing left to lose


@pytest.mark.slow
@pytest.mark.parametrize("generations", [6, 10, 20, 40])
@pytest.mark.parametrize("name", [*COLLAPSING, *STABLE])
def test_the_stated_rates_over_a_thousand_trials(name, generations):
    rng = np.random.default_rng(generations)
    loop = {**COLLAPSING, **STABLE}[name]
    parts = [gaussians(rng, 100, 10, generations, **loop) for _ in range(10)]
    lineages = np.concatenate(parts)
    for seeds in (3, 5, 10):
        for memory in (share(loop), None):
            share_of = rates(lineages[:, :seeds], memory=memory)
            print(f"{name}, {generations} generations, {seeds} seeds, memory {memory}: {share_of}")
            wrong = "not MAD" if name in COLLAPSING else "MAD"
            assert share_of[wrong] <= tolerated(1000)


@pytest.mark.parametrize(
    ("kind", "spread"), [("normal", 0.05), ("normal", 0.5), ("heavy", 0.5), ("dependent", 0.2)]
)
@pytest.mark.parametrize(("seeds", "generations"), [(3, 6), (5, 10), (10, 40)])
def test_no_trend_is_rarely_mad_and_a_trend_at_the_margin_rarely_safe(
    seeds, generations, kind, spread
):
    rng = np.random.default_rng(3)
    shape = {"spread": spread, "kind": kind}
    flat = series(rng, 1000, seeds, generations, trend=np.ones(generations), **shape)
    for memory in (0.7, 1.0, None):
        assert rates(flat, memory=memory)["MAD"] <= tolerated(1000)
    half = 1.25 ** (np.arange(generations) / (generations - generations // 2))
    grown = series(rng, 1000, seeds, generations, trend=half, **shape)
    whole = 1.25 ** (np.arange(generations) / generations)
    for trend, memory in ((grown, 0.7), (grown, None), (grown * whole / half, 1.0)):
        assert rates(trend, memory=memory)["not MAD"] <= tolerated(1000)


@pytest.mark.parametrize("generations", [6, 12, 24])
@pytest.mark.parametrize("power", [1, 2])  # of a variance, of a bias
def test_a_relaxation_is_no_growth_however_short_the_lineage(generations, power):
    """With a memory of 0.9 the distance doubles again and again before it settles."""
    rng = np.random.default_rng(4)
    trend = (1 - 0.9 ** np.arange(1, generations + 1)) ** power
    lineages = trend * np.exp(0.03 * rng.standard_normal((1000, 5, generations)))
    assert rates(lineages, memory=0.9)["MAD"] <= tolerated(1000)
    late = lineages[:, :, generations // 2 :].mean((0, 1))
    assert late[-1] > 1.02 * late[0]  # though it does grow
    if generations == 12:  # who claims less memory sees growth
        assert rates(lineages, memory=0.5)["MAD"] > 0.5


@pytest.mark.parametrize(("memory", "longer"), [(0.9, 20), (0.7, 6), (0.8, 10)])
def test_growth_beside_real_data_takes_time_to_tell(memory, longer):
    rng = np.random.default_rng(16)
    d = (1.3 ** np.arange(30)) * (1 + 1e-3 * rng.standard_normal((5, 30)))
    assert verdict(d[:, :longer], memory=memory).answer == "MAD"
    if longer > 6:
        short = verdict(d[:, : longer - 1], memory=memory)
        assert short.answer == "undecided"
        assert f"within {longer} generations" in short.reason


def test_growth_beside_real_data_is_seen():
    rng = np.random.default_rng(5)
    trend = 1 - 0.5 * 0.5 ** np.arange(20) + 0.1 * np.arange(20)
    lineages = series(rng, 300, 5, 20, trend=trend, spread=0.1, level=0.1)
    assert rates(lineages, memory=0.5)["MAD"] > 0.95


def test_many_generations_are_no_substitute_for_seeds():
    """Each seed has a trend of its own, up or down; taken for independent, generations would tell
    the five of them apart from none at once."""
    rng = np.random.default_rng(6)
    own = 0.05 * rng.standard_normal((1000, 5, 1))
    lineages = np.exp(own * np.arange(40) + 0.01 * rng.standard_normal((1000, 5, 40)))
    share_of = rates(lineages, memory=1.0)
    assert share_of["MAD"] <= tolerated(1000)
    pooled = np.log(lineages).mean(1)
    naive = [stats.linregress(np.arange(40), each) for each in pooled]
    assert np.mean([fit.slope > 2 * fit.stderr for fit in naive]) > 0.4


# what a verdict says


def test_slope_and_growth_are_those_of_a_fit_and_of_student():
    rng = np.random.default_rng(7)
    d = np.exp(rng.standard_normal((4, 11)).cumsum(1) / 5)
    for memory, first in ((0.3, 6), (1.0, 1)):
        outcome = verdict(d, memory=memory, alpha=0.1)
        t = np.arange(first, 12)
        fits = np.array([np.polyfit(t, np.log(each[first - 1 :]), 1)[0] for each in d])
        low, high = stats.t.interval(0.8, 3, fits.mean(), stats.sem(fits))
        assert outcome.window == (first, 11)
        assert (outcome.slope.estimate, outcome.slope.low, outcome.slope.high) == pytest.approx(
            (fits.mean(), low, high)
        )
        growth = np.exp(len(t) * np.array([fits.mean(), low, high]))
        assert (outcome.growth.estimate, outcome.growth.low, outcome.growth.high) == pytest.approx(
            growth
        )
    dip = d.mean(0)[:6].argmin()
    heading = (np.sqrt(d[:, dip + 1 :]) - 0.3 * np.sqrt(d[:, dip:-1])) / 0.7
    late = heading[:, (10 - dip) // 3 :]
    pulls = np.array([np.polyfit(np.arange(late.shape[1]), each, 1)[0] for each in late])
    pull = verdict(d, memory=0.3).pull
    assert (pull.estimate, pull.low) == pytest.approx(
        (pulls.mean(), pulls.mean() - stats.t.ppf(0.95, 3) * stats.sem(pulls))
    )
    assert verdict(d, memory=1.0).pull is None


def test_neither_units_nor_the_order_of_seeds_matter():
    rng = np.random.default_rng(8)
    for trend in (0.0, 0.1, 0.3):
        d = np.exp(trend * np.arange(8) + 0.05 * rng.standard_normal((4, 8)))
        for memory in (0.5, 1.0, None):
            outcome = verdict(d, memory=memory)
            other = verdict(1e-3 * d[::-1], memory=memory)
            assert outcome.answer == other.answer
            assert outcome.slope.low == pytest.approx(other.slope.low)


def test_too_little_is_undecided_and_says_why():
    d = np.exp(np.arange(8.0) / 4) * np.array([[1.0], [1.1], [0.9]])
    d = d * (1 + 0.01 * np.sin(np.arange(24).reshape(3, 8)))
    assert verdict(d, memory=1.0).answer == "MAD"
    for memory in (0.5, 1.0, None):
        one = verdict(d[:1], memory=memory)
        assert one.answer == "undecided"
        assert "one seed" in one.reason
        assert one.slope.estimate == pytest.approx(0.25, abs=0.01)
        assert not np.isfinite(one.slope.low)
        copies = verdict(np.tile(d[:1], (5, 1)), memory=memory)
        assert copies.answer == "undecided"
        assert "copies" in copies.reason
    assert "5 generations" in verdict(d[:, :5], memory=0.5).reason
    assert verdict(d[:, :5], memory=1.0).answer == "MAD"
    assert "2 generations" in verdict(d[:, :2], memory=1.0).reason


def test_unbiased_estimates_may_be_negative():
    rng = np.random.default_rng(9)
    noise = 1e-3 * rng.standard_normal((5, 10))
    assert verdict(0.02 * np.arange(10) + noise, memory=1.0).answer == "MAD"
    assert verdict(0.05 - 0.06 * (np.arange(10) < 1) + noise, memory=0.3).answer == "not MAD"
    assert "about 0" in verdict(-abs(noise), memory=1.0).reason


def test_a_settled_collapse_is_no_success():
    """λ = 0.5: after ten generations nothing is left, and nothing moves."""
    d = gaussians(np.random.default_rng(10), 1, 5, 40, **COLLAPSING["bias 0.5"])[0]
    assert np.ptp(d[:, 20:], axis=1).max() < 0.01 * d[:, 20:].min()
    assert verdict(d, memory=1.0).answer == "MAD"
    outcome = verdict(d)
    assert outcome.answer == "undecided"
    assert "at home or far from it" in outcome.reason


def test_nor_is_one_that_comes_at_once():
    """A distance that is half as large again from generation 2 on, and then stays, has no slope."""
    rng = np.random.default_rng(11)
    d = np.where(np.arange(40) == 0, 1.0, 1.5) * np.exp(0.2 * rng.standard_normal((8, 40)))
    outcome = verdict(d, memory=1.0)
    assert outcome.growth.low < 1.0 < outcome.growth.high < 1.25
    assert outcome.answer == "undecided"
    assert verdict(d[:, 1:], memory=1.0).answer == "not MAD"


def test_growth_that_is_shown_but_small_is_no_madness_where_it_fades():
    rng = np.random.default_rng(17)
    d = (1 - 0.9 ** np.arange(1, 31)) * np.exp(0.01 * rng.standard_normal((10, 30)))
    outcome = verdict(d, memory=0.9)
    assert 1.0 < outcome.growth.low < outcome.growth.high < 1.25
    assert outcome.pull.low < 0.0
    assert outcome.answer == "not MAD"


@pytest.mark.parametrize(
    ("field", "values", "more"),
    [
        ("distance", np.ones(5), {}),
        ("distance", np.ones((0, 5)), {}),
        ("distance", np.array([[1.0, np.nan]]), {}),
        ("alpha", np.ones((3, 6)), {"alpha": 0.5}),
        ("margin", np.ones((3, 6)), {"margin": 0.0}),
        ("memory", np.ones((3, 6)), {"memory": 1.1}),
    ],
)
def test_what_is_no_lineage_is_refused(field, values, more):
    with pytest.raises(Refused) as caught:
        verdict(values, **more)
    assert caught.value.field == field
