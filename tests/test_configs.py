"""Every shipped configuration introduces itself, parses, builds, and trains a little."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from mad_lightning.cli import build

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
LOOPS = ("full_synth", "synth_aug", "fresh")
SMALL = {
    "FullySynthetic": {"n_initial": 40, "n_synthetic": 30},
    "SyntheticAugmentation": {"n_real": 40, "n_synthetic": 30},
    "FreshData": {"n_initial": 40, "n_fresh": 20, "n_synthetic": 30},
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_says_what_it_shows_what_it_costs_and_how_to_run_it(path):
    text = path.read_text()
    head = text[: text.index("lineage:")]
    assert "Cost:" in head
    assert f"python train.py --config configs/{path.name}" in head
    plain = yaml.safe_load(text)
    family = plain["generator"]["class_path"].lower()
    dataset = plain["data"]["source"]["class_path"].lower()
    prefix = "gaussian" if family == "gaussian" else f"{dataset}_{family}"
    assert path.stem.startswith(tuple(f"{prefix}_{loop}" for loop in LOOPS))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_trains_two_small_generations(path, tmp_path):
    """The file as it is, with fewer samples, steps and channels; data made here, not downloaded."""
    plain = yaml.safe_load(path.read_text())
    policy = plain["policy"]["class_path"]
    arguments = [
        "--config", str(path),
        "--lineage.root", str(tmp_path / "runs"),
        "--lineage.name", path.stem,
        "--lineage.generations", "2",
        "--lineage.n_grid", "10",
        "--data.cache", str(tmp_path / "cache"),
        "--data.n_reference", "30",
        "--trainer.accelerator", "cpu",
        "--callbacks", '[{"class_path": "SampleGrids"}]',
    ]  # fmt: skip
    for name, count in SMALL[policy].items():
        arguments += [f"--policy.{name}", str(count)]
    if plain["generator"]["class_path"] == "Diffusion":
        arguments += [
            "--generator.network.widths", "[8,8]",
            "--generator.network.layers", "1",
            "--generator.timesteps", "20",
            "--data.batch_size", "16",
            "--data.images_per_epoch", "32",
            "--trainer.max_epochs", "1",
            "--evaluator.extractor.n_images", "100",
        ]  # fmt: skip
    if plain["data"]["source"]["class_path"] == "MNIST":
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (150, 28, 28)).astype("uint8")
        np.savez(tmp_path / "stand_in.npz", images=images, labels=np.arange(150) % 10)
        arguments += [
            "--data.source", "Arrays",
            "--data.source.path", str(tmp_path / "stand_in.npz"),
            "--data.source.labels", "labels",
        ]  # fmt: skip
    meta = build(arguments)
    records = meta.fit()
    assert [r.generation for r in records] == [1, 2]
    assert records[1].n_synthetic == 30
    assert records[0].sampling_bias == plain["sampling_bias"]
    assert (meta.path(2) / "samples.png").exists()


def test_fresh_gaussian_config_has_the_papers_numbers():
    """E9: d = 100, n_ini 100, 100 fresh beside 900 synthetic."""
    plain = yaml.safe_load((ROOT / "configs" / "gaussian_fresh.yaml").read_text())
    assert plain["policy"]["init_args"] == {"n_initial": 100, "n_fresh": 100, "n_synthetic": 900}
    assert plain["data"]["source"]["init_args"]["dim"] == 100


def test_mnist_configs_have_the_papers_numbers():
    """E3, E8, E10: T = 500, ancestral sampling, 60k; fresh 2k and 2k."""
    counts = {}
    for loop in LOOPS:
        plain = yaml.safe_load((ROOT / "configs" / f"mnist_diffusion_{loop}.yaml").read_text())
        generator = plain["generator"]["init_args"]
        assert (generator["timesteps"], generator["sampler"]) == (500, "ddpm")
        assert generator["sampling_steps"] is None
        assert generator["condition_drop"] == 0.1
        counts[loop] = plain["policy"]["init_args"]
    assert counts["full_synth"] == {"n_initial": 60_000, "n_synthetic": 60_000}
    assert counts["synth_aug"] == {"n_real": 60_000, "n_synthetic": 60_000}
    assert counts["fresh"] == {"n_initial": 2000, "n_fresh": 2000, "n_synthetic": 2000}
