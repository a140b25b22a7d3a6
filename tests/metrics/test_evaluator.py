"""Every value goes with its protocol and its floor."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import linalg

from mad_lightning.data.laws import StandardNormal
from mad_lightning.data.real import RealData
from mad_lightning.metrics import (
    Classes,
    Classifier,
    Evaluator,
    Frechet,
    GaussianW2,
    Identity,
    Memorisation,
    Neighbours,
)
from mad_lightning.metrics.features import Inception

NEIGHBOURS = {"precision", "recall", "density", "coverage"}


def vectors(n=400, seed=0, dim=5):
    return torch.tensor(np.random.default_rng(seed).normal(size=(n, dim)), dtype=torch.float32)


@pytest.mark.parametrize(
    ("extractor", "name"),
    [(Inception, "fid"), (Classifier, "fd_classifier"), (Identity, "fd_identity")],
)
def test_names_tell_what_values_were_measured_with(extractor, name):
    evaluator = Evaluator(extractor(), [Frechet(), Neighbours()])
    assert evaluator.compare(vectors(), vectors(seed=1)).keys() == {name} | NEIGHBOURS


def test_all_metrics_share_the_features():
    together = Evaluator(Identity(), [Frechet(), Neighbours(3)])
    alone = [Evaluator(Identity(), [metric]) for metric in together.metrics]
    values = together.compare(vectors(), vectors(seed=1))
    assert values == {
        name: value
        for each in alone
        for name, value in each.compare(vectors(), vectors(seed=1)).items()
    }


def test_the_real_side_is_the_first():
    """Three modes against one: what is precise one way is recalled the other."""
    many, one = torch.cat([vectors(100) + by for by in (0, 50, 100)]), vectors(300, seed=1)
    evaluator = Evaluator(Identity(), [Neighbours()])
    there, back = evaluator.compare(many, one), evaluator.compare(one, many)
    assert there["recall"] == back["precision"] < 0.4
    assert there["precision"] == back["recall"] > 0.8


def test_the_protocol_says_what_values_depend_on():
    protocol = Evaluator(Identity(), [Neighbours(3, "open"), Frechet()]).protocol(400)
    assert protocol == {"n": 400, "extractor": "identity", "k": 3, "balls": "open"}


@pytest.mark.parametrize("extractor", [Classifier, Inception])
def test_the_protocol_names_weights_and_resize(extractor):
    built = extractor()
    built.weights = "0123456789ab"
    protocol = Evaluator(built, [Neighbours()]).protocol(7)
    assert (protocol["extractor"], protocol["weights"]) == (built.name, "0123456789ab")
    assert protocol["resize"]
    assert json.loads(json.dumps(protocol)) == protocol


# --- the floor ----------------------------------------------------------------------------------


def gaussians(n=500, dim=5):
    real = RealData(StandardNormal(dim), n, 0, 0, None)
    evaluator = Evaluator(Identity(), [Neighbours(), Frechet(), GaussianW2()])
    floor = evaluator.compare(real.reference.values, real.floor.values, real.law)
    return SimpleNamespace(real=real, evaluator=evaluator, floor=floor)


def test_a_perfect_generator_scores_the_floor():
    at = gaussians()
    perfect = [at.real.read(500 * i, 500).values for i in range(8)]
    scores = [at.evaluator.compare(at.real.reference.values, x, at.real.law) for x in perfect]
    for name, value in at.floor.items():
        found = np.array([score[name] for score in scores])
        assert abs(found.mean() - value) < 5 * found.std(ddof=1), name


def test_a_worse_generator_scores_worse_than_the_floor():
    at = gaussians()
    narrow = 0.7 * at.real.read(0, 500).values
    values = at.evaluator.compare(at.real.reference.values, narrow, at.real.law)
    assert values["recall"] < at.floor["recall"] - 0.1
    assert values["fd_identity"] > 2 * at.floor["fd_identity"]
    assert values["w2_squared"] > 2 * at.floor["w2_squared"]


def test_the_floor_of_w2_is_that_of_sample_moments_against_the_law():
    at = gaussians()
    x = at.real.floor.values.double().numpy()
    mean, covariance = x.mean(axis=0), np.cov(x.T)
    root = linalg.sqrtm(covariance).real
    expected = mean @ mean + np.trace(covariance) + 5 - 2 * np.trace(root)
    assert at.floor["w2_squared"] == pytest.approx(expected, rel=1e-6)


def test_known_laws_leave_no_sampling_error():
    at = gaussians()
    law = at.real.law
    values = at.evaluator.compare(at.real.reference.values, at.real.floor.values, law, law)
    assert values["w2_squared"] == pytest.approx(0.0, abs=1e-12)
    assert values["fd_identity"] == at.floor["fd_identity"] > 0.01


def test_the_floor_depends_on_n():
    """More samples, lower bias: values are comparable at equal n only, so the protocol holds n."""
    assert gaussians(2000).floor["fd_identity"] < 0.5 * gaussians(500).floor["fd_identity"]


# --- what some metrics need beyond features ------------------------------------------------------


def test_labels_and_training_features_reach_the_metrics_that_need_them():
    evaluator = Evaluator(Identity(), [Classes(), Memorisation()])
    real, synthetic, training = vectors(), vectors(seed=1), vectors(seed=2)
    labels = torch.arange(400) % 4
    values = evaluator.compare(
        real, synthetic, real_labels=labels, synthetic_labels=labels % 2, training=training
    )
    assert values["class_share"] == pytest.approx(0.5)
    assert values["memorised"] == pytest.approx(0.05, abs=0.05)
