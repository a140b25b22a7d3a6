"""The table of the paper's definitions, and what a policy may ask."""

import numpy as np
import pytest
import scipy.stats

from mad_lightning.policies import (
    AccumulateSubsample,
    Combined,
    FreshData,
    FullySynthetic,
    LoopPolicy,
    Mix,
    Part,
    SyntheticAugmentation,
    shard_name,
)
from mad_lightning.refusal import Refused

POLICIES = [
    FullySynthetic(n_initial=70),
    FullySynthetic(n_initial=70, n_synthetic=30, synthetic_from="all"),
    FullySynthetic(n_initial=70, n_synthetic=31, synthetic_from="last_k", k=3),
    SyntheticAugmentation(n_real=70),
    SyntheticAugmentation(n_real=70, n_synthetic="(t-1) * 70", synthetic_from="all"),
    SyntheticAugmentation(n_real=70, n_synthetic=10, n_initial=90, synthetic_from="last_k", k=4),
    FreshData(n_initial=100, n_fresh=10, n_synthetic=90),
    FreshData(n_initial=100, n_fresh=10, n_synthetic=91, synthetic_from="last_k", k=5),
    FreshData(n_initial=100, n_fresh=10, n_synthetic="t x 9", synthetic_from="all"),
    FreshData(n_initial=100, n_fresh="5 * t", n_synthetic=20),
    SyntheticAugmentation(n_real="max(0, 90 - 30*(t-1))", n_initial=90, n_synthetic=40),
    Combined(n_initial=70, n_real=50, n_fresh="t", n_synthetic=30, n_external="2*t"),
    Combined(n_initial=70, n_real="20*t", n_fresh=9, n_synthetic=31, synthetic_from="last_k", k=3),
    Combined(100, "100//t", 0, "100 - 100//t", synthetic_from="all", weight_synthetic=0.3),
]


def counts(policy, generations):
    mixes = [policy.mix(t) for t in range(1, generations + 1)]
    return [(m.n_real, m.n_fresh, m.n_synthetic) for m in mixes]


def test_fully_synthetic_is_the_papers():
    policy = FullySynthetic(n_initial=70_000)
    assert counts(policy, 3) == [(70_000, 0, 0), (0, 0, 70_000), (0, 0, 70_000)]
    assert policy.mix(3).parts == (Part("synthetic", "002", 0, 70_000),)


def test_stylegan_augmentation_keeps_every_earlier_shard():
    """E7: the fixed 70k and a pool that grows by 70k a generation."""
    policy = SyntheticAugmentation(70_000, "(t-1) x 70k", synthetic_from="all")
    assert counts(policy, 4)[-1] == (70_000, 0, 210_000)
    assert [(p.generation, p.start, p.count) for p in policy.mix(4).parts[1:]] == [
        (1, 0, 70_000),
        (2, 0, 70_000),
        (3, 0, 70_000),
    ]
    assert policy.n_draw(2) == 70_000


def test_mnist_augmentation_draws_from_the_last():
    """E8: 60k fixed real and 60k of the last generator."""
    policy = SyntheticAugmentation(60_000)
    assert policy.mix(5).parts == (
        Part("real", None, 0, 60_000),
        Part("synthetic", "004", 0, 60_000),
    )


def test_fresh_data_is_the_papers():
    """E9: n_ini, then 100 fresh beside 900 synthetic."""
    policy = FreshData(n_initial=1000, n_fresh=100, n_synthetic=900)
    assert counts(policy, 3) == [(1000, 0, 0), (0, 100, 900), (0, 100, 900)]
    assert policy.n_pool(40) == 1000 + 39 * 100
    assert "1000 + 39 x 100 = 4900" in policy.arithmetic(40)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: f"{p.token}-{p.synthetic_from}")
class TestContract:
    def test_generation_1_is_real_only(self, policy):
        assert {part.origin for part in policy.mix(1).parts} == {"real"}

    def test_no_fresh_sample_is_used_twice(self, policy):
        seen: set[int] = set()
        for t in range(1, 20):
            for part in policy.mix(t).parts:
                if part.origin == "fresh" or (t == 1 and policy.token == "fresh"):
                    places = set(range(part.start, part.stop))
                    assert not places & seen
                    seen |= places

    def test_synthetic_parts_come_from_earlier_generations_and_exist(self, policy):
        policy.check(20)
        for t in range(2, 20):
            for part in policy.mix(t).parts:
                if part.generation is not None:
                    assert 1 <= part.generation < t
                    assert part.stop <= policy.n_draw(part.generation)

    def test_counts_are_what_was_asked(self, policy):
        for t in range(2, 20):
            assert policy.mix(t).n_synthetic == policy.n_synthetic(t)

    def test_is_pure(self, policy):
        assert policy.mix(7) == policy.mix(7)
        assert policy.n_pool(9) >= policy.n_pool(8)


