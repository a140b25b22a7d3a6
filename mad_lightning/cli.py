"""The door: YAML and flags in, a lineage out.

It is Lightning's own command line: ``--config`` (several compose, later ones win), ``--trainer.*``
flags that reach Lightning's Trainer, dotted overrides, ``class_path``/``init_args`` for everything
that can be exchanged, ``--print_config``. One thing differs: nothing is built while parsing. A
lineage needs a fresh generator, Trainer and inner callbacks for each generation, so the parsed
configuration is kept and instantiated again and again.

Bad input ends here, on one screen: the field, what is wrong, the remedy, exit code 2.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
import os
import re
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mad_lightning import __version__
from mad_lightning.refusal import Refused

if TYPE_CHECKING:
    from mad_lightning.meta_trainer import MetaTrainer

__all__ = ["build", "explain", "main"]

HELP = f"""mad_lightning {__version__}: train generators on their own samples, measure what is lost.

usage: python train.py --config CONFIG [--config CONFIG ...] [--key.sub value ...]

examples:
  python train.py --config configs/digits_diffusion_full_synth.yaml
  python train.py --config configs/digits_diffusion_fresh.yaml --seed_everything 1
  python train.py --config configs/mnist_diffusion_full_synth.yaml --data.source.root ~/data \\
      --trainer.devices 8 --trainer.strategy ddp

To resume a lineage that was stopped in any way, run the same command again.

groups of options:
  --seed_everything N   the lineage's seed
  --sampling_bias λ     bias of every synthetic sample, in (0, 1]; 1 is unbiased
  --lineage.*           name, root directory, number of generations
  --policy.*            the loop: FullySynthetic, SyntheticAugmentation, FreshData; counts
  --data.*              real data by name (--data.source Digits), reference, batches
  --generator.*         the family: Diffusion, Gaussian, Glow, Mixture, StyleGAN2, WGAN
  --evaluator.*         feature extractor and metrics
  --callbacks           observers of the lineage: Console, SampleGrids, WandB, StopWhenMAD
  --trainer.*           Lightning's Trainer: accelerator, devices, strategy, max_epochs, ...

  --print_config        print the resolved configuration and exit
  --full_help           every option with its type and default
  --generator.help Diffusion     the options of one class (also data.source, policy, ...)
"""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; None takes those of the process.

    Raises:
        SystemExit: With code 2 if the input was refused.
    """
    args = list(sys.argv[1:] if args is None else args)
    if not args or "-h" in args or "--help" in args:
        print(HELP, end="")
        return
    try:
        build(["--help" if each == "--full_help" else each for each in args]).fit()
    except Refused as refused:
        if _is_first():
            print(f"error: {refused}", file=sys.stderr)
        raise SystemExit(2) from None
    _part()


def _part() -> None:
    """Lets processes that trained together end together.

    Lightning sees to that for NCCL alone; with gloo, one that still listens when the rest are gone
    may abort, after all is done.
    """
    from torch import distributed

    ready = distributed.is_available() and distributed.is_initialized()
    if ready and distributed.get_backend() == "gloo":
        distributed.barrier()
        distributed.destroy_process_group()


def _is_first() -> bool:
    rank = next(
        (os.environ[k] for k in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if k in os.environ), "0"
    )
    return rank == "0"


