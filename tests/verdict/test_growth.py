"""The verdict keeps its stated error rates on lineages whose truth is known."""

from collections import Counter
from math import sqrt

import numpy as np
import pytest
from scipy import stats
from truths import (
    COLLAPSING,
    FORMS,
    STABLE,
    gaussians,
    relaxing,
    relaxing_at_random,
    series,
    tolerated,
)

from mad_lightning.refusal import Refused
from mad_lightning.verdict import Floor, verdict

UNBIASED = Floor()


def rates(lineages, **more):
    """Share of each answer: (trials, seeds, generations) -> {answer: share}."""
    counts = Counter(verdict(lineage, **more).answer for lineage in lineages)
    return {name: counts[name] / len(lineages) for name in ("MAD", "settled", "undecided")}


# closed loops: nothing real comes in


@pytest.mark.parametrize("name", COLLAPSING)
@pytest.mark.parametrize(("seeds", "generations"), [(3, 6), (5, 20)])
def test_a_loop_without_real_data_is_never_called_settled(name, seeds, generations):
    rng = np.random.default_rng(0)
    lineages = gaussians(rng, 200, seeds, generations, **COLLAPSING[name])
    share_of = rates(lineages, closed=True, floor=UNBIASED)
    assert share_of["settled"] == 0.0
    assert share_of["MAD"] >= (0.8 if seeds == 3 else 0.98)


@pytest.mark.parametrize(
    ("kind", "spread"), [("normal", 0.05), ("normal", 0.5), ("heavy", 0.5), ("dependent", 0.2)]
)
@pytest.mark.parametrize(("seeds", "generations"), [(2, 4), (3, 6), (5, 10), (10, 40)])
def test_no_trend_is_rarely_mad(seeds, generations, kind, spread):
    rng = np.random.default_rng(3)
    flat = np.ones(generations)
    lineages = series(rng, 400, seeds, generations, trend=flat, spread=spread, kind=kind)
    for closed in (True, False):
        assert rates(lineages, closed=closed, floor=UNBIASED)["MAD"] <= tolerated(400)


@pytest.mark.parametrize("generations", [8, 20])
def test_seeds_that_oscillate_together_are_not_mad_once_a_period_was_seen(generations):
    rng = np.random.default_rng(4)
    swing = 1 + 0.4 * np.sin(np.arange(generations) * np.pi / 2)
    lineages = series(rng, 300, 5, generations, trend=swing, spread=0.03, level=0.05)
    for closed in (True, False):
        assert rates(lineages, closed=closed, floor=UNBIASED)["MAD"] <= tolerated(300)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "generations"), [(2, 3), (2, 6), (3, 4), (3, 6), (8, 6), (8, 20)]
)
@pytest.mark.parametrize("freedom", [1.5, 3.0])
@pytest.mark.parametrize("closed", [True, False])
def test_heavy_tails_and_few_seeds_keep_the_rate(closed, freedom, seeds, generations):
    rng, trials = np.random.default_rng(31), 1000
    noise = rng.standard_t(freedom, (trials, seeds, generations))
    flat = np.exp(0.1 * noise + 0.1 * rng.standard_normal((trials, seeds, 1)))
    answers = [verdict(d, closed=closed, floor=Floor()).answer for d in flat]
    assert answers.count("MAD") <= trials * tolerated(trials)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("period", "generations", "low", "high"),
    [(4, 4, 0.1, 0.45), (8, 6, 0.2, 0.45), (4, 6, 0, 0.01), (8, 10, 0, 0.01), (8, 20, 0, 0.01)],
)
def test_swings_of_all_seeds_are_told_from_growth_once_a_period_was_seen(
    period, generations, low, high
):
    rng, trials = np.random.default_rng(32), 1000
    phase = rng.uniform(0, 2 * np.pi, (trials, 1, 1))
    swing = 1 + 0.4 * np.sin(2 * np.pi * np.arange(generations) / period + phase)
    swings = swing * np.exp(0.03 * rng.standard_normal((trials, 3, generations)))
    answers = [verdict(d, closed=True, floor=Floor()).answer for d in swings]
    assert low * trials <= answers.count("MAD") <= high * trials


def test_a_swing_that_could_explain_a_rise_is_told_where_the_window_is_short():
    rng = np.random.default_rng(5)
    lineage = series(rng, 1, 3, 4, trend=np.array([1.0, 2, 3, 4]), spread=0.03, level=0.03)[0]
    outcome = verdict(lineage, closed=True, floor=UNBIASED)
    assert outcome.answer == "MAD"
    assert "a swing of all seeds would look the same" in outcome.reason


