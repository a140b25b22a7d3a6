r"""mad train: YAML and flags in, a lineage out.

usage: mad train --config CONFIG [--config CONFIG ...] [--key.sub value ...]
       python train.py, which is the same

Examples:
  mad train --config configs/digits_diffusion_full_synth.yaml
  mad train --config configs/digits_diffusion_fresh.yaml --seed_everything 1
  mad train --config configs/mnist_diffusion_full_synth.yaml --data.source.root ~/data \
      --trainer.devices 8 --trainer.strategy ddp

To resume a lineage that was stopped in any way, run the same command again.

Groups of options:
  --seed_everything N   the lineage's seed
  --sampling_bias λ     bias of every synthetic sample, in (0, 1]; 1 is unbiased
  --lineage.*           name, root directory, number of generations
  --policy.*            the loop: FullySynthetic, SyntheticAugmentation, FreshData, Combined,
                        AccumulateSubsample; counts
  --treatment.*         what may happen to drawn samples: TopShare, Diverse, Watermark, Own, ...
  --data.*              real data by name (--data.source Digits), reference, batches
  --generator.*         the family: Diffusion, Gaussian, Glow, Mixture, StyleGAN2, WGAN
  --improve             a second phase of each generation: SIMS, Neon, Autoguidance
  --evaluator.*         feature extractor and metrics
  --callbacks           observers of the lineage: Console, SampleGrids, WandB, StopWhenMAD
  --trainer.*           Lightning's Trainer: accelerator, devices, strategy, max_epochs, ...

  --dry_run             print generations, images, disk and time; unless such a lineage stands,
                        two short generations trained aside tell how long an image takes
  --print_config        print the resolved configuration and exit
  --full_help           every option with its type and default
  --generator.help Diffusion     the options of one class (also data.source, policy, ...)
"""

from __future__ import annotations

import logging
import os
import pkgutil
import re
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import mad_lightning.callbacks
import mad_lightning.data
import mad_lightning.generators
import mad_lightning.metrics
import mad_lightning.treatments
from mad_lightning.callbacks.base import LineageCallback
from mad_lightning.commands.explain import explain
from mad_lightning.commands.faults import in_own_code
from mad_lightning.commands.reading import Unreadable, read_strictly
from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.generators.base import Generator
from mad_lightning.generators.guidance import Improvement
from mad_lightning.lineage.configuration import differences
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.lineage.naming import dotted, label, overridden
from mad_lightning.lineage.settings import LineageSettings
from mad_lightning.loop.forecast import forecast
from mad_lightning.loop.meta_trainer import MetaTrainer
from mad_lightning.loop.pacing import probe
from mad_lightning.metrics.evaluator import Evaluator
from mad_lightning.policies import LoopPolicy
from mad_lightning.processes import part_ways
from mad_lightning.refusal import Refused, at
from mad_lightning.treatments.base import Treatment

__all__ = ["LineageCLI", "build", "run"]

