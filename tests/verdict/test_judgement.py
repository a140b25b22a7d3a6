"""A judgement holds what its parts say, and asks of a metric what its meaning allows."""

import subprocess
import sys

import numpy as np
import pytest
from truths import FLOOR, lost, tolerated

from mad_lightning.lineage import Quantity
from mad_lightning.verdict import Floor, criteria, departure, judge, verdict


def test_a_judgement_holds_what_its_parts_say():
    made = lost()
    judged = judge(made, FLOOR, closed=True, n=800)
    assert judged.distance == "fd_lite0"
    assert judged.verdict == verdict(made["fd_lite0"], closed=True, floor=None)
    assert judged.verdict.answer == "MAD"
    error = (0.95 * 0.05 / 800) ** 0.5
    assert judged.left["recall"] == departure(made["recall"], 0.95, floor_error=error)
    assert judged.left["precision"].generation == 2
    assert judged.criteria == criteria(made, FLOOR)


def test_floors_of_their_own_need_no_error_from_elsewhere():
    made, own = lost(), [0.95, 0.94, 0.96, 0.95]
    judged = judge(made, FLOOR | {"recall": own}, n=10)
    assert judged.left["recall"] == departure(made["recall"], own)


def test_a_missing_value_is_no_value():
    made = lost()
    made["fd_lite0"][1, 3] = np.nan
    judged = judge(made, FLOOR, closed=True)
    assert judged.verdict.answer == "undecided"
    assert "fd_lite0 is missing" in judged.verdict.reason
    assert judged.left["recall"].generation == 2
    assert "no distance" in judge({"recall": made["recall"]}).verdict.reason


# what a distance reads on real samples


def test_an_unbiased_distance_goes_before_one_that_holds_an_error_of_its_own():
    made = lost()
    made["kd_lite0"] = made["fd_lite0"] - 1
    judged = judge(made, FLOOR, closed=True)
    assert judged.distance == "kd_lite0"
    assert judged.verdict == verdict(made["kd_lite0"], closed=True, floor=Floor())


@pytest.mark.parametrize("floor", [-0.5, [-0.5, -0.4, -0.6, -0.5]])
def test_an_unbiased_distance_is_0_for_real_samples_whatever_a_floor_reads(floor):
    made = lost()["fd_lite0"]
    judged = judge({"kd_x": made}, {"kd_x": floor}, floor_errors={"kd_x": 0.1}, closed=True)
    assert judged.verdict == verdict(made, closed=True, floor=Floor(scatter=0.1))
    assert judged.criteria == judge({"kd_x": made}).criteria


@pytest.mark.parametrize(
    ("floor", "expected"),
    [
        (4.0, Floor(4.0, 2.0, 2.0)),  # one draw: right within half of it
        ([4.0, 4.0, 4.0, 4.0], Floor(4.0, 2.0, 2.0)),
        ([3.0, 5.0, 4.0, 4.0], Floor(4.0, (2 / 3) ** 0.5 / 2, (2 / 3) ** 0.5)),
        (np.nan, None),
    ],
)
def test_a_floor_counts_with_its_error(floor, expected):
    made = lost()["fd_lite0"]
    judged = judge({"fd_lite0": made}, {"fd_lite0": floor})
    direct = verdict(made, floor=expected)
    assert judged.verdict.reason == direct.reason
    assert judged.verdict.excess == pytest.approx(direct.excess, nan_ok=True)


# what a metric may be asked


MINE = {
    "sharpness": Quantity("fidelity", worse="lower", low=0.0, high=1.0),
    "artefacts": Quantity("fidelity", worse="higher", low=0.0, high=1.0),
    "emd": Quantity("distance", worse="higher", low=0.0),
}


def own():
    """Values of three metrics of somebody else, going wrong."""
    made = lost()
    return {
        "sharpness": made["precision"],
        "artefacts": 1 - made["precision"],
        "emd": made["fd_lite0"],
    }


def test_metrics_of_ones_own_are_judged_as_ours_are():
    floor = {"sharpness": 0.9, "artefacts": 0.1, "emd": 0.5}
    judged = judge(own(), floor, quantities=MINE, closed=True, n=800)
    assert judged.distance == "emd"
    assert judged.verdict == judge(lost(), FLOOR | {"fd_lite0": 0.5}, closed=True).verdict
    assert set(judged.left) == {"sharpness", "artefacts"}
    assert judged.left["sharpness"] == judge(lost(), FLOOR, n=800).left["precision"]
    error = (0.9 * 0.1 / 800) ** 0.5
    assert judged.left["artefacts"] == departure(
        own()["artefacts"], 0.1, floor_error=error, higher_is_better=False
    )
    assert judged.left["artefacts"].generation == 2


def test_what_nobody_explains_is_judged_by_nobody():
    judged = judge(own(), {"sharpness": 0.9, "artefacts": 0.1}, closed=True)
    assert (judged.distance, judged.left) == (None, {})
    assert judged.verdict.reason == "no distance was measured"


