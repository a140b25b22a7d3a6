"""StyleGAN2's building blocks against scipy, plain loops and hand counts, in float64."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.signal import correlate, upfirdn
from torch import nn
from torch.nn import functional as F

from mad_lightning.nets.stylegan2 import (
    Blur,
    Convolution,
    Dense,
    Discriminator,
    Mapping,
    Residual,
    StyledConvolution,
    StyleNetwork,
    ToPixels,
    activated,
    minibatch_deviation,
    modulated_convolution,
    upsample,
)
from mad_lightning.samples import SampleSpec

TAPS = np.array([1.0, 3.0, 3.0, 1.0])


def noise(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def filtered(x, taps, up=1, down=1, before=0, after=0, edge=False):
    """scipy's upfirdn along both directions of an image (H, W), on a border of zeros or edges."""
    for axis in (0, 1):
        widths = [(before, after) if side == axis else (0, 0) for side in (0, 1)]
        x = np.pad(x, widths, mode="edge" if edge else "constant")
        x = upfirdn(taps, x, up, down, axis=axis)
    return x


# --- the filter ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 8), (1, 3)])
def test_upsampling_is_zeros_between_pixels_and_the_filter(height, width):
    x = noise(2, 3, height, width)
    ours = upsample(x)
    assert ours.shape == (2, 3, 2 * height, 2 * width)
    for image, doubled in zip(x.flatten(0, 1), ours.flatten(0, 1), strict=True):
        full = filtered(image.numpy(), TAPS / 4, up=2, before=1, after=1, edge=True)
        expected = full[3 : 3 + 2 * height, 3 : 3 + 2 * width]  # past the border's own results
        np.testing.assert_allclose(doubled.numpy(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("side", [5, 8])
@pytest.mark.parametrize(("padding", "stride", "gain"), [(1, 1, 4.0), (2, 1, 1.0), (1, 2, 1.0)])
def test_blur_is_scipys_filter_on_zeros(side, padding, stride, gain):
    x = noise(2, 3, side, side + 2)
    blur = Blur(padding, stride, gain).double()
    for image, ours in zip(x.flatten(0, 1), blur(x).flatten(0, 1), strict=True):
        full = filtered(image.numpy(), TAPS / 8)  # padded by 3 on each side, in effect
        skip = 3 - padding
        expected = gain * full[skip : len(full) - skip, skip : full.shape[1] - skip]
        np.testing.assert_allclose(ours, expected[::stride, ::stride], rtol=0, atol=1e-14)


def test_a_constant_image_stays_constant():
    ones = torch.full((1, 2, 8, 8), 0.7)
    torch.testing.assert_close(upsample(ones), torch.full((1, 2, 16, 16), 0.7))
    torch.testing.assert_close(Blur(1, 2)(ones)[..., 1:-1, 1:-1], ones[..., :2, :2])
    torch.testing.assert_close(Blur(0)(ones), torch.full((1, 2, 5, 5), 0.7))
    stuffed = torch.zeros(1, 2, 17, 17)
    stuffed[..., ::2, ::2] = 0.7  # what a transposed convolution leaves
    ours = Blur(1, gain=4.0)(stuffed)
    torch.testing.assert_close(ours[..., 1:-1, 1:-1], torch.full((1, 2, 14, 14), 0.7))


def test_filter_and_convolution_change_places_when_upsampling():
    """The layer's cheap order against the paper's: upsample, then convolve."""
    x, weight = noise(1, 2, 6, 6), noise(3, 2, 3, 3, seed=1)
    stuffed = np.zeros((2, 11, 11))
    stuffed[:, ::2, ::2] = x[0]
    cheap = Blur(1, gain=4.0).double()(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
    for k in range(3):
        expected = 0.0
        for i in range(2):
            smooth = filtered(stuffed[i], TAPS / 4)[1:-1, 1:-1]
            # a transposed convolution convolves where a convolution correlates
            kernel = weight[k, i].flip(0, 1).numpy()
            expected = expected + correlate(smooth, kernel, mode="same")
        inner = slice(2, -2)  # the borders differ: there the two orders see other zeros
        np.testing.assert_allclose(
            cheap[0, k, inner, inner], expected[inner, inner], rtol=0, atol=1e-12
        )


# --- modulated convolution ----------------------------------------------------------------------


def one_sample(x, weight, style, up):
    """Equations 1 and 3 word for word, for one sample (C, H, W) with kernels (D, C, k, k)."""
    kernels = torch.empty_like(weight)
    for j in range(len(weight)):
        modulated = torch.stack([style[i] * weight[j, i] for i in range(len(style))])
        kernels[j] = modulated / math.sqrt(float((modulated**2).sum()) + 1e-8)
    if up:
        return F.conv_transpose2d(x[None], kernels.transpose(0, 1), stride=2)[0]
    return F.conv2d(x[None], kernels, padding=weight.shape[-1] // 2)[0]


@pytest.mark.parametrize("modulation", ["activations", "weights"])
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize(("size", "sizes"), [(3, (5, 4)), (1, (3, 7))])
def test_modulated_convolution_is_the_papers_loop_over_samples(modulation, up, size, sizes):
    n_in, n_out = sizes
    x, style = noise(4, n_in, 6, 5), 1.0 + noise(4, n_in, seed=1)
    weight = noise(n_out, n_in, size, size, seed=2)
    style = style / style.abs().amax(dim=1, keepdim=True)  # the size at which ε is added
    weight = weight / weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    ours = modulated_convolution(x, weight, style, up, modulation, gain=1.5)
    for n in range(4):
        expected = 1.5 * one_sample(x[n], weight, style[n], up)
        torch.testing.assert_close(ours[n], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("up", [False, True])
def test_both_forms_have_the_same_gradients(up):
    leaves = [noise(3, 4, 5, 5), noise(6, 4, 3, 3, seed=1), 1.0 + noise(3, 4, seed=2)]
    ours = []
    for modulation in ("activations", "weights"):
        x, weight, style = (leaf.clone().requires_grad_() for leaf in leaves)
        out = modulated_convolution(x, weight, style, up, modulation)
        direction = noise(*out.shape, seed=3)
        ours.append(torch.autograd.grad((out * direction).sum(), (x, weight, style)))
    for one, other in zip(*ours, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_gradients_of_the_modulated_convolution_are_right():
    """The divisors without gradient must not show: a numerical derivative includes them."""
    x, weight, style = noise(2, 3, 4, 4), noise(2, 3, 3, 3, seed=1), 1.0 + noise(2, 3, seed=2)
    assert torch.autograd.gradcheck(
        modulated_convolution, [leaf.requires_grad_() for leaf in (x, weight, style)]
    )


def test_demodulation_gives_unit_variance_and_forgets_the_size_of_the_style():
    x, weight = noise(64, 32, 8, 8), 5.0 * noise(16, 32, 3, 3, seed=1)
    style = 1.0 + 0.5 * noise(64, 32, seed=2)
    out = modulated_convolution(x, weight, style)[..., 1:-1, 1:-1]
    assert abs(float(out.var()) - 1.0) < 0.05
    torch.testing.assert_close(out, modulated_convolution(x, weight, 1e4 * style)[..., 1:-1, 1:-1])


def test_float16_does_not_overflow_where_the_plain_product_would():
    x, style = 50.0 * torch.ones(1, 512, 4, 4), torch.full((1, 512), 3e3)
    weight = torch.full((8, 512, 3, 3), 2.0)
    with torch.autocast("cpu", torch.float16):
        out = modulated_convolution(x.half(), weight, style)
    assert out.dtype == torch.float16
    assert torch.isfinite(out).all()
    exact = modulated_convolution(x.double(), weight.double(), style.double())
    torch.testing.assert_close(out.double(), exact, rtol=1e-2, atol=0)


def test_float16_activations_are_kept_far_from_infinity():
    x = torch.tensor([-6e4, -300.0, 1.0, 300.0, 6e4])
    halves = activated(x.half())
    assert halves.tolist() == pytest.approx([-256.0, -60.0, 1.0, 256.0, 256.0], rel=1e-3)
    assert activated(x).tolist() == pytest.approx([-1.2e4, -60.0, 1.0, 300.0, 6e4])


def test_pixels_are_a_modulated_but_not_demodulated_sum():
    to_pixels = ToPixels(5, 3, dim=6).double()
    nn.init.normal_(to_pixels.bias)
    x, w = noise(2, 5, 4, 4), noise(2, 6, seed=1)
    style = (w @ to_pixels.affine.weight.T / math.sqrt(6) + to_pixels.affine.bias) / math.sqrt(5)
    for n in range(2):
        plain = (to_pixels.weight * style[n])[..., None, None]
        expected = F.conv2d(x[n : n + 1], plain) + to_pixels.bias[:, None, None]
        torch.testing.assert_close(to_pixels(x, w)[n : n + 1], expected, rtol=0, atol=1e-12)


def test_noise_enters_before_the_leaky_relu_with_a_learned_strength():
    layer = StyledConvolution(3, 4, dim=5, up=False, modulation="activations").double()
    x, w, given = noise(2, 3, 4, 4), noise(2, 5, seed=1), noise(2, 1, 4, 4, seed=2)
    torch.testing.assert_close(layer(x, w, given), layer(x, w, torch.zeros_like(given)))
    nn.init.constant_(layer.noise_strength, 0.3)
    nn.init.normal_(layer.bias)
    plain = modulated_convolution(x, layer.weight, layer.affine(w))
    sums = plain + 0.3 * given + layer.bias[:, None, None]
    expected = math.sqrt(2) * F.leaky_relu(sums, 0.2)
    torch.testing.assert_close(layer(x, w, given), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_layers_that_change_the_side_keep_a_constant():
    """Through kernels that copy, so that what remains is the filter."""
    x, w = torch.full((1, 2, 8, 8), 0.7).double(), torch.zeros(1, 5).double()
    copy = torch.zeros(2, 2, 3, 3).double()
    copy[0, 0, 1, 1] = copy[1, 1, 1, 1] = 1.0
    up = StyledConvolution(2, 2, dim=5, up=True, modulation="activations").double()
    up.weight.copy_(copy)  # of norm 1, the style is 1 + 0: nothing to demodulate
    ours = up(x, w, torch.zeros(1, 1, 16, 16).double())
    expected = torch.full((1, 2, 16, 16), 0.7 * math.sqrt(2)).double()
    torch.testing.assert_close(ours[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    block = Residual(2, 2).double()
    for layer in (block.first, block.second):
        layer.weight.copy_(copy * math.sqrt(18))  # undoes the scale 1 / sqrt(2 x 9)
    block.skip.weight.copy_(copy[..., 1:2, 1:2] * math.sqrt(2))
    through = 0.7 * math.sqrt(2) * math.sqrt(2) * math.sqrt(0.5)  # two gains, one share
    expected = torch.full((1, 2, 4, 4), through + 0.7 * math.sqrt(0.5)).double()
    torch.testing.assert_close(block(x)[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


@torch.no_grad()
def test_every_layer_has_a_style_of_its_own():
    torch.manual_seed(0)
    net = StyleNetwork(SampleSpec((3, 16, 16)), 8, 2, 128, 8).double()
    synthesis = net.synthesis
    styles, given = noise(1, synthesis.n_styles, 8), noise(1, synthesis.n_noise, seed=1)
    heard = []
    layers = [(layer, "convolution") for layer in synthesis.convolutions]
    layers += [(layer, "pixels") for layer in synthesis.to_pixels]
    for layer, kind in layers:
        layer.register_forward_pre_hook(
            lambda _, arguments, kind=kind: heard.append((kind, arguments[1][0]))
        )
    synthesis(styles, given)
    places = [
        (kind, next(i for i in range(synthesis.n_styles) if torch.equal(w, styles[0, i])))
        for kind, w in heard
    ]
    assert places == [
        ("convolution", 0), ("pixels", 1),
        ("convolution", 1), ("convolution", 2), ("pixels", 3),
        ("convolution", 3), ("convolution", 4), ("pixels", 5),
    ]  # fmt: skip


# --- equalised learning rate --------------------------------------------------------------------


@torch.no_grad()
def test_layers_keep_the_second_moment():
    """Of standard normal inputs: a leaky ReLU of slope 0.2 leaves 0.52 of it, the gain is 2."""
    x = noise(256, 64, 8, 8).float()
    torch.manual_seed(0)
    plain = Convolution(64, 64, 3)(x)[..., 1:-1, 1:-1]
    assert float(plain.square().mean()) == pytest.approx(1.04, rel=0.05)
    without = Convolution(64, 64, 1, bias=False)(x)
    assert float(without.square().mean()) == pytest.approx(1.0, rel=0.05)
    w = Mapping(64, 8, None)(x[:, :, 0, 0], None)
    assert 0.5 < float(w.square().mean()) < 3.0


def test_a_learning_rate_multiplier_slows_without_changing_the_first_output():
    torch.manual_seed(0)
    fast = Dense(5, 3, bias=1.0)
    torch.manual_seed(0)
    slow = Dense(5, 3, bias=1.0, lr_multiplier=0.01)
    x = torch.randn(7, 5)
    torch.testing.assert_close(fast(x), slow(x))
    moved = []
    for layer in (fast, slow):
        before = layer(x)
        optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
        before.sum().backward()
        optimizer.step()
        moved.append(float((layer(x) - before).detach().abs().mean()))
    assert moved[1] == pytest.approx(0.01 * moved[0], rel=1e-3)


def test_the_mapping_network_sees_the_direction_of_z_and_the_class():
    torch.manual_seed(0)
    mapping = Mapping(8, 2, classes=3).double()
    z = noise(4, 8)
    labels = torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(mapping(z, labels), mapping(7.0 * z, labels))
    assert not torch.allclose(mapping(z, labels)[0], mapping(z, torch.ones_like(labels))[0])


# --- whole networks -----------------------------------------------------------------------------


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def by_hand(channels, n_pixels=3, dim=512):
    """Parameters of the generator, from its description, level by level."""
    layers = [(channels[0], channels[0])]
    for n_in, n_out in pairwise(channels):
        layers += [(n_in, n_out), (n_out, n_out)]
    mapping = 8 * (dim * dim + dim)
    constant = channels[0] * 16
    kernels = sum(9 * n_in * n_out for n_in, n_out in layers)
    styles = sum((dim + 1) * n_in for n_in, _ in layers)
    biases = sum(n_out for _, n_out in layers)
    pixels = sum((dim + 1) * n + n_pixels * n + n_pixels for n in channels)
    return mapping + constant + kernels + styles + biases + len(layers) + pixels


def test_the_generator_has_the_published_size():
    """30.0 M at 1024 px (Karras et al., 2020a, table 1, F), to the parameter by hand."""
    with torch.device("meta"):
        full = StyleNetwork(SampleSpec((3, 1024, 1024)))
        small = StyleNetwork(SampleSpec((3, 128, 128)), channel_base=16384)
    assert by_hand([512] * 5 + [256, 128, 64, 32]) == 30_370_060
    assert count(full) == 30_370_060
    assert count(small) == by_hand([512] * 4 + [256, 128]) == 24_525_213


@pytest.mark.parametrize(
    ("shape", "enclosing"),
    [((1, 7, 7), 8), ((3, 8, 8), 8), ((1, 28, 28), 32), ((3, 12, 20), 32), ((1, 2, 1), 8)],
)
@pytest.mark.parametrize("classes", [None, 3])
def test_images_of_any_side(shape, enclosing, classes):
    torch.manual_seed(0)
    spec = SampleSpec(shape, classes)
    net = StyleNetwork(spec, dim=8, mapping_layers=2, channel_base=64, channel_max=8)
    discriminator = Discriminator(spec, channel_base=64, channel_max=8)
    assert net.synthesis.resolution == enclosing
    labels = None if classes is None else torch.tensor([0, 1, 2, 0])
    images = net(torch.randn(4, 8), labels, torch.randn(4, net.synthesis.n_noise))
    assert images.shape == (4, *shape)
    assert discriminator(images, labels).shape == (4,)


def test_samples_of_a_batch_do_not_meet_in_the_generator():
    torch.manual_seed(0)
    net = StyleNetwork(SampleSpec((3, 16, 16)), 8, 2, 128, 8).double()
    z, given = noise(6, 8), noise(6, net.synthesis.n_noise, seed=1)
    whole = net(z, None, given)
    torch.testing.assert_close(whole[2:3], net(z[2:3], None, given[2:3]), rtol=0, atol=1e-12)


@torch.no_grad()
def test_skips_add_the_pixels_of_every_level():
    """With all but one level's pixels silenced, what remains is that level's, upsampled."""
    torch.manual_seed(0)
    net = StyleNetwork(SampleSpec((3, 16, 16)), 8, 2, 128, 8).double()
    w, given = noise(2, 8)[:, None].expand(-1, 6, -1), noise(2, net.synthesis.n_noise)
    whole = net.synthesis(w, given)
    parts = []
    for level in range(3):
        kept = [layer.weight.data.clone() for layer in net.synthesis.to_pixels]
        for other, layer in enumerate(net.synthesis.to_pixels):
            if other != level:
                layer.weight.data.zero_()
        parts.append(net.synthesis(w, given))
        for layer, weight in zip(net.synthesis.to_pixels, kept, strict=True):
            layer.weight.data.copy_(weight)
    torch.testing.assert_close(whole, sum(parts), rtol=0, atol=1e-12)
    ranks = [int(torch.linalg.matrix_rank(part[0, 0], rtol=1e-9)) for part in parts]
    assert ranks == [4, 8, 16]  # an upsampled picture has no more independent rows than before


# --- the discriminator --------------------------------------------------------------------------


def test_minibatch_deviation_is_that_of_consecutive_fours():
    x = noise(8, 3, 4, 4)
    out = minibatch_deviation(x)
    torch.testing.assert_close(out[:, :3], x)
    for first in (0, 4):
        deviation = np.std(x[first : first + 4].numpy(), axis=0).mean()
        np.testing.assert_allclose(out[first : first + 4, 3], deviation, rtol=1e-6)


def test_minibatch_deviation_does_not_depend_on_how_a_batch_is_shared_out():
    x = noise(8, 3, 4, 4)
    halves = torch.cat([minibatch_deviation(x[:4]), minibatch_deviation(x[4:])])
    assert torch.equal(minibatch_deviation(x), halves)
    for n, group in ((6, 3), (10, 2), (2, 2)):
        deviations = minibatch_deviation(noise(n, 3, 4, 4))[:, 3, 0, 0]
        assert len(deviations.unique()) == n // group
    assert minibatch_deviation(noise(7, 3, 4, 4))[:, 3].max() < 1e-3  # nobody to compare with


def test_minibatch_deviation_of_equal_samples_has_a_finite_slope():
    x = torch.zeros(4, 2, 4, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(minibatch_deviation(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert torch.isfinite(x.grad).all()


def test_the_discriminator_sees_the_class_as_a_projection():
    torch.manual_seed(0)
    net = Discriminator(SampleSpec((1, 8, 8), 3), 64, 8).double()
    x = noise(4, 1, 8, 8)
    labels = torch.tensor([0, 1, 2, 0])
    scores, net.classes.data = net(x, labels), 2.0 * net.classes.data
    doubled, net.classes.data = net(x, labels), 0.0 * net.classes.data
    without = net(x, labels)
    torch.testing.assert_close(doubled - scores, scores - without, rtol=0, atol=1e-12)
    assert (scores - without).abs().min() > 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_change_little_and_leave_scores_and_pixels_whole(dtype):
    torch.manual_seed(0)
    spec = SampleSpec((3, 16, 16), 3)
    net = StyleNetwork(spec, 32, 4, 512, 32)
    discriminator = Discriminator(spec, 512, 32)
    z, labels = torch.randn(8, 32), torch.arange(8) % 3
    given = torch.randn(8, net.synthesis.n_noise)
    exact = net(z, labels, given)
    scores = discriminator(exact, labels)
    with torch.autocast("cpu", dtype):
        images = net(z, labels, given)
        ours = discriminator(images, labels)
    assert images.dtype == ours.dtype == torch.float32
    assert (images - exact).abs().max() < 0.05 * exact.abs().max()
    assert (ours - scores).abs().max() < 0.1 * scores.abs().max()
