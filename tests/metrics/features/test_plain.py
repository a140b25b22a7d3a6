"""The samples themselves as features."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mad_lightning.metrics import Identity, Pixels
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec


def test_identity_flattens_images_to_floats_around_0():
    images = torch.tensor([0, 255, 51, 204], dtype=torch.uint8).reshape(1, 1, 2, 2)
    assert Identity()(Samples(images)).tolist() == [pytest.approx([-1.0, 1.0, -0.6, 0.6])]


def test_identity_leaves_vectors_alone():
    vectors = torch.randn(4, 5)
    assert torch.equal(Identity()(Samples(vectors)), vectors)


def images(*shape):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_stored(channels):
    values = images(5, channels, 7, 6)
    features = Pixels()(Samples(values))
    assert (features.shape, features.dtype) == ((5, channels * 42), torch.float32)
    expected = values.double().reshape(5, -1) * 2 / 255 - 1
    assert torch.allclose(features.double(), expected, atol=1e-6)


@pytest.mark.parametrize("resolution", [4, 32])
def test_pixels_are_resized_as_by_pillow(resolution):
    values = images(2, 1, 16, 16)
    features = Pixels(resolution)(Samples(values)).reshape(2, resolution, resolution)
    for each, found in zip(values, features, strict=True):
        floats = Image.fromarray(each[0].numpy().astype(np.float32))
        wanted = np.asarray(floats.resize((resolution, resolution), Image.Resampling.BILINEAR))
        assert np.abs(found.numpy() - (wanted / 127.5 - 1)).max() < 1e-4


def test_the_protocol_names_the_resize():
    assert Pixels().protocol()["resize"] == "none"
    protocol = Pixels(8).protocol()
    assert protocol["extractor"] == "pixels"
    for said in ("8 px", "bilinear", "antialiased", "not rounded"):
        assert said in protocol["resize"]


def test_pixels_refuse_vectors_and_no_resolution(tmp_path):
    with pytest.raises(Refused, match="use Identity") as caught:
        Pixels().prepare(lambda: None, SampleSpec((5,)), "", Path(tmp_path))
    assert caught.value.field == ""
    with pytest.raises(Refused) as caught:
        Pixels(0)
    assert caught.value.field == "resolution"
