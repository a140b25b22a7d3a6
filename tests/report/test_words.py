"""Sentences before all numbers: what they say of each kind of group, and that they stay short."""

import re

import pytest

from mad_lightning.lineage import Quantity
from mad_lightning.lineage.quantities import MeasurementError
from mad_lightning.policies import FreshData
from mad_lightning.report import answer, headline, judgements, load

from .ledgers import fed, lineage


def said(*directories):
    groups = load(directories)
    return headline(groups, judgements(groups))


def loop(root, name, curve, seeds=3, **more):
    """Seeds whose distance follows a curve, each 1 % off."""

    def metrics(_, seed, t):
        return {"fid": curve(t) * (1 + 0.01 * (seed - 1) * (-1) ** t)}

    more = {"floor": {"fid": 1.0}, "floor_errors": {"fid": 0.01}} | more
    return [lineage(root, name, seed, metrics=metrics, **more) for seed in range(seeds)]


def test_what_went_mad_comes_first_and_with_its_conditions(tmp_path):
    flat = loop(tmp_path, "flat", lambda t: 10.0)
    first, second = said(*flat, *loop(tmp_path, "grows", lambda t: 10.0 * t))
    assert re.match(
        r"grows went MAD: nothing real comes in, and the distance fid grew ×5\.4\d "
        r"\(at least ×5\.\d+\) by generations 5–6 \(3 seeds, 95% sure\)\.$",
        first,
    )  # sqrt(5 * 6) = 5.48, or the mean of 5 and 6
    assert second.startswith("Of flat no growth above 25% was seen in generations 4–6 (3 seeds,")
    assert second.endswith("undecided: more seeds or more generations would tell.")


def test_a_loop_that_loses_recall_says_so_where_its_distance_does_not_tell(tmp_path):
    def metrics(_, seed, t):
        return {
            "fid": 10.0 + 4 * ((seed + t) % 3),
            "recall": 0.95 - 0.1 * t + 0.01 * (seed * t % 3),
        }

    runs = [lineage(tmp_path, "thins", seed, metrics=metrics) for seed in range(3)]
    (sentence,) = said(*runs)
    assert re.match(
        r"digits_diffusion_thins went MAD: nothing real comes in, and recall fell by 0\.4\d "
        r"\(at least 0\.[34]\d\) by generations 5–6 \(3 seeds, 99% sure\); that a distance grew",
        sentence,
    )


def test_groups_of_which_the_same_can_be_said_share_a_sentence(tmp_path):
    runs = [run for k in (2, 5) for run in loop(tmp_path, f"by{k}", lambda t, k=k: 10 + k * t)]
    (sentence,) = said(*runs)
    assert sentence.startswith("by2 and by5 went MAD: ")
    assert sentence.count("at least ×") == 2
    assert "3 seeds each" in sentence


def test_distances_that_differ_are_named(tmp_path):
    other = {"metrics": lambda _, seed, t: {"fd_x": (10 + seed) * t}, "floor": {"fd_x": 1.0}}
    runs = [lineage(tmp_path, "other", seed, **other) for seed in range(3)]
    (sentence,) = said(*loop(tmp_path, "one", lambda t: 10.0 * t), *runs)
    assert sentence.startswith("one and other went MAD: nothing real comes in, and the distance")
    assert re.search(r", by fid\) and ×[\d.]+ \(at least ×[\d.]+, by fd_x\)", sentence)


def test_twelve_groups_stay_short(tmp_path):
    runs = [
        run
        for k in range(12)
        for run in loop(tmp_path, f"n{k}", lambda t, k=k: 10.0 + t * (k % 2) * (k + 1))
    ]
    mad, quiet = said(*runs)
    assert mad.startswith("n1, n3, n5 and 3 more went MAD: ")
    assert re.search(r"grew ×1\.7\d* to ×3\.4\d* by", mad)  # 10 + 2t and 10 + 12t, 5.5 over 1
    assert quiet.startswith("Of n0, n2, n4 and 3 more no growth above 25%")
    assert len(mad + quiet) < 450


