"""A branch has its parent's past and settings of its own, and says so wherever it is read."""

import os
import shutil

import pytest
import yaml

from mad_lightning.commands import main
from mad_lightning.commands.train import build
from mad_lightning.data.shards import Shard
from mad_lightning.lineage import LineageDirectory
from mad_lightning.loop.branching import branch
from mad_lightning.refusal import Refused
from mad_lightning.report.groups import load
from mad_lightning.report.tables import table


@pytest.fixture(scope="module")
def parent_of_all(tmp_path_factory):
    """Two generations of Gaussians on real digits, of three that were wanted."""
    root = tmp_path_factory.mktemp("branches")
    metrics = '[{"class_path": "Neighbours"}, {"class_path": "Frechet"}]'
    arguments = [
        "--lineage.root", str(root / "runs"), "--lineage.name", "x_seed0",
        "--lineage.generations", "2", "--lineage.threads", "1",
        "--policy", "FullySynthetic", "--policy.n_initial", "200",
        "--data.source", "Digits", "--data.n_reference", "100",
        "--data.cache", str(root / "cache"),
        "--generator", "Gaussian",
        "--evaluator.extractor", "Identity", "--evaluator.metrics", metrics,
        "--callbacks", "[]", "--trainer.accelerator", "cpu",
    ]  # fmt: skip
    build(arguments).fit()
    return root


@pytest.fixture
def parent(parent_of_all, tmp_path):
    shutil.copytree(parent_of_all / "runs", tmp_path / "runs")
    return LineageDirectory(tmp_path / "runs" / "x_seed0")


def digests(lineage):
    return [record.digests for record in lineage.records()]


def begun(parent, name, *arguments, at="2"):
    """Branches, and says where the branch lies."""
    main(["branch", "--from", f"{parent}@{at}", "--lineage.name", name, *map(str, arguments)])
    return LineageDirectory(parent.path.parent / name)


def go_on(lineage, *arguments):
    main(["train", "--config", str(lineage.config_file), *map(str, arguments)])
    return lineage


