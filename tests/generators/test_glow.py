"""Glow: an exact likelihood against change of variables by autograd, λ as temperature, ActNorm."""

import math
from itertools import product

import lightning as L
import pytest
import torch
from scipy.special import expit, logit
from scipy.stats import norm

from mad_lightning.data.laws import Rosenbrock
from mad_lightning.generators import Glow
from mad_lightning.nets.glow import ActNorm, Coupling, Flow
from mad_lightning.refusal import Diverged, Refused
from mad_lightning.samples import Samples, SampleSpec
from mad_lightning.seeds import normal, reseed, sample_seeds

SHAPES = {"grey": (1, 4, 4), "colour": (3, 4, 8), "pair": (2,), "five": (5,)}


def stirred(module, strength=0.3):
    """Parameters away from their neutral start, where mistakes would cancel."""
    reseed(1, "stir")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += strength * torch.randn_like(parameter)
    return module


def flow(shape, classes=3):
    reseed(0, "init")
    return stirred(Flow(shape, 2, 2, 5, classes).double())


def build(shape, classes=None, **options):
    reseed(0, "init")
    generator = Glow(**{"levels": 1, "couplings": 2, "hidden": 8, "warmup": 1, **options})
    return generator.build(SampleSpec(shape, classes))


def data(shape, n=64, classes=None, seed=0):
    reseed(seed, "data")
    labels = None if classes is None else torch.arange(n) % classes
    if len(shape) == 1:
        return Samples(3.0 + 2.0 * torch.randn(n, *shape), labels)
    return Samples(torch.randint(256, (n, *shape)).byte(), labels)


