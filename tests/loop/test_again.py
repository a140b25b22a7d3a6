"""What is measured again is what a lineage measured so from the start has."""

import json

import pytest

from mad_lightning.commands import main
from mad_lightning.commands.train import build
from mad_lightning.lineage import LineageDirectory
from mad_lightning.loop.measuring import Measuring

METRICS = ["Neighbours", "Memorisation"]


def trained(root, name, *more, n=3):
    """Gaussians on real digits, mixed with the shards of all earlier generations."""
    build([
        "--lineage.root", str(root / "runs"), "--lineage.name", name,
        "--lineage.generations", str(n), "--lineage.threads", "1",
        "--policy", "SyntheticAugmentation", "--policy.n_real", "150",
        "--policy.n_synthetic", "100",
        "--data.source", "Digits", "--data.n_reference", "100",
        "--data.cache", str(root / "cache"),
        "--generator", "Gaussian", "--evaluator.extractor", "Identity",
        "--evaluator.metrics", '["Frechet"]', "--callbacks", "[]", "--trainer.accelerator", "cpu",
        *more,
    ]).fit()  # fmt: skip
    return LineageDirectory(root / "runs" / name)


@pytest.fixture(scope="module")
def lineage(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("again"), "x_seed0")


@pytest.fixture(scope="module")
def otherwise(lineage):
    """The same lineage, measured by pixels from the start."""
    said = ["--evaluator.extractor", "Pixels", "--evaluator.metrics", json.dumps(METRICS)]
    return lines(trained(lineage.path.parents[1], "otherwise", *said))


def lines(lineage):
    """What its ledger tells came out."""
    return [record.outcome for record in lineage.records()]


def again(lineage, name):
    main(["measure", str(lineage), "--extractor", "pixels", "--metrics", *METRICS, "--name", name])
    return LineageDirectory(lineage.measured_again / name)


def content(lineage):
    return {
        path: path.read_bytes()
        for path in lineage.path.rglob("*")
        if path.is_file() and lineage.measured_again not in path.parents
    }


def test_ledger_is_that_of_a_lineage_measured_so_from_the_start(lineage, otherwise, capsys):
    before = content(lineage)
    measured = again(lineage, "pixels")
    assert lines(measured) == otherwise
    assert content(lineage) == before
    main(["verify", str(measured)])
    main(["report", str(measured)])
    told = capsys.readouterr().out
    assert "x-pixels" in told
    assert "memorised" in told


def test_killed_after_any_generation_it_goes_on(lineage, otherwise, monkeypatch):
    measure = Measuring.measure
    for last in (0, 1, 2):

        def until(self, t, *others, last=last):
            if t > last:
                raise KeyboardInterrupt
            measure(self, t, *others)

        monkeypatch.setattr(Measuring, "measure", until)
        with pytest.raises(SystemExit):
            again(lineage, "killed")
        monkeypatch.undo()
    assert lines(again(lineage, "killed")) == otherwise


def test_generations_finished_since_are_measured_too(lineage, otherwise):
    root = lineage.path.parents[1]
    short = trained(root, "short", n=2)
    assert len(lines(again(short, "pixels"))) == 2
    grown = trained(root, "short", n=3)
    assert lines(again(grown, "pixels")) == otherwise


def test_name_stands_for_one_way_to_measure(lineage, capsys):
    again(lineage, "pixels")
    with pytest.raises(SystemExit):
        main(["measure", str(lineage), "--metrics", "Kernel", "--name", "pixels"])
    assert "another configuration" in capsys.readouterr().err


def test_what_the_lineage_has_lost_is_refused(lineage, capsys):
    broken = trained(lineage.path.parents[1], "broken", n=2)
    shard = broken.shard("002").with_suffix(".safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(SystemExit):
        again(broken, "pixels")
    assert str(shard) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([], "--name"),
        (["--name", "../up", "--extractor", "pixels"], "--name"),
        (["--extractor", "Nonsense"], "evaluator.extractor"),
        (["--metrics", "Nonsense"], "evaluator.metrics"),
        (["--name", "n", "--data.n_reference", "60"], "data.n_reference"),
    ],
)
def test_refusals_name_the_field_and_write_nothing(lineage, capsys, said, words):
    before = set(lineage.path.rglob("*"))
    with pytest.raises(SystemExit):
        main(["measure", str(lineage), *said])
    assert words in capsys.readouterr().err
    assert set(lineage.path.rglob("*")) == before
