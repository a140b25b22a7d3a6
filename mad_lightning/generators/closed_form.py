"""Families that are fitted in one pass.

Their weights are statistics of the training samples: nothing is optimised, and more epochs change
nothing. A family takes up samples in ``training_step`` and ends its fit in ``on_train_epoch_end``.
"""

from __future__ import annotations

import torch
from torch import nn

from mad_lightning.generators.base import Generator

__all__ = ["ClosedForm"]


class ClosedForm(Generator):
    """Abstract family with a closed form; what it fits are buffers."""

    exact_pass = True

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        # DDP refuses a module with nothing to optimise; this holds its place.
        self.unused = nn.Parameter(torch.zeros(()))

    def configure_optimizers(self) -> None:
        """Nothing to optimise."""
