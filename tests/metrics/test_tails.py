"""Tail mass by counting, and where other measures are blind."""

import math

import pytest
import torch

from mad_lightning.metrics import Neighbours, TailMass, View
from mad_lightning.refusal import Refused
from mad_lightning.seeds import normal, sample_seeds


def mass(reference, synthetic, share=0.02):
    return TailMass(share)(View(reference), View(synthetic))["tail_mass"]


def test_counts_on_the_integers():
    """Of 0..99 a share of 0.1 are 0..4 and 95..99; of fresh ones 6 in 101 lie below 5."""
    reference = torch.arange(100.0)[torch.randperm(100)][:, None]
    for values, low, high in [
        ([4.0, 5.0, 94.0, 95.0], 1 / 4, 1 / 4),
        ([5.0, 50.0, 94.0], 0.0, 0.0),
        ([-7.0, 1e9], 1 / 2, 1 / 2),
        ([4.5, 94.5, 94.0, 94.6], 1 / 4, 2 / 4),
    ]:
        found = TailMass(0.1)(View(reference), View(torch.tensor(values)[:, None]))
        assert found["tail_mass_low"] == pytest.approx(low * 101 / 6, rel=1e-12)
        assert found["tail_mass_high"] == pytest.approx(high * 101 / 6, rel=1e-12)
        assert found["tail_mass"] == pytest.approx((low + high) * 101 / 12, rel=1e-12)


def test_coordinates_are_counted_alike():
    x = torch.arange(100.0)
    reference = torch.stack([x, -x, 1000.0 + x], dim=1)
    synthetic = torch.tensor([[0.0, -50.0, 1050.0], [0.0, 0.0, 2000.0]])
    assert mass(reference, synthetic, 0.1) == pytest.approx((4 / 6) * 101 / 12, rel=1e-12)


@pytest.mark.parametrize("law", ["normal", "heavy", "rounded", "clipped"])
@pytest.mark.parametrize("n", [100, 250])
def test_fresh_real_samples_have_a_tail_mass_of_one(law, n):
    """In the mean over many references, whatever the law: also one of whose values many are equal.

    What is expected is the mean over references of the share of fresh samples over that of the
    tails; counts of many coordinates stand for many references.
    """
    shape = {
        "normal": lambda z: z,
        "heavy": lambda z: z**3,
        "rounded": lambda z: (2 * z).round(),
        "clipped": lambda z: z.clamp(min=0.0),
    }[law]
    reference, fresh = (shape(normal(sample_seeds(0, n, 0, who), 10_000)) for who in "ab")
    found = TailMass(0.04)(View(reference), View(fresh))
    assert found["tail_mass"] == pytest.approx(1.0, abs=0.02)
    assert found["tail_mass_high"] == pytest.approx(1.0, abs=0.025)
    if law == "clipped":  # half of the values are the least one: nothing lies below
        assert math.isnan(found["tail_mass_low"])
    else:
        assert found["tail_mass_low"] == pytest.approx(1.0, abs=0.025)


def test_one_end_may_gain_what_the_other_loses():
    reference, moved = (normal(sample_seeds(0, 2000, 0, who), 4) for who in "ab")
    found = TailMass(0.1)(View(reference), View(moved + 0.8))
    assert found["tail_mass_low"] < 0.3
    assert found["tail_mass_high"] > 3.0


@pytest.mark.parametrize(("share", "m"), [(0.002, 1), (0.02, 10), (0.3, 150)])
def test_the_reference_lies_inside_the_line_that_it_drew(share, m):
    reference = normal(sample_seeds(0, 1000, 0, "x"), 7)
    expected = pytest.approx(m / 1000 / ((m + 1) / 1001), rel=1e-12)
    assert mass(reference, reference, share) == expected
    assert mass(reference, reference.repeat(3, 1), share) == expected
    assert mass(reference, 0.5 * reference.sign(), share) == 0.0


def test_the_order_of_samples_and_their_unit_do_not_matter():
    reference, synthetic = (normal(sample_seeds(0, 500, 0, who), 3) for who in "ab")
    expected = mass(reference, synthetic, 0.1)
    assert mass(reference.flip(0), synthetic.flip(0), 0.1) == expected
    assert mass(8.0 * reference, 8.0 * synthetic, 0.1) == expected


@pytest.mark.parametrize("scale", [0.7, 0.9, 1.0, 1.1])
def test_scaled_normals_have_the_tails_of_the_normal_distribution(scale):
    """P(|scale Z| > q) / P(|Z| > q) with q the 1 % quantile on each side."""
    from scipy.stats import norm

    reference, synthetic = (normal(sample_seeds(0, 100_000, 0, who), 4) for who in "ab")
    q = norm.isf(0.01)
    expected = norm.sf(q / scale) / norm.sf(q)
    assert mass(reference, scale * synthetic) == pytest.approx(expected, rel=0.06)


def test_coordinates_without_tails_count_for_nothing():
    """As dead and half-dead features do: most values equal, none strictly beyond them."""
    reference = normal(sample_seeds(0, 500, 0, "a"), 3)
    synthetic = 0.8 * normal(sample_seeds(0, 500, 0, "b"), 3)
    dead = torch.cat([reference, torch.zeros(500, 2)], dim=1)
    also = torch.cat([synthetic, torch.zeros(500, 2)], dim=1)
    assert mass(dead, also, 0.1) == mass(reference, synthetic, 0.1)
    with pytest.raises(ValueError, match="no feature"):
        mass(torch.ones(500, 2), synthetic[:, :2])


def test_it_sees_a_loss_that_recall_does_not():
    reference, full, cut = (normal(sample_seeds(0, 4000, 0, who), 2) for who in "abc")
    cut = cut.clamp(-2.3, 2.3)
    both = [
        Neighbours()(View(reference), View(x)) | TailMass()(View(reference), View(x))
        for x in (full, cut)
    ]
    assert abs(both[0]["recall"] - both[1]["recall"]) < 0.05
    assert both[0]["tail_mass"] > 0.8
    assert both[1]["tail_mass"] < 0.4


def test_a_share_that_makes_no_tails_is_refused():
    for share in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(Refused, match=r"^share:"):
            TailMass(share)
    TailMass(0.02).check(100, "identity")
    with pytest.raises(Refused, match="at least 100") as caught:
        TailMass(0.02).check(99, "identity")
    assert caught.value.field == "n"
    assert TailMass(0.05).protocol()["tail_share"] == 0.05
