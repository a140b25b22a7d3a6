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

import torch
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
        self._ahead: dict[tuple[str, int], tuple[Tensor, ...]] = {}

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
        super().on_fit_start()
        self._address = self.common_seed()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Counts batches by arithmetic: a resumed training goes on at its place."""
        if isinstance(batch, Batches):
            self._step = batch.first
        else:
            per_epoch = int(self.trainer.num_training_batches)
            self._step = self.trainer.current_epoch * per_epoch + batch_idx

    def updates(self, step: int) -> Sequence[str]:
        """Names of the updates of a batch whose noise may be drawn ahead."""
        return ()

    def noise(self, seeds: Tensor) -> tuple[Tensor, ...]:
        """What the rows of an update draw, (n, ...) each, by their seeds (n,): by itself, these."""
        return (seeds,)

    def in_turn(self, batch: Samples) -> Iterator[Samples]:
        """The batches of a training step, one after the other; :attr:`step` goes along.

        Noise of all of them is drawn ahead: many small draws cost more than a large one.
        """
        batches = batch.apart() if isinstance(batch, Batches) else [batch]
        n, steps = len(batches[0]), range(self._step, self._step + len(batches))
        ahead = [(purpose, step) for step in steps for purpose in self.updates(step)]
        if ahead:
            drawn = self.noise(torch.cat([self._seeds(n, *update) for update in ahead]))
            rows = zip(*(values.split(n) for values in drawn), strict=True)
            self._ahead = dict(zip(ahead, rows, strict=True))
        for step, one in zip(steps, batches, strict=True):
            self._step = step
            yield one
        self._ahead.clear()

    @property
    def batches(self) -> int:
        """Batches that training has begun with, over all starts."""
        return 0 if self._trainer is None else self._step + 1

    @property
    def step(self) -> int:
        """Batches before this one, from the start of training; what lazy terms count."""
        return self._step

    def parts(self, batch: Samples, purpose: str) -> Iterator[tuple[Any, ...]]:
        """This process's rows in ``accumulate`` equal parts.

        Args:
            batch: Samples (n, ...) of this process.
            purpose: Names the update; each has noise of its own.

        Yields:
            Samples (m, ...), and their :meth:`noise`; by itself one seed for each (m,), int64: the
            address of all that is random about this row in this update. Draw with
            :func:`mad_lightning.seeds.normal`.

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
        drawn = self._ahead.get((purpose, self.step))
        if drawn is None:
            drawn = self.noise(self._seeds(n, purpose, self.step))
        for start in range(0, n, n // self.accumulate):
            rows = slice(start, start + n // self.accumulate)
            yield batch[rows], *(values[rows] for values in drawn)

    def _seeds(self, n: int, purpose: str, step: int) -> Tensor:
        """Of this process's n rows in an update."""
        first = self.trainer.global_rank * n
        return sample_seeds(first, n, self._address, purpose, step, device=self.device)

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
            if mean is not gradient:
                gradient.copy_(mean)
        optimizer.step()
        self.untoggle_optimizer(optimizer)
