"""A mean over seeds lies between Student's bounds."""

import numpy as np
import pytest
from scipy import stats

from mad_lightning.verdict import Interval
from mad_lightning.verdict.intervals import ratio


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


@pytest.mark.parametrize("error", [0.0, 0.2])
def test_the_ends_of_a_ratio_are_those_that_student_does_not_contradict(error):
    rng = np.random.default_rng(1)
    below = 1 + 0.1 * rng.standard_normal(5)
    above = 9 + rng.standard_normal(5)
    found = ratio(above, below, 0.05, error)
    assert found.estimate == pytest.approx(above.mean() / below.mean())
    assert found.low < found.estimate < found.high

    def bounds(k):
        contrast = above - k * below
        half = stats.t.ppf(0.95, 4) * np.hypot(stats.sem(contrast), (k - 1) * error)
        return contrast.mean() - half, contrast.mean() + half

    assert bounds(found.low)[0] == pytest.approx(0, abs=1e-9)
    assert bounds(found.high)[1] == pytest.approx(0, abs=1e-9)


def test_nothing_bounds_a_ratio_over_what_is_not_shown_to_be_there():
    above, below = np.array([9.0, 10.0, 11.0]), np.array([0.1, -0.1, 0.2])
    found = ratio(above, below, 0.05)
    assert 10 < found.low < np.inf == found.high
    assert ratio(below, below - 1, 0.05).low == 0.0
    assert np.isnan(ratio(above, below - 1, 0.05).estimate)


@pytest.mark.parametrize(("seeds", "error", "first"), [(3, 0.0, 1.0), (3, 0.2, 1.0), (8, 0.3, 2.0)])
def test_the_bounds_of_a_ratio_cover_it(seeds, error, first):
    rng = np.random.default_rng(2)
    wrong = np.zeros(2)
    for _ in range(2000):
        floor = error * rng.standard_normal()
        below = first * np.exp(0.1 * rng.standard_normal(seeds)) / np.exp(0.005) - floor
        above = 5 * first * np.exp(0.1 * rng.standard_normal(seeds)) / np.exp(0.005) - floor
        found = ratio(above, below, 0.05, error)
        wrong += [found.low > 5, found.high < 5]
    assert (wrong / 2000 <= 0.07).all()
