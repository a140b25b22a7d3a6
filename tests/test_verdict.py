"""The verdict keeps its stated error rates on lineages whose truth is known.

Lineages come from a plain recursion that draws every sample, and from series with a trend put in.
"""

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from mad_lightning.refusal import Refused
from mad_lightning.verdict import (
    Interval,
    criteria,
    departure,
    distance_name,
    judge,
    safe_share,
    verdict,
)

ALPHA = 0.05


def tolerated(trials, rate=ALPHA):
    """Three standard errors of a share above its bound."""
    return rate + 3 * (rate * (1 - rate) / trials) ** 0.5


def rates(lineages, **more):
    """Share of each answer: (trials, seeds, generations) -> {answer: share}."""
    counts = Counter(verdict(each, **more).answer for each in lineages)
    return {name: counts[name] / len(lineages) for name in ("MAD", "not MAD", "undecided")}


def gaussians(
    rng, trials, seeds, generations, *, d, first, fresh=0, real=0, synthetic, bias=1.0, pool=False
):
    """Squared W2 distances to N(0, I) of fitted Gaussians, (trials, seeds, generations)."""
    x = rng.standard_normal((trials * seeds, first, d))
    fixed, shards, distances = x[:, :real], [], []
    for _ in range(generations):
        mu = x.mean(1)
        z = x - mu[:, None]
        cov = np.swapaxes(z, 1, 2) @ z / (x.shape[1] - 1)
        roots = np.sqrt(np.clip(np.linalg.eigvalsh(cov), 0, None))
        distances.append((mu**2).sum(1) + ((1 - roots) ** 2).sum(1))
        noise = rng.standard_normal((len(x), synthetic, d))
        scale = np.linalg.cholesky(bias * cov + 1e-200 * np.eye(d))
        shard = mu[:, None] + noise @ np.swapaxes(scale, 1, 2)
        shards = [*shards, shard] if pool else [shard]
        x = np.concatenate([*shards, fixed, rng.standard_normal((len(x), fresh, d))], axis=1)
    return np.stack(distances, axis=1).reshape(trials, seeds, generations)


def share(loop):
    total = loop["synthetic"] + loop.get("fresh", 0) + loop.get("real", 0)
    return loop["synthetic"] / total


COLLAPSING = {
    "unbiased": {"d": 5, "first": 40, "synthetic": 40},
    "bias 0.8": {"d": 2, "first": 40, "synthetic": 40, "bias": 0.8},
    "bias 0.5": {"d": 2, "first": 40, "synthetic": 40, "bias": 0.5},  # nothing left by t = 20
}
STABLE = {
    "fresh, from far": {"d": 5, "first": 10, "fresh": 10, "synthetic": 90},
    "fresh, from near": {"d": 8, "first": 200, "fresh": 10, "synthetic": 90},
    "fresh, biased": {"d": 5, "first": 200, "fresh": 10, "synthetic": 90, "bias": 0.8},
    "fresh, in two times": {"d": 30, "first": 100, "fresh": 100, "synthetic": 400, "bias": 0.8},
    "fresh, half": {"d": 2, "first": 40, "fresh": 40, "synthetic": 40},
    "augmentation": {"d": 5, "first": 40, "real": 40, "synthetic": 40},
}


# error rates


@pytest.mark.parametrize("name", COLLAPSING)
@pytest.mark.parametrize(("seeds", "generations"), [(3, 6), (5, 20)])
def test_a_loop_without_real_data_is_never_called_safe(name, seeds, generations):
    rng = np.random.default_rng(0)
    lineages = gaussians(rng, 200, seeds, generations, **COLLAPSING[name])
    said = rates(lineages, memory=1.0)
    assert said["not MAD"] == 0.0
    assert said["MAD"] >= (0.8 if seeds == 3 else 0.98)
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
            said = rates(lineages[:, :seeds], memory=memory)
            print(f"{name}, {generations} generations, {seeds} seeds, memory {memory}: {said}")
            wrong = "not MAD" if name in COLLAPSING else "MAD"
            assert said[wrong] <= tolerated(1000)


