"""WGAN-GP against closed forms: the penalty, the loss, the critic's optimum, the order of steps."""

import math
from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from mad_lightning.generators import WGAN
from mad_lightning.nets.pairs import ConvPair, DensePair
from mad_lightning.refusal import Refused
from mad_lightning.samples import Batches, Samples, SampleSpec
from mad_lightning.seeds import reseed, sample_seeds

SPEC = SampleSpec((1, 6, 6), 3)
tiny = partial(ConvPair, width=4, dim=8)


class Known(nn.Module):
    """Networks whose outputs are known: z -> constant or z itself; x -> w.x, or a|x|^2 / 2."""

    def __init__(self, spec, critic="linear", constant=None):
        super().__init__()
        self.dim = math.prod(spec.shape)
        generator = Constant(self.dim, constant)
        self.generator = generator if len(spec.shape) == 1 else Shaped(generator, spec.shape)
        self.critic = Linear(self.dim) if critic == "linear" else Bowl()


class Constant(nn.Module):
    def __init__(self, dim, constant):
        super().__init__()
        self.constant = nn.Parameter(torch.zeros(dim) if constant is None else constant.clone())
        self.is_constant = constant is not None

    def forward(self, z, labels):
        return self.constant.expand_as(z) if self.is_constant else z + self.constant


class Shaped(nn.Module):
    def __init__(self, flat, shape):
        super().__init__()
        self.flat, self.shape = flat, shape

    def forward(self, z, labels):
        return self.flat(z, labels).unflatten(1, self.shape)


class Linear(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, -2.0, dim))

    def forward(self, x, labels):
        return x.flatten(1) @ self.weight


class Bowl(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, labels):
        return 0.5 * self.a * x.square().sum(dim=1)


def build(spec=SPEC, networks=tiny, **options):
    reseed(0, "init")
    return WGAN(networks=networks, **options).build(spec)


def images(rank=0, world_size=1):
    """Four batches of 8 images of three classes, of which a process takes its own."""
    rng = torch.Generator().manual_seed(1)
    values = torch.randint(0, 256, (4, 8, 1, 6, 6), generator=rng).byte()
    mine = torch.arange(8).tensor_split(world_size)[rank]
    return [Samples(batch, torch.arange(8) % 3)[mine] for batch in values]


# --- the penalty ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_the_penalty_of_a_linear_critic_is_known(shape):
    """Slope w everywhere: (|w| - 1)^2, with gradient 2 (|w| - 1) w / |w|."""
    module = build(SampleSpec(shape), Known).double()
    w = module.net.critic.weight
    penalty = module.penalty(torch.randn(7, *shape).double(), None)
    norm = w.detach().norm()
    torch.testing.assert_close(penalty, (norm - 1.0) ** 2, rtol=1e-13, atol=0)
    (gradient,) = torch.autograd.grad(penalty, w)
    torch.testing.assert_close(gradient, 2.0 * (norm - 1.0) * w.detach() / norm, rtol=1e-12, atol=0)


def test_the_penalty_has_two_sides():
    """Equation 3 punishes a slope below 1 as well."""
    module = build(SampleSpec((5,)), Known).double()
    with torch.no_grad():
        module.net.critic.weight.fill_(0.1)
    slope = 0.1 * 5**0.5
    assert module.penalty(torch.randn(3, 5).double(), None).item() == pytest.approx(
        (slope - 1) ** 2
    )


class Smooth(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.dim = 3
        self.generator = Constant(3, None)
        self.critic = SmoothCritic()


class SmoothCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x, labels):
        return self.b(self.a(x).sin() * (1.0 + labels[:, None])).squeeze(1)


def test_the_penalty_and_its_gradient_agree_with_finite_differences():
    module = build(SampleSpec((3,), 2), Smooth).double()
    critic = module.net.critic
    x, labels = torch.randn(6, 3).double(), torch.tensor([0, 1, 1, 0, 1, 0])

    def numerical():
        with torch.no_grad():
            step = 1e-5
            slopes = []
            for i in range(3):
                shift = torch.eye(3).double()[i] * step
                slopes.append((critic(x + shift, labels) - critic(x - shift, labels)) / (2 * step))
            return (torch.stack(slopes).square().sum(dim=0).sqrt() - 1.0).square().mean()

    penalty = module.penalty(x, labels)
    torch.testing.assert_close(penalty.detach(), numerical(), rtol=1e-8, atol=1e-8)
    gradient = torch.autograd.grad(penalty, critic.a.weight)[0]
    for place in ((0, 0), (1, 2), (3, 1)):
        values = []
        for step in (1e-4, -1e-4):
            with torch.no_grad():
                critic.a.weight[place] += step
                values.append(numerical())
                critic.a.weight[place] -= step
        slope = (values[0] - values[1]) / 2e-4
        torch.testing.assert_close(gradient[place], slope, rtol=1e-5, atol=1e-6)


