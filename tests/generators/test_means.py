"""Means of an epoch, and when they broke."""

import math

import pytest
import torch

from mad_lightning.generators.means import Means


def noted(**values):
    means = Means()
    for step in range(10):
        for name, by_step in values.items():
            if step in by_step:
                means.add(name, torch.as_tensor(by_step[step]), step)
    return means


def test_each_name_has_the_mean_of_its_own_steps():
    means, broken = noted(often={0: 1.0, 1: 2.0, 2: 6.0}, rarely={1: [4.0, 6.0]}).taken()
    assert {name: float(mean) for name, mean in means.items()} == {"often": 3.0, "rarely": 5.0}
    assert broken == {}


def test_what_was_taken_is_forgotten():
    means = noted(loss={0: 1.0})
    means.taken()
    means.add("loss", torch.tensor(5.0), 1)
    assert float(means.taken()[0]["loss"]) == 5.0
    assert means.taken() == ({}, {})


def test_many_are_added_up_in_order_as_they_were_when_they_were_noted():
    means, value, total = Means(), torch.zeros(()), torch.zeros(())
    for step in range(300):
        value.fill_(1.0 / (step + 1))
        total = total + value
        means.add("loss", value, step)
        value.fill_(math.nan)
    assert means.taken() == ({"loss": total / 300}, {})


@pytest.mark.parametrize("place", [3, 63, 64, 170])
def test_a_broken_one_among_many_is_found(place):
    means = Means()
    for step in range(200):
        means.add("loss", torch.tensor(math.nan if step == place else 1.0), 1000 + step)
    assert means.taken()[1] == {"loss": 1000 + place}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_step_of_the_first_broken_value_is_known_and_the_earliest_name_comes_first(bad):
    means = noted(
        late={0: 1.0, 3: bad, 4: 1.0},
        early={1: 0.0, 2: bad, 5: -bad},
        whole={7: 1.0},
        last={9: bad},
    )
    assert list(means.taken()[1].items()) == [("early", 2), ("late", 3), ("last", 9)]


def test_nobody_waits_for_a_number_while_it_is_noted():
    """A meta tensor has no number to look at."""
    means = Means()
    for step in range(3):
        means.add("loss", torch.zeros((), device="meta"), step)
    with pytest.raises((RuntimeError, NotImplementedError)):  # only who takes them looks
        means.taken()