def build(args: Sequence[str]) -> MetaTrainer:
    """Parses arguments into a lineage that is ready to train.

    Args:
        args: Command-line arguments, without the program's name.

    Returns:
        The lineage; nothing has been trained or written.

    Raises:
        Refused: If an argument or a configuration file is wrong.
    """
    _quieten()
    from jsonargparse import Namespace
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    # Short class names work for classes that are imported.
    import mad_lightning.callbacks
    import mad_lightning.data.laws
    import mad_lightning.data.sources
    import mad_lightning.metrics  # noqa: F401
    from mad_lightning.callbacks.base import LineageCallback
    from mad_lightning.data.datamodule import GenerationDataModule
    from mad_lightning.generators import Generator
    from mad_lightning.lineage import LineageSettings
    from mad_lightning.meta_trainer import MetaTrainer
    from mad_lightning.metrics.evaluator import Evaluator
    from mad_lightning.policies import LoopPolicy

    class LineageCLI(LightningCLI):
        """Lightning's command line with our vocabulary; nothing is built while parsing."""

        def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_class_arguments(LineageSettings, "lineage")
            parser.add_argument(
                "--sampling_bias", type=float, default=1.0, help="λ in (0, 1]; 1 is unbiased."
            )
            parser.add_subclass_arguments(LoopPolicy, "policy", required=True)
            parser.add_lightning_class_args(GenerationDataModule, "data")
            parser.add_lightning_class_args(Generator, "generator", subclass_mode=True)
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
            try:
                self.config = parser.parse_args(args)
            except ArgumentError as error:
                raise explain(str(error), parser) from None

        def _add_instantiators(self) -> None:
            """Keeps no configuration in checkpoints: it stands in ``config.yaml``."""

        def _set_seed(self) -> None:
            """Every draw is seeded by its address."""

        def instantiate_classes(self) -> None:
            """Later, and more than once."""

    cli = LineageCLI(
        parser_kwargs={
            "prog": "train.py",
            "dump_header": None,
            "exit_on_error": False,
            "allow_abbrev": False,
        },
        run=False,
        args=list(args),
        seed_everything_default=0,
        auto_configure_optimizers=False,
        trainer_defaults={
            "max_epochs": 1,
            "logger": False,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
    )
    config = cli.config
    seed = config.seed_everything
    if isinstance(seed, bool) or seed < 0:
        raise Refused("seed_everything", f"{seed}", "give the lineage's seed as a number, e.g. 0")
    if config.lineage.name is None:
        config.lineage.name = _name(args, seed)

    def fresh(key: str) -> Any:
        """Instantiates one group of the configuration anew, and nothing else."""
        return cli.parser.instantiate(Namespace({key: config[key]}), instantiate_groups=False)[key]

    def trainer_arguments() -> dict[str, Any]:
        """Lightning takes one callback or a list; here it is always a list."""
        arguments = dict(fresh("trainer"))
        given = arguments.get("callbacks") or []
        return arguments | {"callbacks": given if isinstance(given, list) else [given]}

    try:
        objects = cli.parser.instantiate(config)
    except Refused:
        raise
    except (ValueError, TypeError) as error:
        cause = error.__cause__ or error.__context__
        raise cause if isinstance(cause, Refused) else error from None
    return MetaTrainer(
        settings=objects.lineage,
        policy=objects.policy,
        sampling_bias=config.sampling_bias,
        data=objects.data,
        evaluator=objects.evaluator,
        build_generator=lambda: fresh("generator"),
        build_trainer_arguments=trainer_arguments,
        callbacks=objects.callbacks,
        seed=seed,
        config={key: value for key, value in _plain(config.as_dict()).items() if key != "config"},
    )


def _plain(value: Any) -> Any:
    """Parsed values as YAML knows them."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _quieten() -> None:
    """Silences what Lightning says about every one of many Trainers."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for said in (
        ".*does not have many workers.*",
        ".*this fit will run with no optimizer.*",  # closed forms have none
        ".*No device id is provided.*",
        ".*Trainer already configured with model summary.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*treespec, LeafSpec.*",
        ".*module.s. in eval mode at the start of training.*",  # the averaged weights
        ".*resume from a checkpoint that ended before the epoch ended.*",
        ".*number of training batches .* smaller than the logging interval.*",
        ".*Total length of .* across ranks is zero.*",
        ".*GPU available but not used.*",
        ".*MPS available but not used.*",
    ):
        warnings.filterwarnings("ignore", said)


def _name(args: Sequence[str], seed: int) -> str:
    """A lineage's name from its configuration files and seed."""
    files = [
        args[i + 1] if "=" not in each else each.split("=", 1)[1]
        for i, each in enumerate(args)
        if each.split("=", 1)[0] in ("--config", "-c") and ("=" in each or i + 1 < len(args))
    ]
    stems = [re.sub(r"[^\w.-]", "_", Path(each).stem) for each in files if not each.startswith("{")]
    return f"{'+'.join(stems) or 'lineage'}_seed{seed}"


