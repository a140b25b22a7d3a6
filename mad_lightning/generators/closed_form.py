"""Families that are fitted in one pass.

Their weights are statistics of the training samples: nothing is optimised, and more epochs change
nothing. A family takes up samples in ``training_step`` and ends its fit in ``on_train_epoch_end``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mad_lightning.generators.base import Generator
from mad_lightning.refusal import Refused

__all__ = ["ClosedForm", "Estimator"]

Estimator = Literal["unbiased", "maximum_likelihood"]
"""Whether a variance is a sum over n - 1, or over n."""


class ClosedForm(Generator):
    """Abstract family with a closed form; what it fits are buffers."""

    exact_pass = True
    batches_at_once = 8
    has_gradients = False

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        # DDP refuses a module with nothing to optimise; this holds its place.
        self.unused = nn.Parameter(torch.zeros(()))

    def configure_optimizers(self) -> None:
        """Nothing to optimise."""

    def check_met(self, asked: Tensor, met: Tensor) -> None:
        """Refuses to draw from a class that had no sample in training: nothing was fitted.

        Args:
            asked: Classes (N,), int64.
            met: Whether each class had samples (K,), bool.

        Raises:
            Refused: If a class had none.
            RuntimeError: If no class had any: it was not trained yet.
        """
        if not met.any():
            raise RuntimeError(f"{type(self).__name__} draws before it is trained")
        unmet = asked[~met[asked]]
        if len(unmet):
            raise Refused(
                "",
                f"{type(self).__name__} is asked for class {int(unmet.min())}, of which it had no "
                "sample to train on",
                "ask for classes that it has met, or train on more samples, or without classes",
            )