class KeepFirstEpoch(L.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


# --- the flow -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_density_is_that_of_a_change_of_variables(shape):
    """log p(x) = log N(z; 0, I) + log |det dz/dx|, with the whole Jacobian by autograd."""
    net, label = flow(shape), torch.tensor([2])
    x = torch.randn(1, *shape).double()

    def latent(x):
        return torch.cat([z.flatten() for z in net.inverse(x, label)[0]])

    jacobian = torch.autograd.functional.jacobian(latent, x).reshape(x.numel(), x.numel())
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(latent(x)).sum()
    expected += torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(net.log_prob(x, label)[0], expected, rtol=1e-9, atol=1e-9)
    assert abs(torch.linalg.slogdet(jacobian).logabsdet) > 0.1


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_latents_and_samples_are_one_to_one(shape):
    net, labels = flow(shape), torch.arange(6) % 3
    x = torch.randn(6, *shape).double()
    latents, _ = net.inverse(x, labels)
    assert [tuple(z.shape[1:]) for z in latents] == net.latents
    assert sum(math.prod(shape) for shape in net.latents) == math.prod(shape)
    torch.testing.assert_close(net(latents, labels), x, rtol=1e-6, atol=1e-6)
    assert (net(latents, (labels + 1) % 3) - x).abs().max() > 1e-2  # the class matters


def test_every_sample_depends_on_itself_alone():
    net, labels = flow((1, 4, 4)), torch.arange(6) % 3
    x = torch.randn(6, 1, 4, 4).double()
    together = net.log_prob(x, labels)
    for i in range(6):
        alone = net.log_prob(x[i : i + 1], labels[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-12, atol=1e-12)


def test_couplings_are_bounded():
    """Far outside the data a coupling still scales by at most e^2: nothing runs to infinity."""
    net = stirred(flow((2,)), 3.0)
    z = 50.0 * torch.randn(1000, 2).double()
    assert net([z], torch.zeros(1000).long()).isfinite().all()
    coupling = next(m for m in net.modules() if hasattr(m, "scale_and_shift"))
    log_scale, _ = coupling.scale_and_shift(1e3 * z[:, :1], torch.zeros(1000).long())
    assert 1.9 < log_scale.abs().max() <= 2.0


# --- grey levels --------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 3])
def test_the_bound_is_that_of_dequantised_grey_levels(monkeypatch, bits):
    """The density of level + noise, from grey levels to latents, by autograd in float64."""
    generator = build((3, 4, 4), 3, levels=2, bits=bits)
    stirred(generator.net.double(), 0.2)
    samples = data((3, 4, 4), 1, 3)
    noise = torch.rand(1, 3, 4, 4)
    monkeypatch.setattr(torch, "rand_like", lambda _: noise)

    n = 2**bits
    level = (samples.values.double() / 255.0 * (n - 1)).round() + noise

    def latent(level):
        share = 0.05 + 0.9 * level / n
        x = torch.log(share) - torch.log1p(-share)
        return torch.cat([z.flatten() for z in generator.net.inverse(x, samples.labels)[0]])

    jacobian = torch.autograd.functional.jacobian(latent, level).reshape(48, 48)
    expected = norm.logpdf(latent(level).detach().numpy()).sum()
    expected += float(torch.linalg.slogdet(jacobian).logabsdet)
    assert generator.log_prob(samples).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("shape", "black"), [((1, 2, 2), 0), ((1, 1, 3), 5)], ids=["fits", "padded"]
)
def test_the_probabilities_of_all_images_sum_to_what_the_flow_puts_there(shape, black):
    """Over all images of one bit, where the flow is the identity and its mass is known.

    Padding adds pixels that are black (level 0); the rest of the mass lies beyond black and white.
    """
    generator = build(shape, bits=1, couplings=1)
    for layer in generator.net.modules():
        if hasattr(layer, "W"):
            layer.W.data.copy_(torch.eye(len(layer.W)))
    pixels = math.prod(shape)
    images = torch.tensor(list(product((0, 255), repeat=pixels))).byte().reshape(-1, *shape)
    reseed(0, "noise")
    n = 4000
    with torch.no_grad():
        log_prob = generator.log_prob(Samples(images.repeat(n, 1, 1, 1)))
    total = float(log_prob.double().exp().sum()) / n
    inside = norm.cdf(logit(0.95)) - norm.cdf(logit(0.05))
    is_black = norm.cdf(logit(0.5)) - norm.cdf(logit(0.05))
    assert total == pytest.approx(inside**pixels * is_black**black, rel=0.03)


def test_every_grey_level_comes_back(monkeypatch):
    """Through spreading and rounding, also at the edges of the noise; fewer bits are idempotent."""
    values = torch.arange(256).byte().reshape(1, 1, 16, 16)
    for bits in (8, 5, 4, 1):
        generator = build((1, 16, 16), bits=bits)
        expected = (values / 255.0 * (2**bits - 1)).round() / (2**bits - 1) * 255.0
        for at in (1e-3, 0.5, 1.0 - 1e-3):
            monkeypatch.setattr(torch, "rand_like", lambda x, at=at: torch.full_like(x, at))
            x, _ = generator._dequantise(values)
            back = (generator._quantise(x) + 1.0) * 127.5
            torch.testing.assert_close(back, expected, rtol=0.0, atol=1e-3)
            assert x.min() >= logit(0.05) - 1e-5
            assert expit(x.double().numpy()).max() <= 0.95 + 1e-6
    assert len(expected.unique()) == 2


@pytest.mark.parametrize("shape", [(1, 7, 7), (3, 5, 9), (1, 28, 28), (1, 8, 8)])
def test_any_side_fits(shape):
    generator = build(shape, 2, levels=3)
    samples = data(shape, 8, 2)
    generator.initialise(samples)
    x, _ = generator._dequantise(samples.values)
    assert all(side % 8 == 0 for side in x.shape[2:])
    assert x[0].numel() == sum(math.prod(shape) for shape in generator.net.latents)
    back = (generator._quantise(x) + 1.0) * 127.5
    torch.testing.assert_close(back, samples.values.float(), rtol=0.0, atol=1e-3)
    assert generator.sample(samples.labels, 1.0, samples.labels).values.shape == (8, *shape)


# --- actnorm ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (2,)])
def test_initialisation_normalises_the_first_batch(shape):
    generator = build(shape, 2, levels=2)
    samples = data(shape, 64, 2)
    generator.initialise(samples)
    reseed(0, "noise")
    x, _ = generator._dequantise(samples.values)
    again = build(shape, 2, levels=2)
    with torch.no_grad():
        latents, _ = again.net.inverse(x, samples.labels, initialise=True)
        repeated, _ = again.net.inverse(x, samples.labels)
    for z, same in zip(latents, repeated, strict=True):
        torch.testing.assert_close(z, same)
        channels = z.transpose(0, 1).flatten(1)
        assert channels.mean(dim=1).abs().max() < 1e-3
        assert (channels.std(dim=1, correction=0) - 1.0).abs().max() < 1e-2
    with torch.no_grad():
        mine, _ = generator.net.inverse(x, samples.labels)
    assert max((z.mean() ** 2 + (z.std() - 1) ** 2).item() for z in mine) < 0.02


def test_initialisation_depends_on_its_batch_and_the_address_of_chance_only():
    digests = []
    for seed, address in ((0, "a"), (0, "a"), (0, "b"), (1, "a")):
        generator = build((1, 4, 4), 2)
        batch = data((1, 4, 4), 32, 2, seed)
        reseed(0, address)
        generator.initialise(batch)
        digests.append(generator.digest())
        average = generator.ema.net.state_dict()
        for name, tensor in generator.net.state_dict().items():
            assert torch.equal(average[name], tensor), name
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_sampling_first_is_an_error_and_ruins_nothing():
    generator = build((1, 4, 4), 2)
    before = generator.digest()
    with pytest.raises(RuntimeError, match="has not met data"):
        generator.sample(torch.arange(4), 1.0, torch.arange(4) % 2)
    assert generator.digest() == before


def test_what_is_initialised_is_not_initialised_again(fit):
    """Neither by another batch, nor after loading, nor in the other direction."""
    generator = build((2,))
    fit(generator, [data((2,))])
    other = build((2,))
    other.load_state_dict(generator.state_dict())
    before = other.digest()
    far = Samples(1000.0 + 50.0 * data((2,), seed=1).values)
    other.training_step(far, 0)
    other.sample(torch.arange(9))
    assert other.digest() == before


def test_a_bare_trainer_initialises_by_its_first_batch(fit):
    generator = build((2,), lr=1e-9)
    fit(generator, [data((2,))])
    expected = build((2,), lr=1e-9)
    expected.initialise(data((2,)))
    scales = [
        [m.s for m in glow.net.modules() if isinstance(m, ActNorm)]
        for glow in (generator, expected)
    ]
    assert len(scales[0]) == 3
    for mine, theirs in zip(*scales, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
        assert mine.abs().max() > 1e-3


# --- λ ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (2,)])
def test_lambda_scales_the_covariance_of_every_latent(shape, monkeypatch, run):
    generator = build(shape, levels=3)
    generator.initialise(data(shape))
    seen = []
    run = generator.ema.net.forward
    monkeypatch.setattr(generator.ema.net, "forward", lambda z, y: seen.append(z) or run(z, y))
    seeds = sample_seeds(0, 5, 0, "x")
    for bias in (1.0, 0.3):
        generator.draw(seeds, bias, None)
    assert len(seen[0]) == (3 if len(shape) == 3 else 1)
    for level, (plain, biased) in enumerate(zip(*seen, strict=True)):
        assert torch.equal(plain, normal(seeds, *plain.shape[1:], stream=level))
        torch.testing.assert_close(biased, plain * 0.3**0.5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2,)])
