"""DINOv2 against timm's own way from a file to features."""

import pytest
import timm
import torch

from mad_lightning.metrics import DINOv2
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples


def test_features_are_the_class_tokens_of_timm(dinov2):
    library = timm.create_model(
        "vit_small_patch14_dinov2.lvd142m",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(dinov2.path)},
        img_size=224,
        num_classes=0,
    ).eval()
    config = library.pretrained_cfg
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 224, 224), generator=rng, dtype=torch.uint8)
    mean, std = (torch.tensor(config[each])[:, None, None] for each in ("mean", "std"))
    with torch.inference_mode():
        expected = library.forward_features((images / 255.0 - mean) / std)[:, 0]
        features = dinov2.ready(Samples(images))
    assert expected.std() > 0.1
    assert torch.allclose(features, expected, rtol=1e-3, atol=1e-3 * expected.std().item())
    assert config["interpolation"] == dinov2.ready.resize.filter == "bicubic"


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_each_size_has_the_file_that_timm_names(size):
    config = timm.get_pretrained_cfg(f"vit_{size}_patch14_dinov2.lvd142m")
    extractor = DINOv2(size)
    assert extractor.file.url == config.url
    assert extractor.protocol()["network"] == f"ViT-{size[0].upper()}/14"


def test_an_unknown_size_is_refused():
    with pytest.raises(Refused, match="small, base, large") as caught:
        DINOv2("huge")
    assert caught.value.field == "size"


def test_the_weights_of_another_size_are_refused(dinov2):
    with pytest.raises(Refused, match="does not hold the weights"):
        dinov2.prepare(size="base", weights_path=str(dinov2.path), sha256_prefix="")
