"""A mix becomes batches: every sample its turn, whatever the devices, wherever one resumes."""

from itertools import chain
from types import SimpleNamespace

import pytest
import torch

from mad_lightning.data.datamodule import GenerationDataModule, MixLoader
from mad_lightning.data.shards import Shard, ShardManifest, save_tensors
from mad_lightning.data.sources import RealSet, Source
from mad_lightning.policies import FreshData, Mix, Part
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples
from mad_lightning.seeds import permutation

SIZES = (7, 5, 11)
N = sum(SIZES)
ADDRESS = (0, 1, "order")


def numbered(start, count, labelled=True):
    """Vectors that are their own place, with the place as label."""
    places = torch.arange(start, start + count)
    return Samples(places[:, None].float(), places if labelled else None)


def parts(labelled=(True, True, True)):
    starts = (0, SIZES[0], SIZES[0] + SIZES[1])
    return [numbered(*each) for each in zip(starts, SIZES, labelled, strict=True)]


def loader(batch_size=4, images=None, address=ADDRESS, **more):
    return MixLoader(parts(), batch_size, images, address, **more)


def places(samples):
    return samples.values.flatten().long().tolist()


def epoch(number, **arguments):
    """The batches of one epoch, as places."""
    return [places(batch) for batch in loader(epoch=lambda: number, **arguments)]


def flat(lists):
    return list(chain.from_iterable(lists))


def stream(epochs, **arguments):
    """The places of several epochs in a row."""
    return flat(flat(epoch(number, **arguments) for number in range(epochs)))