def series(rng, trials, seeds, generations, *, trend, spread, kind="normal", level=0.5):
    """exp(noise + seed's level) times a given trend (generations,)."""
    shape = (trials, seeds, generations)
    if kind == "normal":
        noise = rng.standard_normal(shape)
    elif kind == "heavy":
        noise = rng.standard_t(4, shape) / 2**0.5
    else:  # a stationary walk: generations of a lineage resemble each other
        noise = rng.standard_normal(shape)
        for t in range(1, generations):
            noise[..., t] = 0.8 * noise[..., t - 1] + 0.6 * noise[..., t]
    return trend * np.exp(spread * noise + level * rng.standard_normal((trials, seeds, 1)))


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
    said = rates(lineages, memory=1.0)
    assert said["MAD"] <= tolerated(1000)
    pooled = np.log(lineages).mean(1)
    naive = [stats.linregress(np.arange(40), each) for each in pooled]
    assert np.mean([fit.slope > 2 * fit.stderr for fit in naive]) > 0.4


# what a verdict says


def test_slope_and_growth_are_those_of_a_fit_and_of_student():
    rng = np.random.default_rng(7)
    d = np.exp(rng.standard_normal((4, 11)).cumsum(1) / 5)
    for memory, first in ((0.3, 6), (1.0, 1)):
        said = verdict(d, memory=memory, alpha=0.1)
        t = np.arange(first, 12)
        fits = np.array([np.polyfit(t, np.log(each[first - 1 :]), 1)[0] for each in d])
        low, high = stats.t.interval(0.8, 3, fits.mean(), stats.sem(fits))
        assert said.window == (first, 11)
        assert (said.slope.estimate, said.slope.low, said.slope.high) == pytest.approx(
            (fits.mean(), low, high)
        )
        growth = np.exp(len(t) * np.array([fits.mean(), low, high]))
        assert (said.growth.estimate, said.growth.low, said.growth.high) == pytest.approx(growth)
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
            said = verdict(d, memory=memory)
            other = verdict(1e-3 * d[::-1], memory=memory)
            assert said.answer == other.answer
            assert said.slope.low == pytest.approx(other.slope.low)


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
    said = verdict(d)
    assert said.answer == "undecided"
    assert "at home or far from it" in said.reason


def test_nor_is_one_that_comes_at_once():
    """A distance that is half as large again from generation 2 on, and then stays, has no slope."""
    rng = np.random.default_rng(11)
    d = np.where(np.arange(40) == 0, 1.0, 1.5) * np.exp(0.2 * rng.standard_normal((8, 40)))
    said = verdict(d, memory=1.0)
    assert said.growth.low < 1.0 < said.growth.high < 1.25
    assert said.answer == "undecided"
    assert verdict(d[:, 1:], memory=1.0).answer == "not MAD"


def test_growth_that_is_shown_but_small_is_no_madness_where_it_fades():
    rng = np.random.default_rng(17)
    d = (1 - 0.9 ** np.arange(1, 31)) * np.exp(0.01 * rng.standard_normal((10, 30)))
    said = verdict(d, memory=0.9)
    assert 1.0 < said.growth.low < said.growth.high < 1.25
    assert said.pull.low < 0.0
    assert said.answer == "not MAD"


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


# the floor


def test_the_interval_is_students():
    x = np.array([1.0, 4.0, 2.5, 3.0])
    half = stats.t.ppf(0.95, 3) * stats.sem(x)
    assert Interval.of(x, 0.05).high == pytest.approx(x.mean() + half)
    known = Interval.of(np.full(3, 2.0), 0.05, error=0.1)
    assert known.high == pytest.approx(2 + stats.norm.ppf(0.95) * 0.1)
    ratio = 1 + 0.3**2 / stats.sem(x) ** 2
    total = np.hypot(stats.sem(x), 0.3)
    assert Interval.of(x, 0.05, error=0.3).high == pytest.approx(
        x.mean() + stats.t.ppf(0.95, 3 * ratio**2) * total, rel=1e-6
    )