def test_last_k_takes_new_samples_at_every_age():
    policy = FreshData(n_initial=9, n_fresh=1, n_synthetic=12, synthetic_from="last_k", k=3)
    used = [
        (p.start, p.stop) for t in range(2, 30) for p in policy.mix(t).parts if p.generation == 10
    ]
    assert used == [(0, 4), (4, 8), (8, 12)]
    assert policy.n_draw(10) == 12


@pytest.mark.parametrize("text", ["t**t**t", "max(9, 100//(t-5))", "100//(6-t)", "22-5*t"])
def test_a_schedule_is_asked_for_all_generations_before_the_first(text):
    """Generation 6 is asked, too: the shard of generation 5 is drawn for it."""
    with pytest.raises(Refused) as caught:
        FullySynthetic(10, text).check(5)
    assert caught.value.field == "n_synthetic"
    assert "t = " in caught.value.problem or "generation 5" in caught.value.problem


@pytest.mark.parametrize("kind", ["last", "all", "last_k"])
@pytest.mark.parametrize(
    "text", ["5*t", "40-3*t", "t*t", "max(9, 30-t)", "t//4", "7", "3*(t//5)+1"]
)
def test_the_quick_check_is_that_of_any_policy(text, kind):
    policy = SyntheticAugmentation(10, f"max(0, {text})", synthetic_from=kind, k=3)

    def told(check):
        try:
            check(policy, 14)
        except Refused as refused:
            return refused.field, refused.problem
        return None

    assert told(type(policy).check) == told(LoopPolicy.check)
    for t in range(1, 9):
        assert policy.n_draw(t) == LoopPolicy.n_draw(policy, t)
        assert policy.summary(t) == LoopPolicy.summary(policy, t)
        assert list(policy.summary(t)["ages"]) == list(policy.mix(t).ages())


def test_a_pool_that_keeps_all_is_checked_in_linear_time(monkeypatch):
    asked = []
    policy = SyntheticAugmentation(10, "(t-1) * 10", synthetic_from="all")
    share = policy._share
    monkeypatch.setattr(policy, "_share", lambda *at: asked.append(at) or share(*at))
    monkeypatch.setattr(policy, "synthetic_parts", None)  # makes one part for every generation
    policy.check(2000)
    policy.n_pool(2000)
    policy.n_draw(1999)
    assert policy.summary(2000)["ages"] == dict.fromkeys(range(1999, 0, -1), 10)
    assert len(asked) <= 2000


def test_a_subclass_with_a_mix_of_its_own_is_checked_by_its_mix():
    class Idle(FullySynthetic):
        def mix(self, t):
            return Mix(t, ())

    with pytest.raises(Refused, match="nothing to train on"):
        Idle(10).check(3)
    assert (Idle(10).n_pool(3), Idle(10).n_draw(1)) == (0, 0)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: FullySynthetic(0), "n_initial"),
        (lambda: FullySynthetic(10, -1), "n_synthetic"),
        (lambda: FullySynthetic(10, "ten"), "n_synthetic"),
        (lambda: FullySynthetic(10, synthetic_from="first"), "synthetic_from"),
        (lambda: SyntheticAugmentation(-5), "n_real"),
        (lambda: FreshData(10, 0, 5), "n_fresh"),
        (lambda: FreshData(10, 1, 5, synthetic_from="last_k", k=0), "k"),
        (lambda: FreshData(10, 1, 5, synthetic_from="last_k", k=10**12), "k"),
        (lambda: FullySynthetic(10**16), "n_initial"),
        (lambda: FullySynthetic(10, 0).check(3), ""),
        (
            lambda: SyntheticAugmentation(10, "t*t*t", synthetic_from="all").check(9),
            "n_synthetic",
        ),
    ],
)
def test_bad_counts_are_refused_by_field(build, field):
    with pytest.raises(Refused) as caught:
        build()
    assert caught.value.field == field
    assert caught.value.remedy


def test_a_shard_has_a_name_and_is_not_its_generation():
    assert (shard_name(3), shard_name(3, "kept"), shard_name(1234)) == ("003", "003.kept", "1234")
    for shard, generation in (
        ("003", 3),
        ("003.kept", 3),
        ("1234.kept", 1234),
        ("foreign/laion", None),
        (None, None),
    ):
        part = Part("synthetic" if shard else "real", shard, 0, 5)
        assert part.generation == generation


def test_ages_count_samples_by_how_much_older_their_generator_is():
    parts = (
        Part("real", None, 0, 10),
        Part("synthetic", "005", 0, 3),
        Part("synthetic", "foreign/laion", 0, 7),
        Part("synthetic", "002.kept", 4, 2),
        Part("synthetic", "005", 3, 1),
    )
    mix = Mix(6, parts)
    assert mix.ages() == {4: 2, 1: 4}
    assert list(mix.ages()) == [4, 1]
    assert mix.shards == ("005", "foreign/laion", "002.kept")
    assert (mix.n_synthetic, mix.n_real) == (13, 10)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: f"{p.token}-{p.synthetic_from}")
