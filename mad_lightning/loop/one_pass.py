"""One pass over the samples, for what is fitted in one and asks nothing of Lightning's Trainer.

A Gaussian is fitted in a millisecond, and a Trainer is made, started and ended in thirty. So a
process that is alone hands samples to such a family itself: the same hooks in the same order, the
same callbacks, the same artefacts. What it cannot do (stop, resume, log, step) nobody asks of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.plugins import Precision

from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.generators.base import Generator
from mad_lightning.loop.checkpoints import SealedCheckpoints

__all__ = ["OnePass"]


class OnePass:
    """Serves as the Trainer of one epoch.

    Args:
        device: Where it computes.
        precision_plugin: Lightning's, for the precision.
        made_of: Digest of what the training is made of; the checkpoint carries it.
        callbacks: Their hooks of fit, epoch and batch are called, before the generator's but for
            the end of the epoch.
    """

    current_epoch = global_step = global_rank = 0
    max_epochs, max_steps = 1, -1
    is_global_zero = True

    def __init__(
        self,
        device: torch.device,
        precision_plugin: Precision,
        made_of: str,
        callbacks: Sequence[L.Callback],
    ) -> None:
        self.device, self.precision_plugin, self.made_of = device, precision_plugin, made_of
        self.callbacks = callbacks
        self.callback_metrics: dict[str, Any] = {}
        self.num_training_batches = 0

    def fit(
        self, generator: Generator, datamodule: GenerationDataModule, ckpt_path: str | None = None
    ) -> None:
        """Fits a generator to one pass over the samples.

        Args:
            generator: Its ``is_one_pass`` is true.
            datamodule: Was fed.
            ckpt_path: There is none: a pass leaves no checkpoint behind before its end.
        """
        self.generator = generator
        batches = datamodule.loader(at_once=generator.batches_at_once)
        self.num_training_batches = len(batches)
        plugin = self.precision_plugin
        elsewhere = self.device.type != "cpu"
        module = plugin.convert_module(generator)
        (module.to(self.device) if elsewhere else module).train()
        self._tell("on_fit_start")
        generator.on_fit_start()
        self._tell("on_train_epoch_start")
        generator.on_train_epoch_start()
        with plugin.train_step_context():
            for place, batch in enumerate(batches):
                there = move_data_to_device(batch, self.device) if elsewhere else batch
                there = plugin.convert_input(there)
                self._tell("on_train_batch_start", there, place)
                outputs = generator.training_step(there, place)
                self._tell("on_train_batch_end", outputs, there, place)
        generator.on_train_epoch_end()
        self._tell("on_train_epoch_end")
        self.current_epoch += 1
        self._tell("on_train_end")
        self._tell("on_fit_end")
        if elsewhere:
            generator.cpu()

    def save_checkpoint(self, path: Path, weights_only: bool = True) -> None:
        """Keeps the weights, as Lightning's checkpoints hold them; they are cheap to make again."""
        content = {
            "epoch": 1,
            "global_step": 0,
            "pytorch-lightning_version": L.__version__,
            "state_dict": self.generator.state_dict(),
        }
        SealedCheckpoints(self.made_of, lasting=False).save_checkpoint(content, path)

    def _tell(self, hook: str, *args: Any) -> None:
        for callback in self.callbacks:
            if callable(told := getattr(callback, hook)):  # as Lightning does
                told(cast(L.Trainer, self), self.generator, *args)
