"""Studies: their loops, how long they run, and what they refuse."""

import csv
import io

import pytest

from mad_lightning.refusal import Refused
from mad_lightning.theory import FreshLoop, LoopGrid, Study, effective_sample_sizes
from mad_lightning.theory.closed_forms import fresh_moments
from mad_lightning.theory.study import relative_error

FOLLOWED = LoopGrid([20], [10, 40], n_initial=[20])


def test_a_grid_is_every_combination_of_its_lists():
    rows = LoopGrid([3, 4], [5], sampling_bias=[1.0, 0.5], k=[1, 2]).rows(followed=False)
    loops = [(row["n_real"], row["sampling_bias"], row["k"]) for row in rows]
    assert loops == [(n, bias, k) for n in (3, 4) for bias in (1.0, 0.5) for k in (1, 2)]
    assert {(row["n"], row["n_real"] / row["n"] == row["real_share"]) for row in rows} == {
        (8, True),
        (9, True),
    }


def test_loops_have_their_sizes_by_count_or_by_share():
    by_share = LoopGrid(n=[10, 20], real_share=[0.3]).rows(followed=False)
    assert [(row["n_real"], row["n_synthetic"]) for row in by_share] == [(3, 7), (6, 14)]


def test_limits_are_those_of_the_effective_sample_sizes():
    study = Study(LoopGrid([20], [10, 40]), dim=6, precision=0.05, threads=1)
    loops = [FreshLoop(20, 10), FreshLoop(20, 40)]
    sizes = effective_sample_sizes(loops, 6, precision=0.05, threads=1)
    rows = study.run()
    assert [row["n_e"] for row in rows] == [size.n_e for size in sizes]
    assert [(row["ratio_low"], row["ratio_high"]) for row in rows] == [s.interval for s in sizes]


def test_followed_lineages_have_the_moments_of_the_closed_forms():
    study = Study(FOLLOWED, dim=6, generations=4, lineages=4000, threads=1)
    for row in study.run():
        moments = fresh_moments(row["generation"], 20, 20, row["n_synthetic"], variance=6.0)
        assert row["drift"] == pytest.approx(moments.drift, rel=0.05)
        assert 6 * row["variance_mean"] == pytest.approx(moments.variance, rel=0.02)
        assert row["variance_median"] != row["variance_mean"]


def test_a_followed_study_takes_as_many_lineages_as_the_precision_asks_for():
    done = []
    study = Study(FOLLOWED, dim=6, generations=3, precision=0.02, threads=1)
    rows = study.run(done.append)
    assert max(map(relative_error, rows)) <= 0.02
    assert rows[0]["lineages"] > 16
    assert sum(done) == len(study.loops), "begun anew, but counted once"
    few = Study(FOLLOWED, dim=6, generations=3, precision=0.02, lineages=4, threads=1).run()
    assert {row["lineages"] for row in few} == {4}


def test_the_table_has_a_column_for_each_value():
    study = Study(FOLLOWED, also=FOLLOWED, dim=2, generations=2, lineages=4, threads=1)
    rows = study.run()
    read = list(csv.DictReader(io.StringIO(study.table(rows))))
    assert [row["grid"] for row in read] == ["1"] * 4 + ["2"] * 4
    assert [float(row["w2_squared"]) for row in read] == [row["w2_squared"] for row in rows]
    assert tuple(read[0]) == study.columns


@pytest.mark.parametrize(
    ("grid", "field", "words"),
    [
        ({"n_real": [1], "n_synthetic": [9]}, "grid.n_real", "at least 2"),
        ({"n": [10], "real_share": [0.1]}, "grid.n and real_share", "at least 2"),
        ({"n": [10], "real_share": [1.2]}, "grid.real_share", "outside"),
        ({"n_real": [9], "n_synthetic": [9], "k": []}, "grid.k", "empty"),
        ({"n_real": [9], "n_synthetic": [9], "k": [0]}, "grid.k", "at least 1"),
        ({"n_real": [9], "n_synthetic": [9], "n_initial": [9]}, "grid.n_initial", "a list"),
        ({"n_real": [9]}, "grid", "no sizes"),
        ({}, "grid", "no sizes"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(grid, field, words):
    with pytest.raises(Refused, match=words) as caught:
        Study(LoopGrid(**grid))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "wrong",
    [{"dim": 0}, {"lineages": 1}, {"threads": 0}, {"precision": 0.5}, {"device": "abacus"}],
    ids=str,
)
def test_a_study_that_cannot_be_is_refused(wrong):
    with pytest.raises(Refused) as caught:
        Study(LoopGrid([9], [9]), **wrong)
    assert caught.value.field == next(iter(wrong))
