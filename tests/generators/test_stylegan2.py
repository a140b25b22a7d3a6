"""StyleGAN2's training against plain loops, Jacobians and two processes."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mad_lightning.generators import StyleGAN2, stylegan2
from mad_lightning.generators.stylegan2 import path_lengths, squared_slope
from mad_lightning.nets.stylegan2 import Discriminator, StyleNetwork
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec
from mad_lightning.seeds import normal, reseed, sample_seeds, uniform

SPEC = SampleSpec((1, 8, 8), 3)


def rows(rank=0, world_size=1, n=5, spec=SPEC, size=8):
    """Batches of random pictures, of which a process takes its own."""
    rng = torch.Generator().manual_seed(1)
    values = torch.randint(0, 256, (n, size, *spec.shape), generator=rng).byte()
    labels = torch.arange(size) % 3 if spec.classes else None
    mine = slice(size // world_size * rank, size // world_size * (rank + 1))
    return [Samples(images, labels)[mine] for images in values]


def tiny(spec=SPEC, **arguments):
    reseed(0, "init")
    chosen = {"dim": 8, "mapping_layers": 2, "channel_base": 32, "channel_max": 8}
    chosen |= {"r1": 0.5, "r1_every": 2, "path_every": 2, "ema_half_life": 20, "ema_ramp": 0.5}
    return StyleGAN2(**chosen | arguments).build(spec)


@pytest.fixture
def fitted(fit):
    def generator(epochs=1, checkpoint=None, precision="64-true", **arguments):
        made = tiny(**arguments)
        return made, fit(made, rows(), epochs, checkpoint, precision=precision)

    return generator


def noise(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def assert_equal_states(one, other, tolerance=0.0):
    one, other = (x if isinstance(x, dict) else x.state_dict() for x in (one, other))
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(
            one[name], other[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m
        )


# --- the regularisers ---------------------------------------------------------------------------


def small_discriminator(classes=3):
    torch.manual_seed(0)
    return Discriminator(SampleSpec((1, 8, 8), classes), 32, 4).double()


def test_r1_is_the_squared_slope_that_differences_find():
    net, labels = small_discriminator(), torch.tensor([0, 1, 2, 0])
    x, step = noise(4, 1, 8, 8), 1e-6
    slopes = torch.zeros(4, 64).double()
    with torch.no_grad():
        for row in range(4):
            for pixel in range(64):
                scores = []
                for sign in (-1.0, 1.0):
                    moved = x.clone()
                    moved[row].view(-1)[pixel] += sign * step
                    scores.append(net(moved, labels).sum())
                slopes[row, pixel] = (scores[1] - scores[0]) / (2.0 * step)
    ours = squared_slope(net, x, labels)
    torch.testing.assert_close(ours, slopes.square().sum(dim=1), rtol=1e-6, atol=1e-9)


def test_r1_is_differentiated_right():
    """The gradient of the penalty with respect to weights, against differences."""
    net, labels, x, step = small_discriminator(), torch.tensor([0, 1]), noise(2, 1, 8, 8), 1e-6
    squared_slope(net, x, labels).mean().backward()
    for parameter in (net.from_pixels.weight, net.dense.weight, net.classes):
        place = int(parameter.grad.abs().argmax())
        values = []
        for sign in (-1.0, 1.0):
            with torch.no_grad():
                parameter.view(-1)[place] += sign * step
            values.append(squared_slope(net, x, labels).mean().item())
            with torch.no_grad():
                parameter.view(-1)[place] -= sign * step
        expected = (values[1] - values[0]) / (2.0 * step)
        assert parameter.grad.view(-1)[place].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("modulation", ["activations", "weights"])
def test_path_lengths_are_those_of_the_explicit_jacobian(modulation):
    torch.manual_seed(0)
    spec = SampleSpec((3, 8, 8), 3)
    net = StyleNetwork(spec, 6, 2, 32, 8, modulation).double()
    for name, parameter in net.named_parameters():
        if "noise_strength" in name:
            nn.init.constant_(parameter, 0.2)
    z, y = noise(3, 6), noise(3, 3, 8, 8, seed=1)
    given, labels = noise(3, net.synthesis.n_noise, seed=2), torch.tensor([0, 1, 2])
    ours = path_lengths(net, z, labels, given, y)
    w = net.mapping(z, labels).detach()
    for n in range(3):

        def image(w_n, n=n):
            styles = w_n.expand(1, net.synthesis.n_styles, -1)
            return net.synthesis(styles, given[n : n + 1])[0]

        jacobian = torch.autograd.functional.jacobian(image, w[n]).flatten(0, 2)  # (pixels, dim)
        expected = (jacobian.T @ y[n].flatten()).norm()
        torch.testing.assert_close(ours[n], expected, rtol=1e-10, atol=0)


def test_regularisers_keep_full_precision_under_autocast():
    torch.manual_seed(0)
    discriminator = Discriminator(SPEC, 32, 8)
    net = StyleNetwork(SPEC, 8, 2, 32, 8)
    labels, x = torch.arange(8) % 3, noise(8, 1, 8, 8).float()
    arguments = [noise(8, 8).float(), labels, noise(8, net.synthesis.n_noise).float(), x]
    plain = squared_slope(discriminator, x, labels), path_lengths(net, *arguments)
    with torch.autocast("cpu", torch.bfloat16):
        ours = squared_slope(discriminator, x, labels), path_lengths(net, *arguments)
    assert torch.equal(ours[0], plain[0])
    assert torch.equal(ours[1], plain[1])


def test_lazy_steps_slow_adam_as_appendix_b_says():
    generator = tiny(r1_every=16, path_every=4, lr=2e-3)
    of_generator, of_discriminator = generator.configure_optimizers()
    for optimizer, k in ((of_generator, 4), (of_discriminator, 16)):
        c = k / (k + 1)
        assert optimizer.defaults["lr"] == pytest.approx(2e-3 * c)
        assert optimizer.defaults["betas"] == pytest.approx((0.0, 0.99**c))
    for optimizer in tiny(r1=0, path=0, lr=2e-3).configure_optimizers():
        assert optimizer.defaults["lr"] == 2e-3
        assert optimizer.defaults["betas"] == (0.0, 0.99)


# --- a whole training, by hand ------------------------------------------------------------------


def bare_training(generator, batches, r1, r1_every, path_every, mixing, half_life, ramp):
    """Karras et al., 2020a, without Lightning: two Adams and the formulas, in float64."""
    net, discriminator = generator.net, generator.discriminator
    synthesis, average = net.synthesis, {k: v.clone() for k, v in net.named_parameters()}
    adams = []
    for network, k in ((net, path_every), (discriminator, r1_every)):
        c = k / (k + 1)
        adams.append(
            torch.optim.Adam(network.parameters(), 2e-3 * c, (0.0, 0.99**c), foreach=False)
        )

    def images(purpose, step, labels):
        seeds = sample_seeds(0, 8, address, purpose, step)
        z = normal(seeds, 2, 8).double()
        chance, place = uniform(seeds, 2, stream=2).T
        rows = []
        for row in range(8):
            w = [net.mapping(z[row, i][None], labels[row][None])[0] for i in (0, 1)]
            first = 1 + int(place[row] * (synthesis.n_styles - 1))
            if chance[row] >= mixing:
                first = synthesis.n_styles
            rows.append(torch.stack([w[int(i >= first)] for i in range(synthesis.n_styles)]))
        return synthesis(torch.stack(rows), normal(seeds, synthesis.n_noise, stream=1).double())

    def step_on(adam, loss):
        for optimizer in adams:
            optimizer.zero_grad()
        loss.backward()
        adam.step()

    address, lengths_before = generator._address, []
    for step, batch in enumerate(batches):
        x, labels = batch.values.double() / 127.5 - 1.0, batch.labels
        real, made = (
            discriminator(x, labels),
            discriminator(images("discriminate", step, labels), labels),
        )
        step_on(adams[1], torch.log1p((-real).exp()).mean() + torch.log1p(made.exp()).mean())
        if step % r1_every == 0:
            x.requires_grad_()
            slope = torch.autograd.grad(discriminator(x, labels).sum(), x, create_graph=True)[0]
            step_on(adams[1], r1_every * r1 / 2 * (slope**2).sum() / 8)
        made = discriminator(images("generate", step, labels), labels)
        step_on(adams[0], torch.log1p((-made).exp()).mean())
        if step % path_every == 0:
            seeds = sample_seeds(0, 8, address, "straighten", step)[::2]
            w = net.mapping(normal(seeds, 8).double(), labels[::2])
            styles = w[:, None].repeat(1, synthesis.n_styles, 1)
            image = synthesis(styles, normal(seeds, synthesis.n_noise, stream=1).double())
            y = normal(seeds, 1, 8, 8, stream=3).double()
            slope = torch.autograd.grad((image * y).sum(), w, create_graph=True)[0]
            lengths = (slope**2).sum(dim=1).sqrt()
            weights = [0.99 ** (len(lengths_before) - i) for i in range(len(lengths_before))]
            mean = None
            if weights:
                pairs = zip(weights, lengths_before, strict=True)
                mean = sum(w * a for w, a in pairs) / sum(weights)
            goal = lengths.detach() if mean is None else mean
            weight = math.log(2) / (64 * (math.log(8) - math.log(2)))
            step_on(adams[0], path_every * weight * ((lengths - goal) ** 2).mean())
            lengths_before.append(lengths.mean().item())
        half = min(half_life, ramp * 8 * (step + 1))
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                decay = 0.5 ** (8 / half)
                average[name] = decay * average[name] + (1 - decay) * parameter
    return average


def test_training_is_the_papers_algorithm(fit):
    """Eight batches: order of the steps, weights, noise, lazy turns and the average."""
    generator = tiny().double()
    trained = tiny()
    fit(trained, rows(n=8), precision="64-true")
    generator._address = trained._address
    average = bare_training(generator, rows(n=8), 0.5, 2, 2, 0.9, 20, 0.5)
    assert_equal_states(trained.net, generator.net, 1e-6)
    assert_equal_states(trained.discriminator, generator.discriminator, 1e-6)
    assert_equal_states(dict(trained.ema.net.named_parameters()), average, 1e-6)


def test_accumulation_changes_nothing_but_memory(fitted):
    one, two = fitted(2)[0], fitted(2, accumulate=2)[0]
    assert_equal_states(one, two, 1e-10)


def test_both_modulations_train_alike(fitted):
    one, other = fitted()[0], fitted(modulation="weights")[0]
    assert_equal_states(one, other, 1e-8)


def test_a_resumed_training_ends_with_the_same_bits(tmp_path, fitted):
    whole, _ = fitted(3, precision="32-true")
    fitted(1, precision="32-true")[1].save_checkpoint(tmp_path / "last.ckpt")
    resumed, _ = fitted(3, precision="32-true", checkpoint=tmp_path / "last.ckpt")
    assert_equal_states(whole, resumed)


WIDE = {"spec": SampleSpec((3, 7, 7), None), "size": 16}
ADA = {"ada_target": -0.9, "ada_images": 150}


def two_processes(train, accumulate):
    """Runs in each of two processes: 4 rows in one part, then 8 rows in two."""
    data = {"spec": SPEC, "size": 8} if accumulate == 1 else WIDE
    module = tiny(data["spec"], accumulate=accumulate, **({} if accumulate == 1 else ADA))
    mine = partial(rows, **data)
    return module, train(module, mine, 2, precision="64-true", devices=2, strategy="ddp")


@pytest.mark.ddp
def test_two_processes_train_the_networks_of_one(fit, run_two):
    """R1, path length, minibatch deviation, mixing, averages, augmentation: to ten digits."""
    one, wide = tiny(), tiny(WIDE["spec"], **ADA)
    fit(one, rows(), 2, precision="64-true")
    fit(wide, rows(**WIDE), 2, precision="64-true")
    for (accumulate, _), state in run_two().items():
        assert_equal_states(state["weights"], one if accumulate == 1 else wide, 1e-10)
    assert wide.p > 0.3
    start = tiny().double()
    assert (one.net.synthesis.constant - start.net.synthesis.constant).abs().max() > 1e-3


# --- styles and the average ---------------------------------------------------------------------


def test_the_average_forgets_half_in_its_half_life_and_early_on_faster():
    generator = tiny(ema_half_life=1000, ema_ramp=0.05)

    def kept(start, images, batch_size):
        product = 1.0
        for step in range(start // batch_size, (start + images) // batch_size):
            generator._step = step
            product *= generator._ema_decay(batch_size)
        return product

    assert kept(100_000, 1000, 10) == pytest.approx(0.5)
    assert kept(100_000, 1000, 100) == pytest.approx(0.5)  # counted in images
    assert kept(10_000, 500, 1) == pytest.approx(0.5, abs=0.01)
    assert kept(0, 1000, 10) < 1e-12
    assert tiny(ema_half_life=0)._ema_decay(8) == 0.0


def test_lambda_moves_w_towards_the_mean_over_latents_and_classes(fitted):
    generator, _ = fitted(precision="32-true")
    z = torch.randn(30_000, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        w = generator.ema.net.mapping(z, torch.arange(30_000) % 3)
        error = 6.0 * w.std(dim=0) / math.sqrt(8192)
        assert ((generator.w_mean - w.mean(dim=0)).abs() < error).all()
        seeds, labels = sample_seeds(0, 5, "x"), torch.arange(5) % 3
        net = generator.ema.net
        w = net.mapping(normal(seeds, 8), labels)
        w = generator.w_mean + 0.3 * (w - generator.w_mean)
        given = normal(seeds, net.synthesis.n_noise, stream=1)
        expected = net.synthesis(w[:, None].repeat(1, net.synthesis.n_styles, 1), given)
        torch.testing.assert_close(generator.draw(seeds, 0.3, labels), expected)
        plain = net(normal(seeds, 8), labels, given)
        torch.testing.assert_close(generator.draw(seeds, 1.0, labels), plain)


def test_samples_have_noise_of_their_own():
    generator = tiny()
    labels = torch.zeros(2).long()
    for layer in generator.ema.net.synthesis.convolutions:
        nn.init.constant_(layer.noise_strength, 1.0)
    with torch.no_grad():
        for layer in generator.ema.net.synthesis.convolutions:
            layer.affine.weight.zero_()  # deaf to w
        for layer in generator.ema.net.synthesis.to_pixels:
            layer.affine.weight.zero_()
        images = generator.draw(sample_seeds(0, 2, "x"), 1.0, labels)
    assert (images[0] - images[1]).abs().mean() > 0.05


def test_mixing_takes_fine_layers_from_a_second_latent():
    """Styles are read off a synthesis that returns them."""

    class Spy(nn.Module):
        n_styles, n_noise = 4, 1

        def forward(self, styles, noise):
            return styles

    generator = tiny()
    generator.net.synthesis = Spy()
    seeds, labels = sample_seeds(0, 2000, "x"), torch.arange(2000) % 3
    with torch.no_grad():
        z = normal(seeds, 2, 8)
        w = [generator.net.mapping(z[:, i], labels) for i in (0, 1)]
        styles = generator.synthesise(seeds, labels)
    first = torch.stack([(styles[:, i] - w[0]).abs().amax(dim=1) < 1e-6 for i in range(4)], 1)
    second = torch.stack([(styles[:, i] - w[1]).abs().amax(dim=1) < 1e-6 for i in range(4)], 1)
    assert (first ^ second).all()
    assert first[:, 0].all()
    assert (first[:, :-1] | ~first[:, 1:]).all()  # once crossed, never back
    n_first = first.sum(dim=1)
    shares = [(n_first == n).double().mean().item() for n in (1, 2, 3, 4)]
    assert shares == pytest.approx([0.3, 0.3, 0.3, 0.1], abs=0.04)
    generator.mixing = 0.0
    torch.testing.assert_close(generator.synthesise(seeds, labels)[:, 3], w[0])


# --- adaptive augmentation ----------------------------------------------------------------------


def test_p_rises_by_images_seen_and_falls_back():
    generator = tiny(ada_target=0.6, ada_images=400)
    generator._trainer = SimpleNamespace(world_size=1)
    seen = []
    for step in range(100):
        generator._step = step
        generator._adapt_augmentation(torch.tensor(1.0 if step < 48 else 0.5), 0.6, 10)
        seen.append(float(generator.p))
    assert seen[:3] == [0.0, 0.0, 0.0]
    assert seen[3] == pytest.approx(0.1)  # 40 of 400 images
    assert seen[39] == pytest.approx(1.0)
    assert seen[47] == 1.0
    assert seen[51] == pytest.approx(0.9)
    assert seen[99] == 0.0


def test_p_looks_at_four_batches_together():
    generator = tiny(ada_target=0.6, ada_images=400)
    generator._trainer = SimpleNamespace(world_size=1)
    for step, sign in enumerate([1.0, 1.0, 1.0, -0.2]):  # 0.7 on average
        generator._step = step
        generator._adapt_augmentation(torch.tensor(sign), 0.6, 10)
    assert generator.p == pytest.approx(0.1)
    assert generator.signs == 0.0


def test_everything_the_discriminator_sees_is_augmented(monkeypatch, fit):
    streams = []

    def black(images, seeds, p, stream):
        streams.append(stream)
        return images * 0.0 - 1.0

    seen = []
    generator = tiny(ada_target=0.6)
    generator.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    monkeypatch.setattr(stylegan2, "augment", black)
    monkeypatch.setattr(stylegan2, "squared_slope", lambda net, x, labels: net(x, labels).square())
    fit(generator, rows(n=2))
    assert len(seen) == 3 + 3 + 1  # real, generated, generated; R1 in the first batch
    assert all((images == -1.0).all() for images in seen)
    assert sorted(streams) == [4, 4, 4, 6, 6, 6, 6]


# --- what is refused, and what is compiled ------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dim", 0),
        ("mapping_layers", 0),
        ("channel_base", 0),
        ("channel_max", -1),
        ("r1", -1.0),
        ("r1_every", 0),
        ("path", float("nan")),
        ("path_every", 0),
        ("mixing", 1.5),
        ("ema_half_life", -1),
        ("ema_ramp", 0.0),
        ("ada_target", 1.0),
        ("ada_images", 0),
        ("accumulate", 0),
    ],
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(Refused) as caught:
        StyleGAN2(**{field: value})
    assert caught.value.field == field


def test_vectors_are_refused():
    with pytest.raises(Refused, match="needs images"):
        StyleGAN2().build(SampleSpec((2,)))


def test_regularisers_can_be_left_out(fitted):
    with_them, _ = fitted()
    without, made = fitted(r1=0, path=0)
    assert {"r1", "path_length"} & set(made.callback_metrics) == set()
    assert not torch.equal(with_them.w_mean, without.w_mean)


def test_r1_defaults_to_a_weight_that_grows_with_side_and_falls_with_batch(fitted):
    generator = fitted(r1=None)[0]
    assert_equal_states(generator, fitted(r1=2e-4 * 64 / 8)[0])


def test_networks_are_compiled_in_place_when_training_starts(monkeypatch, fitted):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    before = list(tiny(compile=True).state_dict())
    assert compiled == []
    generator, _ = fitted(compile=True)
    assert compiled == ["Mapping", "Synthesis", "Discriminator"]
    assert list(generator.state_dict()) == before


def test_sixteen_bit_training_is_finite(fitted):
    generator, made = fitted(2, precision="bf16-mixed")
    assert all(torch.isfinite(weight).all() for weight in generator.parameters())
    assert all(math.isfinite(mean) for mean in made.callback_metrics.values())
