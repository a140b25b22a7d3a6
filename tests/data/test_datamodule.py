"""A mix becomes batches: every sample its turn, whatever the devices, wherever one resumes."""

import sys
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from mad_lightning.data.ahead import ahead
from mad_lightning.data.datamodule import GenerationDataModule, MixLoader
from mad_lightning.data.laws import StandardNormal
from mad_lightning.data.shards import Shard, ShardManifest, load_tensors, save_tensors
from mad_lightning.data.sources import Digits, Images, RealSet, Source
from mad_lightning.policies import FreshData, Mix, Part
from mad_lightning.refusal import Refused
from mad_lightning.samples import Parts, Samples, SampleSpec, to_floats
from mad_lightning.seeds import permutation

SIZES = (7, 5, 11)
N = sum(SIZES)
ADDRESS = (0, 1, "order")


@pytest.fixture
def anonymous():
    """Tells the memory of this process that no file backs, in MiB."""

    def told():
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Anonymous")).split()[1]) / 1024

    return told


def numbered(start, count, labelled=True):
    """Vectors that are their own place, with the place as label."""
    places = torch.arange(start, start + count)
    return Samples(places[:, None].float(), places if labelled else None)


def stand_in(**attributes):
    """What of a Trainer is asked."""
    usual = {
        "global_rank": 0,
        "world_size": 1,
        "current_epoch": 0,
        "max_steps": -1,
        "limit_train_batches": 1.0,
        "lightning_module": None,
    }
    return SimpleNamespace(**usual | attributes)


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


@pytest.mark.parametrize("bytes_joined", [0, 60, 2**20])
def test_labels_stay_with_their_samples(monkeypatch, bytes_joined):
    monkeypatch.setattr("mad_lightning.data.datamodule._SMALL", bytes_joined)
    whole = loader()
    assert len(whole.parts) == {0: 3, 60: 2, 2**20: 1}[bytes_joined]
    batches = list(whole)
    assert all(batch.labels.tolist() == places(batch) for batch in batches)
    assert flat(map(places, batches))[:N] == whole.order(0).tolist()


def test_a_batch_touches_only_the_parts_that_it_draws_from(monkeypatch):
    monkeypatch.setattr("mad_lightning.data.datamodule._SMALL", 0)
    touched = []

    class Watched(Samples):
        def __getitem__(self, index):
            touched.append(int(self.values[0]))
            return super().__getitem__(index)

    watched = [Watched(part.values, part.labels) for part in parts()]
    batch = MixLoader(watched, 4, None, ADDRESS).gather(torch.tensor([20, 1, 22, 6]))
    assert places(batch) == [20, 1, 22, 6]
    assert touched == [0, 12]


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
    return GenerationDataModule(Numbered(), batch_size=4, n_reference=20, cache=str(tmp_path))


@pytest.fixture
def shards(tmp_path):
    """Generation t drew the places from 1000 t on; a treatment kept every second of them."""
    written = {}
    for t in (1, 2):
        for name, step in ((f"{t:03d}", 1), (f"{t:03d}.kept", 2)):
            written[name] = Shard(tmp_path / name)
            manifest = ShardManifest("synthetic", t, 1.0, (5, t, "sample"), {}, "", 0, {})
            drawn = numbered(1000 * t, 30)
            written[name].write(drawn[torch.arange(0, 30, step)], manifest)
    return written


def fed(module):
    return places(module.training_set())


def test_a_mix_is_exactly_the_samples_it_names(data, shards):
    mix = Mix(
        3,
        (
            Part("real", None, 0, 10),
            Part("fresh", None, 10, 4),
            Part("synthetic", "001", 2, 6),
            Part("synthetic", "002", 25, 5),
            Part("synthetic", "002.kept", 12, 3),
        ),
    )
    assert fed(data.feed(mix, 5, shards)) == [
        *places(data.real(5).read(0, 14)),
        *(1002, 1003, 1004, 1005, 1006, 1007),
        *(2025, 2026, 2027, 2028, 2029),
        *(2024, 2026, 2028),
    ]


def test_feeding_makes_another_module_and_leaves_this_one(data, shards):
    policy = FreshData(n_initial=60, n_fresh=20, n_synthetic=30)
    first, second = data.feed(policy.mix(1), 5), data.feed(policy.mix(2), 5, shards)
    assert len({id(module) for module in (data, first, second)}) == 3
    assert [len(fed(module)) for module in (data, first, second)] == [80, 60, 50]
    assert first.real(5) is second.real(5) is data.real(5)


