r"""mad branch: another lineage that goes on from a generation of this one, with other settings.

usage: mad branch --from DIRECTORY[@GENERATION] --lineage.name NAME [--key.sub value ...]

Examples:
  mad branch --from runs/x@3 --lineage.name x-slower --generator.lr 1e-4
  mad branch --from runs/x@3 --lineage.name x-fresh --policy FreshData --policy.n_initial 900 \
      --policy.n_fresh 100 --policy.n_synthetic 800
  mad branch --from runs/x --lineage.name y --config other.yaml

The new lineage has generations 1 to 3 of the other one, with their digests, and its own settings
from generation 4 on. It takes what the other was configured with and what is changed here; or, with
--config, what mad train would take. Nothing is trained yet: it says how to go on.

Options:
  --from DIRECTORY@T   the lineage to leave, after generation T; @latest or nothing: the last one
  --config, --key.sub  as for mad train

Data, split and metrics stay as they are. Without a change, a branch ends with its parent's numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mad_lightning.callbacks.console import say
from mad_lightning.commands.explain import PlainParser
from mad_lightning.commands.train import build
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.loop.branching import branch
from mad_lightning.refusal import Refused

__all__ = ["build_parser", "run"]


def build_parser() -> PlainParser:
    """What it takes besides all that trains."""
    parser = PlainParser("branch")
    parser.add_argument("--from", dest="parent", required=True, metavar="DIRECTORY")
    return parser


def run(args: Sequence[str]) -> None:
    """Makes the branch; says how to go on."""
    given, others = build_parser().parse_known_args(args)
    parent, t = place_of(given.parent)
    if not any(arg == "--config" or arg.startswith("--config=") for arg in others):
        if not parent.config():
            problem = f"{parent} has no {parent.config_file.name} to begin with"
            raise Refused("--from", problem, "give --config, as for mad train")
        root = ["--lineage.root", str(parent.path.parent)]
        others = ["--config", str(parent.config_file), *root, *others]
    meta = build(others)
    t = branch(meta, parent, t)
    shared = "generation 1" if t == 1 else f"generations 1 to {t}"
    say(f"{meta.lineage} begins with {shared} of {parent}")
    more = "" if t < meta.settings.generations else f" --lineage.generations {t + 1}"
    say(f"to go on: mad train --config {meta.lineage.config_file}{more}")


def place_of(text: str) -> tuple[LineageDirectory, int | None]:
    """A lineage and a generation, from ``runs/x@3``; None for the last one.

    Raises:
        Refused: If there is no such lineage, or what follows the last @ is no generation.
    """
    path, _, t = text.rpartition("@")
    if not path or Path(text).exists():
        path, t = text, "latest"
    if t != "latest" and not re.fullmatch(r"[0-9]{1,9}", t):
        raise Refused(
            "--from", f"{t!r} is no generation", "name one as in runs/x@3 or runs/x@latest"
        )
    parent = LineageDirectory(path)
    if not parent.ledger.path.exists():
        problem = f"{parent} is no lineage: it has no {parent.ledger.path.name}"
        raise Refused("--from", problem, "name the directory of a lineage")
    return parent, None if t == "latest" else int(t)
