"""Each treatment against counts by hand, order statistics, brute force and closed forms."""

import itertools
import math

import pytest
import torch
from scipy import integrate, stats

from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec
from mad_lightning.treatments import (
    BestOf,
    Candidates,
    Confidence,
    Coordinate,
    Corrected,
    Detector,
    Diverse,
    Entropy,
    InTurn,
    Nearness,
    Own,
    OwnScore,
    Random,
    TopShare,
    Treated,
    Verified,
)
from mad_lightning.treatments.base import right, treated
from mad_lightning.treatments.correction import centres_of

ADDRESS = (0, 1, "treatment")


def drawn(x, budget, labels=None, real=None, real_labels=None, address=ADDRESS):
    x = torch.as_tensor(x, dtype=torch.float32)
    own = None if real is None else Samples(torch.as_tensor(real).float(), real_labels)
    features = None if own is None else own.values
    return Candidates(x, x, labels, address, budget, own, features)


def kept(treatment, candidates):
    spec = SampleSpec(tuple(candidates.samples.shape[1:]))
    return treated(treatment(candidates), candidates, spec)


def gaussian_loop(treatment, generations, n=100_000):
    """A Gaussian that is fitted anew to what is kept of its draws; mean and deviation by t."""
    rng = torch.Generator().manual_seed(0)
    mean, sd, seen = 0.0, 1.0, []
    for t in range(1, generations + 1):
        x = mean + sd * torch.randn(treatment.n_candidates(n), 1, generator=rng)
        chosen = x[kept(treatment, drawn(x, n, address=(0, t, "treatment"))).places]
        mean, sd = float(chosen.mean()), float(chosen.std())
        seen.append((mean, sd))
    return seen


# --- choice ---------------------------------------------------------------------------------------


def order_statistics(k):
    """Mean and variance of the largest of k standard normal draws, by quadrature."""

    def density(x, p):
        return x**p * k * stats.norm.pdf(x) * stats.norm.cdf(x) ** (k - 1)

    mean, second = (integrate.quad(density, -9, 9, args=(p,))[0] for p in (1, 2))
    return mean, second - mean**2


@pytest.mark.parametrize("k", [2, 4])
def test_best_of_k_is_the_order_statistic_generation_after_generation(k):
    mean, variance = order_statistics(k)
    seen = gaussian_loop(BestOf(Coordinate(), k), 5)
    for t, (m, s) in enumerate(seen, start=1):
        walked = mean * sum(variance ** (i / 2) for i in range(t))
        assert m == pytest.approx(walked, abs=0.02)
        assert s == pytest.approx(variance ** (t / 2), rel=0.02)


def test_best_of_four_as_people_choose_walks_as_the_field_found():
    """Bradley-Terry among 4 at temperature 1: mean 2.39, standard deviation .71 after 5."""
    mean, sd = gaussian_loop(BestOf(Coordinate(), 4, temperature=1.0), 5)[-1]
    assert mean == pytest.approx(2.39, abs=0.03)
    assert sd == pytest.approx(0.71, abs=0.02)