_LISTING = "mad train --full_help lists all fields, --<group>.help CLASS those of a class"
_TRAINER = {
    "max_epochs": 1,
    "logger": False,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""Arguments of Lightning's Trainer whose default is ours."""
_TOLD_TOO_OFTEN = (
    ".*does not have many workers.*",  # a batch is a gather, workers would only cost
    ".*this fit will run with no optimizer.*",  # closed forms have none
    ".*No device id is provided.*",  # Lightning's own barrier
    ".*Trainer already configured with model summary.*",  # which is switched off
    ".*Checkpoint directory .* exists and is not empty.*",  # of a training that goes on
    ".*treespec, LeafSpec.*",  # between Lightning and torch
    ".*module.s. in eval mode at the start of training.*",  # the averaged weights
    ".*resume from a checkpoint that ended before the epoch ended.*",  # it is the epoch's end
    ".*number of training batches .* smaller than the logging interval.*",  # logged by epoch
    ".*Total length of .* across ranks is zero.*",  # all blocks stand
    ".*You have overridden .on_before_batch_transfer..*",  # it takes ordinary tensors, too
    ".*It is recommended to use .*sync_dist=True.*",  # means over processes are logged as such
    ".*GPU available but not used.*",
    ".*MPS available but not used.*",
    ".*You have overridden `on_before_batch_transfer`.*",  # generators take plain tensors, too
)
"""What Lightning says about every one of many Trainers."""


class LineageCLI(LightningCLI):
    """Lightning's own command line, with our vocabulary.

    ``--config`` (several compose, later ones win), ``--trainer.*`` flags that reach Lightning's
    Trainer, dotted overrides, ``class_path``/``init_args`` for everything that can be exchanged,
    ``--print_config``. One thing differs: nothing is built while parsing. A lineage needs a fresh
    generator, Trainer and inner callbacks for each generation, so the parsed configuration is kept
    and instantiated again and again, group by group (:meth:`make`).

    Args:
        args: Command-line arguments, without program and verb.

    Raises:
        Refused: If an argument or a configuration file is wrong.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self._known: dict[str, partial[Any]] = {}
        for room in (
            mad_lightning.callbacks,
            mad_lightning.data,
            mad_lightning.generators,
            mad_lightning.metrics,
            mad_lightning.treatments,
        ):  # short class names work for classes that are imported
            for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
                import_module(module.name)
        import_module("mad_lightning.report.live")  # the one observer that reports
        super().__init__(
            parser_kwargs={
                "prog": "mad train",
                "dump_header": None,
                "exit_on_error": False,
                "allow_abbrev": False,
            },
            run=False,
            args=list(args),
            seed_everything_default=_seed(),
            auto_configure_optimizers=False,
            trainer_defaults=_TRAINER,
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Declares the groups of options."""
        parser.add_class_arguments(LineageSettings, "lineage")
        parser.add_argument(
            "--sampling_bias",
            type=float | str,
            default=1.0,
            help="λ in (0, 1], or a schedule of it in t; 1 is unbiased.",
        )
        parser.add_subclass_arguments(LoopPolicy, "policy", required=True)
        parser.add_subclass_arguments(Treatment, "treatment", required=False, default=None)
        parser.add_lightning_class_args(GenerationDataModule, "data")
        parser.add_lightning_class_args(Generator, "generator", subclass_mode=True)
        parser.add_argument(
            "--improve",
            type=Improvement | None,
            default=None,
            help="A second phase of each generation: SIMS, Neon or Autoguidance.",
        )
        parser.add_class_arguments(Evaluator, "evaluator")
        parser.add_argument(
            "--callbacks",
            type=list[LineageCallback],
            default=[
                {"class_path": f"mad_lightning.callbacks.{name}"}
                for name in ("Console", "SampleGrids", "WandB")
            ],
            help="Observers of the lineage.",
        )
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{k}": v for k, v in self.trainer_defaults.items()})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses; says no where Lightning would print its usage."""
        read_strictly()
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            raise explain(str(error), parser, _LISTING) from None
        except Unreadable as error:
            raise error.refused from None
        except (LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            if any(in_own_code(error)):
                raise
            problem = f"a value cannot be read: {type(error).__name__}: {error}"
            raise Refused("configuration", problem[:300], _LISTING) from error
        for group in ("lineage", "data", "evaluator", "trainer"):
            if not isinstance(self.config[group], Namespace):
                raise Refused(group, f"{self.config[group]} is not accepted", _LISTING)

    def _add_instantiators(self) -> None:
        """Keeps no configuration in checkpoints: it stands beside the lineage."""

    def _set_seed(self) -> None:
        """Every draw is seeded by its address."""

    def instantiate_classes(self) -> None:
        """Later, and more than once."""

    def make(self, key: str) -> Any:
        """Makes what one group of the configuration says, anew, and nothing else.

        Returns:
            An object, or a list of them; of a group that is no class to choose, its arguments.

        Raises:
            Refused: If a class refuses its arguments, with its place in the configuration.
        """
        raised: list[tuple[type, Exception]] = []
        calls: list[tuple[partial[Any], Any]] = []

        def noted(made: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                calls.append((partial(made, *args, **kwargs), made(*args, **kwargs)))
            except Exception as error:
                raised.append((made, error))
                raise
            return calls[-1][1]

        try:
            if (known := self._known.get(key)) is not None:
                return noted(known.func, *known.args, **known.keywords)
            result = self.parser.instantiate(
                Namespace({key: self.config[key]}),
                instantiate_groups=False,
                instantiators=[(noted, object, True)],
            )[key]
        except Exception:  # the parser may wrap what a class has raised
            if not raised:
                raise
        else:
            # The parser takes a millisecond to find the call of a small class, in each generation.
            call, made = calls[0] if len(calls) == 1 else (None, None)
            if call and made is result and _is_fixed((*call.args, *call.keywords.values())):
                self._known[key] = call
            return result
        culprit, error = raised[0]
        with at(next(_places_of(culprit, self.config[key], key), key)):
            raise _refused_by(culprit, error)


def _is_fixed(values: Iterable[Any]) -> bool:
    """Whether nobody can change these values, however often they are handed over."""
    return all(
        _is_fixed(value)
        if isinstance(value, tuple)
        else isinstance(value, str | int | float | None)
        for value in values
    )


def _refused_by(made: type, error: Exception) -> Exception:
    """What to raise for a class that could not be made: a library's words become a refusal."""
    if isinstance(error, Refused) or made.__module__.startswith(__package__.partition(".")[0]):
        return error
    if any(in_own_code(error)):
        return error
    problem = f"{made.__name__} says: {str(error).strip()}".replace("`", "")
    remedy = f"give what {made.__name__} takes"
    return Refused(
        "",
        problem[:500],
        "install what it names, or leave it out" if isinstance(error, ImportError) else remedy,
    )


def _places_of(kind: type, config: Any, place: str) -> Iterator[str]:
    """Where a class stands in a parsed configuration; members of lists are told by their class."""
    if isinstance(config, list):
        for member in config:
            if "class_path" in member:
                name = member.class_path.rpartition(".")[2]
                yield from _places_of(kind, member, f"{place}.{name}")
    elif isinstance(config, Namespace):
        if "class_path" in config:
            if config.class_path.rpartition(".")[2] == kind.__name__:
                yield place
            config = config.get("init_args", Namespace())
        for name, inner in vars(config).items():
            yield from _places_of(kind, inner, f"{place}.{name}")


def run(args: Sequence[str]) -> None:
    """Trains the lineage that the arguments describe, or says what that would cost."""
    said = ["--help" if arg == "--full_help" else arg for arg in args if arg != "--dry_run"]
    meta = build(said)
    if "--dry_run" in args:
        told = forecast(meta)
        print(told.counts, flush=True)
        if told.seconds is None:
            print("measuring the pace, by a short lineage aside", flush=True)
            told = told.at(probe(meta, said))
        return print(told.cost)
    meta.fit()
    return part_ways()


def build(args: Sequence[str], kind: Callable[..., MetaTrainer] = MetaTrainer) -> MetaTrainer:
    """Parses arguments into a lineage that is ready to train.

    Args:
        args: Command-line arguments, without program and verb.
        kind: What to make of them.

    Returns:
        The lineage; nothing has been trained or written.

    Raises:
        Refused: If an argument or a configuration file is wrong.
    """
    _quieten()
    cli = LineageCLI(args)
    config = cli.config
    seed = config.seed_everything
    if seed is None or isinstance(seed, bool) or seed < 0:
        raise Refused("seed_everything", f"{seed}", "give the lineage's seed as a number, e.g. 0")
    if config.lineage.name is None:
        config.lineage.name = _name(config, args)
    with at("lineage"):
        settings = LineageSettings(**vars(cli.make("lineage")))
    arguments = vars(cli.make("data"))
    with at("data"):
        data = GenerationDataModule(**arguments)
    arguments = vars(cli.make("evaluator"))
    with at("evaluator"):
        evaluator = Evaluator(**arguments)
    for group in ("generator", "trainer"):
        cli.make(group)  # refuses now what it would refuse later
    return kind(
        settings=settings,
        policy=cli.make("policy"),
        data=data,
        evaluator=evaluator,
        build_generator=lambda: cli.make("generator"),
        build_trainer_arguments=lambda: vars(cli.make("trainer")),
        sampling_bias=config.sampling_bias,
        improvement=cli.make("improve"),
        callbacks=cli.make("callbacks") or (),
        seed=seed,
        config={
            key: value
            for key, value in _plain(config.as_dict()).items()
            if key != "config" and (key, value) != ("treatment", None)
        },
        treatment=cli.make("treatment") if config.treatment else None,
    )


def _plain(value: Any) -> Any:
    """Parsed values as YAML knows them."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Enum):
        return value.value
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _seed() -> int:
    """The seed of a lineage that is told none: ``PL_GLOBAL_SEED``, as Lightning has it, or 0."""
    told = os.environ.get("PL_GLOBAL_SEED", "0")
    if not told.isdecimal():
        remedy = "let it be a number, or unset it and give --seed_everything"
        raise Refused("seed_everything", f"PL_GLOBAL_SEED is {told!r}", remedy)
    return int(told)


def _quieten() -> None:
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for words in _TOLD_TOO_OFTEN:
        warnings.filterwarnings("ignore", words)


def _name(config: Namespace, args: Sequence[str]) -> str:
    """A lineage's name from its configuration files, what flags say otherwise, and its seed.

    Names did not always tell of flags: what was begun so goes on.
    """
    files = [Path(str(file)) for file in config.config or [] if file]  # None: written out in place
    base = re.sub(r"[^\w.+-]", "_", "+".join(file.stem for file in files)) or "lineage"
    plain = f"{base}_seed{config.seed_everything}"
    before = LineageDirectory(Path(config.lineage.root) / plain)
    if before.is_begun and before.has_config:
        kept = _plain(config.as_dict())
        kept.pop("config", None)
        if not differences(before.config(), kept):
            return plain
    told: dict[str, Any] = {}
    for file in files:
        told |= dotted(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    return f"{label(base, overridden(args, told))}_seed{config.seed_everything}"
