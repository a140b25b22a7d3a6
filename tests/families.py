"""All families with small networks, and a training of a few steps, for tests on other devices."""

import lightning as L
import torch

from mad_lightning.generators import WGAN, Diffusion, Gaussian, Glow, Mixture, StyleGAN2
from mad_lightning.loop.inside import AddressedRandomness
from mad_lightning.nets.pairs import DensePair
from mad_lightning.nets.unet import UNet
from mad_lightning.samples import Samples

SMALL = {"dim": 16, "mapping_layers": 2, "channel_base": 128, "channel_max": 16}
OFTEN = {"r1_every": 2, "path_every": 2}
IMAGE, VECTOR = (3, 16, 16), (4,)


def small_unet(spec):
    return UNet(spec, widths=(8, 8))


FAMILIES = {
    "diffusion": (lambda: Diffusion(small_unet, timesteps=20, sampling_steps=3), IMAGE),
    "ancestral": (
        lambda: Diffusion(small_unet, 20, sampler="ddpm", sampling_steps=4, prediction="velocity"),
        IMAGE,
    ),
    "gaussian": (Gaussian, VECTOR),
    "mixture": (lambda: Mixture(2), VECTOR),
    "glow": (lambda: Glow(levels=2, couplings=2, hidden=8), IMAGE),
    "glow of vectors": (lambda: Glow(couplings=2, hidden=8), VECTOR),
    "wgan": (lambda: WGAN(n_critic=2), IMAGE),
    "wgan of vectors": (lambda: WGAN(lambda spec: DensePair(spec, 8, 1, 2), n_critic=2), VECTOR),
    "stylegan2": (lambda: StyleGAN2(**SMALL, **OFTEN), IMAGE),
    "stylegan2, augmented": (
        lambda: StyleGAN2(**SMALL, **OFTEN, ada_target=0.6, ada_images=100, modulation="weights"),
        IMAGE,
    ),
    "stylegan2 in parts": (lambda: StyleGAN2(**SMALL, **OFTEN, accumulate=2), IMAGE),
}


class Loader:
    def __init__(self, samples, steps):
        self.samples, self.steps = samples, steps

    def __len__(self):
        return self.steps

    def __iter__(self):
        size = len(self.samples) // self.steps
        for step in range(self.steps):
            yield self.samples[slice(step * size, (step + 1) * size)]


def some(spec, n):
    rng = torch.Generator().manual_seed(1)
    if spec.kind == "image":
        values = torch.randint(256, (n, *spec.shape), generator=rng, dtype=torch.uint8)
    else:
        values = torch.randn(n, *spec.shape, generator=rng)
    return Samples(values, None if spec.classes is None else torch.arange(n) % spec.classes)


def trained(make, spec, where, counted=None, steps=4, size=8):
    """A generator after some steps, and the callback that watched them."""
    torch.manual_seed(0)
    generator, samples = make().build(spec), some(spec, steps * size)
    generator.initialise(samples)
    trainer = L.Trainer(
        **where, max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[AddressedRandomness(0, 1), *([] if counted is None else [counted])],
    )  # fmt: skip
    trainer.fit(generator, Loader(samples, steps))
    return generator, counted
