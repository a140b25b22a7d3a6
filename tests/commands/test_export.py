"""A generation leaves as common files, and its generator draws elsewhere what it draws here."""

import io
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mad_lightning
from mad_lightning.commands import main
from mad_lightning.commands.train import build
from mad_lightning.data.shards import Shard
from mad_lightning.exchange import write_parquet
from mad_lightning.lineage import LineageDirectory
from mad_lightning.samples import Samples
from mad_lightning.seeds import normal, sample_seeds

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lineage(tmp_path_factory):
    """Three generations of a small diffusion, guided."""
    root = tmp_path_factory.mktemp("export")
    network = '{"class_path": "UNet", "init_args": {"widths": [8, 16]}}'
    build([
        "--lineage.root", str(root), "--lineage.name", "x_seed0", "--lineage.generations", "3",
        "--policy", "SyntheticAugmentation", "--policy.n_real", "60",
        "--policy.n_synthetic", "40", "--sampling_bias", "0.5",
        "--data.source", "Digits", "--data.n_reference", "50", "--data.cache", str(root / "cache"),
        "--data.images_per_epoch", "64", "--data.batch_size", "32",
        "--generator", "Diffusion", "--generator.network", network,
        "--generator.beta_schedule", "squaredcos_cap_v2", "--generator.prediction", "velocity",
        "--generator.sampler", "unipc", "--generator.sampling_steps", "6",
        "--evaluator.extractor", "Pixels", "--callbacks", "[]", "--trainer.accelerator", "cpu",
    ]).fit()  # fmt: skip
    return LineageDirectory(root / "x_seed0")


def export(lineage, *arguments):
    main(["export", str(lineage), *map(str, arguments)])


def test_loaded_generator_draws_the_shard_that_stands(lineage):
    for t in (1, 3):
        shard = Shard(lineage.shard(f"{t:03d}"))
        generator = mad_lightning.load(lineage.path, t)
        seeds = sample_seeds(0, 9, *shard.manifest.seeds)
        drawn = generator.sample(seeds, 0.5, shard.samples.labels[:9])
        assert torch.equal(drawn.values, shard.samples.values[:9])
    assert mad_lightning.load(str(lineage)).digest() == generator.digest()  # the last one


