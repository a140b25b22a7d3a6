"""Everything runs whole on a device of its own, with the CPU's values, and no step waits for it.

python -m pytest tests/on_fake_gpu.py: by itself, as ``test_fake_gpu.py`` runs it.
"""

from pathlib import Path

import fake_gpu
import families
import lightning as L
import pytest
import torch

from mad_lightning.commands.train import build
from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.data.sources import Digits
from mad_lightning.generators import WGAN, Diffusion, Gaussian, Glow, StyleGAN2
from mad_lightning.generators.solvers import SOLVERS
from mad_lightning.lineage import LineageDirectory
from mad_lightning.metrics import (
    Classes,
    Evaluator,
    Frechet,
    GaussianW2,
    Identity,
    Kernel,
    LogDeterminant,
    Memorisation,
    Modes,
    Neighbours,
    Pixels,
    TailMass,
    Trace,
    View,
)
from mad_lightning.metrics import functional as measures
from mad_lightning.metrics.features.classifier import _lenet
from mad_lightning.nets.augment import augment
from mad_lightning.samples import Law, SampleBlock, SampleSpec
from mad_lightning.seeds import drawn, normal, sample_seeds, uniform

TABLE = Path(__file__).with_name("kernels.txt")
FAMILIES, SMALL, IMAGE, some = families.FAMILIES, families.SMALL, families.IMAGE, families.some


def trained(make, spec, where, steps=4, size=8):
    return families.trained(make, spec, where, fake_gpu.Steps(), steps, size)


@pytest.fixture
def device(monkeypatch):
    with fake_gpu.plugged_in(monkeypatch) as device:
        yield device


fake_gpu.register()  # before the first backward pass
CPU = {"accelerator": "cpu", "devices": 1}


QUICK = ("gaussian", "mixture", "glow", "wgan", "stylegan2, augmented")


def each_family():
    for name in FAMILIES:
        marks = () if name in QUICK else pytest.mark.slow
        yield pytest.param(name, 3, id=f"{name}, labelled", marks=marks)
        yield pytest.param(name, None, id=name, marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "classes"), each_family())
def test_a_family_trains_and_draws_there_as_on_a_cpu(name, classes, monkeypatch):
    make, shape = FAMILIES[name]
    spec = SampleSpec(shape, classes)
    at_home, _ = trained(make, spec, CPU)
    seeds, labels = sample_seeds(0, 6, "drawn"), None if classes is None else torch.arange(6) % 3
    with fake_gpu.plugged_in(monkeypatch) as device:
        there, counted = trained(make, spec, fake_gpu.trainer_arguments())
        assert counted.waits[2:] == [{}] * 2, "a step after the first ones waits for the device"
        samples = there.to(device).sample(seeds, labels=labels)
    assert {type(samples.values), type(samples.labels)} <= {torch.Tensor, type(None)}
    weights = there.cpu().state_dict()
    for key, value in at_home.state_dict().items():  # sums come in another order
        torch.testing.assert_close(weights[key], value, rtol=1e-3, atol=1e-4)
    at_home.load_state_dict(weights)
    alone = at_home.sample(seeds, labels=labels).values
    torch.testing.assert_close(samples.values, alone, rtol=1e-5, atol=int(alone.ndim == 4))


DIGITS = SampleSpec((1, 28, 28), 10)
OFTENER = {"r1_every": 4, "path_every": 2}  # by default every 16th and every 4th step
NARROW = {"dim": 64, "channel_base": 1024, "channel_max": 32}
COUNTED = {
    "diffusion": (lambda: Diffusion(timesteps=500), DIGITS),
    "glow": (Glow, DIGITS),
    "wgan": (lambda: WGAN(n_critic=2), DIGITS),
    "gaussian": (Gaussian, DIGITS),
    "stylegan2-16": (lambda: StyleGAN2(**SMALL, **OFTENER), SampleSpec(IMAGE)),
    "stylegan2-16-ada": (lambda: StyleGAN2(**SMALL, **OFTENER, ada_target=0.6), SampleSpec(IMAGE)),
    "stylegan2-128": (lambda: StyleGAN2(**NARROW, **OFTENER), SampleSpec((3, 128, 128))),
}


def kernels_of(name):
    """Kernels of the kinds of steps, and their mean."""
    make, spec = COUNTED[name]
    _, counted = trained(make, spec, fake_gpu.trainer_arguments(), steps=5, size=4)
    _, _, critic, both, _ = counted.kernels
    if name == "wgan":
        return [critic, both, round((critic + both) / 2)]
    if name.startswith("stylegan2"):
        _, plain, path, _, both = counted.kernels
        return [plain, path, both, round((12 * plain + 3 * path + both) / 16)]
    return [counted.kernels[-1]]