def test_one_lineage_says_what_one_lineage_shows(tmp_path):
    def errors(_, seed, t):
        return {"fid": MeasurementError(0.3, 0.4)}

    grows = {"curve": lambda t: 10.0 * t, "seeds": 1, "errors": errors}
    one = loop(tmp_path, "one", **grows)
    (sentence,) = said(*one)
    assert sentence.startswith(
        "digits_diffusion_one is one lineage: fid rose from 10.10 ± 0.50 to 59.40 ± 0.50, "
        "in each of 5 steps by more than its measurement error"
    )
    assert sentence.endswith("takes two more seeds.")
    (sentence,) = said(*one, *loop(tmp_path, "other", **grows))
    assert sentence.startswith("one and other are one lineage each: the distance fid went from 10")
    assert sentence.endswith("takes two more seeds of each.")


@pytest.mark.parametrize(("generations", "made"), [(1, "1 generation,"), (2, "2 generations,")])
def test_too_few_generations_say_so(tmp_path, generations, made):
    runs = loop(tmp_path, "young", lambda t: 10.0 * t, generations=generations)
    (sentence,) = said(*runs)
    assert sentence.startswith(f"digits_diffusion_young made {made} and it takes at least 3 to")


def test_without_a_distance_it_says_what_was_seen_and_what_is_missing(tmp_path):
    quantities = {"spread": Quantity("diversity", worse="lower")}
    runs = [
        lineage(
            tmp_path, "mine", seed, metrics=lambda *at: {"odd": 1.0, "spread": 1.2 - 0.1 * at[2]},
            floor={}, quantities=quantities,
        )
        for seed in range(3)
    ]  # fmt: skip
    (sentence,) = said(*runs)
    assert "no distance was measured" in sentence
    assert "`mad measure LINEAGE --metrics Kernel Frechet`" in sentence
    assert "spread went from 1.100 ± 0.000 to 0.600 ± 0.000" in sentence
    assert "MAD:" not in sentence


def test_a_value_that_is_missing_decides_nothing(tmp_path):
    runs = loop(tmp_path, "gap", lambda t: float("nan") if t == 3 else 10.0)
    (sentence,) = said(*runs)
    assert sentence == ("Of digits_diffusion_gap nothing is decided: a value of fid is missing.")


def test_real_data_that_comes_in_is_told_apart(tmp_path):
    open_loop = FreshData(n_initial=9, n_fresh=5, n_synthetic=5)
    explodes = fed(tmp_path, "explodes", open_loop, 1.5)
    stays = fed(tmp_path, "stays", open_loop, 1.0)
    grew, settled = said(*stays, *explodes)
    assert grew.startswith("explodes went MAD although real data comes in: the distance fid grew")
    assert re.match(r"stays settled: at the pace of generations 7–12 .* less than 25%", settled)


def test_what_could_settle_is_undecided_and_says_what_would_decide(tmp_path):
    open_loop = FreshData(n_initial=9, n_fresh=5, n_synthetic=5)
    rises = fed(tmp_path, "rises", open_loop, lambda t: t**0.5)
    wanders = fed(tmp_path, "wanders", open_loop, lambda t: 1.0 + 0.12 * t + 3.0 * (t == 5))
    rose, neither = said(*wanders, *rises)
    assert rose.startswith("Of rises the distance fid grew ×3.")  # sqrt(10.5) = 3.2
    assert rose.endswith("undecided: 20 generations would show growth of 20% a generation.")
    assert neither.startswith("Of wanders neither growth nor its absence is shown: the distance")
    assert neither.endswith("undecided: more seeds or more generations would tell.")


def test_the_answer_of_a_group_is_the_headline_that_it_has_alone(tmp_path):
    runs = [*loop(tmp_path, "a", lambda t: 10.0 * t), *loop(tmp_path, "b", lambda t: 9.0)]
    groups = load(runs)
    for group, judgement in zip(groups, judgements(groups), strict=True):
        assert [answer(group, judgement)] == headline([group], [judgement])