def test_the_penalty_is_never_in_half_precision():
    module = build()
    x, labels = torch.randn(4, 1, 6, 6), torch.tensor([0, 1, 2, 0])
    expected = module.penalty(x.clone(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = module.penalty(x.clone(), labels)
        assert module.net.critic(x, labels).dtype == torch.bfloat16
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, expected)


# --- the loss -------------------------------------------------------------------------------------


def critic_loss(module, values, n):
    module._trainer = None
    real = Samples(values.expand(n, -1).clone())
    return module.critic_loss(real, *module.noise(sample_seeds(0, n, 0, "x")))


def test_the_critics_loss_is_equation_3():
    """A point at r, a point at g, a critic w.x: w.(g - r) + 10 (|w| - 1)^2."""
    r, g = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1.0, 3.0, -0.5])
    module = build(SampleSpec((3,)), partial(Known, constant=g))
    w = module.net.critic.weight.detach()
    expected = w @ (g - r) + 10.0 * (w.norm() - 1.0) ** 2
    torch.testing.assert_close(critic_loss(module, r, 16).detach(), expected)


def test_the_penalty_is_taken_evenly_between_real_and_generated_row_by_row():
    """Slope a |x| on the line from 0 to g, a |g| = 1: the mean of (s - 1)^2 over s in U[0, 1]."""
    g = torch.tensor([1.2, -1.6])  # |g| = 2, a = 0.5
    module = build(SampleSpec((2,)), partial(Known, critic="bowl", constant=g))
    for real, sign in ((torch.zeros(2), 1.0), (2.0 * g, None)):
        loss = critic_loss(module, real, 20_000)
        energy = 0.25 * (g.square().sum() - real.square().sum())
        penalty = (loss - energy) / 10.0
        # from 0: s in [0, 1]; from 2g: s in [1, 2]; both squares have mean 1/3 and spread 0.3
        assert penalty.item() == pytest.approx(1.0 / 3.0, abs=0.01), sign


def test_losses_meet_the_class_of_the_real_row():
    class Watching(Known):
        def __init__(self, spec):
            super().__init__(SampleSpec((3,)))
            self.seen = []
            for network in (self.generator, self.critic):
                network.register_forward_pre_hook(
                    lambda _, arguments: self.seen.append(arguments[1].tolist())
                )

    module = build(SampleSpec((3,), 4), Watching)
    module.net.seen.clear()  # both networks were tried once
    batch, seeds = Samples(torch.randn(3, 3), torch.tensor([3, 0, 1])), sample_seeds(0, 3, 0, "x")
    module.critic_loss(batch, *module.noise(seeds))
    assert module.net.seen == [[3, 0, 1]] * 4  # generator; critic on real, generated, between
    module.net.seen.clear()
    module.generator_loss(batch, module.latents(seeds))
    assert module.net.seen == [[3, 0, 1]] * 2


def test_the_generator_climbs_the_critics_slope():
    module = build(SampleSpec((3,)), Known)
    loss = module.generator_loss(
        Samples(torch.zeros(64, 3)), module.latents(sample_seeds(0, 64, 0, "x"))
    )
    (gradient,) = torch.autograd.grad(loss, module.net.generator.constant)
    torch.testing.assert_close(gradient, -module.net.critic.weight.detach())


def test_the_trained_critic_is_the_optimum_of_two_points(fit):
    """max over slopes s of s d - 10 (s - 1)^2 lies at s = 1 + d / 20, for points d apart."""
    d = 3.0
    networks = partial(Known, constant=torch.tensor([-d]))
    module = build(SampleSpec((1,)), networks, n_critic=10_000, lr=4e-3)
    made = fit(module, [Samples(torch.zeros(4, 1))] * 200, 2)
    slope = 1.0 + d / 20.0
    assert module.net.critic.weight.item() == pytest.approx(slope, abs=5e-3)
    logged = {name: value.item() for name, value in made.callback_metrics.items()}
    expected = {"wasserstein": slope * d, "penalty": (slope - 1.0) ** 2}
    assert logged == pytest.approx(expected, rel=0.1)


