from .base import LineageCallback as LineageCallback
from .base import LineageInfo as LineageInfo
from .base import Observers as Observers
from .console import Console as Console
from .grids import SampleGrids as SampleGrids
from .stopping import StopWhenMAD as StopWhenMAD
from .wandb import WandB as WandB
