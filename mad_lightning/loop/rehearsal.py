"""One batch in advance: what a family logs, for those who wait for a quantity by name."""

from __future__ import annotations

from copy import copy

import lightning as L
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.generators.base import Generator
from mad_lightning.policies import Mix
from mad_lightning.seeds import reseed

__all__ = ["rehearse"]


def rehearse(generator: Generator, data: GenerationDataModule, mix: Mix, seed: int) -> set[str]:
    """Trains a generator on one small batch of a mix of real samples; writes nothing.

    Returns:
        Names of what it has logged.
    """
    small = copy(data)
    small.batch_size, small.images_per_epoch = min(8, data.batch_size), None
    fed = small.feed(mix, seed, exact=generator.exact_pass, weighs=generator.weighs)
    reseed(seed, 1, "rehearsal")
    generator.initialise(next(iter(fed.loader())))
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        plugins=LightningEnvironment(),
        max_epochs=1,
        limit_train_batches=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(generator, datamodule=fed)
    return set(trainer.callback_metrics)