# --- the order of steps ---------------------------------------------------------------------------


def test_every_update_draws_latents_and_places_of_its_own(fit):
    module, seen = build(n_critic=2), []
    penalty = module.penalty

    def watched(loss):
        def noting(real, z, *share):
            seen.append(z)
            return loss(real, z, *share)

        return noting

    def between(x, labels):
        seen.append(x.detach())
        return penalty(x, labels)

    module.penalty = between
    module.critic_loss, module.generator_loss = map(
        watched, (module.critic_loss, module.generator_loss)
    )
    fit(module, images()[:1] * 4, 2)
    assert len(seen) == 8 * 2 + 4  # critic: z and x between; generator: z
    rows = torch.cat([draw.flatten(1)[:, :8] for draw in seen])
    assert len(rows.unique(dim=0)) == len(rows) == 20 * 8


@pytest.mark.parametrize("n_critic", [1, 3, 5])
def test_the_critic_steps_on_every_batch_the_generator_on_every_nth(n_critic, fit, weights):
    module, seen = build(n_critic=n_critic), []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            seen.append([weights(net) for net in (module.net.generator, module.net.critic)])

    start = [weights(net) for net in (module.net.generator, module.net.critic)]
    fit(module, images(), 3, callbacks=[Watch()])  # of 4 batches: the rhythm goes over epochs
    moved = []
    for before, after in zip([start, *seen], seen, strict=False):
        assert not torch.equal(before[1], after[1])
        moved.append(not torch.equal(before[0], after[0]))
    assert moved == [(batch + 1) % n_critic == 0 for batch in range(12)]
    assert int(module.ema.updates) == sum(moved)


def test_every_parameter_gets_a_finite_gradient_of_its_own_loss(fit):
    module, seen = build(n_critic=2), {}

    class Watch(L.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    assert torch.isfinite(parameter.grad).all()
                    assert parameter.grad.any()
                    seen[parameter] = seen.get(parameter, 0) + 1

    fit(module, images(), 2, callbacks=[Watch()])
    for name, parameter in module.net.named_parameters():
        assert seen.pop(parameter) == (8 if name.startswith("critic") else 4), name
    assert not seen


def test_a_resumed_training_ends_with_the_weights_of_one_left_alone(tmp_path, fit):
    """At an epoch that is no multiple of n_critic."""
    whole, begun, resumed = (build(n_critic=3) for _ in range(3))
    fit(whole, images(), 4)
    fit(begun, images(), 2).save_checkpoint(tmp_path / "last.ckpt")
    fit(resumed, images(), 4, tmp_path / "last.ckpt")
    assert resumed.digest() == whole.digest() != begun.digest()


def test_a_budget_without_a_generator_step_is_said(fit):
    with pytest.warns(UserWarning, match="every 9th batch, training had 8"):
        fit(build(n_critic=9), images(), 2)


class Loader:
    """The four batches of every epoch, one by one or several at once."""

    def __init__(self, at_once):
        self.at_once, self.epoch = at_once, 0

    def __len__(self):
        return math.ceil(4 / self.at_once)

    def __iter__(self):
        given, before, self.epoch = images(), 4 * self.epoch, self.epoch + 1
        for start in range(0, 4, self.at_once):
            joined = Samples.joined(given[start : start + self.at_once])
            yield Batches(joined.values, joined.labels, 8, before + start)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_batches_that_come_together_train_as_they_do_one_by_one(precision, fit, weights):
    """To the bit, also where an epoch is no whole number of groups, nor of generator steps."""
    one_by_one, at_once = build(n_critic=3), build(n_critic=3)
    fit(one_by_one, images(), 2, precision=precision)
    made = fit(at_once, Loader(3), 2, precision=precision)
    assert made.global_step == 8 + 2
    assert torch.equal(weights(at_once), weights(one_by_one))
    assert at_once.batches == one_by_one.batches == 8


# --- accumulation, precision, processes -----------------------------------------------------------


@pytest.mark.parametrize("networks", [tiny, partial(DensePair, width=8, dim=4)])
def test_accumulation_changes_nothing_but_memory(networks, fit, weights):
    one, several = (build(networks=networks, n_critic=2, accumulate=n) for n in (1, 4))
    for module in (one, several):
        fit(module, images(), 2, precision="64-true")
    torch.testing.assert_close(weights(one), weights(several), rtol=1e-9, atol=1e-10)


HALF = {
    "bf16": {"precision": "bf16-mixed"},
    "fp16": {"plugins": MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))},
}


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_half_precision_trains_nearly_what_full_precision_does(half, accumulate, fit):
    """Adam's first steps are of size lr whatever the gradient: compare what is learned instead."""
    logged = []
    for arguments in ({}, HALF[half]):
        module = build(n_critic=2, lr=1e-3, accumulate=accumulate)
        before = {name: value.clone() for name, value in module.net.named_parameters()}
        logged.append(fit(module, images(), 8, **arguments).callback_metrics)
        for name, value in module.net.named_parameters():
            assert value.dtype == torch.float32
            assert not torch.equal(value, before[name]), name
    assert logged[0].keys() == {"wasserstein", "penalty", "generator_loss"}
    for name, value in logged[0].items():
        assert logged[1][name].item() == pytest.approx(value.item(), rel=0.1, abs=0.02), name


