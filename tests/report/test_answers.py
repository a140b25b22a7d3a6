"""The sentence that a sweep ends with: what is said where, and what it takes where nothing is."""

import csv
import io
import json

import numpy as np
import pytest

from mad_lightning.commands import main
from mad_lightning.lineage import GenerationRecord, Quantity
from mad_lightning.lineage.quantities import MeasurementError
from mad_lightning.policies import FreshData, FullySynthetic, SyntheticAugmentation
from mad_lightning.refusal import Refused
from mad_lightning.report import load
from mad_lightning.report.answers import Question, answers
from mad_lightning.report.phase import phase
from mad_lightning.verdict import Excess, border

from .ledgers import PROTOCOL, kept

N = 900


def told(policy, bias=1.0, seed=0, family="mad_lightning.generators.Diffusion"):
    counts = {key: getattr(policy, key) for key in ("n_initial", "n_fresh") if hasattr(policy, key)}
    counts["n_synthetic"] = policy.mix(2).n_synthetic
    return {
        "seed_everything": seed,
        "sampling_bias": bias,
        "policy": {"class_path": type(policy).__name__, "init_args": counts},
        "generator": {"class_path": family},
        "data": {"source": {"class_path": "mad_lightning.data.Digits"}},
    }


def swept(root, policies, lost, *, seeds=4, generations=6, bias=1.0, spread=0.004, **more):
    """Lineages of several mixes, of whose recall ``lost(share)`` is lost in the end."""
    paths = []
    for policy in policies:
        later = policy.mix(2)
        share = 1 - later.n_synthetic / len(later)
        for seed in range(seeds):
            noise = spread * np.random.default_rng(seed).standard_normal(generations)
            records = []
            for t in range(1, generations + 1):
                mix, part = policy.mix(t), (t - 1) / (generations - 1)
                loss = lost(share) * part + noise[t - 1]
                records.append(
                    GenerationRecord(
                        t, policy.token, mix.n_real, mix.n_fresh, mix.n_synthetic, bias,
                        metrics={"recall": 0.95 - loss, "kd_classifier": 10 * (1 + 4 * loss)},
                        errors={"recall": MeasurementError(0.02, more.get("error", 0.0))},
                        floor={"recall": 0.97}, protocol=PROTOCOL, ages=mix.ages(),
                    )
                )  # fmt: skip
            name = f"base,{later.n_fresh}+{later.n_synthetic},λ={bias:g}_seed{seed}"
            paths.append(kept(root / name, records, told(policy, bias, seed)))
    return paths


def fresh(*counts, n=N, initial=N):
    return [FreshData(initial, count, n - count) for count in counts]


def falling(share):
    return 0.2 * (1 - share) ** 3  # .05 at a share of .37


def test_the_sentence_says_what_was_asked_of_whom(tmp_path):
    runs = swept(tmp_path, fresh(90, 225, 450, 675), falling)
    (answer,) = answers(load(runs))
    told = str(answer)
    assert told.startswith("With 900 samples a generation of Diffusion on Digits, at least 3")
    assert "fresh real data keep recall within 0.05 of generation 1's in generation 6" in told
    assert told.endswith("at 95 % (tried: 10, 25, 50 and 75 %, 4 seeds each).")
    assert answer.border.low < 0.37 < answer.border.high
    low, high = np.floor(100 * answer.border.low), np.ceil(100 * answer.border.high)
    assert f"{100 * answer.border.estimate:.0f} % [{low:.0f}, {high:.0f}] fresh" in told


def test_the_numbers_are_those_of_the_ledgers(tmp_path):
    runs = swept(tmp_path, fresh(90, 225, 450, 675), falling, error=0.01)
    groups = load(runs)
    for question, excess in (
        (Question(), lambda first, last: first["recall"] - last["recall"] - 0.05),
        (Question("recall", 0.1), lambda first, last: first["recall"] - last["recall"] - 0.1),
        (
            Question("kd_classifier", 0.5),
            lambda first, last: last["kd_classifier"] - 1.5 * first["kd_classifier"],
        ),
    ):
        (answer,) = answers(groups, question)
        error = 0.01 * 2**0.5 if answer.metric == "recall" else 0.0
        tried = []
        for group, share in zip(groups, (0.1, 0.25, 0.5, 0.75), strict=True):
            ends = [(each.records[0].metrics, each.records[-1].metrics) for each in group.lineages]
            by_seed = {seed: excess(*pair) for seed, pair in enumerate(ends)}
            tried.append(Excess(share, by_seed, error))
        ours, theirs = answer.border, border(tried)
        assert ours.states == theirs.states
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
        means = [[*known.means.values()] for known in (ours, theirs)]
        highs = [[mean.high for mean in each] for each in means]
        assert highs[0] == pytest.approx(highs[1])
    (answer,) = answers(groups, Question(last=3))
    assert "in generations 4 to 6" in str(answer)
    first, last = answer.values(answer.arms[0])[0]
    series = [record.metrics["recall"] for record in groups[0].lineages[0].records]
    assert (first, last) == pytest.approx((series[0], np.mean(series[3:])))


