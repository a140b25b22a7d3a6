"""Where a lineage lives and how long it is."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.lineage.ledger import Start
from mad_lightning.refusal import Refused

__all__ = ["Keep", "Labels", "LineageSettings"]

Keep = Literal["all", "needed", "last"]
Labels = Literal["mix", "equal"]

_MOST = {
    "generations": 100_000,  # a day or two of the quickest family, and 10 GB of its files
    "block_size": 1_000_000,
    "n_grid": 10_000,
    "threads": max(8, 2 * (os.cpu_count() or 1)),  # more wait for each other, or the system says no
}


def check_name(name: str) -> None:
    """Refuses a name that would not be one directory below ``root``.

    Raises:
        Refused: With what is wrong with it.
    """
    if not name.strip() or name != name.strip():
        problem = "is blank, or begins or ends with a blank"
    elif name in (".", "..") or "/" in name or "\\" in name:
        problem = "leads to another directory"
    elif not name.isprintable():
        problem = "has characters that cannot be printed"
    elif len(os.fsencode(name)) > 255:
        problem = f"has {len(os.fsencode(name))} bytes, file systems take 255"
        name = f"{name[:40]}..."
    else:
        return
    raise Refused(
        "name",
        f"{name!r} {problem}",
        "give the lineage a short plain `name`; `root` says where it lies",
    )


@dataclass
class LineageSettings:
    """Where a lineage lives and how long it is.

    Args:
        name: Its name and directory under ``root``; None makes one from the configuration files'
            names and the seed.
        root: Directory of all lineages.
        generations: How many generations to train; may be raised later to go on.
        block_size: Samples drawn and stored at a time: the unit that is spread over devices and
            that survives a kill.
        n_grid: Samples in the picture of each generation.
        threads: CPU threads of each process; None leaves it to torch. Small networks are as fast on
            one thread, unharmed by a busy machine, and give the same bits on any number of cores.
        start: The weights that training starts from: ``scratch``, new ones in each generation, as
            in the paper; ``base``, the same checkpoint each time; ``previous``, those that the
            generation before ended with. The last two are what the literature on fine-tuning loops
            does (Bertrand et al., 2024; Gillman et al., 2024). Optimisers always start anew.
        base: A generation's weights to start from: every generation for ``base``, the first one
            for ``previous``. None: generation 1 starts from scratch, and is the base of later ones.
        labels: Classes of what is drawn: ``mix``, in the shares that they have in what the
            generator was trained on; ``equal``, each of those as often as the others.
        keep: Whose samples stay on disk: ``all``; ``needed``, of shards that a later generation
            trains on; ``last``, that the next one does. The newest stay. Others are evicted, and
            drawn again from their generator when somebody needs them; ``all`` draws all again. May
            change from start to start.
    """

    name: str | None = None
    root: str = "runs"
    generations: int = 6
    block_size: int = 256
    n_grid: int = 80
    threads: int | None = None
    start: Start = "scratch"
    base: str | None = None
    labels: Labels = "mix"
    keep: Keep = "all"

    def __post_init__(self) -> None:
        if self.base is not None and self.start == "scratch":
            raise Refused(
                "base",
                f"{self.base} would not be used: every generation starts from scratch",
                "set `start` to base or previous, or leave `base` out",
            )
        if self.base is not None and not Path(self.base).is_file():
            raise Refused(
                "base",
                f"there is no file {self.base}",
                f"name weights, e.g. {LineageDirectory('runs/<lineage>').weights(1)}",
            )
        if self.labels not in get_args(Labels):
            raise Refused("labels", f"{self.labels!r}", f"choose {' or '.join(get_args(Labels))}")
        if self.keep not in get_args(Keep):
            raise Refused("keep", f"{self.keep!r}", f"choose {', '.join(get_args(Keep))}")
        for name, most in _MOST.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise Refused(name, f"{value}", f"take at least 1, at most {most}")
        if self.name is not None:
            check_name(self.name)
        if not self.root.strip() or not self.root.isprintable():
            raise Refused("root", f"{self.root!r} is no path", "name a directory, e.g. runs")

    @property
    def directory(self) -> LineageDirectory:
        """Where all files of the lineage lie."""
        root = Path(self.root)
        with suppress(RuntimeError):  # a home that nobody has
            root = root.expanduser()
        return LineageDirectory(root / (self.name or "lineage"))

    def starts_from(self, t: int) -> int | Path | None:
        """Where the first weights of generation ``t`` come from.

        Returns:
            An earlier generation, a checkpoint's file, or None for new weights.
        """
        if self.start == "scratch":
            return None
        if t == 1 or (self.start == "base" and self.base is not None):
            return None if self.base is None else Path(self.base)
        return 1 if self.start == "base" else t - 1
