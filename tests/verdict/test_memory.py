"""What a loop remembers follows from the ages of what it eats, whatever its policy is called."""

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
from mad_lightning.verdict import Ancestry, memory_of


def lineage(policy, generations=10, continues=False):
    """What the generations of a lineage were trained on."""
    mixes = [policy.mix(t) for t in range(1, generations + 1)]
    return [Ancestry(mix.generation, len(mix), mix.ages(), continues) for mix in mixes]


class Handmade(LoopPolicy):
    """40 fresh samples beside 60 that go to the generations so many steps back."""

    token = "handmade"

    def __init__(self, *ages, n_synthetic=60, shards="{}"):
        self.ages, self.n_synthetic, self.shards = ages, n_synthetic, shards

    def mix(self, t):
        if t == 1:
            return Mix(t, (Part("real", None, 0, 100),))
        ages = [age for age in self.ages or range(1, t) if age < t]
        share = self.n_synthetic // len(ages)
        synthetic = (
            Part("synthetic", self.shards.format(shard_name(t - age)), 0, share) for age in ages
        )
        return Mix(t, (Part("fresh", None, 40 * t + 60, 40), *synthetic))


SHARE = 60 / 100


@pytest.mark.parametrize(
    ("ours", "handmade", "memory"),  # by the formulas for each of our own policies
    [
        (FreshData(100, 40, 60), Handmade(1), SHARE),
        (FreshData(100, 40, 60, "last", k=4), Handmade(1), SHARE),
        (FreshData(100, 40, 60, "last_k", k=1), Handmade(1), SHARE),
        (FreshData(100, 40, 60, "last_k", k=2), Handmade(1, 2), SHARE ** (2 / 3)),
        (FreshData(100, 40, 60, "last_k", k=3), Handmade(1, 2, 3), SHARE ** (2 / 4)),
        (FreshData(100, 40, 60, "last_k", k=5), Handmade(1, 2, 3, 4, 5), SHARE ** (2 / 6)),
        (FreshData(100, 40, "60 * (t - 1)", "all"), Handmade(), None),
    ],
)
def test_the_same_mixes_are_the_same_memory(ours, handmade, memory):
    assert memory_of(lineage(ours)) == memory
    assert memory_of(lineage(handmade)) == memory


@pytest.mark.parametrize(
    ("policy", "memory"),
    [
        (FullySynthetic(100), 1.0),
        (FullySynthetic(100, 60, "last_k", k=3), 1.0),
        (FullySynthetic(100, "(t - 1) * 100", "all"), None),
        (SyntheticAugmentation(30, 10), 0.25),
        (SyntheticAugmentation(30, 10, synthetic_from="last_k", k=2), 0.25 ** (2 / 3)),
        (SyntheticAugmentation(30, "(t - 1) * 10", synthetic_from="all"), None),
        (FreshData(100, 40, 0), 0.0),
    ],
)
def test_so_it_is_in_every_loop(policy, memory):
    assert memory_of(lineage(policy)) == memory


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_it_is_the_rate_at_which_an_error_fades(share, k):
    """An error of generation 1, passed on by each mix in the proportion of its parts."""
    policy = FreshData(6000, round(6000 * (1 - share)), round(6000 * share), "last_k", k=k)
    errors = [1.0] * k
    for _ in range(300):
        errors.append(share * sum(errors[-k:]) / k)
    memory = memory_of(lineage(policy, generations=20))
    assert memory == pytest.approx(errors[-1] / errors[-2], abs=0.06)
    if share >= 0.9:  # where memory decides verdicts
        assert memory == pytest.approx(errors[-1] / errors[-2], abs=0.001)


def test_a_window_that_fills_cannot_be_told_from_a_pool_that_keeps_all():
    policy = FreshData(100, 40, 60, "last_k", k=3)
    known = [memory_of(lineage(policy, generations)) for generations in (1, 2, 3, 4, 5)]
    assert known == [None, SHARE, None, None, SHARE**0.5]


def test_who_goes_back_to_generation_1_forgets_nothing():
    always = [Ancestry(t, 100, {t - 1: 20, 1: 40} if t > 2 else {1: 60}) for t in range(2, 9)]
    assert memory_of(always) is None


def test_samples_of_a_foreign_generator_come_in_from_outside():
    foreign = Part("synthetic", "foreign/laion", 0, 20)
    mixes = [Handmade(1, n_synthetic=40).mix(t) for t in range(1, 8)]
    fed = [
        Ancestry(mix.generation, len(mix) + 20, Mix(mix.generation, (*mix.parts, foreign)).ages())
        for mix in mixes
    ]
    assert memory_of(fed) == 40 / 100


def test_what_a_treatment_published_is_as_old_as_its_generator():
    assert memory_of(lineage(Handmade(1, 2, shards="{}.kept"))) == SHARE ** (2 / 3)


def test_weights_that_go_on_training_remember_in_another_way():
    assert memory_of(lineage(Handmade(1), continues=True)) is None
    assert memory_of(lineage(FreshData(100, 40, 0), continues=True)) is None
    assert memory_of(lineage(FullySynthetic(100), continues=True)) == 1.0  # nothing real comes in


def test_ages_that_nobody_noted_are_unknown():
    known = lineage(Handmade(1))
    assert memory_of([*known[:-1], Ancestry(10, 100, None)]) is None
    assert memory_of([Ancestry(1, 100, None), *known[1:]]) == SHARE  # generation 1 eats real data
    assert memory_of([]) is None


def test_lineages_of_one_policy_count_together():
    assert memory_of(lineage(Handmade(1, 2)) * 3) == memory_of(lineage(Handmade(1, 2)))
