"""Samples are met as often as their weights say, or come with them; choices have an address."""

from itertools import islice

import numpy as np
import pytest
import torch

from mad_lightning.data.datamodule import GenerationDataModule, MixLoader
from mad_lightning.data.shards import Shard, ShardManifest
from mad_lightning.data.sources import RealSet, Source
from mad_lightning.files import Damaged
from mad_lightning.policies import EXTERNAL, Mix, Part
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec
from mad_lightning.seeds import permutation

ADDRESS = (3, 2, "order")


def numbered(start, count, weights=None):
    """Vectors that are their own place, with the place as label."""
    places = torch.arange(start, start + count)
    return Samples(places[:, None].float(), places, weights=weights)


class Numbered(Source):
    name = "numbered"

    def load(self, cache):
        return RealSet(numbered(0, 100), None, 10_000)


@pytest.fixture
def data(tmp_path):
    return GenerationDataModule(Numbered(), batch_size=5, n_reference=20, cache=str(tmp_path))


@pytest.fixture
def write(tmp_path):
    """Stores samples as a shard, and reads it anew."""

    def written(name, samples):
        spec = SampleSpec.of(samples).to_dict()
        manifest = ShardManifest("synthetic", 1, 1.0, (0,), {}, "", 0, spec)
        stem = tmp_path / name.replace("/", "-")
        Shard(stem).write(samples, manifest)
        return Shard(stem)

    return written


def met(loader, laps):
    """How often each place was met in so many passes."""
    places = torch.cat([loader.order(lap) for lap in range(laps)])
    return places.bincount(minlength=loader.n).double()


def test_each_sample_is_met_as_often_as_its_weight_asks_for_and_never_one_more():
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0, 3.3, 1.0, 0.2], dtype=torch.float64)
    loader = MixLoader([numbered(0, 7)], 3, None, ADDRESS, weights=weights)
    due = 7 * weights / weights.sum()
    for lap in range(200):
        seen = loader.order(lap).bincount(minlength=7)
        assert seen.sum() == 7
        assert bool(((seen - due).abs() < 1.0).all())
    laps = 800
    assert met(loader, laps)[3] == 0
    # A count is floor or ceil of what is due: its variance is f (1 - f), f the fraction.
    error = (due.frac() * (1 - due.frac()) / laps).sqrt() + 1e-9
    assert bool(((met(loader, laps) / laps - due).abs() < 4.5 * error).all())


def test_a_pass_is_in_random_order_and_addressed():
    weights = torch.tensor([1.0] * 50 + [3.0] * 50, dtype=torch.float64)
    one, same = (MixLoader([numbered(0, 100)], 5, None, ADDRESS, weights=weights) for _ in range(2))
    other = MixLoader([numbered(0, 100)], 5, None, (4, 2, "order"), weights=weights)
    assert torch.equal(one.order(5), same.order(5))
    assert not torch.equal(one.order(5), one.order(6))
    assert not torch.equal(one.order(5), other.order(5))
    first = torch.cat([one.order(lap)[:10] for lap in range(300)])
    assert abs((first >= 50).double().mean() - 0.75) < 0.03  # from the first batch on


def test_where_all_weights_are_alike_nothing_changes(data, write):
    """To the bit, whatever they are, by part or by sample."""
    plain = Mix(2, (Part("real", None, 0, 30), Part("synthetic", "001", 0, 20)))
    heavy = Mix(2, tuple(Part(p.origin, p.shard, p.start, p.count, 2.5) for p in plain.parts))
    bare = {"001": write("001", numbered(500, 20))}
    ones = {"001": write("001.kept", numbered(500, 20, torch.ones(20)))}
    orders = [
        torch.cat([batch.values for batch in data.feed(mix, 3, shards).loader()])
        for mix, shards in ((plain, bare), (heavy, bare), (plain, ones))
    ]
    assert torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], orders[2])
    assert torch.equal(orders[0].flatten(), _unweighted(data, plain, bare))


def _unweighted(data, mix, shards):
    samples = data.feed(mix, 3, shards).training_set()
    return samples[permutation(len(samples), 3, 2, "order", 0)].values.flatten()


def test_weights_of_parts_and_of_samples_multiply(data, write):
    own = torch.tensor([0.0, 1.0, 2.0, 4.0])
    shards = {"001.kept": write("001.kept", numbered(500, 4, own))}
    mix = Mix(2, (Part("real", None, 0, 3, 2.0), Part("synthetic", "001.kept", 1, 3, 0.5)))
    told = data.weights(mix, 3, shards)
    assert told.tolist() == [2.0, 2.0, 2.0, 0.5, 1.0, 2.0]
    loader = data.feed(mix, 3, shards).loader()
    rate = met(loader, 800) / 800
    torch.testing.assert_close(rate, 6 * told / told.sum(), atol=0.08, rtol=0)


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_share_each_batch(data, write, rank):
    mix = Mix(2, (Part("real", None, 0, 30), Part("fresh", None, 40, 20, 3.0)))
    module = data.feed(mix, 3)
    module.batch_size = 4
    whole, mine = module.loader(), module.loader(rank, 2)
    for batch, share in islice(zip(whole, mine, strict=True), 10):
        assert torch.equal(batch.values[2 * rank : 2 * rank + 2], share.values)
        assert share.weights is None  # they were met by weight: nobody is to weigh them again


