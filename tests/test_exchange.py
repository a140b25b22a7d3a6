"""What is written for other programs is read back as the same samples and classes."""

import json
import zipfile

import numpy as np
import pytest
import torch
from torchvision.datasets import ImageFolder

from mad_lightning.data import Arrays, Images
from mad_lightning.exchange import write_archive, write_arrays, write_folder
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples


def samples(channels, labelled=True, n=23):
    draw = torch.Generator().manual_seed(channels)
    values = torch.randint(256, (n, channels, 6, 6), generator=draw, dtype=torch.uint8)
    return Samples(values, torch.arange(n) * 7 % 11 if labelled else None)  # classes 0 to 10


def by_content(samples):
    """Pixels and class of each sample, in an order that files cannot change."""
    labels = [None] * len(samples) if samples.labels is None else samples.labels.tolist()
    pixels = (value.numpy().tobytes() for value in samples.values)
    return sorted(zip(pixels, labels, strict=True))


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("write", [write_folder, write_archive])
def test_pictures_come_back(write, channels, labelled, tmp_path):
    given = samples(channels, labelled)
    write(given, tmp_path / "out")
    if write is write_archive:
        assert zipfile.ZipFile(tmp_path / "out").testzip() is None
        (tmp_path / "out").rename(tmp_path / "out.zip")
    root = tmp_path / ("out.zip" if write is write_archive else "out")
    read = Images(str(root), labels=labelled).load(tmp_path / "cache")
    assert by_content(read.samples) == by_content(given)


def test_torchvision_reads_the_folder_and_finds_the_names(tmp_path):
    names = [f"kind {n}/{chr(122 - n)}" for n in range(11)]  # their own order is another
    write_folder(samples(3), tmp_path, names)
    read = ImageFolder(str(tmp_path))
    assert [name.split("_")[-1] for name in read.classes] == [name[-1] for name in names]
    first = samples(3).values[samples(3).labels == 4].permute(0, 2, 3, 1).numpy()
    seen = [np.asarray(image) for image, label in read if label == 4]
    assert np.array_equal(seen, first)


def test_archive_tells_classes_as_stylegan_does(tmp_path):
    write_archive(samples(1), tmp_path / "a.zip")
    told = json.loads(zipfile.ZipFile(tmp_path / "a.zip").read("dataset.json"))["labels"]
    assert told[:2] == [["00000/img00000000.png", 0], ["00000/img00000001.png", 7]]
    write_archive(samples(1, labelled=False), tmp_path / "b.zip")
    assert json.loads(zipfile.ZipFile(tmp_path / "b.zip").read("dataset.json"))["labels"] is None


@pytest.mark.parametrize("labelled", [True, False])
def test_arrays_come_back_bit_for_bit(labelled, tmp_path):
    vectors = Samples(torch.randn(23, 4), torch.arange(23) % 3 if labelled else None)
    for given in (samples(3, labelled), vectors):
        write_arrays(given, tmp_path / "a.npz")
        source = Arrays(str(tmp_path / "a.npz"), labels="labels" if labelled else None)
        read = source.load(tmp_path).samples
        assert torch.equal(read.values, given.values)
        assert not labelled or torch.equal(read.labels, given.labels)


@pytest.mark.parametrize("write", [write_folder, write_archive])
@pytest.mark.parametrize("shape", [(5, 4), (5, 2, 4, 4)])
def test_what_is_no_picture_is_refused(write, shape, tmp_path):
    with pytest.raises(Refused, match="npz"):
        write(Samples(torch.zeros(shape)), tmp_path / "out")
