"""Distances between laws: named by what they were measured with, right in closed form."""

import numpy as np
import pytest
import torch

from mad_lightning.metrics import Frechet, GaussianW2, Kernel, View
from mad_lightning.refusal import Refused
from mad_lightning.samples import Law


def cloud(n=300, seed=0, dim=4, modes=3):
    """Modes far apart, as classes are."""
    rng = np.random.default_rng(seed)
    centres = 10.0 * np.eye(dim)[np.arange(n) % modes]
    return torch.tensor(centres + rng.normal(size=(n, dim)), dtype=torch.float32)


def view(x):
    x = x.double()
    return View(x.float(), "identity", Law(x.mean(dim=0), x.T.cov()))


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
    assert caught.value.field == ""


def test_moments_of_the_reference_are_kept():
    metric, synthetic = Frechet(), view(cloud(seed=9))
    first, second = view(cloud()), view(3.0 * cloud(seed=5))
    for real in (first, first, second, first):
        assert metric(real, synthetic) == Frechet()(real, synthetic)
    known = metric._known[1]
    metric(view(cloud()), view(cloud(seed=8)))  # an equal set is the same set
    assert metric._known[1] is known


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
    assert caught.value.field == "n"
    with pytest.raises(Refused) as caught:
        Kernel(subsets=0)
    assert caught.value.field == "subsets"