def content(lineage):
    return {
        path.relative_to(lineage.path): path.read_bytes()
        for path in sorted(lineage.path.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("at", ["1", "latest"])
def test_without_a_change_a_branch_an_extension_and_one_long_lineage_agree(parent, at, capsys):
    before = content(parent)
    y = begun(parent, "y", "--lineage.generations", "3", at=at)
    assert f"mad train --config {y.config_file}" in capsys.readouterr().out
    assert content(parent) == before
    go_on(y)
    go_on(parent, "--lineage.root", parent.path.parent, "--lineage.generations", "3")
    assert digests(y) == digests(parent)
    assert [a.metrics for a in y.records()] == [b.metrics for b in parent.records()]
    marks = [record.branched_from for record in y.records()]
    n = {"1": 1, "latest": 2}[at]
    assert marks[n:] == [None] * (3 - n)
    assert [mark["name"] for mark in marks[:n]] == ["x_seed0"] * n
    assert [mark["digest"] for mark in marks[:n]] == parent.ledger.digests()[:n]
    capsys.readouterr()
    main(["verify", str(y), str(parent)])
    assert f"{y} generation 1 of x_seed0: as told" in capsys.readouterr().out


def test_from_its_first_generation_on_a_branch_has_other_settings(parent):
    y = begun(
        parent, "y", "--lineage.generations", "4", "--sampling_bias", "0.5",
        "--policy", "FreshData", "--policy.n_initial", "200",
        "--policy.n_fresh", "50", "--policy.n_synthetic", "150",
    )  # fmt: skip
    assert digests(y) == digests(parent)
    records = go_on(y).records()
    assert [record.policy for record in records] == ["full_synth"] * 2 + ["fresh"] * 2
    assert [record.n_fresh for record in records] == [0, 0, 50, 50]
    assert [record.sampling_bias for record in records] == [1.0, 1.0, 0.5, 0.5]
    go_on(y)  # nothing is left to train
    with pytest.raises(SystemExit):
        go_on(y, "--sampling_bias", "0.4")
    assert yaml.safe_load(y.config_file.read_text())["sampling_bias"] == 0.5

    z = begun(y, "z", "--sampling_bias", "0.8", "--lineage.generations", "5", at="3")
    names = [(record.branched_from or {}).get("name") for record in go_on(z).records()]
    assert names == ["x_seed0", "x_seed0", "y", None, None]


def test_files_are_shared_and_neither_lineage_spoils_those_of_the_other(parent):
    y = begun(parent, "y")
    shard = parent.shard("002").with_suffix(".safetensors")
    assert shard.samefile(y.shard("002").with_suffix(".safetensors"))
    shutil.rmtree(parent.path)
    main(["verify", str(y)])


def test_where_files_cannot_be_shared_they_are_copied(parent, monkeypatch):
    def no_links(*_):
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    y = begun(parent, "y")
    same = content(parent).keys() - {"lineage.jsonl"}
    assert {str(path) for path in same} - {".lock"} <= {str(path) for path in content(y)}


def test_a_report_says_where_a_branch_left_and_takes_it_for_no_seed(parent):
    more = ("--lineage.generations", "3", "--sampling_bias", "0.5")
    branches = [go_on(begun(parent, name, *more)).path for name in ("y_seed0", "y_seed1")]
    groups = load([parent.path, *branches])
    assert [len(group.lineages) for group in groups] == [1, 1, 1]
    told = table(groups, ["recall"])
    assert "y_seed0: branched from x_seed0 after generation 2." in told
    assert "x_seed0: branched" not in told


def test_branches_of_two_seeds_are_seeds_of_one_another(parent):
    other = build(["--config", str(parent.config_file), "--lineage.root", str(parent.path.parent),
                   "--lineage.name", "x_seed1", "--seed_everything", "1",
                   "--lineage.generations", "1"])  # fmt: skip
    other.fit()
    more = ("--lineage.generations", "2", "--sampling_bias", "0.5")
    y = go_on(begun(parent, "y_seed0", *more, at="1"))
    z = go_on(begun(other.lineage, "y_seed1", *more, at="latest"))
    (group,) = load([y.path, z.path])
    assert len(group.lineages) == 2


REFUSED = {
    "a name that exists": (["--lineage.name", "x_seed0"], "lineage.name"),
    "other data": (["--data.source", "Photos", "--data.source.resolution", "8"], "data.source"),
    "another reference": (["--data.n_reference", "90"], "data"),
    "another split": (["--data.split_seed", "5"], "data"),
    "another metric": (
        ["--evaluator.metrics", '[{"class_path": "Neighbours", "init_args": {"k": 3}}]'],
        "lineage",
    ),
    "more samples than were drawn": (["--policy.n_synthetic", "201"], "policy"),
    "real samples in another order": (
        ["--seed_everything", "1", "--policy", "SyntheticAugmentation", "--policy.n_real", "10"],
        "seed_everything",
    ),
    "fresh samples that were used": (
        ["--policy", "FreshData", "--policy.n_initial", "40", "--policy.n_fresh", "20",
         "--policy.n_synthetic", "50"],
        "policy",
    ),
    "a field that is none": (["--generator.nothing", "1"], "generator.nothing"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_go_on_from_there_is_refused_and_nothing_is_written(parent, refusal, case):
    arguments, field = REFUSED[case]
    before = {path: path.stat().st_mtime_ns for path in parent.path.parent.rglob("*")}
    name = [] if "--lineage.name" in arguments else ["--lineage.name", "y"]
    more = ["--lineage.generations", "4"]
    said = refusal("branch", "--from", f"{parent}@2", *name, *more, *arguments)
    assert said.startswith(f"error: {field}: ")
    assert {path: path.stat().st_mtime_ns for path in parent.path.parent.rglob("*")} == before


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("@0", "no generation 0"),
        ("@3", "2 generations are finished"),
        ("@", "'' is no generation"),
        ("@first", "'first' is no generation"),
        ("@-1", "'-1' is no generation"),
        ("@" + "9" * 30, "no generation"),
        ("/nowhere", "no lineage"),
    ],
)
def test_a_place_that_is_none_is_refused(parent, refusal, place, words):
    assert words in refusal("branch", "--from", f"{parent}{place}", "--lineage.name", "y")


def test_a_damaged_generation_is_not_handed_on(parent, refusal):
    path = parent.weights(1)
    path.write_bytes(path.read_bytes()[:-100])
    assert "generator.ckpt is damaged" in refusal(
        "branch", "--from", f"{parent}@2", "--lineage.name", "y"
    )


def test_a_branch_that_dies_on_the_way_leaves_nothing_and_stands_in_nobodys_way(
    parent, monkeypatch
):
    meta = build(["--config", str(parent.config_file), "--lineage.root", str(parent.path.parent),
                  "--lineage.name", "y"])  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(LineageDirectory, "keep_config", lambda *_: 1 / 0)
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)  # a kill tidies nothing up
        with pytest.raises(ZeroDivisionError):
            branch(meta, parent)
    assert not meta.lineage.path.exists()
    assert branch(meta, parent) == 2
    assert [path.name for path in sorted(parent.path.parent.iterdir())] == ["x_seed0", "y"]


@pytest.mark.slow
def test_networks_that_shall_go_on_from_the_parents_weights_must_fit_them(
    arguments, diffusion, tmp_path
):
    small = [*arguments, *diffusion, "--lineage.generations", "1", "--lineage.start", "previous"]
    meta = build(small)
    meta.fit()
    other = [*small, "--lineage.name", "y", "--generator.network.widths", "[8,16]"]
    with pytest.raises(Refused) as caught:
        branch(build([*other, "--lineage.generations", "2"]), meta.lineage)
    assert caught.value.field == "generator"
    slower = build([*small, "--lineage.name", "y", "--generator.lr", "0.0001",
                    "--lineage.generations", "2"])  # fmt: skip
    assert branch(slower, meta.lineage) == 1
    assert len(slower.fit()) == 2


def test_a_branch_of_a_lineage_that_evicts_goes_on_as_its_parent(parent, capsys):
    early = begun(parent, "early")
    here = ["--lineage.root", parent.path.parent]  # its configuration tells of another place
    evicting = [*here, "--lineage.keep", "needed", "--lineage.generations"]
    go_on(parent, *evicting, 4)
    later = begun(parent, "later", at="4")
    go_on(parent, *evicting, 5)
    for lineage in (early, later):  # what one of them drops, the others keep
        assert digests(go_on(lineage, *evicting, 5)) == digests(parent)
    assert [Shard(later.shard(f"00{t}")).is_evicted for t in range(1, 6)] == [True] * 3 + [
        False
    ] * 2

    with pytest.raises(SystemExit):
        begun(parent, "refused", at="1")
    assert "the samples of shard 001 were evicted" in capsys.readouterr().err
    go_on(parent, *here, "--lineage.keep", "all", "--lineage.generations", 5)
    assert digests(go_on(begun(parent, "back", at="1"), *evicting, 5)) == digests(parent)