def test_a_choice_between_two_has_bradley_and_terrys_odds():
    scores = torch.tensor([[0.0], [1.5]]).repeat(20_000, 1)
    places = kept(BestOf(Coordinate(), 2, temperature=0.5), drawn(scores, 20_000)).places
    odds = 1.0 / (1.0 + math.exp(-1.5 / 0.5))
    assert float((places % 2).double().mean()) == pytest.approx(odds, abs=4 * 0.0025)
    assert torch.equal(places // 2, torch.arange(20_000))


def test_the_top_share_is_the_top_share():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    said = kept(TopShare(Coordinate(1), candidates=4.0), drawn(x, 10))
    best = sorted(range(40), key=lambda i: -float(x[i, 1]))[:10]
    assert said.places.tolist() == sorted(best)
    lowest = kept(TopShare(Coordinate(1, sign=-1)), drawn(x, 10)).places.tolist()
    assert lowest == sorted(sorted(range(40), key=lambda i: float(x[i, 1]))[:10])
    mine = TopShare(OwnScore(lambda samples, features, labels: -features[:, 1]))
    assert kept(mine, drawn(x, 10)).places.tolist() == lowest


def test_by_class_keeps_the_shares_in_which_classes_were_drawn():
    labels = torch.tensor([0] * 24 + [1] * 12 + [2] * 4)
    x = torch.arange(40.0)[:, None]
    places = kept(TopShare(Coordinate(), by_class=True), drawn(x, 10, labels)).places
    assert places.tolist() == [18, 19, 20, 21, 22, 23, 33, 34, 35, 39]
    assert kept(TopShare(Coordinate()), drawn(x, 10, labels)).places.tolist() == [*range(30, 40)]


def test_scores_against_real_samples():
    real, classes = torch.tensor([[0.0], [1.0], [10.0], [11.0]]), torch.tensor([0, 0, 1, 1])
    x, asked = torch.tensor([[0.5], [10.5], [0.5]]), torch.tensor([0, 1, 1])
    candidates = drawn(x, 1, asked, real, classes)
    assert Nearness(k=2)(candidates).tolist() == pytest.approx([-0.5, -0.5, -10.0])
    sure = Confidence()(candidates)
    assert sure[0] > 0
    assert sure[1] > 0 > sure[2]


def test_random_is_decided_by_its_address_and_by_nothing_else():
    x = torch.zeros(100, 1)
    one, again = (kept(Random(), drawn(x, 25)).places for _ in range(2))
    other = kept(Random(), drawn(x, 25, address=(0, 2, "treatment"))).places
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert len(one.unique()) == 25


# --- verification ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fits_spread", [False, True])
def test_a_biased_verifier_ends_at_its_own_centre(fits_spread):
    """Each generation is the normal law cut to what is accepted; its moments are known.

    A model whose noise is known, as in Yi et al., ends at the centre. One that fits its own spread
    narrows on its way, and stops where all of it is accepted.
    """
    rng = torch.Generator().manual_seed(1)
    real = torch.randn(50_000, 1, generator=rng)
    verifier = Verified(n_real=50_000, radius=1.0, bias=2.0, candidates=12.0)
    (mean, sd), exact, n = (0.0, 1.0), (0.0, 1.0), 20_000
    centre, radius = float(real.mean() + 2.0 * real.std()), float(real.std())
    for _ in range(8):
        x = mean + sd * torch.randn(12 * n, 1, generator=rng)
        chosen = x[kept(verifier, drawn(x, n, real=real)).places]
        low, high = ((centre + side * radius - exact[0]) / exact[1] for side in (-1, 1))
        cut = stats.truncnorm(low, high, *exact)
        mean, exact = float(chosen.mean()), (float(cut.mean()), 1.0)
        if fits_spread:
            sd, exact = float(chosen.std()), (exact[0], float(cut.std()))
        assert (mean, sd) == pytest.approx(exact, abs=0.02)
    if fits_spread:
        assert centre - radius < mean < centre - 0.2
    else:
        assert mean == pytest.approx(centre, abs=0.02)  # and not at the truth, 0


def test_a_detector_errs_as_often_as_it_is_told():
    """And most of what it keeps is right if and only if p < 1 / (1 + psi / phi) (Feng et al.)."""
    rng = torch.Generator().manual_seed(0)
    real = torch.randn(200, 2, generator=rng)
    n, wrong = 20_000, 0.7
    is_wrong = torch.rand(n, generator=rng) < wrong
    x = torch.randn(n, 2, generator=rng).clamp(-0.5, 0.5) + 100.0 * is_wrong[:, None]
    candidates = drawn(x, 1, real=real)
    assert torch.equal(right(candidates), ~is_wrong)
    for fp, fn in ((0.1, 0.2), (0.4, 0.5)):
        passes = Detector(200, fp, fn)(candidates)
        phi, psi = (float(passes[of].double().mean()) for of in (~is_wrong, is_wrong))
        assert phi == pytest.approx(1 - fp, abs=4 * 0.5 / math.sqrt(n * (1 - wrong)))
        assert psi == pytest.approx(fn, abs=4 * 0.5 / math.sqrt(n * wrong))
        mostly_right = int((passes & ~is_wrong).sum()) > int((passes & is_wrong).sum())
        p = float(is_wrong.double().mean())
        assert mostly_right == (p < 1.0 / (1.0 + psi / phi))


def test_right_is_within_the_fifth_neighbour_of_a_real_sample_of_its_class():
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [50.0]])
    x = torch.tensor([[-5.0], [-5.01], [9.9], [10.1], [70.0]])
    found = right(drawn(x, 1, real=real))  # the radii are 5, 4, 3, 3, 4, 5, 49
    assert found.tolist() == [True, False, True, True, True]
    labels = torch.zeros(7).long()
    other = right(drawn(x, 1, torch.ones(5).long(), real, labels))
    assert not other.any()


