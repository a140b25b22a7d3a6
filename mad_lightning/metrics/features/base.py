"""What every feature extractor is: a frozen network with a name, weights and a protocol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
from torch import Tensor

from mad_lightning.identity import Described
from mad_lightning.precision import true_float32
from mad_lightning.samples import SampleBlock, Samples, SampleSpec

__all__ = ["FeatureExtractor"]


class FeatureExtractor(Described, L.LightningModule, ABC):
    """Abstract feature extractor. It is never trained by a lineage."""

    name: ClassVar[str]
    """Part of every metric's name."""

    is_copy: ClassVar[bool] = False
    """Whether features are the samples themselves, which nobody has to compute."""

    def prepare(
        self, lessons: Callable[[], Samples], spec: SampleSpec, digest: str, cache: Path
    ) -> None:
        """Finds or makes the weights.

        Args:
            lessons: Gives real samples to learn from; reference and floor are never shown.
            spec: What its samples look like.
            digest: Digest of the real data and its split.
            cache: Where weights are kept.

        Raises:
            Refused: If weights are missing, or the samples are of the wrong kind.
        """

    @abstractmethod
    def forward(self, samples: Samples) -> Tensor:
        """Features with shape (N, D), float32."""

    def seen(self, features: Tensor) -> Tensor | None:
        """Classes (N,) that it takes samples with such features (N, D) for; None if it has none."""
        return None

    def protocol(self) -> dict[str, Any]:
        """Name, weight hash and resize."""
        return {"extractor": self.name}

    def predict_step(self, batch: SampleBlock, batch_idx: int) -> Tensor:
        """Features of one block, in float32; Lightning brings devices and processes."""
        with true_float32(batch.samples.values.device):
            return self(batch.samples)