def table():
    lines = [line.split() for line in TABLE.read_text().splitlines() if line[0] != "#"]
    return {name: [int(count) for count in counts] for name, *counts in lines}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in ("wgan", "stylegan2-16") else pytest.mark.slow)
        for n in COUNTED
    ],
)
def test_a_step_launches_as_many_kernels_as_the_table_says(name, device):
    found, kept = kernels_of(name), table()[name]
    unlike = [abs(now / before - 1.0) > 0.05 for now, before in zip(found, kept, strict=True)]
    assert not any(unlike), f"{found}: if fewer, keep the new table; if more, mend it"
    if name == "stylegan2-128":
        assert found[-1] < 2600


def test_noise_is_the_same_wherever_it_is_drawn(device):
    address = (2**62 + 5, "some", 3)
    seeds = sample_seeds(2**40, 7, *address)
    there = sample_seeds(2**40, 7, *address, device=device)
    assert torch.equal(there.cpu(), seeds)
    asked = [(normal, (3, 5), 2), (uniform, (4,), 0), (normal, (1,), 7), (uniform, (), 1)]
    alone = [draw(seeds, *shape, stream=stream) for draw, shape, stream in asked]
    for kept in (drawn(seeds, *asked), [values.cpu() for values in drawn(there, *asked)]):
        assert all(torch.equal(a, b) for a, b in zip(alone, kept, strict=True))
    own = [draw(there, *shape, stream=stream).cpu() for draw, shape, stream in asked]
    assert all(torch.equal(a, b) for a, b in zip(alone, own, strict=True))
    assert drawn(there[:0], *asked)[0].shape == (0, 3, 5)


def test_an_augmentation_waits_once(device):
    images, seeds = torch.rand(4, 3, 8, 8) * 2 - 1, sample_seeds(0, 4, "a")
    at_home = augment(images, seeds, torch.tensor(0.9))
    there = images.to(device), seeds.to(device), torch.tensor(0.9, device=device)
    augment(*there)
    fake_gpu.LOG.clear()
    assert torch.equal(augment(*there).inner, at_home)
    assert fake_gpu.LOG.waits == {}


class Between(fake_gpu.Steps):
    """What the program waits for from the end of one step to the end of the next."""

    def on_train_batch_start(self, *args):
        pass

    def on_train_batch_end(self, *args):
        super().on_train_batch_end(*args)
        fake_gpu.LOG.clear()


def test_nobody_waits_for_the_next_batch_either(device, tmp_path):
    data = GenerationDataModule(
        Digits(), 16, images_per_epoch=64, n_reference=100, cache=str(tmp_path)
    )
    wgan, between = WGAN(n_critic=1).build(data.real().spec), Between()
    trainer = L.Trainer(
        **fake_gpu.trainer_arguments(), max_epochs=1, max_steps=100, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[between],
    )  # fmt: skip
    trainer.fit(wgan, datamodule=data)
    assert between.waits[1:] == [{}] * 3
    plain = [batch.values for batch in data.loader()]
    loader = data.loader()
    loader.is_ahead = True
    assert all(torch.equal(a, b.values) for a, b in zip(plain, loader, strict=True))


# --- what is measured ----------------------------------------------------------------------------


def two_sets():
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(90, 5, generator=rng) + shift for shift in (0.0, 0.4))
    return x, y, torch.arange(90) % 3


MEASURES = {
    "two_sample": lambda x, y, k: measures.two_sample(x, y, k=3),
    "two_sample, closed": lambda x, y, k: measures.two_sample(x, y, k=3, balls="closed"),
    "frechet": lambda x, y, k: measures.frechet_distance(x, y),
    "kernel": lambda x, y, k: measures.kernel_distance(x, y),
    "class_share": lambda x, y, k: measures.class_share(k, k.flip(0)),
    "class_recall": lambda x, y, k: measures.class_recall(x, k, y, 3),
    "radii": lambda x, y, k: measures.squared_radii(x, k=3).cpu().tolist(),
    "nearest": lambda x, y, k: measures.squared_nearest(x, y).cpu().tolist(),
}


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_has_the_cpus_value_there(name, device):
    sets = two_sets()
    alone = MEASURES[name](*sets)
    assert MEASURES[name](*(some.to(device) for some in sets)) == alone


