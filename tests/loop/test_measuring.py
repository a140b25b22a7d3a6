"""The floor is measured once, before anything is trained, and again only if it would differ."""

import os

import numpy as np
import pytest
import torch

from mad_lightning.commands import main
from mad_lightning.commands.train import build
from mad_lightning.files import read_json, write_json
from mad_lightning.metrics.features.plain import Identity
from mad_lightning.metrics.functional import frechet_distance, two_sample
from mad_lightning.refusal import Refused
from mad_lightning.samples import to_floats


@pytest.fixture
def compared(monkeypatch):
    """How often a floor was measured."""
    from mad_lightning.metrics.evaluator import Evaluator

    calls = []
    floor = Evaluator.floor

    def counted(self, *sides):
        calls.append(sides)
        return floor(self, *sides)

    monkeypatch.setattr(Evaluator, "floor", counted)
    return calls


def measuring(arguments):
    meta = build(arguments)
    meta.measuring.prepare()
    return meta.measuring


def test_the_floor_is_real_samples_against_other_real_samples(arguments):
    measured = measuring(arguments)
    real = measured.real
    samples = torch.cat([to_floats(x.values).flatten(1) for x in (real.reference, real.floor)])
    labels = torch.cat([real.reference.labels, real.floor.labels])
    readings = []
    for seed in range(60):
        mixed = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
        mixed = mixed[labels[mixed].argsort(stable=True)]  # as many of each class on either side
        sides = samples[mixed[::2]], samples[mixed[1::2]]
        readings.append((frechet_distance(*sides), two_sample(*sides, k=5)["recall"]))
    for name, series in zip(("fd_identity", "recall"), np.array(readings).T, strict=True):
        deviation = series.std(ddof=1)
        assert abs(measured.floor[name] - series.mean()) < 4 * deviation / 8**0.5
        assert 0.4 < measured.floor_errors[name] / deviation < 2.2


def test_it_is_kept_and_not_measured_again(arguments, compared):
    first = measuring(arguments)
    floor = first.floor
    kept = read_json(first.lineage.floor_file)
    assert (kept["values"], kept["errors"]) == (floor, first.floor_errors)
    assert kept["protocol"]["n"] == 100
    assert measuring(arguments).floor == floor
    assert len(compared) == 1


def test_a_floor_without_its_error_is_measured_again(arguments, compared):
    first = measuring(arguments)
    floor = first.floor
    kept = read_json(first.lineage.floor_file)
    del kept["errors"]
    write_json(first.lineage.floor_file, kept)
    assert measuring(arguments).floor == floor
    assert len(compared) == 2


@pytest.mark.parametrize(
    "other",
    [
        ["--data.split_seed", "1"],
        ["--evaluator.metrics", '[{"class_path": "Neighbours", "init_args": {"k": 3}}]'],
    ],
)
def test_a_floor_of_other_data_or_another_protocol_is_not_taken(arguments, compared, other):
    floor = measuring(arguments).floor
    assert measuring([*arguments, *other]).floor != floor
    assert len(compared) == 2


def test_once_there_is_a_record_the_ledger_says_it(arguments, compared):
    meta = build([*arguments, "--lineage.generations", "1"])
    (record,) = meta.fit()
    kept = meta.lineage.floor_file.read_bytes()
    meta.lineage.floor_file.unlink()
    before = len(compared)
    again = measuring(arguments)
    assert (again.floor, again.floor_errors) == (record.floor, record.floor_errors)
    assert len(compared) == before
    assert meta.lineage.floor_file.read_bytes() == kept


def test_a_cache_is_swept_of_what_a_killed_program_left(arguments):
    measuring(arguments).floor  # noqa: B018
    (place,) = measuring(arguments).data.cache.glob("features-*/reference")
    torn = place / ".00001.safetensors.00000000.1.tmp"
    torn.touch()
    measuring(arguments).floor  # noqa: B018
    assert torn.exists(), "another host may be writing it"
    os.utime(torn, (1.0, 1.0))
    measuring(arguments).floor  # noqa: B018
    assert not torn.exists()


def test_a_metric_that_cannot_compare_such_samples_is_refused_where_it_stands(arguments):
    place = arguments.index("Digits")
    arguments[place : place + 1] = ["StandardNormal"]
    asked = [*arguments, "--evaluator.metrics", '[{"class_path": "Classes"}]']
    with pytest.raises(Refused, match=r"evaluator\.metrics\.Classes: "):
        _ = measuring(asked).floor


def test_the_preset_of_other_papers_compares_with_all_training_data(arguments, capsys):
    full = ["--evaluator.preset", "fid50k_full", "--evaluator.n_drawn", "300"]
    full += ["--evaluator.metrics", "null", "--lineage.generations", "2"]
    for name, seed in (("a", "0"), ("b", "1")):
        meta = build([*arguments, *full, "--lineage.name", name, "--seed_everything", seed])
        records = meta.fit()
    x = Identity()(meta.real.whole)
    drawn = meta.store["002"].samples
    assert (len(x), len(drawn)) == (1797, 300)  # more than the 200 of a mix
    told = records[1].metrics
    for name, value in two_sample(x, Identity()(drawn), k=3).items():
        assert told[name] == value
    assert told["fd_identity"] == pytest.approx(frechet_distance(x, Identity()(drawn)), rel=1e-9)
    protocol = records[1].protocol
    assert (protocol["preset"], protocol["n"], protocol["k"]) == ("fid50k_full", 300, 3)
    assert (protocol["reference"], protocol["n_reference"]) == ("all training data", 1797)
    assert protocol["floor"] == "not available"
    assert (records[1].floor, records[1].errors) == ({}, {})

    main(["report", *map(str, meta.lineage.path.parent.glob("*"))])
    assert "fd_identity" in capsys.readouterr().out
    held_out = [*arguments, "--lineage.name", "b", "--seed_everything", "1"]
    with pytest.raises(Refused, match="preset"):
        build([*held_out, "--lineage.generations", "3"]).fit()


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (["--evaluator.metrics", "[Memorisation]"], "evaluator.preset"),
        (["--evaluator.metrics", "[Neighbours]"], "evaluator.preset"),
        (["--evaluator.preset", "held_out"], "evaluator.n_drawn"),
        (["--data.source", "StandardNormal", "--data.source.dim", "2"], "evaluator.preset"),
    ],
)
def test_what_the_preset_has_no_meaning_for_is_refused(arguments, given, field):
    full = ["--evaluator.preset", "fid50k_full", "--evaluator.n_drawn", "300"]
    with pytest.raises(Refused) as caught:
        build([*arguments, *full, "--evaluator.metrics", "null", *given]).fit()
    assert caught.value.field == field
