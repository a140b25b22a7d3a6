"""Every shipped configuration introduces itself, parses, builds, and trains a little."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mad_lightning.commands.train import build
from mad_lightning.sweeps import Sweep

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
NAME = re.compile(
    r"((?P<dataset>[a-z0-9]+)_)?(?P<family>gaussian|mixture|diffusion|external|glow|wgan|stylegan)"
    r"_(?P<loop>full_synth|synth_aug|fresh|combined|subsample|external|smoke)"
    r"(_(?P<variant>[a-z0-9_]+))?"
)
LOOPS = {
    "full_synth": "FullySynthetic",
    "synth_aug": "SyntheticAugmentation",
    "fresh": "FreshData",
    "combined": "Combined",
    "external": "Combined",
    "subsample": "AccumulateSubsample",
    "smoke": "FullySynthetic",
}
SOURCES = {"ffhq": "images", "emoji": "images", None: "standardnormal"}  # others: the class's name
SMALL = {
    "FullySynthetic": {"n_initial": 40, "n_synthetic": 30},
    "SyntheticAugmentation": {"n_real": 40, "n_synthetic": 30},
    "FreshData": {"n_initial": 40, "n_fresh": 20, "n_synthetic": 30},
    "Combined": {"n_initial": 40, "n_fresh": 20, "n_synthetic": 30},
    "AccumulateSubsample": {"n_initial": 40, "n_budget": 60, "n_synthetic": 30},
}
BRIEF = ["--data.batch_size", "16", "--data.images_per_epoch", "32", "--trainer.max_epochs", "1"]
PROGRAM = f"{{python}} {ROOT / 'tests' / 'generators' / 'stand_in.py'}"
TINY = {
    "Gaussian": [],
    "External": [  # its own programs import torch for seconds: see generators/test_external.py
        "--generator.train", f"{PROGRAM} train --data {{data}} --out {{out}}",
        "--generator.draw",
        f"{PROGRAM} draw --out {{out}} --samples {{samples}} --seeds {{seeds}} --labels {{labels}}",
        "--generator.keep=*.json",
    ],
    "Mixture": [],
    "Diffusion": [
        "--generator.network.widths", "[8,8]",
        "--generator.network.layers", "1",
        "--generator.timesteps", "20",
        *BRIEF,
    ],
    "Glow": ["--generator.couplings", "1", "--generator.hidden", "8", *BRIEF],
    "WGAN": BRIEF,
    "StyleGAN2": [
        "--generator.dim", "16",
        "--generator.mapping_layers", "2",
        "--generator.channel_base", "128",
        "--generator.channel_max", "8",
        *BRIEF,
    ],
}  # fmt: skip


def read(path):
    plain = yaml.safe_load(path.read_text())
    classes = {name: plain[name]["class_path"] for name in ("policy", "generator")}
    return plain, classes["policy"], classes["generator"], plain["data"]["source"]["class_path"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_says_what_it_shows_what_it_costs_and_how_to_run_it(path):
    text = path.read_text()
    head = text[: text.index("lineage:")]
    assert "Cost:" in head
    assert f"python train.py --config configs/{path.name}" in head
    plain, policy, family, source = read(path)
    name = NAME.fullmatch(path.stem)
    assert name, path.stem
    assert family.lower().startswith(name["family"])
    assert policy == LOOPS[name["loop"]]
    assert source.lower() == SOURCES.get(name["dataset"], name["dataset"])
    assert plain["sampling_bias"] == 1.0  # others by --sampling_bias


def test_the_table_of_experiments_is_complete():
    """configs/README.md names each file, and each experiment of the paper."""
    text = (ROOT / "configs" / "README.md").read_text()
    named = set(re.findall(r"`([a-z0-9_]+)`", text))
    assert {path.stem for path in CONFIGS} <= named


def test_configurations_that_the_documents_name_exist():
    """In backticks, by a name that a configuration could have."""
    known = {path.stem for path in (ROOT / "configs").rglob("*.yaml")}
    for document in [*(ROOT / "docs").glob("*.md"), ROOT / "configs" / "README.md"]:
        text = document.read_text()
        named = {name for name in re.findall(r"`([a-z0-9_]+)`", text) if NAME.fullmatch(name)}
        named |= set(re.findall(r"`(?:studies|sweeps)/([a-z0-9_]+)`", text))
        named |= {Path(name).stem for name in re.findall(r"configs/(\S+?)\.yaml", text)}
        assert named <= known, document


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "sweeps").glob("*.yaml")), ids=lambda path: path.stem
)
def test_a_sweep_says_what_it_asks_and_its_lineages_can_be_built(path):
    head = path.read_text().partition("\nbase:")[0].partition("\nzip:")[0]
    assert "Cost:" in head
    assert f"mad sweep --config configs/sweeps/{path.name}" in head
    assert f"`sweeps/{path.stem}`" in (ROOT / "configs" / "README.md").read_text()
    sweep = Sweep.read(path)
    for members in (min(sweep.arms.values(), key=len), [*sweep.arms.values()][-1]):
        meta = build(members[-1].arguments)
        assert meta.lineage.name == members[-1].name
        assert meta.settings.generations == members[-1].generations
        meta.policy.n_pool(meta.settings.generations)


def test_each_experiment_of_the_paper_is_named():
    text = (ROOT / "configs" / "README.md").read_text()
    for experiment in range(1, 16):
        assert re.search(rf"\bE{experiment}\b", text), f"E{experiment}"


def stand_in(source, directory):
    """Arguments that put a few made-up samples in the place of data that must be brought."""
    rng = np.random.default_rng(0)
    if (shape := {"MNIST": (28, 28), "CIFAR10": (3, 32, 32)}.get(source)) is not None:
        images = rng.integers(0, 256, (150, *shape)).astype("uint8")
        np.savez(directory / "stand_in.npz", images=images, labels=np.arange(150) % 10)
        return [
            "--data.source", "Arrays",
            "--data.source.path", str(directory / "stand_in.npz"),
            "--data.source.labels", "labels",
        ]  # fmt: skip
    if source == "Images":
        (directory / "pictures").mkdir()
        for place in range(150):
            pixels = rng.integers(0, 256, (20, 24, 3)).astype("uint8")
            Image.fromarray(pixels).save(directory / "pictures" / f"{place}.png")
        return [
            "--data.source.root", str(directory / "pictures"),
            "--data.source.resolution", "16",
        ]  # fmt: skip
    return []


def foreign(plain, directory):
    """Arguments that put a few made-up digits in the place of somebody else's samples."""
    if "external" not in plain["data"]:
        return []
    images = np.random.default_rng(1).integers(0, 256, (100, 1, 8, 8)).astype("uint8")
    np.savez(directory / "foreign.npz", values=images, labels=np.arange(100) % 10)
    return ["--data.external.path", str(directory / "foreign.npz")]


