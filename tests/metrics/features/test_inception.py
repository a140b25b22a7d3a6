"""The network behind FID: torch-fidelity's, from a file that torch-fidelity never opens."""

import unittest.mock

import pytest
import torch

from mad_lightning.samples import Samples


def pixels(*shape):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)


def test_torch_fidelity_which_unpickles_never_opens_the_file(inception):
    with unittest.mock.patch.object(torch, "load", wraps=torch.load) as load:
        inception.prepare(weights_path=str(inception.path), sha256_prefix="")
    opened = [(str(call.args[0]), call.kwargs["weights_only"]) for call in load.call_args_list]
    assert (str(inception.path), True) in opened
    assert (str(inception.path), False) not in opened


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_those_of_torch_fidelity(inception, channels):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    library = FeatureExtractorInceptionV3("own", ["2048"], str(inception.path))
    images = pixels(2, channels, 32, 24)
    features = inception.ready(Samples(images))
    (expected,) = library(images.repeat(1, 3 // channels, 1, 1))
    assert expected.std(dim=0).max() > 0.01
    assert torch.equal(features, expected)
    assert "299 px" in inception.ready.protocol()["resize"]
