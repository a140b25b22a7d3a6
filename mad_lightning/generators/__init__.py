"""Generator families: one file a family, one contract for all (:mod:`.base`)."""

from mad_lightning.generators.base import Generator
from mad_lightning.generators.diffusion import Diffusion
from mad_lightning.generators.gaussian import Gaussian
from mad_lightning.generators.glow import Glow
from mad_lightning.generators.mixture import Mixture
from mad_lightning.generators.stylegan2 import StyleGAN2
from mad_lightning.generators.wgan import WGAN

__all__ = ["WGAN", "Diffusion", "Gaussian", "Generator", "Glow", "Mixture", "StyleGAN2"]
