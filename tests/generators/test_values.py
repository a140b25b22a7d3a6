"""Values that only a library would notice, after hours: refused when a generator is made or built.

Arguments are read off the signatures, so that a new one cannot be forgotten: every number that is
asked for meets values that mean nothing, and is refused by its own name, or trains and draws.
"""

import inspect
import typing
from contextlib import suppress

import pytest
import torch
from torch import nn

from mad_lightning.generators import WGAN, Diffusion, Gaussian, Glow, Mixture, StyleGAN2
from mad_lightning.nets.pairs import ConvPair, DensePair
from mad_lightning.nets.unet import UNet
from mad_lightning.refusal import Diverged, Refused
from mad_lightning.samples import Samples, SampleSpec, SeedBlock

NAN, INF, HUGE = float("nan"), float("inf"), 10**12
SPEC = SampleSpec((1, 8, 8), 2)


def tiny_unet(spec):
    return UNet(spec, widths=(4,), groups=2)


def tiny_pair(spec):
    return DensePair(spec, width=4, depth=1, dim=2)


SMALL = {
    Diffusion: {"network": tiny_unet, "sampling_steps": 2},
    Gaussian: {},
    Glow: {"levels": 1, "couplings": 1, "hidden": 4},
    Mixture: {"components": 1},
    StyleGAN2: {"dim": 4, "mapping_layers": 1, "channel_base": 16, "channel_max": 4},
    WGAN: {"networks": tiny_pair, "n_critic": 1},
    UNet: {"widths": (4,), "groups": 2},
    ConvPair: {"width": 2, "dim": 2},
    DensePair: {"width": 4, "depth": 1, "dim": 2},
}
NETWORKS = (UNet, ConvPair, DensePair)


def numbers():
    """(class, argument, whether it is several numbers, whether whole) of every number asked for."""
    for cls in SMALL:
        kinds = typing.get_type_hints(cls.__init__)
        for name in inspect.signature(cls).parameters:
            options = [*typing.get_args(kinds[name]), kinds[name]]
            if int in options or float in options:
                yield cls, name, typing.get_origin(kinds[name]) is tuple, float not in options


def wrong_values():
    for cls, name, several, whole in numbers():
        for value in (NAN, INF, -INF, -1, -1e30, 0, HUGE, 1e30, 10**30):
            if whole and isinstance(value, float) and abs(value) == 1e30:
                continue
            yield (
                cls,
                name,
                (value, 0.5) if several and not whole else (value,) if several else value,
            )


def works(generator, fit):
    """Two steps of training, and samples."""
    x = torch.randint(256, (8, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    fit(generator, [Samples(x, torch.arange(8) % 2)] * (1 if generator.exact_pass else 2))
    drawn = generator.sample(torch.arange(4), labels=torch.arange(4) % 2)
    return drawn.values.shape == (4, 1, 8, 8)


def unless_refused(made, name):
    """What is made, or None if it was refused by this name."""
    refused = []
    with suppress(Refused):
        try:
            return made()
        except Refused as error:
            refused.append(error)
            raise
    (error,) = refused
    assert error.field == name
    assert error.remedy
    return None


def test_the_table_is_read_off_the_signatures():
    found = {(cls, name) for cls, name, *_ in numbers()}
    assert {(Diffusion, "lr"), (WGAN, "betas"), (UNet, "widths"), (StyleGAN2, "r1")} <= found
    assert len(found) > 45


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [pytest.param(*case, id=f"{case[0].__name__}-{case[1]}-{case[2]}") for case in wrong_values()],
)
def test_a_value_that_means_nothing_is_refused_by_name_or_works(cls, name, value, fit):
    def made():
        arguments = SMALL[cls] | {name: value}
        return cls(SPEC, **arguments) if cls in NETWORKS else cls(**arguments).build(SPEC)

    finite = not isinstance(value, float) or abs(value) < INF
    if (thing := unless_refused(made, name)) is None:
        return
    assert finite, "neither NaN nor infinity is a setting"
    if cls in NETWORKS:
        assert (name, value) == ("dropout", 0)
    elif name == "lr" and value > 1:  # a matter of the data, told in its epoch
        with pytest.raises(Diverged, match="a lower `lr`"):
            works(thing, fit)
    else:
        assert works(thing, fit)


# --- names, and what does not fit -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Diffusion(beta_schedule="cosine"), "beta_schedule"),
        (lambda: Diffusion(beta_schedule="Linear"), "beta_schedule"),
        (lambda: Diffusion(beta_schedule=""), "beta_schedule"),
        (lambda: Diffusion(sampler="plms"), "sampler"),
        (lambda: Diffusion(prediction="v"), "prediction"),
        (lambda: Diffusion(timesteps=5, sampling_steps=6), "sampling_steps"),
        (lambda: Gaussian(estimator="mle"), "estimator"),
        (lambda: Mixture(estimator="biased"), "estimator"),
        (lambda: StyleGAN2(modulation="both"), "modulation"),
        (lambda: WGAN(betas=()), "betas"),
        (lambda: UNet(SPEC, widths=()), "widths"),
        (lambda: UNet(SPEC, widths=(8, 12)), "widths"),
        (lambda: UNet(SPEC, widths=(8,) * 13), "widths"),
        (lambda: Gaussian().build(SampleSpec((3, 2048, 2048))), ""),
        (lambda: Gaussian().build(SampleSpec((1, 64, 64), 10**6)), ""),
        (lambda: Mixture(components=100_000).build(SampleSpec((3, 64, 64))), ""),
    ],
)
def test_what_does_not_exist_or_fit_is_refused(make, field):
    with pytest.raises(Refused) as caught:
        make()
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [("ddpm", None), ("dpm_solver", 5), ("sde_dpm_solver", None), ("unipc", 9)],
)
def test_sigmoid_is_a_schedule_of_every_sampler(sampler, steps, fit):
    generator = Diffusion(tiny_unet, 40, "sigmoid", sampler=sampler, sampling_steps=steps)
    assert works(generator.build(SPEC), fit)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize(("timesteps", "steps"), [(50, None), (20, 20)])
