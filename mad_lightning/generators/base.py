"""The contract of a generator family.

A generator is an ordinary LightningModule that can also be sampled from. What it draws is decided
by the seeds it is given, one a sample, and by its weights: not by the batch, the device count or
what was drawn before. It sees stored samples (uint8 images, float32 vectors) at its two borders
and converts at both with :mod:`mad_lightning.samples`. It never writes a file and never logs to
Weights & Biases.

Life of a generator: ``__init__`` takes what the configuration says, :meth:`Generator.build` what
the kind of data says, :meth:`Generator.initialise` what the first batch says; then Lightning trains
it, then :meth:`Generator.sample` draws. It is used for one generation and thrown away.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from hashlib import sha256
from typing import Any

import lightning as L
import torch
from torch import Tensor

from mad_lightning.refusal import Refused, check_sampling_bias
from mad_lightning.samples import Law, Samples, SampleSpec, SeedBlock, to_stored

__all__ = ["Generator"]


class Generator(L.LightningModule, ABC):
    """Abstract generator family."""

    spec: SampleSpec

    exact_pass: bool = False
    """Whether an epoch must be one exact pass over the mix (families with a closed form)."""

    @abstractmethod
    def build(self, spec: SampleSpec) -> None:
        """Makes the networks for samples of this kind and sets ``self.spec``.

        Raises:
            Refused: If the family cannot model them.
        """

    def initialise(self, samples: Samples) -> None:
        """Sets initial weights that depend on data (ActNorm's, for one).

        Called once before training, on every process with the same samples: were it left to the
        first training step, each process would start from its own share of a batch.

        Args:
            samples: The first batch of the generation, of all processes together.
        """

    @abstractmethod
    def draw(self, seeds: Tensor, sampling_bias: float, labels: Tensor | None) -> Tensor:
        """Draws one sample for each seed, as floats.

        Args:
            seeds: Sample seeds with shape (N,), int64, on the generator's device.
            sampling_bias: λ in (0, 1].
            labels: Classes (N,), int64, or None.

        Returns:
            Images in [-1, 1] with shape (N, C, H, W), or vectors (N, D).
        """

    def check_bias(self, sampling_bias: float) -> None:
        """Refuses a λ that this family cannot translate."""
        check_sampling_bias(sampling_bias)

    def sampler(self) -> dict[str, Any]:
        """What besides λ shapes the samples (sampler, steps, clipping, whose weights)."""
        return {}

    def law(self) -> Law | None:
        """Mean and covariance of the unbiased generator, where the family knows them exactly."""
        return None

    @torch.no_grad()
    def sample(
        self, seeds: Tensor, sampling_bias: float = 1.0, labels: Tensor | None = None
    ) -> Samples:
        """Draws stored samples.

        Args:
            seeds: One seed a sample, with shape (N,), int64.
            sampling_bias: λ in (0, 1]; 1 is unbiased.
            labels: Classes to draw (N,), int64; None for unlabelled data.

        Returns:
            N samples on the CPU.

        Raises:
            Refused: If λ is out of range.
            FloatingPointError: If samples are not finite. They are counted, never filtered:
                a hidden filter would be a sampling bias.
        """
        self.check_bias(sampling_bias)
        training = self.training
        self.eval()
        try:
            seeds = seeds.to(self.device)
            given = None if labels is None else labels.to(self.device)
            floats = self.draw(seeds, sampling_bias, given)
        finally:
            self.train(training)
        broken = int((~torch.isfinite(floats.flatten(1))).any(dim=1).sum())
        if broken:
            raise FloatingPointError(
                f"{broken} of {len(seeds)} samples of {type(self).__name__} are not finite: "
                "the generator has diverged (try a lower learning rate)"
            )
        return Samples(to_stored(floats, self.spec).cpu(), labels)

    def predict_step(self, batch: SeedBlock, batch_idx: int) -> Samples:
        """Draws one block; Lightning brings devices, precision and processes."""
        return self.sample(batch.seeds, batch.sampling_bias, batch.labels)

    def digest(self) -> str:
        """SHA-256 of all weights and buffers."""
        digest = sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()


def refuse_vectors(family: str, spec: SampleSpec) -> None:
    """Refuses vector data, for families that need images."""
    if spec.kind != "image":
        raise Refused(
            "generator",
            f"{family} needs images, the source gives vectors {spec.shape}",
            "use Gaussian, or a source of images",
        )


def warmed_cosine(
    optimizer: torch.optim.Optimizer, warmup: int, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """A learning rate that rises over ``warmup`` steps, then falls to 0 as a cosine of all."""
    steps = max(2, steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
