"""A mean over seeds lies between Student's bounds."""

import numpy as np
import pytest
from scipy import stats

from mad_lightning.verdict import Interval


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
