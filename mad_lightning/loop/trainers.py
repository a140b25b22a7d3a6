"""The two Lightning Trainers of a generation, and what they may not be asked.

One trains, one computes blocks. Each is made anew, with new inner callbacks and in a directory of
its own: a Trainer or a callback that was used before can bring the weights of an earlier generation
along. A Trainer costs more than many a small generation: where one process computes blocks, or fits
a closed form, and nothing asks for a Trainer, it does without one, and nobody can tell from what
comes out.
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden

from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.loop.blocks import Announce, BlockLoader, Blocks, BlockWriter
from mad_lightning.loop.checkpoints import SealedCheckpoints
from mad_lightning.loop.cluster import (
    check_plugin,
    environments,
    is_launched,
    meet,
    requeueing,
)
from mad_lightning.loop.inside import Checkpoints, CrashOnly, Progress
from mad_lightning.loop.machine import environment
from mad_lightning.loop.one_pass import OnePass
from mad_lightning.processes import alone, barrier, ending_together, from_all, together
from mad_lightning.refusal import Refused, at

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
_OF_A_NODE = ("NODE_RANK", "GROUP_RANK", "SLURM_NODEID", "RANK")
_MOST = max(16, 4 * (os.cpu_count() or 1))
_COPIES = ("spawn", "fork", "notebook")
_STRATEGIES = (
    "auto",
    "single_device",
    "ddp",
    "ddp_find_unused_parameters_false",
    "ddp_find_unused_parameters_true",
)
_OF_PREDICTING = (
    "on_predict_start",
    "on_predict_epoch_start",
    "on_predict_batch_start",
    "on_predict_batch_end",
    "on_predict_epoch_end",
    "on_predict_end",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
)
"""Hooks of a module that only a Trainer calls."""
_REFUSALS_OF_LIGHTNING = (
    MisconfigurationException,
    ValueError,
    TypeError,
    RuntimeError,
    ImportError,
    AttributeError,
    KeyError,
    AssertionError,
)
_CANNOT_WORK: tuple[tuple[str, Callable[[Any], bool], str, str], ...] = (
    ("max_epochs", lambda n: n < -1 or n == 0, "nothing would be trained", "take at least 1"),
    ("max_steps", lambda n: n < -1 or n == 0, "nothing would be trained", "leave it out"),
    (
        "max_time",
        lambda _: True,
        "how far training comes would depend on how busy the machine is",
        "bound it by `max_epochs`",
    ),
    (
        "limit_train_batches",
        lambda n: n <= 0 or n != n,
        "nothing would be trained",
        "take at least 1 batch, or leave it out",
    ),
    (
        "overfit_batches",
        lambda n: n < 0 or n != n,
        "nothing would be trained",
        "take at least 1 batch, or leave it out",
    ),
    (
        "gradient_clip_val",
        lambda value: not 0 <= value < math.inf,
        "gradients cannot be clipped to that",
        "take a positive number, e.g. 1.0, or leave it out",
    ),
    (
        "accumulate_grad_batches",
        lambda n: n < 1,
        "no step would be made",
        "take at least 1",
    ),
    (
        "val_check_interval",
        lambda n: isinstance(n, int) and n > 1,
        "a lineage has no validation",
        "leave it out",
    ),
    (
        "enable_checkpointing",
        lambda value: value is False,
        "a lineage that is killed would not be able to go on",
        "leave it out: one checkpoint is kept, and dropped when the generation is finished",
    ),
    (
        "barebones",
        bool,
        "it takes away the callbacks and checkpoints that a lineage needs",
        "leave it out; `enable_progress_bar: false` and `logger: false` are set already",
    ),
)
"""Argument, what makes it wrong, why, and the remedy."""


class _Plan(NamedTuple):
    """How a lineage is computed.

    Attributes:
        world_size: How many processes train together.
        shape: Processes of a machine, and machines.
        kind: Of the devices, e.g. ``cuda``.
        precision: How exactly numbers are kept in training, as Lightning calls it.
        device: Where the only process computes; None if there are several, or their ways differ.
        plugin: Lightning's, for the precision.
        is_plain: Whether the Trainer is asked for nothing but one epoch on a device.
    """

    world_size: int
    shape: tuple[int, int]
    kind: str
    precision: str
    device: torch.device | None
    plugin: Precision
    is_plain: bool


class Trainers:
    """Makes the Trainers of a lineage.

    Args:
        build_arguments: Makes fresh arguments for Lightning's Trainer, callbacks included.
        at_once: Rows of a block that are computed at once; None: all.
    """

    def __init__(
        self, build_arguments: Callable[[], Mapping[str, Any]], at_once: int | None = None
    ) -> None:
        self.build_arguments, self.at_once = build_arguments, at_once
        self._is_used = False

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
        strategy = arguments.get("strategy", "auto")
        if isinstance(strategy, str) and strategy not in _STRATEGIES:
            raise _of_strategy(strategy)
        for plugin in arguments["plugins"]:
            check_plugin(plugin)
        for field, is_wrong, problem, remedy in _CANNOT_WORK:
            value = arguments.get(field)
            if value is not None and is_wrong(value):
                raise Refused(field, f"{_shown(value)}: {problem}", remedy)
        if arguments.get("max_epochs") == -1 and (arguments.get("max_steps") or -1) == -1:
            raise Refused("max_epochs", "-1: training would never end", "take at least 1")
        if arguments.get("num_nodes", 1) > 1 and not {*_OF_A_NODE} & {*os.environ}:
            raise Refused(
                "num_nodes",
                f"{arguments['num_nodes']}, and nobody said which of them this is",
                "start it on every node, by torchrun or srun",
            )
        for field in ("callbacks", "logger"):
            for given in _listed(arguments.get(field)):
                if remedy := _cannot_stand(given):
                    raise Refused(field, f"{type(given).__name__} does not work here", remedy)
        _ = self._plan

    @contextmanager
    def together(self, admit: Callable[[], bool]) -> Iterator[None]:
        """Lets all processes of a lineage meet, and end together whatever becomes of one of them.

        Args:
            admit: Refuses what cannot be trained; tells whether there is anything to do.

        Raises:
            Refused: What it refuses; nobody starts other processes for that.
        """
        with at("trainer"):
            self.check()
        launched, refused, is_needed = is_launched(), None, True
        try:
            is_needed = admit()
        except Exception as error:
            refused = error
        if self.world_size > 1 and not together() and (launched or (is_needed and not refused)):
            meet(_made(self._of_machine(), *environments(*self._plan.shape)))
        with ending_together(), requeueing():
            told = from_all("" if refused is None else str(refused))
            if refused:
                raise refused
            for rank, words in enumerate(told):
                if words:
                    remedy = "let all machines have the same data, files and settings"
                    raise Refused("", f"process {rank} refuses: {words}", remedy)
            yield

    @property
    def world_size(self) -> int:
        """How many processes train together.

        Raises:
            Refused: If Lightning cannot make such a Trainer.
        """
        return self._plan.world_size

    @property
    def precision(self) -> str:
        """How exactly numbers are kept in training, as Lightning calls it."""
        return self._plan.precision

    @property
    def kind(self) -> str:
        """Of the devices, e.g. ``cuda``."""
        return self._plan.kind

    @property
    def environment(self) -> dict[str, str]:
        """With what numbers are computed: precision, device, versions."""
        return environment(self.precision, self.kind)

    @cached_property
    def _plan(self) -> _Plan:
        arguments = self.arguments()
        if arguments.get("devices") in (0, "0"):
            raise Refused("devices", "0: nothing would compute", "take at least 1, or leave it out")
        try:
            trainer = _made(arguments, LightningEnvironment())  # which asks nothing of a cluster
            strategy = trainer.strategy
            start = vars(strategy).get("_start_method", "popen")
            if type(strategy) not in (SingleDeviceStrategy, DDPStrategy) or start != "popen":
                raise _of_strategy(type(strategy).__name__, start)
            if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > _MOST:
                problem = f"{trainer.num_devices} processes for {os.cpu_count()} CPU cores"
                raise Refused("devices", problem, f"take at most {_MOST} on this machine")
            world_size = trainer.world_size
            if world_size == 1:
                alone()
                vars(rank_zero_only)["rank"] = 0  # as Lightning had read it from the environment
            _ = environments(trainer.num_devices, trainer.num_nodes)
            return _Plan(
                world_size,
                (trainer.num_devices, trainer.num_nodes),
                strategy.root_device.type,
                str(trainer.precision),
                strategy.root_device if world_size == 1 else None,
                trainer.precision_plugin,
                _is_plain(arguments),
            )
        except Refused:
            raise
        except _REFUSALS_OF_LIGHTNING as error:
            problem = str(error).strip().replace("`", "")  # backticks mean parameters of ours
            raise Refused(
                self.culprit(arguments), problem, "give what Lightning's Trainer takes"
            ) from None

    def _of_machine(self) -> dict[str, Any]:
        """Arguments of a Trainer that does not train."""
        given = self.arguments()
        kept = {name: given[name] for name in _OF_THE_MACHINE if name in given}
        others = [plugin for plugin in given["plugins"] if not isinstance(plugin, Precision)]
        exact = {"precision": "32-true", "plugins": others, "enable_checkpointing": False}
        return {**_QUIET, **kept, **exact}

    def culprit(self, arguments: Mapping[str, Any]) -> str:
        """The argument without which Lightning would make a Trainer; empty if there is none."""
        for field in sorted(arguments, key=lambda name: (name in _QUIET, name in _OF_THE_MACHINE)):
            try:
                rest = {name: value for name, value in arguments.items() if name != field}
                _made(rest, LightningEnvironment())
            except _REFUSALS_OF_LIGHTNING:
                continue
            return field
        return ""

    def for_fit(
        self,
        directory: Path,
        made_of: str = "",
        first: Sequence[L.Callback] = (),
        last: Sequence[L.Callback] = (),
        one_pass: bool = False,
        budget: Mapping[str, Any] | None = None,
    ) -> L.Trainer | OnePass:
        """A Trainer that trains and keeps its last checkpoint, or what serves as one.

        Args:
            directory: Where it may write.
            made_of: Digest of what the training is made of; checkpoints carry it.
            first: Callbacks before the user's.
            last: Callbacks after the user's, before the one that writes checkpoints.
            one_pass: Whether the generator is fitted in one pass and asks nothing of a Trainer.
            budget: Arguments that hold here instead of the lineage's.
        """
        plan = self._plan
        if one_pass and plan.is_plain and plan.device is not None:
            return OnePass(plan.device, plan.plugin, made_of, [*first, *last])
        self._is_used = True
        arguments = self.arguments() | dict(budget or {})
        keeps = (
            []
            if arguments.get("fast_dev_run")
            else [Checkpoints(directory / LineageDirectory.CHECKPOINT)]
        )
        callbacks = [*first, *arguments["callbacks"], *last, *keeps]
        plugins = arguments["plugins"]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins = [*plugins, SealedCheckpoints(made_of)]
        own = {"callbacks": callbacks, "plugins": plugins, "default_root_dir": directory}
        return _made({**arguments, **own}, *environments(*plan.shape))

    def compute(
        self,
        module: L.LightningModule,
        work: Mapping[Blocks, Callable[[int, slice], Any]],
        announce: Announce,
    ) -> None:
        """Computes all blocks that do not stand yet, in float32, spread over the processes.

        Args:
            module: What computes them, in its ``predict_step``.
            work: Blocks, and what makes the batch of (job number, rows).
            announce: Called with (blocks done, all blocks) of this process.
        """
        jobs = BlockLoader(work, self.at_once)
        device = self._plan.device
        wants_trainer = (is_overridden(name, module, L.LightningModule) for name in _OF_PREDICTING)
        if device is not None and not any(wants_trainer):
            self._compute_here(module, jobs, device, announce)
            return
        self._is_used = True
        own = {
            "inference_mode": False,
            "callbacks": [BlockWriter(jobs.write), CrashOnly(), Progress(announce)],
        }
        trainer = _made({**self._of_machine(), **own}, *environments(*self._plan.shape))
        module.allow_zero_length_dataloader_with_multiple_devices = True  # blocks may be few
        # Every process enters, also one without work: the Trainer's start holds collectives.
        if jobs.share(trainer.global_rank, trainer.world_size) or trainer.world_size > 1:
            trainer.predict(module, jobs, return_predictions=False)
        barrier()

    @contextmanager
    def freeing(self) -> Iterator[Callable[[], None]]:
        """Frees the Trainers of a generation, and the generator that they hold, when it is over.

        A Trainer, its loops, its callbacks and its module hold each other in rings, which Python
        finds when it looks through everything, after a dozen generations perhaps. Inside, what was
        there at the start is set aside, so that looking through the rest costs a few milliseconds.

        Yields:
            To be called when a generation is over.
        """

        def free() -> None:
            if self._is_used:
                gc.collect()
            self._is_used = False

        gc.collect()
        gc.freeze()
        try:
            yield free
        finally:
            gc.unfreeze()

    def _compute_here(
        self,
        module: L.LightningModule,
        jobs: BlockLoader,
        device: torch.device,
        announce: Announce,
    ) -> None:
        """Computes blocks on the only process, as Lightning's Trainer would."""
        if not (n := jobs.share(0, 1)):
            return
        elsewhere = device.type != "cpu"  # a walk through a module that stays is not free, either
        (module.to(device) if elsewhere else module).eval()
        try:
            with torch.no_grad():
                for done, batch in enumerate(jobs):
                    there = move_data_to_device(batch, device) if elsewhere else batch
                    jobs.write(batch, module.predict_step(there, done))
                    announce(done + 1, n)
        finally:
            if elsewhere:
                module.cpu()