def test_samples_are_drawn_in_full_precision():
    module = build()
    seeds, labels = sample_seeds(0, 6, 0, "x"), torch.arange(6) % 3
    expected = module.draw(seeds, 1.0, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module.draw(seeds, 1.0, labels), expected)


def two_processes(train, accumulate):
    """Runs in each of two processes."""
    module = build(n_critic=2, accumulate=accumulate, lr=1e-3)
    return module, train(module, images, 3, precision="64-true", devices=2, strategy="ddp")


@pytest.mark.ddp
def test_two_processes_train_the_network_of_one(fit, run_two):
    one = build(n_critic=2, lr=1e-3)
    untrained = one.digest()
    logged = fit(one, images(), 3, precision="64-true").callback_metrics
    assert one.digest() != untrained
    states = run_two()
    for state in states.values():
        torch.testing.assert_close(state["weights"], one.state_dict(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(state["logged"], dict(logged), rtol=1e-5, atol=1e-6)
    for accumulate in (1, 2):
        first, second = (states[accumulate, rank]["weights"] for rank in (0, 1))
        assert all(torch.equal(first[name], second[name]) for name in first)


# --- sampling -------------------------------------------------------------------------------------


def test_lambda_is_the_variance_of_the_latent():
    module = build(SampleSpec((4,)), Known)
    seeds = sample_seeds(0, 4000, 0, "x")
    unbiased = module.sample(seeds).values
    assert unbiased.var().item() == pytest.approx(1.0, abs=0.03)
    for bias in (0.7, 0.25):
        values = module.sample(seeds, bias).values
        torch.testing.assert_close(values, unbiased * bias**0.5)


def test_a_smaller_lambda_lowers_the_spread_of_images():
    module = build(networks=partial(DensePair, width=16, dim=4))
    seeds, labels = sample_seeds(0, 300, 0, "x"), torch.zeros(300).long()
    spreads = [
        module.sample(seeds, bias, labels).values.double().var(dim=0).sum()
        for bias in (1.0, 0.6, 0.2)
    ]
    assert spreads[0] > spreads[1] > spreads[2]


def test_samples_come_from_the_averaged_weights_if_asked(fit):
    seeds, labels = sample_seeds(0, 4, 0, "x"), torch.tensor([0, 1, 2, 0])
    for decay, is_average in ((0.999, True), (0.0, False)):
        module = build(n_critic=1, lr=0.01, ema_decay=decay)
        fit(module, images(), 2)
        trained = module.net.generator(module.latents(seeds), labels)
        assert torch.equal(module.draw(seeds, 1.0, labels), trained) is not is_average
        assert module.sampler()["weights"] == f"ema {decay}"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"n_critic": 0}, "n_critic"),
        ({"gradient_penalty": -1.0}, "gradient_penalty"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"accumulate": 0}, "accumulate"),
    ],
)
def test_bad_options_are_refused(options, field):
    with pytest.raises(Refused) as caught:
        WGAN(**options)
    assert caught.value.field == field
