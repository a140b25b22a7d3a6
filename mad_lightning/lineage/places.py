"""Where everything of a lineage lies: the only room that knows file names.

runs/<lineage>/
config.yaml (failed.yaml)  lineage.jsonl  floor.json  wandb.json  wandb/  report.html
real.png  foreign/<name>.{safetensors, json}  measured/<name>/ (this one, measured again)
generation_001/
mix.json  train/{last.ckpt, curves.csv}  generator.ckpt  samples.png  metrics.json
shard.{safetensors, json}  <treatment>.{safetensors, json}  (seconds.json)
(auxiliary/last.ckpt  auxiliary.ckpt  improvement.json)
"""

from __future__ import annotations

from pathlib import Path

from mad_lightning.policies import FOREIGN

__all__ = ["Places"]


class Places:
    """Names of the files of one lineage; nothing here looks whether they exist.

    Args:
        path: Its directory.
    """

    PICTURE = "samples.png"
    """Name of a generation's picture, in the generation's directory."""
    PAGE = "report.html"  # shows the lineage while it grows, in the lineage's directory
    WEIGHTS = "generator.ckpt"
    """Name of a generation's trained weights, in the generation's directory."""
    CHECKPOINT = "last.ckpt"
    """Name of what a training goes on from, in the training's directory."""
    GENERATION = "generation_"
    """What the names of the directories of generations begin with, before their number."""
    MEASURED = "measured"
    """Name of the directory of all that it was measured by again."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    # of the lineage

    @property
    def name(self) -> str:
        """The lineage's name; with what it was measured by, if it was measured again."""
        path = self.path.resolve()
        again = path.parent.name == self.MEASURED
        return f"{path.parents[1].name}-{path.name}" if again else path.name

    @property
    def ledger_file(self) -> Path:
        """One line a finished generation."""
        return self.path / "lineage.jsonl"

    @property
    def config_file(self) -> Path:
        """The configuration that the lineage was begun under, or was last continued under."""
        return self.path / "config.yaml"

    @property
    def failed_file(self) -> Path:
        """The configuration under which generation 1 could not be trained."""
        return self.path / "failed.yaml"

    @property
    def floor_file(self) -> Path:
        """What real samples score, measured before generation 1."""
        return self.path / "floor.json"

    @property
    def wandb_notes(self) -> Path:
        """Which run shows the lineage, and how far it goes."""
        return self.path / "wandb.json"

    @property
    def wandb_folder(self) -> Path:
        """Where W&B keeps the runs that show the lineage."""
        return self.path / "wandb"

    @property
    def measured_again(self) -> Path:
        """Root of lineages that are this one, measured otherwise."""
        return self.path / self.MEASURED

    # of a generation

    def generation(self, t: int) -> Path:
        """Directory of generation ``t``."""
        return self.path / f"{self.GENERATION}{t:03d}"

    def mix_file(self, t: int) -> Path:
        """What it trains on."""
        return self.generation(t) / "mix.json"

    def training(self, t: int) -> Path:
        """Directory of its training."""
        return self.generation(t) / "train"

    def checkpoint(self, t: int) -> Path:
        """Where its training goes on after a kill."""
        return self.training(t) / self.CHECKPOINT

    def curves_file(self, t: int) -> Path:
        """What its generator logged, a row an epoch."""
        return self.training(t) / "curves.csv"

    def weights(self, t: int) -> Path:
        """Its trained weights."""
        return self.generation(t) / self.WEIGHTS

    def auxiliary(self, t: int) -> Path:
        """The trained weights of its auxiliary, in a second phase."""
        return self.generation(t) / "auxiliary.ckpt"

    def auxiliary_training(self, t: int) -> Path:
        """Directory of the training of its auxiliary."""
        return self.generation(t) / "auxiliary"

    def improvement(self, t: int) -> Path:
        """By which weight both are drawn by."""
        return self.generation(t) / "improvement.json"

    def shard(self, name: str) -> Path:
        """A shard by name (``003``, ``003.kept``, ``foreign/NAME``): path without an ending."""
        if name.startswith(FOREIGN):
            return self.path / name
        t, _, treatment = name.partition(".")
        return self.generation(int(t)) / (treatment or "shard")

    def picture(self, t: int) -> Path:
        """Its samples, to look at; of generation 0, real samples."""
        return self.generation(t) / self.PICTURE if t else self.path / "real.png"

    def metrics_file(self, t: int) -> Path:
        """What was measured of it."""
        return self.generation(t) / "metrics.json"

    def seconds_file(self, t: int) -> Path:
        """How long its phases took so far; then the ledger knows."""
        return self.generation(t) / "seconds.json"

    def unfinished(self, t: int, what: str) -> Path:
        """Directory of blocks (``blocks``, ``grid``, ``features``) until they are joined."""
        return self.generation(t) / what
