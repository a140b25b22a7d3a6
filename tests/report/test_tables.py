"""Tables say what statistics say, and what each metric means."""

import json
import re
import statistics

import numpy as np
import pytest

from mad_lightning.files import write_json
from mad_lightning.lineage import Quantity
from mad_lightning.lineage.quantities import MeasurementError
from mad_lightning.report import (
    answer,
    judgements,
    load,
    measurements,
    metrics_of,
    summary,
    table,
    verdicts,
)

from .ledgers import FLOOR, PROTOCOL, cells, lineage, measured, section


def test_the_table_says_what_statistics_say(directories):
    rows = cells(table(load(directories), ["precision", "recall", "fd_classifier"]))
    number = r"([\d.]+) ± ([\d.]+)"
    for loop in ("full_synth", "synth_aug", "fresh"):
        row = rows[loop]
        assert (row["seeds"], row["generation"]) == ("3", "1 → 6")
        for metric in FLOOR:
            shown = re.match(f"{number} → {number}$", row[metric])
            at = [[measured(loop, seed, t)[metric] for seed in range(3)] for t in (1, 6)]
            expected = [
                np.mean(at[0]),
                np.std(at[0], ddof=1),
                np.mean(at[1]),
                np.std(at[1], ddof=1),
            ]
            numbers = [float(number) for number in shown.groups()]
            assert numbers == pytest.approx(expected, abs=0.051 if "fd" in metric else 6e-4)
    floor = {name: float(rows["real vs real"][name]) for name in FLOOR}
    assert floor == pytest.approx(FLOOR, abs=6e-3)


def test_a_cell_to_the_letter(directories):
    text = table(load(directories), ["recall", "fd_classifier"])
    assert (
        "| full_synth | 3 | 1 → 6 | 0.960 ± 0.004 → 0.650 ± 0.024 | 10.00 ± 0.40 → 88.0 ± 2.4"
        in text
    )
    assert "| real vs real |  |  | 0.970 | 4.56 |" in text
    assert "n = 800, extractor = classifier, weights = 833f, k = 5" in text


def test_one_seed_has_no_spread_and_one_generation_no_arrow(tmp_path):
    row = cells(table(load([lineage(tmp_path, "fresh", 1, generations=1)]), ["recall"]))
    assert row["digits_diffusion_fresh"]["recall"] == "0.960"
    assert row["digits_diffusion_fresh"]["generation"] == "1"


def test_a_running_lineage_counts_as_far_as_all_its_seeds_are(tmp_path):
    runs = [lineage(tmp_path, "full_synth", seed, generations=6 - seed) for seed in range(3)]
    text = table(load(runs), ["recall"])
    values = [measured("full_synth", seed, 4)["recall"] for seed in range(3)]
    assert f"→ {statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}" in text
    assert "up to generation 4, which all its seeds have" in text


def test_a_missing_value_is_a_dash(tmp_path):
    def broken(loop, seed, t):
        return measured(loop, seed, t) | ({"recall": float("nan")} if t == 3 else {})

    groups = load([lineage(tmp_path, "full_synth", 0, metrics=broken, generations=3)])
    assert "→ –" in table(groups, ["recall"])


# what metrics mean


COLLAPSE = {  # first and last value, and what the papers that define them say
    "precision": (0.9, 0.8, "fidelity, worse if lower"),
    "class_recall": (0.89, 0.78, "diversity, worse if lower"),
    "class_share": (0.97, 0.93, "diversity, worse if lower"),
    "modes": (24.0, 13.0, "diversity, worse if lower"),
    "tail_mass": (1.1, 0.4, "diversity, worse if lower"),
    "trace_classifier": (40.0, 20.0, "diversity, worse if lower"),
    "memorised": (0.05, 0.2, "copies, worse if higher"),
    "nearest_ratio": (1.1, 0.8, "copies, worse if lower"),
    "kid_std": (0.1, 0.2, "other"),
    "fd_classifier": (10.0, 30.0, "distance, worse if higher"),
    "sharpness": (0.9, 0.6, "fidelity, worse if lower"),
    "emd": (2.0, 5.0, "distance, worse if higher"),
    "unexplained": (2.0, 5.0, "other"),
}
STATED = {
    "sharpness": Quantity("fidelity", worse="lower", low=0.0, high=1.0),
    "emd": Quantity("distance", worse="higher", floor="two halves of the real samples"),
}