def test_readme_shows_how(lineage, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (code,) = (text for text in blocks if "mad_lightning.load(" in text)
    shutil.copytree(lineage.path, tmp_path / "runs" / "first")
    monkeypatch.chdir(tmp_path)
    shown = {}
    exec(code, shown)
    assert shown["images"].shape == (10, 1, 8, 8)


def test_pipeline_in_plain_diffusers_makes_the_same_image_of_the_same_noise(lineage, tmp_path):
    from diffusers import DiffusionPipeline

    export(lineage, "--to", "diffusers", "--generation", "1", "--out", tmp_path / "p")
    pipeline = DiffusionPipeline.from_pretrained(str(tmp_path / "p"), trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    generator, seeds, labels = mad_lightning.load(lineage.path, 1), torch.arange(7), [0, 3, 9] * 2
    labels = torch.tensor([*labels, 5])
    with torch.no_grad():
        ours = generator.draw(seeds, 0.5, labels)
    noise = normal(seeds, 1, 8, 8)
    theirs = pipeline(latents=noise, class_labels=labels.tolist(), output_type="pt").images
    assert (ours - theirs).abs().max() < 1e-5
    assert ours.std() > 0.1
    free = pipeline(latents=noise, class_labels=labels.tolist(), guidance_scale=1.0)
    assert free.images[0].size == (8, 8)
    with pytest.raises(ValueError, match="class_labels"):
        pipeline()


def test_every_kind_holds_the_samples_and_a_card(lineage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in ("folder", "zip", "npz"):
        export(lineage, "--to", kind, "--generation", 2)
    drawn = Shard(lineage.shard("002")).samples
    assert np.array_equal(np.load("x_seed0-002.npz")["values"], drawn.values.numpy())
    assert len([*tmp_path.glob("x_seed0-002/*/*.png")]) == len(drawn)
    text = (tmp_path / "x_seed0-002" / "README.md").read_text()
    assert "60 real + 40 synthetic samples (40% synthetic)" in text
    assert "40 from generation 1" in text
    assert "λ = 0.5" in text
    assert text == (tmp_path / "x_seed0-002.zip.md").read_text()


def test_parquet_holds_a_row_a_sample(lineage, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    export(lineage, "--to", "parquet", "--generation", 2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "x_seed0-002.parquet", "x_seed0-002.parquet.md",
    ]  # fmt: skip
    table = parquet.read_table("x_seed0-002.parquet")
    drawn = Shard(lineage.shard("002")).samples
    assert table["label"].to_pylist() == drawn.labels.tolist()
    images = [Image.open(io.BytesIO(row["bytes"])) for row in table["image"].to_pylist()]
    assert np.array_equal(np.stack(images), drawn.values[:, 0].numpy())
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["label"]["names"] == list("0123456789")


def test_the_card_tells_what_classes_are_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = np.arange(90) % 3
    np.savez("x.npz", x=np.random.default_rng(0).normal(size=(90, 2)), y=labels**2 + 1)
    build([
        "--lineage.name", "gaps", "--lineage.generations", "1", "--policy", "FullySynthetic",
        "--policy.n_initial", "30", "--data.source", "Arrays", "--data.source.path", "x.npz",
        "--data.source.values", "x", "--data.source.labels", "y", "--data.n_reference", "30",
        "--generator", "Gaussian", "--evaluator.extractor", "Identity", "--callbacks", "[]",
        "--trainer.accelerator", "cpu",
    ]).fit()  # fmt: skip
    export("runs/gaps", "--to", "npz")
    assert {*np.load("gaps-001.npz")["labels"]} <= {0, 1, 2}
    assert "- Classes: 0 = 1, 1 = 2, 2 = 5\n" in Path("gaps-001.npz.md").read_text()


def test_vectors_in_parquet_are_lists_and_many_samples_many_groups(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    values = torch.randn(2100, 3)
    write_parquet(Samples(values, None), tmp_path / "x.parquet")
    table = parquet.read_table(tmp_path / "x.parquet")
    assert table.column_names == ["vector"]
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), values.numpy())


def test_without_pyarrow_parquet_is_refused_with_what_to_install(
    lineage, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SystemExit):
        export(lineage, "--to", "parquet")
    told = capsys.readouterr().err
    assert told.startswith("error: to: ")
    assert "pip install 'mad-lightning[parquet]'" in told
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "folder", "--generation", 4], "generation"),
        (["--to", "folder", "--generation", 0], "generation"),
        (["--to", "tar"], "--to"),
        ([], "--to"),
        (["--to", "folder", "--out", "."], "--out"),
    ],
)
def test_refusals_name_the_field_and_write_nothing(
    lineage, arguments, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        export(lineage, *arguments)
    assert words in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


def test_damaged_samples_leave_nothing_behind(lineage, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = Shard(lineage.shard("001")).values_file
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        for kind in ("folder", "zip"):
            with pytest.raises(SystemExit):
                export(lineage, "--to", kind, "--generation", 1)
    finally:
        file.write_bytes(whole)
    assert str(file) in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


def test_a_family_without_a_pipeline_is_refused(lineage, tmp_path, capsys):
    meta = mad_lightning.MetaTrainer(
        mad_lightning.LineageSettings("gaussian", root=str(lineage.path.parent), generations=1),
        mad_lightning.FullySynthetic(n_initial=100),
        data=mad_lightning.GenerationDataModule(mad_lightning.StandardNormal(), n_reference=50),
        evaluator=mad_lightning.Evaluator(mad_lightning.Identity()),
        build_generator=mad_lightning.Gaussian,
        build_trainer_arguments=lambda: {"max_epochs": 1},
    )
    meta.fit()
    drawn = mad_lightning.load(meta.lineage.path).sample(torch.arange(5))
    assert drawn.values.shape == (5, 100)
    for kind in ("diffusers", "folder", "zip", "files"):
        with pytest.raises(SystemExit):
            export(meta.lineage, "--to", kind, "--out", tmp_path / kind)
    assert "mad_lightning.load" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []
