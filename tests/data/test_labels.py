"""Classes are those that the user has; what is none is refused."""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mad_lightning.data.labels import numbered
from mad_lightning.data.pictures import Pictures
from mad_lightning.data.sources import Arrays, Images
from mad_lightning.refusal import Refused


def picture(shade=100, side=4):
    file = io.BytesIO()
    Image.new("L", (side, side), shade).save(file, "PNG")
    return file.getvalue()


def folder(root, *names):
    """Pictures of different shades; other files are empty."""
    for place, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(place % 256) if path.suffix == ".png" else b"")
    return root


def listed(root, labels):
    names = [f"{place}.png" for place in range(len(labels))]
    folder(root, *names)
    text = json.dumps({"labels": list(zip(names, labels, strict=True))})
    (root / "dataset.json").write_text(text)
    return root


def npz(tmp_path, labels, values=None):
    values = np.zeros((len(labels), 2), "f4") if values is None else values
    np.savez(tmp_path / "a.npz", x=values, y=labels)
    return Arrays(str(tmp_path / "a.npz"), labels="y")


GAPS = [
    ([0, 9, 0, 9], [0, 1, 0, 1], ("0", "9")),
    ([999_999, 0, 0], [1, 0, 0], ("0", "999999")),
    ([10**9, 5, 10**9], [1, 0, 1], ("5", "1000000000")),
    ([2, 1, 2, 3], [1, 0, 1, 2], ("1", "2", "3")),
    ([1, 0, 1], [1, 0, 1], ()),
]


@pytest.mark.parametrize(("given", "labels", "names"), GAPS)
@pytest.mark.parametrize("kind", ["json", "npz"])
def test_numbers_with_gaps_are_numbered_anew_and_keep_their_names(
    tmp_path, kind, given, labels, names
):
    source = npz(tmp_path, np.array(given))
    if kind == "json":
        source = Images(str(listed(tmp_path / "p", given)), labels=True)
    for _ in range(2):  # decoded, and then read again
        loaded = source.load(tmp_path / "cache")
        assert loaded.samples.labels.tolist() == labels
        assert loaded.class_names == names
        assert loaded.spec.classes == max(labels) + 1


def test_a_number_that_no_computer_word_holds_is_a_class_like_any_other(tmp_path):
    source = Images(str(listed(tmp_path / "p", [10**30, 3, 3])), labels=True)
    assert source.load(tmp_path / "cache").class_names == ("3", str(10**30))
    unsigned = np.array([2**64 - 1, 7, 7], dtype=np.uint64)
    assert npz(tmp_path, unsigned).load(tmp_path).samples.labels.tolist() == [1, 0, 0]


def test_folders_give_their_names(tmp_path):
    root = folder(tmp_path / "p", "cat/1.png", "dog/2.png", "cat/3.png")
    loaded = Images(str(root), labels=True).load(tmp_path / "cache")
    assert loaded.class_names == ("cat", "dog")
    assert loaded.samples.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("given", [[0, 0, 0], [7, 7], [10**9]])
@pytest.mark.parametrize("kind", ["json", "npz"])
def test_one_class_is_none(tmp_path, kind, given):
    source = npz(tmp_path, np.array(given))
    if kind == "json":
        source = Images(str(listed(tmp_path / "p", given)), labels=True)
    with pytest.raises(Refused, match="one class") as caught:
        source.load(tmp_path / "cache")
    assert caught.value.field == "labels"


def test_a_root_one_level_too_high_is_refused(tmp_path):
    root = folder(tmp_path / "p", "data/cat/1.png", "data/dog/2.png")
    with pytest.raises(Refused, match="one class"):
        Images(str(root), labels=True).load(tmp_path / "cache")


@pytest.mark.parametrize("n", [11, 100])
def test_a_class_for_each_sample_is_none(n, tmp_path):
    with pytest.raises(Refused, match="names of samples"):
        npz(tmp_path, np.arange(n) * 7).load(tmp_path)
    assert numbered([*range(n), *range(n)], range(n), "x").n == n


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (["train", "test"], "train"),
        (["train", "val"], "train"),
        (["training", "validation", "test"], "training"),
        (["Train", "Test"], "Train"),
        (["test", "val"], "test"),
        (["train", "test", "extra"], "train"),
        (["dev", "train"], "train"),
    ],
)
def test_parts_of_a_data_set_are_no_classes(tmp_path, names, first):
    root = folder(tmp_path / "p", *(f"{name}/{k}/1.png" for name in names for k in "ab"))
    with pytest.raises(Refused, match="parts of a data set") as caught:
        Images(str(root), labels=True).load(tmp_path / "cache")
    assert f"`root: {root / first}`" in caught.value.remedy
    assert Images(str(root)).load(tmp_path / "cache").spec.classes is None  # pictures all the same


def test_a_class_may_be_called_train(tmp_path):
    root = folder(tmp_path / "p", "train/1.png", "boat/1.png")
    assert Images(str(root), labels=True).load(tmp_path / "c").class_names == ("boat", "train")


# --- what lies there ------------------------------------------------------------------------------


def test_a_link_to_nothing_is_named(tmp_path):
    root = folder(tmp_path / "p", "1.png")
    (root / "2.png").symlink_to(".git/annex/objects/absent")
    with pytest.raises(Refused, match=r"2\.png is a link to nothing") as caught:
        Images(str(root)).load(tmp_path / "cache")
    assert caught.value.field == "root"


@pytest.mark.parametrize("root", ["a\0b", "x" * 300, "absent", "/dev/null", ""])
def test_a_root_that_is_no_place_is_refused(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused) as caught:
        Images(root).load(tmp_path / "cache")
    assert caught.value.field == "root"


