r"""The Glow family: an exact likelihood, maximised.

A normalising flow turns samples into standard normal latents and back (Kingma & Dhariwal, 2018;
:mod:`mad_lightning.nets.glow`). Training maximises the log-likelihood itself, sampling runs the
flow backwards, so this family has neither a sampler nor an adversary to blame when it goes MAD.

Images are discrete and a density is not: each grey level is spread over its own interval by uniform
noise, and the density of what comes out bounds the probability of the image from below (Theis et
al., 2016, section 3.1). A logit opens the interval from black to white to the whole line (Dinh et
al., 2017, section 4.1), so that no sample lies far outside. Sides that the levels cannot halve are
padded with black pixels, which are cropped from samples; they count as pixels that the flow models
beside the image, and leave the likelihood a bound (Huang et al., 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from mad_lightning.generators.base import Generator, warmed_adamw
from mad_lightning.nets.ema import EMA
from mad_lightning.processes import take_from_first
from mad_lightning.refusal import Refused, check_within
from mad_lightning.samples import Samples, SampleSpec, to_floats
from mad_lightning.seeds import normal

__all__ = ["Glow"]

MARGIN = 0.05
"""Distance of black and white from the ends of the logit (Dinh et al., 2017, section 4.1)."""

_NO_SCALE = "Glow takes its first scales from the spread of the first batch, which has {}"


class Glow(Generator):
    r"""Normalising flow on images or vectors, conditional on the class where there are labels.

    λ scales the covariance of the latents of all levels, :math:`z \sim \mathcal N(0, \lambda I)`
    (Alemohammad et al., 2023, appendix B.4), which is a temperature :math:`\sqrt\lambda`.

    Args:
        levels: Levels of an image, each of half the resolution; a vector has one.
        couplings: Coupling layers in each level (K of the Glow paper), each with its actnorm and
            mixing of channels.
        hidden: Width of the couplings' networks.
        bits: Grey levels of images are rounded to 2^bits; 8 keeps all of them. Fewer bits mean more
            noise between levels, and less effort spent on telling close levels apart.
        lr: Peak learning rate of AdamW; warms up over ``warmup`` steps, then falls as a cosine.
        warmup: Steps until the peak.
        clip_norm: Largest norm of the gradient of the loss, in nats a dimension.
        ema_decay: Decay of the averaged weights; they, not the trained ones, are sampled from.

    Example:
        >>> x = torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8)
        >>> glow = Glow(levels=2, couplings=2).build(SampleSpec.of(x))
        >>> L.Trainer(max_epochs=1).fit(glow, DataLoader(TensorDataset(x), batch_size=32))
        >>> glow.sample(seeds=torch.arange(5), sampling_bias=0.8).values.shape
        torch.Size([5, 1, 8, 8])
    """

    initialised: Tensor

    def __init__(
        self,
        levels: int = 3,
        couplings: int = 8,
        hidden: int = 64,
        bits: int = 8,
        lr: float = 1e-3,
        warmup: int = 100,
        clip_norm: float = 1.0,
        ema_decay: float = 0.995,
    ) -> None:
        super().__init__()
        check_within("[1, 16]", levels=levels)
        check_within("[1, 1000]", couplings=couplings)
        check_within("[1, 65536]", hidden=hidden)
        check_within("[1, 8]", "stored images have 8", bits=bits)
        check_within("(0, inf)", "e.g. 1e-3", lr=lr)
        check_within("[0, 1000000]", warmup=warmup)
        check_within("(0, inf)", "e.g. 1", clip_norm=clip_norm)
        check_within("[0, 1)", "e.g. 0.995", ema_decay=ema_decay)
        self.levels, self.couplings, self.hidden, self.bits = levels, couplings, hidden, bits
        self.lr, self.warmup, self.clip_norm, self.ema_decay = lr, warmup, clip_norm, ema_decay
        self._ready = False

    def build(self, spec: SampleSpec) -> Self:
        """Makes the flow and its average."""
        from mad_lightning.nets.glow import Flow  # normflows is heavy

        self.spec, self.padding = spec, (0, 0, 0, 0)
        shape = spec.shape
        if spec.kind == "image":
            channels, height, width = spec.shape
            if min(height, width) < 2 ** (self.levels - 1):
                raise Refused(
                    "levels",
                    f"images of {height} x {width} cannot be halved {self.levels} times",
                    f"choose at most {int(math.log2(min(height, width))) + 1}",
                )
            rows, columns = (-side % 2**self.levels for side in (height, width))
            left, top = columns // 2, rows // 2
            self.padding = (left, columns - left, top, rows - top)
            shape = (channels, height + rows, width + columns)
        elif spec.shape[0] < 2:
            raise Refused(
                "",
                "Glow transforms coordinates given others, and these vectors have one",
                "take a Gaussian or a mixture, or vectors of two dimensions or more",
            )
        self.net = Flow(shape, self.levels, self.couplings, self.hidden, spec.classes)
        self.ema = EMA(self.net, self.ema_decay)
        self.register_buffer("initialised", torch.tensor(False))
        return self

    def sampler(self) -> dict[str, Any]:
        """Whose weights are sampled from, and how finely samples are rounded."""
        weights = {"weights": f"ema {self.ema_decay}"}
        return weights | ({"bits": self.bits} if self.spec.kind == "image" else {})

    # between samples and what the flow sees

    def _dequantise(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stored samples as points of the flow's space; draws uniform noise for images.

        Returns:
            Points (N, *shape), and the log-determinant from grey levels to them (N,).
        """
        x = to_floats(values)
        if self.spec.kind == "vector":
            return x, x.new_zeros(len(x))
        x = F.pad(x, self.padding, value=-1.0)
        level = ((x + 1.0) / 2.0 * (2**self.bits - 1)).round()
        share = MARGIN + (1.0 - 2.0 * MARGIN) * (level + torch.rand_like(level)) / 2**self.bits
        slope = (1.0 - 2.0 * MARGIN) / 2**self.bits / (share * (1.0 - share))
        return torch.logit(share), slope.log().flatten(1).sum(dim=1)

    def _quantise(self, x: Tensor) -> Tensor:
        """Points of the flow's space as floats at grey levels; what is not finite stays so."""
        if self.spec.kind == "vector":
            return x
        left, _, top, _ = self.padding
        x = x[..., top : top + self.spec.shape[1], left : left + self.spec.shape[2]]
        share = (torch.sigmoid(x) - MARGIN) / (1.0 - 2.0 * MARGIN)
        level = (share * 2**self.bits).floor()
        return (level / (2**self.bits - 1) * 2.0 - 1.0).masked_fill(~x.isfinite(), torch.nan)

    def log_prob(self, samples: Samples) -> Tensor:
        """Log-density of vectors, or a bound on the log-probability of images, (N,) in nats."""
        x, log_det = self._dequantise(samples.values)
        return self.net.log_prob(x, samples.labels) + log_det

    # training

    def check_training(self, counts: Sequence[int], batch_size: int) -> None:
        """Actnorms take their scale from the first batch, and one sample has none."""
        super().check_training(counts, batch_size)
        if min(batch_size, sum(counts)) < 2:
            raise Refused("", _NO_SCALE.format("one sample"), "give batches of two samples or more")

    @torch.no_grad()
    def initialise(self, samples: Samples) -> None:
        """Takes the scales of all actnorms from data (Kingma & Dhariwal, 2018, section 3.1).

        Without it nothing can be sampled. A bare Trainer's first training batch does it, too.
        """
        if not bool((samples.values != samples.values[:1]).any()) and self.spec.kind == "vector":
            raise Refused("", _NO_SCALE.format("one value only"), "train on samples that differ")
        if len(samples) < 2:
            raise Refused("", _NO_SCALE.format("one sample"), "give batches of two samples or more")
        samples = samples.to(self.device)
        self.net.inverse(self._dequantise(samples.values)[0], samples.labels, initialise=True)
        self.ema.net.load_state_dict(self.net.state_dict())
        self.initialised.fill_(True)

    def _make_ready(self, batch: Samples) -> None:
        """Initialises a flow that nobody has: by one batch, and alike on all processes."""
        if not self.initialised:
            self.initialise(batch)
            take_from_first(*self.net.parameters(), *self.ema.net.parameters())
        self._ready = True  # spares a look at the device in every step

    def training_step(self, batch: Samples, batch_idx: int) -> Tensor:
        """Negative log-likelihood in nats a dimension."""
        if not self._ready:
            self._make_ready(batch)
        nats = -self.log_prob(batch).mean()
        self.note(nll=nats)
        return nats / math.prod(self.spec.shape)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips to ``clip_norm``, then as the Trainer asks."""
        (group,) = optimizer.param_groups  # to look for all parameters costs as much as to clip
        torch.nn.utils.clip_grad_norm_(group["params"], self.clip_norm)
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def from_average(self) -> None:
        """Starts from the averaged flow."""
        self.ema.restart(self.net)

    def after_step(self) -> None:
        """Follows the flow."""
        self.ema.update(self.net)

    def epoch_means(self) -> dict[str, Tensor]:
        """The mean negative log-likelihood: ``nll`` of vectors, ``bits_per_dim`` of images."""
        means = super().epoch_means()
        if self.spec.kind == "image":
            means["bits_per_dim"] = means.pop("nll") / (math.log(2.0) * math.prod(self.spec.shape))
        return means

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine decay over the whole budget."""
        steps = int(self.trainer.estimated_stepping_batches)
        fused = self.fuses(self.net)
        return warmed_adamw(self.net, self.lr, self.warmup, steps, fused=fused)

    # sampling

    def draw(self, seeds: Tensor, sampling_bias: float, labels: Tensor | None) -> Tensor:
        """Runs the averaged flow backwards from each seed's own latents, in full precision."""
        if not self.initialised:
            raise RuntimeError(
                "this Glow has not met data: call initialise(samples), train it, or load weights "
                "before sampling; its actnorms would take their scales from noise"
            )
        latents = [
            sampling_bias**0.5 * normal(seeds, *shape, stream=level)
            for level, shape in enumerate(self.net.latents)
        ]
        with torch.autocast(self.device.type, enabled=False):
            return self._quantise(self.ema(latents, labels))