# --- diversity ------------------------------------------------------------------------------------


def greedy(x, n):
    """k-centre, naively."""

    def distance(a, b):
        return float((x[a] - x[b]).square().sum())

    middle = x.mean(dim=0)
    taken = [min(range(len(x)), key=lambda i: float((x[i] - middle).square().sum()))]
    while len(taken) < n:
        rest = [i for i in range(len(x)) if i not in taken]
        taken.append(max(rest, key=lambda i: min(distance(i, j) for j in taken)))
    return taken


def radius(x, taken):
    return float(torch.cdist(x, x[taken]).min(dim=1).values.max())


def test_diverse_is_greedy_k_centre_and_within_twice_the_best():
    x = torch.randn(12, 2, generator=torch.Generator().manual_seed(3)).double()
    places = kept(Diverse(candidates=3.0), drawn(x, 4)).places
    assert places.tolist() == sorted(greedy(x.float().double(), 4))
    best = min(radius(x, list(four)) for four in itertools.combinations(range(12), 4))
    assert radius(x, places) <= 2.0 * best


def test_threshold_decay_keeps_what_is_far_apart():
    rng = torch.Generator().manual_seed(0)
    x = torch.cat(
        [0.01 * torch.randn(90, 2, generator=rng), 5.0 * torch.randn(10, 2, generator=rng)]
    )
    places = kept(Entropy(candidates=10.0), drawn(x, 10)).places
    assert int((places >= 90).sum()) >= 8
    within = torch.cdist(x[places], x[places]) + 100.0 * torch.eye(10)
    chance = x[:: len(x) // 10]
    assert within.min() > (torch.cdist(chance, chance) + 100.0 * torch.eye(10)).min()


@pytest.mark.parametrize("kind", [Diverse, Entropy])
def test_copies_are_taken_once_while_there_are_others(kind):
    x = torch.tensor([[0.0]] * 5 + [[1.0], [2.0]])
    assert {*x[kept(kind(), drawn(x, 3)).places].flatten().tolist()} == {0.0, 1.0, 2.0}
    assert len(kept(kind(), drawn(x, 6)).places.unique()) == 6


# --- correction -----------------------------------------------------------------------------------


def test_correction_moves_towards_the_nearest_centre():
    real = torch.tensor([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 2.0]])
    centres = centres_of(real.double(), 2)
    assert sorted(centres.tolist()) == [[0.0, 1.0], [10.0, 1.0]]
    x = torch.tensor([[1.0, 1.0], [7.0, 4.0]])
    said = kept(Corrected(n_real=4, clusters=2, strength=0.5), drawn(x, 2, real=real))
    assert said.values.flatten().tolist() == pytest.approx([2 / 3, 1.0, 8.0, 3.0])
    none = kept(Corrected(n_real=4, clusters=2, strength=0.0), drawn(x, 2, real=real))
    assert torch.equal(none.values, x)


# --- several --------------------------------------------------------------------------------------


