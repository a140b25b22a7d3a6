"""Lineages are compared from their ledgers alone; what was not measured alike is refused."""

import io
import json
import re
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import yaml
from PIL import Image

from mad_lightning.lineage import GenerationRecord
from mad_lightning.refusal import Refused
from mad_lightning.report import (
    Value,
    figure,
    judgements,
    load,
    main,
    page,
    plane,
    table,
    verdicts,
)
from mad_lightning.verdict import judge

SVG = "{http://www.w3.org/2000/svg}"
PROTOCOL = {"n": 800, "extractor": "classifier", "weights": "833f", "k": 5}
FLOOR = {"precision": 0.971, "recall": 0.97, "fd_classifier": 4.56}
GENERATIONS = 6


def measured(loop, seed, t):
    """Falls, falls slower, stays; the seeds lie around it."""
    fall = {"full_synth": 1.0, "synth_aug": 0.4, "fresh": 0.0}[loop] * (t - 1) / (GENERATIONS - 1)
    noise = (seed - 1) * 0.004 * t
    return {
        "precision": 0.91 - 0.16 * fall + noise,
        "recall": 0.96 - 0.31 * fall - noise,
        "fd_classifier": 10 + 78 * fall + 100 * noise,
    }


def config(loop, seed):
    return {
        "seed_everything": seed,
        "lineage": {"name": f"{loop}-{seed}", "generations": GENERATIONS},
        "policy": {"class_path": loop},
        "data": {"source": {"class_path": "Digits"}, "cache": f"cache{seed}"},
        "callbacks": [{"class_path": "Console"}] * seed,
    }


def lineage(
    root, loop, seed, *, generations=GENERATIONS, protocol=PROTOCOL, metrics=measured, **more
):
    directory = root / f"digits_diffusion_{loop}_seed{seed}"
    directory.mkdir(parents=True)
    plain = more.get("config", config(loop, seed))
    if plain:
        (directory / "config.yaml").write_text(yaml.safe_dump(plain))
    records = [
        GenerationRecord(
            t, loop, 0, 0, 9, 1.0, metrics(loop, seed, t), floor=FLOOR, protocol=protocol
        )
        for t in range(1, generations + 1)
    ]
    (directory / "lineage.jsonl").write_text("".join(each.to_json() + "\n" for each in records))
    for record in records if "picture" in more else ():
        (directory / f"generation_{record.generation:03d}").mkdir()
        path = directory / f"generation_{record.generation:03d}" / "samples.png"
        path.write_bytes(more["picture"])
    return directory


def picture(width, height, mode="RGB"):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def directories(tmp_path):
    loops = ("full_synth", "synth_aug", "fresh")
    return [lineage(tmp_path, loop, seed) for loop in loops for seed in range(3)]


def cells(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in rows}) == 1
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


# groups


def test_lineages_that_differ_only_in_the_seed_are_one_group(directories):
    groups = load(directories[::-1])
    assert [group.name for group in groups] == ["fresh", "synth_aug", "full_synth"]
    assert [[each.seed for each in group.lineages] for group in groups] == [[2, 1, 0]] * 3
    assert [len(group.lineages) for group in load([*directories, directories[0]])] == [3, 3, 3]


def test_any_other_difference_makes_another_group(tmp_path):
    changed = config("fresh", 1)
    changed["policy"]["n_fresh"] = 7
    pair = [
        lineage(tmp_path / "a", "fresh", 0),
        lineage(tmp_path / "b", "fresh", 1, config=changed),
    ]
    groups = load(pair)
    assert [group.name for group in groups] == [str(each) for each in pair]  # told apart
    assert "policy.n_fresh: (absent) -&gt; 7" in page(groups)


def test_without_configurations_the_names_decide(tmp_path):
    runs = [("fresh", 0), ("fresh", 11), ("full_synth", 0)]
    groups = load(lineage(tmp_path, loop, seed, config=None) for loop, seed in runs)
    assert [(each.name, len(each.lineages)) for each in groups] == [("fresh", 2), ("full_synth", 1)]
    assert groups[0].lineages[1].seed == 11


