"""What the machine has and what a lineage weighs."""

import pytest
import torch
from torch import nn

from mad_lightning.loop.machine import memory, nearest, sample_bytes, weight_bytes
from mad_lightning.refusal import Refused
from mad_lightning.samples import SampleSpec


def test_a_sample_weighs_what_its_tensors_do():
    assert sample_bytes(SampleSpec((3, 8, 8), 10)) == 3 * 64 + torch.zeros(1).long().nbytes
    assert sample_bytes(SampleSpec((2,))) == torch.zeros(2).nbytes


def test_a_network_weighs_its_weights_and_buffers():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert weight_bytes(net) == sum(tensor.nbytes for tensor in net.state_dict().values())


def test_memory_is_at_least_what_this_process_has_and_less_than_a_petabyte():
    assert 2**28 < memory() < 2**50


def test_the_nearest_directory_is_where_another_can_be_made(tmp_path):
    assert nearest(tmp_path) == nearest(tmp_path / "a" / "b") == tmp_path
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file" / "a", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(Refused):
            nearest(wrong)
