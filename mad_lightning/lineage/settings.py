"""Where a lineage lives and how long it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.lineage.ledger import Start
from mad_lightning.refusal import Refused

__all__ = ["Labels", "LineageSettings"]

Labels = Literal["mix", "equal"]


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
        for name in ("generations", "block_size", "n_grid", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise Refused(name, f"{value}", "take at least 1")

    @property
    def directory(self) -> LineageDirectory:
        """Where all files of the lineage lie."""
        return LineageDirectory(Path(self.root) / (self.name or "lineage"))

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
