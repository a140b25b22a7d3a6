"""Marks are found where they are, survive being stored, and do what a loop's arithmetic says."""

import math

import pytest
import torch

from mad_lightning.metrics import Additive, Detect, Parity, Spectral, View
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec, to_floats, to_stored
from mad_lightning.treatments import Candidates, Unmarked, Watermark

IMAGE = SampleSpec((1, 8, 8))
VECTOR = SampleSpec((6,))
MARKS = [Additive(2.0), Spectral(4.0, rows=1, columns=2), Parity(), Parity(share=0.5)]


def pictures(n, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(40, 200, (n, 1, 8, 8), generator=rng, dtype=torch.uint8)


@pytest.mark.parametrize("mark", MARKS, ids=lambda mark: type(mark).__name__)
def test_a_mark_raises_the_score_by_its_strength_and_survives_being_stored(mark):
    x = pictures(400)
    marked = mark.put(x)
    assert marked.dtype == torch.uint8
    again = to_stored(to_floats(marked), IMAGE)
    assert torch.equal(again, marked)
    raised = mark.score(again) - mark.score(x)
    assert float(raised.mean()) == pytest.approx(mark.strength, abs=0.15)
    least = 1 if isinstance(mark, Parity) else math.ceil(mark.strength)
    assert int((marked.int() - x.int()).abs().max()) <= least


@pytest.mark.parametrize("mark", [Additive(0.3), Spectral(0.3, columns=2)])
def test_of_vectors_a_direction_is_marked(mark):
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    moved = mark.put(x) - x
    assert moved.norm(dim=1).tolist() == pytest.approx([0.3] * 50, abs=1e-5)
    assert (mark.score(mark.put(x)) - mark.score(x)).tolist() == pytest.approx([0.3] * 50, abs=1e-5)


def test_keys_are_different_marks():
    x = pictures(500)
    for kind in (Additive, Parity):
        other = kind(key=1)
        raised = other.score(kind(key=0).put(x)).mean() - other.score(x).mean()
        assert abs(float(raised)) < 0.5 * other.strength


def view(values):
    return View(torch.zeros(len(values), 1), stored=Samples(values))


@pytest.mark.parametrize("mark", MARKS[:3], ids=lambda mark: type(mark).__name__)
def test_detect_finds_it_and_nothing_where_there_is_none(mark):
    real, others = pictures(300), pictures(300, seed=1)
    absent, present = (Detect(mark)(view(real), view(x)) for x in (others, mark.put(others)))
    assert abs(absent["mark_z"]) < 4
    assert absent["mark_p"] > 1e-4
    assert abs(absent["mark_energy"]) < 0.4
    scores = mark.score(mark.put(others)), mark.score(real)
    error = math.sqrt(sum(float(s.var()) / 300 for s in scores))
    z = float(scores[0].mean() - scores[1].mean()) / error
    assert present["mark_z"] == pytest.approx(z)
    assert present["mark_p"] == pytest.approx(0.5 * math.erfc(z / math.sqrt(2)), abs=1e-12)
    assert present["mark_energy"] == pytest.approx(1.0, abs=0.4)
    halved = Detect(mark)
    for part in mark.put(others).split(100):
        halved.update(part, real=False)
    halved.update(real, real=True)
    assert halved.compute() == pytest.approx(present)


def test_z_is_normal_where_there_is_no_mark():
    z = torch.tensor(
        [
            Detect(Additive())(view(pictures(100, s)), view(pictures(100, s + 500)))["mark_z"]
            for s in range(100)
        ]
    )
    assert abs(float(z.mean())) < 0.4
    assert float(z.std()) == pytest.approx(1.0, abs=0.3)


def candidates(x, t=1, budget=None, real=None):
    own = None if real is None else Samples(real)
    return Candidates(x, x.flatten(1), None, (0, t, "treatment"), budget or len(x), own, None)


@pytest.mark.parametrize(
    ("when", "marked"), [("always", [1, 1, 1]), ("once", [1, 0, 0]), ("never", [0, 0, 0])]
)
def test_when_it_is_put_in(when, marked):
    x = pictures(10)
    said = [Watermark(Parity(), when)(candidates(x, t)) for t in (1, 2, 3)]
    assert [int(one.values is not None) for one in said] == marked


def test_a_filter_throws_marked_samples_away_and_few_others():
    x, real = pictures(1000), torch.cat([pictures(1000, 7), pictures(1000, 8)])
    both = torch.cat([x, Parity().put(x)])
    twin = Candidates(both, both.flatten(1), None, (0, 1, "treatment"), 1, Samples(real), both[:0])
    passes = Unmarked(Parity(), n_real=2000, false_positives=0.05)(twin)
    assert float(passes[:1000].double().mean()) == pytest.approx(0.95, abs=0.03)
    assert not passes[1000:].any()


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Additive(0.0), "strength"),
        (lambda: Additive(math.nan), "strength"),
        (lambda: Additive(0.2).check(IMAGE), "strength"),
        (lambda: Spectral(rows=0, columns=0), "columns"),
        (lambda: Spectral(rows=5).check(IMAGE), "rows"),
        (lambda: Spectral(columns=4).check(VECTOR), "columns"),
        (lambda: Parity(share=0.0), "share"),
        (lambda: Parity().check(VECTOR), ""),
        (lambda: Watermark(Parity(), "twice"), "when"),
        (lambda: Watermark("Parity"), "mark"),
        (lambda: Detect("Parity"), "mark"),
        (lambda: Unmarked(Parity(), n_real=0), "n_real"),
    ],
)
def test_what_cannot_be_marked_is_refused(make, field):
    with pytest.raises(Refused) as refused:
        make()
    assert refused.value.field == field
