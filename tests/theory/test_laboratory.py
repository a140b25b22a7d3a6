"""The laboratory: its tables, its two questions, what was really trained, and what it refuses."""

import csv
import io
import math
import re

import numpy as np
import pytest

from mad_lightning import FreshData, FullySynthetic, SyntheticAugmentation
from mad_lightning.lineage import GenerationRecord, LineageDirectory
from mad_lightning.refusal import Refused
from mad_lightning.theory import (
    Categorical,
    KernelDensity,
    Laboratory,
    LeastSquares,
    Normal,
    Study,
    follow,
)
from mad_lightning.theory.figures import Axes, draw

LOOPS = [FullySynthetic(30), FreshData(30, 5, 25)]


def test_the_table_has_a_row_for_each_setting_generation_and_measure():
    laboratory = Laboratory([Normal(), Categorical(9)], LOOPS, measures=["variance", "types"])
    study = Study(laboratory=laboratory, generations=3, lineages=20, threads=1)
    done = []
    rows = study.run(done.append)
    assert len(rows) == 2 * 2 * 3
    assert sum(done) == len(study.loops) == 4
    assert [tuple(row) for row in rows] == [study.columns] * len(rows)
    assert {(row["family"], row["measure"]) for row in rows} == {
        ("Normal", "variance"),
        ("Categorical (types=9)", "types"),
    }
    read = list(csv.DictReader(io.StringIO(study.table(rows))))
    assert [float(row["mean"]) for row in read] == [row["mean"] for row in rows]


def test_the_numbers_are_those_of_the_lineages():
    laboratory = Laboratory([Normal()], [LOOPS[1]], [1.0, 0.5], measures=["variance"])
    rows = laboratory.run(4, 300, seed=5, threads=1)
    seeds = [one.seed for one in laboratory.settings(4, 5)]
    for bias, seed, four in zip((1.0, 0.5), seeds, (rows[:4], rows[4:]), strict=True):
        told = follow(Normal(), LOOPS[1], 4, 300, bias, seed)["variance"]
        expected = Normal().expected(LOOPS[1], 4, bias)["variance"]
        assert [row["mean"] for row in four] == pytest.approx(told.mean(axis=0))
        assert [row["median"] for row in four] == pytest.approx(np.median(told, axis=0))
        assert [row["expected"] for row in four] == pytest.approx(expected)
        assert four[1]["standard_error"] == pytest.approx(told[:, 1].std(ddof=1) / 300**0.5)
        assert [row["n_fresh"] for row in four] == [5] * 4
        assert [row["samples"] for row in four] == [30] * 4
    assert "8 means have a known expectation" in laboratory.told(rows)


def test_a_mean_that_few_lineages_carry_is_not_held_against_its_expectation():
    laboratory = Laboratory([Normal()], [FullySynthetic(5)], measures=["variance"])
    rows = laboratory.run(60, 200, threads=1)
    assert rows[0]["carriers"] > 100
    assert rows[-1]["carriers"] < 20
    assert "carried by a few lineages" in laboratory.told(rows)


COLLAPSE = Laboratory(
    [Normal(), Categorical(40), KernelDensity(0.5), KernelDensity("silverman")],
    [FullySynthetic(20), SyntheticAugmentation(20)],
    question="collapse",
)


def test_the_verdict_names_those_whose_variance_collapses():
    rows = COLLAPSE.run(8, 400, threads=1)
    closed = {row["family"]: row for row in rows if row["loop"] == "full_synth"}
    assert {name: row["verdict"] for name, row in closed.items()} == {
        "Normal": "collapses",
        "Categorical (types=40)": "collapses",
        "KernelDensity (bandwidth=0.5)": "neither",
        "KernelDensity (silverman)": "grows",
    }
    assert {row["verdict"] for row in rows if row["loop"] == "synth_aug"} == {"neither"}
    normal = closed["Normal"]
    assert normal["expected"] == pytest.approx(-1 / 19, rel=0.03)
    assert abs(normal["rate"] - normal["expected"]) < 4 * normal["standard_error"]
    assert normal["low"] < normal["rate"] < normal["high"] < 0
    assert math.isnan(closed["KernelDensity (silverman)"]["expected"])
    told = COLLAPSE.told(rows)
    assert "variance collapses: Normal (full_synth), Categorical (types=40) (full_synth)" in told
    figure = draw(rows, Axes(x="inverse_n", y="rate", line=["family", "loop"], log="")).decode()
    assert "KernelDensity (silverman), full_synth: grows" in figure


