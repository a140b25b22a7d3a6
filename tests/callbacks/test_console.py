"""The console shows the floor, one row a generation, and how long it will still take."""

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
import rich
from rich.console import Console as Terminal

from mad_lightning.callbacks.base import LineageInfo
from mad_lightning.callbacks.console import Console
from mad_lightning.lineage import GenerationRecord, LineageDirectory, Quantity
from mad_lightning.policies import Mix, Part

FLOOR = {"precision": 0.95, "recall": 0.94, "density": 1.0, "coverage": 0.97, "fd_classifier": 4e-4}


def info(floor=FLOOR):
    return LineageInfo(
        name="mnist_diffusion_synth_aug_seed3",
        directory=LineageDirectory("runs/mnist_diffusion_synth_aug_seed3"),
        generations=4,
        seed=3,
        policy="synth_aug",
        sampling_bias=0.66,
        floor=floor,
        protocol={"n": 10_000, "weights": "0123abcd", "extractor": "classifier", "k": 5},
    )


def record(t, metrics=None, seconds=600.0):
    return GenerationRecord(
        generation=t,
        policy="synth_aug",
        n_real=60_000,
        n_fresh=0,
        n_synthetic=60_000 * (t - 1),
        sampling_bias=0.66,
        metrics=metrics or {**FLOOR, "recall": 1 / t, "fd_classifier": 12.5 * t},
        floor=FLOOR,
        protocol={"n": 10_000, "extractor": "classifier", "k": 5},
        seconds={"train": seconds - 1, "sample": 1.0},
    )


def lineage_of(console, have=0, upto=4, lineage=None, finished=True):
    lineage = lineage or info()
    records = [record(t) for t in range(1, have + 1)]
    console.on_generation_progress(0, "evaluate", 1, 2)  # the floor is measured before the start
    console.on_lineage_start(lineage, records)
    for t in range(have + 1, upto + 1):
        console.on_generation_start(t, Mix(t, (Part("real", None, 0, 60_000),)))
        for phase in ("train", "sample", "evaluate"):
            for done in range(1, 4):
                console.on_generation_progress(t, phase, done, 3)
        records.append(record(t))
        console.on_generation_end(records[-1], lineage.directory.generation(t))
    console.on_lineage_end(records, finished)


def test_plain_lines_are_aligned_and_narrow(capsys):
    lineage_of(Console())
    heading, protocol, sections, names, *table, end, outcome, more = (
        capsys.readouterr().out.splitlines()
    )
    assert (
        heading
        == "mnist_diffusion_synth_aug_seed3: policy synth_aug, λ = 0.66, 4 generations, seed 3"
    )
    assert protocol.startswith("n = 10000, k = 5, extractor = classifier, floor: ")
    by_section = ["precision", "density", "recall", "coverage", "fd_classifier"]
    assert names.split() == ["gen", "n_real", "n_fresh", "n_synthetic", *by_section, "seconds"]
    for section, last in (
        ("fidelity ↓", "density"),
        ("diversity ↓", "coverage"),
        ("distance ↑", "fd_classifier"),
    ):
        assert sections[: names.index(last) + len(last)].endswith(section)
    assert [line.split()[0] for line in table] == ["floor", "1", "2", "3", "4"]
    assert table[0].split()[1:] == ["0.950", "1.000", "0.940", "0.970", "4.0e-04"]
    assert table[2].split()[1:5] == ["60000", "0", "60000", "0.950"]
    for name, value in [("recall", "0.333"), ("fd_classifier", "37.500"), ("seconds", "600.0")]:
        column = names.index(name) + len(name)
        assert table[3][:column].endswith(value)
    assert [line.partition("600.0")[2].strip() for line in table[1:]] == [
        "about 30 min left",
        "about 20 min left",
        "about 10 min left",
        "",
    ]
    assert (
        end == "done: 4 generations in runs/mnist_diffusion_synth_aug_seed3 (ledger: lineage.jsonl)"
    )
    assert outcome.startswith(
        "verdict so far: undecided, one lineage: fd_classifier went from 12.5 to 50, up in 3 of 3"
    )
    assert outcome.endswith("takes two more seeds")
    assert more.endswith("mad report runs/mnist_diffusion_synth_aug_seed*")
    assert max(map(len, [heading, protocol, sections, names, *table])) <= 120
    assert "\x1b" not in "".join(table)


def test_a_resumed_lineage_shows_its_finished_rows_first(capsys):
    lineage_of(Console(), have=2, upto=3, finished=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[3:]] == ["gen", "floor", "1", "2", "3"]
    assert "left" not in lines[6]
    assert lines[-1].endswith("about 10 min left"), "why it ended is told by what was raised"


