"""A U-Net that diffusers has saved becomes a base, and draws what diffusers draws."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    UNet2DModel,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import scheduling_ddpm

import mad_lightning
from mad_lightning.commands import main
from mad_lightning.commands.train import LineageCLI, build
from mad_lightning.generators.diffusion import Diffusion
from mad_lightning.generators.solvers import SOLVERS
from mad_lightning.loop.checkpoints import load_weights
from mad_lightning.nets.unet import UNet
from mad_lightning.samples import SampleSpec
from mad_lightning.seeds import normal

T = 20
LOOP = [
    "--lineage.generations", "2", "--policy", "FullySynthetic", "--policy.n_initial", "60",
    "--data.source", "Digits", "--data.n_reference", "50", "--data.images_per_epoch", "64",
    "--data.batch_size", "32", "--evaluator.extractor", "Pixels", "--callbacks", "[]",
    "--trainer.accelerator", "cpu",
]  # fmt: skip


def unet(**options):
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    small = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "norm_num_groups": 4}
    small |= blocks | {"block_out_channels": (8, 16), "layers_per_block": 1}
    return UNet2DModel(**small | options).eval()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved(place, network, scheduler):
    network.save_pretrained(place / "unet")
    scheduler.save_pretrained(place / "scheduler")
    return str(place)


def imported(name, shape, classes=None):
    """The base, as a lineage would make it, ready to draw."""
    cli = LineageCLI(["--config", f"{name}.yaml", *LOOP[2:]])
    generator = cli.make("generator").build(SampleSpec(shape, classes))
    load_weights(generator, Path(cli.make("lineage")["base"]))
    return generator.eval()


@torch.no_grad()
def theirs(network, scheduler, seeds, shape, labels, steps, monkeypatch):
    """What diffusers draws from the noise of the same seeds."""
    step = iter(range(1, 10**6))
    monkeypatch.setattr(
        scheduling_ddpm, "randn_tensor", lambda *_, **__: normal(seeds, *shape, stream=next(step))
    )
    scheduler.set_timesteps(steps)
    x = normal(seeds, *shape)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t, class_labels=labels).sample, t, x).prev_sample
    return x


@pytest.mark.filterwarnings("ignore:beta_schedule")
@pytest.mark.parametrize(
    ("kind", "options", "size", "classes", "steps"),
    [
        (DDPMScheduler, {}, 8, None, T),
        (DDPMScheduler, {"prediction_type": "v_prediction"}, (8, 12), 3, T),
        (DDPMScheduler, {"prediction_type": "sample", "beta_end": 0.3}, 8, None, T),
        (DDPMScheduler, {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False}, 8, 4, T),
        (DDPMScheduler, {"variance_type": "fixed_large", "beta_schedule": "sigmoid"}, 16, None, T),
        (DDPMScheduler, {"beta_schedule": "scaled_linear", "beta_start": 0.002}, 8, None, T),
        (DDIMScheduler, {"beta_end": 0.4}, 8, 2, T),
        (DDIMScheduler, {"prediction_type": "sample", "clip_sample": False}, 8, None, 7),
        (DDIMScheduler, {"prediction_type": "v_prediction"}, 8, None, 5),
    ],
)
def test_it_draws_what_diffusers_draws(here, monkeypatch, kind, options, size, classes, steps):
    network = unet(sample_size=size, num_class_embeds=classes)
    scheduler = kind(T, **{"beta_end": 0.2} | options)
    main(["base", saved(here / "x", network, scheduler), "--steps", str(steps)])
    shape = (1, *((size, size) if isinstance(size, int) else size))
    generator, seeds = imported("x", shape, classes), torch.arange(6)
    labels = None if classes is None else seeds % classes
    with torch.no_grad():
        ours = generator.draw(seeds, 1.0, labels)
    expected = theirs(network, scheduler, seeds, shape, labels, steps, monkeypatch)
    assert expected.std() > 0.1
    assert (ours - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


def test_a_network_of_another_shape_in_a_folder_of_its_own(here, monkeypatch):
    """Attention, other activations, colour; scheduler beside it, as a training script leaves it."""
    network = unet(
        in_channels=3, out_channels=3, act_fn="gelu", attention_head_dim=4, add_attention=True,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    scheduler = DDPMScheduler(T, beta_end=0.3)
    saved(here / "p", network, scheduler)
    main(["base", "p/unet", "--out", "deep/one", "--steps", str(T)])
    seeds = torch.arange(3)
    with torch.no_grad():
        ours = imported("deep/one", (3, 8, 8)).draw(seeds, 1.0, None)
    expected = theirs(network, scheduler, seeds, (3, 8, 8), None, T, monkeypatch)
    assert (ours - expected).abs().max() <= 1e-5


def test_each_generation_of_a_lineage_starts_from_it(here):
    network = unet(num_class_embeds=10)
    DDPMPipeline(network, DDPMScheduler(100, beta_end=0.1)).save_pretrained(here / "pipe")
    main(["base", "pipe", "--out", "mine", "--sampler", "unipc", "--steps", "5"])
    runs = ["--lineage.root", "runs", "--lineage.name"]
    config = ["--config", "mine.yaml", *LOOP]
    records = build([*config, *runs, "a"]).fit()
    assert [record.start for record in records] == ["base", "base"]
    (base,) = {record.digests["base"] for record in records}
    still = build([*config, *runs, "b", "--generator.lr", "1e-12", "--generator.warmup", "0"])
    still.fit()
    weights = mad_lightning.load(still.lineage.path, 2).net.unet.state_dict()
    for name, tensor in network.state_dict().items():
        learned = weights[name][:10] if name == "class_embedding.weight" else weights[name]
        assert torch.allclose(learned, tensor, atol=1e-6), name

    # Known by its weights, wherever they lie; and exported, it is what diffusers knows again.
    Path("mine.ckpt").rename("moved.ckpt")
    again = build(
        [*config, *runs, "a", "--lineage.base", "moved.ckpt", "--lineage.generations", "3"]
    )
    assert again.fit()[-1].digests["base"] == base
    main(["export", "runs/a", "--to", "diffusers", "--out", "out"])
    assert UNet2DModel.from_pretrained("out/unet").config.num_class_embeds == 11
    main(["base", "out", "--out", "twice"])
    seeds, labels = torch.arange(20), torch.arange(20) % 10
    drawn = mad_lightning.load("runs/a", 3).sample(seeds, 0.5, labels).values
    assert torch.equal(imported("twice", (1, 8, 8), 10).sample(seeds, 0.5, labels).values, drawn)


@pytest.mark.parametrize("sampler", SOLVERS)
def test_what_was_exported_draws_on_as_it_did(here, sampler):
    """Also where steps are few, and the schedule ends before diffusers would end it."""
    spec, seeds, labels = SampleSpec((1, 8, 8), 3), torch.arange(6), torch.arange(6) % 3
    torch.manual_seed(0)
    exported = Diffusion(
        partial(UNet, widths=(8, 16)), 40, "squaredcos_cap_v2", "velocity", sampler, 7, clip=False
    ).build(spec)
    exported.eval().save_pretrained(here / "x")
    main(["base", "x"])
    again = imported("x", spec.shape, spec.classes)
    for bias in (1.0, 0.5):
        with torch.no_grad():
            ours, theirs = (model.draw(seeds, bias, labels) for model in (again, exported))
        assert torch.equal(ours, theirs)
    main(["base", "x", "--out", "y", "--sampler", "ddim"])
    told = yaml.safe_load(Path("y.yaml").read_text())["generator"]["init_args"]
    assert (told["sampler"], told["sampling_steps"]) == ("ddim", 40)
    assert told["beta_schedule"] == "squaredcos_cap_v2"


def test_what_was_drawn_by_another_sampler_needs_to_be_told_one(here, capsys):
    folder = saved(here / "x", unet(), UniPCMultistepScheduler(T))
    with pytest.raises(SystemExit):
        main(["base", folder])
    assert "--sampler ddpm, unipc" in capsys.readouterr().err
    main(["base", folder, "--sampler", "ddpm"])
    told = yaml.safe_load(Path("x.yaml").read_text())["generator"]["init_args"]
    assert (told["sampler"], told["sampling_steps"], told["timesteps"]) == ("ddpm", None, T)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("unet", {"_class_name": "UNet2DConditionModel"}, "_class_name: UNet2DConditionModel"),
        ("unet", {"out_channels": 2}, "out_channels: 2 channels come out of 1"),
        ("unet", {"time_embedding_type": "fourier"}, "time_embedding_type: fourier"),
        ("unet", {"class_embed_type": "timestep"}, "class_embed_type"),
        ("unet", {"sample_size": None}, "sample_size"),
        ("unet", {"block_out_channels": [8]}, "cannot be loaded: Must provide the same number"),
        ("scheduler", {"_class_name": "PNDMScheduler"}, "no sampler here draws as PNDMScheduler"),
        ("scheduler", {"variance_type": "learned_range"}, "variance_type learned_range"),
        ("scheduler", {"prediction_type": "flow"}, "prediction_type: flow"),
        ("scheduler", {"trained_betas": [0.1, 0.2]}, "trained_betas: 2 numbers"),
        ("scheduler", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr: True"),
        ("scheduler", {"thresholding": True}, "thresholding: True"),
        ("scheduler", {"clip_sample_range": 2.0}, "clip_sample_range: 2.0"),
        ("scheduler", {"beta_schedule": "laplace"}, "beta_schedule"),
        ("scheduler", None, "has no scheduler_config.json"),
        ("unet", None, "holds no config.json"),
        ("weights", b"x", "cannot be loaded"),
        ("weights", None, "cannot be loaded"),
    ],
)
def test_what_cannot_be_said_here_is_refused_with_its_field(here, capsys, file, change, words):
    saved(here / "x", unet(), DDPMScheduler(T))
    names = {
        "unet": "unet/config.json",
        "scheduler": "scheduler/scheduler_config.json",
        "weights": "unet/diffusion_pytorch_model.safetensors",
    }
    place = here / "x" / names[file]
    if change is None:
        place.unlink()
    elif file == "weights":
        place.write_bytes(change)
    else:
        place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises(SystemExit) as left:
        main(["base", "x", "--out", "y"])
    told = capsys.readouterr().err
    assert left.value.code == 2
    assert words in told
    assert "remedy" in told
    assert "Traceback" not in told
    assert [path.name for path in here.iterdir()] == ["x"]


@pytest.mark.parametrize("steps", ["0", "-1", "1000000", "many"])
def test_steps_that_make_no_sense_are_refused(here, capsys, steps):
    saved(here / "x", unet(), DDPMScheduler(T))
    with pytest.raises(SystemExit):
        main(["base", "x", "--steps", steps])
    assert "steps: " in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["x"]


def test_data_of_another_kind_are_refused_before_training(here, capsys):
    saved(here / "x", unet(sample_size=16), DDPMScheduler(T))
    main(["base", "x"])
    with pytest.raises(SystemExit):
        main(["train", "--config", "x.yaml", *LOOP])
    told = capsys.readouterr().err
    assert "its images have pixels (16, 16), the data's (8, 8)" in told
    assert "generator.network" in told
    assert not (here / "runs").exists()