@pytest.fixture
def collapse(tmp_path):
    def values(loop, seed, t):
        return {name: ends[t - 1] for name, ends in COLLAPSE.items()}

    floor = dict.fromkeys(COLLAPSE, 0.5)
    run = lineage(
        tmp_path, "full_synth", 0, generations=2, metrics=values, floor=floor, quantities=STATED
    )
    return load([run])


def test_the_row_below_the_names_says_what_they_mean(collapse):
    text = table(collapse, list(COLLAPSE))
    assert text.splitlines()[2].startswith("| meaning |")
    meaning = cells(text)["meaning"]
    assert {name: meaning[name] for name in COLLAPSE} == {
        name: words for name, (*_, words) in COLLAPSE.items()
    }
    assert "emd, real vs real: two halves of the real samples." in text
    assert text.count(", real vs real:") == 1


# errors


def errors(share):
    """Measurement errors of those values, of which so much is the reference's."""

    def told(loop, seed, t):
        size = {"precision": 0.01, "recall": 0.01, "fd_classifier": 1.5}
        return {k: MeasurementError(e * (1 - share), e * share) for k, e in size.items()}

    return told


def test_one_lineage_shows_its_measurement_errors_and_a_floor_that_of_one_reading(tmp_path):
    floor_errors = {"recall": 0.009, "fd_classifier": 2.2}
    run = lineage(tmp_path, "full_synth", 0, errors=errors(0.0), floor_errors=floor_errors)
    text = table(load([run]), ["recall", "fd_classifier"])
    rows = cells(text)
    assert rows["digits_diffusion_full_synth"]["recall"] == "0.964 ± 0.010 → 0.674 ± 0.010"
    assert rows["real vs real"] | {"lineage": ""} == rows["real vs real"] | {
        "lineage": "", "recall": "0.970 ± 0.009", "fd_classifier": "4.56 ± 2.20",
    }  # fmt: skip
    assert "±: the sample standard deviation over seeds; of a single lineage" in text


def test_the_sentence_on_one_lineage_says_what_its_errors_allow(tmp_path):
    run = lineage(tmp_path, "full_synth", 1, errors=errors(0.3))
    rows = section(verdicts(load([run])), "lineage")
    (row,) = rows.values()
    assert row["verdict"] == "undecided"
    assert "fd_classifier rose from 10.0 ± 1.1 to 88.0 ± 1.1, in each of 5 steps" in row["because"]
    assert "precision is off its floor since generation 1, recall since 2;" in row["because"]
    assert row["recall left at"] == "2"
    assert "not about other seeds" in verdicts(load([run]))


def test_what_one_reference_adds_is_in_the_bounds_of_all_seeds_and_told(tmp_path):
    alone = [lineage(tmp_path / "a", "full_synth", seed) for seed in range(3)]
    beside = [lineage(tmp_path / "b", "full_synth", seed, errors=errors(0.9)) for seed in range(3)]
    own = PROTOCOL | {"split_seed": "own"}
    apart = [
        lineage(tmp_path / "c", "full_synth", seed, errors=errors(0.9),
                protocol=own | {"weights": f"{seed}"})
        for seed in range(3)
    ]  # fmt: skip
    told = [verdicts(load(runs)) for runs in (alone, beside, apart)]
    rises = [judgements(load(runs))[0].verdict.rise for runs in (alone, beside, apart)]
    assert rises[1].low < rises[0].low
    assert rises[2] == rises[0]
    assert "chance of seeds; reference, split" in told[0]
    assert "chance of seeds and of the one reference" in told[1]
    assert "each with a reference, split and extractor of its own" in told[2]


# the verdict


