"""What runs inside one generation's Trainer: Lightning callbacks, made anew for each generation.

They enforce what a lineage needs and Lightning does not promise: randomness by address, a start
from scratch, a kill that is a kill, and curves that a resumed training continues.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.seeds import reseed

__all__ = [
    "AddressedRandomness",
    "CrashOnly",
    "Curves",
    "FromScratch",
    "Progress",
]


class AddressedRandomness(L.Callback):
    """Seeds every training step by (lineage seed, generation, epoch, batch, rank).

    Without it all DDP ranks draw the same noise, every DDP generation draws the noise of the first
    (``DDPStrategy`` resets the seed at each entry point), and a resumed training differs from an
    uninterrupted one, because checkpoints hold no random state.
    """

    def __init__(self, *address: int | str) -> None:
        self.address = address

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same on all ranks: initialisation that meets data must agree."""
        reseed(*self.address, "fit")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Different on every rank."""
        reseed(*self.address, "train", trainer.current_epoch, batch_idx, trainer.global_rank)


class FromScratch(L.Callback):
    """Asserts that a generation which does not resume starts at step 0, at the first epoch.

    A stray checkpoint (``OnExceptionCheckpoint``, SLURM's ``hpc_ckpt``) would otherwise make a
    generation silently continue the last one.
    """

    def __init__(self, resumes: bool) -> None:
        self.resumes = resumes

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks at the Trainer's counters."""
        if not self.resumes and (trainer.global_step or trainer.current_epoch):
            raise RuntimeError(
                f"a generation started at step {trainer.global_step}, epoch "
                f"{trainer.current_epoch}: something loaded a checkpoint behind the loop's back"
            )


class CrashOnly(L.Callback):
    """Lets SIGTERM kill.

    Lightning's own handler can deadlock under DDP, is ignored while sampling, and ends with exit
    code 0. Any kill resumes exactly, so there is nothing to handle. The handler is set again in
    hooks that come after Lightning has set its own.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After Lightning has set its handlers for training."""
        self._arm(trainer)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After Lightning has set its handlers for sampling."""
        self._arm(trainer)

    def _arm(self, trainer: L.Trainer) -> None:
        def die(signum: int, frame: Any) -> None:
            kill = getattr(trainer.strategy.launcher, "kill", None)
            if kill is not None:
                kill(signal.SIGKILL)
            os._exit(128 + signum)

        signal.signal(signal.SIGTERM, die)


class Curves(Checkpoint):
    """Keeps what the generator logs, one row an epoch, and passes it on.

    A ``Checkpoint`` by name only: Lightning calls these after the module's own hook at the end of
    an epoch, and all others before it, when what families log there is an epoch old.

    Args:
        lineage: Keeps the curves; rows of epochs that a resumed training repeats are replaced.
        t: The generation.
        images_per_epoch: Images of an epoch, over all processes.
        announce: Called with (images seen, values).
    """

    def __init__(
        self,
        lineage: LineageDirectory,
        t: int,
        images_per_epoch: int,
        announce: Callable[[int, dict[str, float]], None],
    ) -> None:
        self.lineage, self.t = lineage, t
        self.images_per_epoch, self.announce = images_per_epoch, announce

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Adds a row on the first process."""
        values = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if isinstance(value, Tensor | float)
        }
        if not trainer.is_global_zero:
            return
        epoch = trainer.current_epoch
        images = (epoch + 1) * self.images_per_epoch
        rows = [row for row in self.lineage.curves(self.t) if row["epoch"] < epoch]
        self.lineage.keep_curves(self.t, [*rows, {"epoch": epoch, "images": images, **values}])
        self.announce(images, values)


class Progress(L.Callback):
    """Reports batches done, for progress bars.

    Args:
        announce: Called with (done, total).
    """

    def __init__(self, announce: Callable[[int, int], None]) -> None:
        self.announce = announce

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Training batches over all epochs."""
        per_epoch = int(trainer.num_training_batches)
        done = trainer.current_epoch * per_epoch + batch_idx + 1
        self.announce(done, per_epoch * (trainer.max_epochs or 1))

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Blocks of this process."""
        self.announce(batch_idx + 1, int(sum(trainer.num_predict_batches)))