def test_ages_are_those_of_the_window(policy):
    for t in range(2, 12):
        mix = policy.mix(t)
        oldest = {"last": 1, "all": t - 1, "last_k": min(policy.k, t - 1)}[policy.synthetic_from]
        assert sum(mix.ages().values()) == mix.n_synthetic
        assert set(mix.ages()) == set(range(1, oldest + 1))


def test_a_treatment_renames_what_generators_drew_and_nothing_else():
    parts = (
        Part("real", None, 0, 10),
        Part("synthetic", "002", 0, 3),
        Part("synthetic", "foreign/laion", 0, 7),
    )
    mix = Mix(3, parts)
    assert mix.treated("") == mix
    assert mix.treated("kept").shards == ("002.kept", "foreign/laion")
    assert mix.treated("kept").ages() == mix.ages()
    assert mix.treated("kept").parts[0] == parts[0]


def test_a_policy_cannot_take_what_is_not_drawn_yet():
    class Hasty(LoopPolicy):
        def mix(self, t):
            return Mix(t, (Part("synthetic", "003", 0, 10),))

    assert Hasty.token == "hasty"
    with pytest.raises(Refused, match="generation 1 asks for the shard of generation 3"):
        Hasty().check(5)


def test_a_new_policy_is_one_small_class():
    class RealForever(LoopPolicy):
        token = "real"

        def mix(self, t):
            return Mix(t, (Part("real", None, 0, 10),))

    policy = RealForever()
    policy.check(5)
    assert (policy.n_draw(3), policy.n_pool(5)) == (0, 10)


# --- all kinds of data at once --------------------------------------------------------------------


def test_a_combined_loop_holds_what_each_count_says_with_its_weight():
    policy = Combined(9, 5, 2, 7, 3, weight_fresh=2.0, weight_external=0.5)
    assert policy.mix(1).parts == (Part("real", None, 0, 9),)
    assert policy.mix(3).parts == (
        Part("real", None, 0, 5),
        Part("fresh", None, 11, 2, 2.0),
        Part("synthetic", "002", 0, 7),
        Part("external", "foreign/external", 0, 3, 0.5),
    )
    assert policy.n_pool(3) == 13
    assert policy.n_foreign(3) == {"foreign/external": 3}
    assert (policy.n_foreign(1), Combined(9, 5).n_foreign(5)) == ({}, {})


def test_a_fixed_set_that_grows_stays_fixed_and_takes_no_fresh_sample():
    """By place: each generation's fixed set holds the one before, and meets no fresh sample."""
    policy = Combined(10, n_real="10 + 4*(t-1)", n_fresh="t", n_synthetic=5)
    fixed, fresh = [], set()
    for t in range(1, 12):
        parts = policy.mix(t).parts
        real = [n for p in parts if p.origin == "real" for n in range(p.start, p.stop)]
        new = {n for p in parts if p.origin == "fresh" for n in range(p.start, p.stop)}
        assert len(real) == len(set(real)) == 10 + 4 * (t - 1)
        assert real[: len(fixed)] == fixed
        assert not new & (fresh | set(real))
        fixed, fresh = real, fresh | new
    assert not set(fixed) & fresh
    assert set(fixed) | fresh == set(range(policy.n_pool(11)))
    assert len(Combined(10, n_real="10*t", n_synthetic=5).mix(9).parts) == 2  # one run


def test_equal_shares_of_all_past_with_a_real_share_fill_one_budget():
    """Real data are one of t sources, as any generator is."""
    policy = Combined(100, "100//t", 0, "100 - 100//t", synthetic_from="all")
    policy.check(50)
    for t in range(2, 30):
        mix = policy.mix(t)
        assert len(mix) == 100
        assert all(abs(count - 100 / t) <= 1 for count in (mix.n_real, *mix.ages().values()))


def test_budgets_may_grow_and_real_data_may_vanish():
    growing = FreshData(8, "8 * 2**(t-1)", "8 * 2**(t-1)")
    assert counts(growing, 4) == [(8, 0, 0), (0, 16, 16), (0, 32, 32), (0, 64, 64)]
    assert growing.mix(4).parts[0] == Part("fresh", None, 8 + 16 + 32, 64)
    assert "n_fresh = '8 * 2**(t-1)' over generations 2 to 4 = 120" in growing.arithmetic(4)
    vanishing = SyntheticAugmentation("max(0, 9 - 3*(t-1))", 9)
    assert [mix[0] for mix in counts(vanishing, 5)] == [9, 6, 3, 0, 0]