def test_a_smaller_lambda_lowers_the_spread(shape, fit):
    generator = build(shape, levels=2, lr=1e-2)
    fit(generator, [data(shape)] * 10)
    spreads = [
        generator.sample(sample_seeds(0, 500, 0, "x"), bias).values.double().var(dim=0).sum()
        for bias in (1.0, 0.5, 0.1)
    ]
    assert spreads[0] > 1.3 * spreads[1] > 1.69 * spreads[2]


def test_samples_of_the_average_follow_the_seeds_alone(fit):
    generator = build((2,), 2)
    fit(generator, [data((2,), 64, 2)] * 5)
    seeds, labels = sample_seeds(0, 40, 0, "x"), torch.arange(40) % 2
    whole = generator.sample(seeds, 1.0, labels).values
    reseed(9, "elsewhere")
    parts = [generator.sample(seeds[i::3], 1.0, labels[i::3]).values for i in range(3)]
    for i in range(3):
        torch.testing.assert_close(whole[i::3], parts[i], rtol=1e-4, atol=1e-4)
    expected = generator.ema.net([normal(seeds, 2)], labels)
    torch.testing.assert_close(whole, expected)
    untrained = build((2,), 2)
    untrained.initialise(data((2,), 64, 2))
    for other in (generator.net, untrained.net):  # the average lies between the two
        assert (other([normal(seeds, 2)], labels) - expected).abs().max() > 1e-4


def test_infinite_pixels_are_counted_not_clipped():
    generator = build((1, 4, 4))
    generator.initialise(data((1, 4, 4)))
    with torch.no_grad():
        nearest_to_data = next(m for m in generator.ema.net.modules() if isinstance(m, ActNorm))
        nearest_to_data.s.fill_(1e4)
    with pytest.raises(FloatingPointError, match="Glow has diverged: 7 of 7 samples"):
        generator.sample(torch.arange(7))


# --- training -----------------------------------------------------------------------------------


def test_the_flow_reaches_the_entropy_of_rosenbrocks_law(fit):
    """h = 1/2 log(2πe) + 1/2 log(2πe/2): no model can score below it on fresh data."""
    generator = build((2,), couplings=8, hidden=32, lr=5e-3)
    law = Rosenbrock()
    batches = [law.draw(sample_seeds(i * 256, 256, 0, "x")) for i in range(100)]
    trainer = fit(generator, batches)
    with torch.no_grad():
        fresh = generator.log_prob(law.draw(sample_seeds(10**9, 20_000, 0, "x"))).mean()
    entropy = 0.5 * math.log(2 * math.pi * math.e) + 0.5 * math.log(math.pi * math.e)
    assert entropy - 0.02 < -fresh < entropy + 0.1
    assert float(trainer.callback_metrics["nll"]) > entropy