@pytest.mark.parametrize(
    ("lost", "spread", "says"),
    [
        (lambda p: 0.01, 0.001, "of fresh real data at most 10 % are needed, the smallest share"),
        (lambda p: 0.4 - 0.1 * p, 0.001, "more than 75 % fresh real data, the largest share that"),
        (lambda p: 0.06 - 0.03 * p, 0.05, "undecided: no share of fresh real data was shown to"),
        (lambda p: 0.2 - 0.13 * p, 0.1, "would take shares above 75 %"),
        (lambda p: 0.052 - 0.02 * p, 0.004, "are enough to keep recall within 0.05"),
    ],
)
def test_what_was_not_shown_is_said_with_what_it_takes(tmp_path, lost, spread, says):
    runs = swept(tmp_path, fresh(90, 225, 450, 675), lost, spread=spread)
    (answer,) = answers(load(runs))
    assert says in str(answer)


def test_one_seed_says_that_it_takes_more(tmp_path):
    runs = swept(tmp_path, fresh(90, 450), falling, seeds=1)
    (answer,) = answers(load(runs))
    assert "undecided" in str(answer)
    assert "one seed of 50 %; it takes two more" in str(answer)


def test_questions_are_told_apart_by_bias_and_number_of_samples(tmp_path):
    runs = [
        *swept(tmp_path / "a", fresh(90, 450), falling),
        *swept(tmp_path / "b", fresh(90, 450), falling, bias=0.66),
        *swept(tmp_path / "c", fresh(50, 250, n=500, initial=500), falling),
        *swept(tmp_path / "d", [FullySynthetic(N, N)], falling),  # no fresh data at all
        *swept(tmp_path / "e", [SyntheticAugmentation(N, "900 * (t - 1)")], falling),  # it grows
    ]
    told = answers(load(runs))
    assert [[arm.share for arm in answer.arms] for answer in told] == [
        [0.0, 0.1, 0.5], [0.1, 0.5], [0.1, 0.5],
    ]  # fmt: skip
    assert ["(λ = 0.66)" in str(answer) for answer in told].count(True) == 1
    assert sum("With 500 samples" in str(answer) for answer in told) == 1


def test_more_synthetic_samples_beside_as_many_fresh_ones_are_a_question_too(tmp_path):
    policies = [FreshData(100, 100, n) for n in (100, 300, 900)]
    (answer,) = answers(load(swept(tmp_path, policies, falling)))
    assert [arm.share for arm in answer.arms] == [0.1, 0.25, 0.5]
    assert "With 100 fresh samples and more or fewer synthetic ones a generation" in str(answer)
    assert "generation 1's (100 real samples)" in str(answer)


def test_lineages_that_did_not_get_there_are_no_seeds(tmp_path):
    runs = swept(tmp_path / "a", fresh(90, 450), falling)
    runs += swept(tmp_path / "b", fresh(300), falling, generations=2)
    (answer,) = answers(load(runs))
    assert [arm.share for arm in answer.arms] == [0.1, 0.5]
    assert answer.end == 6


def test_what_cannot_be_asked_is_refused(tmp_path):
    groups = load(swept(tmp_path, fresh(90, 450), falling))
    with pytest.raises(Refused, match="no ledger has fid"):
        answers(groups, Question("fid"))
    for wrong in ({"margin": 0.0}, {"margin": float("nan")}, {"last": 0}, {"alpha": 0.7}):
        with pytest.raises(Refused):
            Question(**wrong)
    assert answers(load(swept(tmp_path / "one", fresh(90), falling))) == []


def test_a_metric_nobody_calls_better_or_worse_is_refused(tmp_path):
    groups = load(swept(tmp_path, fresh(90, 450), falling))
    for lineage in (lineage for group in groups for lineage in group.lineages):
        for record in lineage.records:
            record.quantities["recall"] = Quantity()
    with pytest.raises(Refused, match="which way is worse"):
        answers(groups, Question("recall"))


# --- what the doors make of it ------------------------------------------------------------------


def test_the_report_says_it_and_writes_it(tmp_path, capsys):
    runs = swept(tmp_path / "a", fresh(90, 225, 450), falling)
    runs += swept(tmp_path / "b", fresh(90, 225, 450), falling, bias=0.66)
    asked = ["--keep", "kd_classifier", "--margin", "0.5"]
    files = {name: tmp_path / f"sweep.{name}" for name in ("csv", "json", "svg")}
    out = [*("--csv", files["csv"]), *("--json", files["json"]), *("--phase", files["svg"])]
    main(["report", *map(str, [*runs, *asked, *out])])
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("keep kd_classifier within 50 % of generation 1's") == 2
    told = json.loads(files["json"].read_text())["answers"]
    assert [answer["metric"] for answer in told] == ["kd_classifier"] * 2
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    assert len(rows) == 2 * 3 * 4 * 6 * 2
    assert {(row["sampling_bias"], row["policy.n_fresh"]) for row in rows} == {
        (bias, n) for bias in ("1.0", "0.66") for n in ("90", "225", "450")
    }
    assert float(rows[0]["error"]) == 0.02
    drawn = files["svg"].read_text()
    assert all(
        word in drawn for word in ("λ = 0.66", "kd_classifier grew", "margin 0.5", "real data, %")
    )
    assert drawn.count(">×") == 6


def test_a_phase_diagram_of_counts_has_a_cell_for_each(tmp_path):
    policies = [FreshData(100, m, n) for m in (50, 100, 200) for n in (100, 200, 400)]
    groups = load(swept(tmp_path, policies, falling))
    drawn = phase(answers(groups), answers(groups, apart=False))
    assert drawn.count(">×") == 9
    assert "synthetic samples up" in drawn
    with pytest.raises(Refused):
        phase([])
