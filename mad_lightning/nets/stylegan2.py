r"""The networks of StyleGAN2 (Karras et al., 2020a), in plain PyTorch.

A style acts on the *statistics* of features. Its first form normalised each feature map by its own
mean and variance, and images grew blobs: the network hid what it wanted to keep in one giant spike.
Here the style scales the inputs of a convolution and the normalisation is worked out from the
weights, assuming inputs of unit variance ("demodulation"). No statistics of pixels are taken, so
nothing can be hidden in them, and a sample does not depend on its neighbours.

All weights are drawn from N(0, 1) and scaled when used ("equalised learning rate", Karras et al.,
2018, section 4.1): Adam then changes every layer at the same relative speed.

Sides are powers of two inside. Images of other sides are cut out of what the generator makes, and
set into a frame before the discriminator looks at them.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mad_lightning.samples import SampleSpec

__all__ = [
    "GROUP",
    "Blur",
    "Discriminator",
    "Mapping",
    "StyleNetwork",
    "Synthesis",
    "minibatch_deviation",
    "modulated_convolution",
    "upsample",
]

Modulation = Literal["activations", "weights"]

_GAIN = math.sqrt(2.0)  # a leaky ReLU about halves the second moment
_EPSILON = 1e-8
GROUP = 4
"""Samples among which the deviation of neighbours is taken."""
_LARGEST = 256.0  # of an activation in float16 (Karras et al., 2020b, appendix D.1)


def sides_of_levels(spec: SampleSpec) -> list[int]:
    """Sides of the levels, coarsest first: 4, 8, ... up to what encloses the image, at least 8."""
    finest = max(3, math.ceil(math.log2(max(spec.shape[1:]))))
    return [2**level for level in range(2, finest + 1)]


def channels_of(side: int, channel_base: int, channel_max: int) -> int:
    """Channels of a level: as many as fit ``channel_base / side``, at most ``channel_max``.

    Configuration F of the paper has 32768 and 512: 32 channels at 1024 px, 512 from 64 px down.
    """
    return max(1, min(channel_base // side, channel_max))


def without_autocast(x: Tensor) -> torch.autocast:
    """Context for what autocast must not round to 16 bits: styles, statistics, logits."""
    return torch.autocast(x.device.type, enabled=False)


# --- resampling with the filter [1, 3, 3, 1] ----------------------------------------------------


class Blur(nn.Module):
    """The separable filter [1, 3, 3, 1] / 8, one convolution with a group a channel.

    Args:
        padding: Zeros added on each side.
        stride: Pixels from one result to the next.
        gain: Of a constant, over both directions.
    """

    kernel: Tensor

    def __init__(self, padding: int, stride: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", torch.outer(taps, taps) * (gain / 64.0), persistent=False)
        self.padding, self.stride = padding, stride

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H + 2 padding - 3, W + 2 padding - 3), or every ``stride``-th pixel."""
        n = x.shape[1]
        kernels = self.kernel.expand(n, 1, -1, -1)
        return F.conv2d(x, kernels, stride=self.stride, padding=self.padding, groups=n)


def upsample(x: Tensor) -> Tensor:
    """Doubles the side: zeros between pixels, then the filter [1, 3, 3, 1] / 4 in each direction.

    Half of the products are with zeros, so a new pixel mixes two old ones, 3 : 1. Pixels beyond
    the border repeat it: a constant image stays constant.

    Args:
        x: Images (N, C, H, W).

    Returns:
        Images (N, C, 2H, 2W).
    """
    for dim in (2, 3):
        n = x.shape[dim]
        before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, n - 1)], dim)
        after = torch.cat([x.narrow(dim, 1, n - 1), x.narrow(dim, n - 1, 1)], dim)
        x = torch.stack([before.lerp(x, 0.75), after.lerp(x, 0.75)], dim + 1)
        x = x.flatten(dim, dim + 1)
    return x


# --- layers -------------------------------------------------------------------------------------


