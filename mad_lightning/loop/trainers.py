"""The two Lightning Trainers of a generation, and what they may not be asked.

One trains, one computes blocks. Each is made anew, with new inner callbacks and in a directory of
its own: a Trainer or a callback that was used before can bring the weights of an earlier generation
along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint

from mad_lightning.loop.blocks import BlockLoader, Blocks, BlockWriter
from mad_lightning.loop.checkpoints import SealedCheckpoints
from mad_lightning.loop.inside import CrashOnly
from mad_lightning.processes import barrier
from mad_lightning.refusal import Refused

__all__ = ["Trainers"]

_QUIET = {
    "logger": False,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""A lineage has observers of its own, and loaders that share out batches by themselves."""
_OF_THE_MACHINE = ("accelerator", "strategy", "devices", "num_nodes", "precision", "plugins")
_COPIES = ("spawn", "fork", "notebook")


class Trainers:
    """Makes the Trainers of a lineage.

    Args:
        build_arguments: Makes fresh arguments for Lightning's Trainer, callbacks included.
    """

    def __init__(self, build_arguments: Callable[[], Mapping[str, Any]]) -> None:
        self.build_arguments = build_arguments

    def arguments(self) -> dict[str, Any]:
        """Fresh arguments; callbacks and plugins are lists."""
        arguments = {**_QUIET, **self.build_arguments()}
        return arguments | {name: _listed(arguments.get(name)) for name in ("callbacks", "plugins")}

    def check(self) -> None:
        """Refuses arguments that a lineage cannot stand.

        Raises:
            Refused: With the argument.
        """
        arguments = self.arguments()
        strategy = arguments.get("strategy")
        if isinstance(strategy, str) and any(word in strategy for word in _COPIES):
            raise Refused(
                "strategy",
                f"{strategy} copies the generator into other processes and loses it after training",
                "use ddp",
            )
        if any(isinstance(callback, OnExceptionCheckpoint) for callback in arguments["callbacks"]):
            raise Refused(
                "callbacks",
                "OnExceptionCheckpoint makes a generation continue an earlier one's weights",
                "leave it out: every epoch is checkpointed, any kill resumes",
            )
        try:
            _ = self.world_size
        except (MisconfigurationException, ValueError) as error:
            names = ("strategy", "devices", "accelerator", "precision", "num_nodes")
            field = next((name for name in names if f"{name}=" in str(error)), "accelerator")
            problem = str(error).replace("`", "")  # backticks mean parameters of ours
            raise Refused(field, problem, "give what Lightning's Trainer takes") from None

    @cached_property
    def world_size(self) -> int:
        """How many processes train together."""
        return L.Trainer(**self.arguments()).world_size

    def for_fit(
        self,
        directory: Path,
        made_of: str = "",
        first: Sequence[L.Callback] = (),
        last: Sequence[L.Callback] = (),
    ) -> L.Trainer:
        """A Trainer that trains and keeps its last checkpoint.

        Args:
            directory: Where it may write.
            made_of: Digest of what the training is made of; checkpoints carry it.
            first: Callbacks before the user's.
            last: Callbacks after the user's, before the one that writes checkpoints.
        """
        arguments = self.arguments()
        checkpoints = ModelCheckpoint(
            directory,
            "last",
            save_top_k=1,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        )
        keeps = [] if arguments.get("fast_dev_run") else [checkpoints]
        callbacks = [*first, *arguments["callbacks"], *last, *keeps]
        plugins = arguments["plugins"]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins = [*plugins, SealedCheckpoints(made_of)]
        own = {"callbacks": callbacks, "plugins": plugins, "default_root_dir": directory}
        return L.Trainer(**{**arguments, **own})

    def compute(
        self,
        module: L.LightningModule,
        work: Mapping[Blocks, Callable[[int, slice], Any]],
        *callbacks: L.Callback,
        **overrides: Any,
    ) -> None:
        """Computes all blocks that do not stand yet, spread over the processes.

        Args:
            module: What computes them, in its ``predict_step``.
            work: Blocks, and what makes the batch of (job number, rows).
            callbacks: Of the Trainer.
            overrides: Arguments of the Trainer, over the configured ones.
        """
        jobs = BlockLoader(work)
        configured = self.arguments()
        trainer = L.Trainer(
            **_QUIET
            | {name: configured[name] for name in _OF_THE_MACHINE if name in configured}
            | {
                "enable_checkpointing": False,
                "inference_mode": False,
                "callbacks": [BlockWriter(jobs.write), CrashOnly(), *callbacks],
            }
            | overrides
        )
        module.allow_zero_length_dataloader_with_multiple_devices = True  # blocks may be few
        # Every process enters, also one without work: the Trainer's start holds collectives.
        if jobs.share(trainer.global_rank, trainer.world_size) or trainer.world_size > 1:
            trainer.predict(module, jobs, return_predictions=False)
        barrier()


def _listed(given: Any) -> list[Any]:
    """Lightning takes nothing, one or several; here it is always a list."""
    if given is None or given == []:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]