def first_of_each_kind():
    """All files; of those with the same policy, family and source the first, others ``slow``."""
    seen = set()
    for path in CONFIGS:
        _, *kind = read(path)
        is_first = tuple(kind) not in seen
        seen.add(tuple(kind))
        yield pytest.param(path, id=path.stem, marks=() if is_first else pytest.mark.slow)


@pytest.mark.parametrize("path", first_of_each_kind())
def test_config_trains_two_small_generations(path, tmp_path):
    """The file as it is, with fewer samples, steps and channels; data made here, not downloaded."""
    plain, policy, family, source = read(path)
    arguments = [
        "--config", str(path),
        "--lineage.root", str(tmp_path / "runs"),
        "--lineage.name", path.stem,
        "--lineage.generations", "2",
        "--lineage.n_grid", "10",
        "--data.cache", str(tmp_path / "cache"),
        "--data.n_reference", "100" if source == "Rosenbrock" else "30",  # its tails need more
        "--trainer.accelerator", "cpu",
        "--trainer.devices", "1",
        "--callbacks", '[{"class_path": "SampleGrids"}]',
        *TINY[family],
        *stand_in(source, tmp_path),
        *foreign(plain, tmp_path),
    ]  # fmt: skip
    if "improve" in plain:
        arguments += ["--improve.images", "32"]
    for name, count in SMALL[policy].items():
        arguments += [f"--policy.{name}", str(count)]
    extractor = plain["evaluator"]["extractor"]["class_path"]
    if extractor == "Classifier":
        arguments += ["--evaluator.extractor.n_images", "100"]
    if extractor == "Inception":  # its weights are brought, too
        arguments += ["--evaluator.extractor", "Identity"]
    meta = build(arguments)
    records = meta.fit()
    assert [r.generation for r in records] == [1, 2]
    assert sum(records[1].ages.values()) == records[1].n_synthetic > 0
    assert records[1].n_synthetic == 30 or policy == "AccumulateSubsample"
    assert records[0].sampling_bias == plain["sampling_bias"]
    assert (meta.lineage.picture(2)).exists()


def numbers(name):
    plain = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    return plain, plain["policy"]["init_args"], plain["generator"].get("init_args", {})


def test_fresh_gaussian_config_has_the_papers_numbers():
    """E9: d = 100, n_ini 100, 100 fresh beside 900 synthetic."""
    plain, policy, _ = numbers("gaussian_fresh")
    assert policy == {"n_initial": 100, "n_fresh": 100, "n_synthetic": 900}
    assert plain["data"]["source"]["init_args"]["dim"] == 100


def test_mnist_configs_have_the_papers_numbers():
    """E3, E8, E10: T = 500, ancestral sampling, 60k; fresh 2k and 2k."""
    counts = {}
    for loop in ("full_synth", "synth_aug", "fresh"):
        _, counts[loop], generator = numbers(f"mnist_diffusion_{loop}")
        assert (generator["timesteps"], generator["sampler"]) == (500, "ddpm")
        assert generator["sampling_steps"] is None
        assert generator["condition_drop"] == 0.1
    assert counts["full_synth"] == {"n_initial": 60_000, "n_synthetic": 60_000}
    assert counts["synth_aug"] == {"n_real": 60_000, "n_synthetic": 60_000}
    assert counts["fresh"] == {"n_initial": 2000, "n_fresh": 2000, "n_synthetic": 2000}


def test_the_fresh_loop_of_digits_doubles_its_training_set_as_the_papers_does():
    """E10 in small: n real, then n fresh and n synthetic, and 997 digits suffice."""
    plain, policy, _ = numbers("digits_diffusion_fresh")
    n = policy["n_initial"]
    assert policy == {"n_initial": n, "n_fresh": n, "n_synthetic": n}
    assert plain["lineage"]["generations"] * n <= 1797 - plain["data"]["n_reference"]


@pytest.mark.parametrize("path", [path for path in CONFIGS if "diffusion" in path.stem])
def test_every_diffusion_config_says_which_solver_and_how_many_steps(path):
    assert {"sampler", "sampling_steps", "beta_schedule"} <= read(path)[0]["generator"][
        "init_args"
    ].keys()
