"""One contract for all metrics: each sees the failure that it is there to see."""

import math

import numpy as np
import pytest
import torch

from mad_lightning.metrics import (
    Classes,
    Frechet,
    GaussianW2,
    Kernel,
    Memorisation,
    Neighbours,
)
from mad_lightning.metrics.two_sample import View
from mad_lightning.refusal import Refused
from mad_lightning.samples import Law

METRICS = {
    "neighbours": Neighbours(),
    "neighbours_k3_open": Neighbours(3, "open"),
    "frechet": Frechet(),
    "gaussian_w2": GaussianW2(),
}
HIGHER_IS_BETTER = {"precision", "recall", "density", "coverage"}


def cloud(n=300, seed=0, dim=4, modes=3):
    """Modes far apart, as classes are."""
    rng = np.random.default_rng(seed)
    centres = 10.0 * np.eye(dim)[np.arange(n) % modes]
    return torch.tensor(centres + rng.normal(size=(n, dim)), dtype=torch.float32)


def view(x):
    x = x.double()
    return View(x.float(), "identity", Law(x.mean(dim=0), x.T.cov()))


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
class TestContract:
    def test_values_are_plain_numbers_by_name(self, metric):
        values = metric(view(cloud()), view(cloud(seed=1)))
        assert values
        assert all(type(value) is float and math.isfinite(value) for value in values.values())

    def test_a_set_is_best_compared_with_itself(self, metric):
        itself = metric(view(cloud()), view(cloud()))
        other = metric(view(cloud()), view(cloud(seed=1)))
        for name, value in itself.items():
            if name in HIGHER_IS_BETTER - {"density"}:
                assert value == 1.0
            elif name not in HIGHER_IS_BETTER:
                assert value == pytest.approx(0.0, abs=1e-6)
                assert value < other[name]

    def test_a_shift_makes_everything_worse(self, metric):
        real = cloud()
        values = [metric(view(real), view(cloud(seed=1) + by)) for by in (0.0, 1.5, 50.0)]
        for name in values[0]:
            near, off, far = (each[name] for each in values)
            if name in HIGHER_IS_BETTER:
                assert near > off > far == 0.0
            else:
                assert near < off < far

    def test_the_order_of_samples_does_not_matter(self, metric):
        real, other = cloud(), cloud(seed=1)
        turned = metric(view(real.flip(0)), view(other.flip(0)))
        assert turned == pytest.approx(metric(view(real), view(other)), rel=1e-9)

    def test_enough_samples_pass_the_check(self, metric):
        metric.check(1000, "identity")


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
    ("extractor", "name"),
    [("inception", "fid"), ("classifier", "fd_classifier"), ("identity", "fd_identity")],
)
def test_a_frechet_distance_is_fid_only_on_inception_features(extractor, name):
    x = cloud()
    assert Frechet()(View(x, extractor), View(x, extractor)).keys() == {name}


def test_a_frechet_distance_of_a_shift_is_its_square():
    x = cloud()
    shift = torch.tensor([1.0, -2.0, 0.0, 3.0])
    assert Frechet()(view(x), view(x + shift))["fd_identity"] == pytest.approx(14.0, rel=1e-5)


@pytest.mark.parametrize("variances", [[1.0, 1.0, 1.0], [0.25, 4.0, 1.0], [0.0, 1e-12, 9.0]])
def test_w2_from_the_standard_normal_has_a_closed_form(variances):
    """|mu|² + sum (1 - sqrt(l))², whatever the eigenvectors."""
    rng = np.random.default_rng(0)
    turn = torch.tensor(np.linalg.qr(rng.normal(size=(3, 3)))[0])
    mean, spectrum = torch.tensor(rng.normal(size=3)), torch.tensor(variances).double()
    covariance = turn @ spectrum.diag() @ turn.T
    normal = Law(torch.zeros(3).double(), torch.eye(3).double())
    real = View(cloud(dim=3), law=normal)
    fitted = View(cloud(dim=3, seed=1), law=Law(mean, (covariance + covariance.T) / 2))
    expected = sum(mean.numpy() ** 2) + sum((1 - np.sqrt(variances)) ** 2)
    assert GaussianW2()(real, fitted) == {"w2_squared": pytest.approx(expected, rel=1e-6)}


def test_w2_prefers_the_law_to_the_samples():
    law = Law(torch.ones(4).double(), torch.eye(4).double())
    assert GaussianW2()(View(cloud(), law=law), View(cloud(seed=1), law=law))["w2_squared"] == 0.0


def test_w2_stands_in_for_a_law_with_samples_and_never_with_their_features():
    law = Law(torch.zeros(4).double(), torch.eye(4).double())
    known, samples = View(cloud(), law=law), View(cloud(seed=1))
    assert GaussianW2()(known, samples) == pytest.approx(
        GaussianW2()(known, view(cloud(seed=1))), rel=1e-12
    )
    with pytest.raises(Refused, match="Identity") as caught:
        GaussianW2().check(1000, "classifier")
    assert caught.value.field == "evaluator.metrics"


