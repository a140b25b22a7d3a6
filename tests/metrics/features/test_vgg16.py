"""VGG-16 against torchvision's own model with the same weights."""

import pytest
import torch
from torchvision import models
from torchvision.transforms.functional import normalize

from mad_lightning.metrics import VGG16
from mad_lightning.samples import Samples


def test_features_are_those_of_torchvision_after_the_relu_of_fc2(vgg16):
    with torch.device("meta"):
        library = models.vgg16().eval()
    library.load_state_dict(torch.load(vgg16.path, weights_only=True), assign=True)
    seen = []
    library.classifier[4].register_forward_hook(lambda *call: seen.append(call[-1]))
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 224, 224), generator=rng, dtype=torch.uint8)
    with torch.inference_mode():
        library(normalize(images / 255.0, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        features = vgg16.ready(Samples(images))
    (expected,) = seen
    assert expected.shape == (2, 4096)
    assert 0.2 < (expected > 0).float().mean() < 0.8, "the ReLU does nothing"
    assert torch.allclose(features, expected, rtol=1e-3, atol=1e-3 * expected.std().item())


def test_the_published_file_is_torchvisions():
    weights = models.VGG16_Weights.IMAGENET1K_V1
    assert weights.url == VGG16.file.url
    assert VGG16.file.size / 2**20 == pytest.approx(weights.meta["_file_size"], 1e-3)