def test_a_collapse_that_stands_still_is_still_mad_and_said_to_stand():
    """λ = 0.5: after ten generations nothing is left, and nothing moves."""
    d = gaussians(np.random.default_rng(10), 1, 5, 40, **COLLAPSING["bias 0.5"])[0]
    assert np.ptp(d[:, 20:], axis=1).max() < 0.01 * d[:, 20:].min()
    outcome = verdict(d, closed=True, floor=UNBIASED)
    assert outcome.answer == "MAD"
    assert "no growth above 25% seen in generations 21 to 40" in outcome.reason
    assert verdict(d, floor=UNBIASED).answer != "MAD"  # something real might have stopped it


# open loops: something real comes in


@pytest.mark.parametrize("name", STABLE)
@pytest.mark.parametrize(("seeds", "generations"), [(3, 10), (5, 20)])
def test_gaussian_loops_with_real_data_are_rarely_called_mad(name, seeds, generations):
    rng = np.random.default_rng(1)
    lineages = gaussians(rng, 250, seeds, generations, **STABLE[name])
    assert rates(lineages, floor=UNBIASED)["MAD"] <= tolerated(250)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("memories", "sizes"), [([0.85], [10]), ([0.985], [200]), ([0.5, 0.98], [3, 100])]
)
@pytest.mark.parametrize(("seeds", "generations"), [(3, 6), (5, 20)])
def test_a_loop_that_settles_is_rarely_called_mad_whatever_its_memory(
    memories, sizes, form, seeds, generations
):
    rng = np.random.default_rng(2)
    trend = relaxing(generations, memories, sizes, form)
    lineages = series(rng, 200, seeds, generations, trend=trend, spread=0.05, level=0.05)
    for bias in (0.0, 4.5):  # a distance's own error cancels
        assert rates(lineages + bias)["MAD"] <= tolerated(200)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(60))
def test_settling_loops_at_random_keep_the_rates_over_a_thousand_trials(number):
    rng = np.random.default_rng(1000 + number)
    seeds, generations = rng.choice([2, 3, 5, 8]), rng.choice([6, 8, 10, 12, 15, 20, 30])
    trend, spread = relaxing_at_random(rng, generations), rng.uniform(0.01, 0.12)
    bias, level = rng.choice([0.0, 1.0, 5.0]), rng.uniform(0, 0.1)
    lineages = series(rng, 1000, seeds, generations, trend=trend, spread=spread, level=level)
    assert rates(lineages + bias)["MAD"] <= tolerated(1000)


@pytest.mark.parametrize("growth", [1.02, 1.05, 1.2])
@pytest.mark.parametrize(("seeds", "generations"), [(3, 12), (5, 20)])
@pytest.mark.parametrize("bias", [0.0, 4.5])
def test_a_loop_that_grows_is_rarely_called_settled(growth, seeds, generations, bias):
    rng = np.random.default_rng(6)
    trend = growth ** np.arange(generations)
    lineages = series(rng, 300, seeds, generations, trend=trend, spread=0.05, level=0.05)
    floor = Floor(bias, 0.1 * bias, 0.1 * bias)
    assert rates(lineages + bias, floor=floor)["settled"] <= tolerated(300)


def test_tenfold_growth_behind_a_bias_is_neither_settled_nor_without_growth():
    """A Fréchet distance at finite n reads 4.5 on real samples; ten times .1 is lost in that."""
    rng = np.random.default_rng(7)
    lineages = (4.5 + 0.1 * np.arange(1, 13)) * (1 + 0.03 * rng.standard_normal((300, 3, 12)))
    for floor in (None, Floor(4.5, 0.45, 0.0)):
        outcomes = [verdict(lineage, floor=floor) for lineage in lineages]
        wrong = sum(
            outcome.answer == "settled" or "no growth above" in outcome.reason
            for outcome in outcomes
        )
        assert wrong / len(outcomes) <= tolerated(300)
    assert "its bias was not measured" in verdict(lineages[0]).reason


@pytest.mark.parametrize(
    ("trend", "seeds", "options", "answer", "at_least"),
    [
        (1.2 ** np.arange(20), 3, {}, "MAD", 0.9),
        (1.3 ** np.arange(10), 5, {}, "MAD", 0.75),
        (np.ones(12), 3, {}, "settled", 0.8),
        (relaxing(20, [0.5], [9]), 5, {}, "settled", 0.9),
        # excesses of digits_diffusion_full_synth, seed noise 10 %
        (np.array([5.6, 12.1, 23.5, 35.4, 46.7, 60.0]), 3, {"closed": True}, "MAD", 0.99),
        (1.05 ** np.arange(10), 3, {"closed": True}, "MAD", 0.95),
    ],
)
def test_what_can_be_told_is_told(trend, seeds, options, answer, at_least):
    rng = np.random.default_rng(8)
    spread = 0.1 if len(trend) == 6 else 0.03
    lineages = series(rng, 300, seeds, len(trend), trend=trend, spread=spread, level=0.02)
    assert rates(lineages, floor=UNBIASED, **options)[answer] >= at_least


