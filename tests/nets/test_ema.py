"""An average follows its network, whatever is done to either meanwhile."""

import copy
import gc

import pytest
import torch
from torch import nn

from mad_lightning.nets.ema import _PLACES, EMA


class Network(nn.Module):
    """A weight that is used twice, buffers of two kinds, and one that is not there."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("nothing", None)


def moved(net, seed):
    """Gives a network other weights and buffers, in place."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.copy_(torch.randint(0, 9, tensor.shape, generator=rng))


@pytest.mark.parametrize("change", ["nothing", "double", "load", "copy"])
def test_the_average_is_that_of_the_weights_there_are(change):
    net, updates = Network(), 3
    ema = EMA(net, 0.5)
    expected = [p.detach().clone() for p in net.parameters()]
    for update in range(2 * updates):
        if update == updates:
            if change == "double":
                net, ema = net.double(), ema.double()
            if change == "load":
                ema.load_state_dict(copy.deepcopy(ema.state_dict()))
            if change == "copy":
                net, ema = copy.deepcopy((net, ema))
        moved(net, update)
        ema.update(net)
        decay = min(0.5, (2 + update) / (11 + update))
        expected = [
            decay * kept.to(p.dtype) + (1.0 - decay) * p
            for kept, p in zip(expected, net.parameters(), strict=True)
        ]
    torch.testing.assert_close(list(ema.net.parameters()), expected)
    for kept, buffer in zip(ema.net.buffers(), net.buffers(), strict=True):
        assert torch.equal(kept, buffer)
        assert kept is not buffer


def test_what_it_remembers_of_a_network_goes_into_no_copy_and_does_not_keep_it():
    gc.collect()
    before = len(_PLACES)
    net = Network()
    ema = EMA(net)
    ema.update(net)
    assert len(_PLACES) == before + 2
    assert vars(copy.deepcopy(ema)).keys() == vars(EMA(net)).keys()
    del net, ema
    gc.collect()
    assert len(_PLACES) == before


def test_a_network_without_buffers_has_an_average():
    net = nn.Linear(2, 2)
    ema = EMA(net, 0.0)
    moved(net, 1)
    ema.update(net)
    torch.testing.assert_close(ema.net.weight, net.weight * 1.0)