@pytest.mark.parametrize(
    ("shape", "name"), [((1, 8, 8), "bits_per_dim"), ((5,), "nll")], ids=["image", "vector"]
)
def test_what_is_logged_is_the_mean_over_the_epoch(shape, name, fit):
    batches = [data(shape, 200, seed=seed) for seed in range(3)]
    generator = build(shape, lr=1e-12)
    trainer = fit(generator, batches)
    with torch.no_grad():
        nats = -torch.stack([generator.log_prob(batch).mean() for batch in batches]).mean()
    unit = math.log(2) * 64 if name == "bits_per_dim" else 1.0
    assert set(trainer.callback_metrics) == {name}
    assert float(trainer.callback_metrics[name]) == pytest.approx(float(nats) / unit, rel=1e-3)


def test_the_loss_is_in_nats_a_dimension():
    """So that one clip_norm suits vectors and large images."""
    generator = build((5,))
    generator.initialise(data((5,)))
    loss = generator.training_step(data((5,)), 0)
    torch.testing.assert_close(loss, -generator.log_prob(data((5,))).mean() / 5)


def test_uniform_noise_costs_eight_bits(fit):
    """Nothing can compress it: the bound approaches 8 bits a dimension from above."""
    generator = build((1, 4, 4), couplings=2, hidden=16, lr=1e-2)
    fit(generator, [data((1, 4, 4), 256, seed=seed) for seed in range(80)])
    with torch.no_grad():
        nats = -generator.log_prob(data((1, 4, 4), 4000, seed=999)).mean()
    assert 8.0 < float(nats) / math.log(2) / 16 < 8.4


def test_resuming_ends_with_the_same_weights(tmp_path, fit):
    """After an epoch, from a checkpoint: actnorms are not initialised again, averages go on."""
    batches = [data((1, 4, 4), 32, 2, seed) for seed in range(3)]
    whole, half, resumed = (build((1, 4, 4), 2) for _ in range(3))
    fit(whole, batches, 2)
    fit(half, batches, 2, callbacks=[KeepFirstEpoch(tmp_path / "epoch.ckpt")])
    fit(resumed, batches, 2, tmp_path / "epoch.ckpt")
    assert resumed.digest() == whole.digest() == half.digest()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_divergence_is_told_with_its_step_and_with_remedies(bad, fit):
    generator = build((2,))
    good, broken = data((2,)), data((2,))
    broken.values[3, 1] = bad
    with pytest.raises(Diverged, match=r"nll in epoch 0.*from step 3 on") as told:
        fit(generator, [good, good, broken, good])
    assert "a lower `lr` (now 0.001)" in told.value.remedy
    assert "a smaller `clip_norm`" in told.value.remedy


def test_the_gradient_is_clipped(fit):
    generator = build((2,), clip_norm=1e-3)
    generator.initialise(data((2,)))
    norms = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            grads = [p.grad.norm() for p in pl_module.net.parameters()]
            norms.append(float(torch.stack(grads).norm()))

    fit(generator, [data((2,), seed=seed) for seed in range(3)], callbacks=[Watch()])
    assert norms == pytest.approx([1e-3] * 3, rel=1e-3)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2,)])
def test_autocast_leaves_all_but_the_networks_in_full_precision(shape):
    generator = build(shape, 2, levels=2)
    samples = data(shape, 64, 2)
    generator.initialise(samples)
    stirred(generator.net, 0.05)
    plain, mixed = [], []
    for out, enabled in ((plain, False), (mixed, True)):
        reseed(0, "noise")
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            x, _ = generator._dequantise(samples.values)
            latents, log_det = generator.net.inverse(x, samples.labels)
            assert generator.net(latents, samples.labels).isfinite().all()
        assert log_det.dtype == latents[0].dtype == torch.float32
        out.append(log_det)
    torch.testing.assert_close(plain[0], mixed[0], rtol=0.02, atol=0.3)
    assert not torch.equal(plain[0], mixed[0])
    linear = build(shape, 2, levels=2).net  # couplings start as the identity
    with torch.autocast("cpu", torch.bfloat16):
        latents, _ = linear.inverse(x, samples.labels)
        torch.testing.assert_close(linear(latents, samples.labels), x, rtol=1e-4, atol=1e-4)


