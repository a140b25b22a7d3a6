"""Negative guidance against closed forms: scores of Gaussians, and weights by hand."""

import math

import pytest
import torch
from torch import nn

from mad_lightning.generators import WGAN, Diffusion, External, Gaussian, Glow, Mixture, StyleGAN2
from mad_lightning.generators.diffusion import truncated
from mad_lightning.generators.guidance import AUTO, SIMS, Autoguidance, Neon
from mad_lightning.nets.pairs import ConvPair
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec
from mad_lightning.seeds import normal, reseed, sample_seeds

SPEC = SampleSpec((1, 4, 4), 3)
BETAS = "squaredcos_cap_v2"


class ExactGaussian(nn.Module):
    """What an exact network predicts of pixels from N(mean, variance), whatever the class."""

    def __init__(self, mean, variance, prediction, alphas_cumprod):
        super().__init__()
        self.mean, self.variance = nn.Parameter(torch.tensor(mean)), variance
        self.prediction, self.alphas_cumprod = prediction, alphas_cumprod

    def forward(self, x, t, labels):
        alpha_bar = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        a, s = alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()
        noise = s * (x - a * self.mean) / (a**2 * self.variance + s**2)
        return noise if self.prediction == "epsilon" else (noise - s * x) / a


def alphas(timesteps=1000):
    steps = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    bars = torch.cos((steps + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1.0 - bars[1:] / bars[:-1]).clamp(max=0.999)
    return (1.0 - betas).cumprod(0).float()


def exact(mean, variance, prediction="epsilon", **options):
    def network(spec):
        return ExactGaussian(mean, variance, prediction, alphas())

    options = {"sampler": "unipc", "sampling_steps": 20, "clip": False} | options
    made = Diffusion(network=network, beta_schedule=BETAS, prediction=prediction, **options)
    return made.build(SPEC)


@pytest.mark.parametrize("prediction", ["epsilon", "velocity"])
@pytest.mark.parametrize("t", [10, 500, 900])
def test_scores_of_two_gaussians_are_extrapolated_as_their_precisions_are(prediction, t):
    """(1+w) grad log N(m1, V1) - w grad log N(m2, V2) is the score of the Gaussian whose precision
    and precision times mean are extrapolated; here V is the variance at time t."""
    (m1, v1), (m2, v2), w = (0.2, 0.3), (-0.1, 0.5), 0.75
    generator = exact(m1, v1, prediction)
    SIMS(weight=w).apply(generator, exact(m2, v2, prediction), w)
    a2 = float(alphas()[t])
    a, s2 = math.sqrt(a2), 1.0 - a2
    precision = (1 + w) / (a2 * v1 + s2) - w / (a2 * v2 + s2)
    mean = ((1 + w) * a * m1 / (a2 * v1 + s2) - w * a * m2 / (a2 * v2 + s2)) / precision
    x = torch.linspace(-2.0, 2.0, 32).view(2, 1, 4, 4)
    score = -(x - mean) * precision
    with torch.no_grad():
        noise = generator.noise_estimate(x, t, torch.tensor([0, 2]), 1.0)
    torch.testing.assert_close(noise, -math.sqrt(s2) * score, rtol=1e-3, atol=1e-4)


def test_samples_of_two_gaussians_of_one_width_come_from_the_extrapolated_mean():
    """Then the extrapolated score is at each time that of N((1+w) m1 - w m2, v), exactly."""
    generator, seeds = exact(0.3, 0.04), sample_seeds(0, 500, 0, "x")
    Autoguidance(weight=2.0).apply(generator, exact(0.1, 0.04), 2.0)
    with torch.no_grad():
        drawn = generator.draw(seeds, 1.0, torch.zeros(500, dtype=torch.int64))
        plain = exact(0.7, 0.04).draw(seeds, 1.0, torch.zeros(500, dtype=torch.int64))
    torch.testing.assert_close(drawn, plain, rtol=1e-3, atol=1e-3)
    assert float(drawn.mean()) == pytest.approx(3 * 0.3 - 2 * 0.1, abs=0.02)


def test_class_guidance_and_negative_guidance_commute():
    """Both are linear: with networks that ignore the class, guidance by class changes nothing."""
    generator = exact(0.3, 0.04)
    SIMS().apply(generator, exact(0.1, 0.09), 0.5)
    x, labels = torch.linspace(-2.0, 2.0, 32).view(2, 1, 4, 4), torch.tensor([0, 2])
    with torch.no_grad():
        estimates = [generator.noise_estimate(x, 300, labels, bias) for bias in (1.0, 0.5)]
    torch.testing.assert_close(*estimates)


def glow():
    return Glow(levels=1, couplings=2, hidden=8)


def wgan():
    return WGAN(networks=lambda spec: ConvPair(spec, width=8, dim=8), ema_decay=0.5)


def stylegan():
    return StyleGAN2(dim=8, mapping_layers=1, channel_base=32, channel_max=8)


def diffusion():
    def network(spec):
        return ExactGaussian(0.3, 0.04, "epsilon", alphas())

    return Diffusion(network=network, beta_schedule=BETAS, sampling_steps=4)


FAMILIES = {"diffusion": diffusion, "glow": glow, "wgan": wgan, "stylegan": stylegan}


def pair(family):
    """A generator and an auxiliary with other weights, both able to draw."""
    both = []
    for seed in (0, 1):
        reseed(seed, "init")
        both.append(FAMILIES[family]().build(SPEC))
        both[-1].initialise(
            Samples(torch.randint(0, 256, (16, 1, 4, 4)).byte(), torch.arange(16) % 3)
        )
        both[-1].settle()
    with torch.no_grad():
        for parameter in both[1].parameters():
            parameter.add_(0.01)
    return both


def drawn(generator):
    return generator.sample(sample_seeds(0, 6, 0, "x"), 1.0, torch.arange(6) % 3).values


@pytest.mark.parametrize("family", FAMILIES)
def test_neon_by_hand(family):
    generator, auxiliary = pair(family)
    first = {name: value.clone() for name, value in generator.named_parameters()}
    Neon().apply(generator, auxiliary, 0.5)
    others = dict(auxiliary.named_parameters())
    for name, value in generator.named_parameters():
        expected = 1.5 * first[name].double() - 0.5 * others[name].double()
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    assert any((first[name] != value).any() for name, value in generator.named_parameters())
    assert drawn(generator).shape == (6, 1, 4, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_weight_of_0_changes_no_bit(family):
    for improvement in [Neon(weight=0.0)] + ([SIMS(weight=0)] if family == "diffusion" else []):
        generator, auxiliary = pair(family)
        before = drawn(generator)
        improvement.apply(generator, auxiliary, 0.0)
        assert torch.equal(drawn(generator), before)
        assert generator.network_calls(1.0) == pair(family)[0].network_calls(1.0)


def test_neon_finds_the_mean_of_w_of_the_merged_network():
    generator, auxiliary = pair("stylegan")
    Neon().apply(generator, auxiliary, 0.5)
    kept = generator.w_mean.clone()
    generator.find_w_mean()
    assert torch.equal(kept, generator.w_mean)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_auxiliary_starts_from_the_weights_that_are_drawn_with(family):
    generator, _ = pair(family)
    with torch.no_grad():
        for parameter in generator.ema.parameters():
            parameter.add_(0.1)
    SIMS(lr=1e-5).prepare(generator)
    net = generator.net.generator if family == "wgan" else generator.net
    averaged = generator.ema.net.state_dict()
    assert all(torch.equal(value, averaged[name]) for name, value in net.state_dict().items())
    assert int(generator.ema.updates) == 0
    assert generator.lr == 1e-5


def test_how_often_networks_are_asked():
    generator = exact(0.3, 0.04, sampling_steps=7)
    assert [generator.network_calls(bias) for bias in (1.0, 0.5)] == [7, 14]
    SIMS().apply(generator, exact(0.1, 0.04), 0.5)
    assert [generator.network_calls(bias) for bias in (1.0, 0.5)] == [14, 28]
    assert glow().network_calls(1.0) == 1


# what is refused


@pytest.mark.parametrize("improvement", [SIMS(), Neon(), Autoguidance()])
@pytest.mark.parametrize(
    "family",
    [
        Gaussian(),
        Mixture(components=2),
        External(train="a {data} {out}", draw="b {out} {samples} {seeds} {n}"),
    ],
)
def test_a_family_without_gradients_is_refused(improvement, family):
    with pytest.raises(Refused, match="along gradients"):
        improvement.check(family)


def test_a_family_without_a_score_is_refused_and_may_take_neon():
    for improvement in (SIMS(), Autoguidance()):
        with pytest.raises(Refused, match="without one"):
            improvement.check(glow())
    Neon().check(glow())
    with pytest.raises(Refused, match="draws without a score"):
        glow().build(SPEC).guide(glow().build(SPEC), 0.5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight", math.nan),
        ("weight", math.inf),
        ("weight", -0.5),
        ("weight", 1e9),
        ("weight", True),
        ("weight", "0.5"),
        ("weight", None),
        ("weight", []),
        ("weight", [0.5, math.nan]),
        ("weight", [0.5, 0.5]),
        ("weight", [0.5, "auto"]),
        ("images", 0),
        ("images", -3),
        ("images", 2.5),
        ("images", True),
        ("images", "many"),
        ("images", None),
        ("images", 10**12),
        ("samples", 1),
        ("samples", math.nan),
        ("lr", 0.0),
        ("lr", -1.0),
        ("lr", math.nan),
        ("lr", True),
        ("validation", 1),
    ],
)
@pytest.mark.parametrize("improvement", [SIMS, Neon, Autoguidance])
def test_what_is_no_such_number_is_refused(improvement, field, value):
    if improvement is Autoguidance and field == "samples":
        return
    with pytest.raises(Refused) as refused:
        improvement(**{field: value})
    assert refused.value.field == field


def test_weights_to_choose_from():
    assert SIMS(weight=1).weights == (1.0,)
    assert SIMS(weight=[0.5, 2]).weights == (0.5, 2.0)
    assert Neon(weight="auto").weights == AUTO


# the first noise, cut


@pytest.mark.parametrize("within", [0.5, 1.0, 2.0])
def test_cut_noise_has_the_law_of_a_truncated_normal(within):
    z = normal(sample_seeds(0, 20_000, 0, "x"), 5).flatten()
    cut = truncated(z, within)
    assert float(cut.abs().max()) <= within
    phi = math.exp(-(within**2) / 2) / math.sqrt(2 * math.pi)
    variance = 1 - 2 * within * phi / math.erf(within / math.sqrt(2))
    assert float(cut.var()) == pytest.approx(variance, rel=0.02)
    assert float(cut.mean()) == pytest.approx(0.0, abs=0.01)
    assert bool((cut.sort().indices == z.sort().indices).float().mean() > 0.99)  # order is kept


def test_cut_noise_is_what_samples_start_from():
    seeds, labels = sample_seeds(0, 50, 0, "x"), torch.zeros(50, dtype=torch.int64)
    with torch.no_grad():
        wide = exact(0.0, 0.04).draw(seeds, 1.0, labels)
        narrow = exact(0.0, 0.04, first_noise_within=1.0).draw(seeds, 1.0, labels)
    first = truncated(normal(seeds, *SPEC.shape), 1.0)
    assert float(narrow.std() / wide.std()) == pytest.approx(float(first.std()), abs=0.05)
    assert exact(0.0, 0.04, first_noise_within=1.0).sampler()["first_noise_within"] == 1.0
    assert "first_noise_within" not in exact(0.0, 0.04).sampler()
    with pytest.raises(Refused, match="first_noise_within"):
        exact(0.0, 0.04, first_noise_within=0.0)
