"""The kernel distance, against the sum over all pairs in long doubles and other people's KID."""

import numpy as np
import pytest
import torch

from mad_lightning.metrics.functional import (
    kernel_distance,
    kernel_distance_of_subsets,
    two_sample,
)
from mad_lightning.metrics.functional.kernel import _by_moments, _by_pairs, _lifted
from mad_lightning.processes import Team


def normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def over_all_pairs(x, y):
    """The U-statistic as it is defined, in long doubles, and the size of what it subtracts."""
    x, y = (z.double().numpy().astype(np.longdouble) for z in (x, y))
    d = x.shape[1]
    own_x, own_y, cross = (
        ((a[:, None] * b).sum(axis=2) / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))
    )
    np.fill_diagonal(own_x, 0)
    np.fill_diagonal(own_y, 0)
    n, m = len(x), len(y)
    parts = own_x.sum() / (n * (n - 1)), own_y.sum() / (m * (m - 1)), cross.mean()
    return float(parts[0] + parts[1] - 2 * parts[2]), float(max(map(abs, parts)))


KINDS = {
    "ordinary": lambda x: x,
    "positive, as features after a ReLU": lambda x: x.relu() + 0.1,
    "offset 10": lambda x: x + 10,
    "collapsed": lambda x: 1e-3 * x + 1,
    "scale 1e4": lambda x: 1e4 * x,
    "constant": lambda x: torch.full_like(x, 0.1),
    "float64": lambda x: x.double() / 3,
    "bfloat16": lambda x: x.bfloat16(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n", "m", "d"), [(70, 50, 5), (30, 45, 64), (2, 2, 1), (2, 9, 40), (65, 64, 19)]
)
def test_both_ways_give_the_sum_over_all_pairs(kind, n, m, d):
    real, synthetic = KINDS[kind](normal(n, d, 1)), KINDS[kind](0.8 * normal(m, d, 2) + 0.1)
    expected, size = over_all_pairs(real, synthetic)
    assert kernel_distance(real, synthetic) == pytest.approx(expected, rel=1e-12, abs=1e-13 * size)
    lifted = _lifted(real), _lifted(synthetic)
    assert _by_moments(*lifted) == pytest.approx(expected, rel=1e-12, abs=1e-13 * size)
    for tile in (1, 7, 32, 1000):
        value = _by_pairs(real, synthetic, (None, None), tile, Team())
        assert value == pytest.approx(expected, rel=1e-12, abs=1e-13 * size)


def test_two_points_by_hand():
    """In one dimension: k(0, 1) = 1, k(2, 2) = 125, and (0 2)(0 2)(1 2)(1 2) across."""
    real, synthetic = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [2.0]])
    assert kernel_distance(real, synthetic) == pytest.approx(1 + 125 - (1 + 27), rel=1e-15)


def test_it_is_unbiased():
    """Ten samples each from one law: the values scatter around 0, and not because they are 0."""
    x = torch.stack([normal(20, 3, seed) for seed in range(600)])
    values = np.array([kernel_distance(each[:10], each[10:]) for each in x])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert (values < 0).mean() > 0.2


def test_order_does_not_matter_and_copies_count():
    real, synthetic = normal(60, 30, 1), normal(60, 30, 2) + 0.2
    value = kernel_distance(real, synthetic)
    assert kernel_distance(real.flip(0), synthetic) == pytest.approx(value, rel=1e-12)
    assert kernel_distance(synthetic, real) == pytest.approx(value, rel=1e-12)
    assert kernel_distance(real, synthetic.repeat(2, 1)) != pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("d", [6, 64])
def test_two_sample_brings_it_when_asked(d):
    real, synthetic = normal(60, d, 1), normal(50, d, 2) + 0.2
    plain = two_sample(real, synthetic, 3)
    asked = two_sample(real, synthetic, 3, kid=True)
    assert asked == plain | {"kid": kernel_distance(real, synthetic)}


