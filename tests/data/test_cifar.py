"""CIFAR-10 in each way that it is handed out, made up in small."""

import io
import pickle
import tarfile

import numpy as np
import pytest
import torch

from mad_lightning.data.cifar import CIFAR10
from mad_lightning.refusal import Refused
from mad_lightning.samples import SampleSpec

NAMES = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 2, 3, 32, 32), dtype=np.uint8)
LABELS = RNG.integers(0, 10, (6, 2)).tolist()


def python_batch(images, labels, like=str.encode):
    """As the archive's own batches are: written by Python 2, whose texts are read as bytes."""
    batch = {"data": images.reshape(len(images), -1), "labels": labels, "batch_label": b"1 of 5"}
    return pickle.dumps({like(key): value for key, value in batch.items()}, protocol=2)


def binary_batch(images, labels):
    rows = np.concatenate([np.uint8(labels)[:, None], images.reshape(len(images), -1)], axis=1)
    return rows.tobytes()


def batches(kind):
    make, end = (python_batch, "") if kind == "py" else (binary_batch, ".bin")
    parts = zip(NAMES, IMAGES, LABELS, strict=True)
    return {f"cifar-10-batches-{kind}/{name}{end}": make(x, y) for name, x, y in parts}


def unpacked(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def packed(root, files, kind):
    name = {"py": "cifar-10-python.tar.gz", "bin": "cifar-10-binary.tar.gz"}[kind]
    with tarfile.open(root / name, "w:gz") as archive:
        for inner, content in files.items():
            member = tarfile.TarInfo(inner)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return root / name


@pytest.mark.parametrize("kind", ["py", "bin"])
@pytest.mark.parametrize("is_packed", [True, False])
def test_it_is_read_as_it_is_handed_out(tmp_path, kind, is_packed):
    files = batches(kind)
    packed(tmp_path, files, kind) if is_packed else unpacked(tmp_path, files)
    real = CIFAR10(str(tmp_path)).load(tmp_path)
    assert np.array_equal(real.samples.values, IMAGES[:5].reshape(10, 3, 32, 32))
    assert np.array_equal(real.held_out.values, IMAGES[5])
    assert real.samples.labels.tolist() == [label for batch in LABELS[:5] for label in batch]
    assert real.held_out.labels.tolist() == LABELS[5]
    assert real.samples.labels.dtype == torch.int64
    assert real.spec == SampleSpec((3, 32, 32), 10)
    plain = CIFAR10(str(tmp_path), labels=False).load(tmp_path)
    assert plain.samples.labels is None
    assert plain.classes is None


def test_torchvision_reads_the_same(tmp_path, monkeypatch):
    from torchvision import datasets

    for name, images, labels in zip(NAMES, IMAGES, LABELS, strict=True):
        content = python_batch(images, labels, like=str)  # which torchvision reads as text
        unpacked(tmp_path, {f"cifar-10-batches-py/{name}": content})
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(datasets.CIFAR10, "_load_meta", lambda self: None)
    theirs = datasets.CIFAR10(str(tmp_path), train=True)
    ours = CIFAR10(str(tmp_path)).load(tmp_path).samples
    assert np.array_equal(ours.values.permute(0, 2, 3, 1), theirs.data)
    assert ours.labels.tolist() == theirs.targets


def refusal(root):
    with pytest.raises(Refused) as caught:
        CIFAR10(str(root)).load(root)
    assert caught.value.field == "root"
    return str(caught.value)


def test_what_is_not_there_is_named(tmp_path):
    told = refusal(tmp_path)
    for word in ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz", "download", str(tmp_path)):
        assert word in told
    files = batches("bin")
    files.pop("cifar-10-batches-bin/data_batch_3.bin")
    path = packed(tmp_path, files, "bin")
    assert "has no data_batch_3.bin" in refusal(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    assert str(path) in refusal(tmp_path)


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps({b"data": Evil(), b"labels": []}), "it asks for builtins.print"),
        (pickle.dumps({b"data": IMAGES[0]}), "no labels in it"),
        (pickle.dumps([1]), "damaged"),
        (pickle.dumps({b"data": IMAGES[0].reshape(2, -1), b"labels": [1]}), "of shape (1, 3072)"),
        (pickle.dumps({b"data": IMAGES[0].reshape(2, -1), b"labels": [1, 10]}), "0 to 9"),
        (python_batch(IMAGES[0], LABELS[0])[:-9], "damaged"),
        (b"", "damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pickles_hold_arrays_or_are_refused(tmp_path, capsys, content, words):
    unpacked(tmp_path, batches("py") | {"cifar-10-batches-py/data_batch_2": content})
    told = refusal(tmp_path)
    assert "data_batch_2" in told
    assert words in told
    assert capsys.readouterr().out == "", "nothing in it was run"


def test_a_binary_batch_that_was_cut_short_is_refused(tmp_path):
    unpacked(tmp_path, batches("bin") | {"cifar-10-batches-bin/test_batch.bin": b"x" * 3072})
    assert "3072 bytes are no records of 3073" in refusal(tmp_path)
