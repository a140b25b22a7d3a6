"""The one border between bytes and floats."""

import warnings

import pytest
import torch

from mad_lightning import samples
from mad_lightning.refusal import Refused
from mad_lightning.samples import Parts, Samples, SampleSpec, to_floats, to_stored

IMAGE = SampleSpec((1, 4, 4), 10)


def test_every_byte_survives_the_round_trip():
    values = torch.arange(256).byte().reshape(16, 1, 4, 4)
    assert torch.equal(to_stored(to_floats(values), IMAGE), values)


def test_floats_are_clamped_and_rounded_not_truncated():
    floats = torch.tensor([-9.0, -1.0, 0.0, 0.999, 1.0, 9.0]).reshape(1, 1, 1, 6)
    assert to_stored(floats, SampleSpec((1, 1, 6))).flatten().tolist() == [0, 0, 128, 255, 255, 255]


def test_vectors_pass_unchanged():
    x = torch.randn(5, 3)
    assert torch.equal(to_floats(x), x)
    assert torch.equal(to_stored(x, SampleSpec((3,))), x)


def test_spec_round_trip_and_kinds():
    assert SampleSpec.from_dict(IMAGE.to_dict()) == IMAGE
    assert (IMAGE.kind, IMAGE.dtype) == ("image", torch.uint8)
    assert (SampleSpec((7,)).kind, SampleSpec((7,)).dtype) == ("vector", torch.float32)


@pytest.mark.parametrize("change", ["value", "label", "order", "shape"])
def test_digest_sees_every_change(change):
    values, labels = torch.arange(32).byte().reshape(2, 1, 4, 4), torch.tensor([0, 1])
    before = Samples(values, labels).digest()
    if change == "value":
        values = values.clone()
        values[0, 0, 0, 0] += 1
    elif change == "label":
        labels = torch.tensor([0, 2])
    elif change == "order":
        values, labels = values.flip(0), labels.flip(0)
    else:
        values = values.reshape(2, 1, 2, 8)
    assert Samples(values, labels).digest() != before


def test_an_index_takes_labels_along():
    both = Samples(torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 2]))
    assert both[1:].labels.tolist() == [1, 2]
    assert both[torch.tensor([2, 0])].values[:, 0].tolist() == [4.0, 0.0]
    assert Samples(both.values)[:1].labels is None
    assert Samples(**both.tensors()).digest() == both.digest()


# --- from ordinary tensors ------------------------------------------------------------------------


def test_a_spec_is_read_off_ordinary_tensors():
    x, y = torch.rand(5, 3, 4, 6), torch.tensor([0, 2, 1, 7, 0])
    assert SampleSpec.of(x) == SampleSpec((3, 4, 6))
    assert SampleSpec.of(x, y) == SampleSpec((3, 4, 6), 8)
    assert SampleSpec.of(Samples(x, y)) == SampleSpec((3, 4, 6), 8)
    assert SampleSpec.of(torch.rand(5, 2)) == SampleSpec((2,))


@pytest.mark.parametrize("shape", [(5,), (5, 4, 4), (5, 1, 1, 4, 4)])
def test_a_spec_of_neither_images_nor_vectors_is_refused(shape):
    with pytest.raises(Refused, match="unsqueeze"):
        SampleSpec.of(torch.rand(shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_ordinary_images_are_stored_grey_levels(dtype):
    values, labels = torch.arange(256).byte().reshape(16, 1, 4, 4), torch.arange(16) % 10
    floats = to_floats(values).to(dtype)
    for batch in (values, [values], (floats,), (values, labels.int()), [floats, labels]):
        stored = Samples.of(batch, SampleSpec((1, 4, 4), 10 if len(batch) == 2 else None))
        assert torch.equal(stored.values, values)
        if len(batch) == 2:
            assert torch.equal(stored.labels, labels)
            assert stored.labels.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8])
def test_ordinary_vectors_stay_as_they_are(dtype):
    x = torch.tensor([[0, 200], [3, 4]]).to(dtype)
    stored = Samples.of([x], SampleSpec((2,)))
    assert torch.equal(stored.values, torch.tensor([[0.0, 200.0], [3.0, 4.0]]))
    assert stored.values.dtype == torch.float32


