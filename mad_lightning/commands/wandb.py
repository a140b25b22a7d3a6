"""mad wandb: lineages' directories in, their Weights & Biases runs drawn anew.

usage: mad wandb DIRECTORY [DIRECTORY ...]

Examples:
  mad wandb runs/digits_diffusion_full_synth_seed0
  WANDB_MODE=offline mad wandb runs/digits_*

A run is a view of the ledger: all finished generations with their curves and pictures are logged
again, into one run a lineage. Project, group and tags are those of the lineage's configuration.
WANDB_MODE says online or offline; without it, the run is online where there is a key. An offline
run that nobody has synced is replaced; a run that W&B has already stays as it is, beside the new
one. Ends with exit code 2 if W&B did not take it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.progress import track

from mad_lightning.callbacks.base import LineageInfo
from mad_lightning.callbacks.console import say
from mad_lightning.callbacks.wandb import WandB
from mad_lightning.commands.explain import PlainParser
from mad_lightning.lineage.directory import LineageDirectory, finished_among
from mad_lightning.lineage.ledger import GenerationRecord
from mad_lightning.refusal import Refused, at

__all__ = ["build_parser", "run"]


def build_parser() -> PlainParser:
    """All that may be said to it."""
    parser = PlainParser("wandb")
    parser.add_argument("lineages", nargs="+", metavar="DIRECTORY")
    return parser


def run(args: Sequence[str]) -> None:
    """Rebuilds the runs of all lineages; says what was logged, and where it is."""
    lineages = finished_among(build_parser().parse_args(args).lineages)
    if os.environ.get("WANDB_MODE") == "disabled":
        problem = "WANDB_MODE is disabled: nothing would be logged"
        raise Refused("WANDB_MODE", problem, "set it to online or offline")
    for lineage in lineages:  # all are looked at before one is touched
        if not lineage.records():
            raise Refused(str(lineage), "no generation is finished", "give lineages' directories")
        view(lineage.config()).check({})
    for lineage in lineages:
        with at(str(lineage)), lineage.held():
            rebuild(lineage)


def rebuild(lineage: LineageDirectory) -> None:
    """Draws the run of one lineage anew.

    Raises:
        Refused: If W&B does not take it.
    """
    config, records = lineage.config(), lineage.records()
    first = records[0]
    info = LineageInfo(
        lineage.name,
        lineage,
        len(records),
        config.get("seed_everything", 0),
        first.policy,
        bias if isinstance(bias := config.get("sampling_bias"), str) else first.sampling_bias,
        first.floor,
        first.protocol,
        first.quantities,
        config,
        first.start,
        records[-1].digests.get("data", ""),
    )

    def bar(rows: Iterable[GenerationRecord]) -> Iterable[GenerationRecord]:
        watched = sys.stdout.isatty()
        title = f"{lineage.name} to W&B"
        return track(rows, title, total=len(records), transient=True, disable=not watched)

    try:
        view(config).rebuild(info, records, bar)
    except RuntimeError as error:
        raise Refused("", f"W&B failed: {error}", "mend that, or set WANDB_MODE=offline") from None
    points = sum(len(lineage.curves(record.generation)) for record in records)
    say(f"{lineage}: {len(records)} generations and {points} points of their curves are logged")


def view(config: dict[str, Any]) -> WandB:
    """The observer that the lineage was trained with; by default, one with default arguments."""
    for callback in config.get("callbacks") or []:
        if str(callback.get("class_path", "")).rpartition(".")[2] == WandB.__name__:
            return WandB(**{**(callback.get("init_args") or {}), "mode": "auto"})
    return WandB()
