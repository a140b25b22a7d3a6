"""The table of the paper's definitions, and what a policy may ask."""

import pytest

from mad_lightning.policies import (
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
        assert Part("synthetic", shard, 0, 5).generation == generation


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
