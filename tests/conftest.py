"""Small lineages for all tests, hermetic: no network, no W&B account, one thread."""

import os

import pytest

# Before torch is imported. These networks gain nothing from a second thread, and on a busy machine
# two that wait for each other are many times slower than one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
os.environ["WANDB_MODE"] = "disabled"
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture
def arguments(tmp_path):
    """Arguments of a lineage that takes a second: Gaussians on real digits."""
    return [
        "--lineage.root", str(tmp_path / "runs"),
        "--lineage.name", "tiny",
        "--lineage.generations", "3",
        "--lineage.block_size", "32",
        "--lineage.threads", "1",
        "--policy", "FullySynthetic",
        "--policy.n_initial", "200",
        "--data.source", "Digits",
        "--data.n_reference", "100",
        "--data.cache", str(tmp_path / "cache"),
        "--generator", "Gaussian",
        "--evaluator.extractor", "Identity",
        "--evaluator.metrics", '[{"class_path": "Neighbours"}, {"class_path": "Frechet"}]',
        "--callbacks", '[{"class_path": "SampleGrids"}]',
        "--trainer.accelerator", "cpu",
    ]  # fmt: skip


@pytest.fixture
def diffusion():
    """Further arguments that make it a lineage of diffusion models: 2 epochs of 4 steps."""
    return [
        "--generator", "Diffusion",
        "--generator.network", "mad_lightning.nets.unet.UNet",
        "--generator.network.widths", "[8,8]",
        "--generator.sampling_steps", "3",
        "--data.batch_size", "32",
        "--data.images_per_epoch", "128",
        "--trainer.max_epochs", "2",
    ]  # fmt: skip
