"""Counts as arithmetic in t, and nothing else."""

import pytest

from mad_lightning.refusal import Refused
from mad_lightning.schedules import bias_schedule, schedule, spelled


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (5, [5, 5, 5]),
        ("(t-1) * 70_000", [0, 70_000, 140_000]),
        ("(t-1) x 70k", [0, 70_000, 140_000]),
        ("(t-1)×70k", [0, 70_000, 140_000]),
        ("max(100, 10*t)", [100, 100, 100]),
        ("2**t", [2, 4, 8]),
    ],
)
def test_schedule(text, values):
    assert [schedule(text)(t) for t in (1, 2, 3)] == values


@pytest.mark.parametrize(
    "text", ["", "t.__class__", "n*2", "1.5*t", "(t", "__import__('os')", "True"]
)
def test_schedule_refuses_what_is_not_arithmetic(text):
    with pytest.raises(ValueError, match="arithmetic"):
        schedule(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("t**9**9**9", "bounds at t = 2"),
        ("9**9**9", "bounds"),
        ("10**14 * 10 * t", "bounds"),
        ("2**(0-t)", "bounds"),
        ("100//(t-2)", "by zero at t = 2"),
        ("1/0", "by zero"),
        ("(" * 300 + "t" + ")" * 300, "200 characters"),
        ("t\0", "arithmetic"),
    ],
)
def test_schedule_refuses_at_once_what_has_no_value(text, told):
    with pytest.raises(ValueError, match=told):
        schedule(text)


@pytest.mark.parametrize("n", [1.5, 2.0, float("nan"), True, None, b"3", [3], {}])
def test_what_is_neither_a_count_nor_text_has_no_schedule(n):
    with pytest.raises(ValueError, match="no count"):
        schedule(n)


@pytest.mark.parametrize(
    ("bias", "values"),
    [
        (0.66, [0.66, 0.66, 0.66]),
        (1, [1.0, 1.0, 1.0]),
        ("0.66", [0.66, 0.66, 0.66]),
        ("max(0.5, 1 - 0.25*(t-1))", [1.0, 0.75, 0.5]),
        ("1/t", [1.0, 0.5, 1 / 3]),
        ("0.9**t", [0.9, 0.81, 0.729]),
        ("t**(0-0.5)", [1.0, 2**-0.5, 3**-0.5]),
        ("max(0.2, 1 - (t-1)//2)", [1.0, 1.0, 0.2]),
    ],
)
def test_a_bias_may_be_arithmetic_in_fractions(bias, values):
    assert [bias_schedule(bias)(t) for t in (1, 2, 3)] == pytest.approx(values)


@pytest.mark.parametrize(
    "bias",
    [0, -0.5, 1.01, float("nan"), float("inf"), True, None, [1.0], "", "t", "2 - t", "0*t",
     "1/(t-1)", "t.real", "(0-1)**0.5", "10.0**400 * t", "1e999", "nan", "1 - 0.1j", "x" * 300],
)  # fmt: skip
def test_a_bias_that_is_none_in_generation_1_or_2_is_refused(bias):
    with pytest.raises(Refused) as caught:
        bias_schedule(bias)(2)
    assert caught.value.field == "sampling_bias"
    assert len(str(caught.value)) < 400


def test_a_bias_that_leaves_its_range_later_is_refused_there():
    bias = bias_schedule("1 - 0.3*(t-1)")
    assert bias(3) == pytest.approx(0.4)
    with pytest.raises(Refused, match=r"λ = -0.2 in generation 5"):
        bias(5)
    assert (spelled("1/t"), spelled(0.66), spelled(1.0)) == ("1/t", "0.66", "1")
