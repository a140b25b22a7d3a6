"""Whatever rots in a finished lineage is found, and what is sound is not blamed."""

import shutil

import pytest

from mad_lightning.commands import main
from mad_lightning.commands.train import build
from mad_lightning.lineage import LineageDirectory
from mad_lightning.loop.verifying import damage


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A lineage of Gaussians on real digits."""
    root = tmp_path_factory.mktemp("sound")
    metrics = '[{"class_path": "Neighbours"}, {"class_path": "Frechet"}]'
    build(
        [
            "--lineage.root", str(root / "runs"), "--lineage.name", "mine",
            "--lineage.generations", "2",
            "--policy", "FullySynthetic", "--policy.n_initial", "200",
            "--data.source", "Digits", "--data.n_reference", "100",
            "--data.cache", str(root / "cache"),
            "--generator", "Gaussian",
            "--evaluator.extractor", "Identity", "--evaluator.metrics", metrics,
            "--callbacks", "[]", "--trainer.accelerator", "cpu",
        ]
    ).fit()  # fmt: skip
    return root / "runs" / "mine"


@pytest.fixture
def lineage(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "mine")
    return LineageDirectory(tmp_path / "mine")


def flip(path, share=0.5):
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 1
    path.write_bytes(bytes(content))


ARTEFACTS = {
    "mix": lambda lineage: lineage.mix_file(1),
    "weights": lambda lineage: lineage.weights(1),
    "shard": lambda lineage: lineage.shard("001").with_suffix(".safetensors"),
    "manifest": lambda lineage: lineage.shard("001").with_suffix(".json"),
    "metrics": lambda lineage: lineage.metrics_file(1),
    "curves": lambda lineage: lineage.curves_file(1),
}


def test_a_sound_lineage_is_sound(lineage, capsys):
    for record in lineage.records():
        assert list(damage(lineage, record)) == []
    main(["verify", str(lineage)])
    assert capsys.readouterr().out.count("as told") == 2


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_what_is_gone_or_cut_is_named(lineage, artefact):
    path = ARTEFACTS[artefact](lineage)
    record = lineage.records()[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (words,) = damage(lineage, record)
    assert words
    path.unlink()
    if artefact != "curves":  # closed forms log nothing
        assert list(damage(lineage, record))
    assert list(damage(lineage, lineage.records()[1])) == []


@pytest.mark.parametrize("artefact", ["weights", "shard"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_one_bit_is_enough(lineage, artefact, share, capsys):
    flip(ARTEFACTS[artefact](lineage), share)
    with pytest.raises(SystemExit) as left:
        main(["verify", str(lineage)])
    assert left.value.code == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: lineages: 1 artefacts are not what was written")
    assert said.out.count("as told") == 1


def test_an_edited_ledger_is_refused(lineage, capsys):
    path = lineage.ledger.path
    path.write_text(path.read_text().replace('"recall": 0', '"recall": 1', 1))
    with pytest.raises(SystemExit):
        main(["verify", str(lineage)])
    assert "line 1 is not what was written" in capsys.readouterr().err