_LISTING = "python train.py --full_help lists all fields, --<group>.help CLASS those of a class"


def explain(message: str, parser: Any, listing: str = _LISTING) -> Refused:
    """Turns a parser's words, which nest, into field, problem and remedy.

    Args:
        message: What jsonargparse complained of.
        parser: The parser, for names that could have been meant.
        listing: Where all names are listed.
    """
    text = re.sub(r"\s+", " ", message).strip()
    keys = re.findall(r"Parser key [\"']([\w.]+)[\"']", text)
    field = ".".join(keys) or "configuration"

    if missing := re.search(r"(?:File does not exist|Unable to open file)[^']*'([^']+)'", text):
        path = Path(missing[1])
        there = [str(each.name) for each in path.parent.glob("*.y*ml")]
        near = difflib.get_close_matches(path.name, there, 3, 0.5)
        hint = f"did you mean {_either(near)}?" if near else "configs/ holds those that come along"
        return Refused(field, f"there is no file {path}", hint)
    unknown = re.search(r"[Oo]ption '([\w.+]+)' is not accepted", text) or re.search(
        r"[Uu]nrecognized arguments: (?:--)?([\w.+]+)", text
    )
    group = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text)
    if unknown or group:
        key = group[2] if group else unknown[1] if unknown else ""
        field = ".".join([*keys, *([group[1]] if group else []), key])
        near = _near(key.split(".")[-1], _known_fields(parser, text))
        hint = f"did you mean {_either(near)}? " if near else ""
        return Refused(field, "there is no such field", hint + listing)
    if name := re.search(r"Expected a dot import path string: (\S+)", text):
        known = _known_classes(text)
        near = difflib.get_close_matches(name[1], known, 3, 0.5) or known
        hint = f"choose {_either(near)}" if near else listing
        return Refused(field, f"there is no class {name[1]}", hint)
    if value := re.search(r"Expected a (.+?)\. Got value: (.*?)(?: - Expected|$)", text):
        kinds = value[1].replace("typing.Literal", "one of ").replace("<class ", "")
        return Refused(field, f"{value[2]} is not accepted", "give " + kinds.strip("'>"))
    if value := re.search(r"Subtypes: \[(.+?)\] .*Given value: (.*)$", text):
        kinds = re.sub(r"<class '([\w.]+)'>", r"\1", value[1]).replace("NoneType", "null")
        return Refused(field, f"{value[2]} is not accepted", f"give {kinds}")
    return Refused(field, text[:500], listing)


def _either(names: Sequence[str]) -> str:
    return " or ".join(names)


def _known_fields(parser: Any, text: str) -> list[str]:
    """Fields that could have been meant, as one would write them."""
    names = {action.dest for action in parser._actions}
    inner: set[str] = set()
    for path in re.findall(r"class_path ?[=']+ ?'?([\w.]+)'", text):
        module, _, name = path.rpartition(".")
        try:
            known = inspect.signature(getattr(importlib.import_module(module), name)).parameters
        except (ImportError, AttributeError, ValueError):
            continue
        inner |= set(known)  # the classes at fault know best
    return sorted(inner or names)


def _near(name: str, fields: Sequence[str]) -> list[str]:
    """Fields whose last part is a name; if there are none, looks like it; or else contains it."""
    parts = {field.rpartition(".")[2] for field in fields}
    near = [name] if name in parts else difflib.get_close_matches(name, parts, 3, 0.6)
    near = near or [each for each in sorted(parts) if len(name) > 2 and name in each]
    return [field for part in near for field in fields if field.rpartition(".")[2] == part][:3]


def _known_classes(text: str) -> list[str]:
    """Concrete classes below those that a message names as acceptable."""
    found: list[str] = []
    for path in re.findall(r"<class '([\w.]+)'>", text):
        module, _, name = path.rpartition(".")
        if module.startswith("mad_lightning"):
            bases = [getattr(importlib.import_module(module), name)]
            while bases:
                base = bases.pop()
                bases += base.__subclasses__()
                if not inspect.isabstract(base) and not base.__name__.startswith("_"):
                    found.append(base.__name__)
    return sorted(set(found))
