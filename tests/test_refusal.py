"""A room refuses its own parameter; whoever mounted the room says where."""

import pytest

from mad_lightning.refusal import Diverged, Refused, at, check_sampling_bias


def refused(place, field, problem="", remedy=""):
    with pytest.raises(Refused) as caught, at(place):
        raise Refused(field, problem, remedy)
    return caught.value


def test_a_parameter_is_told_with_its_place():
    assert refused("data.source", "root").field == "data.source.root"


def test_the_object_as_a_whole_is_its_place():
    assert refused("data.source", "").field == "data.source"


def test_places_add_up_from_the_inside_out():
    with pytest.raises(Refused) as caught, at("data"), at("source"):
        raise Refused("root", "no pictures in `root`", "try `root: a b` or `download: true`")
    assert caught.value.field == "data.source.root"
    assert caught.value.problem == "no pictures in `data.source.root`"
    assert caught.value.remedy == "try `data.source.root: a b` or `data.source.download: true`"


def test_what_is_no_parameter_in_backticks_stays_as_it_is():
    told = refused("data", "x", "x = 3 ` x", "take x: 4, `x`, or `1 + 2`; see a/b/`")
    assert told.problem == "x = 3 ` x"
    assert told.remedy == "take x: 4, `data.x`, or `1 + 2`; see a/b/`"


def test_it_reads_as_field_problem_and_remedy():
    assert str(refused("data", "x", "is odd", "make `x: 2`")) == (
        "data.x: is odd\n  remedy: make `data.x: 2`"
    )
    assert str(Refused("", "is odd", "leave it out")) == "is odd\n  remedy: leave it out"


def test_its_cause_stays():
    cause = OSError("no such file")
    with pytest.raises(Refused) as caught, at("data"):
        raise Refused("root", "cannot be read", "name another") from cause
    assert caught.value.__cause__ is cause


def test_other_errors_pass_and_so_does_success():
    with pytest.raises(KeyError), at("data"):
        raise KeyError("x")
    with at("data"):
        done = True
    assert done


def test_a_door_spells_parameters_in_its_own_way():
    told = Refused("root", "`root` is empty", "give `root: a/b`, or `labels`").renamed(
        lambda name: {"root": "REAL"}.get(name, f"--{name}"),
        lambda name, value: f"{name}{value.replace(':', '')}",
    )
    assert told.field == "REAL"
    assert told.problem == "REAL is empty"
    assert told.remedy == "give REAL a/b, or --labels"


@pytest.mark.parametrize("bias", [0.0, -0.1, 1.1, float("nan")])
def test_a_sampling_bias_outside_its_range_is_refused(bias):
    with pytest.raises(Refused) as caught:
        check_sampling_bias(bias)
    assert caught.value.field == "sampling_bias"


def test_a_sampling_bias_within_its_range_is_not():
    check_sampling_bias(1.0)
    check_sampling_bias(1e-3)


def test_a_divergence_stays_one_wherever_it_is_mounted():
    with pytest.raises(Diverged) as told, at("generator"):
        raise Diverged("", "it broke", "a lower `lr` (now 1.0)")
    assert (told.value.field, told.value.remedy) == (
        "generator",
        "a lower `generator.lr` (now 1.0)",
    )
    assert isinstance(told.value, FloatingPointError)
