"""The Gaussian family is its moments."""

import numpy as np
import pytest
import torch

from mad_lightning.generators import Gaussian
from mad_lightning.samples import Batches, Samples, SampleSpec
from mad_lightning.seeds import sample_seeds


@pytest.fixture
def fitted(fit):
    def gaussian(x, labels=None, size=17, **options):
        generator = Gaussian(**options).build(SampleSpec.of(x, labels))
        data = Samples(x, labels)
        fit(generator, [data[i : i + size] for i in range(0, len(x), size)], epochs=2)
        return generator

    return gaussian


@pytest.fixture
def x():
    rng = torch.Generator().manual_seed(0)
    return torch.randn(101, 6, generator=rng) @ torch.randn(6, 6, generator=rng) + 100.0


@pytest.mark.parametrize(("estimator", "ddof"), [("unbiased", 1), ("maximum_likelihood", 0)])
@pytest.mark.parametrize("size", [101, 17, 1])
def test_moments_are_numpys_whatever_the_batches(x, estimator, ddof, size, fitted):
    law = fitted(x, size=size, estimator=estimator).law()
    data = x.double().numpy()
    np.testing.assert_allclose(law.mean, data.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(law.covariance, np.cov(data.T, ddof=ddof), rtol=1e-9)


def test_batches_that_come_together_count_one_after_the_other(x, fitted, fit):
    """To the last bit."""
    labels = torch.arange(101) % 3
    together = Gaussian().build(SampleSpec.of(x, labels))
    groups = [Batches(x[:34], labels[:34], 17), Batches(x[34:], labels[34:], 17, 2)]
    fit(together, groups, epochs=2)
    assert together.digest() == fitted(x, labels, size=17).digest()


@pytest.mark.parametrize("estimator", ["unbiased", "maximum_likelihood"])
@pytest.mark.parametrize("size", [101, 17])
def test_weighted_moments_are_numpys(x, fit, size, estimator):
    """``aweights``: a sample counts more, the number of samples stays what it is."""
    weights = torch.rand(101, generator=torch.Generator().manual_seed(3)) + 0.1
    weights[5] = 0.0
    labels = torch.arange(101) % 2
    batches = [
        Samples(x[i : i + size], labels[i : i + size], weights=weights[i : i + size])
        for i in range(0, 101, size)
    ]
    for per_class in (False, True):
        gaussian = Gaussian(estimator, per_class).build(SampleSpec.of(x, labels))
        fit(gaussian, batches)
        for k in range(1 + per_class):
            rows = labels == k if per_class else labels >= 0
            own, w = x[rows].double().numpy(), weights[rows].double().numpy()
            ddof = 1 if estimator == "unbiased" else 0
            np.testing.assert_allclose(gaussian.mean[k], np.average(own, axis=0, weights=w))
            np.testing.assert_allclose(
                gaussian.covariance()[k], np.cov(own.T, aweights=w, ddof=ddof), rtol=1e-9
            )
            assert float(gaussian.n[k]) == pytest.approx(w.sum() ** 2 / (w**2).sum())


def test_one_gaussian_a_class(x, fitted):
    labels = torch.arange(101) % 3
    generator = fitted(x, labels)
    for k in range(3):
        np.testing.assert_allclose(generator.mean[k], x[labels == k].double().mean(0), rtol=1e-12)
    assert generator.law() is None
    assert fitted(x, labels, per_class=False).law() is not None


@pytest.mark.parametrize("bias", [1.0, 0.8, 0.25])
def test_samples_have_mean_mu_and_covariance_lambda_sigma(x, bias, fitted):
    generator = fitted(x)
    drawn = generator.sample(sample_seeds(0, 40_000, 0, "s"), bias).values.double()
    law = generator.law()
    scale = law.covariance.diagonal().mean()
    assert (drawn.mean(0) - law.mean).abs().max() < 0.03 * scale.sqrt()
    assert (drawn.T.cov() - bias * law.covariance).abs().max() < 0.04 * scale


def test_a_singular_covariance_is_no_obstacle(fitted):
    few = torch.randn(4, 10, generator=torch.Generator().manual_seed(1))
    drawn = fitted(few).sample(sample_seeds(0, 50, 0, "s")).values.double()
    centred = drawn - few.double().mean(0)
    assert torch.linalg.matrix_rank(centred, rtol=1e-4) == 3
