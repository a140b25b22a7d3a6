"""What is done to lineages that a disk, a kill or a hand could do, and what becomes of them.

    python benchmarks/torture.py flips                 # one bit flipped, files cut in half
    python benchmarks/torture.py flips --seed 3 --only classifier
    python benchmarks/torture.py kills                 # SIGKILL at random moments

Each part prints a table of what came of each trial, and ends with exit code 1 if one of them was
not answered as it should be.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "disabled"


# --- flips ----------------------------------------------------------------------------------------


def flips(given: argparse.Namespace) -> bool:
    """Spoils each kind of artefact of small lineages, and lets them go on."""
    raise NotImplementedError


# --- kills ----------------------------------------------------------------------------------------


def kills(given: argparse.Namespace) -> bool:
    """Kills lineages at random moments, and starts them again."""
    raise NotImplementedError


# --- the door -------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[argparse.Namespace], bool]] = {"flips": flips, "kills": kills}
"""Each tells whether all went well."""


def main() -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--seed", type=int, default=0, help="where and when")
    parser.add_argument("--only", default="", help="trials with this in their name")
    given = parser.parse_args()
    sys.exit(0 if PARTS[given.part](given) else 1)


if __name__ == "__main__":
    main()