def test_a_name_keeps_a_word_at_least(tmp_path):
    for name in ("digits", "digits_fresh"):
        lineage(tmp_path, "fresh", 0, config=None).rename(tmp_path / name)
    assert [each.name for each in load([tmp_path / "digits", tmp_path / "digits_fresh"])] == [
        "digits",
        "digits_fresh",
    ]
    assert load([tmp_path / "digits_fresh"])[0].name == "digits_fresh"


# the table


def test_the_table_says_what_statistics_say(directories):
    rows = cells(table(load(directories), ["precision", "recall", "fd_classifier"]))
    number = r"([\d.]+) ± ([\d.]+)"
    for loop in ("full_synth", "synth_aug", "fresh"):
        row = rows[loop]
        assert (row["seeds"], row["generation"]) == ("3", "1 → 6")
        for metric in FLOOR:
            found = re.match(f"{number} → {number}(?: \\(×([\\d.]+)\\))?$", row[metric])
            at = [[measured(loop, seed, t)[metric] for seed in range(3)] for t in (1, 6)]
            expected = [
                np.mean(at[0]),
                np.std(at[0], ddof=1),
                np.mean(at[1]),
                np.std(at[1], ddof=1),
            ]
            assert [float(each) for each in found.groups()[:4]] == pytest.approx(
                expected, abs=0.051
            )
            if metric == "fd_classifier":
                assert float(found[5]) == pytest.approx(np.mean(at[1]) / np.mean(at[0]), abs=0.051)
            else:
                assert [float(each) for each in found.groups()[:4]] == pytest.approx(
                    expected, abs=6e-4
                )
                assert found[5] is None
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


def test_a_missing_value_is_a_dash_and_no_point(tmp_path):
    def broken(loop, seed, t):
        return measured(loop, seed, t) | ({"recall": float("nan")} if t == 3 else {})

    groups = load([lineage(tmp_path, "full_synth", 0, metrics=broken, generations=3)])
    assert "→ –" in table(groups, ["recall"])
    drawn = ET.fromstring(figure(groups, ["recall"]))
    assert [len(each.get("points").split()) for each in drawn.iter(f"{SVG}polyline")] == [2]
    assert "nan" not in page(groups)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Value(0.9126, 0.0041, 3), "0.913 ± 0.004"),
        (Value(1.0049, 0.02, 2), "1.005 ± 0.020"),
        (Value(86.52, 4.13, 3), "86.5 ± 4.1"),
        (Value(1234.5, 0.0, 1), "1234"),
        (Value(0.00031, 0.00002, 3), "3.1e-04 ± 2.0e-05"),
        (Value(0.0, 0.0, 1), "0.00"),
        (Value(float("nan"), float("nan"), 3), "–"),
    ],
)
def test_numbers_show_as_many_digits_as_they_are_worth(value, shown):
    assert str(value) == shown


# the verdict


def mixed(root, loop, n_fresh, trend, **more):
    """Three seeds of a loop with a share of fresh data and a growing distance."""
    rng = np.random.default_rng(n_fresh)
    runs = []
    for seed in range(3):
        plain = more | {"seed_everything": seed, "policy": {"class_path": loop, "init_args": {}}}
        plain["policy"]["init_args"] = {"n_fresh": n_fresh} | more.get("args", {})
        directory = lineage(root, f"{loop}{n_fresh}", seed, config=plain, metrics=lambda *_: {})
        records = [
            GenerationRecord(
                t, loop, 9 if t == 1 else more.get("fixed", 0),
                n_fresh * (t > 1), (10 - n_fresh) * (t > 1), 1.0,
                metrics={"recall": 0.9 - 0.1 * t, "fid": trend**t * np.exp(0.01 * rng.normal())},
                floor={"recall": 0.8}, protocol=PROTOCOL, start=more.get("start", "scratch"),
            )
            for t in range(1, 13)
        ]  # fmt: skip
        (directory / "lineage.jsonl").write_text("".join(r.to_json() + "\n" for r in records))
        runs.append(directory)
    return runs


