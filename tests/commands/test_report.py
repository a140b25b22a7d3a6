"""The door of the report: what it prints, what it writes, what it refuses."""

import csv
import json
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
import yaml

from mad_lightning.commands import main
from mad_lightning.drawing import painted
from mad_lightning.lineage.ledger import GenerationRecord
from mad_lightning.report import (
    figure,
    headline,
    judgements,
    load,
    measurements,
    page,
    plane,
    table,
    verdicts,
)

PROTOCOL = {"n": 800, "extractor": "classifier", "k": 5}
FLOOR = {"precision": 0.97, "recall": 0.97, "fd_classifier": 4.6}


def lineage(root, loop, seed):
    """Three generations that lose recall, faster without fresh data."""
    directory = root / f"{loop}_seed{seed}"
    directory.mkdir(parents=True)
    plain = {"seed_everything": seed, "policy": {"class_path": loop}}
    (directory / "config.yaml").write_text(yaml.safe_dump(plain))
    fall = 0.1 if loop == "full_synth" else 0.01
    lines = [
        GenerationRecord(
            generation=t,
            policy=loop,
            n_real=9 * (t == 1),
            n_fresh=0,
            n_synthetic=9 * (t > 1),
            sampling_bias=1.0,
            metrics={
                "precision": 0.9 + 0.001 * seed,
                "recall": 0.9 - fall * t + 0.001 * seed,
                "fd_classifier": 10 + 100 * fall * t + seed,
            },
            floor=FLOOR,
            protocol=PROTOCOL,
        ).to_json()
        for t in (1, 2, 3)
    ]
    (directory / "lineage.jsonl").write_text("\n".join(lines) + "\n")
    return directory


@pytest.fixture
def directories(tmp_path):
    return [lineage(tmp_path, loop, seed) for loop in ("full_synth", "fresh") for seed in (0, 1)]


def test_it_prints_table_and_verdict_and_writes_what_is_asked_for(directories, tmp_path, capsys):
    out = tmp_path / "out"
    files = [
        f"--figure={out}/curves.svg",
        f"--html={out}/report.html",
        f"--json={out}/all.json",
        f"--csv={out}/all.csv",
    ]
    main(["report", *map(str, directories), *files])
    groups = load(directories)
    judged = judgements(groups)
    shown = capsys.readouterr().out
    assert all(sentence in " ".join(shown.split()) for sentence in headline(groups, judged))
    assert max(map(len, shown.splitlines())) <= 80
    assert "\x1b" not in shown
    assert (out / "curves.svg").read_text() == figure(groups, ["precision", "recall"])
    assert (out / "report.html").read_text() == page(groups)
    with (out / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row | {"value": float(row["value"])} for row in rows] == [
        {name: "" if value is None else str(value) for name, value in row.items()}
        | {"value": row["value"]}
        for row in measurements(groups)
    ]
    numbers = json.loads((out / "all.json").read_text())
    assert [group["seeds"] for group in numbers["groups"]] == [[0, 1], [0, 1]]


def test_files_are_whole_where_nobody_reads_to_the_end(directories, tmp_path, monkeypatch):
    def closed(*_):
        raise RuntimeError("the pipe is closed")

    monkeypatch.setattr("mad_lightning.commands.report.report", closed)
    with pytest.raises(SystemExit):
        main(["report", *map(str, directories), f"--csv={tmp_path / 'all.csv'}"])
    assert (tmp_path / "all.csv").exists()


def test_markdown_has_all_of_it(directories, capsys):
    main(["report", "--markdown", *map(str, directories)])
    groups = load(directories)
    said = "\n\n".join(headline(groups, judgements(groups)))
    tables = [table(groups, ["precision", "recall", "fd_classifier"]), verdicts(groups)]
    assert capsys.readouterr().out == "\n\n".join([said, *tables])


def test_figures_for_papers_are_those_of_the_page(directories, tmp_path, capsys):
    files = {"--figure": tmp_path / "curves.pdf", "--plane": tmp_path / "plane.png"}
    asked = [f"{option}={path}" for option, path in files.items()]
    main(["report", *map(str, directories), *asked])
    groups = load(directories)
    assert files["--figure"].read_bytes() == painted(figure(groups, ["precision", "recall"]))
    assert files["--plane"].read_bytes() == painted(plane(groups), "png")


def test_only_the_metrics_that_are_named_are_shown(directories, tmp_path, capsys):
    curves = tmp_path / "curves.svg"
    main(["report", *map(str, directories), "--figure", str(curves), "--metrics", "fd_classifier"])
    shown = capsys.readouterr().out
    values = shown[shown.index("\nValues") : shown.index("\nCollapse")]
    assert "fd_classifier" in values
    assert "recall" not in values
    words = "".join(ET.fromstring(curves.read_text()).itertext())
    assert "fd_classifier" in words
    assert "recall" not in words


def test_it_needs_no_torch():
    code = (
        "import sys, mad_lightning.commands.report; "
        "sys.exit(bool({'torch', 'lightning', 'matplotlib'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_is_no_lineage_is_refused(tmp_path, refusal):
    assert "no lineage.jsonl" in refusal("report", tmp_path)
    (tmp_path / "lineage.jsonl").write_text("")
    assert "no generation is finished" in refusal("report", tmp_path)


def test_unknown_metrics_options_and_formats_are_refused(directories, refusal):
    message = refusal("report", directories[0], "--metrics", "recall", "fid")
    assert message.startswith("error: metrics: no ledger has fid")
    assert "precision, recall, fd_classifier" in message
    for option in ("--figure", "--plane"):
        told = refusal("report", directories[0], option, "curves.jpg")
        assert "name it *.svg, *.pdf, *.png" in told
    message = refusal("report", directories[0], "--htlm", "report.html")
    assert message.startswith("error: --htlm: there is no such option")
    assert "did you mean --html? " in message


def test_a_copy_is_no_second_seed(tmp_path, refusal):
    twins = [lineage(tmp_path / name, "fresh", 0) for name in "ab"]
    assert "same configuration and seed 0" in refusal("report", *twins)


def test_what_is_no_lineage_is_left_out_in_one_line_a_reason(directories, tmp_path, caplog, capsys):
    (tmp_path / "cache").mkdir()
    for k in range(5):
        (tmp_path / f"{k}").mkdir()
        (tmp_path / f"{k}" / "failed.yaml").write_text("")
    half = tmp_path / "half"
    half.mkdir()
    (half / "lineage.jsonl").write_text("")
    main(["report", *map(str, sorted(tmp_path.iterdir()))])
    assert "went MAD" in capsys.readouterr().out
    told = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in told] == [
        "left out, no lineage.jsonl",
        "left out, no generation is finished",
    ]
    assert told[0].endswith(" and 2 more")
    assert told[1].endswith("half/lineage.jsonl")
