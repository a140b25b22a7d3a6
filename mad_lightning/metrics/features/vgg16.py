"""The features that precision and recall were proposed on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mad_lightning.metrics.features.pretrained import Pretrained, Resize, WeightsFile

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "VGG16"]

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Of the pixels of ImageNet's training images, by channel, in 0..255."""


class VGG16(Pretrained):
    """4,096 features of VGG-16, layer fc2 after its ReLU (Kynkäänniemi et al., 2019, section 2.1).

    The network and the file are torchvision's (``IMAGENET1K_V1``). It was trained on images that
    Pillow had resized, bilinear and antialiased, so that is how they enter here; torch-fidelity
    feeds the same network with TensorFlow 1's resize, and StyleGAN's tools have weights of their
    own, so neither's values are quite these.
    """

    name = "vgg16"
    file = WeightsFile(
        "vgg16-397923af.pth",
        553_433_881,
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
    )
    resize = Resize(224, "bilinear")
    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def build(self, weights: dict[str, Tensor]) -> nn.Module:
        """torchvision's network up to the ReLU of fc2; dropout does nothing in evaluation."""
        from torchvision.models import vgg16

        with torch.device("meta"):  # 138 million random weights would be made, then thrown away
            net = vgg16()
        net.load_state_dict(weights, assign=True)
        net.classifier = net.classifier[:5]
        return net
