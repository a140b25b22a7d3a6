"""Pairs of networks: any side, any channels, classes that matter, samples that are alone."""

import pytest
import torch

from mad_lightning.generators import WGAN
from mad_lightning.nets.pairs import ConvPair, DensePair
from mad_lightning.refusal import Refused
from mad_lightning.samples import SampleSpec
from mad_lightning.seeds import reseed

SHAPES = [
    (1, 8, 8),
    (3, 7, 7),
    (1, 28, 28),
    (3, 32, 32),
    (3, 64, 64),
    (1, 5, 12),
    (1, 4, 4),
    (1, 1, 3),
]


def make(kind, spec, **options):
    reseed(0, "init")
    return kind(spec, width=4, dim=6, **options)


@pytest.mark.parametrize("kind", [ConvPair, DensePair])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("classes", [None, 3])
def test_images_of_any_shape_are_made_and_judged(kind, shape, classes):
    pair = make(kind, SampleSpec(shape, classes))
    labels = None if classes is None else torch.tensor([0, 1, 2, 0, 1])
    x = pair.generator(100.0 * torch.randn(5, 6), labels)
    assert x.shape == (5, *shape)
    assert x.abs().max() <= 1.0
    scores = pair.critic(x, labels)
    assert scores.shape == (5,)
    for network, out in ((pair.generator, x), (pair.critic, scores)):
        gradients = torch.autograd.grad(out.sum(), list(network.parameters()), retain_graph=True)
        assert all(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("kind", [ConvPair, DensePair])
def test_the_class_matters_to_both_and_neighbours_to_none(kind):
    spec = SampleSpec((2, 9, 9), 3)
    pair = make(kind, spec).double()
    z, x = torch.randn(4, 6).double(), torch.randn(4, *spec.shape).double()
    for network, given in ((pair.generator, z), (pair.critic, x)):
        out = network(given, torch.tensor([0, 1, 2, 2]))
        assert not torch.allclose(out, network(given, torch.tensor([1, 1, 0, 2])))
        alone = torch.cat(
            [network(given[i : i + 1], torch.tensor([c])) for i, c in enumerate([0, 1, 2, 2])]
        )
        torch.testing.assert_close(out, alone, rtol=1e-12, atol=1e-12)


def test_every_pixel_is_made_and_seen_at_every_odd_side():
    """Cropping and striding leave none out."""
    pair = make(ConvPair, SampleSpec((1, 11, 6)))
    x = torch.randn(1, 1, 11, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(pair.critic(x, None).sum(), x)
    assert (gradient != 0).all()
    first, second = pair.generator(torch.randn(2, 6), None)
    assert (first != second).all()


def test_on_mnist_the_defaults_have_the_published_size():
    """By hand: 5 x 5 kernels between 1, 64, 128 and 256 channels, 4 x 4 at the coarse end."""
    pair = ConvPair(SampleSpec((1, 28, 28)))
    kernels = 25 * (1 * 64 + 64 * 128 + 128 * 256)
    flat = 256 * 4 * 4
    expected = {
        "generator": (128 + 1) * flat + kernels + 128 + 64 + 1,
        "critic": kernels + 64 + 128 + 256 + flat,  # no bias: scores mean only differences
    }
    for name, network in (("generator", pair.generator), ("critic", pair.critic)):
        assert sum(p.numel() for p in network.parameters()) == expected[name]


def test_perceptrons_take_vectors_and_do_not_bound_them():
    pair = make(DensePair, SampleSpec((2,), None), depth=3)
    x = pair.generator(1000.0 * torch.randn(50, 6), None)
    assert x.shape == (50, 2)
    assert x.abs().max() > 1.0
    assert pair.critic(x, None).shape == (50,)
    assert len(pair.generator.rest) == 2


def test_a_perceptron_is_its_formula():
    pair = make(DensePair, SampleSpec((3,), 2), depth=1)
    w, b = pair.critic.first.layer.weight, pair.critic.first.layer.bias
    x = torch.randn(5, 3)
    hidden = x @ w.T + b + pair.critic.first.shift.weight[1]
    expected = torch.where(hidden > 0, hidden, 0.2 * hidden) @ pair.critic.last.weight.T
    ours = pair.critic(x, torch.ones(5, dtype=torch.int64))
    torch.testing.assert_close(ours, expected[:, 0])


@pytest.mark.parametrize(
    ("kind", "options", "field"),
    [
        (ConvPair, {"dim": 0}, "dim"),
        (ConvPair, {"width": 0}, "width"),
        (DensePair, {"dim": -1}, "dim"),
        (DensePair, {"depth": 0}, "depth"),
    ],
)
def test_bad_sizes_are_refused(kind, options, field):
    with pytest.raises(Refused) as caught:
        kind(SampleSpec((1, 8, 8)), **options)
    assert caught.value.field == field


def test_convolutions_refuse_vectors():
    with pytest.raises(Refused, match="DensePair"):
        ConvPair(SampleSpec((2,)))


def test_the_family_says_which_of_its_networks_refuses():
    for spec, networks, field in (
        (SampleSpec((1, 8, 8)), lambda spec: DensePair(spec, depth=0), "networks.depth"),
        (SampleSpec((2,)), ConvPair, "networks"),
    ):
        with pytest.raises(Refused) as caught:
            WGAN(networks=networks).build(spec)
        assert caught.value.field == field