def section(text, head):
    """The table that begins with that cell, as {row: {column: cell}}."""
    return cells(next(part for part in text.split("\n\n") if part.startswith(f"| {head}")))


def test_the_verdict_is_that_of_the_numbers_in_the_ledgers(directories):
    groups = load(directories)
    made = judgements(groups)
    for loop, said in zip(("full_synth", "synth_aug", "fresh"), made, strict=True):
        at = {
            metric: [
                [measured(loop, seed, t)[metric] for t in range(1, GENERATIONS + 1)]
                for seed in range(3)
            ]
            for metric in FLOOR
        }
        assert said == judge(at, {name: [value] * 3 for name, value in FLOOR.items()}, memory=1.0,
                             n=800)  # fmt: skip
    rows = section(verdicts(groups), "lineage")
    for group, said in zip(groups, made, strict=True):
        row = rows[group.name]
        assert (row["seeds"], row["memory"], row["verdict"]) == ("3", "1", said.verdict.answer)
        assert (row["distance"], row["from"]) == ("fd_classifier", "1–6")
        estimate = np.expm1(said.verdict.slope.estimate)
        assert float(row["growth a generation"].split("%")[0]) == pytest.approx(
            100 * estimate, abs=0.051
        )
        assert row["recall left at"] == str(said.left["recall"].generation or "–")
    assert rows["full_synth"]["verdict"] == "MAD"
    collapse = section(verdicts(groups), "collapse")
    assert len(collapse) == len(made[0].criteria)
    assert all(set(row) > {"full_synth", "synth_aug", "fresh"} for row in collapse.values())


def test_groups_that_differ_in_their_mix_alone_say_which_share_is_safe(tmp_path):
    runs = [
        *mixed(tmp_path, "full", 0, 1.3),
        *mixed(tmp_path, "few", 5, 1.3),
        *mixed(tmp_path, "half", 6, 1.0),
        *mixed(tmp_path, "most", 8, 1.0),
        *mixed(tmp_path, "biased", 9, 1.3, sampling_bias=0.5),
    ]
    groups = load(runs)
    assert [each.fresh_share for each in groups] == [0.0, 0.5, 0.6, 0.8, 0.9]
    assert [each.memory for each in groups] == [1.0, 0.5, 0.4, 0.2, pytest.approx(0.1)]
    answers = [each.verdict.answer for each in judgements(groups)]
    assert answers == ["MAD", "MAD", "not MAD", "not MAD", "MAD"]
    text = verdicts(groups)
    assert "0.6 is the smallest share shown to be safe (needed: between 0.5 and 0.6)" in text
    assert text.count("Safe share") == 1  # the biased one stands alone


@pytest.mark.parametrize(
    ("more", "memory"),
    [
        ({"args": {"synthetic_from": "last", "k": 4}}, 0.5),
        ({"args": {"synthetic_from": "last_k", "k": 3}}, 0.5**0.5),
        ({"args": {"synthetic_from": "all"}}, None),
        ({"start": "previous"}, None),
        ({"start": "base"}, 0.5),
    ],
)
def test_what_a_loop_remembers_depends_on_where_its_samples_come_from(tmp_path, more, memory):
    (group,) = load(mixed(tmp_path, "fresh", 5, 1.0, **more))
    assert group.memory == (memory if memory is None else pytest.approx(memory))
    assert group.fresh_share == 0.5


def test_beside_a_fixed_real_set_there_is_no_fresh_share(tmp_path):
    (group,) = load(mixed(tmp_path, "aug", 0, 1.0, fixed=30))
    assert (group.fresh_share, group.memory) == (None, 0.25)


def test_one_generation_or_one_seed_decides_nothing(tmp_path):
    runs = [lineage(tmp_path, "fresh", 1, generations=1), lineage(tmp_path, "full_synth", 1)]
    rows = section(verdicts(load(runs)), "lineage")
    assert [row["verdict"] for row in rows.values()] == ["undecided"] * 2
    assert "one seed" in rows["full_synth"]["because"]
    assert rows["fresh"]["growth a generation"] == "–"


