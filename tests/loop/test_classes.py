"""Which classes are drawn: those of the mix, in its shares, in an order that is not random."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch

from mad_lightning.commands.train import build
from mad_lightning.data.shards import Shard
from mad_lightning.loop.classes import in_turn, one_round
from mad_lightning.refusal import Refused


def by_hand(counts, n):
    """Sainte-Laguë as it is counted after an election: seat by seat, in exact fractions."""
    seats = [0] * len(counts)
    order = []
    for _ in range(n):
        claims = [Fraction(c, 2 * s + 1) for c, s in zip(counts, seats, strict=True)]
        winner = claims.index(max(claims))
        seats[winner] += 1
        order.append(winner)
    return order


@pytest.mark.parametrize(
    "counts", [[5, 5, 5], [95, 5], [0, 3, 2], [7], [1, 2, 3, 4], [900, 90, 9, 1], [0, 0, 6]]
)
def test_classes_take_turns_as_seats_are_given(counts):
    order = one_round(torch.tensor(counts))
    n = sum(counts)
    assert in_turn(order, slice(0, n)).tolist() == by_hand(counts, n)
    assert torch.equal(
        in_turn(order, slice(0, n)).bincount(minlength=len(counts)), torch.tensor(counts)
    )


def test_every_beginning_has_the_shares_of_the_whole():
    for counts in product((0, 1, 5, 60), (2, 3), (7, 100)):
        order = in_turn(one_round(torch.tensor(counts)), slice(0, 400))
        shares = torch.tensor(counts).double() / sum(counts)
        for n in (1, 10, 57, 200, 400):
            gaps = order[:n].bincount(minlength=3) - n * shares
            assert gaps.abs().max() <= 1.0


def test_equal_shares_are_one_class_after_the_other():
    order = one_round(torch.full((10,), 397))
    assert torch.equal(in_turn(order, slice(256, 512)), torch.arange(256, 512) % 10)


# --- in a lineage ---------------------------------------------------------------------------------


@pytest.fixture
def skewed(arguments, tmp_path):
    """Vectors of three classes: 70 %, 20 %, 10 %, far from each other."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2], [420, 120, 60]))
    values = rng.normal(size=(600, 2)) + 20.0 * labels[:, None]
    np.savez(tmp_path / "skewed.npz", x=values, y=labels)
    source = ["--data.source", "Arrays", "--data.source.path", str(tmp_path / "skewed.npz")]
    return [
        *arguments, *source, "--data.source.labels", "y", "--data.n_reference", "200",
        "--policy.n_initial", "300", "--lineage.generations", "2",
    ]  # fmt: skip


def drawn(meta, t):
    return Shard(meta.lineage.shard(f"{t:03d}")).samples.labels


def test_a_shard_has_the_classes_of_its_mix(skewed):
    meta = build(skewed)
    records = meta.fit()
    learned = meta.real.read(0, 300).labels.bincount()
    assert not torch.equal(learned, learned.roll(1))
    for t in (1, 2):
        assert torch.equal(drawn(meta, t).bincount(), learned)
    assert {record.protocol["labels"] for record in records} == {"mix"}
    assert meta.store["001"].manifest.labels == "mix"


def test_an_exact_model_of_rare_classes_is_at_the_floor(skewed):
    """In equal shares it is far from it, and has learned nothing wrong."""
    mix = build(skewed).fit()[0]
    equal = build([*skewed, "--lineage.labels", "equal", "--lineage.name", "equal"]).fit()[0]
    assert equal.metrics["fd_identity"] > 5.0 * mix.metrics["fd_identity"]
    assert equal.protocol["labels"] == "equal"


def test_blocks_do_not_matter(skewed):
    whole = build(skewed).fit()
    parts = build([*skewed, "--lineage.name", "parts", "--lineage.block_size", "7"]).fit()
    assert [r.digests["shard"] for r in whole] == [r.digests["shard"] for r in parts]


@pytest.mark.parametrize("labels", ["mix", "equal"])
@pytest.mark.parametrize("family", ["Gaussian", "Mixture", "WGAN"])
def test_a_class_that_the_mix_lacks_is_not_drawn(skewed, family, labels):
    few = ["--policy.n_initial", "12", "--policy.n_synthetic", "100", "--lineage.labels", labels]
    wgan = [
        "--generator.networks", "mad_lightning.nets.pairs.DensePair",
        "--generator.networks.width", "8", "--trainer.max_epochs", "1",
    ]  # fmt: skip
    mixture = ["--generator.components", "2"]
    family_arguments = {"WGAN": wgan, "Mixture": mixture, "Gaussian": []}[family]
    options = [*skewed, *few, "--generator", family, *family_arguments]
    data = build(options).data
    for seed in range(20):  # until the mix lacks a class, and its others have two samples
        counts = data.real(seed).read(0, 12).labels.bincount(minlength=3)
        if (counts == 0).any() and (counts != 1).all():
            break
    else:
        pytest.fail("no such seed")
    meta = build([*options, "--seed_everything", str(seed)])
    found = set(counts.nonzero().flatten().tolist())
    meta.fit()
    assert set(drawn(meta, 1).tolist()) == set(drawn(meta, 2).tolist()) == found


def test_a_lineage_that_drew_in_equal_shares_goes_on_so_or_is_refused(skewed):
    begun = [*skewed, "--lineage.generations", "1"]
    build([*begun, "--lineage.labels", "equal"]).fit()
    with pytest.raises(Refused, match="equal") as refused:
        build(skewed).fit()
    assert refused.value.field == "lineage.labels"
    assert "`lineage.labels: equal`" in refused.value.remedy
    assert len(build([*skewed, "--lineage.labels", "equal"]).fit()) == 2


def test_so_is_a_generation_that_was_drawn_and_not_yet_recorded(skewed):
    meta = build([*skewed, "--lineage.labels", "equal"])
    meta.record = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        meta.fit()
    with pytest.raises(Refused, match=r"go on with `lineage\.labels: equal`"):
        build(skewed).fit()