def test_a_link_in_place_of_the_classes_is_named(tmp_path):
    root = folder(tmp_path / "p", "1.png", "2.png")
    (root / "dataset.json").symlink_to("absent")
    with pytest.raises(Refused, match=r"dataset\.json"):
        Images(str(root), labels=True).load(tmp_path / "cache")


def test_a_folder_that_cannot_be_looked_into_is_told_not_skipped(tmp_path, monkeypatch):
    root = folder(tmp_path / "p", "a/1.png", "b/2.png")
    scandir = os.scandir

    def closed(place="."):
        if Path(place).name == "b":
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(Refused, match="b cannot be looked into: Permission denied"):
        Images(str(root)).load(tmp_path / "cache")


def test_pictures_that_are_passed_over_are_counted(tmp_path):
    root = folder(tmp_path / "p", "1.png", "2.png", "3.png", "a.jfif", "b.JFIF", "c.jp2", "d.txt")
    with pytest.warns(UserWarning, match=r"holds 2 \.jfif, 1 \.jp2, which are not read, beside 3"):
        Images(str(root)).load(tmp_path / "cache")


def test_if_they_are_most_of_all_that_is_refused(tmp_path):
    root = folder(tmp_path / "p", "1.png", "a.jfif", "b.heic")
    with pytest.raises(Refused, match="which are not read") as caught:
        Images(str(root)).load(tmp_path / "cache")
    assert caught.value.field == "root"


def test_backslashes_in_a_zip_are_slashes(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("cat\\1.png", "dog\\2.png"):
            archive.writestr(zipfile.ZipInfo(name), picture())
    assert Pictures.at(str(tmp_path / "a.zip")).names == ["cat/1.png", "dog/2.png"]
    loaded = Images(str(tmp_path / "a.zip"), labels=True).load(tmp_path / "cache")
    assert loaded.class_names == ("cat", "dog")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for name in ("00\\1.png", "00\\2.png"):
            archive.writestr(zipfile.ZipInfo(name), picture())
        labels = {"labels": [["00\\1.png", 0], ["00\\2.png", 4]]}
        archive.writestr("dataset.json", json.dumps(labels))
    loaded = Images(str(tmp_path / "b.zip"), labels=True).load(tmp_path / "cache")
    assert loaded.class_names == ("0", "4")


NO_LISTS = [
    b"",
    b"{",
    b"[]",
    b"3",
    b'{"labels": 3}',
    b'{"labels": [1]}',
    b'{"labels": null}',
    b"\xff\xfe{",
    b"[" * 100_000,
    b'{"labels": [["1.png", true]]}',
    b'{"labels": [["1.png", -1]]}',
    b'{"labels": [["1.png", 1.0]]}',
    b'{"labels": [["1.png", "0"]]}',
    b'{"labels": [["2.png", 0]]}',
]


@pytest.mark.parametrize("content", NO_LISTS, ids=range(len(NO_LISTS)))
def test_a_list_of_classes_that_is_none_is_refused(tmp_path, content):
    root = folder(tmp_path / "p", "1.png")
    (root / "dataset.json").write_bytes(content)
    with pytest.raises(Refused, match=r"dataset\.json") as caught:
        Images(str(root), labels=True).load(tmp_path / "cache")
    assert caught.value.field == "labels"
    assert len(str(caught.value)) < 600


def header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 4000), }\n"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (10, 2), }\n"),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }\n"),
        header("{'descr': "),
        header("(("),
        header("{'descr': 'zz', 'fortran_order': False, 'shape': (2,), }\n"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 2), }\n"),
        b"\x93NUMPY\x09\x00",
        b"\x93NUMPY",
        b"PK\x03\x04",
        b"",
        b"text",
    ],
)
def test_a_file_that_is_no_array_is_refused(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(Refused) as caught:
        Arrays(str(tmp_path / "a.npy")).load(tmp_path)
    assert caught.value.field == "path"


@pytest.mark.parametrize(
    ("values", "field"),
    [
        (np.full((4, 2), np.nan, "f4"), "path"),
        (np.array([[0.0, np.inf], [1.0, 2.0]]), "path"),
        (np.array([[0.0, 1e39], [1.0, 2.0]]), "path"),
        (np.zeros((0, 2), "f4"), "path"),
        (np.zeros((3, 0), "f4"), "path"),
        (np.zeros((0, 3, 8, 8), "u1"), "path"),
        (np.zeros((2, 3), "i8"), "path"),
        (np.zeros((2, 3), complex), "path"),
        (np.zeros(5, "f4"), "path"),
        (np.zeros((2, 3), "M8[s]"), "path"),
        (np.array([["a", "b"]]), "path"),
    ],
)
def test_arrays_of_what_is_no_sample_are_refused(tmp_path, values, field):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(Refused) as caught:
        Arrays(str(tmp_path / "a.npy")).load(tmp_path)
    assert caught.value.field == field


def test_what_the_disk_cannot_hold_is_refused_with_the_numbers(tmp_path, monkeypatch):
    root = folder(tmp_path / "p", "1.png", "2.png")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 2 * 64**2 - 1}))
    with pytest.raises(Refused, match="2 decoded pictures of 64 x 64") as caught:
        Images(str(root), resolution=64).load(tmp_path / "cache")
    assert caught.value.field == "resolution"
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_labels_are_whole_numbers(tmp_path):
    loaded = npz(tmp_path, np.array([1, 0, 1], "u1")).load(tmp_path)
    assert loaded.samples.labels.dtype == torch.int64