def test_batches_hold_the_mix_and_never_the_reference(data, shards):
    policy = FreshData(n_initial=60, n_fresh=20, n_synthetic=30)
    reference = set(places(data.real(5).reference))
    for t in (1, 2):
        module = data.feed(policy.mix(t), 5, shards, exact=True)
        found = flat(map(places, module.loader()))
        assert sorted(found) == sorted(fed(module))
        assert not set(found) & reference


def test_the_order_is_addressed_by_seed_and_generation(data, shards):
    module = data.feed(FreshData(60, 20, 30).mix(2), 5, shards)
    whole = torch.tensor(fed(module))
    first = places(next(iter(module.loader())))
    assert first == whole[permutation(50, 5, 2, "order", 0)[:4]].tolist()


def test_batches_follow_rank_and_epoch_of_the_trainer(data, shards):
    module = data.feed(FreshData(60, 20, 30).mix(2), 5, shards)
    module.trainer = stand_in(global_rank=1, world_size=2)
    found = module.train_dataloader()
    for number in (0, 3):
        module.trainer.current_epoch = number
        whole = [places(batch) for batch in module.loader(epoch=lambda number=number: number)]
        assert [places(batch) for batch in found] == [batch[2:] for batch in whole]


@pytest.mark.parametrize("is_ahead", [False, True])
def test_the_epoch_is_that_of_the_first_batch(is_ahead, monkeypatch):
    """Lightning begins to iterate before it restores the epoch that a training had reached."""
    monkeypatch.setattr(ahead, "__defaults__", (lambda samples: samples,))  # no pinned memory here
    now = [0]
    found = loader(batch_size=6, images=30, epoch=lambda: now[0])
    found.is_ahead = is_ahead
    begun = iter(found)
    now[0] = 3
    expected = loader(batch_size=6, images=30, epoch=lambda: 3)
    assert [places(batch) for batch in begun] == [places(batch) for batch in expected]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("at_once", [2, 3, 100])
