"""One contract for all families."""

import doctest
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import families
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, TensorDataset

from mad_lightning.generators import WGAN, Diffusion, External, Gaussian, Glow, Mixture, StyleGAN2
from mad_lightning.nets.pairs import ConvPair, DensePair
from mad_lightning.nets.unet import UNet
from mad_lightning.samples import Samples, SampleSpec, SeedBlock, to_floats
from mad_lightning.seeds import reseed, sample_seeds
from mad_lightning.testing import GeneratorContract


def tiny_unet(spec):
    return UNet(spec, widths=(8, 8), groups=4)


def image_spec(channels=1, side=8, classes=3):
    return SampleSpec((channels, side, side), classes)


STAND_IN = f"{{python}} {Path(__file__).with_name('stand_in.py')}"
FAMILIES = {
    "external": lambda: External(
        train=f"{STAND_IN} train --data {{data}} --out {{out}} --seed {{seed}}",
        draw=f"{STAND_IN} draw --out {{out}} --samples {{samples}} --seeds {{seeds}} "
        "--labels {labels} --bias {bias}",
        keep="*.json",
    ),
    "gaussian": lambda: Gaussian(),
    "gaussian_one_group": lambda: Gaussian(estimator="maximum_likelihood", per_class=False),
    "diffusion_solver": lambda: Diffusion(network=tiny_unet, sampling_steps=4, lr=3e-3),
    "diffusion_ddpm": lambda: Diffusion(
        network=tiny_unet, timesteps=50, sampler="ddpm", sampling_steps=None, lr=3e-3
    ),
    "glow": lambda: Glow(levels=2, couplings=2, hidden=16, lr=3e-3),
    "glow_coarse": lambda: Glow(levels=1, couplings=2, hidden=8, bits=5, lr=3e-3),
    "mixture": lambda: Mixture(components=2),
    "stylegan2": lambda: StyleGAN2(
        dim=16, mapping_layers=2, channel_base=64, channel_max=8, ema_half_life=50, path_every=2
    ),
    "wgan_conv": lambda: WGAN(
        networks=lambda spec: ConvPair(spec, width=8, dim=16), n_critic=2, lr=1e-3, ema_decay=0.5
    ),
    "wgan_dense": lambda: WGAN(
        networks=lambda spec: DensePair(spec, width=16, dim=8), n_critic=1, lr=1e-3, ema_decay=0.5
    ),
}
SPECS = {
    "grey": image_spec(1),
    "colour": image_spec(3),
    "odd_side": image_spec(1, 7),
    "unlabelled": image_spec(1, 8, None),
}


def some_data(spec, n=96):
    """Blobs whose place depends on the class."""
    reseed(0, "data")
    labels = None if spec.classes is None else torch.arange(n) % spec.classes
    values = torch.randint(0, 60, (n, *spec.shape))
    for i in range(n):
        row = 2 * int(labels[i]) if labels is not None else 3
        values[i, :, row : row + 2] += 150
    return Samples(values.byte(), labels)


@pytest.fixture(scope="module")
def trained(fit):
    def generator(build, spec, epochs=2, **trainer):
        reseed(0, "init")
        made = build().build(spec)
        data = some_data(spec)
        batches = [data] if made.exact_pass else [data[i : i + 32] for i in (0, 32, 64)]
        fit(made, batches, epochs, **trainer)
        return made

    return generator


def draw(generator, n=12, start=0, bias=1.0):
    labels = None
    if generator.spec.classes is not None:
        labels = torch.arange(start, start + n) % generator.spec.classes
    return generator.sample(sample_seeds(start, n, 0, "sample"), bias, labels)


@pytest.fixture(scope="module")
def generators(trained):
    return {name: trained(build, SPECS["grey"]) for name, build in FAMILIES.items()}


for family, make_one in FAMILIES.items():  # what anybody's family must keep
    kept = {"make": staticmethod(make_one), "spec": SPECS["grey"]}
    globals()[f"TestKept_{family}"] = type(f"TestKept_{family}", (GeneratorContract,), kept)


