"""Counts as arithmetic in t, and nothing else."""

import pytest

from mad_lightning.schedules import schedule


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