def test_the_end_tells_a_lineage_that_was_stopped(capsys):
    lineage_of(Console(), upto=2)
    *_, end, outcome, _ = capsys.readouterr().out.splitlines()
    assert end.startswith("stopped early, after 2 of 4")
    assert outcome == "verdict so far: undecided, 2 generations, it takes at least 3"


def test_a_floor_that_comes_late_and_metrics_that_change_get_a_head(capsys):
    console, lineage = Console(), info(floor={})
    console.on_lineage_start(lineage, [])
    assert len(capsys.readouterr().out.splitlines()) == 1
    for each in (record(1), record(2, {"w2": 0.25}), record(3, {"w2": float("nan")})):
        console.on_generation_end(each, lineage.directory.generation(each.generation))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line[:5].strip()] == [
        *("n", "gen", "floor", "1"),
        *("n", "gen", "floor", "2", "3"),
    ]
    assert lines[-2].split()[4:6] == ["0.250", "600.0"]
    assert lines[-1].split()[4] == "nan"


def test_a_metric_of_ones_own_stands_in_the_section_that_it_states(capsys):
    quantities = {
        "sharpness": Quantity("fidelity", "lower", low=0.0, high=1.0),
        "emd": Quantity("distance", "higher", low=0.0),
        "odd": Quantity("copies"),
    }
    values = {"emd": 2.0, "recall": 0.5, "odd": 1.0, "sharpness": 0.25, "unheard_of": 3.0}
    console = Console()
    console.on_lineage_start(replace(info(values), quantities=quantities), [])
    made = replace(record(1, values), floor=values, quantities=quantities)
    console.on_generation_end(made, Path())
    _, _, sections, names, _, row = capsys.readouterr().out.splitlines()
    order = ["sharpness", "recall", "emd", "odd", "unheard_of"]
    assert names.split()[4:-1] == order
    assert sections.split() == [
        "fidelity",
        "↓",
        "diversity",
        "↓",
        "distance",
        "↑",
        "copies",
        "other",
    ]
    assert row.split()[4:9] == ["0.250", "0.500", "2.000", "1.000", "3.000"]


@pytest.fixture
def screen(monkeypatch):
    """What a terminal of 120 columns is sent."""
    file = io.StringIO()
    terminal = Terminal(
        file=file, force_terminal=True, width=120, color_system=None, legacy_windows=False
    )
    monkeypatch.setattr(rich, "_console", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    return file


def test_a_terminal_gets_bars_below_the_table(screen):
    lineage_of(Console(bars=True), have=1, upto=3)
    text = screen.getvalue()
    for each in ("generations", "train", "sample", "evaluate", "━", "3/3", "1/4", "2/4"):
        assert each in text
    assert "about 30 min left" in text  # three generations to go, by the first one's time
    rows = [line for line in text.replace("\r", "\n").splitlines() if "60000" in line]
    assert len(rows) == 3
    assert text.rstrip().endswith("mad report runs/mnist_diffusion_synth_aug_seed*")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor comes back


def test_ten_thousand_batches_cost_next_to_nothing(screen):
    console = Console(bars=True)
    console.on_lineage_start(info(), [])
    console.on_generation_start(1, Mix(1, (Part("real", None, 0, 1),)))
    before, started = len(screen.getvalue()), time.monotonic()
    for done in range(10_000):
        console.on_generation_progress(1, "train", done, 10_000)
    seconds = time.monotonic() - started
    redraws = screen.getvalue()[before:].count("generations")
    console.on_lineage_end([], finished=False)
    assert redraws <= 2 + 10 * seconds
    assert seconds < 2


def test_an_output_without_greek_letters(monkeypatch):
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(rich, "_console", Terminal(file=file))
    lineage_of(Console(), upto=1)
    file.seek(0)
    assert "lambda = 0.66" in file.readline()


def test_samples_from_outside_have_a_column_where_there_are_some(capsys):
    told = {"policy": {"class_path": "Combined", "init_args": {"n_external": 10}}}
    console = Console(bars=False)
    console.on_lineage_start(replace(info(), config=told, sampling_bias="1 - 0.1*t"), [])
    console.on_generation_end(replace(record(1), n_external=321), Path("runs"))
    lines = capsys.readouterr().out.splitlines()
    assert "λ = 1 - 0.1*t, 4 generations" in lines[0]
    assert lines[3].split()[:5] == ["gen", "n_real", "n_fresh", "n_synthetic", "n_external"]
    assert lines[5].split()[:5] == ["1", "60000", "0", "0", "321"]
    console.on_lineage_start(info(), [])  # a policy of one's own that nobody could foresee
    console.on_generation_end(record(1), Path("runs"))
    console.on_generation_end(replace(record(2), n_external=321), Path("runs"))
    out = capsys.readouterr().out
    assert out.count("n_synthetic") == 2
    assert out.count("n_external") == 1