def test_programs_read_the_same_numbers(directories, tmp_path, capsys):
    main([*map(str, directories), "--json", str(tmp_path / "report.json")])
    plain = json.loads((tmp_path / "report.json").read_text())
    groups = load(directories)
    assert plain["protocol"] == PROTOCOL
    for group, said, read in zip(groups, judgements(groups), plain["groups"], strict=True):
        assert (read["name"], read["seeds"]) == (group.name, [0, 1, 2])
        mean = [value.mean for _, value in group.curve("recall")]
        assert read["metrics"]["recall"]["mean"] == pytest.approx(mean)
        assert read["metrics"]["recall"]["floor"] == pytest.approx(FLOOR["recall"])
        assert read["verdict"]["answer"] == said.verdict.answer
        assert read["verdict"]["slope"]["low"] == said.verdict.slope.low
        assert read["left"]["recall"]["generation"] == said.left["recall"].generation
        assert [each["answer"] for each in read["criteria"]] == [c.answer for c in said.criteria]


# the figures


def test_the_figure_has_one_line_and_one_band_a_group_and_panel(directories):
    groups = load(directories)
    text = figure(groups, ["precision", "recall"])
    drawn = ET.fromstring(text)
    lines = list(drawn.iter(f"{SVG}polyline"))
    assert len(lines) == len(list(drawn.iter(f"{SVG}polygon"))) == 3 * 2
    assert {len(line.get("points").split()) for line in lines} == {GENERATIONS}
    assert len({line.get("stroke") for line in lines}) == 3
    assert sum("stroke-dasharray" in line.attrib for line in drawn.iter(f"{SVG}line")) == 2 + 1
    words = {each.text for each in drawn.iter(f"{SVG}text")}
    assert {"real vs real", "precision", "recall", "full_synth", "generation", "0", "1"} <= words
    assert drawn[0].tag == f"{SVG}rect"
    assert drawn[0].get("fill") == "#fff"
    assert len(text.encode()) < 30_000
    assert not re.search(r"<script|href|url\(|@import", text)


def test_heights_are_true(directories):
    """In a panel from 0 to 1, points lie as far apart as the means do."""
    groups = load(directories)
    drawn = ET.fromstring(figure(groups, ["recall"]))
    grid = [
        float(each.get("y1"))
        for each in drawn.iter(f"{SVG}line")
        if each.get("stroke") == "#e4e4e4"
    ]
    bottom, top = max(grid), min(grid)
    for group, line in zip(groups, drawn.iter(f"{SVG}polyline"), strict=True):
        heights = [float(each.split(",")[1]) for each in line.get("points").split()]
        values = [(bottom - height) / (bottom - top) for height in heights]
        assert values == pytest.approx([v.mean for _, v in group.curve("recall")], abs=1e-3)


def test_the_plane_walks_from_recall_to_precision(directories):
    drawn = ET.fromstring(plane(load(directories)))
    lines = list(drawn.iter(f"{SVG}polyline"))
    assert len(lines) == 3
    start, *_, end = [tuple(map(float, each.split(","))) for each in lines[0].get("points").split()]
    assert end[0] < start[0]  # less recall
    assert end[1] > start[1]  # less precision: further down the page


def test_long_lineages_stay_small(tmp_path):
    text = figure(load([lineage(tmp_path, "fresh", 0, generations=1000)]), ["recall", "precision"])
    line = next(ET.fromstring(text).iter(f"{SVG}polyline"))
    assert 60 <= len(line.get("points").split()) <= 65
    assert len(text) < 10_000


def test_nine_groups_can_be_told_apart(tmp_path):
    runs = [lineage(tmp_path, f"lambda{k}", 0, metrics=lambda *_: {"w2": 0.1}) for k in range(9)]
    drawn = ET.fromstring(figure(load(runs), ["w2"]))
    marks = {(each.get("fill"), each.get("stroke")) for each in drawn.iter(f"{SVG}circle")}
    assert len(marks) == 9


# the page


