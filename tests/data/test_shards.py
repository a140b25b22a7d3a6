"""A block is computed once, a shard is what its manifest says, and nothing is half there."""

import json
import pickle
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors import SafetensorError

from mad_lightning.data import shards
from mad_lightning.data.shards import BlockLoader, Blocks, Shard, ShardManifest, save_tensors
from mad_lightning.samples import Samples, SampleSpec
from mad_lightning.seeds import sample_seeds


class Batch(NamedTuple):
    job: int
    rows: slice


# --- blocks -------------------------------------------------------------------------------------

SETS = {"wide": (23, 4), "narrow": (9, 9), "short": (3, 8)}  # rows in all, rows in a block


def process(directory):
    """One process's view of the work: three sets, in eight blocks."""
    blocks = {name: Blocks(directory / name, *size) for name, size in SETS.items()}
    return BlockLoader([(each, Batch) for each in blocks.values()])


def compute(loader, batch):
    loader.write(batch, torch.arange(batch.rows.start, batch.rows.stop)[:, None].float())
    return batch.job


def assert_whole(directory):
    for name, (n, block_size) in SETS.items():
        joined = Blocks(directory / name, n, block_size).join()["features"]
        assert torch.equal(joined.flatten(), torch.arange(n).float())


def together(loaders):
    """All list what is pending, then all work."""
    for rank, loader in enumerate(loaders):
        loader.share(rank, len(loaders))
    return [compute(loader, batch) for loader in loaders for batch in loader]


def one_after_the_other(loaders):
    """Each lists when those before it have finished."""
    done = []
    for rank, loader in enumerate(loaders):
        loader.share(rank, len(loaders))
        done += [compute(loader, batch) for batch in loader]
    return done


def staggered(loaders):
    """Each lists when those before it have done one block."""
    done, running = [], []
    for rank, loader in enumerate(loaders):
        loader.share(rank, len(loaders))
        running.append((loader, iter(loader)))
        done += [compute(loader, next(batches)) for loader, batches in running]
    return done + [compute(loader, batch) for loader, batches in running for batch in batches]


@pytest.mark.parametrize("work", [together, one_after_the_other, staggered])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_block_is_computed_exactly_once(tmp_path, world_size, work):
    done = work([process(tmp_path) for _ in range(world_size)])
    assert sorted(done) == list(range(8))
    assert_whole(tmp_path)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_only_pending_blocks_are_computed(tmp_path, world_size):
    killed = process(tmp_path)
    killed.share(0, 2)
    standing = [compute(killed, batch) for batch, _ in zip(killed, range(2), strict=False)]
    done = together([process(tmp_path) for _ in range(world_size)])
    assert sorted(standing + done) == list(range(8))
    assert_whole(tmp_path)


def test_the_work_is_shared_evenly(tmp_path):
    assert [process(tmp_path).share(rank, 3) for rank in range(3)] == [3, 3, 2]


def test_nothing_is_left_when_all_blocks_stand(tmp_path):
    together([process(tmp_path)])
    loader = process(tmp_path)
    assert loader.share(0, 1) == len(loader) == len(list(loader)) == 0


def test_samples_are_stored_with_and_without_labels(tmp_path):
    blocks = {name: Blocks(tmp_path / name, 4, 4) for name in ("labelled", "unlabelled")}
    loader = BlockLoader([(each, Batch) for each in blocks.values()])
    values, labels = torch.rand(4, 2), torch.arange(4)
    loader.write(Batch(0, slice(4)), Samples(values, labels))
    loader.write(Batch(1, slice(4)), Samples(values))
    assert blocks["labelled"].join().keys() == {"values", "labels"}
    assert blocks["unlabelled"].join().keys() == {"values"}


def test_a_half_written_temporary_is_invisible(tmp_path):
    directory = tmp_path / "wide"
    directory.mkdir()
    (directory / ".00000.safetensors.4711.tmp").write_bytes(b"half")
    assert 0 in together([process(tmp_path)])
    assert_whole(tmp_path)


def test_a_failure_while_writing_leaves_what_stood_before(tmp_path, monkeypatch):
    def broken(tensors, path):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    old, new = Blocks(tmp_path, 8, 4), {"features": torch.zeros(4, 1)}
    old.write(0, {"features": torch.ones(4, 1)})
    monkeypatch.setattr(shards, "save_file", broken)
    for index in (0, 1):
        with pytest.raises(OSError, match="no space"):
            old.write(index, new)
    assert not old.path(1).exists()
    assert shards.load_tensors(old.path(0))["features"].sum() == 4