def test_under_autocast_a_coupling_reports_the_scale_that_it_applied():
    """The slope of what it did, in full precision, though its network ran in half."""
    coupling = stirred(Coupling(6, 16, None, (4, 4)))
    x = torch.randn(5, 6, 4, 4)
    further = torch.cat([x[:, :3], x[:, 3:] + 1.0], dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        (z, log_det), (moved, _) = (coupling.inverse(given, None) for given in (x, further))
    assert log_det.dtype == torch.float32
    slope = (moved - z)[:, 3:].double()
    torch.testing.assert_close(
        log_det.double(), slope.log().flatten(1).sum(dim=1), rtol=1e-4, atol=1e-4
    )


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("levels", {"levels": 0}),
        ("couplings", {"couplings": 0}),
        ("hidden", {"hidden": 0}),
        ("bits", {"bits": 9}),
        ("bits", {"bits": 0}),
        ("clip_norm", {"clip_norm": 0.0}),
        ("clip_norm", {"clip_norm": float("nan")}),
        ("ema_decay", {"ema_decay": 1.0}),
    ],
)
def test_senseless_settings_are_refused(field, options):
    with pytest.raises(Refused) as caught:
        Glow(**options)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "shape", "word"),
    [("", (1,), "Gaussian"), ("levels", (1, 3, 9), "at most 2")],
)
def test_samples_that_it_cannot_model_are_refused(field, shape, word):
    with pytest.raises(Refused, match=word) as caught:
        Glow(levels=3).build(SampleSpec(shape))
    assert caught.value.field == field


# --- two processes ------------------------------------------------------------------------------

BARE = """
import sys, lightning as L, torch
from mad_lightning.generators import Glow
from mad_lightning.samples import Samples, SampleSpec
from mad_lightning.seeds import reseed
reseed(0, "init")
generator = Glow(levels=1, couplings=2, hidden=8)
generator.build(SampleSpec((1, 4, 4), 2))

class Batches:
    def __iter__(self):
        for i in range(20):
            reseed(i, trainer.global_rank, "data")
            least = 100 * trainer.global_rank  # two processes that see very different data
            values = torch.randint(least, least + 100, (16, 1, 4, 4)).byte()
            yield Samples(values, torch.arange(16) % 2)
    def __len__(self):
        return 20

trainer = L.Trainer(max_epochs=1, accelerator="cpu", devices=2, strategy="ddp", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    use_distributed_sampler=False)
trainer.fit(generator, train_dataloaders=Batches())
with open(sys.argv[1] + str(trainer.global_rank), "w") as file:
    file.write(f"{trainer.global_step} {generator.digest()}")
"""


@pytest.mark.ddp
def test_a_bare_trainer_leaves_both_processes_with_the_same_weights(tmp_path, run):
    (tmp_path / "bare.py").write_text(BARE)
    run(tmp_path / "bare.py", tmp_path / "rank")
    ends = [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)]
    assert ends[0] == ends[1]
    assert ends[0].startswith("20 ")


WATCH = """
import os
import lightning as L

class Watch(L.Callback):
    def on_train_start(self, trainer, pl_module):
        self.say(trainer, pl_module, "start")

    def on_train_end(self, trainer, pl_module):
        self.say(trainer, pl_module, f"end {trainer.global_step}")

    def say(self, trainer, pl_module, what):
        with open(f"{os.environ['WATCH']}{trainer.global_rank}", "a") as file:
            met = bool(pl_module.initialised)
            file.write(f"{what} {met} {pl_module.digest()}\\n")
"""


@pytest.mark.ddp
def test_two_processes_of_a_lineage_have_equal_weights_after_20_steps(arguments, tmp_path, run):
    (tmp_path / "glow_watch.py").write_text(WATCH)
    arguments += [
        "--generator", "Glow",
        "--generator.levels", "2",
        "--generator.couplings", "2",
        "--generator.hidden", "8",
        "--data.batch_size", "32",
        "--data.images_per_epoch", "320",
        "--lineage.generations", "2",
        "--trainer.max_epochs", "2",
        "--trainer.devices", "2",
        "--trainer.strategy", "ddp",
        "--trainer.callbacks", "glow_watch.Watch",
    ]  # fmt: skip
    run("train.py", *arguments, WATCH=str(tmp_path / "rank"))
    seen = [(tmp_path / f"rank{rank}").read_text().splitlines() for rank in (0, 1)]
    assert seen[0] == seen[1]
    assert [line.rsplit(" ", 1)[0] for line in seen[0]] == ["start True", "end 20 True"] * 2
    assert len({line.rsplit(" ", 1)[1] for line in seen[0]}) == 4