@pytest.mark.parametrize(("metric", "least"), [(Neighbours(5), 6), (Neighbours(1), 2)])
def test_too_few_samples_are_refused_beforehand(metric, least):
    with pytest.raises(Refused) as caught:
        metric.check(least - 1, "identity")
    assert caught.value.field == "data.n_reference"
    metric.check(least, "identity")
    metric(view(cloud(least)), view(cloud(least, seed=1)))


def test_a_neighbour_that_is_none_is_refused():
    with pytest.raises(Refused) as caught:
        Neighbours(0)
    assert caught.value.field == "evaluator.metrics.k"


def test_a_reference_that_changes_is_not_measured_with_the_old_radii():
    metric, synthetic = Neighbours(3), view(cloud(seed=9))
    first, second = view(cloud()), view(3.0 * cloud(seed=5))
    for real in (first, first, second, first):
        assert metric(real, synthetic) == Neighbours(3)(real, synthetic)
    assert metric(first, synthetic) != metric(second, synthetic)


@pytest.mark.parametrize(("extractor", "name"), [("inception", "kid"), ("pixels", "kd_pixels")])
def test_a_kernel_distance_is_kid_only_on_inception_features(extractor, name):
    sets = View(cloud(), extractor), View(cloud(seed=1), extractor)
    assert Kernel()(*sets).keys() == {name}
    assert Kernel(subsets=3, subset_size=50)(*sets).keys() == {name, f"{name}_std"}
    assert Kernel().protocol() == {}
    assert Kernel(subsets=3, subset_size=50).protocol() == {
        "kernel_subsets": 3,
        "kernel_subset_size": 50,
    }


@pytest.mark.parametrize("metric", [Kernel(), Kernel(subsets=4, subset_size=100)])
def test_a_kernel_distance_grows_with_a_shift_and_falls_below_0(metric):
    real = view(cloud())
    values = [metric(real, view(cloud(seed=1) + by))["kd_identity"] for by in (0.0, 1.5, 50.0)]
    assert abs(values[0]) < 0.3 * values[1] < values[1] < values[2]
    assert Kernel()(real, real)["kd_identity"] < 0.0  # two independent sets differ more
    metric.check(100, "identity")


def test_subsets_that_cannot_be_filled_are_refused_beforehand():
    with pytest.raises(Refused) as caught:
        Kernel(subsets=3, subset_size=50).check(49, "identity")
    assert caught.value.field == "data.n_reference"
    with pytest.raises(Refused) as caught:
        Kernel(subsets=0)
    assert caught.value.field == "evaluator.metrics.subsets"


def modes_of(n=300, modes=3):
    return torch.arange(n) % modes


def test_classes_see_a_class_that_vanished():
    real = View(cloud(), labels=modes_of())
    whole = Classes()(real, View(cloud(seed=1), labels=modes_of()))
    fewer = Classes()(real, View(cloud(seed=1, modes=2), labels=modes_of(modes=2)))
    assert whole["class_share"] == 1.0
    assert fewer["class_share"] == pytest.approx(2 / 3)
    assert fewer["class_recall"] <= 2 / 3 < 0.8 < whole["class_recall"]


def test_memorisation_tells_copies_from_fresh_samples():
    training = cloud(seed=7)
    real = View(cloud(), training=training)
    fresh = Memorisation()(real, View(cloud(seed=1)))
    copied = Memorisation()(real, View(training + 1e-3))
    assert fresh["memorised"] < 0.15 < copied["memorised"] == 1.0
    assert copied["nearest_ratio"] < 0.01 < 0.8 < fresh["nearest_ratio"] < 1.2
    assert Memorisation(0.2).protocol() == {"memorised_quantile": 0.2}


@pytest.mark.parametrize("metric", [Classes(), Memorisation()])
def test_what_is_missing_is_named(metric):
    with pytest.raises(Refused) as caught:
        metric(view(cloud()), view(cloud(seed=1)))
    assert caught.value.field == "evaluator.metrics"
    assert type(metric).__name__ in str(caught.value)


@pytest.mark.parametrize("arguments", [{"k": 0}, {"k": -1}])
def test_classes_need_a_neighbour(arguments):
    with pytest.raises(Refused):
        Classes(**arguments)


@pytest.mark.parametrize("q", [0.0, 1.0, -0.1])
def test_a_quantile_that_is_none_is_refused(q):
    with pytest.raises(Refused) as caught:
        Memorisation(q)
    assert caught.value.field == "evaluator.metrics.q"


def test_moments_of_the_reference_are_kept():
    metric, synthetic = Frechet(), view(cloud(seed=9))
    first, second = view(cloud()), view(3.0 * cloud(seed=5))
    for real in (first, first, second, first):
        assert metric(real, synthetic) == Frechet()(real, synthetic)
    known = metric._known[1]
    metric(view(cloud()), view(cloud(seed=8)))  # an equal set is the same set
    assert metric._known[1] is known