def test_a_distance_of_ours_goes_before_one_of_ones_own():
    assert judge(own() | lost(), quantities=MINE).distance == "fd_lite0"


def test_only_shares_of_fidelity_and_diversity_leave_a_floor():
    falling = lost()["recall"]
    names = (
        "coverage class_recall class_share recall density tail_mass modes memorised nearest_ratio"
    )
    made = dict.fromkeys(names.split(), falling)
    judged = judge(made, dict.fromkeys(made, 0.95))
    assert list(judged.left) == ["coverage", "class_recall", "class_share", "recall"]
    assert judge(made, {"recall": 0.95}).left.keys() == {"recall"}  # who has no floor leaves none


# the face


@pytest.mark.parametrize("first", ["judge", "criteria", "mad_lightning.verdict.departure"])
def test_the_face_hands_on_functions_and_not_the_files_of_their_names(first):
    module, _, name = first.rpartition(".")
    begin = f"from {module or 'mad_lightning.verdict'} import {name}"
    code = f"{begin}; from mad_lightning.verdict import criteria, departure, verdict; "
    code += "assert all(map(callable, (criteria, departure, verdict)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("first", "distance"), [(10.0, "fd_lite0"), (200.0, "kd_lite0")])
def test_a_kernel_distance_that_begins_near_0_has_no_factor_to_grow_by(first, distance):
    """What one reference tells ± 25 cannot be said to grow tenfold; a Fréchet distance can."""
    growth = np.array([1.0, 2.0, 3.0, 5.0, 9.0, 11.0])
    kernel = first * growth * np.array([[1.0], [0.7], [1.2]])
    frechet = 2.0 + growth * np.array([[1.0], [0.9], [1.1]])
    judged = judge(
        {"kd_lite0": kernel, "fd_lite0": frechet},
        {"kd_lite0": 0.0, "fd_lite0": 1.7},
        errors={
            "kd_lite0": np.full((3, 6, 2), 25.0),
            "fd_lite0": np.full((3, 6, 2), 0.3),
        },
        floor_errors={"kd_lite0": 5.0, "fd_lite0": 0.3},
        closed=True,
    )
    assert judged.distance == distance
    assert judged.verdict.answer == "MAD"
    assert ("within the reference's error" in judged.verdict.reason) == (distance == "fd_lite0")


# precision and recall, where the distance does not tell


def noisy(rng, seeds, last, recall, precision=0.9):
    """A distance that says nothing beside shares that go from one value to another."""
    way = np.linspace(0.0, 1.0, last)
    return {
        "kd_x": 100.0 + 60.0 * rng.standard_normal((seeds, last)),
        **{
            name: 0.9 + (end - 0.9) * way + 0.01 * rng.standard_normal((seeds, last))
            for name, end in {"recall": recall, "precision": precision}.items()
        },
    }


@pytest.mark.parametrize("ends", [{"recall": 0.4}, {"recall": 0.9, "precision": 0.5}])
def test_a_closed_loop_that_loses_recall_or_precision_is_mad_in_the_papers_words(ends):
    made = noisy(np.random.default_rng(3), 3, 6, **ends)
    judged = judge(made, closed=True).verdict
    name = min(ends, key=ends.get)
    assert (judged.answer, judged.by) == ("MAD", name)
    late = made[name][:, -2:].mean() - made[name][:, 0].mean()
    assert judged.lost.estimate == pytest.approx(-late)
    assert 0.2 < judged.lost.low < judged.lost.estimate
    assert judged.reason.startswith(f"{name} fell by ")
    assert judge(made, closed=False).verdict.answer == "undecided"  # real data may bring it back
    assert judge({k: v[:1] for k, v in made.items()}, closed=True).verdict.answer == "undecided"
    short = {k: v[:, [0, 2, 5]] for k, v in made.items()}  # a swing of all seeds looks the same
    assert judge(short, closed=True).verdict.answer == "undecided"


def test_a_distance_that_falls_contradicts_a_recall_that_does():
    made = noisy(np.random.default_rng(5), 3, 6, recall=0.4)
    made["kd_x"] = np.linspace(60.0, 10.0, 6) * np.array([[1.0], [1.1], [0.9]])
    assert judge(made, closed=True).verdict.answer == "undecided"


def test_what_one_reference_may_have_done_to_all_seeds_is_no_fall():
    made = noisy(np.random.default_rng(4), 3, 6, recall=0.8)
    assert judge(made, closed=True).verdict.by == "recall"
    errors = {"recall": np.full((3, 6, 2), [0.0, 0.1])}
    assert judge(made, errors=errors, closed=True).verdict.answer == "undecided"


@pytest.mark.parametrize(("seeds", "last"), [(2, 4), (3, 6), (5, 4)])
def test_three_claims_together_are_as_rarely_wrong_as_one(seeds, last):
    rng = np.random.default_rng(seeds)
    trials = 400
    wrong = sum(
        judge(noisy(rng, seeds, last, recall=0.9), closed=True).verdict.answer == "MAD"
        for _ in range(trials)
    )
    assert wrong / trials < tolerated(trials)