def test_steps_that_give_no_number_are_refused_before_training(schedule, timesteps, steps):
    generator = Diffusion(
        tiny_unet, timesteps, schedule, sampler="dpm_solver", sampling_steps=steps
    )
    with pytest.raises(Refused, match="sampling_steps: dpm_solver"):
        generator.build(SPEC)


@pytest.mark.parametrize("sampler", ["sde_dpm_solver", "unipc"])
def test_more_steps_than_times_before_pure_noise_are_refused(sampler):
    generator = Diffusion(tiny_unet, 50, "squaredcos_cap_v2", sampler=sampler, sampling_steps=None)
    with pytest.raises(Refused, match=f"sampling_steps: {sampler} in 50 steps"):
        generator.build(SPEC)


@pytest.mark.parametrize(
    ("timesteps", "schedule", "warned"),
    [(1000, "linear", False), (500, "linear", True), (50, "squaredcos_cap_v2", False)],
)
def test_a_schedule_that_does_not_end_in_noise_is_told(timesteps, schedule, warned, recwarn):
    Diffusion(tiny_unet, timesteps, schedule).build(SPEC)
    assert any("signal" in str(warning.message) for warning in recwarn) == warned


class Flat(nn.Module):
    """What a user may write: it forgets the shape, the classes, or what it is called with."""

    def __init__(self, spec, fault):
        super().__init__()
        self.spec, self.fault = spec, fault
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x, *rest):
        if self.fault == "arguments":
            raise TypeError("forward() takes 2 positional arguments")
        if self.fault == "classes":
            nn.functional.one_hot(rest[-1], self.spec.classes)
        wrong = {
            "flat": x.flatten(1),
            "channels": x.repeat(1, 2, 1, 1),
            "one": x[:1],
            "whole": x.long(),
            "tuple": (x,),
            "none": None,
        }
        return wrong.get(self.fault, x)


