"""A metric has left the floor when it stays away."""

import numpy as np
import pytest
from scipy import stats
from truths import tolerated

from mad_lightning.verdict import departure


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
