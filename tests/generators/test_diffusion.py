"""Diffusion against diffusers' own scheduler, and λ as guidance."""

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from mad_lightning.generators import Diffusion
from mad_lightning.nets.ema import EMA
from mad_lightning.nets.unet import UNet
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec
from mad_lightning.seeds import normal, reseed, sample_seeds

SPEC = SampleSpec((1, 4, 4), 3)


class Fixed(nn.Module):
    """A network whose output is known: a * x + b * (class + 1) + c * t."""

    def __init__(self, spec):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, 0.2, 1e-4]))
        self.seen = []

    def forward(self, x, t, labels):
        self.seen.append(None if labels is None else labels.clone())
        a, b, c = self.weight
        shift = 0.0 if labels is None else b * (labels + 1.0).view(-1, 1, 1, 1)
        return a * x + shift + c * t.view(-1, 1, 1, 1)


def build(spec=SPEC, **options):
    return Diffusion(network=Fixed, **options).build(spec)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [None, 10])
def test_ancestral_sampling_equals_diffusers_step_for_step(monkeypatch, clip, steps):
    """The reference draws its noise in bulk; it is handed ours, step by step."""
    generator = build(timesteps=40, sampler="ddpm", sampling_steps=steps, clip=clip)
    seeds, labels = sample_seeds(0, 6, 0, "x"), torch.tensor([0, 1, 2, 0, 1, 2])
    reference = DDPMScheduler(40, clip_sample=clip, timestep_spacing="linspace")
    reference.set_timesteps(steps or 40)
    x = normal(seeds, *SPEC.shape)
    place = iter(range(1, 100))
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor",
        lambda *_, **__: normal(seeds, *SPEC.shape, stream=next(place)),
    )
    with torch.no_grad():
        for t in reference.timesteps:
            estimate = generator.ema.net(x, torch.full((6,), int(t)), labels)
            x = reference.step(estimate, t, x).prev_sample
        ours = generator.draw(seeds, 1.0, labels)
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def test_lambda_is_the_reciprocal_guidance_scale():
    """epsilon = e0 + s (ec - e0), s = 1/λ: the class shift is scaled by s, nothing else is."""
    generator = build(timesteps=1000, sampler="ddpm", sampling_steps=1, clip=False)
    seeds, labels = sample_seeds(0, 3, 0, "x"), torch.tensor([0, 1, 2])
    alpha_bar = generator.alphas_cumprod[999]
    with torch.no_grad():
        plain, guided = (generator.draw(seeds, bias, labels) for bias in (1.0, 0.5))
    nothing = 0.2 * (3 + 1.0)  # index 3 is "no class"
    shift = (0.2 * (labels + 1.0)).view(-1, 1, 1, 1)
    expected = -((nothing + 2.0 * (shift - nothing)) - shift)
    factor = (1.0 - alpha_bar).sqrt() / alpha_bar.sqrt()
    torch.testing.assert_close(
        (guided - plain) / factor, expected.expand_as(plain), rtol=1e-3, atol=1e-3
    )


def test_what_guides_is_asked_for_at_every_step_and_can_be_replaced():
    """As guidance by another network would: half of the noise, which halves nothing else."""
    seeds, labels, asked = sample_seeds(0, 3, 0, "x"), torch.tensor([0, 1, 2]), []

    class Halved(Diffusion):
        def noise_estimate(self, x, t, labels, sampling_bias):
            asked.append((t, labels.tolist(), sampling_bias))
            return 0.5 * super().noise_estimate(x, t, labels, sampling_bias)

    options = {"timesteps": 1000, "sampler": "ddpm", "sampling_steps": 1, "clip": False}
    plain, halved = (family(Fixed, **options).build(SPEC) for family in (Diffusion, Halved))
    with torch.no_grad():
        noise = plain.noise_estimate(normal(seeds, *SPEC.shape), 999, labels, 0.5)
        step = halved.draw(seeds, 0.5, labels) - plain.draw(seeds, 0.5, labels)
    alpha_bar = plain.alphas_cumprod[999]
    factor = (1.0 - alpha_bar).sqrt() / alpha_bar.sqrt()
    torch.testing.assert_close(step, 0.5 * factor * noise, rtol=1e-3, atol=1e-2)
    assert asked == [(999, [0, 1, 2], 0.5)]


def test_unbiased_sampling_asks_for_the_class_only():
    generator = build(sampling_steps=2)
    generator.draw(sample_seeds(0, 2, 0, "x"), 1.0, torch.tensor([1, 2]))
    assert all(seen.tolist() == [1, 2] for seen in generator.ema.net.seen)