def test_many_generations_are_no_substitute_for_seeds():
    """Each seed has a trend of its own, up or down; taken for independent, generations would tell
    the five of them apart from none at once."""
    rng = np.random.default_rng(6)
    own = 0.05 * rng.standard_normal((1000, 5, 1))
    lineages = np.exp(own * np.arange(40) + 0.01 * rng.standard_normal((1000, 5, 40)))
    assert rates(lineages, closed=True)["MAD"] <= tolerated(1000)
    pooled = np.log(lineages).mean(1)
    naive = [stats.linregress(np.arange(40), curve) for curve in pooled]
    assert np.mean([fit.slope > 2 * fit.stderr for fit in naive]) > 0.4


# the numbers


def low(values, alpha=0.05):
    """Student's lower bound, by the textbook."""
    n = len(values)
    return np.mean(values) - stats.t.ppf(1 - alpha, n - 1) * np.std(values, ddof=1) / sqrt(n)


def by_definition(d):
    """MAD of an open loop, generation by generation as the docstring says it."""
    last = d.shape[1]
    half, third = last // 2, max(last // 3, 1)

    def slope(values, generations):
        return np.polyfit(generations, values, 1)[0]

    rise = [np.mean(np.log(row[-third:])) - np.log(row[0]) for row in d]
    mean = np.log(d).mean(0)
    fall = max(mean[i] - mean[j] for i in range(last) for j in range(i, last))
    later = range(half + 1, last + 1)
    tests = [low(rise) > max(fall, 0), low([slope(row[half:], later) for row in d]) > 0]
    before = max(half, 3)
    tests.append(low([row[before - 1] - row[1] for row in d]) > 0)
    for a in (2, last // 4 + 1):
        bends = []
        for row in d:
            root = {
                t: np.sign(row[t - 1] - row[a - 1]) * sqrt(abs(row[t - 1] - row[a - 1]))
                for t in range(1, last + 1)
            }
            window = range(max(half, a + 1) + 1, last + 1)
            bends.append(slope([root[t] - 0.99 * root[t - 1] for t in window], window))
        tests.append(low(bends) > 0)
    return all(tests)


def test_an_open_loops_mad_is_its_definition():
    rng = np.random.default_rng(9)
    answers = Counter()
    for generations in (6, 7, 9, 12, 20):
        for growth in (1.0, 1.3, 1.6):
            trend = growth ** np.arange(generations)
            for d in series(rng, 20, 4, generations, trend=trend, spread=0.02, level=0.1):
                expected = by_definition(d)
                assert (verdict(d, floor=UNBIASED).answer == "MAD") == expected
                answers[expected] += 1
    assert min(answers.values()) > 30


def test_rise_and_pace_are_those_of_a_fit_and_of_student():
    rng = np.random.default_rng(7)
    d = np.exp(rng.standard_normal((4, 11)).cumsum(1) / 5)
    outcome = verdict(d, floor=UNBIASED, alpha=0.1)
    t = np.arange(6, 12)
    fits = [np.polyfit(t, np.log(row[5:]), 1)[0] for row in d]
    assert outcome.window == (6, 11)
    assert (outcome.pace.estimate, outcome.pace.low) == pytest.approx(
        (np.mean(fits), low(fits, 0.1))
    )
    rises = np.log(d[:, -3:]).mean(1) - np.log(d[:, 0])
    assert (outcome.rise.estimate, outcome.rise.low) == pytest.approx(
        (np.exp(rises.mean()), np.exp(low(rises, 0.1)))
    )


def test_neither_units_nor_the_order_of_seeds_matter():
    rng = np.random.default_rng(8)
    for trend in (0.0, 0.1, 0.3):
        d = np.exp(trend * np.arange(12) + 0.05 * rng.standard_normal((4, 12)))
        for closed in (True, False):
            outcome = verdict(d, closed=closed, floor=UNBIASED)
            other = verdict(1e-3 * d[::-1], closed=closed, floor=UNBIASED)
            assert outcome.answer == other.answer
            assert outcome.rise.low == pytest.approx(other.rise.low)
            assert outcome.excess.low == pytest.approx(other.excess.low)


# what a verdict says


def test_too_little_is_undecided_and_says_why():
    d = np.exp(np.arange(8.0) / 4) * np.array([[1.0], [1.1], [0.9]])
    d = d * (1 + 0.01 * np.sin(np.arange(24).reshape(3, 8)))
    assert verdict(d, closed=True).answer == "MAD"
    for closed in (True, False):
        one = verdict(d[:1], closed=closed)
        assert one.answer == "undecided"
        assert one.reason.startswith("one lineage: it went from")
        assert "up in 7 of 7 steps" in one.reason
        assert one.pace.estimate == pytest.approx(0.25, abs=0.01)
        assert not np.isfinite(one.pace.low)
        copies = verdict(np.tile(d[:1], (5, 1)), closed=closed)
        assert copies.answer == "undecided"
        assert "copies" in copies.reason
        assert "2 generations" in verdict(d[:, :2], closed=closed).reason
    assert verdict(d[:, :5], closed=True).answer == "MAD"


def test_what_an_open_loop_showed_is_said():
    rng = np.random.default_rng(12)
    noise = 1 + 0.01 * rng.standard_normal((5, 8))
    grown = verdict((1 + np.arange(8)) * noise, floor=UNBIASED)
    assert grown.answer == "undecided"
    assert "and still grows in generations 5 to 8" in grown.reason
    assert "8 generations cannot tell" in grown.reason
    quiet = verdict(relaxing(8, [0.2], [1]) * noise, floor=UNBIASED)
    assert quiet.answer == "undecided"
    assert quiet.reason.startswith("no growth above 25% seen in generations 5 to 8; before them it")
    assert "the word settled takes 12 generations" in quiet.reason
    noise = 1 + 0.01 * rng.standard_normal((5, 20))
    settled = verdict(relaxing(20, [0.5], [8]) * noise, floor=UNBIASED)
    assert settled.answer == "settled"
    assert settled.excess.low < 9 < settled.excess.high
    assert "times the excess of generation 1" in settled.reason


def test_unbiased_estimates_may_be_negative():
    rng = np.random.default_rng(9)
    noise = 1e-3 * rng.standard_normal((5, 24))
    grown = verdict(0.02 * np.arange(24) + noise, closed=True, floor=UNBIASED)
    assert grown.answer == "MAD"
    assert "by at least 0.3" in grown.reason
    assert verdict(0.05 + noise - 0.06 * (np.arange(24) < 1), floor=UNBIASED).answer == "settled"
    assert verdict(-abs(noise), closed=True, floor=UNBIASED).answer == "undecided"


@pytest.mark.parametrize(
    ("field", "values", "more"),
    [
        ("distance", np.ones(5), {}),
        ("distance", np.ones((0, 5)), {}),
        ("distance", np.array([[1.0, np.nan]]), {}),
        ("alpha", np.ones((3, 6)), {"alpha": 0.5}),
        ("margin", np.ones((3, 6)), {"margin": 0.0}),
    ],
)
def test_what_is_no_lineage_is_refused(field, values, more):
    with pytest.raises(Refused) as caught:
        verdict(values, **more)
    assert caught.value.field == field


# one reference for all seeds


@pytest.mark.parametrize("closed", [True, False])
def test_a_reference_that_moves_all_seeds_alike_makes_no_growth(closed):
    """It errs in each generation anew; what it adds is told."""
    rng, trials, wrong, blind = np.random.default_rng(21), 400, 0, 0
    for _ in range(trials):
        flat = 100 + 4 * rng.standard_normal((4, 6)) + 12 * rng.standard_normal(6)
        wrong += verdict(flat, closed=closed, shared=np.full(6, 12.0)).rise.low > 1
        blind += verdict(flat, closed=closed).rise.low > 1
    assert wrong <= trials * tolerated(trials)
    assert blind > trials * 0.2


def test_an_excess_holds_the_references_error():
    rng, trials, covered = np.random.default_rng(22), 600, 0
    truth = np.array([10.0, 20, 40, 60, 80, 100])
    for _ in range(trials):
        d = truth + rng.standard_normal((4, 6)) + 2.0 * rng.standard_normal(6)
        excess = verdict(d, floor=Floor(), shared=np.full(6, 2.0)).excess
        covered += excess.low <= 9.0 <= excess.high
    assert covered >= trials * (0.9 - 3 * (0.09 / trials) ** 0.5)
    assert verdict(d, shared=np.full(6, 2.0)).sources == ("seeds", "reference")
    assert verdict(d).sources == ("seeds",)
