"""What runs inside one generation's Trainer: Lightning callbacks, made anew for each generation.

They enforce what a lineage needs and Lightning does not promise: randomness by address, a start
from scratch, a kill that is a kill, an end where numbers break, and curves that count what was
trained and that a resumed training continues.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from mad_lightning.generators.base import Generator
from mad_lightning.generators.means import Means
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.processes import Team, mean_over_all, take_from_first
from mad_lightning.refusal import Diverged, at
from mad_lightning.samples import SeedBlock
from mad_lightning.seeds import reseed

__all__ = [
    "AddressedRandomness",
    "Checkpoints",
    "CrashOnly",
    "Curves",
    "Divergence",
    "FromScratch",
    "Inner",
    "Progress",
    "telling_divergence",
]


_SELDOM = 200


class Inner(L.Callback):
    """A callback that Lightning does not call within steps, unless it says what to do there.

    Each call costs some microseconds, whether there is anything to do or not, and every update of
    a network makes four of them to every callback. Lightning passes over what cannot be called.
    """

    on_train_batch_start: Any = None
    on_train_batch_end: Any = None
    on_before_zero_grad: Any = None
    on_before_backward: Any = None
    on_after_backward: Any = None
    on_before_optimizer_step: Any = None


class AddressedRandomness(Inner):
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


class FromScratch(Inner):
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


class CrashOnly(Inner):
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


class Divergence(Inner, Checkpoint):
    """Stops a training in the epoch in which it breaks, before anything of that epoch is kept.

    The losses that steps return and all weights must be finite at the end of each epoch, whatever
    the family notes of itself; and what was trained must be able to draw, or it is not kept at all.
    (A ``Checkpoint`` by name only, see :class:`Curves`.)

    Args:
        trial: A few samples to draw when training ends; None: what draws all of them next is cheap
            to train again if it cannot (:func:`telling_divergence`).
    """

    def __init__(self, trial: SeedBlock | None) -> None:
        self.trial, self.tried = trial, trial is None
        self.losses = Means()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Notes the loss, where it lies."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            self.losses.add("its loss", loss, cast(Generator, pl_module).batches)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """All processes look, and stop together."""
        generator, epoch = cast(Generator, pl_module), trainer.current_epoch
        for name, step in self.losses.taken()[1].items():
            raise generator.diverged(f"{name} is not finite in epoch {epoch}, from step {step} on")
        broken = generator.broken_weights()
        anywhere = torch.tensor(float(len(broken)), device=generator.device)
        if any(mean_over_all(anywhere)):
            names = ", ".join(broken[:3]) or "those of another process"
            step = generator.batches
            raise generator.diverged(
                f"{len(broken)} of its weights ({names}) are not finite after step {step}, the "
                f"last of epoch {epoch}"
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws, on the device that has trained."""
        if self.trial is not None:
            with trainer.precision_plugin.predict_step_context():
                cast(Generator, pl_module).predict_step(self.trial, 0)
        self.tried = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws if a training that was killed after its last epoch had nothing left to train."""
        if not self.tried:
            self.on_train_end(trainer, pl_module)


class Curves(Inner, Checkpoint):
    """Keeps what the generator logs, one row an epoch, and passes it on.

    A ``Checkpoint`` by name only: Lightning calls these after the module's own hook at the end of
    an epoch, and all others before it, when what families log there is an epoch old.

    Images are counted as they come, over all processes; a checkpoint carries the count on.

    Args:
        lineage: Keeps the curves; rows of epochs that a resumed training repeats are replaced.
        t: The generation.
        announce: Called with (images seen, values).
    """

    def __init__(
        self,
        lineage: LineageDirectory,
        t: int,
        announce: Callable[[int, dict[str, float]], None],
    ) -> None:
        self.lineage, self.t, self.announce = lineage, t, announce
        self.images: int | None = None
        self._rows: list[dict[str, float]] | None = None
        self._new = 0  # of this process, in this epoch
        self._before: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Images of all epochs so far."""
        return {"images": self.images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting."""
        self.images = state_dict["images"]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remembers what was logged before: the Trainer keeps it as if it were new."""
        self._new, self._before = 0, dict(trainer.callback_metrics)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Counts the images of this process."""
        self._new += len(batch)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Adds a row on the first process."""
        values = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if isinstance(value, Tensor | float) and value is not self._before.get(name)
        }
        new = torch.tensor(self._new, device=pl_module.device)
        self.images = self._counted(trainer) + int(Team.of().gathered(new).sum())
        if not trainer.is_global_zero:
            return
        row = {"epoch": trainer.current_epoch, "images": self.images, **values}
        rows = self._rows_before(trainer)
        self.lineage.keep_curves(self.t, [*rows, row])
        rows.append({name: float(value) for name, value in row.items()})  # as the file has them
        self.announce(self.images, values)

    def _counted(self, trainer: L.Trainer) -> int:
        """Images before this epoch; checkpoints did not always tell."""
        if self.images is None:
            rows = self._rows_before(trainer)
            self.images = int(rows[-1]["images"]) if rows else 0
        return self.images

    def _rows_before(self, trainer: L.Trainer) -> list[dict[str, float]]:
        """Rows of the epochs before this one; read once."""
        if self._rows is None:
            rows = self.lineage.curves(self.t)
            self._rows = [row for row in rows if row["epoch"] < trainer.current_epoch]
        return self._rows


