"""Class by class: rare classes count as much as common ones."""

import pytest
import torch

from mad_lightning.metrics.functional import class_recall, class_share, recalled, two_sample


def labels(**counts):
    return torch.cat([torch.full((n,), int(name[1:])) for name, n in counts.items()])


@pytest.mark.parametrize(
    ("synthetic", "share"),
    [
        (labels(c0=900, c1=90, c2=10), 1.0),
        (labels(c0=9, c1=1), (1 + 1 + 0) / 3),  # the rare class vanished
        (labels(c0=10), (1 + 0 + 0) / 3),
        (labels(c0=95, c1=5), (1 + 5 / 9 + 0) / 3),
        (labels(c0=900, c1=90, c2=10, c7=1000), 0.5),  # half of all are of no real class
        (labels(c7=5), 0.0),
    ],
)
def test_the_share_that_is_left(synthetic, share):
    assert class_share(labels(c0=900, c1=90, c2=10), synthetic) == pytest.approx(share, rel=1e-12)


def clouds(counts, seed):
    """Classes far apart."""
    rng = torch.Generator().manual_seed(seed)
    parts = [torch.randn(n, 4, generator=rng) + 50.0 * place for place, n in enumerate(counts) if n]
    return torch.cat(parts)


def test_recall_counts_every_class_once():
    real, which = clouds((900, 100), 1), labels(c0=900, c1=100)
    synthetic = clouds((1000, 0), 2)
    found = recalled(real, synthetic, 5)
    assert not found[900:].any()
    assert two_sample(real, synthetic, 5)["recall"] == float(found.double().mean()) > 0.7
    expected = float(found[:900].double().mean()) / 2
    assert class_recall(real, which, synthetic, 5) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("balls", ["closed", "open"])
def test_flags_of_recall_are_those_of_brute_force(balls):
    real = clouds((40, 20), 1).repeat(2, 1)  # with copies
    synthetic = torch.cat([clouds((30, 10), 2), real[:5], real[:5]])
    cross = ((real.double()[:, None] - synthetic.double()) ** 2).sum(dim=2)
    own = ((synthetic.double()[:, None] - synthetic.double()) ** 2).sum(dim=2)
    radii = own.fill_diagonal_(torch.inf).sort(dim=1).values[:, 2]
    inside = cross <= radii if balls == "closed" else cross < radii
    assert torch.equal(recalled(real, synthetic, 3, balls, tile=32), inside.any(dim=1))


def test_recall_of_equal_classes_is_recall():
    real, synthetic = clouds((100, 100), 1), clouds((60, 140), 2)
    which = labels(c0=100, c3=100)  # classes without samples do not count
    recall = two_sample(real, synthetic)["recall"]
    assert class_recall(real, which, synthetic) == pytest.approx(recall, rel=1e-14)
    assert 0.0 < recall < 1.0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.zeros(5), "float32"),
        (torch.zeros(5, 1).long(), "shape"),
        (torch.zeros(0).long(), "0 labels"),
        (torch.tensor([0, -1]), "from 0 on"),
        (torch.zeros(5).bool(), "bool"),
    ],
)
def test_labels_that_are_none_are_refused(given, words):
    with pytest.raises(ValueError, match=f"synthetic.*{words}"):
        class_share(labels(c0=3), given)
    with pytest.raises(ValueError, match=f"real.*{words}"):
        class_share(given, labels(c0=3))


def test_a_label_for_each_sample():
    with pytest.raises(ValueError, match="real has 10 samples and 9 labels"):
        class_recall(clouds((10,), 1), labels(c0=9), clouds((10,), 2))