def test_what_has_died_counts_as_long_as_it_lived():
    rows = Laboratory([Categorical(3)], [FullySynthetic(3)], question="collapse").run(9, 200)
    assert -2 < rows[0]["rate"] < 0
    assert rows[0]["final"] == 0.0
    gone = Laboratory([Categorical(2)], [FullySynthetic(1)], question="collapse").run(2, 9)
    assert math.isnan(gone[0]["rate"])
    assert gone[0]["verdict"] == "collapses"


def trained(root, name, values, n=50, generator="mad_lightning.generators.Glow"):
    directory = LineageDirectory(root / name)
    directory.path.mkdir(parents=True)
    directory.keep_config(
        {"generator": {"class_path": generator}, "data": {"source": {"class_path": "Rosenbrock"}}}
    )
    for t, value in enumerate(values, 1):
        counts = (n, 0, 0) if t == 1 else (0, 0, n)
        metrics = {"log_det_identity": value}
        directory.ledger.append(GenerationRecord(t, "full_synth", *counts, 1.0, metrics))


def test_lineages_that_were_trained_stand_beside_them(tmp_path):
    for seed, slope in enumerate((-0.30, -0.31, -0.32)):
        trained(tmp_path, f"glow_seed{seed}", [2 + slope * t for t in range(5)])
    for seed, slope in enumerate((-0.1, 0.2)):
        values = [slope * t for t in range(4)]
        trained(tmp_path, f"other_seed{seed}", values, 80, "somebody.Else")
    (tmp_path / "no_lineage").mkdir()
    laboratory = Laboratory(
        [Normal()], [FullySynthetic(20)], question="collapse", trained=[f"{tmp_path}/*"]
    )
    rows = laboratory.run(4, 50, threads=1)
    assert [tuple(row) for row in rows] == [laboratory.columns] * 3
    other, glow = rows[1:]
    assert (glow["family"], glow["n"], glow["lineages"]) == ("Glow on Rosenbrock", 50, 3)
    assert glow["rate"] == pytest.approx(-0.31)
    assert glow["final"] == pytest.approx(math.exp(-4 * 0.31))
    assert (glow["verdict"], other["verdict"]) == ("falls so far", "no trend")
    assert (other["family"], other["generations"]) == ("Else on Rosenbrock", 4)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"families": []}, "families"),
        ({"families": ["Normal"]}, "families"),
        ({"families": Normal()}, "families"),
        ({"loops": []}, "loops"),
        ({"loops": [30]}, "loops"),
        ({"sampling_bias": []}, "sampling_bias"),
        ({"measures": ["colour"]}, "measures"),
        ({"question": "why"}, "question"),
        ({"question": "collapse", "families": [LeastSquares()]}, "families"),
        ({"trained": ["runs/*"]}, "trained"),
    ],
    ids=lambda value: re.sub(r" object at 0x\w+", "", str(value)),
)
def test_a_laboratory_that_cannot_be_is_refused(wrong, field):
    with pytest.raises(Refused) as caught:
        Laboratory(**{"families": [Normal()], "loops": LOOPS, **wrong})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("study", "field"),
    [
        ({}, "generations"),
        ({"generations": 0}, "generations"),
        ({"generations": 3, "lineages": 1}, "lineages"),
        ({"generations": 3, "sampling_bias": [2.0]}, "laboratory.sampling_bias"),
        ({"generations": 3, "loops": [FullySynthetic(1)]}, "laboratory.loops"),
        ({"generations": 1, "question": "collapse"}, "generations"),
    ],
    ids=lambda value: re.sub(r" object at 0x\w+", "", str(value)),
)
def test_a_study_of_it_that_cannot_be_is_refused(study, field):
    own = {k: study.pop(k) for k in ("sampling_bias", "loops", "question") if k in study}
    laboratory = Laboratory(**{"families": [Normal()], "loops": LOOPS, **own})
    with pytest.raises(Refused) as caught:
        Study(laboratory=laboratory, **study)
    assert caught.value.field == field


def test_where_no_determinant_was_told_there_is_a_remedy(tmp_path):
    laboratory = Laboratory([Normal()], [LOOPS[0]], question="collapse", trained=[f"{tmp_path}/*"])
    with pytest.raises(Refused, match="LogDeterminant") as caught:
        Study(laboratory=laboratory, generations=2, lineages=5, threads=1).run()
    assert caught.value.field == "laboratory.trained"
