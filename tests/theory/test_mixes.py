"""What the literature knows of mixes in closed form, met by simulated lineages."""

import numpy as np
import plain_lineages as plain
import pytest

from mad_lightning.policies import (
    AccumulateSubsample,
    Combined,
    FullySynthetic,
    SyntheticAugmentation,
)
from mad_lightning.refusal import Refused
from mad_lightning.theory import DrawnLineages, Setting, accumulate_variance, segments, simulate


def within(values, expected, errors=2.5):
    """Whether independent values have a mean, within standard errors."""
    values = np.asarray(values)
    return abs(values.mean() - expected) < errors * values.std(ddof=1) / len(values) ** 0.5


def test_replace_subsample_and_accumulate_are_what_kazdan_et_al_found():
    """Expected variance in one dimension, n = 10, maximum likelihood, after 60 generations.

    Replacing: (1 - 1/n)^t, .0018. Accumulating: the product over t of 1 - 1/(n t^2), .845, whose
    limit is sin x / x at x = pi / sqrt n, .843. Subsampling lies between: .736 by a simulation of
    2026 that shares nothing with this one.
    """
    n, t = 10, 60
    loops = {
        "replace": FullySynthetic(n),
        "subsample": AccumulateSubsample(n),
        "accumulate": SyntheticAugmentation(n, f"(t-1) * {n}", synthetic_from="all"),
    }
    variance = {
        name: simulate([Setting(policy, seed=1)], 1, t, runs, "maximum_likelihood").variance[0]
        for (name, policy), runs in zip(loops.items(), (10_000, 4_000, 10_000), strict=True)
    }
    assert within(variance["replace"][:, 19], (1 - 1 / n) ** 20)
    product = np.prod([1 - 1 / (n * s**2) for s in range(1, t + 1)])
    limit = np.sinc(n**-0.5)
    assert (round(limit, 3), round(product, 3)) == (0.843, 0.845)
    assert accumulate_variance(t, n) == pytest.approx(product, rel=1e-6)
    assert within(variance["accumulate"][:, -1], product)
    assert within(variance["subsample"][:, -1], 0.736)
    ends = [float(variance[name][:, -1].mean()) for name in loops]
    assert ends[0] < 0.01 < ends[1] < ends[2]


def test_the_golden_ratio_weighs_fresh_data_best():
    """The mean's variance x n with weight w on fresh samples (He et al., 2025): it solves
    v = w^2 + (1 - w)^2 (v + 1), and is least at w = .618, where it is .618."""
    n, runs, weights = 200, 8_000, (0.4, 0.5, 0.618, 0.75)
    loops = [
        Combined(n, n_fresh=n, n_synthetic=n, weight_fresh=w, weight_synthetic=1 - w)
        for w in weights
    ]
    settings = [Setting(loop, seed=seed) for seed, loop in enumerate(loops)]
    drift = n * simulate(settings, 1, 25, runs).drift[:, :, -1].numpy()
    limits = [(w**2 + (1 - w) ** 2) / (1 - (1 - w) ** 2) for w in weights]
    assert [round(limits[1], 3), round(limits[2], 3)] == [0.667, 0.618]
    assert min(limits) == limits[2]
    for values, limit in zip(drift, limits, strict=True):
        assert within(values, limit)


def test_choices_are_distributed_as_if_numpy_made_them():
    policy, runs = AccumulateSubsample(6, 7, 5), 3000
    run = DrawnLineages(Setting(policy, 0.8, seed=2), 2, 5, runs)
    means, covs = plain.lineages(policy, 2, 5, runs, 0.8, seed=3)
    for t in range(5):
        run.step()
        assert plain.agree(run.mean[0].numpy(), means[t])
        assert plain.agree(run.covariance()[0].numpy(), covs[t])
        assert plain.agree(run.w2_squared()[0].numpy(), plain.w2_squared(means[t], covs[t]))


def test_lineages_that_choose_are_the_same_in_any_parts(monkeypatch):
    setting = Setting(AccumulateSubsample(6), seed=2)
    whole = simulate([setting, Setting(FullySynthetic(6))], 2, 4, 40, threads=1)
    again = simulate([Setting(FullySynthetic(6)), setting], 2, 4, 40, threads=2)
    assert (whole.variance[0] == again.variance[1]).all()
    assert (whole.variance[1] == again.variance[0]).all()
    monkeypatch.setattr("mad_lightning.theory.drawn._NUMBERS", 400)
    parts = DrawnLineages(setting, 2, 4, 40).parts()
    assert len(parts) > 1
    assert sum(part.lineages for part in parts) == 40


def test_a_bias_may_depend_on_the_generation():
    """Expected variance under replacement: the product of all earlier biases."""
    values = simulate([Setting(FullySynthetic(30), "1/t", seed=4)], 1, 4, 20_000).variance[0]
    for t, expected in ((1, 1.0), (2, 1.0), (3, 1 / 2), (4, 1 / 6)):
        assert within(values[:, t - 1], expected)
    with pytest.raises(Refused, match="generation 3"):
        simulate([Setting(FullySynthetic(30), "1 - 0.4*(t-1)*(t-1)")], 1, 4, 10)


def test_what_has_no_law_is_refused():
    with pytest.raises(Refused, match="from outside"):
        segments(Combined(9, 5, n_external=3), 3)
    with pytest.raises(Refused, match="by chance"):
        segments(AccumulateSubsample(9), 3)
    with pytest.raises(Refused, match="all drawn and kept"):
        DrawnLineages(Setting(AccumulateSubsample(10**9)), 2, 4, 40)
