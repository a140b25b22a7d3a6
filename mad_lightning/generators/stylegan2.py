r"""The StyleGAN2 family (Karras et al., 2020a), the generator of the paper's face experiments.

The loss is the plain logistic one. What makes it stable and the latent space smooth are two
regularisers: R1, which keeps the discriminator flat where real images are, and path length, which
asks that a small step in W changes the image by as much wherever it is taken. Both differentiate a
gradient and are dear, so they are worked out only now and then, with a weight to match ("lazy
regularisation", appendix B).

Everything here is counted in images, never in steps of an optimiser: two networks step at different
rates, and nobody could say what ten thousand of these steps were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self, cast, get_args

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn import functional as F

from mad_lightning.generators.adversarial import Adversarial
from mad_lightning.generators.base import refuse_vectors
from mad_lightning.nets.augment import augment
from mad_lightning.nets.ema import EMA
from mad_lightning.nets.stylegan2 import (
    GROUP,
    Discriminator,
    Modulation,
    StyleNetwork,
    sides_of_levels,
    without_autocast,
)
from mad_lightning.processes import mean_over_all
from mad_lightning.refusal import check_one_of, check_within
from mad_lightning.samples import Samples, SampleSpec, to_floats
from mad_lightning.seeds import drawn, normal, sample_seeds, uniform

__all__ = ["StyleGAN2"]

_PATH_DECAY = 0.99  # of the mean path length (appendix B)
_N_MEAN = 8192  # latents that w_mean averages over: each entry to about 1 % of its spread

_ADA_EVERY = 4  # batches from one change of p to the next

# Which draw of a row's seed is what; an augmentation takes two
_LATENT, _NOISE, _MIXING, _DIRECTION = range(4)
_OF_REAL, _OF_MADE = 4, 6


class StyleGAN2(Adversarial):
    r"""StyleGAN2, conditional on the class where samples carry one.

    λ is truncation in W (Alemohammad et al., 2023, section 2.3; Karras et al., 2019, appendix B):
    :math:`w' = \bar w + \lambda (w - \bar w)`, the mean over all latents and, of labelled data, all
    classes in equal shares. Samples come from the averaged weights; each has noise of its own.

    Defaults are the published configuration F; ``channel_base`` 16384 is a common choice at 128 px.

    Args:
        dim: Size of the latents z and w.
        mapping_layers: Layers of the mapping network.
        channel_base: A level of side s has ``channel_base / s`` channels,
        channel_max: at most so many.
        modulation: Form of the modulated convolution, ``activations`` or ``weights``: the same
            values, see :func:`mad_lightning.nets.stylegan2.modulated_convolution`.
        lr: Learning rate of both Adams (β = 0, 0.99).
        r1: Weight γ of the R1 penalty, 0 for none. None takes 0.0002 side² / batch size, the first
            guess of Karras et al. (2020b, appendix C); small data sets want more.
        r1_every: Batches from one R1 step to the next.
        path: Weight of the path length regulariser, 0 for none. None takes the paper's
            ln 2 / (s² (ln s - ln 2)) for images of side s.
        path_every: Batches from one path length step to the next.
        mixing: Share of generated images in training whose coarse and fine layers have two
            different latents.
        ema_half_life: Images after which the averaged weights have forgotten half; 0 samples from
            the trained weights.
        ema_ramp: At most this share of the images seen so far is the half-life.
        ada_target: Augment what the discriminator sees, as strongly as keeps the mean sign of its
            scores on real images at this target (Karras et al., 2020b, take 0.6); None for never.
        ada_images: Images in which the probability of an augmentation can rise from 0 to 1.
        compile: Compile the networks when training starts. The regularisers stay uncompiled:
            ``torch.compile`` cannot differentiate twice.
        accumulate: Parts that a batch is worked off in, to save memory.

    Example:
        >>> x = torch.randint(256, (64, 3, 16, 16), dtype=torch.uint8)
        >>> stylegan2 = StyleGAN2(dim=32, channel_base=512, channel_max=32)
        >>> stylegan2 = stylegan2.build(SampleSpec.of(x))
        >>> L.Trainer(max_epochs=1).fit(stylegan2, DataLoader(TensorDataset(x), batch_size=32))
        >>> stylegan2.sample(seeds=torch.arange(5), sampling_bias=0.8).values.shape
        torch.Size([5, 3, 16, 16])
    """

    w_mean: Tensor
    path_mean: Tensor
    path_updates: Tensor
    p: Tensor
    signs: Tensor

    def __init__(
        self,
        dim: int = 512,
        mapping_layers: int = 8,
        channel_base: int = 32768,
        channel_max: int = 512,
        modulation: Modulation = "activations",
        lr: float = 2e-3,
        r1: float | None = None,
        r1_every: int = 16,
        path: float | None = None,
        path_every: int = 4,
        mixing: float = 0.9,
        ema_half_life: float = 10_000,
        ema_ramp: float = 0.05,
        ada_target: float | None = None,
        ada_images: float = 500_000,
        compile: bool = False,
        accumulate: int = 1,
    ) -> None:
        super().__init__(accumulate)
        check_within("[1, 8192]", dim=dim, channel_max=channel_max)
        check_within("[1, 100]", mapping_layers=mapping_layers)
        check_within("[1, 1000000]", channel_base=channel_base)
        check_one_of(get_args(Modulation), modulation=modulation)
        check_within("(0, inf)", "e.g. 2e-3", lr=lr)
        check_within("[0, 1000000]", r1=r1, path=path)
        check_within("[1, 1000000]", r1_every=r1_every, path_every=path_every)
        check_within("[0, 1]", mixing=mixing)
        check_within("[0, inf)", ema_half_life=ema_half_life)
        check_within("(0, inf)", "e.g. 0.05", ema_ramp=ema_ramp)
        check_within("(-1, 1)", "e.g. 0.6", ada_target=ada_target)
        check_within("(0, inf)", "e.g. 500000", ada_images=ada_images)
        self.dim, self.mapping_layers = dim, mapping_layers
        self.channel_base, self.channel_max = channel_base, channel_max
        self.modulation = modulation
        self.lr = lr
        self.r1, self.r1_every = r1, r1_every
        self.path, self.path_every = path, path_every
        self.mixing = mixing
        self.ema_half_life, self.ema_ramp = float(ema_half_life), ema_ramp
        self.ada_target, self.ada_images = ada_target, ada_images
        self.compiles = compile

    def build(self, spec: SampleSpec) -> Self:
        """Makes both networks, the average, and room for what is tracked in training."""
        refuse_vectors("StyleGAN2", spec)
        self.spec = spec
        self.net = StyleNetwork(
            spec,
            self.dim,
            self.mapping_layers,
            self.channel_base,
            self.channel_max,
            self.modulation,
        )
        self.discriminator = Discriminator(spec, self.channel_base, self.channel_max)
        self.ema = EMA(self.net)
        self.register_buffer("w_mean", torch.zeros(self.dim))
        self.register_buffer("path_mean", torch.zeros(()))
        self.register_buffer("path_updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("signs", torch.zeros(()))
        return self

    def sampler(self) -> dict[str, Any]:
        """The biases besides λ."""
        return {
            "resolution": sides_of_levels(self.spec)[-1],
            "weights": f"ema, half-life {self.ema_half_life:g} images",
            "noise": "own for each sample",
        }

    # training

    def from_average(self) -> None:
        """Starts from the averaged generator, and the discriminator as it is."""
        self.ema.restart(self.net)

    def settle(self) -> None:
        """Finds the mean of w."""
        self.find_w_mean()

    def configure_optimizers(self) -> Any:
        """An Adam for each network, slowed for the steps that lazy regularisation adds.

        k batches take k + 1 steps, so with c = k / (k + 1) the rate becomes c times, and each decay
        to the power of c (appendix B).
        """

        def adam(network: nn.Module, weight: float | None, every: int) -> torch.optim.Optimizer:
            c = 1.0 if weight == 0.0 else every / (every + 1)
            betas, fused = (0.0, 0.99**c), self.fuses(network)
            return torch.optim.Adam(network.parameters(), c * self.lr, betas, fused=fused)

        return [
            adam(self.net, self.path, self.path_every),
            adam(self.discriminator, self.r1, self.r1_every),
        ]

    def to_compile(self) -> Sequence[nn.Module]:
        """All; the regularisers, which differentiate twice, go round ``__call__``."""
        return (self.net.mapping, self.net.synthesis, self.discriminator)

    def training_step(self, batch: Samples, batch_idx: int) -> None:
        """One step of each network, and the regularisers whose turn it is."""
        of_generator, of_discriminator = cast(list[LightningOptimizer], self.optimizers())
        self._train_discriminator(batch, of_discriminator)
        if self.r1 != 0.0 and self.step % self.r1_every == 0:
            self._flatten_discriminator(batch, of_discriminator)
        self._train_generator(batch, of_generator)
        if self.path != 0.0 and self.step % self.path_every == 0:
            self._straighten_paths(batch, of_generator)
        self.ema.update(self.net, self._ema_decay(len(batch) * self.trainer.world_size))

    def _train_discriminator(self, batch: Samples, optimizer: LightningOptimizer) -> None:
        """Logistic loss: softplus(D(G(z))) + softplus(-D(x)) (Goodfellow et al., 2014)."""
        signs = torch.zeros_like(self.signs)
        with self.updating(optimizer, self.discriminator):
            for part, seeds in self.parts(batch, "discriminate"):
                with torch.no_grad():
                    made = self._as_judged(self.synthesise(seeds, part.labels), seeds, _OF_MADE)
                    real = self._as_judged(self._pixels(part), seeds, _OF_REAL)
                of_made, of_real = self._scores(made, real, part.labels)
                loss = (F.softplus(of_made) + F.softplus(-of_real)).mean()
                self.manual_backward(loss / self.accumulate)
                self.note(discriminator=loss)
                signs += of_real.detach().sign().mean() / self.accumulate
        if self.ada_target is not None:
            self._adapt_augmentation(signs, self.ada_target, len(batch) * self.trainer.world_size)

    def _scores(self, made: Tensor, real: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scores (N,) of both; where launching kernels is dear, in one pass.

        Not if images of both would come into one group of the deviation among neighbours.
        """
        if made.device.type == "cpu" or len(made) % GROUP:
            return self.discriminator(made, labels), self.discriminator(real, labels)
        both = None if labels is None else labels.repeat(2)
        of_made, of_real = self.discriminator(torch.cat([made, real]), both).chunk(2)
        return of_made, of_real

    def _train_generator(self, batch: Samples, optimizer: LightningOptimizer) -> None:
        """Non-saturating loss: softplus(-D(G(z))). Labels are those of the real batch."""
        with self.updating(optimizer, self.net):
            for part, seeds in self.parts(batch, "generate"):
                made = self._as_judged(self.synthesise(seeds, part.labels), seeds, _OF_MADE)
                scores = self.discriminator(made, part.labels)
                loss = F.softplus(-scores).mean()
                self.manual_backward(loss / self.accumulate)
                self.note(generator=loss)

    def _flatten_discriminator(self, batch: Samples, optimizer: LightningOptimizer) -> None:
        """R1: γ/2 E[|∇D(x)|²] over real images (Mescheder et al., 2018, equation 9)."""
        gamma = self.r1
        if gamma is None:
            gamma = (
                2e-4 * sides_of_levels(self.spec)[-1] ** 2 / (len(batch) * self.trainer.world_size)
            )
        with self.updating(optimizer, self.discriminator):
            for part, seeds in self.parts(batch, "flatten"):
                real = self._as_judged(self._pixels(part), seeds, _OF_REAL)
                penalty = squared_slope(self.discriminator, real, part.labels).mean()
                self.manual_backward(0.5 * gamma * self.r1_every * penalty / self.accumulate)
                self.note(r1=penalty)

    def _straighten_paths(self, batch: Samples, optimizer: LightningOptimizer) -> None:
        r"""Path length: :math:`E[(\lVert J_w^T y \rVert_2 - a)^2]`, a their running mean.

        Equation 4, on every second row, which the paper found enough. The mean is a constant of the
        step, that of the steps before it: so it does not matter how a batch is shared out.
        """
        side = sides_of_levels(self.spec)[-1]
        weight = self.path
        if weight is None:
            weight = math.log(2.0) / (side**2 * (math.log(side) - math.log(2.0)))
        n = self.path_updates
        mean = self.path_mean / (1.0 - _PATH_DECAY ** n.clamp(min=1))  # it started at zero
        total = torch.zeros_like(self.path_mean)
        with self.updating(optimizer, self.net):
            for part, seeds in self.parts(batch, "straighten"):
                lengths = self._path_lengths(part[::2], seeds[::2])
                goal = torch.where(n > 0, mean, lengths.detach())
                loss = (lengths - goal).square().mean()
                self.manual_backward(weight * self.path_every * loss / self.accumulate)
                total += lengths.detach().mean() / self.accumulate
        (length,) = mean_over_all(total)
        self.path_mean.lerp_(length, 1.0 - _PATH_DECAY)
        self.path_updates += 1
        self.note(path_length=length)

    def _path_lengths(self, part: Samples, seeds: Tensor) -> Tensor:
        """Path lengths (N,) at latents, and in directions y of the image, that the seeds give."""
        synthesis = self.net.synthesis
        z, noise, y = (
            draws.to(self.w_mean.dtype)
            for draws in drawn(
                seeds,
                (normal, (self.dim,), _LATENT),
                (normal, (synthesis.n_noise,), _NOISE),
                (normal, self.spec.shape, _DIRECTION),
            )
        )
        return path_lengths(self.net, z, part.labels, noise, y)

    def _adapt_augmentation(self, signs: Tensor, target: float, batch_size: int) -> None:
        """Every four batches, one step of p towards the target (Karras et al., 2020b, section 3.1).

        Signs above the target mean that the discriminator knows its real images too well.
        """
        (mean,) = mean_over_all(signs)
        self.signs += mean / _ADA_EVERY
        if self.step % _ADA_EVERY == _ADA_EVERY - 1:
            self.note(real_signs=self.signs, augmented=self.p)
            step = _ADA_EVERY * batch_size / self.ada_images
            self.p.add_((self.signs - target).sign() * step).clamp_(0.0, 1.0)
            self.signs.zero_()

    def _ema_decay(self, batch_size: int) -> float:
        """The average's decay for one batch; early on, the half-life is short."""
        seen = (self.step + 1) * batch_size
        half_life = min(self.ema_half_life, self.ema_ramp * seen)
        return 0.5 ** (batch_size / half_life) if half_life > 0.0 else 0.0

    def on_train_epoch_end(self) -> None:
        """Logs, and takes the mean of w anew, of the averaged mapping network."""
        super().on_train_epoch_end()
        self.find_w_mean()

    @torch.no_grad()
    def find_w_mean(self) -> None:
        """Averages w over latents that are the same on all processes and days."""
        seeds = sample_seeds(0, _N_MEAN, "w_mean").to(self.device)
        labels = None
        if self.spec.classes is not None:
            labels = torch.arange(_N_MEAN, device=self.device) % self.spec.classes
        w = self.averaged.mapping(self._normal(seeds, self.dim), labels)
        self.w_mean.copy_(w.mean(dim=0))

    # images

    @property
    def averaged(self) -> StyleNetwork:
        """The generator that is sampled from."""
        return cast(StyleNetwork, self.ema.net)

    def _pixels(self, part: Samples) -> Tensor:
        """Real images as the discriminator takes them."""
        return to_floats(part.values).to(self.w_mean.dtype)

    def _as_judged(self, images: Tensor, seeds: Tensor, stream: int) -> Tensor:
        """Images as the discriminator sees them."""
        return images if self.ada_target is None else augment(images, seeds, self.p, stream)

    def _normal(self, seeds: Tensor, *shape: int, stream: int = 0) -> Tensor:
        """Normal draws by address, in the networks' precision."""
        return normal(seeds, *shape, stream=stream).to(self.w_mean.dtype)

    def synthesise(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """Images of the trained network, with mixed styles (Karras et al., 2019, section 3.1).

        Args:
            seeds: Row seeds (N,), int64.
            labels: Classes (N,), int64, or None.

        Returns:
            Images (N, C, H, W), about [-1, 1].
        """
        synthesis = self.net.synthesis
        draws = (normal, (2, self.dim), _LATENT), (normal, (synthesis.n_noise,), _NOISE)
        z, noise, mixed = drawn(seeds, *draws, (uniform, (2,), _MIXING))
        z, noise = z.to(self.w_mean.dtype), noise.to(self.w_mean.dtype)
        twice = None if labels is None else labels.repeat_interleave(2)
        w = self.net.mapping(z.flatten(0, 1), twice).unflatten(0, (-1, 2))
        chance, place = mixed.unbind(dim=1)
        crossing = 1 + (place * (synthesis.n_styles - 1)).long()
        layers = torch.arange(synthesis.n_styles, device=seeds.device)
        second = (chance < self.mixing)[:, None] & (layers >= crossing[:, None])
        styles = torch.where(second[..., None], w[:, 1:], w[:, :1])
        return synthesis(styles, noise)

    def draw(self, seeds: Tensor, sampling_bias: float, labels: Tensor | None) -> Tensor:
        """Draws from the averaged generator, truncated in W."""
        net = self.averaged
        w = net.mapping(self._normal(seeds, self.dim, stream=_LATENT), labels)
        w = torch.lerp(self.w_mean, w, sampling_bias)
        styles = w[:, None].expand(-1, net.synthesis.n_styles, -1)
        return net.synthesis(styles, self._normal(seeds, net.synthesis.n_noise, stream=_NOISE))


def squared_slope(discriminator: nn.Module, x: Tensor, labels: Tensor | None) -> Tensor:
    """Squared norm (N,) of the score's gradient at images (N, C, H, W), itself differentiable.

    In full precision: a gradient of a gradient in 16 bits overflows. Not through ``__call__``,
    which may be compiled.
    """
    x = x.detach().requires_grad_()
    with without_autocast(x):
        score = discriminator.forward(x, labels)
        (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
        return slope.square().sum(dim=(1, 2, 3))


def path_lengths(
    net: StyleNetwork, z: Tensor, labels: Tensor | None, noise: Tensor, y: Tensor
) -> Tensor:
    r"""Path lengths :math:`\lVert J_w^T y \rVert_2`, themselves differentiable.

    :math:`J_w^T y` is the gradient of <g(w), y>, so that no Jacobian is ever formed (section 3.2).

    Args:
        net: The generator.
        z: Latents (N, dim).
        labels: Classes (N,), or None.
        noise: Noise of the layers (N, n_noise).
        y: Directions in the space of images (N, C, H, W), standard normal.

    Returns:
        Lengths (N,).
    """
    with without_autocast(z):
        w = net.mapping.forward(z, labels)
        styles = w[:, None].expand(-1, net.synthesis.n_styles, -1)
        image = net.synthesis.forward(styles, noise)
        (slope,) = torch.autograd.grad((image * y).sum(), w, create_graph=True)
        return slope.norm(dim=1)
