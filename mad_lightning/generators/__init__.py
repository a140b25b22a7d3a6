"""Generator families: one file a family, one contract for all.

base.py         the contract
closed_form.py  families that are fitted in one pass: Gaussian, Mixture
adversarial.py  families of two networks that are trained by hand: StyleGAN2, WGAN
diffusion.py    denoising diffusion
external.py     somebody's own programs, which train and draw
glow.py         a normalising flow
guidance.py     second phases of a generation: SIMS, Neon, Autoguidance
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