@pytest.mark.parametrize(("owner", "step"), [(shards.os, "fsync"), (Path, "replace")])
def test_a_block_stands_only_when_it_was_flushed_and_renamed(tmp_path, monkeypatch, owner, step):
    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, step, killed)
    with pytest.raises(KeyboardInterrupt):
        together([process(tmp_path)])
    monkeypatch.undo()
    assert sorted(together([process(tmp_path)])) == list(range(8))


# --- shards -------------------------------------------------------------------------------------

SAMPLES = {
    "grey": Samples(torch.arange(5 * 12).reshape(5, 1, 3, 4).byte(), torch.arange(5)),
    "colour_unlabelled": Samples(torch.arange(5 * 36).reshape(5, 3, 3, 4).byte()),
    "vectors": Samples(torch.linspace(-3, 3, 20).reshape(5, 4)),
}


def provenance(samples):
    return ShardManifest(
        origin="synthetic",
        generation=3,
        sampling_bias=0.5,
        seeds=(11, 3, "sample"),
        sampler={"name": "ddpm", "steps": 50},
        generator="ab" * 32,
        count=0,
        spec=SampleSpec(tuple(samples.values.shape[1:]), 5).to_dict(),
    )


@pytest.fixture(params=SAMPLES)
def samples(request):
    return SAMPLES[request.param]


@pytest.fixture
def directory(samples, tmp_path):
    Shard(tmp_path / "g").write(samples, provenance(samples))
    return tmp_path / "g"


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class TestShard:
    def test_what_was_written_is_read(self, samples, directory):
        found = Shard(directory).samples
        assert found.values.dtype == samples.values.dtype
        assert torch.equal(found.values, samples.values)
        assert (found.labels is None) == (samples.labels is None)
        assert samples.labels is None or torch.equal(found.labels, samples.labels)

    def test_the_manifest_says_where_samples_come_from(self, samples, directory):
        shard = Shard(directory)
        found, wanted = shard.manifest, provenance(samples)
        assert (found.count, found.sha256) == (5, samples.digest())
        assert (found.origin, found.generation, found.sampling_bias) == ("synthetic", 3, 0.5)
        assert (found.sampler, found.generator) == (wanted.sampler, wanted.generator)
        assert shard.spec == SampleSpec(tuple(samples.values.shape[1:]), 5)
        assert torch.equal(sample_seeds(2, 1, *found.seeds), sample_seeds(2, 1, 11, 3, "sample"))

    def test_a_changed_value_is_noticed(self, samples, directory):
        values = samples.values.clone()
        values[2].view(-1)[1] += 1
        tensors = Samples(values, samples.labels).tensors()
        save_tensors(directory / "shard.safetensors", tensors)
        with pytest.raises(OSError, match="does not match its manifest"):
            _ = Shard(directory).samples

    def test_changed_labels_are_noticed(self, samples, directory):
        labels = torch.zeros(5, dtype=torch.int64)
        save_tensors(directory / "shard.safetensors", Samples(samples.values, labels).tensors())
        with pytest.raises(OSError, match="does not match its manifest"):
            _ = Shard(directory).samples

    def test_missing_rows_are_noticed(self, samples, directory):
        save_tensors(directory / "shard.safetensors", samples[:4].tensors())
        with pytest.raises(OSError, match="does not match its manifest"):
            _ = Shard(directory).samples

    def test_the_manifest_comes_last(self, samples, tmp_path, monkeypatch):
        def killed(path, content):
            raise KeyboardInterrupt

        monkeypatch.setattr(shards, "write_json", killed)
        shard = Shard(tmp_path)
        with pytest.raises(KeyboardInterrupt):
            shard.write(samples, provenance(samples))
        assert (tmp_path / "shard.safetensors").exists()
        assert not shard.exists
        monkeypatch.undo()
        shard.write(samples, provenance(samples))
        assert shard.exists

    def test_the_manifest_is_plain_json(self, directory):
        plain = json.loads((directory / "shard.json").read_text())
        assert plain["seeds"] == [11, 3, "sample"]

    @pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
    def test_samples_are_memory_mapped(self, directory):
        file = str(directory / "shard.safetensors")
        samples = Shard(directory).samples
        assert file in Path("/proc/self/maps").read_text()
        del samples
        assert file not in Path("/proc/self/maps").read_text()


def test_nothing_in_a_shard_is_unpickled(tmp_path):
    sprung = tmp_path / "sprung"
    samples = SAMPLES["grey"]
    Shard(tmp_path).write(samples, provenance(samples))
    for poison in (torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))):
        poison({"values": Trap(sprung)}, tmp_path / "shard.safetensors")
        with pytest.raises((OSError, SafetensorError)):
            _ = Shard(tmp_path).samples
        assert not sprung.exists()
    pickle.loads((tmp_path / "shard.safetensors").read_bytes())
    assert sprung.exists(), "the trap itself does not work"
