"""Augmentation against numpy, scipy and counts."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from scipy.spatial.transform import Rotation

from mad_lightning.nets.augment import Draws, augment, coloured, moved
from mad_lightning.seeds import sample_seeds

ORDER = ["mirror", "quarters", "across", "down", "scale", "turn", "stretch", "turn_2", "dx", "dy"]
COLOURS = ["brightness", "contrast", "flip", "hue", "saturation"]


class Fixed:
    """Gives chosen values in the order in which they are asked for."""

    def __init__(self, names, **values):
        ones = {"scale": 1.0, "stretch": 1.0, "contrast": 1.0, "saturation": 1.0}
        self.values = [
            torch.tensor([values.get(n, ones.get(n, 0.0))], dtype=torch.float64) for n in names
        ]

    def choose(self, both=False):
        pass

    def give(self, _):
        return self.values.pop(0)

    even = whole = gaussian = factor = give


def image(channels=3, height=8, width=8, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(1, channels, height, width, generator=rng, dtype=torch.float64) * 2 - 1


def through(x, **values):
    draws = Fixed(ORDER, **values)
    out = moved(x, draws)
    assert draws.values == []
    return out[0].numpy()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 7), (6, 9)])
def test_flips_turns_and_whole_shifts_lose_nothing(height, width):
    x = image(2, height, width)
    plain = x[0].numpy()
    np.testing.assert_allclose(through(x), plain, atol=1e-12)
    np.testing.assert_allclose(through(x, mirror=1.0), plain[:, :, ::-1], atol=1e-12)
    padded = np.pad(plain, ((0, 0), (4, 4), (4, 4)), mode="symmetric")
    across, down = 0.1, -0.12  # of the side
    dx, dy = round(across * width), round(down * height)
    expected = padded[:, 4 + dy : 4 + dy + height, 4 + dx : 4 + dx + width]
    np.testing.assert_allclose(through(x, across=across, down=down), expected, atol=1e-12)
    if height == width:
        for quarters in (1, 2, 3):
            ours = through(x, quarters=float(quarters))
            np.testing.assert_allclose(ours, np.rot90(plain, quarters, (1, 2)), atol=1e-12)


@pytest.mark.parametrize(
    "values",
    [
        {"scale": 1.2},
        {"scale": 0.85},
        {"turn": 0.4},
        {"stretch": 1.15},
        {"turn": 0.3, "stretch": 1.2, "turn_2": -0.7},
        {"dx": 0.07, "dy": -0.03},
        {"mirror": 1.0, "quarters": 1.0, "scale": 0.9, "turn": 0.2, "dx": 0.05, "across": 0.12},
    ],
)
def test_geometry_is_scipys_bilinear_resampling(values):
    side = 12
    x = image(1, side, side)
    get = lambda name, neutral=0.0: values.get(name, neutral)  # noqa: E731

    def turn(angle):
        return np.array(
            [
                [math.cos(angle), -math.sin(angle), 0],
                [math.sin(angle), math.cos(angle), 0],
                [0, 0, 1],
            ]
        )

    def shift(dx, dy):
        return np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1.0]])

    source = np.diag([1.0 - 2.0 * get("mirror"), 1.0, 1.0]) @ turn(get("quarters") * math.pi / 2)
    source = source @ shift(round(get("across") * side), round(get("down") * side))
    source = source @ np.diag([get("scale", 1.0), get("scale", 1.0), 1.0]) @ turn(get("turn"))
    source = source @ np.diag([get("stretch", 1.0), 1.0 / get("stretch", 1.0), 1.0])
    source = source @ turn(get("turn_2")) @ shift(get("dx") * side, get("dy") * side)
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]])  # scipy counts rows first
    centre = shift(-(side - 1) / 2, -(side - 1) / 2)
    matrix = swap @ np.linalg.inv(centre) @ source @ centre @ swap
    expected = ndimage.affine_transform(x[0, 0].numpy(), matrix, order=1, mode="reflect")
    np.testing.assert_allclose(through(x, **values)[0], expected, atol=1e-9)


def test_colours_are_scipys_rotation_and_plain_arithmetic():
    x = image()
    values = {"brightness": 0.1, "contrast": 1.3, "flip": 1.0, "hue": 0.8, "saturation": 0.6}
    draws = Fixed(COLOURS, **values)
    ours = coloured(x, draws)[0].flatten(1).numpy().T
    assert draws.values == []
    v = np.ones(3) / math.sqrt(3)
    pixels = 1.3 * (x[0].flatten(1).numpy().T + 0.1)
    pixels = pixels - 2 * (pixels @ v)[:, None] * v
    pixels = Rotation.from_rotvec(0.8 * v).apply(pixels)
    luma = (pixels @ v)[:, None] * v
    np.testing.assert_allclose(ours, luma + 0.6 * (pixels - luma), atol=1e-12)


def test_grey_images_know_neither_hue_nor_saturation():
    x = image(1)
    values = {"brightness": 0.1, "contrast": 1.3, "flip": 1.0, "hue": 0.8, "saturation": 0.6}
    ours = coloured(x, Fixed(COLOURS, **values))
    torch.testing.assert_close(ours, -1.3 * (x + 0.1))


def test_with_probability_zero_nothing_happens():
    x = image().float().expand(6, -1, -1, -1)
    ours = augment(x, sample_seeds(0, 6, "a"), torch.tensor(0.0))
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-5)


def test_draws_have_the_papers_distributions():
    n, p = 20_000, 0.3
    draws = Draws(sample_seeds(0, n, "draws"), torch.tensor(p), torch.zeros(1).double(), 0)

    def kept(values, neutral=0.0):
        assert abs(float((values != neutral).double().mean()) - p) < 0.015
        return values[values != neutral].numpy()

    draws.choose()
    assert stats.kstest(kept(draws.even(2.0)), "uniform", (-2.0, 4.0)).pvalue > 1e-3
    draws.choose()
    whole = draws.whole(4)
    assert set(whole.tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert abs(float((whole > 0).double().mean()) - 0.75 * p) < 0.015
    draws.choose()
    assert stats.kstest(kept(draws.gaussian(0.5)), stats.norm(0.0, 0.5).cdf).pvalue > 1e-3
    draws.choose()
    factors = np.log(kept(draws.factor(0.2), 1.0))
    assert stats.kstest(factors, stats.norm(0.0, 0.2).cdf).pvalue > 1e-3
    draws.choose(both=True)
    first = draws.even(1.0)
    draws.choose(both=True)
    second = draws.even(1.0)
    assert abs(float(((first != 0) | (second != 0)).double().mean()) - p) < 0.015
    draws.choose()
    one, other = draws.even(1.0), draws.even(1.0)  # two parameters of one transformation
    assert torch.equal(one != 0, other != 0)
    both = torch.stack([one[one != 0], other[one != 0]])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.05


def test_all_transformations_take_place_independently():
    """Both halves ask for no more draws than there are, and no draw is used twice."""
    seeds = sample_seeds(0, 4000, "draws")
    x = image(3, 4, 4).expand(4000, -1, -1, -1)
    draws = Draws(seeds, torch.tensor(0.5), x, 0)
    taken = []
    original = draws._take
    draws._take = lambda values: taken.append(original(values)) or taken[-1]
    coloured(moved(x, draws), draws)
    assert len(taken) == Draws.N
    active = torch.stack([(values != 0).double() for values in taken])
    correlation = torch.corrcoef(active) - torch.eye(Draws.N)
    pairs = {(2, 3), (3, 2), (8, 9), (9, 8)}  # across and down, dx and dy: one choice each
    for i in range(Draws.N):
        for j in range(Draws.N):
            if (i, j) not in pairs:
                assert abs(float(correlation[i, j])) < 0.07, (i, j)


def test_seeds_decide_not_the_batch():
    x = image().expand(8, -1, -1, -1)
    seeds, p = sample_seeds(0, 8, "a"), torch.tensor(0.8)
    whole = augment(x, seeds, p)
    torch.testing.assert_close(whole[5:], augment(x[5:], seeds[5:], p), rtol=0, atol=1e-12)
    assert len({row.numpy().tobytes() for row in whole}) > 6
    assert not torch.allclose(whole, augment(x, seeds, p, stream=2))


def test_gradients_pass_and_are_right():
    x = image(3, 4, 4).repeat(3, 1, 1, 1).requires_grad_()
    seeds = sample_seeds(0, 3, "a")
    assert torch.autograd.gradcheck(lambda x: augment(x, seeds, torch.tensor(0.9)), (x,))


def test_under_autocast_pixels_stay_whole():
    x = image().float().expand(4, -1, -1, -1)
    seeds, p = sample_seeds(0, 4, "a"), torch.tensor(0.7)
    plain = augment(x, seeds, p)
    with torch.autocast("cpu", torch.bfloat16):
        ours = augment(x, seeds, p)
    assert torch.equal(ours, plain)