def test_in_turn_each_looks_at_what_the_one_before_has_left():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(120, 2, generator=rng)
    first, second = TopShare(Coordinate(0), candidates=4.0), TopShare(Coordinate(1), candidates=3.0)
    both = InTurn([first, Own(lambda s, *_: s + 1.0), second])
    assert both.n_candidates(10) == 120
    said = kept(both, drawn(x, 10))
    right_most = x[:, 0].argsort(descending=True)[:30]
    upper = right_most[x[right_most, 1].argsort(descending=True)[:10]].sort().values
    assert torch.equal(said.places, upper)
    assert torch.equal(said.values, x[upper] + 1.0)
    with pytest.raises(Refused) as refused:
        InTurn([])
    assert refused.value.field == "treatments"
    with pytest.raises(Refused, match="kept 0 of") as refused:
        kept(InTurn([Own(lambda *_: [])]), drawn(x, 10))
    assert refused.value.field == "treatments.Own.candidates"


# --- a function of one's own, and what is no treatment --------------------------------------------


def test_a_function_may_return_places_a_mask_values_or_weights():
    x = torch.arange(6.0)[:, None]
    by = {
        "places": lambda s, f, lab, a, n: [5, 0, 3, 1],
        "mask": lambda s, f, lab, a, n: f[:, 0] > 1.5,
        "values": lambda s, f, lab, a, n: 2.0 * s,
        "all": lambda s, f, lab, a, n: Treated(
            torch.tensor([4, 2, 0]), 10.0 * s[[4, 2, 0]], torch.tensor([1.0, 2.0, 3.0])
        ),
    }
    said = {name: kept(Own(function), drawn(x, 3)) for name, function in by.items()}
    assert said["places"].places.tolist() == [0, 1, 3]
    assert said["mask"].places.tolist() == [2, 3, 4]
    assert said["values"].values.flatten().tolist() == [0.0, 2.0, 4.0]
    assert said["all"].values.flatten().tolist() == [0.0, 20.0, 40.0]
    assert said["all"].weights.tolist() == [3.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ([0, 1], "kept 2 of 6 candidates, 3 are needed"),
        ([0, 1, 6], "outside 0 .. 5"),
        ([-1, 0, 1], "outside 0 .. 5"),
        ([0.5, 1.0, 2.0], "float32"),
        (torch.zeros(6, 2), "float32 of shape"),
        (Treated(values=torch.zeros(5, 1)), "shape"),
        (Treated(values=torch.full((6, 1), math.nan)), "not finite"),
        (Treated(weights=torch.tensor([1.0, -1.0, 1, 1, 1, 1])), "negative"),
        (Treated(weights=torch.ones(2)), "weights of shape"),
    ],
)
def test_what_is_no_treatment_is_refused(returned, told):
    with pytest.raises(Refused, match=told):
        kept(Own(lambda *_: returned), drawn(torch.zeros(6, 1), 3))


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Random(candidates=0.5), "candidates"),
        (lambda: Random(candidates=math.nan), "candidates"),
        (lambda: Random(candidates="4"), "candidates"),
        (lambda: Random(candidates=True), "candidates"),
        (lambda: Random(n_real=-1), "n_real"),
        (lambda: Random(n_real=2.5), "n_real"),
        (lambda: TopShare("Nearness"), "score"),
        (lambda: TopShare(Nearness()), "n_real"),
        (lambda: Verified(n_real=0), "n_real"),
        (lambda: Verified(n_real=9, radius=0.0), "radius"),
        (lambda: Verified(n_real=9, bias=math.inf), "bias"),
        (lambda: Detector(9, false_negatives=1.5), "false_negatives"),
        (lambda: BestOf(Coordinate(), k=0), "k"),
        (lambda: BestOf(Coordinate(), k=2.5), "k"),
        (lambda: BestOf(Coordinate(), temperature=-1.0), "temperature"),
        (lambda: Entropy(decay=1.0), "decay"),
        (lambda: Corrected(9, clusters=0), "clusters"),
        (lambda: Corrected(9, strength=-1.0), "strength"),
        (lambda: Coordinate(-1), "index"),
        (lambda: Coordinate(sign=0), "sign"),
        (lambda: Own("bright"), "function"),
        (lambda: Confidence(ridge=0.0), "ridge"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(make, field):
    with pytest.raises(Refused) as refused:
        make()
    assert refused.value.field == field
    assert refused.value.remedy
