"""A checkpoint is whole, says what it was made of, and is not believed when it is spoilt."""

import io

import pytest
import torch

from mad_lightning.loop.checkpoints import SealedCheckpoints, read, stands
from mad_lightning.refusal import Refused

CONTENT = {"epoch": 3, "state_dict": {"weight": torch.arange(1000.0)}}


@pytest.fixture
def path(tmp_path):
    SealedCheckpoints("this").save_checkpoint(CONTENT, tmp_path / "train" / "last.ckpt")
    return tmp_path / "train" / "last.ckpt"


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_the_seal_does_not_depend_on_how_a_checkpoint_is_written(path, monkeypatch, size):
    whole = path.read_bytes()
    save = torch.save

    def in_pieces(content, file):
        save(content, room := io.BytesIO())
        written = room.getvalue()
        for start in range(0, len(written), size):
            file.write(written[start : start + size])

    monkeypatch.setattr(torch, "save", in_pieces)
    SealedCheckpoints("this").save_checkpoint(CONTENT, path)
    assert path.read_bytes() == whole


def test_it_appears_whole_wherever_temporary_files_lie(path, monkeypatch):
    """The old one stands until the new one does; nothing goes through another directory."""
    monkeypatch.setattr("tempfile.mkstemp", lambda *_, **__: pytest.fail("another directory"))
    SealedCheckpoints("this").save_checkpoint(CONTENT | {"epoch": 4}, path)
    assert read(path)["epoch"] == 4

    def cut_short(content, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", cut_short)
    with pytest.raises(OSError, match="no space"):
        SealedCheckpoints("this").save_checkpoint(CONTENT, path)
    assert read(path)["epoch"] == 4
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_anybody_who_knows_torch_can_read_it(path):
    checkpoint = torch.load(path, weights_only=True)
    assert torch.equal(checkpoint["state_dict"]["weight"], CONTENT["state_dict"]["weight"])
    assert checkpoint["made_of"] == "this"


def test_any_flipped_bit_or_missing_end_is_noticed(path):
    whole = path.read_bytes()
    end = len(whole) - 64 - len(b"sha256 ") - 2  # then: length of the seal, its sign, the digest
    for place in [*range(0, end, 97), *range(end - 20, len(whole))]:
        broken = bytearray(whole)
        broken[place] ^= 1 << place % 8
        path.write_bytes(bytes(broken))
        assert not stands(path, "this"), place
    for size in (0, 1, 70, len(whole) // 2, end - 1):
        path.write_bytes(whole[:size])
        assert not stands(path, "this"), size
    path.write_bytes(whole)
    assert stands(path, "this")


def test_one_that_was_made_of_something_else_is_refused_by_name(path):
    with pytest.raises(Refused) as caught:
        stands(path, "that")
    assert str(path) in caught.value.problem


def test_one_from_before_checkpoints_were_sealed_is_taken(path):
    torch.save(CONTENT, path)
    assert stands(path, "this")
    assert read(path)["epoch"] == 3


def test_what_is_no_checkpoint_is_none(tmp_path):
    assert not stands(tmp_path / "nowhere.ckpt", "this")
    for content in (b"", b"text", b"PK\x03\x04"):
        (tmp_path / "x.ckpt").write_bytes(content)
        assert not stands(tmp_path / "x.ckpt", "this")
    torch.save([1, 2], tmp_path / "x.ckpt")
    assert not stands(tmp_path / "x.ckpt", "this")
