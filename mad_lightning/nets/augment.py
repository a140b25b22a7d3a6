r"""Augmentation that a discriminator may see and a generator does not learn (Karras et al., 2020b).

A discriminator with too little data learns the data by heart. Shown nothing but augmented images,
real and generated alike, it cannot; and as long as each transformation is left out now and then
(with p < 1), the distributions can only match *after* it if they match before, so that the
generator still learns clean images (section 2.2).

The transformations are those of the paper's pixel blitting, geometry and colour, in its order and
with its distributions (appendix B). Two things are simpler: all geometry is one bilinear resampling
with reflected borders, without the paper's wavelet filter around it; and the two groups that the
paper found to do no good, image-space filtering and corruptions, are left out.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from mad_lightning.seeds import drawn, normal, uniform

__all__ = ["augment"]

_LN2 = math.log(2.0)
_TURN = (0.0, -1.0, 1.0, 1.0, 0.0, -1.0, -1.0, 1.0, 0.0)


def augment(images: Tensor, seeds: Tensor, p: Tensor, stream: int = 0) -> Tensor:
    """Transforms each image by what its own seed says; differentiable.

    Args:
        images: Images (N, C, H, W) with 1 or 3 channels, in [-1, 1].
        seeds: Row seeds (N,), int64.
        p: Probability of each transformation, a scalar.
        stream: First of two streams of the seeds to draw from.

    Returns:
        Images (N, C, H, W), of the same precision.
    """
    draws = Draws(seeds, p, images, stream)
    with torch.autocast(images.device.type, enabled=False):
        return coloured(moved(images, draws), draws)


class Draws:
    """Parameters of the transformations, one value a sample; the identity where p leaves one out.

    Args:
        seeds: Row seeds (N,).
        p: Probability of a transformation.
        like: Gives the precision.
        stream: First of two streams.
    """

    N = 15

    def __init__(self, seeds: Tensor, p: Tensor, like: Tensor, stream: int) -> None:
        even, normally = drawn(
            seeds, (uniform, (2, self.N), stream), (normal, (self.N,), stream + 1)
        )
        self._chances, self._evenly = even.to(like.dtype).unbind(dim=1)
        self._normally = normally.to(like.dtype)
        self._p = p.to(like.dtype)
        self._next = 0
        self._chosen = torch.empty(0)

    def choose(self, both: bool = False) -> None:
        """Decides for each sample whether the next transformation takes place.

        Args:
            both: It is one of two rotations, of which at least one takes place with probability p.
        """
        p = 1.0 - (1.0 - self._p).sqrt() if both else self._p
        self._chosen = self._chances[:, self._next] < p

    def _take(self, values: Tensor) -> Tensor:
        self._next += 1
        return torch.where(self._chosen, values[:, self._next - 1], 0.0)

    def even(self, reach: float) -> Tensor:
        """Uniform values (N,) in (-reach, reach), or 0."""
        return self._take(reach * (2.0 * self._evenly - 1.0))

    def whole(self, n: int) -> Tensor:
        """One of 0 .. n-1 with equal chances (N,), or 0."""
        return self._take((self._evenly * n).floor())

    def gaussian(self, deviation: float) -> Tensor:
        """Normal values (N,) around 0, or 0."""
        return self._take(deviation * self._normally)

    def factor(self, deviation: float) -> Tensor:
        """Log-normal values (N,) around 1, or 1."""
        return self.gaussian(deviation).exp()


# --- geometry -----------------------------------------------------------------------------------


@cache
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers on a device, brought there once: each time would be a wait."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def _matrices(entries: dict[tuple[int, int], Tensor]) -> Tensor:
    """Matrices (N, 3, 3) that are the identity but for some entries (N,)."""
    (first, *_) = entries.values()
    matrices = torch.eye(3, dtype=first.dtype, device=first.device).repeat(len(first), 1, 1)
    for (row, column), values in entries.items():
        matrices[:, row, column] = values
    return matrices


def _scaling(x: Tensor, y: Tensor | None = None) -> Tensor:
    return _matrices({(0, 0): x} | ({} if y is None else {(1, 1): y}))


def _rotation(cos: Tensor, sin: Tensor) -> Tensor:
    return _matrices({(0, 0): cos, (0, 1): -sin, (1, 0): sin, (1, 1): cos})


def _shift(x: Tensor, y: Tensor) -> Tensor:
    return _matrices({(0, 2): x, (1, 2): y})


def moved(images: Tensor, draws: Draws) -> Tensor:
    """Flips, turns, shifts and scales images.

    The matrices say where an output pixel comes from, measured in pixels from the centre. That is
    the inverse of what is done to the image, in reverse order; as every distribution is symmetric,
    the inverse of a draw is as good as the draw. Flips, quarter turns and whole shifts meet pixels
    exactly, so that they lose nothing.
    """
    height, width = images.shape[2:]
    draws.choose()
    mirror = 1.0 - 2.0 * draws.whole(2)
    source = _scaling(mirror)
    draws.choose()
    angle = draws.whole(4) * (math.pi / 2.0)
    source = source @ _rotation(angle.cos().round(), angle.sin().round())
    draws.choose()
    across, down = draws.even(0.125) * width, draws.even(0.125) * height
    source = source @ _shift(across.round(), down.round())
    draws.choose()
    scale = draws.factor(0.2 * _LN2)
    source = source @ _scaling(scale, scale)
    draws.choose(both=True)
    angle = draws.even(math.pi)
    source = source @ _rotation(angle.cos(), angle.sin())
    draws.choose()
    stretch = draws.factor(0.2 * _LN2)
    source = source @ _scaling(stretch, 1.0 / stretch)
    draws.choose(both=True)
    angle = draws.even(math.pi)
    source = source @ _rotation(angle.cos(), angle.sin())
    draws.choose()
    source = source @ _shift(draws.gaussian(0.125) * width, draws.gaussian(0.125) * height)
    # to and from the coordinates of affine_grid, where the image reaches from -1 to 1
    half = _constant((width / 2.0, height / 2.0, 1.0), source.dtype, source.device)
    theta = (source * half / half[:, None])[:, :2]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


# --- colour -------------------------------------------------------------------------------------


def coloured(images: Tensor, draws: Draws) -> Tensor:
    """Changes brightness, contrast, luma, hue and saturation; of grey images the first three.

    Luma is the grey axis v. A flip mirrors along it, hue turns around it, saturation scales what is
    perpendicular to it.
    """
    c = images.shape[1]
    draws.choose()
    brightness = draws.gaussian(0.2)
    draws.choose()
    contrast = draws.factor(0.5 * _LN2)
    draws.choose()
    flip = draws.whole(2)
    draws.choose()
    hue = draws.even(math.pi)
    draws.choose()
    saturation = draws.factor(_LN2)
    identity = torch.eye(c, dtype=images.dtype, device=images.device)
    along = torch.full_like(identity, 1.0 / c)  # projects on v
    matrix = contrast[:, None, None] * (identity - 2.0 * flip[:, None, None] * along)
    if c == 3:
        turn = _constant(_TURN, images.dtype, images.device).view(3, 3)
        cos, sin = hue.cos()[:, None, None], hue.sin()[:, None, None]
        turned = cos * identity + sin / math.sqrt(3.0) * turn + (1.0 - cos) * along  # Rodrigues
        matrix = (along + saturation[:, None, None] * (identity - along)) @ turned @ matrix
    pixels = (images + brightness[:, None, None, None]).flatten(2)
    return torch.bmm(matrix, pixels).view_as(images)
