"""The Gaussian family is its moments."""

import lightning as L
import numpy as np
import pytest
import torch

from mad_lightning.generators import Gaussian
from mad_lightning.samples import Samples, SampleSpec
from mad_lightning.seeds import sample_seeds


class Batches(list):
    """A loader."""


def fit(x, labels=None, size=17, **options):
    spec = SampleSpec(tuple(x.shape[1:]), None if labels is None else int(labels.max()) + 1)
    generator = Gaussian(**options)
    generator.build(spec)
    data = Samples(x, labels)
    batches = Batches(data[i : i + size] for i in range(0, len(x), size))
    L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(generator, train_dataloaders=batches)
    return generator


@pytest.fixture
def x():
    rng = torch.Generator().manual_seed(0)
    return torch.randn(101, 6, generator=rng) @ torch.randn(6, 6, generator=rng) + 100.0


@pytest.mark.parametrize(("estimator", "ddof"), [("unbiased", 1), ("maximum_likelihood", 0)])
@pytest.mark.parametrize("size", [101, 17, 1])
def test_moments_are_numpys_whatever_the_batches(x, estimator, ddof, size):
    law = fit(x, size=size, estimator=estimator).law()
    data = x.double().numpy()
    np.testing.assert_allclose(law.mean, data.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(law.covariance, np.cov(data.T, ddof=ddof), rtol=1e-9)


def test_one_gaussian_a_class(x):
    labels = torch.arange(101) % 3
    generator = fit(x, labels)
    for k in range(3):
        np.testing.assert_allclose(generator.mean[k], x[labels == k].double().mean(0), rtol=1e-12)
    assert generator.law() is None
    assert fit(x, labels, per_class=False).law() is not None


@pytest.mark.parametrize("bias", [1.0, 0.8, 0.25])
def test_samples_have_mean_mu_and_covariance_lambda_sigma(x, bias):
    generator = fit(x)
    drawn = generator.sample(sample_seeds(0, 40_000, 0, "s"), bias).values.double()
    law = generator.law()
    scale = law.covariance.diagonal().mean()
    assert (drawn.mean(0) - law.mean).abs().max() < 0.03 * scale.sqrt()
    assert (drawn.T.cov() - bias * law.covariance).abs().max() < 0.04 * scale


def test_a_singular_covariance_is_no_obstacle():
    few = torch.randn(4, 10, generator=torch.Generator().manual_seed(1))
    drawn = fit(few).sample(sample_seeds(0, 50, 0, "s")).values.double()
    centred = drawn - few.double().mean(0)
    assert torch.linalg.matrix_rank(centred, rtol=1e-4) == 3