class Dense(nn.Module):
    """Linear layer with equalised learning rate.

    Args:
        n_in: Inputs.
        n_out: Outputs.
        gain: Of the output.
        bias: Initial bias.
        lr_multiplier: Learning rate relative to other layers'.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        gain: float = 1.0,
        bias: float = 0.0,
        lr_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((n_out,), bias / lr_multiplier))
        self.scale = gain * lr_multiplier / math.sqrt(n_in)
        self.bias_scale = gain * lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (N, n_out)."""
        return torch.addmm(self.bias, x, self.weight.t(), beta=self.bias_scale, alpha=self.scale)


class Convolution(nn.Module):
    """Convolution with equalised learning rate; a leaky ReLU follows where there is a bias.

    Args:
        n_in: Channels of the input.
        n_out: Channels of the output.
        size: Side of the kernel, odd.
        down: Filter, and keep every second pixel.
        bias: Whether there is a bias, and the leaky ReLU.
        gain: Of the output, besides what the leaky ReLU takes.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        size: int,
        down: bool = False,
        bias: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in, size, size))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None
        self.gain = gain * (_GAIN if bias else 1.0)  # before a leaky ReLU is as good as after
        self.scale = self.gain / math.sqrt(n_in * size**2)
        self.blur = Blur(1 + size // 2) if down else None

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, n_out, H, W), or half the side."""
        weight = self.weight * self.scale
        bias = None if self.bias is None else self.bias * self.gain
        if self.blur is not None:
            x = F.conv2d(self.blur(x), weight, bias, stride=2)
        else:
            x = F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
        return x if bias is None else activated(x)