class LeNet(Identity):
    """The classifier's network with its first weights."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = _lenet(SampleSpec((1, 16, 16), 3)).eval()

    def forward(self, samples):
        return self.net[:-1](super().forward(samples).view(-1, 1, 16, 16)).detach()


@pytest.mark.parametrize("make", [Identity, Pixels, lambda: Pixels(8), LeNet])
def test_an_extractor_has_the_cpus_features_there(make, device):
    samples = some(SampleSpec((1, 16, 16), 3), 6)
    extractor = make()
    alone = extractor.predict_step(SampleBlock(0, samples), 0)
    there = extractor.to(device).predict_step(SampleBlock(0, samples.to(device)), 0)
    assert torch.equal(there.inner, alone)


def test_an_evaluator_has_the_cpus_values_there(device):
    x, y, labels = two_sets()
    law = Law(torch.zeros(5).double(), torch.eye(5).double(), torch.eye(5).double())
    real, drawn = View(x, labels=labels, training=x[:40], law=law), View(y, labels=labels)
    metrics = [
        Neighbours(), Kernel(), Frechet(), Classes(), Memorisation(), Trace(), LogDeterminant(),
        GaussianW2(), TailMass(), Modes(radius=1.0),
    ]  # fmt: skip
    evaluator = Evaluator(Identity(), metrics)
    alone, others = evaluator.compare(real, drawn), evaluator.floor(real, View(y, labels=labels))
    evaluator.device = device
    assert evaluator.compare(real, drawn) == pytest.approx(alone, rel=1e-12)  # other sums
    assert evaluator.floor(real, View(y, labels=labels))[0] == pytest.approx(others[0], rel=1e-12)


# --- drawing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler",
    [pytest.param(n, marks=() if n == "sde_dpm_solver" else pytest.mark.slow) for n in SOLVERS],
)
def test_a_solver_draws_the_same_there_and_hardly_waits(sampler, device):
    torch.manual_seed(0)
    made = Diffusion(families.small_unet, 100, "squaredcos_cap_v2", "velocity", sampler, 4)
    made, seeds = made.build(SampleSpec(IMAGE, 3)), sample_seeds(0, 3, "drawn")
    at_home = made.sample(seeds, 0.7, labels=torch.arange(3)).values
    made.to(device)
    there, labels = seeds.to(device), torch.arange(3).to(device)
    with torch.no_grad():
        fake_gpu.LOG.clear()
        made.draw(there, 0.7, labels)
    # Once a block the schedule is read; diffusers' UniPC puts coefficients there at every step.
    few = 1 + (6 * 4 if sampler == "unipc" else 0)
    assert sum(fake_gpu.LOG.waits.values()) <= few, fake_gpu.LOG.waits
    drawn_there = made.sample(seeds, 0.7, labels=torch.arange(3)).values
    torch.testing.assert_close(drawn_there, at_home, rtol=0, atol=1)


# --- whole lineages ------------------------------------------------------------------------------


def there(arguments, monkeypatch):
    """Trains a lineage on the device; gives it, and its records."""
    meta = build(arguments)
    usual = meta.trainers.build_arguments
    meta.trainers.build_arguments = lambda: {**usual(), **fake_gpu.trainer_arguments()}
    with fake_gpu.plugged_in(monkeypatch):
        return meta, meta.fit()


@pytest.mark.slow
@pytest.mark.parametrize("improvement", ["SIMS", "Autoguidance", "Neon"])
def test_a_second_phase_and_a_selection_run_there(improvement, arguments, diffusion, monkeypatch):
    given = [*arguments, *diffusion, "--lineage.generations", "2", "--trainer.max_epochs", "1"]
    given += ["--policy.n_initial", "64", "--improve", improvement, "--improve.images", "128"]
    given += ["--improve.weight", "[0.3, 0.6]", "--improve.validation", "32"]
    given += ["--treatment", "TopShare", "--treatment.candidates", "1.5", "--treatment.score",
              "Nearness", "--treatment.n_real", "40", "--treatment.features", "Pixels"]  # fmt: skip
    meta, records = there(given, monkeypatch)
    assert [record.sampler["improve"] for record in records] == [improvement] * 2
    for record in records:
        shard = meta.store[record.drawn]
        seeds = sample_seeds(0, 8, *shard.manifest.seeds)
        at_home = meta.trained(record.generation).sample(seeds, 1.0, shard.samples.labels[:8])
        torch.testing.assert_close(at_home.values, shard.samples.values[:8], rtol=0, atol=1)


def test_a_lineage_is_the_same_there(arguments, tmp_path, monkeypatch):
    given = [*arguments, "--lineage.generations", "2", "--generator.per_class", "false"]
    build(given).fit()
    at_home = [r.digests for r in LineageDirectory(tmp_path / "runs" / "tiny").records()]
    _, records = there([*given, "--lineage.name", "there"], monkeypatch)
    for here, record in zip(at_home, records, strict=True):
        for what in ("generator", "shard", "metrics"):
            assert here[what] == record.digests[what]
    assert records[0].environment["device"]
