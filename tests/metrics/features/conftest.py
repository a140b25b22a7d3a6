"""Weights in the form of the published files, random and small on disk; no network."""

from functools import cache
from pathlib import Path

import pytest
import torch

from mad_lightning.metrics.features import VGG16, DINOv2, Inception, Lite0
from mad_lightning.samples import SampleSpec

IMAGES = SampleSpec((3, 32, 32))


def not_called(*arguments, **more):
    raise AssertionError("should not have been called")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub cache, and no way to fill it."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", not_called)
    monkeypatch.setattr(torch.hub, "urlopen", not_called)
    return tmp_path / "hub"


def _random(shapes):
    """Weights with a scale that neither fades nor grows through many layers.

    A large matrix repeats one random row, shifted by one from line to line, so that 500 MiB of
    weights are a file of a few.
    """
    rng = torch.Generator().manual_seed(0)
    weights = {}
    for name, meta in shapes.items():
        if meta.ndim >= 2 and not name.endswith(("token", "pos_embed")):
            scale = (2 / meta[0].numel()) ** 0.5
        else:
            scale = 0.1
        if meta.ndim == 2 and meta.numel() > 100_000:
            row = torch.empty(sum(meta.shape) - 1).normal_(0.0, scale, generator=rng)
            weights[name] = row.as_strided(meta.shape, (1, 1))
        elif name.endswith("num_batches_tracked"):
            weights[name] = torch.zeros_like(meta, device="cpu")
        else:
            weights[name] = torch.empty(meta.shape).normal_(0.0, scale, generator=rng)
            if meta.ndim == 1 and name.endswith(("weight", "running_var", "gamma")):
                weights[name] = weights[name].abs() + 0.9
    return weights


def _inception_shapes():
    import unittest.mock

    from torch_fidelity import feature_extractor_inceptionv3 as port

    class Untrained(port.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_):
            pass

    with unittest.mock.patch.object(port, "load_state_dict_from_url"), torch.device("meta"):
        shapes = Untrained("untrained", ["2048"]).state_dict()
    # the published file lacks the batch counters of the normalisation layers
    return {name: x for name, x in shapes.items() if not name.endswith("num_batches_tracked")}


def _vgg16_shapes():
    from torchvision.models import vgg16

    with torch.device("meta"):
        return vgg16().state_dict()


def _dinov2_shapes():
    import timm

    with torch.device("meta"):
        shapes = timm.create_model("vit_small_patch14_dinov2", img_size=518).state_dict()
        return shapes | {"mask_token": torch.empty(1, 384)}  # which Meta's files have


def _lite0_shapes():
    import timm

    with torch.device("meta"):
        return timm.create_model("tf_efficientnet_lite0").state_dict()


KINDS = {
    "inception": (Inception, {}, _inception_shapes, 2048),
    "vgg16": (VGG16, {}, _vgg16_shapes, 4096),
    "dinov2": (DINOv2, {"size": "small"}, _dinov2_shapes, 384),
    "lite0": (Lite0, {}, _lite0_shapes, 1280),
}


class Kind:
    """One family of pretrained extractors, with a file of random weights."""

    def __init__(self, name, folder):
        self.type, self.arguments, shapes, self.dim = KINDS[name]
        self.name, self.path = name, folder / f"{name}.pth"
        torch.save(_random(shapes()), self.path)

    def prepare(self, spec=IMAGES, **arguments):
        extractor = self.type(**self.arguments | arguments)
        extractor.prepare(not_called, spec, "", Path("no_cache"))
        return extractor

    @property
    def ready(self):
        """Prepared once for all tests."""
        if not hasattr(self, "_ready"):
            self._ready = self.prepare(weights_path=str(self.path), sha256_prefix="")
        return self._ready


@pytest.fixture(scope="session")
def kind_of(tmp_path_factory):
    return cache(lambda name: Kind(name, tmp_path_factory.mktemp(name)))


@pytest.fixture
def inception(kind_of):
    return kind_of("inception")


@pytest.fixture
def vgg16(kind_of):
    return kind_of("vgg16")


@pytest.fixture
def dinov2(kind_of):
    return kind_of("dinov2")


@pytest.fixture
def lite0(kind_of):
    return kind_of("lite0")


@pytest.fixture(params=list(KINDS))
def kind(request, kind_of):
    return kind_of(request.param)