def _made(arguments: Mapping[str, Any], *environment: ClusterEnvironment) -> L.Trainer:
    """Lightning's Trainer, in an environment that it does not have to find by itself."""
    plugins = _listed(arguments.get("plugins"))
    if not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
        plugins = [*plugins, *environment]
    return L.Trainer(**{**arguments, "plugins": plugins})


def _listed(given: Any) -> list[Any]:
    """Lightning takes nothing, one or several; here it is always a list."""
    if given is None or given == []:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]


def _is_plain(arguments: Mapping[str, Any]) -> bool:
    """Whether everything that could make a pass over the samples differ is as Lightning has it."""
    usual = {name: given.default for name, given in signature(L.Trainer).parameters.items()} | {
        **_QUIET,
        "callbacks": [],
        "plugins": [],
        "max_epochs": 1,
    }
    free = (*_OF_THE_MACHINE[:-1], "default_root_dir")
    asked = {name: value for name, value in arguments.items() if name not in free}
    return arguments.get("max_epochs") == 1 and all(usual[k] == v for k, v in asked.items())


def _of_strategy(name: str, start: str = "") -> Refused:
    """What is said of a strategy that a lineage cannot stand."""
    why = "it is not known to leave a generator whole, which a lineage keeps, averages and measures"
    if any(word in (name, start)[bool(start)] for word in _COPIES):
        why = "it copies the generator into other processes and loses it after training"
    return Refused("strategy", f"{name}: {why}", "use auto for one device, ddp for several")


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cannot_stand(given: Any) -> str:
    """What to do instead of a callback or a logger that a lineage cannot stand, if it cannot."""
    if isinstance(given, ModelCheckpoint):
        return (
            "leave it out: a lineage checkpoints by itself, and each generation keeps its weights"
        )
    if isinstance(given, OnExceptionCheckpoint):  # a generation would continue an earlier one's
        return "leave it out: a lineage checkpoints by itself, any kill resumes"
    if isinstance(given, WandbLogger):
        return "leave it out: the lineage's observer WandB shows all generations as one run"
    return ""
