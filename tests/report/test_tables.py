"""Tables say what statistics say, and what each metric means."""

import json
import re
import statistics

import numpy as np
import pytest

from mad_lightning.files import write_json
from mad_lightning.lineage import Quantity
from mad_lightning.report import judgements, load, metrics_of, summary, table, verdicts

from .ledgers import FLOOR, PROTOCOL, cells, lineage, measured, section


def test_the_table_says_what_statistics_say(directories):
    rows = cells(table(load(directories), ["precision", "recall", "fd_classifier"]))
    number = r"([\d.]+) ± ([\d.]+)"
    for loop in ("full_synth", "synth_aug", "fresh"):
        row = rows[loop]
        assert (row["seeds"], row["generation"]) == ("3", "1 → 6")
        for metric in FLOOR:
            shown = re.match(f"{number} → {number}(?: \\(×([\\d.]+)\\))?$", row[metric])
            at = [[measured(loop, seed, t)[metric] for seed in range(3)] for t in (1, 6)]
            expected = [
                np.mean(at[0]),
                np.std(at[0], ddof=1),
                np.mean(at[1]),
                np.std(at[1], ddof=1),
            ]
            numbers = [float(number) for number in shown.groups()[:4]]
            assert numbers == pytest.approx(expected, abs=0.051)
            if metric == "fd_classifier":
                assert float(shown[5]) == pytest.approx(np.mean(at[1]) / np.mean(at[0]), abs=0.051)
            else:
                assert numbers == pytest.approx(expected, abs=6e-4)
                assert shown[5] is None
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


@pytest.mark.parametrize("name", COLLAPSE)
def test_only_distances_grow_by_a_factor(collapse, name):
    row = cells(table(collapse, [name]))["digits_diffusion_full_synth"]
    factor = {"fd_classifier": " (×3.0)", "emd": " (×2.5)"}.get(name, "")
    assert row[name].endswith(factor)
    assert ("×" in row[name]) == bool(factor)


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


# for programs


def test_programs_read_the_same_numbers(directories, tmp_path):
    groups = load(directories)
    write_json(tmp_path / "report.json", summary(groups), seal=False)
    plain = json.loads((tmp_path / "report.json").read_text())
    assert plain["protocol"] == PROTOCOL
    for group, judgement, read in zip(groups, judgements(groups), plain["groups"], strict=True):
        assert (read["name"], read["seeds"]) == (group.name, [0, 1, 2])
        mean = [value.mean for _, value in group.curve("recall")]
        assert read["metrics"]["recall"]["mean"] == pytest.approx(mean)
        assert read["metrics"]["recall"]["floor"] == pytest.approx(FLOOR["recall"])
        assert read["verdict"]["answer"] == judgement.verdict.answer
        assert read["verdict"]["pace"]["low"] == judgement.verdict.pace.low
        assert read["left"]["recall"]["generation"] == judgement.left["recall"].generation
        answers = [criterion.answer for criterion in judgement.criteria]
        assert [criterion["answer"] for criterion in read["criteria"]] == answers


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
