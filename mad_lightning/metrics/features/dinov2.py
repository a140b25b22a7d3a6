"""Features that agree with people about which images look real."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mad_lightning.metrics.features.pretrained import Pretrained, Resize, WeightsFile
from mad_lightning.metrics.features.vgg16 import IMAGENET_MEAN, IMAGENET_STD
from mad_lightning.refusal import Refused

__all__ = ["DINOv2"]

Size = Literal["small", "base", "large"]


def _published(size: Size, n_bytes: int, sha256: str) -> WeightsFile:
    stem = f"dinov2_vit{size[0]}14"
    name = f"{stem}_pretrain.pth"
    return WeightsFile(
        name, n_bytes, sha256, f"https://dl.fbaipublicfiles.com/dinov2/{stem}/{name}"
    )


_FILES: dict[Size, WeightsFile] = {
    "small": _published(
        "small", 88_283_115, "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"
    ),
    "base": _published(
        "base", 346_378_731, "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"
    ),
    "large": _published(
        "large", 1_217_586_395, "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"
    ),
}


class DINOv2(Pretrained):
    """Class token of a DINOv2 vision transformer (Oquab et al., 2023), 384, 768 or 1,024 features.

    Stein et al. (2023) found Fréchet distances on it to follow human judgement where Inception's
    do not; they take the large network. The transformer is timm's, which resamples the position
    embeddings from 518 to 224 px.

    Args:
        size: ``small``, ``base`` or ``large``.
        weights_path: File with the weights, as Meta or timm publishes them; None looks in torch's
            hub cache.
        download: Whether to fetch the published file if it is not there.
        sha256_prefix: First digits that the file's SHA-256 must have; None takes the published
            file's, an empty string accepts any.
    """

    name = "dinov2"
    resize = Resize(224, "bicubic")
    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(
        self,
        size: Size = "large",
        weights_path: str | None = None,
        download: bool = False,
        sha256_prefix: str | None = None,
    ) -> None:
        if size not in _FILES:
            raise Refused("size", f"{size!r}", f"choose {', '.join(get_args(Size))}")
        super().__init__(weights_path, download, sha256_prefix)
        self.size, self.file = size, _FILES[size]

    def build(self, weights: dict[str, Tensor]) -> nn.Module:
        """timm's transformer; without a classifier it gives the normalised class token."""
        import timm
        from timm.models.vision_transformer import checkpoint_filter_fn

        with torch.device("meta"):
            net: nn.Module = timm.create_model(
                f"vit_{self.size}_patch14_dinov2", img_size=self.resize.size, num_classes=0
            )
        net.load_state_dict(checkpoint_filter_fn(weights, net), assign=True)
        return net

    def protocol(self) -> dict[str, Any]:
        """Also the size of the network."""
        return super().protocol() | {"network": f"ViT-{self.size[0].upper()}/14"}
