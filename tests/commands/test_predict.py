"""From four lineages on disk to a sentence, and to the command that checks it."""

import json
import shlex

import pytest
import torch

from mad_lightning.commands import main
from mad_lightning.commands.predict import products
from mad_lightning.commands.train import build
from mad_lightning.lineage import GenerationRecord, LineageDirectory
from mad_lightning.loop.probing import probe
from mad_lightning.policies import FreshData, FullySynthetic
from mad_lightning.report import load

CONFIG = {
    "policy.class_path": "FullySynthetic",
    "policy.init_args.n_initial": 60,
    "policy.init_args.n_synthetic": 60,
    "data.source": "StandardNormal",
    "data.source.init_args.dim": 12,
    "data.n_reference": 60,
    "data.batch_size": 60,
    "generator": "Gaussian",
    "evaluator.extractor": "Identity",
    "evaluator.metrics": "[GaussianW2, Neighbours]",
    "callbacks": "[]",
    "trainer.accelerator": "cpu",
    "lineage.generations": 3,
    "lineage.threads": 1,
}


def trained(root, seed):
    said = CONFIG | {"data.cache": root / "cache", "lineage.root": root / "runs"}
    said |= {"seed_everything": seed, "lineage.name": f"gaussian_seed{seed}"}
    meta = build([f"--{key}={value}" for key, value in said.items()])
    meta.fit()
    return str(meta.lineage.path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("predict")


@pytest.fixture(scope="module")
def lineages(root):
    return [trained(root, seed) for seed in range(6)]


def test_the_share_is_told_with_its_interval_and_what_was_assumed(lineages, tmp_path, capsys):
    main(["predict", *lineages, "--margin", "0.5", "--json", str(tmp_path / "told.json")])
    said, told = capsys.readouterr().out, json.loads((tmp_path / "told.json").read_text())
    assert "With 60 samples a generation of Gaussian on StandardNormal" in said
    assert "within 50 % of generation 1's w2_squared if at least" in said
    assert "the loop itself was not run" in said
    assert "Assumed: errors are small enough to add up linearly" in said
    exact = 1 - (0.5 / 1.5) ** 0.5  # to first order, of a family without bias that passes all on
    assert told["low"] < exact < told["high"]
    assert f"{100 * told['share']:.0f} % [{100 * told['low']:.0f}, " in said
    assert told["lineages"] == 6
    n_fresh = round(60 * told["share"])
    checks = [line for line in said.splitlines() if line.startswith("mad train")]
    assert len(checks) == 2
    meta = build([*shlex.split(checks[0])[2:], "--lineage.root", str(tmp_path)])
    mix = meta.policy.mix(2)
    assert (mix.n_fresh, mix.n_synthetic) == (n_fresh, 60 - n_fresh)
    assert meta.lineage.name == f"gaussian_check{n_fresh}_seed0"


def test_what_the_numbers_speak_against_is_not_predicted(lineages, capsys):
    with pytest.raises(SystemExit) as left:
        main(["predict", *lineages[:4], "--margin", "20"])
    assert left.value.code == 1
    said = capsys.readouterr().out
    assert "Cannot predict how much fresh data Gaussian on StandardNormal needs" in said
    assert "beyond the" in said
    assert "mad train" not in said


def test_samples_that_measure_are_none_that_were_trained_on(root, lineages):
    """On the shard that a child ate, its error looks passed on by more than there was."""
    meta = build(["--config", f"{lineages[0]}/config.yaml", "--callbacks=[]"])
    meta.measuring.prepare()
    features, labels = probe(meta, 1, 100)
    shard = meta.store["001"].samples.values
    assert labels is None
    assert features.shape == (100, 12)
    assert not torch.isin(features[:, 0], shard[:, 0]).any()
    again, _ = probe(meta, 1, 100)
    assert torch.equal(features, again)
    (group,) = load(lineages)
    told = products(group, "w2_squared", 2, 100)
    assert told.all.shape == (12, 12)
    assert told.without == []  # the real law is known
    assert len(products(group, "w2_squared", 2, 100, width=3.0).without) == 10


def test_what_cannot_be_asked_is_refused(root, lineages, tmp_path, refusal):
    assert "give at least 4 seeds of 3; 8 are better" in refusal("predict", *lineages[:3])
    assert "no ledger has fid" in refusal("predict", *lineages, "--metric", "fid")
    assert "no squared length" in refusal("predict", *lineages, "--metric", "recall")
    assert "--margin" in refusal("predict", *lineages, "--margin", "nan")
    assert "--generations" in refusal("predict", *lineages, "--generations", "2")
    few = [told(tmp_path, seed, FullySynthetic(30, 60)) for seed in range(4)]
    assert "trained on 30 and 60 samples" in refusal("predict", *few)
    assert "give lineages that differ in the seed alone" in refusal("predict", *lineages, *few)
    fresh = [told(tmp_path, seed, FreshData(60, 30, 30)) for seed in range(4)]
    assert "not fully synthetic" in refusal("predict", *fresh)


def told(root, seed, policy):
    """A ledger, and nothing else."""
    directory = LineageDirectory(root / f"{policy.token}_seed{seed}")
    directory.path.mkdir()
    for t in (1, 2, 3):
        mix = policy.mix(t)
        counts = (mix.n_real, mix.n_fresh, mix.n_synthetic)
        directory.ledger.append(
            GenerationRecord(
                t, policy.token, *counts, 1.0, metrics={"w2_squared": 1.0 + seed}, ages=mix.ages()
            )
        )
    return directory.path
