"""Every value goes with its protocol and its floor."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import linalg

from mad_lightning.data.laws import StandardNormal
from mad_lightning.data.real import RealData
from mad_lightning.lineage.quantities import Quantity
from mad_lightning.metrics import (
    Classes,
    Classifier,
    Evaluator,
    Frechet,
    GaussianW2,
    Identity,
    Inception,
    Kernel,
    Memorisation,
    Metric,
    Modes,
    Neighbours,
    TailMass,
    Trace,
    View,
)
from mad_lightning.refusal import Refused, at

NEIGHBOURS = {"precision", "recall", "density", "coverage"}


def vectors(n=400, seed=0, dim=5):
    return View(
        torch.tensor(np.random.default_rng(seed).normal(size=(n, dim)), dtype=torch.float32)
    )


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
        for evaluator in alone
        for name, value in evaluator.compare(vectors(), vectors(seed=1)).items()
    }


def test_the_real_side_is_the_first():
    """Three modes against one: what is precise one way is recalled the other."""
    many = View(torch.cat([vectors(100).features + by for by in (0, 50, 100)]))
    one = vectors(300, seed=1)
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
    reference = View(real.reference.values, law=real.law)
    floor = evaluator.compare(reference, View(real.floor.values))
    return SimpleNamespace(real=real, reference=reference, evaluator=evaluator, floor=floor)


def test_a_perfect_generator_scores_the_floor():
    known = gaussians()
    perfect = [View(known.real.read(500 * i, 500).values) for i in range(8)]
    scores = [known.evaluator.compare(known.reference, view) for view in perfect]
    for name, value in known.floor.items():
        found = np.array([score[name] for score in scores])
        assert abs(found.mean() - value) < 5 * found.std(ddof=1), name


def test_a_worse_generator_scores_worse_than_the_floor():
    known = gaussians()
    narrow = View(0.7 * known.real.read(0, 500).values)
    values = known.evaluator.compare(known.reference, narrow)
    assert values["recall"] < known.floor["recall"] - 0.1
    assert values["fd_identity"] > 2 * known.floor["fd_identity"]
    assert values["w2_squared"] > 2 * known.floor["w2_squared"]


def test_the_floor_of_w2_is_that_of_sample_moments_against_the_law():
    known = gaussians()
    x = known.real.floor.values.double().numpy()
    mean, covariance = x.mean(axis=0), np.cov(x.T)
    root = linalg.sqrtm(covariance).real
    expected = mean @ mean + np.trace(covariance) + 5 - 2 * np.trace(root)
    assert known.floor["w2_squared"] == pytest.approx(expected, rel=1e-6)


def test_known_laws_leave_no_sampling_error():
    known = gaussians()
    values = known.evaluator.compare(
        known.reference, View(known.real.floor.values, law=known.real.law)
    )
    assert values["w2_squared"] == pytest.approx(0.0, abs=1e-12)
    assert values["fd_identity"] == known.floor["fd_identity"] > 0.01


def test_the_floor_depends_on_n():
    """More samples, lower bias: values are comparable at equal n only, so the protocol holds n."""
    assert gaussians(2000).floor["fd_identity"] < 0.5 * gaussians(500).floor["fd_identity"]


# --- what some metrics need beyond features ------------------------------------------------------


def test_labels_and_training_features_reach_the_metrics_that_need_them():
    evaluator = Evaluator(Identity(), [Classes(), Memorisation()])
    assert evaluator.needs_training
    labels = torch.arange(400) % 4
    real = replace(vectors(), labels=labels, training=vectors(seed=2).features)
    values = evaluator.compare(real, replace(vectors(seed=1), labels=labels % 2))
    assert values["class_share"] == pytest.approx(0.5)
    assert values["memorised"] == pytest.approx(0.05, abs=0.05)


@pytest.mark.parametrize(
    ("metric", "place"),
    [(Classes(), "metrics.Classes"), (Memorisation(), "metrics.Memorisation")],
)
def test_a_metric_that_misses_something_is_named(metric, place):
    with pytest.raises(Refused) as caught:
        Evaluator(Identity(), [Neighbours(), metric]).compare(vectors(), vectors(seed=1))
    assert caught.value.field == place


# --- what is asked beforehand -------------------------------------------------------------------


def test_its_quantities_are_those_of_all_metrics_under_the_names_of_its_values():
    for extractor in (Identity(), Inception()):
        evaluator = Evaluator(extractor, [Neighbours(), Frechet(), Kernel(3, 50)])
        values = evaluator.compare(vectors(), vectors(seed=1))
        assert evaluator.quantities().keys() == values.keys()
    assert evaluator.quantities()["fid"].section == "distance"


class Fussy(Metric):
    """Cannot work with what it is asked about."""

    def __init__(self, field):
        super().__init__()
        self.field = field

    def values(self, real, synthetic):
        return {}

    def check(self, n, extractor):
        raise Refused(self.field, f"{n} on {extractor}", "more than `n`, or lower `width`")


@pytest.mark.parametrize(
    ("field", "place"),
    [("width", "metrics.Fussy.width"), ("", "metrics.Fussy"), ("n", "n")],
)
def test_a_metric_refuses_its_own_parameter_or_the_number_of_samples(field, place):
    evaluator = Evaluator(Identity(), [Neighbours(), Fussy(field)])
    with pytest.raises(Refused) as caught:
        evaluator.check(100)
    assert caught.value.field == place
    assert caught.value.problem == "100 on identity"
    assert caught.value.remedy == "more than `n`, or lower `metrics.Fussy.width`"
    with pytest.raises(Refused) as caught, at("evaluator"):
        evaluator.check(100)
    assert caught.value.field == f"evaluator.{place}"


def test_too_few_samples_are_refused_whatever_metric_minds():
    evaluator = Evaluator(Identity(), [Frechet(), Neighbours(5)])
    evaluator.check(6)
    with pytest.raises(Refused, match="5-th neighbour") as caught:
        evaluator.check(5)
    assert caught.value.field == "n"


@pytest.mark.parametrize("metric", [GaussianW2(), Modes(1.0)])
def test_what_lies_among_samples_is_not_looked_for_among_features(metric):
    Evaluator(Identity(), [metric]).check(100)
    with pytest.raises(Refused, match="Identity") as caught:
        Evaluator(Classifier(), [metric]).check(100)
    assert caught.value.field == f"metrics.{type(metric).__name__}"


# errors


def test_each_value_has_its_error_as_far_as_its_metric_knows():
    metrics = [Neighbours(), Kernel(), Frechet(), GaussianW2()]
    law = StandardNormal(5).law
    sides = [replace(vectors(seed=seed), law=law) for seed in (0, 1)]
    told = Evaluator(Identity(), metrics).errors(*sides)
    assert told.keys() == NEIGHBOURS | {"kd_identity", "fd_identity", "w2_squared"}
    assert told.pop("w2_squared") == (0.0, 0.0)  # both laws are known
    assert all(error.samples > 0 and error.reference > 0 for error in told.values())
    assert Evaluator(Identity(), metrics, n_errors=0).errors(*sides) == {}


@pytest.mark.parametrize("metric", [Trace(), TailMass(0.1), Classes(), Memorisation(0.1)])
def test_errors_of_the_other_metrics_are_those_of_independent_draws(metric):
    """Root mean square of what is told over the standard deviation of values, 80 draws."""
    training, draws = vectors(150, 1).features, []
    for seed in range(80):
        rng = np.random.default_rng(100 + seed)
        labels = torch.arange(150) % 3
        x, y = vectors(150, 1000 + seed), vectors(150, 2000 + seed)
        apart = 1.5 * torch.eye(5)[labels]
        seen = torch.where(torch.tensor(rng.random(150) < 0.8), labels, (labels + 1) % 3)
        real = View(x.features + apart, labels=labels, training=training)
        synthetic = View(0.8 * y.features + apart, labels=labels, seen=seen)
        draws.append((metric(real, synthetic), metric.errors(real, synthetic, 150)))
    for name in draws[0][1]:
        scatter = np.std([values[name] for values, _ in draws], ddof=1)
        told = np.sqrt(np.mean([errors[name].both ** 2 for _, errors in draws]))
        assert told == pytest.approx(scatter, rel=0.3), name


def test_a_reference_with_classes_by_chance_tells_no_error_of_their_recall():
    labels = torch.arange(100) % 2
    real, synthetic = vectors(100), replace(vectors(100, 1), labels=labels, seen=labels)
    told = Evaluator(Identity(), [Classes()]).errors(real, synthetic)
    assert "class_recall" not in told
    assert told["class_share"] == (0.0, 0.0)


def test_halves_of_which_nothing_can_be_said_tell_no_error():
    """Where most values are equal some halves have no tails; where all are copies no ratio."""
    values = torch.zeros(40, 1)
    values[:2] = 1.0
    sides = View(values, training=values), View(values)
    told = Evaluator(Identity(), [TailMass(0.1), Memorisation()]).errors(*sides)
    assert "tail_mass_low" not in told
    assert all(error.both >= 0.0 for error in told.values())


def test_with_no_metrics_named_the_kernel_distance_is_measured_too():
    values = Evaluator(Identity()).compare(vectors(), vectors(seed=1))
    assert values.keys() == NEIGHBOURS | {"kd_identity", "fd_identity"}


def test_a_floor_of_what_generators_were_trained_on_is_one_reading():
    real, others = (View(vectors(60, seed).features) for seed in (0, 1))
    real = replace(real, training=vectors(80, 2).features)
    evaluator = Evaluator(Identity(), [Memorisation(), Frechet()])
    values, errors = evaluator.floor(real, others)
    direct = evaluator.compare(real, others)
    assert values["memorised"] == direct["memorised"]
    assert errors.keys() == {"fd_identity"}
    assert values["fd_identity"] != direct["fd_identity"]


@pytest.mark.parametrize("metric", [Neighbours(), Kernel(), Frechet()])
def test_features_that_cannot_be_squared_are_refused_by_metric(metric):
    huge = View(vectors(50).features.double() * 1e160)
    with pytest.raises(Refused, match="50 of 50 samples with features beyond 1e") as caught:
        Evaluator(Identity(), [metric]).compare(huge, huge)
    assert caught.value.field == f"metrics.{type(metric).__name__}"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"spread": "much"}, "Odd returns spread: 'much'"),
        ({"spread": torch.ones(2)}, "Odd returns spread: tensor"),
        (3.0, "Odd returns a float"),
        (None, "Odd returns a NoneType"),
        ({"spred": 1.0}, "Odd returns spred, and explains spread"),
    ],
    ids=str,
)
def test_a_metric_that_returns_no_numbers_by_their_names_is_refused(values, words):
    class Odd(Metric):
        def quantities(self, extractor):
            return {"spread": Quantity("diversity", worse="lower")}

        def values(self, real, synthetic):
            return values

    side = View(torch.randn(20, 2), "identity")
    for compare in (Evaluator(Identity(), [Odd()]).compare, Evaluator(Identity(), [Odd()]).floor):
        with pytest.raises(Refused) as caught:
            compare(side, side)
        assert caught.value.field == "metrics.Odd"
        assert words in caught.value.problem


def test_what_is_a_number_becomes_one():
    class Exact(Metric):
        def values(self, real, synthetic):
            return {"a": torch.tensor(0.5), "b": np.float32(0.25), "c": 1.5, "d": 2}

    side = View(torch.randn(20, 2), "identity")
    told = Evaluator(Identity(), [Exact()]).compare(side, side)
    assert told == {"a": 0.5, "b": 0.25, "c": 1.5, "d": 2}
    assert {*map(type, told.values())} == {float, int}


def test_another_device_stands_in_the_protocol_and_has_to_be_there(monkeypatch):
    elsewhere = Evaluator(Identity(), [Frechet()], device="cuda")
    assert elsewhere.protocol(9)["compared_on"] == "cuda"
    assert "compared_on" not in Evaluator(Identity(), [Frechet()]).protocol(9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Refused, match="there is none"):
        elsewhere.check(100)
    with pytest.raises(Refused, match="choose cpu or cuda"):
        Evaluator(Identity(), [Frechet()], device="mps")