def test_a_metric_leaves_when_it_stays_away():
    fall = np.array([0.96, 0.95, 0.96, 0.9, 0.95, 0.8, 0.7, 0.6])
    x = fall + np.array([[-0.004], [0.0], [0.004]])
    left = departure(x, 0.96)
    assert left.generation == 6  # 4 was below, 5 was back
    assert left.limit == pytest.approx(0.94)
    bounds = fall + stats.t.ppf(0.95, 2) * 0.004 / 3**0.5
    assert left.bounds == pytest.approx(bounds)
    assert departure(x[:, :3], 0.96).generation is None
    assert departure(x[:, 5:], 0.96).generation == 1
    assert departure(x[:1], 0.96).generation is None
    assert departure(x, 0.96, tolerance=0.2).generation == 7
    assert departure(x, 0.96, floor_error=0.1).generation == 7
    assert departure(x, [0.8, 0.96, 0.88]).generation == 7  # floors scatter, too
    rise = departure(1 - x, 0.04, higher_is_better=False)
    assert rise.generation == 6
    assert rise.bounds == pytest.approx(1 - bounds)


@pytest.mark.parametrize("seeds", [3, 10])
@pytest.mark.parametrize("dependent", [False, True])
def test_a_generation_too_early_is_rarely_named(seeds, dependent):
    """At the limit until generation 8, below it after; the floor is an estimate, too."""
    rng = np.random.default_rng(11)
    mean = np.where(np.arange(12) < 8, 0.94, 0.9)
    early = exact = 0
    for _ in range(1000):
        noise = 0.01 * rng.standard_normal((seeds, 12))
        if dependent:
            noise = 0.2 * noise + 0.01 * rng.standard_normal((seeds, 1))
        floor = 0.96 + 0.003 * rng.standard_normal()
        named = departure(mean + noise, floor, floor_error=0.003).generation
        early += named is not None and named < 9
        exact += named == 9
    assert early <= 1000 * tolerated(1000)
    assert exact > (200 if seeds == 3 else 900)


# fresh data


def test_the_safe_share_lies_between_two():
    said = safe_share([(0.5, "not MAD"), (0.0, "MAD"), (0.1, "MAD"), (0.2, "undecided")])
    assert (said.largest_mad, said.smallest_safe, said.undecided) == (0.1, 0.5, (0.2,))
    assert "between 0.1 and 0.5" in str(said)
    above = safe_share([(0.1, "not MAD"), (0.3, "MAD"), (0.5, "not MAD"), (0.9, "not MAD")])
    assert (above.largest_mad, above.smallest_safe) == (0.3, 0.5)
    assert above.contradicted == (0.1,)
    assert "contradicted: 0.1" in str(above)
    gap = safe_share([(0.1, "not MAD"), (0.3, "undecided"), (0.5, "not MAD")])
    assert (gap.largest_mad, gap.smallest_safe, gap.undecided) == (None, 0.5, (0.3,))
    assert "not bounded below" in str(gap)
    unsure = safe_share([(0.0, "MAD"), (0.5, "not MAD"), (0.9, "undecided")])
    assert unsure.smallest_safe is None
    assert "no share was shown to be safe; it takes more than 0" in str(unsure)
    twice = safe_share([(0.5, "not MAD"), (0.5, "undecided"), (0.9, "not MAD")])
    assert (twice.smallest_safe, twice.undecided) == (0.9, (0.5,))
    with pytest.raises(Refused):
        safe_share([])


def test_an_unsafe_share_is_rarely_called_safe_however_many_are_tried():
    """Seven shares at the margin, three that are flat."""
    rng = np.random.default_rng(12)
    grows = 1.25 ** (np.arange(10) / 5)
    wrong = 0
    for _ in range(400):
        answers = []
        for k in range(10):
            trend = grows if k < 7 else np.ones(10)
            d = series(rng, 1, 5, 10, trend=trend, spread=0.03)[0]
            answers.append((k / 10, verdict(d, memory=0.5).answer))
        safe = safe_share(answers).smallest_safe
        wrong += safe is not None and safe < 0.7
    assert wrong <= 400 * tolerated(400)


# collapse by other names


def lost(seeds=4, generations=8):
    """Everything the criteria ask for, going wrong."""
    rng = np.random.default_rng(13)
    t = np.arange(generations)
    wobble = 1 + 0.01 * rng.standard_normal((seeds, generations))
    fall = 0.7**t * wobble
    return {
        "recall": 0.95 * fall,
        "precision": 0.9 * fall,
        "fd_lite0": (1 + t + t**2) * wobble,
        "trace_lite0": 10 * fall,
        "tail_mass": fall,
        "modes": 25 * fall,
        "memorised": 1 - 0.95 * fall,
    }