@pytest.mark.parametrize("family", FAMILIES)
class TestContract:
    def test_broken_weights_are_counted_and_refused(self, generators, family):
        if family == "external":
            pytest.skip("its weights are bytes of files")
        generator = FAMILIES[family]()
        generator.build(SPECS["grey"])
        state = {
            name: torch.full_like(value, float("nan")) if value.is_floating_point() else value
            for name, value in generators[family].state_dict().items()
        }
        generator.load_state_dict(state)
        with pytest.raises((FloatingPointError, torch.linalg.LinAlgError)):
            draw(generator)

    @pytest.mark.parametrize("kind", ["colour", "odd_side", "unlabelled"])
    def test_other_images(self, family, kind, trained):
        samples = draw(trained(FAMILIES[family], SPECS[kind], epochs=1))
        assert samples.values.shape[1:] == SPECS[kind].shape

    def test_under_bf16_mixed(self, family, trained):
        samples = draw(trained(FAMILIES[family], SPECS["grey"], epochs=1, precision="bf16-mixed"))
        assert samples.values.shape == (12, 1, 8, 8)

    def test_gradients_reach_every_trainable_parameter(self, family, trained):
        """Not in every step: a lazy regulariser asks only some of them."""
        reached, broken = set(), []

        def look(optimizer, args, kwargs):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None and parameter.grad.abs().sum() != 0.0:
                        reached.add(parameter)
                        if not torch.isfinite(parameter.grad).all():
                            broken.append(tuple(parameter.shape))

        if FAMILIES[family]().exact_pass:
            pytest.skip("estimated in closed form")
        watch = register_optimizer_step_post_hook(look)
        try:
            generator = trained(FAMILIES[family], SPECS["grey"], epochs=1)
        finally:
            watch.remove()
        assert not broken
        trainable = {name: p for name, p in generator.named_parameters() if p.requires_grad}
        assert not [name for name, parameter in trainable.items() if parameter not in reached]
        assert len(reached) == len(trainable)

    @pytest.mark.parametrize("kind", ["grey", "colour"])
    def test_a_smaller_lambda_lowers_the_spread(self, family, kind, trained):
        """Total variance over pixels, of samples of one class where there are classes."""
        generator = trained(FAMILIES[family], SPECS[kind], epochs=20)
        spreads = []
        for bias in (1.0, 0.5, 0.1):
            values = draw(generator, 240, bias=bias).values[0::3].double()
            spreads.append(float(values.var(dim=0).sum()))
        assert spreads[0] > spreads[1] > spreads[2]

    def test_without_build_neither_training_nor_sampling_starts(self, family, trainer):
        generator = FAMILIES[family]()
        data = DataLoader(TensorDataset(some_data(SPECS["grey"]).values))
        for start in (trainer().fit, trainer().predict):
            with pytest.raises(RuntimeError, match=r"call build\(SampleSpec\.of\(x\)\) before"):
                start(generator, data)

    def test_a_trainer_predicts_blocks_of_seeds_as_they_are(self, generators, family, trainer):
        labels = torch.arange(12) % 3
        block = SeedBlock(0, sample_seeds(0, 12, 0, "sample"), labels, 1.0)
        (samples,) = trainer().predict(generators[family], iter([block]))
        assert samples.digest() == draw(generators[family]).digest()


# --- averaged weights ---------------------------------------------------------------------------

AVERAGED = [family for family in FAMILIES if not FAMILIES[family]().exact_pass]


@pytest.mark.parametrize("family", AVERAGED)
def test_averaged_weights_follow_the_steps_that_their_network_takes(family, fit):
    """Four batches that make one step move the average once, as one large batch would."""
    generator = FAMILIES[family]().build(SPECS["grey"])
    by_hand = not generator.automatic_optimization
    accumulate = {} if by_hand else {"accumulate_grad_batches": 4}
    if by_hand:
        generator.accumulate = 4
    data, moved = some_data(SPECS["grey"], 96), []
    update = generator.ema.update

    def counted(net, *decay):
        moved.append(flat(net))
        update(net, *decay)

    generator.ema.update = counted
    fit(generator, [data[i : i + 16] for i in range(0, 96, 16)], 2, **accumulate)
    networks_steps = {"wgan_conv": 6}.get(family, 12) if by_hand else 2 * 2
    assert int(generator.ema.updates) == len(moved) == networks_steps
    assert all((a != b).any() for a, b in pairwise(moved))


def flat(net):
    return torch.cat([p.detach().flatten().clone() for p in net.parameters()])


# --- a plain Trainer on ordinary data -------------------------------------------------------------

MODELS_VECTORS = ("gaussian", "gaussian_one_group", "glow", "mixture", "wgan_dense")