def activated(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2; in float16 the result is kept far from infinity."""
    x = F.leaky_relu(x, 0.2)
    return x.clamp(-_LARGEST, _LARGEST) if x.dtype == torch.float16 else x


def modulated_convolution(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    up: bool = False,
    modulation: Modulation = "activations",
    gain: float = 1.0,
) -> Tensor:
    r"""Convolution whose input channels are scaled by a style, demodulated (section 2.2).

    :math:`w'_{ijk} = s_i w_{ijk}`, :math:`w''_{ijk} = w'_{ijk} / \sqrt{\sum_{i,k} w'^2_{ijk} +
    \epsilon}` (equations 1 and 3). Demodulation forgets the sizes of s and w, so both are brought
    to at most 1 first, where float16 does not overflow (Karras et al., 2020b, appendix D.1); and as
    the result does not depend on these two divisors, no gradient flows through them.

    Args:
        x: Features (N, C, H, W).
        weight: Kernels (D, C, k, k).
        style: Scales of the input channels (N, C).
        up: Put zeros between pixels first: the filter of :func:`upsample` is then still to come.
            Filter and convolution may change places, and this order is four times cheaper.
        modulation: Two forms of the same product. ``activations`` scales features before and
            after one convolution of the whole batch; ``weights`` makes kernels for each sample and
            runs one convolution with a group a sample, which keeps less for the backward pass.
        gain: Of the output.

    Returns:
        Features (N, D, H, W); with ``up`` (N, D, 2H - 2 + k, 2W - 2 + k), k the kernel's side.
    """
    n, n_out, size = len(x), len(weight), weight.shape[-1]
    with without_autocast(x):
        weight = weight / weight.detach().flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        largest = torch.linalg.vector_norm(style.detach(), math.inf, dim=1, keepdim=True)
        style = style / largest.clamp(min=_EPSILON)
        energy = style.square() @ weight.square().sum(dim=(2, 3)).t()
        demodulation = gain * (energy + _EPSILON).rsqrt()
        if modulation == "weights":
            weight = weight * style[:, None, :, None, None]
            weight = weight * demodulation[:, :, None, None, None]
    if modulation == "weights":
        x = x.reshape(1, -1, *x.shape[2:])
        if up:
            kernels = weight.transpose(1, 2).flatten(0, 1)
            x = F.conv_transpose2d(x, kernels, stride=2, groups=n)
        else:
            x = F.conv2d(x, weight.flatten(0, 1), padding=size // 2, groups=n)
        return x.view(n, n_out, *x.shape[2:])
    x = x * style.to(x.dtype)[:, :, None, None]
    if up:
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    else:
        x = F.conv2d(x, weight, padding=size // 2)
    return x * demodulation.to(x.dtype)[:, :, None, None]


class StyledConvolution(nn.Module):
    """Modulated 3 x 3 convolution, noise, bias, leaky ReLU (figure 2d).

    Args:
        n_in: Channels of the input.
        n_out: Channels of the output.
        dim: Size of w.
        up: Double the side.
        modulation: See :func:`modulated_convolution`.
    """

    def __init__(self, n_in: int, n_out: int, dim: int, up: bool, modulation: Modulation) -> None:
        super().__init__()
        self.affine = Dense(dim, n_in, bias=1.0)
        self.weight = nn.Parameter(torch.randn(n_out, n_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.blur = Blur(1, gain=4.0) if up else None  # a zero for three pixels of four
        self.modulation = modulation

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """Features.

        Args:
            x: Features (N, n_in, H, W).
            w: Intermediate latents (N, dim).
            noise: Standard normal (N, 1, H, W), at the side of the output.
        """
        with without_autocast(w):
            style = self.affine(w)
            noise = noise * (_GAIN * self.noise_strength)
            bias = self.bias.view(-1, 1, 1) * _GAIN
        up = self.blur is not None
        x = modulated_convolution(x, self.weight, style, up, self.modulation, _GAIN)
        if self.blur is not None:
            x = self.blur(x)
        return activated(x + noise.to(x.dtype) + bias.to(x.dtype))


class ToPixels(nn.Module):
    """Modulated 1 x 1 convolution to pixels, without demodulation (figure 7b).

    Args:
        n_in: Channels of the features.
        n_out: Channels of the image.
        dim: Size of w.
    """

    def __init__(self, n_in: int, n_out: int, dim: int) -> None:
        super().__init__()
        self.affine = Dense(dim, n_in, gain=1.0 / math.sqrt(n_in), bias=1.0)
        self.weight = nn.Parameter(torch.randn(n_out, n_in))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Images (N, n_out, H, W), never of 16 bits: they are summed over the levels."""
        with without_autocast(w):
            weight = self.weight * self.affine(w)[:, None]
        image = torch.bmm(weight.to(x.dtype), x.flatten(2)).to(w.dtype)
        return image.view(len(x), -1, *x.shape[2:]) + self.bias.view(-1, 1, 1)


# --- the generator's two networks ---------------------------------------------------------------


def normalised(x: Tensor) -> Tensor:
    """Rows of unit second moment."""
    return x * (x.square().mean(dim=1, keepdim=True) + _EPSILON).rsqrt()


class Mapping(nn.Module):
    """The mapping network f: Z -> W (Karras et al., 2019, section 2).

    Of labelled data, a learned vector of the class joins the latent, both normalised (Karras et
    al., 2020b, appendix D.1).

    Args:
        dim: Size of z and of w.
        layers: Number of layers.
        classes: Number of classes, or None.
        lr_multiplier: Learning rate relative to the rest of the generator.
    """

    def __init__(
        self, dim: int, layers: int, classes: int | None, lr_multiplier: float = 0.01
    ) -> None:
        super().__init__()
        self.dim = dim
        self.classes = None if classes is None else nn.Parameter(torch.randn(classes, dim))
        widths = [dim if classes is None else 2 * dim, *[dim] * layers]
        self.layers = nn.ModuleList(
            Dense(n_in, n_out, _GAIN, lr_multiplier=lr_multiplier)
            for n_in, n_out in pairwise(widths)
        )

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Intermediate latents w (N, dim) of latents (N, dim) and classes (N,)."""
        with without_autocast(z):
            w = normalised(z)
            if self.classes is not None and labels is not None:
                w = torch.cat([w, normalised(self.classes[labels])], dim=1)
            for layer in self.layers:
                w = F.leaky_relu(layer(w), 0.2)
            return w


class Synthesis(nn.Module):
    """The synthesis network g: W -> images, with skip connections (figure 7b).

    Every level adds its pixels to the upsampled image of the level below. Each layer has a w of its
    own: the pixels of a level share theirs with the next level's first convolution.

    Args:
        spec: The images.
        dim: Size of w.
        channel_base: See :func:`channels_of`.
        channel_max: See :func:`channels_of`.
        modulation: See :func:`modulated_convolution`.
    """

    def __init__(
        self,
        spec: SampleSpec,
        dim: int,
        channel_base: int,
        channel_max: int,
        modulation: Modulation = "activations",
    ) -> None:
        super().__init__()
        self.shape = spec.shape
        levels = sides_of_levels(spec)
        channels = [channels_of(side, channel_base, channel_max) for side in levels]
        self.constant = nn.Parameter(torch.randn(channels[0], 4, 4))
        convolutions = [StyledConvolution(channels[0], channels[0], dim, False, modulation)]
        for n_in, n_out in pairwise(channels):
            convolutions += [
                StyledConvolution(n_in, n_out, dim, True, modulation),
                StyledConvolution(n_out, n_out, dim, False, modulation),
            ]
        self.convolutions = nn.ModuleList(convolutions)
        self.to_pixels = nn.ModuleList(ToPixels(n_in, spec.shape[0], dim) for n_in in channels)
        self.resolution = levels[-1]
        self.noise_sides = [4, *(side for side in levels[1:] for _ in range(2))]
        self.n_noise = sum(side**2 for side in self.noise_sides)
        self.n_styles = len(convolutions) + 1

    def forward(self, styles: Tensor, noise: Tensor) -> Tensor:
        """Images.

        Args:
            styles: Intermediate latents of every layer (N, n_styles, dim).
            noise: Standard normal (N, n_noise), cut up among the layers.

        Returns:
            Images (N, C, H, W), about [-1, 1].
        """
        pieces = noise.split([side**2 for side in self.noise_sides], dim=1)
        x = self.constant.expand(len(styles), -1, -1, -1)
        image: Tensor | None = None
        for place, (convolution, side) in enumerate(
            zip(self.convolutions, self.noise_sides, strict=True)
        ):
            x = convolution(x, styles[:, place], pieces[place].view(-1, 1, side, side))
            if place % 2 == 0:  # the last convolution of a level
                pixels = self.to_pixels[place // 2](x, styles[:, place + 1])
                image = pixels if image is None else upsample(image) + pixels
        assert image is not None
        top, left = ((self.resolution - length) // 2 for length in self.shape[1:])
        return image[..., top : top + self.shape[1], left : left + self.shape[2]]


class StyleNetwork(nn.Module):
    """The generator: mapping and synthesis.

    Args:
        spec: The images.
        dim: Size of z and of w.
        mapping_layers: Layers of the mapping network.
        channel_base: See :func:`channels_of`.
        channel_max: See :func:`channels_of`.
        modulation: See :func:`modulated_convolution`.
    """

    def __init__(
        self,
        spec: SampleSpec,
        dim: int = 512,
        mapping_layers: int = 8,
        channel_base: int = 32768,
        channel_max: int = 512,
        modulation: Modulation = "activations",
    ) -> None:
        super().__init__()
        self.mapping = Mapping(dim, mapping_layers, spec.classes)
        self.synthesis = Synthesis(spec, dim, channel_base, channel_max, modulation)

    def forward(self, z: Tensor, labels: Tensor | None, noise: Tensor) -> Tensor:
        """Images (N, C, H, W) of latents (N, dim), classes (N,) and noise (N, n_noise)."""
        w = self.mapping(z, labels)
        return self.synthesis(w[:, None].expand(-1, self.synthesis.n_styles, -1), noise)


# --- the discriminator --------------------------------------------------------------------------


def minibatch_deviation(x: Tensor, group: int = GROUP) -> Tensor:
    """Appends the deviation among neighbouring samples (Karras et al., 2018, section 3).

    It lets the discriminator see that a generator repeats itself. Groups are of *consecutive* rows,
    so that they are the same however a batch is shared out among processes.

    Args:
        x: Features (N, C, H, W).
        group: Samples of a group; fewer if N is not divisible.

    Returns:
        Features (N, C + 1, H, W): the last channel is constant over a group, the mean over
        features and places of the standard deviation in the group.
    """
    n, _, height, width = x.shape
    group = next(size for size in range(group, 0, -1) if n % size == 0)
    groups = x.unflatten(0, (-1, group))
    variance = (groups - groups.mean(dim=1, keepdim=True)).square().mean(dim=1)
    # The root's slope is infinite at 0, where constant pixels lead
    deviation = (variance + _EPSILON).sqrt().mean(dim=(1, 2, 3)).repeat_interleave(group)
    return torch.cat([x, deviation.view(n, 1, 1, 1).expand(-1, -1, height, width)], dim=1)


class Residual(nn.Module):
    """Two convolutions beside a skip connection; the side is halved (figure 7c).

    Args:
        n_in: Channels of the input.
        n_out: Channels of the output.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        share = math.sqrt(0.5)  # keeps the variance of the sum
        self.first = Convolution(n_in, n_in, 3)
        self.second = Convolution(n_in, n_out, 3, down=True, gain=share)
        self.shrink = Blur(1, stride=2)
        self.skip = Convolution(n_in, n_out, 1, bias=False, gain=share)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, n_out, H / 2, W / 2)."""
        return self.second(self.first(x)) + self.skip(self.shrink(x))


class Discriminator(nn.Module):
    r"""The residual discriminator; of labelled data it judges the class, too.

    With classes the score is :math:`\psi(h) + \langle v_c, h \rangle / \sqrt{n}`, h the last
    hidden layer (Miyato & Koyama, 2018, equation 3; the scale as in Karras et al., 2020b, D.1).

    Args:
        spec: The images.
        channel_base: See :func:`channels_of`.
        channel_max: See :func:`channels_of`.
    """

    def __init__(self, spec: SampleSpec, channel_base: int = 32768, channel_max: int = 512) -> None:
        super().__init__()
        levels = sides_of_levels(spec)
        channels = [channels_of(side, channel_base, channel_max) for side in levels]
        first, last = channels[-1], channels[0]
        self.from_pixels = Convolution(spec.shape[0], first, 1)
        self.blocks = nn.Sequential(
            *(Residual(n_in, n_out) for n_in, n_out in pairwise(channels[::-1]))
        )
        self.convolution = Convolution(last + 1, last, 3)
        self.dense = Dense(last * 16, last, _GAIN)
        self.score = Dense(last, 1)
        self.classes = (
            None if spec.classes is None else nn.Parameter(torch.randn(spec.classes, last))
        )
        height, width = (levels[-1] - length for length in spec.shape[1:])
        self.frame = (width // 2, width - width // 2, height // 2, height - height // 2)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Scores (N,), higher for real, of images (N, C, H, W) and classes (N,)."""
        x = self.blocks(self.from_pixels(F.pad(x, self.frame)))
        with without_autocast(x):
            x = minibatch_deviation(x.to(self.dense.weight.dtype))
            hidden = F.leaky_relu(self.dense(self.convolution(x).flatten(1)), 0.2)
            score = self.score(hidden).squeeze(1)
            if self.classes is not None and labels is not None:
                by_class = (self.classes[labels] * hidden).sum(dim=1)
                score = score + by_class / math.sqrt(hidden.shape[1])
            return score