def test_batches_at_once_are_the_same_batches(rank, at_once):
    arguments = {"batch_size": 6, "images": 80, "rank": rank, "world_size": 2}
    for number in (0, 2):
        arguments["epoch"] = lambda number=number: number
        one_by_one, together = loader(**arguments), loader(**arguments, at_once=at_once)
        groups = list(together)
        assert len(together) == len(groups) == -(-14 // at_once)
        assert [group.first for group in groups] == list(
            range(14 * number, 14 * number + 14, at_once)
        )
        apart = [batch for group in groups for batch in group.to("cpu").apart()]
        assert [places(batch) for batch in apart] == [places(batch) for batch in one_by_one]
        assert {group.size for group in groups} == {3}


@pytest.mark.parametrize(
    ("counted", "expected"),
    [
        ({}, 3),
        ({"max_steps": 5}, 1),
        ({"limit_train_batches": 1}, 1),
        ({"limit_train_batches": 0.5}, 1),
    ],
)
def test_a_generator_gets_batches_at_once_unless_the_trainer_counts_them(data, counted, expected):
    data.trainer = stand_in(
        lightning_module=SimpleNamespace(batches_at_once=3), world_size=2, **counted
    )
    assert data.train_dataloader().at_once == expected
    assert data.loader().at_once == 1


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("at_once", [2, 5, 100])
def test_the_short_last_batch_of_an_exact_pass_comes_with_the_others(rank, at_once):
    arguments = {"batch_size": 11, "exact": True, "rank": rank, "world_size": 2}
    one_by_one = [places(batch) for batch in loader(**arguments)]
    groups = list(loader(**arguments, at_once=at_once))
    assert [len(batch) for batch in one_by_one] == ([6, 6, 1] if rank == 0 else [5, 5, 0])
    apart = [places(batch) for group in groups for batch in group.apart()]
    assert apart == [batch for batch in one_by_one if batch]


def test_synthetic_samples_stay_in_their_file(data, shards):
    module = data.feed(Mix(2, (Part("synthetic", "001", 2, 6),)), 5, shards)
    (part,) = module.loader().parts
    assert part.values.data_ptr() == shards["001"].samples.values[2:].data_ptr()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_neither_writing_nor_feeding_copies_a_mapped_set_into_memory(tmp_path, anonymous):
    save_tensors(
        tmp_path / "block.safetensors",
        {"values": torch.randint(256, (2700, 3, 64, 64), dtype=torch.uint8)},
    )
    block = Samples(**load_tensors(tmp_path / "block.safetensors")[0])  # 32 MiB
    spec = SampleSpec((3, 64, 64)).to_dict()
    shard = Shard(tmp_path / "001")
    before = anonymous()
    shard.write(Parts([block, block]), ShardManifest("synthetic", 1, 1.0, (0,), {}, "", 0, spec))
    assert anonymous() - before < 12

    class Mapped(Source):
        name = "mapped"

        def load(self, cache):
            return RealSet(block, None, None)

    module = GenerationDataModule(Mapped(), n_reference=2, cache=str(tmp_path))
    mix = Mix(2, (Part("real", None, 0, 2698), Part("synthetic", "001", 100, 5000)))
    module.real(0).read(0, 1)
    before = anonymous()
    for _ in range(2):
        fed = module.feed(mix, 0, {"001": shard})
        for batch, _ in zip(fed.loader(), range(3), strict=False):
            assert len(batch) == 64
        assert len(fed.training_set()) == 7698
        assert anonymous() - before < 12


@pytest.mark.parametrize(
    "part",
    [
        Part("synthetic", "001", 0, 31),
        Part("synthetic", "002", 29, 2),
        Part("synthetic", "002.kept", 0, 16),
        Part("fresh", None, 75, 6),
    ],
)
def test_too_few_samples_are_an_error_that_names_the_part(data, shards, part):
    with pytest.raises(OSError, match=rf"count={part.count}.* holds only [1-9]"):
        data.feed(Mix(3, (part,)), 5, shards)


def test_a_damaged_shard_is_an_error(data, shards):
    path = shards["001"].values_file
    save_tensors(path, numbered(0, 30).tensors())
    read_anew = {"001": Shard(path.with_suffix(""))}
    with pytest.raises(OSError, match="manifest"):
        data.feed(Mix(2, (Part("synthetic", "001", 0, 30),)), 5, read_anew)


@pytest.mark.parametrize("field", ["batch_size", "images_per_epoch", "n_reference"])
def test_an_empty_batch_epoch_or_reference_is_refused(field):
    with pytest.raises(Refused) as caught:
        GenerationDataModule(Numbered(), **{field: 0})
    assert caught.value.field == field


def test_what_its_source_refuses_is_told_as_the_sources(tmp_path):
    data = GenerationDataModule(Images(str(tmp_path / "nowhere")), cache=str(tmp_path))
    with pytest.raises(Refused) as caught:
        data.real()
    assert caught.value.field == "source.root"


# --- by itself ----------------------------------------------------------------------------------


def test_before_it_is_fed_it_is_generation_1_on_the_whole_pool(data):
    mix = Mix(1, (Part("real", None, 0, 80),))
    like = data.feed(mix, 0, exact=True)
    assert fed(data) == fed(like) == places(data.real().read(0, 80))
    for module in (data, like):
        module.trainer = stand_in(current_epoch=2)
    batches = [[places(batch) for batch in module.train_dataloader()] for module in (data, like)]
    assert batches[0] == batches[1]
    assert sorted(flat(batches[0])) == sorted(fed(data))


def test_without_a_trainer_its_batches_are_those_of_the_first_epoch(data):
    assert flat(map(places, data.train_dataloader())) == flat(map(places, data.loader()))


def test_by_itself_its_batches_are_equal_on_several_processes(tmp_path):
    data = GenerationDataModule(Numbered(), batch_size=6, n_reference=20, cache=str(tmp_path))
    shares = [[len(batch) for batch in data.loader(rank, 2)] for rank in (0, 1)]
    assert shares == [[3] * 14] * 2
    assert [len(batch) for batch in data.loader()] == [6] * 13 + [2]


@pytest.mark.parametrize("images_per_epoch", [None, 100])
def test_an_inexhaustible_pool_gives_as_many_as_the_reference_has(tmp_path, images_per_epoch):
    data = GenerationDataModule(StandardNormal(3), 16, images_per_epoch, 40, cache=str(tmp_path))
    assert torch.equal(data.training_set().values, data.real().read(0, 40).values)
    assert data.loader().images == (112 if images_per_epoch else 40)


class Mean(L.LightningModule):
    """Counts what it is shown."""

    def __init__(self):
        super().__init__()
        self.middle = torch.nn.Parameter(torch.zeros(64))
        self.seen = 0

    def training_step(self, batch, batch_idx):
        self.seen += len(batch)
        return (to_floats(batch.values).flatten(1) - self.middle).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=5.0)


def test_a_plain_trainer_trains_on_the_bare_module(tmp_path):
    data = GenerationDataModule(Digits(), n_reference=200, cache=str(tmp_path))
    module = Mean()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, datamodule=data)
    assert module.seen == 3 * 1597
    mean = to_floats(data.training_set().values).flatten(1).mean(dim=0)
    assert (module.middle - mean).abs().max() < 0.2
