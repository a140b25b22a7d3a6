"""A block is computed once, whoever is asked first, and nothing is half there."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from mad_lightning.data import shards
from mad_lightning.loop.blocks import BlockLoader, Blocks
from mad_lightning.samples import Samples


class Batch(NamedTuple):
    job: int
    rows: slice


SETS = {"wide": (23, 4), "narrow": (9, 9), "short": (3, 8)}  # rows in all, rows in a block


def process(directory):
    """One process's view of the work: three sets, in eight blocks."""
    blocks = {name: Blocks(directory / name, *size) for name, size in SETS.items()}
    return BlockLoader(dict.fromkeys(blocks.values(), Batch))


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
    loader = BlockLoader(dict.fromkeys(blocks.values(), Batch))
    values, labels = torch.rand(4, 2), torch.arange(4)
    loader.write(Batch(0, slice(4)), Samples(values, labels))
    loader.write(Batch(1, slice(4)), Samples(values))
    assert blocks["labelled"].join().keys() == {"values", "labels"}
    assert blocks["unlabelled"].join().keys() == {"values"}


@pytest.mark.parametrize("block_size", [4, 23])
def test_mapped_rows_are_the_joined_ones_and_leave_no_file(tmp_path, block_size):
    blocks = Blocks(tmp_path, 23, block_size)
    for index in range(len(blocks)):
        rows = torch.arange(23.0)[blocks.rows(index)]
        blocks.write(index, {"features": torch.stack([rows, -rows], dim=1)})
    before = sorted(tmp_path.iterdir())
    mapped = blocks.mapped("features")
    assert torch.equal(mapped, blocks.join()["features"])
    assert sorted(tmp_path.iterdir()) == before


def test_a_half_written_temporary_is_invisible(tmp_path):
    directory = tmp_path / "wide"
    directory.mkdir()
    (directory / ".00000.safetensors.4711.tmp").write_bytes(b"half")
    assert 0 in together([process(tmp_path)])
    assert_whole(tmp_path)


@pytest.mark.parametrize("spoil", [lambda whole: whole[:-3], "flip"])
def test_a_block_that_is_damaged_is_pending_again(tmp_path, spoil):
    assert len(together([process(tmp_path)])) == 8
    path = tmp_path / "wide" / "00003.safetensors"
    whole = path.read_bytes()
    for place in range(0, len(whole), 1 if spoil == "flip" else len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 1 << place % 8
        path.write_bytes(bytes(broken) if spoil == "flip" else spoil(whole))
        with pytest.raises(OSError, match=r"00003\.safetensors is damaged"):
            assert_whole(tmp_path)
        assert process(tmp_path).share(0, 1) == 1
    assert together([process(tmp_path)]) == [3]
    assert_whole(tmp_path)


def test_a_failure_while_writing_leaves_what_stood_before(tmp_path, monkeypatch):
    def broken(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    old, new = Blocks(tmp_path, 8, 4), {"features": torch.zeros(4, 1)}
    old.write(0, {"features": torch.ones(4, 1)})
    monkeypatch.setattr(shards, "save_file", broken)
    for index in (0, 1):
        with pytest.raises(OSError, match="no space"):
            old.write(index, new)
    assert not old.path(1).exists()
    assert old.read(0)["features"].sum() == 4


def test_a_block_stands_only_when_it_was_renamed(tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        together([process(tmp_path)])
    monkeypatch.undo()
    assert sorted(together([process(tmp_path)])) == list(range(8))


@pytest.mark.parametrize("size", [0, 7, -1])
def test_a_block_that_a_power_cut_has_torn_is_made_again(tmp_path, size):
    """It was renamed before its content had reached the disk."""
    together([process(tmp_path)])
    torn = tmp_path / "wide" / "00002.safetensors"
    torn.write_bytes(torn.read_bytes()[:size])
    assert len(together([process(tmp_path)])) == 1
    assert_whole(tmp_path)


def test_a_set_of_one_block_that_is_joined_next_is_not_written(tmp_path):
    rows = {"features": torch.arange(9.0)}
    blocks = Blocks(tmp_path / "one", 9, 9, passing=True)
    assert not blocks.stands(0)
    blocks.write(0, rows)
    assert blocks.stands(0)
    assert torch.equal(blocks.join()["features"], rows["features"])
    assert not any(tmp_path.iterdir())
    for n, passing in ((9, False), (10, True)):  # others read it; a kill would cost more than one
        kept = Blocks(tmp_path / f"{n}", n, 9, passing)
        kept.write(0, rows)
        assert kept.path(0).exists()


@pytest.mark.parametrize("at_once", [1, 3, 4, 50])
def test_a_block_that_is_computed_in_parts_is_stored_when_all_are_there(tmp_path, at_once):
    loader = process(tmp_path)
    loader.at_once = at_once
    assert loader.share(0, 1) == len(list(loader)) >= 8
    batches = list(loader)
    assert max(batch.rows.stop - batch.rows.start for batch in batches) <= at_once
    for batch in batches[:-1]:
        compute(loader, batch)
    last = Blocks(tmp_path / "short", *SETS["short"])
    assert not last.stands(0)
    compute(loader, batches[-1])
    assert_whole(tmp_path)
