"""Features without a network: the samples themselves.

Pixels are nearly blind to blur and see every shift by one pixel, so they are no measure of how good
images are. They serve where samples are vectors, for small centred images, and as the null
hypothesis that a network's features must beat.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from mad_lightning.metrics.features.base import FeatureExtractor
from mad_lightning.metrics.features.pretrained import Resize
from mad_lightning.refusal import Refused, check_within
from mad_lightning.samples import Samples, SampleSpec, to_floats

__all__ = ["Identity", "Pixels"]


class Identity(FeatureExtractor):
    """The samples themselves, flattened; images as floats in [-1, 1]."""

    name = "identity"
    is_copy = True

    def forward(self, samples: Samples) -> Tensor:
        """Vectors (N, D)."""
        return to_floats(samples.values).flatten(1)


class Pixels(FeatureExtractor):
    """Pixels of an image, flattened, in [-1, 1]; resized first if asked.

    Args:
        resolution: Height and width to resize to; None keeps them as they are stored.
    """

    name = "pixels"

    def __init__(self, resolution: int | None = None) -> None:
        super().__init__()
        check_within("[1, 4096]", "e.g. 8", resolution=resolution)
        self.resize = None if resolution is None else Resize(resolution, "bilinear")

    def prepare(
        self, lessons: Callable[[], Samples], spec: SampleSpec, digest: str, cache: Path
    ) -> None:
        """Refuses vectors."""
        if spec.kind != "image":
            raise Refused(
                "",
                f"Pixels needs images, the source gives vectors of shape {spec.shape}",
                "use Identity for vectors",
            )

    def forward(self, samples: Samples) -> Tensor:
        """Pixels (N, C x H x W)."""
        if self.resize is None:
            return to_floats(samples.values).flatten(1)
        return (self.resize(samples.values) / 127.5 - 1.0).flatten(1)

    def protocol(self) -> dict[str, Any]:
        """Resize and range."""
        return {
            "extractor": self.name,
            "resize": str(self.resize or "none"),
            "pixels": "x / 127.5 - 1",
        }