@pytest.mark.parametrize("d", [12, 84])
def test_agrees_with_torchmetrics(d):
    """One subset of all samples is the full estimate; equal random states give equal subsets."""
    kid = pytest.importorskip("torchmetrics.image.kid")
    real, synthetic = normal(150, d, 1).double(), 0.8 * normal(150, d, 2).double() + 0.1

    def theirs(**arguments):
        metric = kid.KernelInceptionDistance(feature=torch.nn.Identity(), **arguments)
        metric.update(real, real=True)
        metric.update(synthetic, real=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            return [float(value) for value in metric.compute()]

    whole = theirs(subsets=1, subset_size=150)[0]
    assert kernel_distance(real, synthetic) == pytest.approx(whole, rel=1e-9)
    ours = kernel_distance_of_subsets(
        real, synthetic, subsets=7, subset_size=40, rng=torch.Generator().manual_seed(5)
    )
    assert ours == pytest.approx(theirs(subsets=7, subset_size=40), rel=1e-9)
    assert ours[1] > 0


def test_agrees_with_torch_fidelity():
    kid = pytest.importorskip("torch_fidelity.metric_kid")
    real, synthetic = normal(150, 30, 1).double(), 0.8 * normal(150, 30, 2).double() + 0.1
    theirs = kid.kid_features_to_metric(
        real, synthetic, kid_subsets=1, kid_subset_size=150, verbose=False
    )["kernel_inception_distance_mean"]
    assert kernel_distance(real, synthetic) == pytest.approx(theirs, rel=1e-9)


def test_the_mean_of_subsets_estimates_the_whole():
    real, synthetic = normal(400, 10, 1), 0.8 * normal(400, 10, 2) + 0.3
    mean, deviation = kernel_distance_of_subsets(real, synthetic, subsets=60, subset_size=100)
    assert abs(mean - kernel_distance(real, synthetic)) < 4 * deviation / np.sqrt(60)


def test_subsets_have_a_random_state_of_their_own():
    real, synthetic = normal(60, 10, 1), normal(60, 10, 2)
    before = torch.get_rng_state()
    values = [kernel_distance_of_subsets(real, synthetic, subset_size=20) for _ in range(2)]
    assert values[0] == values[1]
    assert torch.equal(torch.get_rng_state(), before)


X = normal(9, 4, 1)
NAN = X.clone()
NAN[[1, 7], 2] = torch.nan


@pytest.mark.parametrize(
    ("real", "synthetic", "words"),
    [
        (X, NAN, ["synthetic", "2 of 9"]),
        (X[:1], X, ["real", "1 samples", "at least 2"]),
        (X, X[:, :3], ["4", "3"]),
        (X[0], X, ["real", "(4,)"]),
        (X, X.long(), ["synthetic", "int64"]),
    ],
)
def test_features_that_cannot_be_used_are_refused(real, synthetic, words):
    with pytest.raises(ValueError) as refusal:
        kernel_distance(real, synthetic)
    assert all(word in str(refusal.value) for word in words)


def test_subsets_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="real has 9 samples, at least 10"):
        kernel_distance_of_subsets(X, X, subset_size=10)
    with pytest.raises(ValueError, match="0 subsets"):
        kernel_distance_of_subsets(X, X, subsets=0, subset_size=5)


def of_classes(counts, seed, d):
    """Samples with a fixed number of each class; classes lie far apart."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    x = rng.normal(size=(len(labels), d)) + 4.0 * np.eye(max(d, len(counts)))[labels][:, :d]
    return torch.tensor(x), torch.tensor(labels)


@pytest.mark.parametrize("d", [4, 40])  # by moments, and by pairs
@pytest.mark.parametrize("counts", [[6, 6, 6, 6], [3, 12, 2, 7], [9, 1, 1, 5], [9, 1, 6]])
def test_it_is_unbiased_for_sets_of_fixed_class_counts(d, counts):
    """Equal laws have distance 0 in the mean; without labels it would be told below 0."""
    values, blind = [], []
    for seed in range(150):
        (x, of_x), (y, of_y) = of_classes(counts, 2 * seed, d), of_classes(counts, 2 * seed + 1, d)
        values.append(kernel_distance(x, y, labels=(of_x, of_y), tile=7))
        blind.append(kernel_distance(x, y))
    error = np.std(values) / np.sqrt(len(values))
    if 1 not in counts:
        assert abs(np.mean(values)) < 4 * error
    assert np.mean(blind) < np.mean(values) - 4 * error


def test_subsets_hold_classes_in_the_shares_of_their_set_and_are_unbiased():
    values, blind = [], []
    for seed in range(60):
        sets = [of_classes([12, 6, 6], 2 * seed + side, 4) for side in (0, 1)]
        (x, of_x), (y, of_y) = sets
        options = {"subsets": 4, "subset_size": 10}  # 5, 2 and 3 of each, or 5, 3 and 2
        values.append(kernel_distance_of_subsets(x, y, labels=(of_x, of_y), **options)[0])
        blind.append(kernel_distance_of_subsets(x, y, **options)[0])
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    assert np.mean(blind) < np.mean(values) - 3 * error
    same = kernel_distance_of_subsets(x, y, labels=(of_x, of_y), subsets=2, subset_size=24)
    assert same == pytest.approx((kernel_distance(x, y, labels=(of_x, of_y)), 0.0), abs=1e-9)


def test_classes_of_fixed_numbers_are_seen_pair_by_pair():
    """The definition in plain loops: a mean over pairs of two classes, or of one without itself."""
    (x, of_x), (y, _) = of_classes([4, 2, 5], 0, 3), of_classes([3, 3, 3], 1, 3)

    def kernel(a, b):
        return (float(a @ b) / 3 + 1) ** 3

    shares, own = [4 / 11, 2 / 11, 5 / 11], 0.0
    for a in range(3):
        for b in range(3):
            pairs = [
                kernel(x[i], x[j])
                for i in range(11)
                for j in range(11)
                if (int(of_x[i]), int(of_x[j])) == (a, b) and i != j
            ]
            own += shares[a] * shares[b] * np.mean(pairs)
    theirs = np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    cross = np.mean([kernel(a, b) for a in x for b in y])
    expected = own + theirs - 2 * cross
    assert kernel_distance(x, y, labels=(of_x, None)) == pytest.approx(expected, rel=1e-10)
    one = torch.zeros(9).long()
    same = kernel_distance(x, y, labels=(of_x, one))
    assert same == pytest.approx(expected, rel=1e-10), "one class is chance"