def test_the_page_holds_everything(directories, tmp_path):
    small = picture(60, 40, "L")
    shown = lineage(tmp_path / "more", "fresh", 7, picture=small)
    text = page(load([*directories, shown]))
    assert text.count("<svg") == 2
    assert "<h2>Verdict</h2>" in text
    assert "<td>MAD<td>fd_classifier" in text
    assert "<td>catastrophic increase" in text
    assert text.count('src="data:image/png;base64,') == GENERATIONS
    assert "fresh" in text
    assert "policy.class_path: full_synth -&gt; fresh" in text
    assert "weights = 833f" in text
    assert not re.search(r"<script|http://(?!www.w3.org)|https://", text)


def test_large_pictures_are_shrunk_to_two_megabytes(tmp_path):
    large = picture(342, 274)
    runs = [lineage(tmp_path, "fresh", seed, picture=large) for seed in range(4)]
    text = page(load(runs))
    assert len(large) * 24 > 5e6
    assert text.count('src="data:image/jpeg;base64,') == 24
    assert len(text) < 2.1e6


# the door, and what it refuses


def test_the_door_prints_and_writes(directories, tmp_path, capsys):
    out = tmp_path / "out"
    where = ["--figure", f"{out}/curves.svg", "--html", f"{out}/report.html"]
    main([*map(str, directories), *where])
    groups = load(directories)
    tables = [table(groups, ["precision", "recall", "fd_classifier"]), verdicts(groups)]
    assert capsys.readouterr().out == "\n".join(tables)
    assert (out / "curves.svg").read_text() == figure(groups, ["precision", "recall"])
    assert (out / "report.html").read_text() == page(groups)


def test_it_starts_without_torch():
    code = (
        "import sys, mad_lightning.report; "
        "sys.exit(bool({'torch', 'numpy', 'PIL', 'matplotlib'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def refused(capsys, *args):
    with pytest.raises(SystemExit) as caught:
        main(list(map(str, args)))
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "remedy:" in err
    return err


def test_what_is_no_lineage_is_refused(tmp_path, capsys):
    assert "no lineage.jsonl" in refused(capsys, tmp_path)
    (tmp_path / "lineage.jsonl").write_text("")
    assert "no generation is finished" in refused(capsys, tmp_path)
    (tmp_path / "lineage.jsonl").write_text('{"epoch": 1}\n')
    assert "not a ledger" in refused(capsys, tmp_path)


def test_unknown_metrics_and_formats_are_refused(directories, capsys):
    error = refused(capsys, directories[0], "--metrics", "recall", "fid")
    assert "no ledger has fid" in error
    assert "precision, recall, fd_classifier" in error
    assert "name it *.svg" in refused(capsys, directories[0], "--figure", "curves.png")


def test_a_copy_is_no_second_seed(tmp_path, capsys):
    twins = [lineage(tmp_path / name, "fresh", 0) for name in "ab"]
    assert "same configuration and seed 0" in refused(capsys, *twins)


@pytest.mark.parametrize("change", [{"n": 400}, {"k": 3}, {"extractor": "random", "weights": "b"}])
def test_values_that_were_not_measured_alike_share_no_axis(tmp_path, capsys, change):
    runs = [
        lineage(tmp_path, "fresh", 0),
        lineage(tmp_path, "fresh", 1, protocol=PROTOCOL | change),
    ]
    error = refused(capsys, *runs)
    for key, value in change.items():
        assert f"{key} is {PROTOCOL[key]} in {runs[0]} and {value} in {runs[1]}" in error
    for draw in (table, figure):
        with pytest.raises(Refused, match="protocol"):
            draw(load(runs), ["recall"])


def test_other_data_share_no_axis(tmp_path, capsys):
    other = config("fresh", 1) | {"data": {"source": {"class_path": "MNIST"}}}
    runs = [lineage(tmp_path, "fresh", 0), lineage(tmp_path, "fresh", 1, config=other)]
    assert "data.source is" in refused(capsys, *runs)


def test_a_protocol_of_fewer_metrics_is_no_contradiction(tmp_path):
    fewer = {key: value for key, value in PROTOCOL.items() if key != "k"}
    runs = [lineage(tmp_path, "fresh", 0), lineage(tmp_path, "fresh", 1, protocol=fewer)]
    assert "k = 5" in table(load(runs), ["fd_classifier"])
