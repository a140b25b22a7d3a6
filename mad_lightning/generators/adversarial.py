"""What the adversarial families share: two networks that are trained by hand.

One optimiser step of a GAN moves one of its two networks, so Lightning's automatic optimisation
does not fit, and ``ddp`` finds "unused parameters" in each of the two backward passes. Here the
gradients of the network that moves are averaged over the processes by the family itself, once for
each step, which plain ``ddp`` allows.

Noise has an address here as everywhere: a row of the *joined* batch of a step draws the same
latent on whichever process it lies. Two processes therefore train the network that one would have
trained, up to the order of sums, and gradient accumulation changes nothing but memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from mad_lightning.generators.base import Generator
from mad_lightning.processes import mean_over_all
from mad_lightning.refusal import Refused, check_within
from mad_lightning.samples import Batches, Samples
from mad_lightning.seeds import sample_seeds

__all__ = ["Adversarial"]


class Adversarial(Generator):
    """Abstract generator whose networks have an optimiser each.

    Args:
        accumulate: Parts that a process's share of a batch is worked off in, to save memory.
            (The Trainer's own ``accumulate_grad_batches`` wants automatic optimisation.)
    """

    def __init__(self, accumulate: int = 1) -> None:
        super().__init__()
        check_within("[1, 65536]", accumulate=accumulate)
        self.automatic_optimization = False
        self.accumulate = accumulate
        self._address = 0
        self._step = 0

    def check_training(self, counts: Sequence[int], batch_size: int) -> None:
        """The rows of a batch are shared out equally."""
        super().check_training(counts, batch_size)
        if batch_size % self.accumulate:
            raise Refused(
                "accumulate",
                f"{batch_size} samples of a process do not make {self.accumulate} equal parts",
                "make batches a multiple of it, on each process",
            )

    def on_fit_start(self) -> None:
        """Draws the address of all noise in training."""
        self._address = self.common_seed()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Counts batches by arithmetic: a resumed training goes on at its place."""
        if isinstance(batch, Batches):
            self._step = batch.first
        else:
            per_epoch = int(self.trainer.num_training_batches)
            self._step = self.trainer.current_epoch * per_epoch + batch_idx

    def in_turn(self, batch: Samples) -> Iterator[Samples]:
        """The batches of a training step, one after the other; :attr:`step` goes along."""
        batches = batch.apart() if isinstance(batch, Batches) else [batch]
        for step, one in enumerate(batches, self._step):
            self._step = step
            yield one

    @property
    def batches(self) -> int:
        """Batches that training has begun with, over all starts."""
        return 0 if self._trainer is None else self._step + 1

    @property
    def step(self) -> int:
        """Batches before this one, from the start of training; what lazy terms count."""
        return self._step

    def parts(self, batch: Samples, purpose: str) -> Iterator[tuple[Samples, Tensor]]:
        """This process's rows in ``accumulate`` equal parts.

        Args:
            batch: Samples (n, ...) of this process.
            purpose: Names the update; each has noise of its own.

        Yields:
            Samples (m, ...), and one seed for each (m,), int64: the address of all that is random
            about this row in this update. Draw with :func:`mad_lightning.seeds.normal`.

        Raises:
            Refused: If the rows cannot be shared out equally.
        """
        n, world_size = len(batch), self.trainer.world_size
        if n % self.accumulate:
            raise Refused(
                "accumulate",
                f"{n} samples of a process do not make {self.accumulate} equal parts",
                f"make each batch a multiple of {self.accumulate * world_size} samples",
            )
        first = self.trainer.global_rank * n
        seeds = sample_seeds(first, n, self._address, purpose, self.step).to(self.device)
        for start in range(0, n, n // self.accumulate):
            rows = slice(start, start + n // self.accumulate)
            yield batch[rows], seeds[rows]

    @contextmanager
    def updating(self, optimizer: LightningOptimizer, network: nn.Module) -> Iterator[None]:
        """Takes one optimiser step on ``network`` with the gradients of the block.

        Inside, call ``manual_backward(loss / accumulate)`` as often as needed. Gradients are
        averaged over processes once, at the end.
        """
        self.toggle_optimizer(optimizer)
        optimizer.zero_grad()
        unsynchronised = getattr(self.trainer.strategy, "block_backward_sync", nullcontext)
        with unsynchronised():
            yield
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        for gradient, mean in zip(gradients, mean_over_all(*gradients), strict=True):
            gradient.copy_(mean)
        optimizer.step()
        self.untoggle_optimizer(optimizer)
