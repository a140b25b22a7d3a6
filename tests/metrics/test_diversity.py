"""Measures of diversity against what they say they are, sample by sample."""

import math

import numpy as np
import pytest
import torch

from mad_lightning.commands.train import build
from mad_lightning.data.laws import Grid25
from mad_lightning.metrics import LogDeterminant, Modes, Trace, View
from mad_lightning.refusal import Refused
from mad_lightning.samples import Law
from mad_lightning.seeds import sample_seeds


def law(modes):
    modes = torch.as_tensor(modes).double()
    return Law(modes.mean(dim=0), torch.eye(modes.shape[1]).double(), modes)


def measured(metric, x, centres):
    return metric(View(torch.zeros(3, x.shape[1]), law=law(centres)), View(x))


def by_hand(x, centres, radius, least):
    """Sample by sample, in plain float64."""
    members = {mode: [] for mode in range(len(centres))}
    for sample in x.double().tolist():
        distances = [math.dist(sample, centre) for centre in centres]
        mode = distances.index(min(distances))
        if distances[mode] <= radius:
            members[mode].append(sample)
    alive = [each for each in members.values() if len(each) >= least]
    wide = [np.var(each, axis=0, ddof=1).mean() for each in alive if len(each) >= 2]
    return len(alive), np.mean(wide) if wide else math.nan


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize(("radius", "least"), [(0.3, 1), (1.0, 1), (1.0, 7), (50.0, 2)])
def test_modes_are_those_counted_by_hand(dim, radius, least):
    rng = torch.Generator().manual_seed(dim)
    centres = (3.0 * torch.randn(12, dim, generator=rng)).double()
    which = torch.randint(0, 9, (200,), generator=rng)  # the last three modes are dead
    x = (centres[which] + torch.randn(200, dim, generator=rng) * 0.3).float()
    values = measured(Modes(radius, least), x, centres)
    count, variance = by_hand(x, centres.tolist(), radius, least)
    assert values["modes"] == count
    assert values["mode_variance"] == pytest.approx(variance, rel=1e-9, nan_ok=True)


def test_a_mode_dies_with_its_last_sample():
    centres = torch.cartesian_prod(torch.arange(3.0), torch.arange(2.0))
    alive = []
    for n in range(7):
        x = torch.cat([torch.full((5, 2), 99.0), centres[:n] + 0.01])
        alive.append(measured(Modes(0.1), x, centres)["modes"])
    assert alive == list(range(7))


def test_the_radius_belongs_to_the_mode_and_least_is_enough():
    centres, x = [[0.0, 0.0], [4.0, 0.0]], torch.tensor([[0.5, 0.0], [0.0, -0.25]])
    assert measured(Modes(0.5, 2), x, centres)["modes"] == 1
    assert measured(Modes(0.5, 3), x, centres)["modes"] == 0
    assert measured(Modes(0.499, 2), x, centres)["modes"] == 0


def test_modes_without_two_samples_have_no_variance():
    values = measured(Modes(0.5), torch.tensor([[0.0, 0.1]]), [[0.0, 0.0], [4.0, 0.0]])
    assert values["modes"] == 1
    assert math.isnan(values["mode_variance"])


def test_a_grid_has_all_its_modes_and_their_variance():
    x = Grid25(side=4, std=0.1).draw(sample_seeds(0, 4000, 0, "x")).values
    values = Modes(0.5)(View(x, law=Grid25(side=4, std=0.1).law), View(x))
    assert values["modes"] == 16
    assert values["mode_variance"] == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_trace_is_numpys(offset):
    x = torch.randn(77, 5, generator=torch.Generator().manual_seed(0)) + offset
    value = Trace()(View(torch.zeros(3, 5)), View(x))["trace_identity"]
    assert value == pytest.approx(np.trace(np.cov(x.double().numpy().T)), rel=1e-9)
    assert list(Trace()(View(x), View(x, "classifier"))) == ["trace_classifier"]


@pytest.mark.parametrize("dim", [1, 5])
def test_the_determinant_is_numpys_and_its_error_that_of_other_samples(dim):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(dim, dim))
    clouds = [torch.from_numpy(rng.normal(size=(200, dim)) @ root + 7.0) for _ in range(200)]
    told = [LogDeterminant()(View(x), View(x))["log_det_identity"] for x in clouds]
    of_numpy = np.linalg.slogdet(np.cov(clouds[0].numpy().T).reshape(dim, dim))[1] / dim
    assert told[0] == pytest.approx(of_numpy, rel=1e-9)
    errors = [LogDeterminant().errors(View(x), View(x), 200) for x in clouds[:20]]
    mean = np.mean([error["log_det_identity"].samples for error in errors])
    assert mean == pytest.approx(np.std(told), rel=0.15)


@pytest.mark.parametrize("x", [torch.randn(5, 5), torch.randn(9, 1).expand(9, 3)])
def test_a_subspace_has_no_determinant(x):
    assert math.isnan(LogDeterminant()(View(x), View(x))["log_det_identity"])
    assert LogDeterminant().errors(View(x), View(x), 9) == {}


@pytest.mark.parametrize(
    ("options", "field"),
    [((0.0,), "radius"), ((-1.0,), "radius"), ((math.nan,), "radius"), ((0.25, 0), "least")],
)
def test_settings_that_mean_nothing_are_refused(options, field):
    with pytest.raises(Refused) as caught:
        Modes(*options)
    assert caught.value.field == field


def test_features_have_no_places_to_be_modes():
    Modes(0.25).check(100, "identity")
    with pytest.raises(Refused, match="classifier"):
        Modes(0.25).check(100, "classifier")


def test_a_source_that_knows_no_modes_is_refused_before_training(arguments, tmp_path):
    place = arguments.index("--evaluator.metrics")
    arguments[place + 1] = '[{"class_path": "Modes", "init_args": {"radius": 0.25}}]'
    with pytest.raises(Refused, match="where the modes"):
        build(arguments).fit()
    assert not list((tmp_path / "runs").rglob("generation_*"))


def test_the_floor_and_the_generations_of_a_lineage_are_measured(tmp_path):
    meta = build(
        [
            "--config", "configs/grid25_mixture_full_synth.yaml",
            "--lineage.root", str(tmp_path),
            "--lineage.name", "e5",
            "--lineage.generations", "2",
            "--data.cache", str(tmp_path / "cache"),
            "--callbacks", "[]",
        ]
    )  # fmt: skip
    for record in meta.fit():
        for values in (record.metrics, record.floor):
            assert values["modes"] == 25
            assert values["mode_variance"] == pytest.approx(0.0025, rel=0.15)
            assert values["trace_identity"] == pytest.approx(4.005, rel=0.1)
        assert record.protocol["mode_radius"] == 0.25
