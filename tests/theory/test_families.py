"""The laboratory's families: against exact expectations, and against lineages drawn by hand."""

import math

import numpy as np
import plain_lineages as plain
import pytest
import scipy.stats

from mad_lightning.policies import (
    FreshData,
    FullySynthetic,
    LoopPolicy,
    Mix,
    Part,
    SyntheticAugmentation,
    shard_name,
)
from mad_lightning.refusal import Refused
from mad_lightning.theory import (
    Categorical,
    ExponentialFamily,
    Family,
    KernelDensity,
    LeastSquares,
    Ngram,
    Normal,
    follow,
    regression_error,
    silverman_factor,
)

T = 6


class Patchwork(LoopPolicy):
    """Takes real and synthetic samples again, in runs that overlap, some twice."""

    token = "patchwork"

    def mix(self, t):
        if t == 1:
            return Mix(t, (Part("real", None, 0, 12),))
        older = tuple(Part("synthetic", shard_name(g), g, 3) for g in range(1, t))
        real, last = Part("real", None, 2 * (t % 2), 5), Part("synthetic", shard_name(t - 1), 1, 2)
        return Mix(t, (real, *older, last))


class Weighted(LoopPolicy):
    """Old, fresh and synthetic samples that count differently, differently each time."""

    token = "weighted"

    def mix(self, t):
        if t == 1:
            return Mix(t, (Part("real", None, 0, 12),))
        older = tuple(Part("synthetic", shard_name(g), 0, 4, 0.5 + g / t) for g in range(1, t))
        return Mix(t, (Part("real", None, 0, 6, 2.0), Part("fresh", None, 6 * t, 6), *older))