def test_velocity_and_noise_are_two_names_of_one_network_output():
    """With v given by the exact noise, the sampler must recover that noise's x_0."""
    seeds, labels = sample_seeds(0, 4, 0, "x"), torch.tensor([0, 1, 2, 0])

    class Oracle(Fixed):
        kind = "epsilon"

        def forward(self, x, t, labels):
            alpha_bar = DDPMScheduler(50).alphas_cumprod[t].view(-1, 1, 1, 1)
            x_0 = 0.25 * torch.ones_like(x)
            noise = (x - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt()
            velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x_0
            return noise if self.kind == "epsilon" else velocity

    for kind in ("epsilon", "velocity"):
        for sampler in ("ddpm", "dpm_solver", "sde_dpm_solver", "unipc"):
            Oracle.kind = kind
            generator = Diffusion(
                Oracle, 50, prediction=kind, sampler=sampler, sampling_steps=10, clip=False
            )
            generator.build(SPEC)
            out = generator.draw(seeds, 1.0, labels)
            torch.testing.assert_close(out, torch.full_like(out, 0.25), rtol=0, atol=2e-3)


def test_a_tenth_of_the_classes_is_dropped():
    generator = build(condition_drop=0.1)
    reseed(0, "step")
    n = 4000
    generator.training_step(Samples(torch.zeros(n, 1, 4, 4).byte(), torch.zeros(n).long()), 0)
    seen = generator.net.seen[0]
    assert set(seen.tolist()) == {0, 3}
    assert (seen == 3).float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_the_loss_is_that_of_the_noise():
    """With a network that answers 0 the loss is the noise's variance, 1."""
    generator = build()
    with torch.no_grad():
        generator.net.weight.zero_()
    reseed(0, "step")
    batch = Samples(torch.full((512, 1, 4, 4), 128).byte(), torch.zeros(512).long())
    assert float(generator.training_step(batch, 0).detach()) == pytest.approx(1.0, abs=0.05)


def test_the_curve_is_the_mean_loss_of_each_epoch(fit):
    generator, losses = build(), []
    step = generator.training_step
    generator.training_step = lambda *batch: losses.append(step(*batch)) or losses[-1]
    batches = [Samples(torch.full((4, 1, 4, 4), i).byte(), torch.arange(4) % 3) for i in range(5)]
    curve = fit(generator, batches, 2).callback_metrics
    assert len(losses) == 10
    assert set(curve) == {"loss"}
    assert curve["loss"].item() == pytest.approx(sum(map(float, losses[5:])) / 5, rel=1e-6)


def test_samples_come_from_the_averaged_weights():
    generator = build(sampling_steps=2)
    seeds, labels = sample_seeds(0, 2, 0, "x"), torch.tensor([1, 2])
    before = generator.sample(seeds, 1.0, labels).values
    with torch.no_grad():
        generator.net.weight.fill_(5.0)
    assert torch.equal(generator.sample(seeds, 1.0, labels).values, before)
    assert generator.sampler()["weights"].startswith("ema")


def test_what_decides_numbers_is_recorded():
    told = build(timesteps=500, prediction="velocity", sampling_steps=7, clip=False).sampler()
    assert told["sampler"] == "sde_dpm_solver"
    assert (told["steps"], told["timesteps"], told["clip"]) == (7, 500, False)
    assert (told["prediction"], told["beta_schedule"]) == ("velocity", "linear")
    assert (told["first_time"], told["weights"]) == (499, "ema 0.995")
    assert told["last_alpha_bar"] == pytest.approx(0.0064, abs=1e-4)  # starts are not pure noise


def test_the_average_is_the_closed_form():
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(0.0)
    ema, value = EMA(net, 0.9), 0.0
    for n in range(1, 40):
        with torch.no_grad():
            net.weight.fill_(float(n))
        ema.update(net)
        decay = min(0.9, (1 + n) / (10 + n))
        value = decay * value + (1 - decay) * n
        assert float(ema.net.weight) == pytest.approx(value, rel=1e-5)
    assert not ema.train().net.training


def test_guidance_without_classes_is_refused():
    generator = build(SampleSpec((1, 4, 4), None))
    generator.check_bias(1.0)
    with pytest.raises(Refused, match="guides by class"):
        generator.check_bias(0.5)
    with pytest.raises(Refused, match="none is ever dropped"):
        build(condition_drop=0.0).check_bias(0.5)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"condition_drop": 1.0}, "condition_drop"),
        ({"sampling_steps": 0}, "sampling_steps"),
        ({"timesteps": 10, "sampling_steps": 11}, "sampling_steps"),
    ],
)
def test_bad_options_are_refused(options, field):
    with pytest.raises(Refused) as caught:
        Diffusion(**options)
    assert caught.value.field == field


def test_the_unet_pads_odd_sides_and_knows_no_class():
    net = UNet(SampleSpec((3, 7, 9), 4), widths=(8, 8, 8), groups=4)
    x = torch.randn(2, 3, 7, 9)
    out = net(x, torch.tensor([1, 5]), torch.tensor([0, 4]))
    assert out.shape == x.shape
    assert not torch.allclose(out, net(x, torch.tensor([1, 5]), torch.tensor([1, 4])))