FAULTS = ["arguments", "classes", "flat", "channels", "one", "whole", "tuple", "none"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_network_that_does_not_fit_is_refused_when_it_is_built(fault):
    with pytest.raises(Refused) as caught:
        Diffusion(lambda spec: Flat(spec, fault)).build(SPEC)
    assert caught.value.field == "network"


def test_networks_of_others_are_tried_too():
    from diffusers import UNet2DModel

    def bare(spec):
        blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
        return UNet2DModel(spec, 1, 1, block_out_channels=(32,), **blocks)

    for network in (bare, lambda spec: "net", lambda spec: nn.Linear(2, 2)):
        with pytest.raises(Refused, match="network: "):
            Diffusion(network).build(SPEC)
    with pytest.raises(Refused, match="networks: Linear has no dim and no generator and no critic"):
        WGAN(lambda spec: nn.Linear(2, 2)).build(SPEC)


def test_trying_a_network_leaves_no_trace():
    class Counts(nn.Module):
        def __init__(self, spec):
            super().__init__()
            self.normed = nn.BatchNorm2d(1)
            self.calls = 0

        def forward(self, x, t, labels):
            self.calls += 1
            return self.normed(nn.functional.dropout(x))

    torch.manual_seed(0)
    generator = Diffusion(Counts).build(SPEC)
    assert generator.net.calls == 0
    assert int(generator.net.normed.num_batches_tracked) == 0
    assert generator.net.training
    after = torch.rand(())
    torch.manual_seed(0)
    assert torch.equal(torch.rand(()), after)


@pytest.mark.parametrize(
    ("out", "told"),
    [
        (lambda n: torch.zeros(n, 64), r"\(5, 64\)"),
        (lambda n: torch.zeros(1, 1, 8, 8), r"\(1, 1, 8, 8\)"),
        (lambda n: torch.zeros(n, 1, 8, 8).byte(), "uint8"),
        (lambda n: [torch.zeros(1, 8, 8)] * n, "list"),
        (lambda n: None, "NoneType"),
    ],
)
def test_a_family_that_draws_something_else_is_told(out, told):
    class Own(Gaussian):
        def draw(self, seeds, sampling_bias, labels):
            return out(len(seeds))

    with pytest.raises(Refused, match=f"Own.draw returns .*{told}") as caught:
        Own().build(SPEC).sample(torch.arange(5))
    assert "(5, 1, 8, 8)" in caught.value.remedy


# --- the training set and the Trainer -------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "counts", "batch_size", "field"),
    [
        (lambda: Gaussian(), [1], 8, "estimator"),
        (lambda: Gaussian(), [5, 1, 4], 8, "estimator"),
        (lambda: Gaussian(per_class=False), [1, 0], 8, "estimator"),
        (lambda: Glow(), [100], 1, ""),
        (lambda: Glow(), [1], 8, ""),
        (lambda: WGAN(accumulate=3), [100], 8, "accumulate"),
        (lambda: StyleGAN2(accumulate=16), [100], 8, "accumulate"),
    ],
)
def test_a_training_set_that_nothing_can_be_learned_from_is_refused(
    make, counts, batch_size, field
):
    with pytest.raises(Refused) as caught:
        make().check_training(counts, batch_size)
    assert caught.value.field == field


def test_training_sets_that_something_can_be_learned_from():
    Gaussian().check_training([2, 0, 5], 8)
    Gaussian(estimator="maximum_likelihood").check_training([1], 8)
    Gaussian(per_class=False).check_training([1, 1], 8)
    Glow().check_training([2], 2)
    WGAN(accumulate=4).check_training([1], 8)


@pytest.mark.parametrize("values", [torch.ones(8, 3), torch.ones(1, 3), torch.zeros(1, 1, 8, 8)])
def test_the_flow_tells_what_is_wrong_with_its_first_batch(values, fit):
    generator = Glow(levels=1, couplings=1, hidden=4).build(SampleSpec.of(values))
    with pytest.raises(Refused, match="first batch"):
        fit(generator, [Samples(values)])


def family(cls):
    return cls(**SMALL[cls]).build(SPEC)


@pytest.mark.parametrize("precision", ["64-true", "16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("cls", [cls for cls in SMALL if cls not in NETWORKS])
def test_precisions_that_a_family_states_train_and_what_is_drawn_is_not_rounded(
    cls, precision, fit
):
    """What a Trainer draws in a mixed precision is what the same weights give in float32."""
    assert precision in cls.precisions
    x = torch.randint(256, (8, 1, 8, 8)).byte()
    batches = [Samples(x, torch.arange(8) % 2)] * (1 if cls(**SMALL[cls]).exact_pass else 2)
    generator = family(cls)
    trainer = fit(generator, batches, precision=precision)
    block = SeedBlock(0, torch.arange(4), torch.arange(4) % 2, 1.0)
    (drawn,) = trainer.predict(generator, iter([block]))
    assert drawn.values.shape == (4, 1, 8, 8)
    again = family(cls)
    again.load_state_dict(generator.state_dict())
    if precision != "64-true":
        assert torch.equal(drawn.values, again.sample(block.seeds, 1.0, block.labels).values)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
@pytest.mark.parametrize("cls", [cls for cls in SMALL if cls not in NETWORKS])
def test_other_precisions_are_refused(cls, precision, fit):
    with pytest.raises(Refused, match=f"precision: {cls.__name__} cannot be trained in"):
        fit(family(cls), [], precision=precision)