def test_families_that_weigh_samples_meet_each_once_with_its_weight(data):
    mix = Mix(2, (Part("real", None, 0, 3), Part("fresh", None, 3, 4, 2.5)))
    module = data.feed(mix, 3, exact=True, weighs=True)
    for at_once in (1, 3):
        batches = list(module.loader(at_once=at_once))
        values = torch.cat([batch.values for batch in batches])
        weights = torch.cat([batch.weights for batch in batches])
        fresh = {float(v) for v in data.real(3).read(3, 4).values}
        told = dict(zip(values.flatten().tolist(), weights.tolist(), strict=True))
        assert len(told) == 7
        assert told == {place: 2.5 if place in fresh else 1.0 for place in told}
    plain = data.feed(Mix(2, (Part("real", None, 0, 3),)), 3, exact=True, weighs=True)
    assert next(iter(plain.loader())).weights is None


@pytest.mark.parametrize("bad", [[1.0, -0.1, 1.0], [1.0, float("nan"), 2.0], [0.0, 0.0, 0.0]])
def test_what_are_no_weights_is_refused_with_the_shard(data, write, bad):
    shards = {"001.kept": write("001.kept", numbered(0, 3, torch.tensor(bad)))}
    with pytest.raises(Refused, match=r"001\.kept have weights"):
        data.feed(Mix(2, (Part("synthetic", "001.kept", 0, 3),)), 3, shards)


def test_weights_are_stored_beside_the_samples_and_are_part_of_the_digest(write, tmp_path):
    """As safetensors itself would, whose file is the same but for its heading."""
    from safetensors.torch import load_file, save_file

    weights = torch.rand(9)
    for values in (torch.rand(9, 4), torch.randint(0, 255, (9, 1, 2, 2), dtype=torch.uint8)):
        samples = Samples(values, torch.arange(9), weights=weights)
        shard = write("001.kept", samples)
        assert torch.equal(shard.samples.weights, weights)
        assert torch.equal(load_file(shard.values_file)["weights"], weights)
        save_file(samples.tensors(), tmp_path / "theirs")
        assert (tmp_path / "theirs").stat().st_size == shard.values_file.stat().st_size
        plain = Samples(values, torch.arange(9))
        others = Samples(values, torch.arange(9), weights=weights + 1)
        assert len({each.digest() for each in (samples, plain, others)}) == 3
        assert torch.equal(samples[2:5].weights, weights[2:5])
        assert torch.equal(samples[torch.tensor([4, 1])].weights, weights[[4, 1]])
    flipped = bytearray(shard.values_file.read_bytes())
    at = flipped.index(weights.numpy().tobytes())
    flipped[at] ^= 1
    shard.values_file.write_bytes(flipped)
    with pytest.raises(Damaged):
        _ = Shard(shard.values_file.with_suffix("")).samples


# --- choices and what comes from outside ----------------------------------------------------------


def test_a_choice_takes_each_sample_once_with_equal_chance(data, write):
    shards = {"001": write("001", numbered(500, 10))}
    taken = []
    for t in range(2, 302):
        mix = Mix(t, (Part("real", None, 5, 3, among=8), Part("synthetic", "001", 0, 4, among=10)))
        chosen = data.feed(mix, 3, shards).training_set()
        assert torch.equal(data.labels(mix, 3, shards), chosen.labels)
        assert len(chosen) == 7 == len(chosen.values.unique())
        taken.append(chosen.values.flatten())
    assert {v for one in taken for v in one[:3].tolist()} == set(
        data.real(3).read(5, 8).values.flatten().tolist()
    )
    counts = torch.stack(taken)[:, 3:].flatten().sub(500).long().bincount(minlength=10)
    assert bool(((counts - 120).abs() < 4.5 * (300 * 0.4 * 0.6) ** 0.5).all())
    again = data.feed(mix, 3, shards).training_set()
    assert torch.equal(again.values.flatten(), taken[-1])
    assert not torch.equal(data.feed(mix, 4, shards).training_set().values, again.values)


def test_what_comes_from_outside_is_taken_in_an_order_of_the_lineages_own(data, write):
    shards = {EXTERNAL: write(EXTERNAL, numbered(500, 30))}
    mix = Mix(2, (Part("external", EXTERNAL, 0, 12),))
    first, second, other = (
        data.feed(Mix(t, mix.parts), seed, shards).training_set().values.flatten().tolist()
        for t, seed in ((2, 3), (5, 3), (2, 4))
    )
    assert first == second != other
    assert len(set(first)) == 12
    assert first != sorted(first)
    assert data.labels(mix, 3, shards).tolist() == [int(v) for v in first]
    with pytest.raises(OSError, match="holds only 30"):
        data.feed(Mix(2, (Part("external", EXTERNAL, 0, 31),)), 3, shards)


def test_classes_count_by_weight():
    from mad_lightning.loop.classes import counted

    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    weights = torch.tensor([1.0, 1.0, 1.0, 4.5, 4.5, 0.0])
    assert counted(labels, None, 4).tolist() == [3, 2, 1, 0]
    assert counted(labels, weights, 4).tolist() == [2, 4, 0, 0]
    assert counted(labels, torch.tensor([1e6, 1, 1, 1, 1, 1e-9]), 4).tolist() == [6, 1, 1, 0]
    np.testing.assert_allclose(counted(labels, torch.ones(6), 4), [3, 2, 1, 0])