# --- order --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "images"), [(4, None), (5, 10), (9, 50), (64, 64), (1, 1)])
def test_epochs_are_cuts_of_one_stream_of_permutations(batch_size, images):
    found = stream(4, batch_size=batch_size, images=images)
    laps = [permutation(N, *ADDRESS, lap) for lap in range(len(found) // N + 1)]
    assert found == torch.cat(laps).tolist()[: len(found)]


def test_every_pass_meets_every_sample_of_every_part_once():
    found = stream(5)
    for lap in range(5):
        assert sorted(found[lap * N : (lap + 1) * N]) == list(range(N))


def test_passes_generations_and_seeds_have_orders_of_their_own():
    orders = [tuple(loader(address=(s, t, "order")).order(0)) for s in (0, 1) for t in (1, 2)]
    orders.append(tuple(loader().order(1)))
    assert len(set(orders)) == 5


def test_a_resumed_epoch_equals_the_uninterrupted_one():
    current = 0
    uninterrupted = loader(images=10, epoch=lambda: current)
    for current in range(6):
        expected = [places(batch) for batch in uninterrupted]
        assert epoch(current, images=10) == expected


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("batch_size", [12, 7])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_ranks_share_each_batch_of_one_process(world_size, batch_size, exact):
    arguments = {"batch_size": batch_size, "images": 40, "exact": exact}
    ranks = [epoch(1, **arguments, rank=r, world_size=world_size) for r in range(world_size)]
    whole = epoch(1, **arguments)
    assert [flat(shares) for shares in zip(*ranks, strict=True)] == whole


def test_a_batch_that_can_be_is_shared_equally():
    shares = [epoch(0, batch_size=12, rank=rank, world_size=3) for rank in range(3)]
    assert {len(batch) for share in shares for batch in share} == {4}


# --- length -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "images", "rounded"), [(4, 10, 12), (4, 12, 12), (4, None, 24), (64, 10, 64)]
)
def test_images_are_rounded_up_to_whole_batches(batch_size, images, rounded):
    short = loader(batch_size=batch_size, images=images)
    assert (short.images, len(short)) == (rounded, rounded // batch_size)
    assert [len(batch) for batch in short] == [batch_size] * (rounded // batch_size)


@pytest.mark.parametrize("number", [0, 1, 5])
def test_an_exact_pass_meets_each_sample_once_and_ends_short(number):
    batches = epoch(number, batch_size=5, images=1000, exact=True)
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    assert sorted(flat(batches)) == list(range(N))
    assert len(loader(batch_size=5, images=1000, exact=True)) == 5


# --- labels -------------------------------------------------------------------------------------


def test_labels_stay_with_their_samples():
    for batch in loader():
        assert batch.labels.tolist() == places(batch)


def test_labels_are_dropped_unless_every_part_has_them():
    mixed = list(MixLoader(parts(labelled=(True, False, True)), 4, None, ADDRESS))
    assert all(batch.labels is None for batch in mixed)
    assert flat(map(places, mixed)) == stream(1)


# --- from a mix ---------------------------------------------------------------------------------


class Numbered(Source):
    name = "numbered"

    def load(self, cache):
        return RealSet(numbered(0, 100), None, 100)


@pytest.fixture
def data(tmp_path):
    module = GenerationDataModule(Numbered(), batch_size=4, n_reference=20, cache=str(tmp_path))
    module.open(seed=5)
    return module


@pytest.fixture
def shards(tmp_path):
    """Generation t holds the places from 1000 t on."""
    written = {t: Shard(tmp_path / f"generation_{t:03d}") for t in (1, 2)}
    for t, shard in written.items():
        manifest = ShardManifest("synthetic", t, 1.0, (5, t, "sample"), {}, "", 0, {})
        shard.write(numbered(1000 * t, 30), manifest)
    return written


def fed(module):
    return [places(part) for part in module.parts]


def test_a_mix_is_exactly_the_samples_it_names(data, shards):
    mix = Mix(
        3,
        (
            Part("real", 0, 10),
            Part("fresh", 10, 4),
            Part("synthetic", 2, 6, 1),
            Part("synthetic", 25, 5, 2),
        ),
    )
    data.feed(mix, shards)
    order = places(data.real.read(0, 80))
    assert fed(data) == [
        order[:10],
        order[10:14],
        [1002, 1003, 1004, 1005, 1006, 1007],
        [2025, 2026, 2027, 2028, 2029],
    ]


def test_batches_hold_the_mix_and_never_the_reference(data, shards):
    policy = FreshData(n_initial=60, n_fresh=20, n_synthetic=30)
    reference = set(places(data.real.reference))
    for t in (1, 2):
        data.feed(policy.mix(t), shards, exact=True)
        found = flat(map(places, data.loader()))
        assert sorted(found) == sorted(flat(fed(data)))
        assert not set(found) & reference


def test_the_order_is_addressed_by_seed_and_generation(data, shards):
    data.feed(FreshData(60, 20, 30).mix(2), shards)
    whole = torch.tensor(flat(fed(data)))
    first = places(next(iter(data.loader())))
    assert first == whole[permutation(50, 5, 2, "order", 0)[:4]].tolist()


def test_batches_follow_rank_and_epoch_of_the_trainer(data, shards):
    data.feed(FreshData(60, 20, 30).mix(2), shards)
    data.trainer = SimpleNamespace(global_rank=1, world_size=2, current_epoch=0)
    found = data.train_dataloader()
    for number in (0, 3):
        data.trainer.current_epoch = number
        whole = [places(batch) for batch in data.loader(epoch=lambda number=number: number)]
        assert [places(batch) for batch in found] == [batch[2:] for batch in whole]


def test_synthetic_samples_stay_in_their_file(data, shards):
    data.feed(Mix(2, (Part("synthetic", 2, 6, 1),)), shards)
    assert data.parts[0].values.data_ptr() == shards[1].samples.values[2:].data_ptr()


@pytest.mark.parametrize(
    "part", [Part("synthetic", 0, 31, 1), Part("synthetic", 29, 2, 2), Part("fresh", 75, 6)]
)
def test_too_few_samples_are_an_error_that_names_the_part(data, shards, part):
    with pytest.raises(OSError, match=rf"count={part.count}.* holds only [1-9]"):
        data.feed(Mix(3, (part,)), shards)


def test_a_damaged_shard_is_an_error(data, shards):
    save_tensors(shards[1].directory / "shard.safetensors", numbered(0, 30).tensors())
    with pytest.raises(OSError, match="manifest"):
        data.feed(Mix(2, (Part("synthetic", 0, 30, 1),)), shards)


@pytest.mark.parametrize("field", ["batch_size", "images_per_epoch"])
def test_an_empty_batch_or_epoch_is_refused(field):
    with pytest.raises(Refused) as caught:
        GenerationDataModule(Numbered(), **{field: 0})
    assert caught.value.field == f"data.{field}"