def test_what_says_nothing_is_not_told():
    """Digests of old lineages hold a part as four facts."""
    assert Part("synthetic", "003", 1, 5).facts == {
        "origin": "synthetic", "shard": "003", "start": 1, "count": 5
    }  # fmt: skip
    assert Part("real", None, 0, 5, 2.0, 9).facts.keys() >= {"weight", "among"}
    assert Part("real", None, 2, 5, among=9).stop == 11


@pytest.mark.parametrize("bad", ["ten", 1.5, float("nan"), True, None, [3], -1, 10**16, 10.0])
@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda n: FullySynthetic(n), "n_initial"),
        (lambda n: SyntheticAugmentation(n), "n_real"),
        (lambda n: FreshData(9, n, 5), "n_fresh"),
        (lambda n: FreshData(9, 5, n), "n_synthetic"),
        (lambda n: FreshData(9, 5, 5, "last_k", n), "k"),
        (lambda n: Combined(9, n_external=n), "n_external"),
        (lambda n: AccumulateSubsample(9, 9 if n is None else n, "x" if n is None else 9), ""),
        (lambda n: Part("real", None, n, 5), "start"),  # as in policies of one's own
        (lambda n: Part("synthetic", "001", 0, n), "count"),
        (lambda n: Part("real", None, 0, 1, among=0.5 if n is None else n), "among"),
    ],
)
def test_what_is_no_count_is_refused_from_python_too(build, field, bad):
    with pytest.raises(Refused) as caught:
        build(bad)
    assert caught.value.field == field or field == ""
    assert len(str(caught.value)) < 400


def test_an_origin_is_one_that_is_known():
    with pytest.raises(Refused, match="choose real or fresh or synthetic or external"):
        Part("fake", None, 0, 5)


def test_a_count_may_be_numpys():
    assert type(Part("real", None, 0, np.int32(5)).count) is int
    for policy in (FullySynthetic(np.int64(9)), SyntheticAugmentation(np.int64(9))):
        assert {type(part.count) for t in (1, 2) for part in policy.mix(t).parts} == {int}


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), True, "1", None, 10**9])
def test_a_weight_is_a_positive_number(bad):
    with pytest.raises(Refused) as caught:
        Combined(9, 5, weight_real=bad)
    assert caught.value.field == "weight_real"


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (Combined(9, n_real="5 - t", n_synthetic=5), "n_real"),
        (Combined(9, n_fresh="100//(t-4)", n_synthetic=5), "n_fresh"),
        (Combined(9, n_external="3 - t", n_synthetic=5), "n_external"),
        (Combined(9, 1, n_synthetic="3 - t"), "n_synthetic"),
        (Combined(9, n_real="max(0, 3 - t)"), ""),
    ],
)
def test_every_schedule_is_asked_for_all_generations_before_the_first(policy, field):
    with pytest.raises(Refused) as caught:
        policy.check(8)
    assert caught.value.field == field


# --- a fixed budget of all there is ---------------------------------------------------------------


def test_a_subsample_is_a_fair_choice_of_everything():
    """The counts by source are multivariate hypergeometric: mean and variance, over many seeds."""
    policy, t, runs = AccumulateSubsample(20, 15, 10), 4, 4000
    drawn = []
    for seed in range(runs):
        mix = policy.seeded(seed).mix(t)
        assert len(mix) == 15
        drawn.append([mix.n_real, *(mix.ages().get(age, 0) for age in (3, 2, 1))])
    sizes = [20, 10, 10, 10]
    for k, size in enumerate(sizes):
        law = scipy.stats.hypergeom(sum(sizes), size, 15)
        got = np.array(drawn)[:, k]
        assert abs(got.mean() - law.mean()) < 4.5 * law.std() / runs**0.5
        assert abs(got.var() / law.var() - 1) < 0.15
    assert scipy.stats.pearsonr(*np.array(drawn).T[:2]).statistic < -0.3


def test_a_subsample_is_addressed_and_its_shards_are_drawn_whole():
    policy = AccumulateSubsample(20)
    assert policy.mix(1).parts == (Part("real", None, 0, 20),)
    seeded = [policy.seeded(seed).mix(7) for seed in (0, 1, 1)]
    assert seeded[0] == policy.mix(7)
    assert seeded[1] == seeded[2] != seeded[0]
    assert all(part.among == 20 and part.count <= 20 for part in seeded[1].parts)
    assert (policy.n_draw(5), policy.n_pool(40), policy.n_foreign(9)) == (20, 20, {})
    assert policy.union(3).parts == (
        Part("real", None, 0, 20),
        Part("synthetic", "001", 0, 20),
        Part("synthetic", "002", 0, 20),
    )
    assert AccumulateSubsample(20, 100).mix(3) == policy.union(3)  # nothing to choose
    with pytest.raises(Refused, match="n_budget"):
        AccumulateSubsample(20, 0)
