"""The door of the laboratory: every shipped study, its table, its figure, its refusals."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mad_lightning.commands import main

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "configs" / "studies").glob("*.yaml"))
SMALL = {
    "e9": ["--generations", "3", "--grid.n_initial", "[10, 20]"],
    "e11": ["--grid.n_real", "[10, 20]", "--grid.n_synthetic", "[10, 40]"],
    "e12": ["--grid.n_real", "[10]", "--grid.n_synthetic", "[10, 80]"],
    "e13": ["--grid.n_real", "[10]", "--grid.n_synthetic", "[20]", "--grid.k", "[1, 3]"],
    "e14": ["--grid.n", "[20, 60]", "--grid.real_share", "[1.0, 0.2]", "--also.n", "[30, 50]"],
}
OTHERS = {
    "collapse": [
        "--generations", "3",
        "--laboratory.loops", "[{class_path: FullySynthetic, init_args: {n_initial: 9}}]",
    ],
    "exponential_families": ["--generations", "4"],
    "kernels": ["--generations", "4"],
    "least_squares": ["--generations", "4"],
    "marks": ["--generations", "4"],
    "one_real_point": ["--generations", "4"],
    "texts": ["--generations", "3"],
    "words": ["--generations", "3"],
}  # fmt: skip
PAPER = [path for path in STUDIES if path.stem not in OTHERS]
ROWS = {"e9": 2 * 2 * 3, "e11": 2 * 2 * 3, "e12": 2 * 10, "e13": 2, "e14": 4 + 2 * 5}


def run(tmp_path, name, *more):
    out = tmp_path / f"{name}.csv"
    config = str(ROOT / "configs" / "studies" / f"{name}.yaml")
    small = ["--dim", "6", "--precision", "0.1", "--threads", "1", "--out", str(out)]
    main(["study", "--config", config, *small, *SMALL[name], *more])
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_studies_of_the_paper_are_there():
    assert [path.stem for path in PAPER] == ["e11", "e12", "e13", "e14", "e9"]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_says_what_it_shows_what_it_costs_and_how_to_run_it(path):
    head = path.read_text().split("grid:" if path in PAPER else "laboratory:")[0]
    assert head.startswith(f"# {path.stem.upper()}: ") or path not in PAPER
    assert "Cost:" in head
    assert f"mad study --config configs/studies/{path.name}" in head
    if path in PAPER:
        assert yaml.safe_load(path.read_text())["dim"] == 100


@pytest.mark.parametrize("name", OTHERS)
def test_every_family_has_its_table_and_its_figure(name, tmp_path, capsys):
    config = str(ROOT / "configs" / "studies" / f"{name}.yaml")
    out = tmp_path / f"{name}.csv"
    main(["study", "--config", config, "--lineages", "8", "--out", str(out), *OTHERS[name]])
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    settings = yaml.safe_load(Path(config).read_text())["laboratory"]
    assert len({row["family"] for row in rows}) == len(settings["families"])
    if name != "collapse":
        loops = {(row["loop"], row["n_fresh"], row["sampling_bias"]) for row in rows}
        assert len(loops) == len(settings["loops"]) * len(settings.get("sampling_bias", [1]))
    assert (tmp_path / f"{name}.svg").read_text().startswith("<?xml")
    told = capsys.readouterr().out
    assert ("variance collapses: Normal" if name == "collapse" else "expectation") in told


@pytest.mark.parametrize("name", SMALL)
def test_study_leaves_a_tidy_table_and_a_figure(name, tmp_path, capsys):
    rows = run(tmp_path, name)
    assert len(rows) == ROWS[name]
    for row in rows:
        assert float(row["w2_squared"]) > 0
        assert 0 <= float(row["standard_error"]) < float(row["w2_squared"])
        assert int(row["n"]) == int(row["n_real"]) + int(row["n_synthetic"])
        assert float(row["real_share"]) == pytest.approx(int(row["n_real"]) / int(row["n"]))
        if name != "e9":
            n_e, n_real = float(row["n_e"]), int(row["n_real"])
            assert float(row["ratio"]) == pytest.approx(n_e / n_real)
            assert row["admissible"] == str(n_e >= n_real)
            assert 0 < int(row["burn_in"]) < int(row["generations"])
    figure = (tmp_path / f"{name}.svg").read_text()
    assert figure.startswith("<?xml")
    axes = yaml.safe_load((ROOT / "configs" / "studies" / f"{name}.yaml").read_text())["axes"]
    labels = {
        "n_synthetic": "n_s", "ratio": "n_e / n_r", "k": "K", "generation": "generation t",
        "w2_squared": "E W₂²", "n": ">n<", "sampling_bias": "λ",
    }  # fmt: skip
    assert labels[axes["x"]] in figure
    assert labels[axes["y"]] in figure
    told = capsys.readouterr().out
    assert f"{len(rows)} rows" in told
    assert f"{name}.svg" in told


def test_the_same_seed_gives_the_same_files(tmp_path):
    first, second = (run(tmp_path / name, "e11") for name in "ab")
    assert first == second
    assert (tmp_path / "a" / "e11.svg").read_bytes() == (tmp_path / "b" / "e11.svg").read_bytes()
    assert run(tmp_path / "c", "e11", "--seed", "1") != first


def test_figures_come_as_png_too(tmp_path):
    run(tmp_path, "e12", "--figure", str(tmp_path / "map.png"))
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        (["--gird.n_real", "[3]"], "gird.n_real", "no such field"),
        (["--grid.n_reel", "[3]"], "grid.n_reel", "did you mean grid.n_real"),
        (["--dim", "many"], "dim", "many"),
        (["--dim", "0"], "dim", "at least 1"),
        (["--grid.n_real", "[1]"], "grid.n_real", "at least 2"),
        (["--also.n_real", "[1]", "--also.n_synthetic", "[9]"], "also.n_real", "at least 2"),
        (["--grid.sampling_bias", "[1.5]"], "grid.sampling_bias", "outside"),
        (["--grid.sampling_bias", "[]"], "grid.sampling_bias", "empty"),
        (["--grid.n", "[10]", "--grid.real_share", "[0.5]"], "grid", "two sizes"),
        (["--grid.n_real", "[]"], "grid", "no sizes"),
        (["--generations", "3"], "grid.n_initial", "none"),
        (["--generations", "0", "--grid.n_initial", "[9]"], "generations", "at least 1"),
        (["--precision", "2"], "precision", "relative error"),
        (["--axes.x", "n_sinthetic"], "axes.x", "no column"),
        (["--axes.log", "z"], "axes.log", "z"),
        (["--out", "table.txt"], "out", "*.csv"),
        (["--figure", "figure.jpg"], "figure", "*.svg"),
        (["--device", "abacus"], "device", "abacus"),
        (["--config", "configs/studies/e15.yaml"], "config", "there is no file"),
        (["--laboratory.families", "[Normal]"], "laboratory.loops", "empty"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    arguments, field, words, tmp_path, refusal, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config = ROOT / "configs" / "studies" / "e11.yaml"
    message = refusal("study", "--config", config, *arguments)
    assert message.startswith(f"error: {field}: ")
    assert words in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        (["--laboratory.familys", "[]"], "laboratory.familys", "did you mean laboratory.families"),
        (["--laboratory.families", "[Normul]"], "laboratory.families", "no class Normul"),
        (["--laboratory.families", "[]"], "laboratory.families", "empty"),
        (
            ["--laboratory.families", "[{class_path: Categorical, init_args: {types: 1}}]"],
            "laboratory.families.types",
            "at least 2",
        ),
        (
            ["--laboratory.loops", "[{class_path: FullySynthetic, init_args: {n_initial: 0}}]"],
            "laboratory.loops.n_initial",
            "at least 1",
        ),
        (["--laboratory.sampling_bias", "[11]"], "laboratory.sampling_bias", "outside"),
        (["--laboratory.measures", "[colour]"], "laboratory.measures", "heterozygosity"),
        (["--generations", "null"], "generations", "at least 1"),
        (["--grid.n_real", "[9]"], "grid", "laboratory"),
        (["--axes.y", "w2_squared"], "axes.y", "median"),
    ],
)
def test_a_laboratory_that_cannot_be_is_refused_as_well(
    arguments, field, words, tmp_path, refusal, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config = ROOT / "configs" / "studies" / "words.yaml"
    message = refusal("study", "--config", config, *arguments)
    assert message.startswith(f"error: {field}: ")
    assert words in message
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_can_be_printed(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["study", "--config", str(PAPER[0]), "--print_config"])
    assert stopped.value.code == 0
    plain = yaml.safe_load(capsys.readouterr().out)
    assert plain["grid"]["n_real"] == [100, 250, 1000]
    assert plain["axes"]["x"] == "n_synthetic"


def test_it_needs_no_trainer():
    code = (
        "import sys; import mad_lightning.commands.study; "
        "heavy = {'lightning', 'torchvision', 'torchmetrics', 'matplotlib'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