def ordinary(form, data):
    """What a user may hand to a loader instead of our samples."""
    return {
        "values": lambda: data.values,
        "dataset": lambda: TensorDataset(data.values),
        "pairs": lambda: TensorDataset(data.values, data.labels),
        "floats": lambda: to_floats(data.values).double(),
        "floats_and_int32": lambda: TensorDataset(to_floats(data.values), data.labels.int()),
    }[form]()


@pytest.mark.parametrize("form", ["values", "dataset", "pairs", "floats", "floats_and_int32"])
@pytest.mark.parametrize(
    ("family", "kind"),
    [(family, "image") for family in FAMILIES] + [(family, "vector") for family in MODELS_VECTORS],
)
def test_ordinary_tensors_train_the_weights_that_samples_do(family, kind, form, fit):
    n = 64
    labels = torch.arange(n) % 3 if form in ("pairs", "floats_and_int32") else None
    values = some_data(SampleSpec((1, 8, 8), None), n).values
    if kind == "vector":
        values = torch.randn(n, 5, generator=torch.Generator().manual_seed(0))
    data = Samples(values, labels)
    spec = SampleSpec.of(data)
    loader = DataLoader(ordinary(form, data), batch_size=32)
    trained = []
    for batches in (loader, [data[:32], data[32:]]):
        reseed(0, "init")
        trained.append(FAMILIES[family]().build(spec))
        untrained = trained[-1].digest()
        fit(trained[-1], batches, 2)
        assert trained[-1].digest() != untrained
    assert trained[0].digest() == trained[1].digest()


def test_a_generator_that_was_built_without_classes_passes_over_those_of_the_loader(fit):
    data = some_data(SPECS["grey"])
    with_them, without = (Gaussian().build(SPECS["unlabelled"]) for _ in range(2))
    fit(with_them, DataLoader(TensorDataset(data.values, data.labels), batch_size=32))
    fit(without, [Samples(data.values)[i : i + 32] for i in (0, 32, 64)])
    assert with_them.digest() == without.digest()


@pytest.mark.parametrize("family", [Diffusion, Gaussian, Glow, Mixture, StyleGAN2, WGAN])
def test_the_example_of_its_docstring_runs(family, trainer):
    names = {
        "torch": torch,
        "L": SimpleNamespace(Trainer=trainer),
        "DataLoader": DataLoader,
        "TensorDataset": TensorDataset,
        "SampleSpec": SampleSpec,
    }
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(family, globs=names | {family.__name__: family})
    assert "fit(" in example.docstring
    assert len(example.examples) >= 4
    assert doctest.DocTestRunner().run(example) == (0, len(example.examples))


# --- optimisers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["diffusion_solver", "glow", "stylegan2", "wgan_dense"])
def test_a_step_of_the_optimiser_is_one_pass_over_all_weights(generators, family):
    optimisers = generators[family].trainer.optimizers
    assert all(group["fused"] is True for made in optimisers for group in made.param_groups)


def test_where_no_fused_step_is_right_torch_chooses():
    generator, network = Glow(), torch.nn.Linear(2, 2)
    assert generator.fuses(network) is True
    assert generator.fuses(network.to("meta")) is None
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    generator._trainer = SimpleNamespace(precision_plugin=scaled)
    assert generator.fuses(torch.nn.Linear(2, 2)) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diffusion", "wgan", "stylegan2"])
def test_a_compiled_training_is_the_same_to_rounding(name, monkeypatch):
    """Traced whole, and differentiated; what a GPU's compiler makes of it only a GPU can show."""
    made, plain = [], nn.Module.compile

    def compiling(self):
        made.append(self)
        plain(self, backend="aot_eager", fullgraph=True)

    monkeypatch.setattr(nn.Module, "compile", compiling)
    make, shape = families.FAMILIES[name]

    def compiled():
        generator = make()
        generator.compiles = True
        return generator

    spec, where = SampleSpec(shape, 3), {"accelerator": "cpu", "devices": 1}
    at_home, _ = families.trained(make, spec, where)
    assert made == []
    generator, _ = families.trained(compiled, spec, where)
    assert made == [*generator.to_compile()] != []
    weights = generator.state_dict()
    for key, value in at_home.state_dict().items():
        torch.testing.assert_close(weights[key], value, rtol=1e-3, atol=1e-4)
