"""Observers of the lineage (:mod:`.base`), and what runs inside one generation (:mod:`.inside`)."""

from mad_lightning.callbacks.base import LineageCallback, LineageInfo
from mad_lightning.callbacks.console import Console
from mad_lightning.callbacks.grids import SampleGrids
from mad_lightning.callbacks.stopping import StopWhenMAD
from mad_lightning.callbacks.wandb import WandB

__all__ = ["Console", "LineageCallback", "LineageInfo", "SampleGrids", "StopWhenMAD", "WandB"]