def test_the_rows_of_the_verdict_are_what_was_judged(directories):
    groups = load(directories)
    judged = judgements(groups)
    rows = section(verdicts(groups), "lineage")
    for group, judgement in zip(groups, judged, strict=True):
        row, verdict = rows[group.name], judgement.verdict
        assert (row["seeds"], row["verdict"]) == ("3", verdict.answer)
        assert row["real data"] == "none after generation 1"
        assert (row["distance"], row["in"]) == ("fd_classifier", "4–6")
        estimate = np.expm1(verdict.pace.estimate)
        assert row["rose"].startswith(f"×{verdict.rise.estimate:.3g} [{verdict.rise.low:.3g}, ")
        assert float(row["pace"].split("%")[0]) == pytest.approx(100 * estimate, abs=0.051)
        assert row["recall left at"] == str(judgement.left["recall"].generation or "–")
    assert rows["full_synth"]["verdict"] == "MAD"
    collapse = section(verdicts(groups), "collapse")
    assert len(collapse) == len(judged[0].criteria)
    assert all(set(row) > {"full_synth", "synth_aug", "fresh"} for row in collapse.values())


def test_one_generation_or_one_seed_decides_nothing(tmp_path):
    runs = [lineage(tmp_path, "fresh", 1, generations=1), lineage(tmp_path, "full_synth", 1)]
    rows = section(verdicts(load(runs)), "lineage")
    assert [row["verdict"] for row in rows.values()] == ["undecided"] * 2
    assert "one lineage" in rows["full_synth"]["because"]
    assert (rows["fresh"]["pace"], rows["fresh"]["excess"]) == ("–", "–")


def test_what_is_no_factor_is_shown_as_a_difference(tmp_path):
    def around_0(loop, seed, t):
        return {"kd_classifier": 10.0 * (t - 1) + (seed - 1)}

    runs = [lineage(tmp_path, "full_synth", seed, metrics=around_0, floor={}) for seed in range(3)]
    (row,) = section(verdicts(load(runs)), "lineage").values()
    assert row["rose"].startswith("+45 [+")
    assert row["pace"].startswith("+10 [+")
    assert "%" not in row["pace"]


# for programs


def test_programs_read_the_same_numbers(directories, tmp_path):
    groups = load(directories)
    write_json(tmp_path / "report.json", summary(groups), seal=False)
    plain = json.loads((tmp_path / "report.json").read_text())
    assert plain["protocol"] == PROTOCOL
    for group, judgement, read in zip(groups, judgements(groups), plain["groups"], strict=True):
        assert (read["name"], read["seeds"]) == (group.name, [0, 1, 2])
        assert read["sentence"] == answer(group, judgement)
        mean = [value.mean for _, value in group.curve("recall")]
        assert read["metrics"]["recall"]["mean"] == pytest.approx(mean)
        assert read["metrics"]["recall"]["floor"] == pytest.approx(FLOOR["recall"])
        assert read["verdict"]["answer"] == judgement.verdict.answer
        assert read["verdict"]["pace"]["low"] == judgement.verdict.pace.low
        assert read["left"]["recall"]["generation"] == judgement.left["recall"].generation
        answers = [criterion.answer for criterion in judgement.criteria]
        assert [criterion["answer"] for criterion in read["criteria"]] == answers


def test_a_row_a_lineage_generation_and_metric_for_data_frames(tmp_path):
    runs = [lineage(tmp_path, "full_synth", seed, errors=errors(0.36)) for seed in (0, 1)]
    rows = measurements(load(runs))
    assert len(rows) == 2 * 6 * 3
    last = [row for row in rows if (row["seed"], row["generation"]) == (1, 6)]
    assert {row["metric"]: row["value"] for row in last} == measured("full_synth", 1, 6)
    assert {row["metric"]: row["floor"] for row in last} == FLOOR
    (recall,) = [row for row in last if row["metric"] == "recall"]
    assert recall["error"] == pytest.approx(0.01 * np.hypot(0.64, 0.36))
    assert recall["lineage"] == "digits_diffusion_full_synth_seed1"


def test_programs_read_what_the_numbers_mean(collapse, tmp_path):
    write_json(tmp_path / "report.json", summary(collapse), seal=False)
    plain = json.loads((tmp_path / "report.json").read_text())["quantities"]
    assert list(plain) == list(COLLAPSE)
    assert plain["sharpness"] == {
        "section": "fidelity", "worse": "lower", "low": 0.0, "high": 1.0,
        "floor": "real samples against other real samples", "unbiased": False,
    }  # fmt: skip
    assert (plain["emd"]["low"], plain["emd"]["high"]) == (None, None)
    assert plain["unexplained"]["section"] == "other"
    assert len(metrics_of(collapse)) == len(plain)
