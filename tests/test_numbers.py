"""Numbers that mean nothing, outside the families: refused by name when an object is made.

As for the families (``tests/generators/test_values.py``), arguments are read off the signatures.
What is accepted stands in a table here, so that a new argument has to be thought about.
"""

import inspect
import math
import typing

import pytest

from mad_lightning.callbacks.grids import SampleGrids
from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.data.laws import Grid25, StandardNormal
from mad_lightning.data.sources import Digits, Images, Photos
from mad_lightning.metrics.copies import Memorisation
from mad_lightning.metrics.distances import Kernel
from mad_lightning.metrics.diversity import Modes
from mad_lightning.metrics.features.classifier import Classifier
from mad_lightning.metrics.features.plain import Pixels
from mad_lightning.metrics.neighbours import Classes, Neighbours
from mad_lightning.metrics.tails import TailMass
from mad_lightning.refusal import Refused, check_memory, check_one_of, check_within

HUGE, ANY = 10**12, None
MADE = {
    Classes: {},
    Classifier: {},
    GenerationDataModule: {"source": Digits()},
    Grid25: {},
    Images: {"root": "pictures"},
    Kernel: {},
    Memorisation: {},
    Modes: {"radius": 0.1},
    Neighbours: {},
    Photos: {},
    Pixels: {},
    SampleGrids: {},
    StandardNormal: {},
    TailMass: {},
}
ACCEPTED = {
    (Classes, "k"): {HUGE},  # compared with the number of samples, which is known later
    (Neighbours, "k"): {HUGE},
    (Kernel, "subset_size"): {HUGE},
    (Kernel, "seed"): ANY,
    (Classifier, "seed"): ANY,
    (GenerationDataModule, "split_seed"): ANY,
    (GenerationDataModule, "n_reference"): {HUGE},  # compared with the data
    (GenerationDataModule, "batch_size"): {HUGE},  # and with the machine's memory
    (Grid25, "std"): {HUGE, 1e30},
    (Modes, "radius"): {HUGE, 1e30},
    (Modes, "least"): {HUGE},
    (SampleGrids, "every"): {HUGE},
    (SampleGrids, "reach"): {HUGE, 1e30},
    (SampleGrids, "centre"): {-1, 0, HUGE, 1e30},
}


def cases():
    for cls, arguments in MADE.items():
        kinds = typing.get_type_hints(cls.__init__)
        for name in inspect.signature(cls).parameters:
            options = [*typing.get_args(kinds[name]), kinds[name]]
            if int not in options and float not in options:
                continue
            for value in (math.nan, math.inf, -math.inf, -1, 0, HUGE, 1e30):
                accepted = ACCEPTED.get((cls, name), set())
                if accepted is ANY or value in accepted:
                    continue
                if float not in options and isinstance(value, float) and math.isfinite(value):
                    continue
                given = (value, 0.0) if typing.get_origin(kinds[name]) is tuple else value
                yield pytest.param(cls, arguments, name, given, id=f"{cls.__name__}-{name}-{value}")


@pytest.mark.parametrize(("cls", "arguments", "name", "value"), cases())
def test_a_number_that_means_nothing_is_refused_by_name(cls, arguments, name, value):
    with pytest.raises(Refused) as caught:
        cls(**arguments | {name: value})
    assert caught.value.field == name
    assert caught.value.remedy


@pytest.mark.parametrize("key", ACCEPTED, ids=lambda key: f"{key[0].__name__}-{key[1]}")
def test_what_is_accepted_exists_and_is_accepted(key):
    cls, name = key
    assert name in inspect.signature(cls).parameters
    for value in ACCEPTED[key] or {0, -1, HUGE}:
        cls(**MADE[cls] | {name: (value, 0.0) if name == "centre" else value})


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Images("x", channels=2), "channels"),
        (lambda: Images("x", filter="nearest"), "filter"),
        (lambda: Neighbours(balls="half"), "balls"),
        (lambda: Photos(resolution=213, n=10**9), "n"),
    ],
)
def test_a_choice_that_is_none_is_refused(make, field):
    with pytest.raises(Refused) as caught:
        make()
    assert caught.value.field == field


# --- the checks themselves ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("(0, 1]", [1, 0.5, 1e-300], [0, 1.0000001, -1, math.nan, math.inf]),
        ("[0, 1)", [0, 0.999], [1, -1e-300, math.nan]),
        ("[1, inf)", [1, 10**400], [0, math.inf, math.nan]),
        ("(-inf, inf)", [0, -1e300], [math.inf, -math.inf, math.nan]),
    ],
)
def test_an_interval_is_what_mathematics_says(interval, inside, outside):
    check_within(interval, x=None)
    check_within(interval, x=inside, y=inside[0])
    for number in outside:
        with pytest.raises(Refused, match="lies outside") as caught:
            check_within(interval, y=inside[0], x=[inside[0], number])
        assert caught.value.field == "x"
    with pytest.raises(Refused, match="empty"):
        check_within(interval, x=())


def test_names_and_memory_are_told():
    check_one_of(("a", "b"), x="a")
    with pytest.raises(Refused, match="choose a or b"):
        check_one_of(("a", "b"), x="c")
    check_memory("x", 1.0, "one byte", "take less")
    with pytest.raises(Refused, match="this machine has"):
        check_memory("x", 2.0**70, "everything", "take less")


@pytest.mark.parametrize("thing", ["0.5", object(), Digits(), 1j])
def test_what_is_no_number_lies_in_no_interval(thing):
    with pytest.raises(Refused, match="is no number"):
        check_within("(0, 1]", lr=thing)
