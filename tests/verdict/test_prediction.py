"""The share that is predicted is what the loop needs; what cannot be told is refused."""

import numpy as np
import pytest

from mad_lightning.refusal import Refused
from mad_lightning.verdict.prediction import Law, predict

NEEDED = 1 - (0.25 / 1.25) ** 0.5
"""Of a family without bias that passes all on: 1 - sqrt(m / (1 + m)), exactly, to first order."""


def lineages(rng, seeds, generations, *, dim=200, bias=0.0, kept=1.0, shared_kept=None, tail=None):
    """Products of errors of z_t = a + K z_{t-1} + noise, (T, S, T, S)."""
    a = np.full(dim, (bias / dim) ** 0.5)
    shared_kept = kept if shared_kept is None else shared_kept
    z, own, mean = [], np.zeros((seeds, dim)), np.zeros(dim)
    for _ in range(generations):
        scale = 1.0 if tail is None else tail(rng, seeds)
        mean = a + shared_kept * mean
        own = kept * own + scale * rng.standard_normal((seeds, dim)) / dim**0.5
        z.append(mean + own)
    flat = np.concatenate(z)
    return (flat @ flat.T).reshape(generations, seeds, generations, seeds)


def test_the_limit_is_that_of_the_loop():
    """Against the recursion itself, run for long."""
    law = Law(shared=2.0, shared_kept=0.5, own=1.0, own_kept=0.9, synthetic=0.8)
    for p in (0.1, 0.5, 0.9, 1.0):
        mean, own = 0.0, 1.0  # shared and own part of generation 1
        for t in range(500):
            mean = 2.0**0.5 + (1 - p) * 0.5 * mean
            own = (1.0 if t == 0 else (p + (1 - p) * 0.8)) + ((1 - p) * 0.9) ** 2 * own * (t > 0)
        assert law.limit(p) == pytest.approx(mean**2 + own)
    share = law.share(0.25)
    assert law.limit(share) == pytest.approx(1.25 * law.first, rel=1e-3)


def test_without_bias_the_share_needs_no_measurement():
    assert Law(0.0, 1.0, 1.0, 1.0).share(0.25) == pytest.approx(NEEDED, abs=1e-3)
    assert Law(0.0, 1.0, 1.0, 1.0).share(1.0) == pytest.approx(1 - 0.5**0.5, abs=1e-3)
    assert Law(0.0, 1.0, 1.0, 0.2).share(0.25) == 0.0  # little is passed on
    assert np.isinf(Law(1.0, 1.2, 0.0, 1.0).limit(0.1))


@pytest.mark.parametrize(
    ("bias", "kept", "shared_kept"), [(0.0, 1.0, 1.0), (3.0, 0.7, 0.77), (10.0, 1.1, 0.45)]
)
def test_intervals_hold_the_share_of_a_loop_that_is_linear(bias, kept, shared_kept):
    truth = Law(bias, shared_kept, 1.0, kept).share(0.25)
    rng, told = np.random.default_rng(1), []
    for _ in range(60):
        g = lineages(rng, 8, 3, bias=bias, kept=kept, shared_kept=shared_kept)
        told.append(predict(g))
    assert np.median([each.share for each in told]) == pytest.approx(truth, rel=0.05)
    assert np.mean([each.low <= truth <= each.high for each in told]) >= 0.85
    assert np.mean([bool(each.reasons) for each in told]) <= 0.15


def test_a_reference_that_errs_widens_the_interval():
    g = lineages(np.random.default_rng(0), 8, 3, bias=3.0, kept=0.7)
    off = np.random.default_rng(1).standard_normal(10)
    parts = [g * (1 + 0.02 * x) + 0.5 * x for x in off]
    sure, unsure = predict(g), predict(g, without=parts)
    assert unsure.share == pytest.approx(sure.share, abs=0.1)
    assert unsure.high - unsure.low > 1.2 * (sure.high - sure.low)


# --- what cannot be predicted --------------------------------------------------------------------


def reasons(g, **more):
    return " ".join(predict(g, **more).reasons)


def test_lineages_that_differ_in_two_directions_are_too_few():
    g = lineages(np.random.default_rng(2), 4, 3, dim=2)
    assert "4 lineages that differ in" in reasons(g)


def test_a_margin_that_was_not_seen_is_refused():
    g = lineages(np.random.default_rng(3), 8, 3)
    assert "beyond the" in reasons(g, margin=9.0)
    assert reasons(g, margin=0.25) == ""


def test_errors_that_do_not_add_up_are_refused():
    rng = np.random.default_rng(4)
    g = lineages(rng, 8, 3, bias=5.0)
    g[2] *= 2.0
    g[:, :, 2] *= 2.0
    assert "do not add up linearly" in reasons(g)
    assert "unless it is chance" not in reasons(g)
    h = lineages(rng, 8, 3, bias=5.0, dim=2000)
    h[0, :, 2] += 6.0
    h[2, :, 0] += 6.0
    assert "as if one number told" in reasons(h)


def test_a_loop_that_needs_no_fresh_data_is_not_asked_to_have_been_worse():
    """Nearly all is bias that a fit does not pass on: no generation is a quarter off the first."""
    g = lineages(np.random.default_rng(8), 8, 3, bias=50.0, kept=0.5, shared_kept=0.05)
    told = predict(g)
    assert max(told.distances) < 1.25 * told.distances[0]
    assert (told.share, told.high, told.reasons) == (0.0, 0.0, ())


def test_few_lineages_may_speak_against_a_loop_by_chance_and_are_told_so():
    rng = np.random.default_rng(6)
    told = [reasons(lineages(rng, 8, 3, dim=15)) for _ in range(40)]
    refused = [words for words in told if "up linearly" in words]
    assert 1 <= len(refused) <= 16
    assert sum("unless it is chance: " in words for words in refused) > 0.7 * len(refused)


def test_what_says_nothing_is_refused_before():
    g = lineages(np.random.default_rng(5), 4, 3)
    for wrong in (g[:, :3, :, :3], g[:2, :, :2], g[0], g * np.nan):
        with pytest.raises(Refused):
            predict(wrong)
    with pytest.raises(Refused):
        predict(g, margin=-1.0)