POLICIES = {
    "full_synth": FullySynthetic(12, 9),
    "synth_aug": SyntheticAugmentation(10, 5),
    "accumulate": SyntheticAugmentation(8, "(t-1) * 8", synthetic_from="all"),
    "fresh": FreshData(12, 3, 8),
    "last_k": FreshData(10, 4, 9, synthetic_from="last_k", k=3),
    "patchwork": Patchwork(),
    "weighted": Weighted(),
}
FAMILIES = {
    "normal": (Normal(), 0.7),
    "schedule": (Normal(2), "max(0.5, 1 - 0.2*(t-1))"),
    "maximum_likelihood": (Normal(estimator="maximum_likelihood"), 1.0),
    "marked": (Normal(dim=2, mark=0.4), 1.0),
    "prior": (Normal(dim=2, prior=1.5, estimator="maximum_likelihood"), 0.8),
    "kernel": (KernelDensity(0.5, dim=2), 0.8),
    "silverman": (KernelDensity("silverman"), 1.0),
    "words": (Categorical(types=7, zipf=0.5), 1.0),
    "texts": (Ngram(types=4, length=5), 1.0),
    "poisson": (ExponentialFamily("poisson", 3.0, prior=1.0, prior_mean=2.0), 1.0),
    "bernoulli": (ExponentialFamily("bernoulli", 0.3), 1.0),
    "exponential": (ExponentialFamily("exponential", 2.0, prior=2.0), 1.0),
    "location": (ExponentialFamily("normal", -1.0), 1.0),
    "regression": (LeastSquares(dim=1), 1.0),
    "new_inputs": (LeastSquares(dim=2, inputs="new"), 1.0),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_lineages_are_what_is_expected_of_them_whatever_the_loop(family, policy):
    loop, (model, bias) = POLICIES[policy], FAMILIES[family]
    told = follow(model, loop, T, lineages=1000, sampling_bias=bias, seed=3)
    assert set(told) == set(model.measures)
    expected = model.expected(loop, T, bias)
    assert set(expected) <= set(told)
    for name, values in expected.items():
        assert plain.hits(told[name], values), name


def test_expectations_are_known_where_they_are_promised():
    known = {
        (family, policy): set(model.expected(loop, T, bias))
        for family, (model, bias) in FAMILIES.items()
        for policy, loop in POLICIES.items()
    }
    assert known["normal", "patchwork"] == {"variance", "mean", "drift"}
    assert known["normal", "full_synth"] == {"variance", "mean", "drift", "log_variance"}
    assert known["words", "patchwork"] == {"heterozygosity"}
    assert known["regression", "synth_aug"] == {"error"}
    assert known["regression", "fresh"] == set()
    assert known["new_inputs", "full_synth"] == {"error"}
    assert known["new_inputs", "accumulate"] == set()
    assert Categorical().expected(POLICIES["fresh"], T, 0.9) == {}


# --- against lineages that draw every sample ------------------------------------------------------


def by_hand(policy, real, draw, tell, count, seed=0):
    """What ``tell`` says of the training samples (R, n) of each generation, (R, T)."""
    rng = np.random.default_rng(seed)
    mixes = [policy.mix(t) for t in range(1, T + 1)]
    assert all(part.weight == 1.0 for mix in mixes for part in mix.parts)
    sizes = {}
    for mix in mixes:
        for part in mix.parts:
            sizes[part.generation] = max(sizes.get(part.generation, 0), part.stop)
    stores = {None: real(rng, (count, sizes[None]))}
    told = []
    for t, mix in enumerate(mixes, 1):
        x = np.concatenate([stores[p.generation][:, p.start : p.stop] for p in mix.parts], axis=1)
        told.append(tell(x))
        if t in sizes:
            stores[t] = draw(rng, x, sizes[t])
    return np.stack(told, axis=1)


def resampled(rng, x, n):
    return np.take_along_axis(x, rng.integers(0, x.shape[1], (len(x), n)), axis=1)


def heterozygosity(x):
    shares = np.stack([(x == word).mean(axis=1) for word in range(5)])
    return 1 - (shares**2).sum(axis=0)


WORDS = Categorical(types=5, zipf=1.3)
HARD = Categorical(types=5, zipf=1.3, green=0.4, delta=0.7)


def hard_words(rng, x, n):
    """By p^(1/λ) at λ = 0.8, with the odds of green words e^0.7 times as large."""
    shares = np.stack([(x == word).mean(axis=1) for word in range(5)], axis=1)
    odds = shares**1.25 * np.where(HARD.listed, math.exp(0.7), 1.0)
    edges = np.cumsum(odds / odds.sum(axis=1, keepdims=True), axis=1)
    return (rng.random((len(x), n, 1)) > edges[:, None, :-1]).sum(axis=2)


def silverman(rng, x, n):
    factor = scipy.stats.gaussian_kde(x[0], bw_method="silverman").factor
    width = factor * x.std(axis=1, ddof=1, keepdims=True)
    return resampled(rng, x, n) + width * rng.standard_normal((len(x), n))


def spread(x):
    return x.var(axis=1) + (silverman_factor(x.shape[1]) ** 2) * x.var(axis=1, ddof=1)


def narrowed(rng, x, n):
    drawn = resampled(rng, x, n) + 0.5 * rng.standard_normal((len(x), n))
    mean = x.mean(axis=1, keepdims=True)
    return mean + 0.8**0.5 * (drawn - mean)


NORMAL = (lambda rng, shape: rng.standard_normal(shape), lambda x: x.var(axis=1) + 0.25)
BY_HAND = {
    "words": (
        WORDS,
        1.0,
        "heterozygosity",
        lambda rng, shape: rng.choice(5, shape, p=WORDS.truth),
        resampled,
        heterozygosity,
    ),
    "hard_words": (
        HARD,
        0.8,
        "heterozygosity",
        lambda rng, shape: rng.choice(5, shape, p=WORDS.truth),
        hard_words,
        heterozygosity,
    ),
    "silverman": (KernelDensity("silverman"), 1.0, "variance", NORMAL[0], silverman, spread),
    "kernel": (KernelDensity(0.5), 0.8, "variance", NORMAL[0], narrowed, NORMAL[1]),
    "poisson": (
        ExponentialFamily("poisson", 3.0, prior=2.0, prior_mean=1.0),
        1.0,
        "mean",
        lambda rng, shape: rng.poisson(3.0, shape),
        lambda rng, x, n: rng.poisson(
            ((x.sum(axis=1) + 2.0) / (x.shape[1] + 2))[:, None], (len(x), n)
        ),
        lambda x: (x.sum(axis=1) + 2.0) / (x.shape[1] + 2),
    ),
}


@pytest.mark.parametrize("policy", ["patchwork", "accumulate", "last_k"])
@pytest.mark.parametrize("name", BY_HAND)
def test_lineages_are_those_that_draw_every_sample(name, policy):
    family, bias, measure, *plainly = BY_HAND[name]
    loop = POLICIES[policy]
    ours = follow(family, loop, T, 3000, bias, seed=1)[measure]
    theirs = by_hand(loop, *plainly, count=3000)
    assert plain.agree(ours, theirs)
    assert plain.agree((ours - ours.mean(0)) ** 2, (theirs - theirs.mean(0)) ** 2)


def test_texts_are_those_that_are_drawn_word_by_word():
    family = Ngram(order=3, types=3, length=6, concentration=0.5)
    rng = np.random.default_rng(0)
    counts = np.zeros((9, 3))
    for _ in range(3000):
        context = rng.choice(9, p=family.beginning)
        for _ in range(4):
            word = rng.choice(3, p=family.truth[context])
            counts[context, word] += 1
            context = context % 3 * 3 + word
    ours = family.real(3000, 100, rng).followed
    assert (ours.sum(axis=(1, 2)) == 4 * 3000).all()
    assert (np.abs(ours.mean(axis=0) - counts) <= 5 * ours.std(axis=0) + 1).all()


def test_a_language_is_stationary_where_its_texts_begin():
    family = Ngram(order=3, types=3, length=6, concentration=0.5)
    step = (family.beginning[:, None] * family.truth).reshape(3, 3, 3).sum(axis=0).ravel()
    assert step == pytest.approx(family.beginning, abs=1e-6)


# --- what the issue promises ----------------------------------------------------------------------


def median(family, policy, generations, lineages, measure, **more):
    return float(np.median(follow(family, policy, generations, lineages, **more)[measure][:, -1]))


def test_one_real_point_a_generation_is_enough():
    """Jangjoo et al. (2026): medians of the variance at t = 400, n = 50."""
    loops = [FullySynthetic(50), FreshData(50, 1, 49), FreshData(50, 5, 45)]
    told = [median(Normal(), loop, 400, 1500, "variance", seed=2) for loop in loops]
    assert told == pytest.approx([0.0, 0.84, 0.97], abs=0.06)


def test_a_prior_worth_one_sample_is_enough():
    family = Normal(prior=1.0, estimator="maximum_likelihood")
    assert median(family, FullySynthetic(50), 400, 400, "variance") > 0.3
    without = Normal(estimator="maximum_likelihood")
    assert median(without, FullySynthetic(50), 400, 400, "variance") < 1e-3


def test_silverman_makes_variance_explode_and_a_fixed_kernel_holds_it():
    loop = FullySynthetic(200)
    told = [follow(KernelDensity(h), loop, 30, 400)["variance"] for h in ("silverman", 0.1)]
    assert np.median(told[0][:, -1]) == pytest.approx(33, rel=0.1)
    assert np.median(told[1][:, [0, 9, 29]], axis=0) == pytest.approx([0.99] * 3, abs=0.03)
    expected = KernelDensity(0.1).expected(loop, 30, 1.0)["variance"]
    assert expected[[0, 9, 29]] == pytest.approx([1.005, 1.05, 1.14], abs=0.005)
    step = (1 - 1 / 200) * expected[:-1] + 0.1**2
    assert expected[1:] == pytest.approx(step)
    far = KernelDensity(0.1).expected(FullySynthetic(20), 300, 1.0)["variance"]
    assert far[-1] == pytest.approx(20 * 0.1**2)


def test_words_drift_as_wright_and_fisher_say():
    loop = FullySynthetic(1000)
    told = follow(Categorical(500), loop, 40, 200)
    h0 = 1 - np.square(Categorical(500).truth).sum()
    for t in (1, 10, 40):
        assert plain.hits(told["heterozygosity"][:, t - 1], (1 - 1 / 1000) ** t * h0, sigmas=2)
    assert told["types"][:, [0, 9, 39]].mean(axis=0) == pytest.approx([262, 87, 33], abs=2)


def test_a_temperature_below_1_leaves_two_words_and_one_above_flattens():
    told = {
        bias: follow(Categorical(500), FullySynthetic(1000), 20, 100, bias)
        for bias in (0.9, 1.0, 1.1)
    }
    types = [np.median(values["types"][:, -1]) for values in told.values()]
    assert types == pytest.approx([2, 56, 96], abs=2)
    bits = [values["entropy"][:, -1].mean() for values in told.values()]
    assert bits == pytest.approx([0.1, 5.0, 6.3], abs=0.15)


def test_accumulated_labels_cost_at_most_64_percent():
    loop = SyntheticAugmentation(50, "(t-1) * 50", synthetic_from="all")
    expected = LeastSquares().expected(loop, 200, 1.0)["error"]
    assert expected[-1] == pytest.approx(regression_error(200, 50, 1))
    told = follow(LeastSquares(), loop, 200, 500)["error"]
    assert plain.hits(told[:, -1] / expected[0], math.pi**2 / 6 - 1 / 200, sigmas=2)
    replaced = LeastSquares(3, noise=2.0).expected(FullySynthetic(50), 9, 1.0)["error"]
    assert replaced[-1] == pytest.approx(regression_error(9, 50, 3, 2.0, accumulate=False))


@pytest.mark.parametrize(
    ("law", "quadratic"), [("normal", 0), ("poisson", 0), ("bernoulli", -1), ("exponential", 1)]
)
def test_the_variance_of_an_exponential_family_follows_its_quadratic(law, quadratic):
    family = ExponentialFamily(law, 0.4)
    told = family.expected(FullySynthetic(25), 9, 1.0)["variance"]
    start = {"normal": 1.0, "poisson": 0.4, "bernoulli": 0.24, "exponential": 0.16}[law]
    assert told == pytest.approx(start * (1 + quadratic / 25) ** np.arange(1, 10))


# --- what is promised of all ----------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_results_depend_on_the_seed_alone(family):
    model, bias = FAMILIES[family]
    loop = POLICIES["accumulate"]
    one, two, other = (
        follow(model, loop, 3, 150, bias, seed=seed, threads=threads)
        for seed, threads in ((0, 1), (0, 2), (1, 1))
    )
    first = model.measures[0]
    assert all(np.array_equal(one[name], two[name], equal_nan=True) for name in one)
    assert family == "location" or not np.array_equal(one[first], other[first])
    fewer = follow(model, loop, 3, 100, bias, threads=1)
    assert np.array_equal(fewer[first], one[first][:100])


def test_a_family_is_called_by_what_distinguishes_it():
    assert Normal().label == "Normal"
    assert Normal(8).label == "Normal (dim=8)"
    assert KernelDensity("silverman").label == "KernelDensity (silverman)"
    assert ExponentialFamily("poisson", 2, prior=1).label == (
        "ExponentialFamily (poisson, mean=2, prior=1)"
    )


def test_a_family_of_your_own_is_one_small_class():
    class Uniform(Family):
        """On [0, θ], by the largest sample: a scale that can only shrink."""

        measures = ("scale",)

        def real(self, n, lineages, rng):
            return self.draw((np.ones(lineages),), n, 1.0, 0, rng)

        def draw(self, law, n, sampling_bias, t, rng):
            return (law[0] * rng.random(len(law[0])) ** (1 / n),)

        def join(self, parts):
            return (np.max([part[0] for part in parts], axis=0),)

        def learn(self, seen):
            return seen

        def measure(self, law):
            return {"scale": law[0]}

    told = follow(Uniform(), FullySynthetic(10), 5, lineages=2000)["scale"]
    assert plain.hits(told, (10 / 11) ** np.arange(1, 6))
    kept = follow(Uniform(), SyntheticAugmentation(10), 5, lineages=100)["scale"]
    assert (np.ptp(kept, axis=1) == 0).all()


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Normal(dim=0), "dim"),
        (lambda: Normal(dim=2.0), "dim"),
        (lambda: Normal(estimator="bayes"), "estimator"),
        (lambda: Normal(prior=-1), "prior"),
        (lambda: Normal(mark=math.inf), "mark"),
        (lambda: Normal(marked="twice"), "marked"),
        (lambda: KernelDensity("scott"), "bandwidth"),
        (lambda: KernelDensity(0.0), "bandwidth"),
        (lambda: KernelDensity(math.nan), "bandwidth"),
        (lambda: KernelDensity(True), "bandwidth"),
        (lambda: Categorical(types=1), "types"),
        (lambda: Categorical(types=10**9), "types"),
        (lambda: Categorical(zipf="1"), "zipf"),
        (lambda: Categorical(green=1.0), "green"),
        (lambda: Categorical(delta=math.inf), "delta"),
        (lambda: Ngram(order=1), "order"),
        (lambda: Ngram(order=9, types=100), "order"),
        (lambda: Ngram(order=3, length=2), "length"),
        (lambda: Ngram(concentration=0), "concentration"),
        (lambda: ExponentialFamily("cauchy", 0.0), "law"),
        (lambda: ExponentialFamily("poisson", -1.0), "mean"),
        (lambda: ExponentialFamily("bernoulli", 1.0), "mean"),
        (lambda: ExponentialFamily("normal", 0.0, prior=math.nan), "prior"),
        (lambda: ExponentialFamily("poisson", 1.0, prior_mean=0.0), "prior_mean"),
        (lambda: LeastSquares(noise=0.0), "noise"),
        (lambda: LeastSquares(inputs="old"), "inputs"),
        (lambda: follow(Normal(), FullySynthetic(1), 3, 9), "policy"),
        (lambda: follow(LeastSquares(4), FullySynthetic(5), 3, 9), "policy"),
        (lambda: follow(Normal(), FullySynthetic(9), 3, 9, 1.1), "sampling_bias"),
        (lambda: follow(Categorical(), FullySynthetic(9), 3, 9, 0.0), "sampling_bias"),
        (lambda: follow(LeastSquares(), FullySynthetic(9), 3, 9, 0.5), "sampling_bias"),
        (lambda: follow(Normal(), FullySynthetic(9), 0, 9), "generations"),
        (lambda: follow(Normal(), FullySynthetic(9), 3, 2.5), "lineages"),
    ],
)
def test_what_cannot_be_is_refused(make, field):
    with pytest.raises(Refused) as caught:
        make()
    assert caught.value.field == field
