"""Generator families: one file a family, one contract for all (:mod:`.base`)."""

from mad_lightning.generators.base import Generator
from mad_lightning.generators.diffusion import Diffusion
from mad_lightning.generators.gaussian import Gaussian

__all__ = ["Diffusion", "Gaussian", "Generator"]
