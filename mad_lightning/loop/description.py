"""What makes a lineage that was built in Python: the configuration that it would have had.

A lineage goes on only under the settings that it was begun with. On the command line they are a
file; in Python they are objects, which tell their classes and the arguments that made them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch

from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.generators.base import Generator
from mad_lightning.identity import description
from mad_lightning.lineage.settings import LineageSettings
from mad_lightning.metrics.evaluator import Evaluator

__all__ = ["described"]

_GROUPS = {"lineage": LineageSettings, "data": GenerationDataModule, "evaluator": Evaluator}
"""Parts of a configuration that are one class's arguments: there is none to choose."""


def described(
    parts: Mapping[str, Any], build_generator: Callable[[], Generator], trainer: Mapping[str, Any]
) -> dict[str, Any]:
    """Objects and arguments as plain values, in groups as a command line has them.

    Args:
        parts: Objects by the name of their group.
        build_generator: Makes the generator; it is made once more, and no number is drawn for it.
        trainer: Arguments of the Trainer, beside its defaults.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # what it draws is the same at every start
        generator = build_generator()
    defaults = inspect.signature(L.Trainer).parameters.items()
    told = {name: None if of.default is of.empty else of.default for name, of in defaults}
    told |= {name: value for name, value in trainer.items() if value != []}
    config = description({**parts, "generator": generator, "trainer": told})
    for name, kind in _GROUPS.items():
        if type(parts[name]) is kind:
            config[name] = config[name].get("init_args", {})
    return config