GREY, CLASSES = torch.zeros(3, 1, 4, 4).byte(), torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("batch", "problem"),
    [
        (GREY[:, 0], "shape"),
        (GREY[..., :3], "shape"),
        ((GREY.long(), CLASSES), "int64"),
        ((GREY + 1.01, CLASSES), "from 1.01 to 1.01"),
        ((-1.5 * torch.ones(3, 1, 4, 4), CLASSES), "from -1.5"),
        ((torch.full((3, 1, 4, 4), float("nan")), CLASSES), "nan"),
        (GREY, "has no classes"),
        ((GREY, CLASSES[:2]), "for 3 samples"),
        ((GREY, CLASSES.float()), "float32"),
        ((GREY, torch.eye(3).long()), r"\(3, 3\)"),
        ((GREY, CLASSES + 8), r"\[8, 9, 10\]"),
        ((GREY, CLASSES - 1), r"\[-1, 0, 1\]"),
        ((GREY, CLASSES, CLASSES), "tuple"),
        ({"image": GREY}, "dict"),
        ((), "tuple"),
        ([GREY, ["cat", "dog", "cow"]], "list"),
        (None, "NoneType"),
    ],
)
def test_batches_of_another_kind_are_refused(batch, problem):
    with pytest.raises(Refused, match=problem) as caught:
        Samples.of(batch, IMAGE)
    assert caught.value.field == ""


def test_images_from_0_to_1_are_warned_of_once():
    samples._warn_of_pale_images.cache_clear()
    spec = SampleSpec((1, 4, 4))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Samples.of(torch.linspace(-1.0, 1.0, 32).reshape(2, 1, 4, 4), spec)
        assert caught == []
        for _ in range(3):
            Samples.of(torch.rand(2, 1, 4, 4), spec)
    (warning,) = caught
    assert "scale them by 2 * x - 1" in str(warning.message)


# --- parts --------------------------------------------------------------------------------------


def numbered(start, stop, labelled=True):
    places = torch.arange(start, stop)
    return Samples(places[:, None].float(), places if labelled else None)


def in_parts():
    """0 .. 19 backwards, from two sets of which one is itself a choice."""
    odd = Parts([numbered(0, 20)], torch.arange(1, 20, 2))
    even = Samples(*(x[::2] for x in (numbered(0, 20).values, numbered(0, 20).labels)))
    in_order = torch.stack([torch.arange(10, 20), torch.arange(10)], dim=1).flatten()
    return Parts([odd, even], in_order.flip(0))


@pytest.mark.parametrize(
    "index", [slice(None), slice(3, 9), slice(0, 0), torch.tensor([7, 0, 19, 7]), torch.arange(0)]
)
def test_parts_of_parts_are_what_they_would_be_in_memory(index):
    whole = Samples(*(x.flip(0) for x in (numbered(0, 20).values, numbered(0, 20).labels)))
    taken = in_parts()[index]
    assert torch.equal(taken.values, whole.values[index])
    assert torch.equal(taken.labels, whole.labels[index])
    assert taken.values.shape[1:] == (1,)


@pytest.mark.parametrize("piece", [1, 12, 2**20])
def test_parts_have_the_size_the_labels_and_the_digest_of_what_they_hold(piece, monkeypatch):
    monkeypatch.setattr(samples, "_PIECE", piece)
    whole = in_parts()[:]
    for same in (in_parts(), Parts([whole[:4], in_parts()], torch.arange(4, 24))):
        assert (len(same), same.nbytes) == (20, 80)
        assert torch.equal(same.labels, whole.labels)
        assert torch.equal(same.values, whole.values)
        assert same.digest() == whole.digest()
        seen = []
        same.digest(hand_on=lambda values: seen.append(values.tobytes()))  # noqa: B023
        assert b"".join(seen) == whole.values.numpy().tobytes()


def test_parts_hand_labels_on_only_if_all_have_some():
    mixed = Parts([numbered(0, 3), numbered(3, 6, labelled=False)])
    assert mixed.labels is None
    assert mixed[torch.tensor([0, 5])].labels is None
    assert mixed.digest() == numbered(0, 6, labelled=False).digest()
