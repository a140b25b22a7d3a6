"""Nobody trains on the reference; the split follows one seed, the order of the pool another."""

import numpy as np
import pytest
import torch

from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.data.laws import StandardNormal
from mad_lightning.data.real import RealData
from mad_lightning.data.sources import Arrays, Digits, RealSet, Source
from mad_lightning.policies import Mix, Part
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples


def numbered(start, count):
    """Images of two pixels that spell their own place, with the place as label."""
    places = torch.arange(start, start + count)
    pixels = torch.stack([places // 256, places % 256], dim=1).byte()
    return Samples(pixels.reshape(count, 1, 1, 2), places)


class Numbered(Source):
    name = "numbered"

    def __init__(self, n=400, n_held_out=0):
        self.n, self.n_held_out = n, n_held_out

    def load(self, cache):
        held_out = numbered(self.n, self.n_held_out) if self.n_held_out else None
        return RealSet(numbered(0, self.n), held_out, self.n + self.n_held_out)


class Unlabelled(Numbered):
    def load(self, cache):
        loaded = super().load(cache)
        return RealSet(Samples(loaded.samples.values), None, None)


SOURCES = {
    "digits": (Digits, 300),
    "numbered": (Numbered, 100),
    "official_split": (lambda: Numbered(400, 120), 100),
    "law": (lambda: StandardNormal(dim=3), 100),
}


def content(samples):
    """What is in a set, whatever its order."""
    return {value.numpy().tobytes() for value in samples.values}


@pytest.fixture(params=SOURCES)
def opened(request, tmp_path):
    build, n_reference = SOURCES[request.param]

    def opened(seed=0, split_seed=0, n_reference=n_reference):
        return RealData(build(), n_reference, split_seed, seed, tmp_path)

    return opened


class TestContract:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_the_reference_is_never_trained_on(self, opened, seed):
        real = opened(seed, split_seed=1)
        reference = content(real.reference)
        assert len(reference) == real.n_reference
        n = 5000 if real.size is None else real.size
        for used in (real.read(0, n), real.lessons(), real.floor):
            assert not content(used) & reference

    def test_reference_pool_and_floor_do_not_depend_on_the_lineage_seed(self, opened):
        for role in (lambda real: real.reference, lambda real: real.floor, RealData.lessons):
            assert role(opened(seed=0)).digest() == role(opened(seed=1)).digest()

    def test_the_split_depends_on_its_own_seed(self, opened):
        first, second = opened(split_seed=0), opened(split_seed=1)
        assert content(first.reference) != content(second.reference)

    def test_the_order_of_the_pool_depends_on_the_lineage_seed(self, opened):
        first, second = opened(seed=0), opened(seed=1)
        assert first.read(0, 50).digest() == opened(seed=0).read(0, 50).digest()
        assert first.read(0, 50).digest() != second.read(0, 50).digest()

    def test_no_place_is_like_another(self, opened):
        real = opened()
        n = 5000 if real.size is None else real.size
        assert len(content(real.read(0, n))) == n

    def test_places_may_be_read_in_pieces(self, opened):
        real = opened()
        whole = real.read(0, 100)
        for start, count in ((0, 5), (5, 1), (6, 94)):
            piece = real.read(start, count)
            assert piece.digest() == whole[start : start + count].digest()

    def test_the_floor_is_as_large_as_the_reference(self, opened):
        real = opened()
        assert len(content(real.floor)) == len(real.floor) == real.n_reference

    def test_the_digest_names_data_and_split_and_nothing_else(self, opened):
        assert opened(seed=0).digest == opened(seed=1).digest
        others = [opened(), opened(split_seed=1), opened(n_reference=99)]
        assert len({real.digest for real in others}) == 3


def test_what_is_not_held_out_is_the_pool(tmp_path):
    real = RealData(Numbered(400), 100, 0, 0, tmp_path)
    everything = content(numbered(0, 400))
    assert content(real.read(0, 300)) == everything - content(real.reference)
    assert content(real.lessons()) == content(real.read(0, 300)) - content(real.floor)
    assert (real.size, real.splits) == (300, True)


def test_an_official_split_leaves_all_training_samples_in_the_pool(tmp_path):
    real = RealData(Numbered(400, 120), 100, 0, 0, tmp_path)
    assert content(real.read(0, 400)) == content(numbered(0, 400))
    assert content(real.reference) < content(numbered(400, 120))
    assert (real.size, real.splits) == (400, False)


def test_labels_stay_with_their_images(tmp_path):
    real = RealData(Numbered(400), 100, 0, 7, tmp_path)
    for samples in (real.reference, real.lessons(), real.floor, real.read(20, 200)):
        spelled = samples.values.flatten(1).long() @ torch.tensor([256, 1])
        assert torch.equal(samples.labels, spelled)


def test_data_without_labels_stay_without(tmp_path):
    real = RealData(Unlabelled(), 100, 0, 0, tmp_path)
    assert real.spec.classes is None
    assert all(each.labels is None for each in (real.reference, real.floor, real.read(0, 9)))


@pytest.mark.parametrize(
    ("n_held_out", "n_reference", "most"), [(0, 400, 200), (0, 201, 200), (120, 121, 120)]
)
def test_a_reference_that_leaves_no_floor_is_refused(tmp_path, n_held_out, n_reference, most):
    with pytest.raises(Refused, match=f"at most {most}") as caught:
        RealData(Numbered(400, n_held_out), n_reference, 0, 0, tmp_path)
    assert caught.value.field == "n_reference"


@pytest.mark.parametrize(("n_held_out", "n_reference"), [(0, 2), (0, 200), (120, 120)])
def test_the_largest_reference_is_allowed_and_has_its_floor(tmp_path, n_held_out, n_reference):
    real = RealData(Numbered(400, n_held_out), n_reference, 0, 0, tmp_path)
    assert len(real.reference) == len(real.floor) == n_reference
    assert not content(real.reference) & content(real.floor)


# --- classes --------------------------------------------------------------------------------------


def of_classes(counts, seed):
    """Images of two pixels that spell their own place, of so many in each class, mixed up."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    samples = numbered(0, len(labels))
    mixed = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return Samples(samples.values, labels[mixed])


class OfClasses(Source):
    name = "of_classes"

    def __init__(self, counts, held_out=()):
        self.counts, self.held_out = counts, held_out

    def load(self, cache):
        held_out = of_classes(self.held_out, 1) if self.held_out else None
        return RealSet(of_classes(self.counts, 0), held_out, 0)


@pytest.mark.parametrize("split_seed", range(4))
@pytest.mark.parametrize(
    ("counts", "held_out", "n"),
    [
        ([100, 100, 100, 100], (), 100),
        ([500, 100, 30, 7], (), 200),
        ([300, 300, 60], (40, 80, 20), 70),
        ([300, 300, 60], (40, 80, 20), 140),
    ],
)
def test_reference_and_floor_have_as_many_of_each_class(tmp_path, counts, held_out, n, split_seed):
    real = RealData(OfClasses(counts, held_out), n, split_seed, 0, tmp_path)
    reference, floor = (
        side.labels.bincount(minlength=len(counts)) for side in (real.reference, real.floor)
    )
    assert torch.equal(reference, floor)
    shares = torch.tensor(held_out or counts).double()
    assert (reference - n * shares / shares.sum()).abs().max() < 1.5


def test_a_class_that_has_too_few_for_the_floor_is_made_up_for(tmp_path):
    real = RealData(OfClasses([200, 5], (20, 20)), 40, 0, 0, tmp_path)
    assert real.reference.labels.bincount().tolist() == [20, 20]
    assert real.floor.labels.bincount().tolist() == [35, 5]


def test_which_samples_of_a_class_are_held_out_is_chance(tmp_path):
    splits = [RealData(OfClasses([50, 50]), 40, seed, 0, tmp_path).reference for seed in range(30)]
    times = torch.stack(
        [split.values.flatten(1).long() @ torch.tensor([256, 1]) for split in splits]
    )
    counts = times.flatten().bincount(minlength=100)
    assert (counts.double() - 12).abs().max() < 4.5 * (30 * 0.4 * 0.6) ** 0.5


def test_a_split_of_its_own_follows_the_lineages_seed(opened):
    own = [opened(seed, split_seed=None) for seed in (3, 4)]
    assert content(own[0].reference) != content(own[1].reference)
    assert own[0].reference.digest() == opened(0, split_seed=3).reference.digest()
    assert own[0].digest != own[1].digest


def test_an_extractor_learns_from_enough_samples_of_a_law():
    assert len(from_law(n_reference=10).lessons()) == 20_000


# --- laws ---------------------------------------------------------------------------------------


def from_law(seed=0, dim=6, n_reference=2000, split_seed=0):
    return RealData(StandardNormal(dim), n_reference, split_seed, seed, None)


def test_a_law_never_runs_out():
    real = from_law()
    assert real.size is None
    assert real.read(10**11, 3).values.shape == (3, 6)
    assert content(real.read(10**11, 3)).isdisjoint(content(real.read(0, 1000)))


@pytest.mark.parametrize("role", ["reference", "floor", "training"])
def test_samples_of_the_law_have_its_moments(role):
    real = from_law(n_reference=20_000)
    samples = real.read(0, 20_000) if role == "training" else getattr(real, role)
    x, law = samples.values.double(), StandardNormal(6).law
    assert samples.values.dtype == torch.float32
    assert (x.mean(dim=0) - law.mean).abs().max() < 4 / 20_000**0.5
    assert (x.T.cov() - law.covariance).abs().max() < 5 * (2 / 20_000) ** 0.5


def test_lineages_and_roles_of_a_law_are_independent():
    draws = [from_law(seed).read(0, 2000) for seed in (0, 1)]
    draws += [from_law().reference, from_law().floor, from_law(split_seed=1).reference]
    flat = torch.stack([each.values.flatten() for each in draws])
    assert (torch.corrcoef(flat) - torch.eye(5)).abs().max() < 5 / 12_000**0.5


def test_only_a_law_knows_its_law(tmp_path):
    law = from_law().law
    assert torch.equal(law.mean, torch.zeros(6).double())
    assert torch.equal(law.covariance, torch.eye(6).double())
    assert RealData(Numbered(), 10, 0, 0, tmp_path).law is None


def test_a_law_without_dimensions_is_refused():
    with pytest.raises(Refused) as caught:
        StandardNormal(0)
    assert caught.value.field == "dim"


# --- copies ---------------------------------------------------------------------------------------


@pytest.fixture
def doubled(tmp_path):
    """Every digit twice, in a file."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.repeat((digits.images * 15).astype("u1"), 2, axis=0)
    np.savez(tmp_path / "a.npz", x=images, y=np.repeat(digits.target, 2))
    return Arrays(str(tmp_path / "a.npz"), labels="y")


def test_copies_of_reference_samples_in_the_pool_are_counted_and_told(doubled, tmp_path):
    real = RealData(doubled, 500, 0, 0, tmp_path)
    with pytest.warns(UserWarning, match="of 500 reference samples lie in the training pool"):
        n = real.n_copies
    sides = (real.read(0, real.size), real.reference)
    pool, reference = (side.values.flatten(1) for side in sides)
    assert n == int((reference[:, None] == pool).all(dim=2).any(dim=1).sum())
    assert n > 400


def test_without_copies_nothing_is_told(tmp_path, recwarn):
    assert RealData(Digits(), 800, 0, 0, tmp_path).n_copies == 0
    assert RealData(StandardNormal(3), 100, 0, 0, tmp_path).n_copies == 0
    assert not [warning for warning in recwarn if "reference" in str(warning.message)]


def test_a_reference_that_no_memory_holds_is_refused(tmp_path):
    with pytest.raises(Refused, match="n_reference"):
        RealData(StandardNormal(100), 10**12, 0, 0, tmp_path)


def test_a_batch_that_no_memory_holds_is_refused():
    with pytest.raises(Refused, match=r"batch_size: a batch of 1,000,000,000,000 samples"):
        GenerationDataModule(StandardNormal(100), batch_size=10**12).real()


def test_the_classes_of_a_mix_are_those_of_its_samples(tmp_path):
    data = GenerationDataModule(Numbered(), n_reference=100)
    mix = Mix(1, (Part("real", None, 5, 40), Part("fresh", None, 60, 7)))
    assert torch.equal(data.labels(mix, 3), data.feed(mix, 3).training_set().labels)
    assert GenerationDataModule(StandardNormal(2)).labels(mix, 3) is None


def test_real_samples_to_look_at_are_of_the_reference_each_class_in_turn(tmp_path):
    real = RealData(Digits(), 300, 0, 0, tmp_path)
    shown = real.shown(20)
    assert shown.labels.tolist() == [*range(10)] * 2
    assert content(shown) <= content(real.reference)
    assert len(RealData(StandardNormal(dim=3), 100, 0, 0, tmp_path).shown(1000)) == 100
