"""The one border between bytes and floats."""

import pytest
import torch

from mad_lightning.samples import Samples, SampleSpec, to_floats, to_stored

IMAGE = SampleSpec((1, 4, 4), 10)


def test_every_byte_survives_the_round_trip():
    values = torch.arange(256).byte().reshape(16, 1, 4, 4)
    assert torch.equal(to_stored(to_floats(values), IMAGE), values)


def test_floats_are_clamped_and_rounded_not_truncated():
    floats = torch.tensor([-9.0, -1.0, 0.0, 0.999, 1.0, 9.0]).reshape(1, 1, 1, 6)
    assert to_stored(floats, SampleSpec((1, 1, 6))).flatten().tolist() == [0, 0, 128, 255, 255, 255]


def test_vectors_pass_unchanged():
    x = torch.randn(5, 3)
    assert torch.equal(to_floats(x), x)
    assert torch.equal(to_stored(x, SampleSpec((3,))), x)


def test_spec_round_trip_and_kinds():
    assert SampleSpec.from_dict(IMAGE.to_dict()) == IMAGE
    assert (IMAGE.kind, IMAGE.dtype) == ("image", torch.uint8)
    assert (SampleSpec((7,)).kind, SampleSpec((7,)).dtype) == ("vector", torch.float32)


@pytest.mark.parametrize("change", ["value", "label", "order", "shape"])
def test_digest_sees_every_change(change):
    values, labels = torch.arange(32).byte().reshape(2, 1, 4, 4), torch.tensor([0, 1])
    before = Samples(values, labels).digest()
    if change == "value":
        values = values.clone()
        values[0, 0, 0, 0] += 1
    elif change == "label":
        labels = torch.tensor([0, 2])
    elif change == "order":
        values, labels = values.flip(0), labels.flip(0)
    else:
        values = values.reshape(2, 1, 2, 8)
    assert Samples(values, labels).digest() != before


def test_an_index_takes_labels_along():
    both = Samples(torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 2]))
    assert both[1:].labels.tolist() == [1, 2]
    assert both[torch.tensor([2, 0])].values[:, 0].tolist() == [4.0, 0.0]
    assert Samples(both.values)[:1].labels is None
    assert Samples(**both.tensors()).digest() == both.digest()
