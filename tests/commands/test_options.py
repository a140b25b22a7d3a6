"""Every option and its default stands in options.txt, so that none comes, goes or changes unseen.

To renew the list, and then read what has changed:

    python tests/commands/test_options.py > tests/commands/options.txt

Options of classes are told with the class, ``--generator Glow --generator.levels 3``. Of
Lightning's Trainer only those stand here whose default is ours, the others are as Lightning has
them.
"""

import inspect
from argparse import SUPPRESS
from collections.abc import Iterator
from pathlib import Path

from jsonargparse import Namespace

from mad_lightning.callbacks.base import LineageCallback
from mad_lightning.commands import measure, report, study
from mad_lightning.commands.train import LineageCLI
from mad_lightning.data.laws import LawSource
from mad_lightning.data.sources import Source
from mad_lightning.generators.base import Generator
from mad_lightning.generators.guidance import Improvement
from mad_lightning.metrics.base import Metric
from mad_lightning.metrics.features.base import FeatureExtractor
from mad_lightning.nets.pairs import ConvPair, DensePair
from mad_lightning.nets.unet import UNet, UNet2D
from mad_lightning.policies import LoopPolicy

LIST = Path(__file__).with_name("options.txt")


class Unparsed(LineageCLI):
    """The parser, without arguments."""

    def parse_arguments(self, parser, args):
        self.config = Namespace()


def written(default):
    """A default as text that is the same everywhere."""
    if isinstance(default, list) and default and isinstance(default[0], dict):
        return str([spec["class_path"].rpartition(".")[2] for spec in default])
    return default.__name__ if inspect.isclass(default) else repr(default)


def of_parser(parser) -> Iterator[tuple[str, str]]:
    """Options of a parser, and their defaults."""
    for action in parser._actions:
        if action.default != SUPPRESS and action.dest != "config":
            yield next(iter(action.option_strings), action.dest), written(action.default)


def concrete(base) -> Iterator[type]:
    """Classes of this package that can be chosen for a base."""
    for kind in base.__subclasses__():
        hidden = kind.__name__.startswith("_") or inspect.isabstract(kind)
        if kind.__module__.startswith("mad_lightning.") and not hidden:
            yield kind
        yield from concrete(kind)


def of_classes() -> Iterator[tuple[str, str]]:
    """Options of all classes that mad train can be told by name."""
    for key, kinds in (
        ("callbacks", concrete(LineageCallback)),
        ("data.source", [*concrete(LawSource), *concrete(Source)]),
        ("evaluator.extractor", concrete(FeatureExtractor)),
        ("evaluator.metrics", concrete(Metric)),
        ("generator", concrete(Generator)),
        ("generator.network", [UNet, UNet2D]),
        ("generator.networks", [ConvPair, DensePair]),
        ("improve", concrete(Improvement)),
        ("policy", concrete(LoopPolicy)),
    ):
        for kind in kinds:
            yield f"--{key} {kind.__name__}", ""
            for name, parameter in inspect.signature(kind).parameters.items():
                if name in ("spec", "args", "kwargs"):
                    continue  # a network is told the kind of samples by its family
                required = parameter.default is parameter.empty
                default = "(required)" if required else written(parameter.default)
                yield f"--{key} {kind.__name__} --{key}.{name}", default


def lines() -> list[str]:
    """One line an option."""
    told = [("train", option) for option in (*of_parser(Unparsed([]).parser), *of_classes())]
    ours = [f"--trainer.{name}" for name in Unparsed([]).trainer_defaults]
    for verb, parser in (
        ("measure", measure.build_parser()),
        ("report", report.build_parser()),
        ("study", study.build_parser()),
    ):
        told += [(verb, option) for option in of_parser(parser)]
    return sorted(
        {
            f"mad {verb} {option} {default}".rstrip()
            for verb, (option, default) in told
            if not option.startswith("--trainer.") or option in ours
        }
    )


def test_no_option_comes_goes_or_changes_unseen():
    known, now = set(LIST.read_text().splitlines()), set(lines())
    assert known == now, f"gone: {known - now}; new: {now - known}; if that is meant, {__doc__}"


if __name__ == "__main__":
    print("\n".join(lines()))