class Checkpoints(Inner, Checkpoint):
    """Keeps a checkpoint at the ends of epochs, as seldom as makes it cheap.

    At the end of the first one, and then whenever training has gone on for 200 times as long as the
    last one took to write. A training ends the same from whichever it resumes, and what a kill
    costs stays small beside what was trained.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.due = path, -math.inf

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """By the first process's clock; all of them take part."""
        start = time.monotonic()
        is_due = torch.tensor(int(start >= self.due), device=pl_module.device)
        take_from_first(is_due)
        if is_due:
            trainer.save_checkpoint(self.path, weights_only=False)
            end = time.monotonic()
            self.due = end + _SELDOM * (end - start)


class Progress(Inner):
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
        """Training batches over all epochs, or steps where those end first."""
        per_epoch, epochs = int(trainer.num_training_batches), trainer.max_epochs or 1
        done, total = trainer.current_epoch * per_epoch + batch_idx + 1, per_epoch * epochs
        if (most := trainer.max_steps) > 0:
            steps = trainer.global_step  # dear to ask for
            if epochs < 0 or steps * total > done * most:
                done, total = min(steps, most), most  # a batch of two networks may overshoot
        self.announce(done, total)

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


@contextmanager
def telling_divergence(lineage: LineageDirectory, t: int, generator: Generator) -> Iterator[None]:
    """Tells of a divergence inside which generation it is, what is kept, and how to go on.

    Weights that cannot draw all their samples are taken away while they can still be trained, or
    are trained in one pass; not if a second phase may have spoilt them.
    """
    try:
        with at("generator"):
            try:
                yield
            except Diverged:
                raise
            except (FloatingPointError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
                raise generator.diverged(str(error)) from error
    except Diverged as diverged:
        checkpoint = lineage.checkpoint(t)
        if generator.improvement:
            remedy = "a smaller `improve.weight`"
            problem = f"generation {t} of {lineage}: {diverged.problem}"
            raise Diverged("improve", problem, remedy) from diverged
        is_unfinished = t > len(lineage.ledger)
        if checkpoint.exists() or (generator.is_one_pass and is_unfinished):
            lineage.weights(t).unlink(missing_ok=True)
        kept = [f"generations 1 to {t - 1}"] if t > 1 else []
        kept += [f"what this training kept, {checkpoint}"] * checkpoint.exists()
        told = Diverged(
            diverged.field,
            f"generation {t} of {lineage}: {diverged.problem}\n"
            f"  kept: {'; '.join(kept) or 'nothing; no generation was finished'}",
            diverged.remedy,
        )
        told.stands = f"{lineage}@{t - 1}" if t > 1 else ""
        raise told from diverged
