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
import logging
import os
import re
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mad_lightning import __version__
from mad_lightning.refusal import Refused

if TYPE_CHECKING:
    from mad_lightning.meta_trainer import MetaTrainer

__all__ = ["build", "main"]

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
  --generator.*         the family: Diffusion, Gaussian and its settings
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
                raise _explain(str(error), parser) from None

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
        """Instantiates one group of the configuration anew."""
        return cli.parser.instantiate(config)[key]

    try:
        objects = cli.parser.instantiate(config)
    except Refused:
        raise
    except (ValueError, TypeError) as error:
        cause = error.__cause__ or error.__context__
        raise cause if isinstance(cause, Refused) else error from None
    import yaml

    plain = yaml.safe_load(cli.parser.dump(config, format="yaml", skip_validation=True))
    plain.pop("config", None)
    return MetaTrainer(
        settings=objects.lineage,
        policy=objects.policy,
        sampling_bias=config.sampling_bias,
        data=objects.data,
        evaluator=objects.evaluator,
        build_generator=lambda: fresh("generator"),
        build_trainer_arguments=lambda: dict(fresh("trainer")),
        callbacks=objects.callbacks,
        seed=seed,
        config=plain,
    )


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


def _explain(message: str, parser: Any) -> Refused:
    """Turns the parser's words into field, problem and remedy."""
    text = re.sub(r"\s+", " ", message).strip()
    missing = re.search(
        r"(?:Unable to load config|Config file|file path).*?[\"']?([^\s\"']+\.ya?ml)", text
    )
    if missing and not Path(missing[1]).exists():
        near = difflib.get_close_matches(
            missing[1], [str(each) for each in Path(missing[1]).parent.glob("*.yaml")], 3, 0.3
        )
        hint = f"did you mean {' or '.join(near)}?" if near else "see configs/ for what there is"
        return Refused("config", f"there is no file {missing[1]}", hint)
    unknown = (
        re.search(r"[Oo]ption '([\w.+]+)' is not accepted", text)
        or re.search(r"[Uu]nrecognized arguments: (?:--)?([\w.+]+)", text)
        or re.search(r"[Kk]ey '?\"?([\w.]+)'?\"? is not expected", text)
        or re.search(r"[Uu]nexpected (?:key|option)s?:? ['\"]?([\w.]+)", text)
    )
    where = re.findall(r"key [\"']([\w.]+)[\"']", text)
    field = ".".join(where[:1]) if where else "configuration"
    if unknown:
        key = unknown[1].removeprefix("--")
        known = _known_keys(parser, text)
        near = difflib.get_close_matches(key.split(".")[-1], known, 3, 0.6)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        return Refused(
            key if not where or key.startswith(where[0]) else f"{where[0]}.{key}",
            "there is no such field",
            f"{hint}python train.py --full_help lists all, --<group>.help CLASS those of a class",
        )
    return Refused(field, text[:600], "python train.py --full_help lists every field and its type")


def _known_keys(parser: Any, text: str) -> list[str]:
    """Names of fields that could have been meant."""
    import importlib
    import inspect

    names = {action.dest.split(".")[-1] for action in parser._actions}
    for path in re.findall(r"class_path '([\w.]+)'|class_path='([\w.]+)'", text):
        module, _, name = max(path, key=len).rpartition(".")
        try:
            names |= set(
                inspect.signature(getattr(importlib.import_module(module), name)).parameters
            )
        except (ImportError, AttributeError, ValueError):
            continue
    return sorted(names)