FLOOR = {
    "recall": 0.95, "precision": 0.9, "trace_lite0": 10.0, "tail_mass": 1.0, "modes": 25.0,
    "memorised": 0.05,
}  # fmt: skip


def answers(made):
    return {each.name: each.answer for each in made}


def test_a_total_collapse_satisfies_all_that_can_be_asked():
    said = answers(criteria(lost(), FLOOR))
    assert said.pop("change of scaling law") == "not measured"
    assert set(said.values()) == {"yes"}
    assert all(each.source and each.number for each in criteria(lost(), FLOOR))


def test_a_stable_loop_satisfies_none():
    rng = np.random.default_rng(14)
    calm = {
        name: np.full((5, 8), FLOOR.get(name, 5.0)) * (1 + 0.01 * rng.standard_normal((5, 8)))
        for name in lost()
    }
    calm["fd_lite0"] *= 1 - 0.005 * np.arange(8) ** 2
    said = answers(criteria(calm, FLOOR))
    assert set(said.values()) == {"no", "not measured"}


def test_the_definitions_disagree():
    """Mode by mode a loop may shrink without leaving the data, rise and settle, or drift away."""
    made = lost()
    made["precision"] = np.full((4, 8), 0.95) + 1e-3 * np.arange(4)[:, None]
    rise = 2 - 0.5 ** np.arange(8)
    made["fd_lite0"] = rise + 1e-4 * np.random.default_rng(15).standard_normal((4, 8))
    said = answers(criteria(made, FLOOR))
    assert said["diversity lost"] == "yes"
    assert said["fidelity lost"] == said["hallucinated samples"] == "no"
    assert said["any increase over real-only training"] == "yes"
    assert said["catastrophic increase"] == said["diverging"] == said["faster than linear"] == "no"


def test_a_criterion_is_a_ratio_with_students_bounds():
    made = {each.name: each for each in criteria(lost(), FLOOR)}
    value = made["diversity lost"].value
    ratios = lost()["recall"][:, -1] / 0.95
    half = stats.t.ppf(0.95, 3) * stats.sem(ratios)
    assert (value.estimate, value.high) == pytest.approx((ratios.mean(), ratios.mean() + half))
    d = lost()["fd_lite0"]
    risk = made["any increase over real-only training"].value.estimate
    assert risk == pytest.approx(stats.gmean(d[:, -1] / d[:, 0]))


def test_one_seed_decides_no_criterion():
    one = {name: values[:1] for name, values in lost().items()}
    assert set(answers(criteria(one, FLOOR)).values()) == {"undecided", "not measured"}


def test_what_was_not_measured_is_not_answered():
    said = answers(criteria({"recall": lost()["recall"]}))
    assert set(said.values()) == {"not measured"}


# all of it


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["recall", "kid", "fd_lite0", "fid"], "fid"),
        (["fd_identity", "w2_squared"], "w2_squared"),
        (["kid", "fd_lite0"], "fd_lite0"),
        (["recall"], None),
    ],
)
def test_the_distance_to_judge_by(names, chosen):
    assert distance_name(names) == chosen


def test_a_judgement_holds_what_its_parts_say():
    made = lost()
    said = judge(made, FLOOR, memory=1.0, n=800)
    assert said.distance == "fd_lite0"
    assert said.verdict == verdict(made["fd_lite0"], memory=1.0)
    assert said.verdict.answer == "MAD"
    error = (0.95 * 0.05 / 800) ** 0.5
    assert said.left["recall"] == departure(made["recall"], 0.95, floor_error=error)
    assert said.left["precision"].generation == 2
    assert said.criteria == criteria(made, FLOOR)


def test_floors_of_their_own_need_no_error_from_elsewhere():
    made, own = lost(), [0.95, 0.94, 0.96, 0.95]
    said = judge(made, FLOOR | {"recall": own}, n=10)
    assert said.left["recall"] == departure(made["recall"], own)


def test_a_missing_value_is_no_value():
    made = lost()
    made["fd_lite0"][1, 3] = np.nan
    said = judge(made, FLOOR, memory=1.0)
    assert said.verdict.answer == "undecided"
    assert "fd_lite0 is missing" in said.verdict.reason
    assert said.left["recall"].generation == 2
    assert "no distance" in judge({"recall": made["recall"]}).verdict.reason
