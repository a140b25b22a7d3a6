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
            "--callbacks", "[SampleGrids]", "--trainer.accelerator", "cpu",
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
    "picture": lambda lineage: lineage.picture(1),
}
OF_ALL = {
    "configuration": lambda lineage: lineage.config_file,
    "floor": lambda lineage: lineage.floor_file,
    "ledger": lambda lineage: lineage.ledger.path,
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
    assert str(path) in words
    path.unlink()
    if artefact not in ("picture", "seconds"):  # which need not be there
        assert list(damage(lineage, record))
    assert list(damage(lineage, lineage.records()[1])) == []


@pytest.mark.parametrize("artefact", ARTEFACTS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_one_bit_is_enough(lineage, artefact, share, capsys):
    flip(ARTEFACTS[artefact](lineage), share)
    with pytest.raises(SystemExit) as left:
        main(["verify", str(lineage)])
    assert left.value.code == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: lineages: 1 artefacts are not what was written")
    assert said.out.count("as told") == 1


@pytest.mark.parametrize("artefact", OF_ALL)
@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_so_it_is_in_what_the_whole_lineage_has(lineage, artefact, share, capsys):
    path = OF_ALL[artefact](lineage)
    flip(path, min(share, 1 - 1 / path.stat().st_size))
    with pytest.raises(SystemExit) as left:
        main(["verify", str(lineage)])
    assert left.value.code == 2
    assert str(path) in capsys.readouterr().err


def test_lines_that_are_gone_while_their_generations_stand_are_missed(lineage, capsys):
    shutil.copytree(lineage.generation(2), lineage.generation(3))
    path = lineage.ledger.path
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(SystemExit):
        main(["verify", str(lineage)])
    assert f"ends before {lineage.generation(3)}" in capsys.readouterr().err


def test_what_is_no_lineage_is_passed_over_and_all_others_are_read(lineage, tmp_path, capsys):
    (tmp_path / "cache").mkdir()
    shutil.copytree(lineage.path, tmp_path / "another")
    lineage.ledger.path.write_text("nonsense\n")
    with pytest.raises(SystemExit):
        main(["verify", *map(str, sorted(tmp_path.iterdir(), reverse=True))])
    said = capsys.readouterr()
    assert f"{lineage}: {lineage.ledger.path}: line 1" in said.out
    assert said.out.count("as told") == 2
    with pytest.raises(SystemExit):
        main(["verify", str(tmp_path / "cache")])
    assert "no generation is finished" in capsys.readouterr().err


def test_an_edited_ledger_is_refused(lineage, capsys):
    path = lineage.ledger.path
    path.write_text(path.read_text().replace('"recall": 0', '"recall": 1', 1))
    with pytest.raises(SystemExit):
        main(["verify", str(lineage)])
    assert "line 1 is not what was written" in capsys.readouterr().err
