"""The network behind the name FID."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn

from mad_lightning.metrics.features.pretrained import Pretrained, WeightsFile

__all__ = ["Inception"]


class Inception(Pretrained):
    """2,048 features of the Inception network that FID is defined on (Heusel et al., 2017).

    The network is torch-fidelity's port of the original weights; it resizes to 299 px as TensorFlow
    1 does (bilinear, no antialiasing) and takes bytes. Grey images are repeated to three channels.
    """

    name = "inception"
    file = WeightsFile(
        "weights-inception-2015-12-05-6726825d.pth",
        95_628_359,
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
    )

    def build(self, weights: dict[str, Tensor]) -> nn.Module:
        """torch-fidelity's network, from a copy that holds nothing but tensors."""
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        plain = io.BytesIO()  # torch-fidelity unpickles anything, so it never sees the file
        torch.save(weights, plain)
        plain.seek(0)
        return FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=plain
        )

    def features(self, images: Tensor) -> Tensor:
        """Features (N, 2048); the network resizes and scales by itself."""
        return self.net(images)[0]

    def protocol(self) -> dict[str, Any]:
        """Weight hash and the resize inside the network."""
        return {
            "extractor": self.name,
            "weights": self.weights,
            "resize": "299 px, bilinear as in TensorFlow 1, not antialiased, not rounded",
            "pixels": "(x - 128) / 128, grey repeated to RGB",
        }
