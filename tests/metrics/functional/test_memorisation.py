"""A generator that copies is told from one that has learnt."""

import numpy as np
import pytest
import torch

from mad_lightning.metrics.functional import memorisation, squared_nearest
from mad_lightning.metrics.functional.memorisation import nearest_distances


def normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def brute(x, y):
    x, y = x.double().numpy(), y.double().numpy()
    return np.stack([((row - y) ** 2).sum(axis=1).min() for row in x])


SETS = {
    "ordinary": (normal(300, 20, 1), normal(200, 20, 2)),
    "offset 1000": (normal(300, 20, 1) + 1000, normal(200, 20, 2) + 1000),
    "copies among others": (torch.cat([normal(50, 20, 2), normal(90, 20, 1)]), normal(70, 20, 2)),
    "masses": (
        normal(4, 20, 9)[torch.arange(200) % 4] + 1e-4 * normal(200, 20, 1),
        normal(4, 20, 9)[torch.arange(150) % 4] + 1e-4 * normal(150, 20, 2),
    ),
    "one": (normal(40, 3, 1), normal(1, 3, 2)),
    "of one": (normal(1, 3, 1), normal(40, 3, 2)),
    "many features": (normal(60, 700, 1), normal(50, 700, 2)),
    "float64 and float32": (normal(60, 7, 1).double() / 3, normal(50, 7, 2)),
}


@pytest.mark.parametrize("name", SETS)
def test_the_nearest_is_that_of_brute_force(name):
    x, y = SETS[name]
    for tile in (32, 96, 1024):
        found = squared_nearest(x, y, tile=tile)
        np.testing.assert_allclose(found.numpy(), brute(x, y), rtol=1e-14)
    shuffle = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    assert torch.equal(squared_nearest(x[shuffle], y.flip(0), tile=64), found[shuffle])


def test_copies_are_at_distance_zero():
    training = normal(300, 10, 1)
    assert squared_nearest(training[40:60], training).eq(0).all()
    assert squared_nearest(training, training).eq(0).all()  # a set is not its own other samples


def test_fresh_samples_are_as_near_as_real_ones():
    training, reference, fresh = normal(500, 6, 1), normal(2000, 6, 2), normal(2000, 6, 3)
    values = memorisation(training, reference, fresh, q=0.1)
    assert values["nearest_ratio"] == pytest.approx(1.0, abs=0.05)
    assert values["memorised"] == pytest.approx(0.1, abs=0.03)


def test_values_are_medians_and_counts():
    training, reference, synthetic = normal(100, 3, 1), normal(41, 3, 2), 0.9 * normal(31, 3, 3)
    values = memorisation(training, reference, synthetic, q=0.25)
    real, other = np.sqrt(brute(reference, training)), np.sqrt(brute(synthetic, training))
    assert values["nearest_real"] == pytest.approx(np.median(real), rel=1e-12)
    assert values["nearest_synthetic"] == pytest.approx(np.median(other), rel=1e-12)
    assert values["nearest_ratio"] == pytest.approx(np.median(other) / np.median(real), rel=1e-12)
    assert values["memorised"] == (other < np.sort(real)[10]).mean()


@pytest.mark.parametrize(("copied", "ratio"), [(1.0, 0.0), (0.3, 0.9)])
def test_copies_are_seen(copied, ratio):
    training, reference = normal(500, 6, 1), normal(500, 6, 2)
    n = int(500 * copied)
    synthetic = torch.cat([training[:n] + 1e-4 * normal(n, 6, 4), normal(500 - n, 6, 3)])
    values = memorisation(training, reference, synthetic)
    assert values["memorised"] == pytest.approx(copied + 0.05 * (1 - copied), abs=0.03)
    assert values["nearest_ratio"] == pytest.approx(ratio, abs=0.15)


def test_distances_that_vanish():
    zero, one = torch.zeros(5, 2), torch.ones(5, 2)
    assert memorisation(zero, zero, zero)["nearest_ratio"] == 1.0
    assert memorisation(zero, zero, one)["nearest_ratio"] == torch.inf
    assert memorisation(zero, one, zero) == {
        "nearest_synthetic": 0.0,
        "nearest_real": pytest.approx(2**0.5),
        "nearest_ratio": 0.0,
        "memorised": 1.0,
    }


@pytest.mark.parametrize(
    ("name", "bad", "words"),
    [
        ("training", normal(0, 3, 1), "training has 0 samples"),
        ("reference", normal(9, 3, 1) / 0, "reference has 9 of 9"),
        ("synthetic", normal(9, 4, 1), "4 features.*3"),
        ("q", 1.0, "q = 1.0"),
    ],
)
def test_what_cannot_be_used_is_refused(name, bad, words):
    sets = {each: normal(9, 3, 1) for each in ("training", "reference", "synthetic")}
    with pytest.raises(ValueError, match=words):
        memorisation(**(sets | {name: bad}))


@pytest.mark.parametrize("name", SETS)
def test_a_training_set_is_compared_with_part_by_part(name, monkeypatch):
    x, y = SETS[name]
    whole = nearest_distances(x, y)
    monkeypatch.setitem(nearest_distances.__globals__, "_AT_ONCE", 40 * y[:1].nbytes)
    assert torch.equal(nearest_distances(x, y), whole)
    assert torch.equal(whole, squared_nearest(x, y).sqrt())
