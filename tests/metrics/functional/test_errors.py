"""Stated errors against how values scatter over independent draws of two laws."""

import math

import pytest
import torch

from mad_lightning.metrics.functional import frechet_distance, kernel_distance, two_sample
from mad_lightning.metrics.functional.errors import (
    frechet_variances,
    kernel_variances,
    neighbour_variances,
    scatter,
)

FACTOR = 1.25
LAWS = {"alike": (1.0, 0.0), "near": (0.95, 0.15), "apart": (0.8, 0.3), "far": (0.5, 0.8)}


class Draws:
    """Features as a network has them: lines of a normal law, cut off below 0."""

    def __init__(self, seed):
        self.rng = torch.Generator().manual_seed(seed)
        self.weights, self.bias = self.normal(10, 24), self.normal(24)

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.rng)

    def features(self, n, scale=1.0, shift=0.0):
        return torch.relu((self.normal(n, 10) * scale + shift) @ self.weights + self.bias)


def values(x, y):
    distances = {"fd": frechet_distance(x, y), "kd": kernel_distance(x, y)}
    return two_sample(x, y) | distances


def variances(x, y, m):
    n = len(x)
    told = neighbour_variances(x[:m], y[:m], n=n)
    return told | {"fd": frechet_variances(x, y), "kd": kernel_variances(x[:m], y[:m], n=n)}


def ratios(law, n, m, draws):
    """Root mean square of stated errors over the standard deviation of values, by name."""
    made, seen, told = Draws(7), [], []
    for _ in range(draws):
        x, y = made.features(n), made.features(n, *LAWS[law])
        seen.append(values(x, y))
        told.append({name: sum(parts) for name, parts in variances(x, y, m).items()})
    return {
        name: math.sqrt(
            sum(each[name] for each in told)
            / draws
            / float(torch.tensor([each[name] for each in seen]).double().var())
        )
        for name in seen[0]
    }


def test_errors_are_those_of_independent_draws():
    for name, ratio in ratios("apart", 150, 150, 130).items():
        assert 1 / FACTOR < ratio < FACTOR, name


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("n", "m"), [(400, 400), (600, 300)])
def test_errors_are_those_of_independent_draws_everywhere(law, n, m):
    for name, ratio in ratios(law, n, m, 400).items():
        # A handful of large balls decide what lies in any far out, and a part sees little of them;
        # distances of equal laws err on the safe side, more so from a part.
        few = law == "far" and name in ("density", "precision", "recall")
        fewest = 0.6 if few else 1 / FACTOR
        most = 1.6 if (law, name) in (("alike", "kd"), ("alike", "fd")) else FACTOR
        assert fewest < ratio < most, name


def test_the_references_part_is_what_one_reference_gives_all_who_are_measured_by_it():
    """Its share of the variance, from 40 references and 4 sample sets each."""
    made = Draws(8)
    shared, own, told = [], [], []
    for _ in range(40):
        x = made.features(200)
        sets = [made.features(200, *LAWS["apart"]) for _ in range(4)]
        read = [values(x, y) for y in sets]
        told.append(variances(x, sets[0], 200))
        by_name = {name: torch.tensor([r[name] for r in read]).double() for name in read[0]}
        shared.append({name: float(series.mean()) for name, series in by_name.items()})
        own.append({name: float(series.var()) for name, series in by_name.items()})
    for name in ("precision", "recall", "coverage", "fd", "kd"):
        within = sum(each[name] for each in own) / 40
        between = float(torch.tensor([each[name] for each in shared]).double().var()) - within / 4
        reference = sum(each[name].reference for each in told) / 40
        samples = sum(each[name].samples for each in told) / 40
        if name not in ("precision", "coverage"):  # of those, 40 references tell too little
            assert 0.5 < math.sqrt(reference / between) < 1.5, name
        assert 0.85 < math.sqrt(samples / within) < 1.3, name


def test_a_part_of_the_samples_tells_the_error_of_all():
    made = Draws(9)
    x, y = made.features(1600), made.features(1600, *LAWS["apart"])
    whole, part = variances(x, y, 1600), variances(x, y, 400)
    for name in ("recall", "coverage", "kd"):
        assert 0.5 < math.sqrt(sum(part[name]) / sum(whole[name])) < 1.6, name


def test_what_classes_differ_by_is_no_scatter_of_sets_that_hold_a_fixed_number_of_each():
    values, labels = torch.tensor([1.0, 3.0, 11.0, 13.0]), torch.tensor([0, 0, 1, 1])
    assert scatter(values, None) == pytest.approx(float(values.var()))
    assert scatter(values, labels) == 2.0


@pytest.mark.parametrize("kind", ["copies", "one point", "equal"])
def test_degenerate_sets_have_errors_too(kind):
    x = Draws(1).features(60)
    y = {"copies": x[:3].repeat(20, 1), "one point": x[:1].repeat(60, 1), "equal": x.clone()}[kind]
    for name, told in variances(x, y, 60).items():
        assert all(map(math.isfinite, told)), name
        assert min(told) >= 0.0, name
    for name, told in variances(y, y, 60).items():
        assert all(map(math.isfinite, told)), name


def test_sets_that_nowhere_meet_have_values_without_an_error():
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    for variances in neighbour_variances(x, x + 1e6, 5).values():
        assert variances == (0.0, 0.0)
