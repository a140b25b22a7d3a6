"""The field's definitions of collapse, each answered by itself."""

import numpy as np
import pytest
from scipy import stats
from truths import FLOOR, lost

from mad_lightning.lineage import Quantity
from mad_lightning.verdict import Criterion, Interval, criteria
from mad_lightning.verdict.criteria import DEFINITIONS, Evidence


def answers(made):
    return {each.name: each.answer for each in made}


def test_a_total_collapse_satisfies_all_that_can_be_asked():
    answered = answers(criteria(lost(), FLOOR))
    assert answered.pop("change of scaling law") == "not measured"
    assert set(answered.values()) == {"yes"}
    assert all(each.source and each.number for each in criteria(lost(), FLOOR))


def test_a_stable_loop_satisfies_none():
    rng = np.random.default_rng(14)
    calm = {
        name: np.full((5, 8), FLOOR.get(name, 5.0)) * (1 + 0.01 * rng.standard_normal((5, 8)))
        for name in lost()
    }
    calm["fd_lite0"] *= 1 - 0.005 * np.arange(8) ** 2
    answered = answers(criteria(calm, FLOOR))
    assert set(answered.values()) == {"no", "not measured"}


def test_the_definitions_disagree():
    """Mode by mode a loop may shrink without leaving the data, rise and settle, or drift away."""
    made = lost()
    made["precision"] = np.full((4, 8), 0.95) + 1e-3 * np.arange(4)[:, None]
    rise = 2 - 0.5 ** np.arange(8)
    made["fd_lite0"] = rise + 1e-4 * np.random.default_rng(15).standard_normal((4, 8))
    answered = answers(criteria(made, FLOOR))
    assert answered["diversity lost"] == "yes"
    assert answered["fidelity lost"] == answered["hallucinated samples"] == "no"
    assert answered["any increase over real-only training"] == "yes"
    assert (
        answered["catastrophic increase"]
        == answered["diverging"]
        == answered["faster than linear"]
        == "no"
    )


CURVES = {
    "rising": 1.0 + np.arange(12),
    "faster": 1.5 ** np.arange(12),
    "flat": np.ones(12),
    "falling": 32 * 0.7 ** np.arange(12),  # convex: it slows down
    "saturating": 12 - 11 * 0.5 ** np.arange(12),
    "swinging": 1 + 0.3 * np.sin(np.arange(12) * np.pi / 2),
}


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("any increase over real-only training", "rising faster saturating", "flat falling"),
        ("catastrophic increase", "rising faster saturating", "flat falling swinging"),
        ("diverging", "faster", "flat falling saturating swinging"),
        ("faster than linear", "faster", "falling saturating"),
    ],
)
def test_a_definition_answers_on_every_kind_of_curve(name, yes, no):
    rng = np.random.default_rng(16)
    noise = 1 + 1e-3 * rng.standard_normal((5, 12))
    answered = {
        kind: answers(criteria({"fd_lite0": curve * noise}))[name] for kind, curve in CURVES.items()
    }
    assert {kind for kind, answer in answered.items() if answer == "yes"} == set(yes.split())
    assert {kind for kind, answer in answered.items() if answer == "no"} >= set(no.split())


def test_a_criterion_is_a_ratio_with_students_bounds():
    made = {each.name: each for each in criteria(lost(), FLOOR)}
    value = made["diversity lost"].value
    ratios = lost()["recall"][:, -1] / 0.95
    half = stats.t.ppf(0.95, 3) * stats.sem(ratios)
    assert (value.estimate, value.high) == pytest.approx((ratios.mean(), ratios.mean() + half))
    d = lost()["fd_lite0"]
    risk = made["any increase over real-only training"].value.estimate
    assert risk == pytest.approx(stats.gmean(d[:, -1] / d[:, 0]))


def test_bounds_hold_what_one_reference_and_a_floor_add():
    """With many alike seeds nothing else is left, and quantiles are those of the normal law."""
    made = {name: np.repeat(values[:1], 3, axis=0) for name, values in lost().items()}
    noise = 1 + 1e-9 * np.arange(3)[:, None]
    made = {name: values * noise for name, values in made.items()}
    errors = {"recall": 0.03, "fd_lite0": 0.1 * made["fd_lite0"].mean(axis=0)}
    told = criteria(made, FLOOR, shared=errors, floor_errors={"recall": 0.02})
    values = {each.name: each.value for each in told}
    recall, z = made["recall"][0, -1], stats.norm.ppf(0.95)
    half = z * np.hypot(0.03, recall / 0.95 * 0.02) / 0.95
    assert values["diversity lost"].high - recall / 0.95 == pytest.approx(half, rel=1e-5)
    risk = values["catastrophic increase"]
    factor = np.exp(z * 0.1 * np.sqrt(2))  # each end errs by a tenth, by itself
    assert risk.high / risk.estimate == pytest.approx(factor, rel=1e-5)
    assert values["faster than linear"].low < criteria(made, FLOOR)[3].value.low
    assert values["diverging"].low < criteria(made, FLOOR)[2].value.low


def test_an_unbiased_distance_that_begins_around_0_is_asked_too():
    rng = np.random.default_rng(17)
    d = np.array([0.0, 4, 9, 15, 23, 34, 48, 70]) + 0.5 * rng.standard_normal((4, 8))
    assert (d[:, 0] < 0).any()
    answered = answers(criteria({"kd_lite0": d}))
    names = ("any increase over real-only training", "catastrophic increase", "diverging")
    assert [answered[name] for name in names] == ["yes"] * 3


def test_one_seed_decides_no_criterion():
    one = {name: values[:1] for name, values in lost().items()}
    assert set(answers(criteria(one, FLOOR)).values()) == {"undecided", "not measured"}


def test_what_was_not_measured_is_not_answered():
    answered = answers(criteria({"recall": lost()["recall"]}))
    assert set(answered.values()) == {"not measured"}


def test_a_definition_of_ones_own_is_one_more_function(monkeypatch):
    def half(evidence):
        loss = Interval.of(evidence.metrics["recall"][:, -1], evidence.alpha)
        return Criterion.below("half is gone", "me", "recall (< 0.5)", loss, 0.5)

    monkeypatch.setitem(criteria.__globals__, "DEFINITIONS", (*DEFINITIONS, half))
    *ours, mine = criteria(lost(), FLOOR)
    assert (mine.name, mine.answer) == ("half is gone", "yes")
    assert len(ours) == len(DEFINITIONS)


def test_each_definition_says_who_says_so():
    nothing = Evidence({}, {}, None, alpha=0.05, margin=0.25)
    empty = [definition(nothing) for definition in DEFINITIONS]
    assert {criterion.answer for criterion in empty} == {"not measured"}
    assert len({criterion.name for criterion in empty}) == len(DEFINITIONS) == 12
    assert all("et al., 20" in criterion.source for criterion in empty)


def test_a_distance_of_ones_own_is_asked_where_there_is_no_other():
    made = lost()
    made["emd"] = made.pop("fd_lite0")
    assert answers(criteria(made, FLOOR))["diverging"] == "not measured"
    stated = {"emd": Quantity("distance", worse="higher")}
    assert criteria(made, FLOOR, quantities=stated) == criteria(lost(), FLOOR)
