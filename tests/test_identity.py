"""A thing that was made in Python is known by its class and by what it was made with."""

import copy
import functools
import pickle
import runpy

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from mad_lightning import Diffusion, Digits, Evaluator, Frechet, FreshData, Identity, Neighbours
from mad_lightning.data import Arrays
from mad_lightning.identity import Described, description
from mad_lightning.nets.unet import UNet


class Mine(Described):
    def __init__(self, a, *rest, b=2, **more):
        self.sum = a  # keeps none of its arguments under its name


class Theirs:
    def __init__(self, patience):
        self.patience, self._cache = patience, object()


def make(size):
    return nn.Linear(size, 2)


def frozen(weight):
    network = nn.Linear(2, 2).requires_grad_(False)
    network.weight.fill_(weight)
    return network


def test_defaults_are_told_and_positions_are_names():
    assert description(FreshData(5, n_fresh=6, n_synthetic="t * 7")) == {
        "class_path": "mad_lightning.policies.paper.FreshData",
        "init_args": {
            "n_initial": 5,
            "n_fresh": 6,
            "n_synthetic": "t * 7",
            "synthetic_from": "last",
            "k": 1,
        },
    }
    assert description(Digits()) == {"class_path": "mad_lightning.data.sources.Digits"}
    assert description(Mine(1, 2, 3, c=[4]))["init_args"] == {
        "a": 1, "rest": [2, 3], "b": 2, "c": [4]
    }  # fmt: skip
    inside = description(Evaluator(Identity(), [Neighbours(k=3), Frechet()]))["init_args"]
    assert inside["metrics"][0]["init_args"]["k"] == 3


def test_what_was_made_stays_what_it_is_when_it_is_used_copied_or_pickled():
    policy = Mine(1)
    told = description(policy)
    policy.sum, policy.more = 5, object()
    for other in (
        policy,
        copy.copy(policy),
        copy.deepcopy(policy),
        pickle.loads(pickle.dumps(policy)),
    ):
        assert description(other) == told


def test_a_class_without_arguments_still_takes_none():
    with pytest.raises(TypeError):
        Digits(3)
    with pytest.raises(TypeError):
        Arrays()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Mine(1), Mine(2)),
        (Mine(1), Mine(1, b=3)),
        (Mine(make(3)), Mine(make(4))),
        (Mine(torch.float16), Mine(torch.bfloat16)),
        (Mine(range(3)), Mine(range(4))),
        (Mine(np.float32(1)), Mine(np.float32(2))),
        (Mine(frozen(1.0)), Mine(frozen(2.0))),
        (Mine(torch.ones(2).bfloat16()), Mine(torch.zeros(2).bfloat16())),
        (Mine(nn.ReLU()), Mine(nn.Tanh())),
        (Mine(Theirs(1)), Mine(Theirs(2))),
        (Mine(torch.zeros(3)), Mine(torch.ones(3))),
        (Mine(np.zeros(3)), Mine(np.zeros(4))),
        (Mine(functools.partial(make, 3)), Mine(functools.partial(make, 4))),
        (Mine(lambda: make(3)), Mine(lambda: make(4))),
        (Mine(make), Mine(test_a_class_without_arguments_still_takes_none)),
        (Diffusion(lr=1e-3), Diffusion(lr=1e-4)),
        (Diffusion(network=functools.partial(UNet, widths=(8,))), Diffusion(network=UNet)),
    ],
)
def test_another_argument_is_another_thing(one, other):
    assert description(one) != description(other)


def test_equal_arguments_are_the_same_thing():
    def around(size):
        return lambda: make(size)

    makers = [
        lambda: Mine(1, b=2),
        lambda: Mine(make(3)),  # other weights, which training decides
        lambda: Mine(Theirs(1)),
        lambda: Mine(np.arange(3)),
        lambda: Mine({3, 1, 2}),
        lambda: Mine(lambda: make(3)),
        lambda: Mine(around(3)),
    ]
    for maker in makers:
        assert description(maker()) == description(maker())
    assert description(Mine(around(3))) != description(Mine(around(4)))


def test_it_is_as_plain_as_yaml():
    odd = Mine(
        [np.float64(1), np.int64(2), torch.tensor(3.0), torch.float16, object(), b"x"], c=print
    )
    assert yaml.safe_load(yaml.safe_dump(description(odd))) == description(odd)
    assert description(odd)["init_args"]["a"][:4] == [1.0, 2, 3.0, "torch.float16"]


def test_a_class_in_a_script_is_known_by_the_scripts_name(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "from mad_lightning.identity import Described, description\n"
        "class A(Described): ...\n"
        "told = description(A())\n"
    )
    assert runpy.run_path(str(script), run_name="mine")["told"] == {"class_path": "mine.A"}
