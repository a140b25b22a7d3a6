"""Fidelity and diversity by neighbours: each sees the failure that it is there to see."""

import numpy as np
import pytest
import torch

from mad_lightning.metrics import Classes, Neighbours, View
from mad_lightning.refusal import Refused


def cloud(n=300, seed=0, dim=4, modes=3):
    """Modes far apart, as classes are."""
    rng = np.random.default_rng(seed)
    centres = 10.0 * np.eye(dim)[np.arange(n) % modes]
    return torch.tensor(centres + rng.normal(size=(n, dim)), dtype=torch.float32)


def view(x):
    return View(x)


@pytest.mark.parametrize("balls", ["closed", "open"])
class TestFidelityAndDiversity:
    def test_dropped_modes_lower_recall_and_not_precision(self, balls):
        metric, real = Neighbours(5, balls), cloud()
        whole = metric(view(real), view(cloud(seed=1)))
        fewer = metric(view(real), view(cloud(seed=1, modes=1)))
        assert fewer["recall"] < 0.4 < 0.8 < whole["recall"]
        assert fewer["coverage"] < 0.4 < 0.8 < whole["coverage"]
        assert fewer["precision"] > whole["precision"] - 0.1

    def test_noise_lowers_precision_and_not_recall(self, balls):
        metric, real, other = Neighbours(5, balls), cloud(), cloud(seed=1)
        noise = 3.0 * cloud(seed=2, modes=1).sub(10.0 * torch.eye(4)[0])
        noisy = metric(view(real), view(other + noise))
        clean = metric(view(real), view(other))
        assert noisy["precision"] < 0.5 * clean["precision"]
        assert noisy["density"] < 0.5 * clean["density"]
        assert noisy["recall"] > clean["recall"] - 0.1

    def test_shrinking_lowers_recall_and_not_precision(self, balls):
        metric, real = Neighbours(5, balls), cloud(modes=1)
        centre = 10.0 * torch.eye(4)[0]
        shrunken = metric(view(real), view(centre + 0.3 * (cloud(seed=1, modes=1) - centre)))
        clean = metric(view(real), view(cloud(seed=1, modes=1)))
        assert shrunken["recall"] < 0.5 * clean["recall"]
        assert shrunken["precision"] > clean["precision"]


@pytest.mark.parametrize(("balls", "density"), [("closed", 6 / 5), ("open", 5 / 5)])
def test_closed_balls_hold_the_neighbour_on_their_surface(balls, density):
    """Every ball holds its centre and k others, the last of them on its surface."""
    x = cloud()
    assert Neighbours(5, balls)(view(x), view(x))["density"] == pytest.approx(density)


@pytest.mark.parametrize(
    ("metric", "least"), [(Neighbours(5), 6), (Neighbours(1), 2), (Classes(3), 4)]
)
def test_too_few_samples_are_refused_beforehand(metric, least):
    with pytest.raises(Refused) as caught:
        metric.check(least - 1, "identity")
    assert caught.value.field == "n"
    metric.check(least, "identity")
    sets = (View(cloud(least, seed=seed), labels=modes_of(least)) for seed in (0, 1))
    assert metric(*sets)


@pytest.mark.parametrize("type", [Neighbours, Classes])
@pytest.mark.parametrize("k", [0, -1])
def test_a_neighbour_that_is_none_is_refused(type, k):
    with pytest.raises(Refused) as caught:
        type(k)
    assert caught.value.field == "k"


def test_a_reference_that_changes_is_not_measured_with_the_old_radii():
    metric, synthetic = Neighbours(3), view(cloud(seed=9))
    first, second = view(cloud()), view(3.0 * cloud(seed=5))
    for real in (first, first, second, first):
        assert metric(real, synthetic) == Neighbours(3)(real, synthetic)
    assert metric(first, synthetic) != metric(second, synthetic)


def modes_of(n=300, modes=3):
    return torch.arange(n) % modes


def test_classes_see_a_class_that_vanished():
    real = View(cloud(), labels=modes_of())
    whole = Classes()(real, View(cloud(seed=1), labels=modes_of()))
    fewer = Classes()(real, View(cloud(seed=1, modes=2), labels=modes_of(modes=2)))
    assert whole["class_share"] == 1.0
    assert fewer["class_share"] == pytest.approx(2 / 3)
    assert fewer["class_recall"] <= 2 / 3 < 0.8 < whole["class_recall"]
