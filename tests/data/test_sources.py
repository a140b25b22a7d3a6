"""Real data comes in whole, exact, in one order, and only when it is what it claims to be."""

import gzip
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mad_lightning import data
from mad_lightning.data import pictures, sources
from mad_lightning.data.sources import (
    MNIST,
    Arrays,
    Digits,
    FashionMNIST,
    Images,
    Photos,
    RealSet,
    Source,
)
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec

SHARED = Path(__file__).parents[3] / "shared" / "data"
ROOT = Path(__file__).parents[2]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def shared(name):
    if not (SHARED / name).exists():
        pytest.skip(f"needs {name} of the shared data folder, which is not here")
    return SHARED / name


def assert_refused(field, source, cache, *words):
    with pytest.raises(Refused) as caught:
        source.load(cache)
    assert caught.value.field == field
    for word in words:
        assert str(word) in str(caught.value)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


# --- idx files ----------------------------------------------------------------------------------


def write_idx(path, array, zipped=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    content = head + array.tobytes()
    if zipped:
        path, content = path.with_name(path.name + ".gz"), gzip.compress(content)
    path.write_bytes(content)


def write_mnist(folder, n=12, zipped=False, seed=0):
    for split, count in (("train", n), ("t10k", n // 2)):
        write_idx(folder / f"{split}-images-idx3-ubyte", noise(count, 28, 28, seed=seed), zipped)
        labels = np.arange(count, dtype=np.uint8) % 10
        write_idx(folder / f"{split}-labels-idx1-ubyte", labels, zipped)


# --- pictures -----------------------------------------------------------------------------------


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(path, options.pop("format", None), **options)
    return path


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Six colour pictures of 8 x 8 whose pixels are noise, two in each class."""
    for i in range(6):
        save(tmp_path / "pictures" / f"class{i // 2}" / f"img{i}.png", noise(8, 8, 3, seed=i))
    return tmp_path / "pictures"


def write_zip(path, n=4, size=8, **extra):
    with zipfile.ZipFile(path, "w") as archive:
        for i in reversed(range(n)):
            archive.writestr(f"00000/img{i:08d}.png", png(noise(size, size, 3, seed=i)))
        for name, content in extra.items():
            archive.writestr(name.replace("__", "."), content)
    return path


def stored(cache):
    return sorted(path.name for path in cache.glob("*") if path.suffix != ".lock")


# --- every source -------------------------------------------------------------------------------


@pytest.fixture(params=["digits", "mnist", "fashion_mnist", "folder", "zip", "images", "vectors"])
def source(request, tmp_path, folder):
    match request.param:
        case "digits":
            return Digits()
        case "mnist":
            write_mnist(tmp_path / "MNIST" / "raw")
            return MNIST(str(tmp_path))
        case "fashion_mnist":
            write_mnist(tmp_path / "FashionMNIST" / "raw", zipped=True)
            return FashionMNIST(str(tmp_path))
        case "folder":
            return Images(str(folder), resolution=5, labels=True)
        case "zip":
            return Images(str(write_zip(tmp_path / "a.zip")))
        case "images":
            np.savez(tmp_path / "a.npz", x=noise(4, 8, 8, 3), y=np.array([0, 1, 2, 1]))
            return Arrays(str(tmp_path / "a.npz"), values="x", labels="y")
        case "vectors":
            np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(5, 3)))
            return Arrays(str(tmp_path / "a.npy"))


def test_every_source_keeps_the_contract(source, tmp_path):
    real, again = source.load(tmp_path / "one"), source.load(tmp_path / "two")
    sets = [real.samples] if real.held_out is None else [real.samples, real.held_out]
    for samples in sets:
        assert isinstance(samples, Samples)
        assert len(samples) > 0
        assert samples.values.is_contiguous()
        assert samples.values.dtype == real.spec.dtype
        assert tuple(samples.values.shape[1:]) == real.spec.shape
        assert (samples.labels is None) == (real.classes is None)
        if samples.labels is not None:
            assert samples.labels.dtype == torch.int64
            assert samples.labels.shape == (len(samples),)
            assert samples.labels.min() >= 0
            assert samples.labels.max() < real.classes
    assert real.digest == again.digest, "the content alone decides, not the cache"
    assert torch.equal(real.samples.values, again.samples.values)
    assert type(source).name == type(source).name.lower()


def test_the_digest_is_of_the_content():
    samples = Samples(torch.arange(12.0).reshape(4, 3))
    real = RealSet(samples, None, None)
    assert real.digest == RealSet(samples, None, None, samples.digest()).digest
    others = [
        RealSet(Samples(samples.values + 1), None, None),
        RealSet(samples, samples, None),
        RealSet(samples, None, 3),
    ]
    assert len({real.digest, *(other.digest for other in others)}) == 4
    assert real.spec == SampleSpec((3,))


def test_sources_are_built_from_yaml_without_looking_at_the_disk(tmp_path):
    import jsonargparse

    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--source", type=Source)
    config = tmp_path / "config.yaml"
    config.write_text(
        "source: {class_path: Images, init_args: {root: nowhere, resolution: 64, channels: 3}}"
    )
    given = parser.parse_args([f"--config={config}", "--source.filter=box"])
    built = parser.instantiate_classes(given).source
    assert built.framing == pictures.Framing(64, 3, "box")
    for kind in (data.Digits, data.MNIST, data.FashionMNIST, data.CIFAR10):
        given = parser.parse_args([f"--source={kind.__name__}"])
        assert isinstance(parser.instantiate_classes(given).source, kind)


# --- data sets by name --------------------------------------------------------------------------


def test_digits_are_scikit_learns(cache):
    from sklearn.datasets import load_digits

    real, digits = Digits().load(cache), load_digits()
    assert real.spec == SampleSpec((1, 8, 8), 10)
    assert len(real.samples) == 1797
    assert real.held_out is None
    expected = [[round(v * 255 / 16) for v in image.ravel()] for image in digits.images]
    assert real.samples.values.flatten(1).tolist() == expected
    assert real.samples.labels.tolist() == digits.target.tolist()
    assert not cache.exists()


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_are_read_exactly(tmp_path, cache, zipped):
    write_mnist(tmp_path / "MNIST" / "raw", zipped=zipped)
    real = MNIST(str(tmp_path)).load(cache)
    assert real.samples.values.numpy().tobytes() == noise(12, 28, 28).tobytes()
    assert real.held_out.values.numpy().tobytes() == noise(6, 28, 28).tobytes()
    assert real.samples.labels.tolist() == [*range(10), 0, 1]
    assert real.spec == SampleSpec((1, 28, 28), 10)
    assert MNIST(str(tmp_path), labels=False).load(cache).spec == SampleSpec((1, 28, 28))


def test_mnist_is_what_torchvision_reads(cache):
    from torchvision import datasets

    root = shared("MNIST").parent
    real = MNIST(str(root)).load(cache)
    assert (len(real.samples), len(real.held_out)) == (8000, 2000)
    for samples, train in ((real.samples, True), (real.held_out, False)):
        theirs = datasets.MNIST(str(root), train=train)
        assert torch.equal(samples.values[:, 0], theirs.data)
        assert torch.equal(samples.labels, theirs.targets)


def test_fashion_mnist_falls_back_on_the_system(tmp_path, cache, monkeypatch):
    system, root = tmp_path / "system", tmp_path / "root"
    monkeypatch.setattr(FashionMNIST, "elsewhere", str(system))
    assert_refused("root", FashionMNIST(str(root)), cache, root / "FashionMNIST" / "raw", system)
    write_mnist(system, zipped=True, seed=1)
    here = FashionMNIST(str(root)).load(cache)
    assert here.samples.values.numpy().tobytes() == noise(12, 28, 28, seed=1).tobytes()
    write_mnist(root / "FashionMNIST" / "raw", seed=2)
    (root / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte").rename(root / "away")
    assert FashionMNIST(str(root)).load(cache).digest == here.digest, "folders are never mixed"
    (root / "away").rename(root / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte")
    assert FashionMNIST(str(root)).load(cache).digest != here.digest


def test_nothing_is_downloaded_unasked(tmp_path, cache, monkeypatch):
    asked = []

    def download(dataset, root):
        asked.append(dataset)
        write_mnist(root / dataset / "raw")

    monkeypatch.setattr(sources, "download", download)
    assert_refused(
        "root", MNIST(str(tmp_path)), cache, "MNIST/raw", "0 of the 4", "`download: true`"
    )
    assert asked == []
    assert len(MNIST(str(tmp_path), download=True).load(cache).samples) == 12
    MNIST(str(tmp_path), download=True).load(cache)
    assert asked == ["MNIST"], "and what is there is not fetched again"


def test_a_failed_download_is_refused(tmp_path, cache, monkeypatch):
    from torchvision import datasets

    def offline(root, download):
        raise RuntimeError("no route to host")

    monkeypatch.setattr(datasets, "MNIST", offline)
    assert_refused("download", MNIST(str(tmp_path), download=True), cache, "no route to host")


def test_damaged_idx_files_are_refused(tmp_path, cache):
    folder = tmp_path / "MNIST" / "raw"
    images, labels = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"
    write_mnist(folder)
    images.write_bytes(images.read_bytes()[:-1])
    assert_refused("root", MNIST(str(tmp_path)), cache, images)
    images.write_bytes(b"<html>not found</html>")
    assert_refused("root", MNIST(str(tmp_path)), cache, images)
    images.unlink()
    images.with_suffix(".gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    assert_refused("root", MNIST(str(tmp_path)), cache, images.with_suffix(".gz"))
    images.with_suffix(".gz").unlink()
    write_mnist(folder)
    write_idx(labels, np.zeros(11, dtype=np.uint8))
    assert_refused("root", MNIST(str(tmp_path)), cache, "12 images", "11 labels")
    write_idx(labels, np.full(12, 10, dtype=np.uint8))
    assert_refused("root", MNIST(str(tmp_path)), cache, "to 10")


# --- pictures: pixels ---------------------------------------------------------------------------


def test_stored_pixels_come_back_identical(folder, cache):
    real = Images(str(folder)).load(cache)
    expected = np.stack([noise(8, 8, 3, seed=i).transpose(2, 0, 1) for i in range(6)])
    assert np.array_equal(real.samples.values, expected)
    assert real.spec == SampleSpec((3, 8, 8))
    assert real.held_out is None
    native = Images(str(folder), resolution=8).load(cache)
    assert torch.equal(native.samples.values, real.samples.values), "the size it has: untouched"


@pytest.mark.parametrize("filter", ["lanczos", "box", "bilinear", "bicubic"])
@pytest.mark.parametrize(("width", "height"), [(20, 20), (33, 20), (20, 33), (5, 7)])
def test_pictures_are_cropped_to_the_centre_and_resized_by_pillow(
    tmp_path, cache, filter, width, height
):
    pixels = noise(height, width, 3)
    save(tmp_path / "x" / "a.png", pixels)
    side = min(width, height)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    expected = square.resize((8, 8), getattr(Image.Resampling, filter.upper()))
    found = Images(str(tmp_path / "x"), resolution=8, filter=filter).load(cache)
    assert np.array_equal(found.samples.values[0].permute(1, 2, 0), np.asarray(expected))


def test_pictures_of_a_single_pixel_are_none(tmp_path, cache):
    for number in range(3):
        Image.new("L", (1, 1), number).save(tmp_path / f"{number}.png")
    with pytest.raises(Refused, match="is a single pixel") as caught:
        Images(str(tmp_path)).load(cache)
    assert caught.value.field == "root"


def test_without_a_resolution_pictures_need_not_be_square(tmp_path, cache):
    save(tmp_path / "x" / "a.png", noise(8, 6, 3))
    assert Images(str(tmp_path / "x")).load(cache).spec.shape == (3, 8, 6)


GREY, COLOUR, ALPHA = noise(8, 8), noise(8, 8, 3), noise(8, 8)


def on_white(colour, alpha):
    weight = alpha.astype(float)[..., None] / 255
    return np.rint(colour.reshape(8, 8, -1) * weight + 255 * (1 - weight))


def palette():
    image = Image.new("P", (8, 8))
    image.putpalette(COLOUR.reshape(-1).tolist())
    image.putdata(range(64))
    return image


DEEP = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000


@pytest.mark.parametrize(
    ("name", "image", "options", "expected", "tolerance"),
    [
        ("grey.png", Image.fromarray(GREY), {}, GREY, 0),
        ("bits.png", Image.fromarray(GREY > 99), {}, np.where(GREY > 99, 255, 0), 0),
        ("deep.png", Image.fromarray(DEEP), {}, DEEP >> 8, 0),
        ("deep.pgm", Image.fromarray(DEEP), {"format": "PPM"}, DEEP >> 8, 0),
        ("deep.tif", Image.fromarray(DEEP), {}, DEEP >> 8, 0),
        ("rgba.png", np.dstack([COLOUR, ALPHA]), {}, on_white(COLOUR, ALPHA), 1),
        ("rgba.webp", np.dstack([COLOUR, ALPHA]), {"lossless": True, "exact": True},
         on_white(COLOUR, ALPHA), 1),
        ("la.png", np.dstack([GREY, ALPHA]), {}, on_white(GREY, ALPHA), 1),
        ("clear.png", np.dstack([COLOUR, np.zeros_like(ALPHA)]), {}, np.full((8, 8, 3), 255), 0),
        ("opaque.png", np.dstack([COLOUR, np.full_like(ALPHA, 255)]), {}, COLOUR, 0),
        ("palette.png", palette(), {}, COLOUR, 0),
        ("palette.gif", palette(), {}, COLOUR, 0),
        ("key.png", palette(), {"transparency": 0},
         np.where(np.arange(64).reshape(8, 8, 1) == 0, 255, COLOUR), 0),
        ("grey key.png", Image.fromarray(GREY), {"transparency": int(GREY[0, 0])},
         np.where(GREY[0, 0] == GREY, 255, GREY), 0),
        ("plain.bmp", COLOUR, {}, COLOUR, 0),
        ("SHOUTED.PNG", COLOUR, {}, COLOUR, 0),
        ("photo.JPeG", np.full((8, 8, 3), 77, np.uint8), {"format": "JPEG"},
         np.full((8, 8, 3), 77), 1),
        ("cmyk.jpg", Image.new("CMYK", (8, 8), (0, 0, 0, 0)), {}, np.full((8, 8, 3), 255), 1),
    ],
)  # fmt: skip
def test_pictures_of_any_mode(tmp_path, cache, name, image, options, expected, tolerance):
    save(tmp_path / "x" / name, image, **options)
    real = Images(str(tmp_path / "x")).load(cache)
    expected = np.asarray(expected, dtype=float).reshape(8, 8, -1)
    assert real.spec.shape == (expected.shape[-1], 8, 8)
    found = real.samples.values[0].permute(1, 2, 0).double().numpy()
    assert np.abs(found - expected).max() <= tolerance


def test_channels_are_made_as_asked(tmp_path, cache):
    save(tmp_path / "x" / "a.png", GREY)
    save(tmp_path / "x" / "b.png", COLOUR)
    assert_refused("channels", Images(str(tmp_path / "x")), cache, "1 grey", "a.png", "b.png")
    colour = Images(str(tmp_path / "x"), channels=3).load(cache).samples.values
    assert np.array_equal(colour[0], np.stack([GREY] * 3))
    assert np.array_equal(colour[1], COLOUR.transpose(2, 0, 1))
    grey = Images(str(tmp_path / "x"), channels=1).load(cache).samples.values
    assert np.array_equal(grey[0, 0], GREY)
    assert np.array_equal(grey[1, 0], np.asarray(Image.fromarray(COLOUR).convert("L")))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_photographs_stand_upright(tmp_path, cache, name):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees: the left edge is the top
    pixels = np.zeros((8, 16, 3), dtype=np.uint8)
    pixels[:, :8] = 255
    options = {"quality": 95} if name.endswith(("jpg", "webp")) else {}
    save(tmp_path / "x" / name, pixels, exif=exif, **options)
    found = Images(str(tmp_path / "x")).load(cache)
    assert found.spec.shape == (3, 16, 8)
    assert found.samples.values[0, :, :8].min() > 200
    assert found.samples.values[0, :, 8:].max() < 55


# --- pictures: which, and in what order ---------------------------------------------------------


def test_order_is_natural_and_depends_on_names_alone(tmp_path, cache):
    names = ["2/img10.png", "2/img9.png", "10/a.png", "2/deep/b.png", "z.png", "2/img9b.png"]
    order = ["2/deep/b.png", "2/img9.png", "2/img9b.png", "2/img10.png", "10/a.png", "z.png"]
    for copy, listed in (("one", names), ("two", names[::-1])):
        for name in listed:
            save(tmp_path / copy / name, noise(4, 4, seed=names.index(name)))
    for junk in (".hidden.png", "._img.png", ".git/c.png", "__MACOSX/d.png", "notes.txt"):
        (tmp_path / "two" / junk).parent.mkdir(exist_ok=True)
        (tmp_path / "two" / junk).write_bytes(b"not a picture")
    found = [Images(str(tmp_path / copy)).load(cache) for copy in ("one", "two")]
    assert found[0].digest == found[1].digest
    expected = np.stack([noise(4, 4, seed=names.index(name)) for name in order])
    assert np.array_equal(found[0].samples.values[:, 0], expected)


def test_links_to_folders_are_followed_but_not_in_circles(folder, tmp_path, cache):
    before = Images(str(folder), labels=True).load(cache)
    save(tmp_path / "elsewhere" / "x.png", noise(8, 8, 3))
    try:
        (folder / "class9").symlink_to(tmp_path / "elsewhere")
        (folder / "class0" / "up").symlink_to(folder)
    except OSError:
        pytest.skip("this file system has no symbolic links")
    after = Images(str(folder), labels=True).load(cache)
    assert (before.classes, after.classes) == (3, 4)
    assert len(after.samples) == len(before.samples) + 1


def test_folders_are_classes(folder, cache):
    real = Images(str(folder), labels=True).load(cache)
    assert real.samples.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert real.classes == 3
    save(folder / "loose.png", noise(8, 8, 3))
    assert_refused("labels", Images(str(folder), labels=True), cache, "loose.png", "dataset.json")
    assert len(Images(str(folder)).load(cache).samples) == 7


def test_a_zip_and_its_folder_are_the_same_set(tmp_path, cache):
    labels = [[f"00000/img{i:08d}.png", i % 3] for i in range(4)]
    archive = write_zip(tmp_path / "a.zip", dataset__json=json.dumps({"labels": labels}))
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "unpacked")
    for options in ({}, {"labels": True}, {"labels": True, "resolution": 5, "channels": 1}):
        zipped = Images(str(archive), **options).load(cache)
        unpacked = Images(str(tmp_path / "unpacked"), **options).load(cache)
        assert zipped.digest == unpacked.digest
        if options.get("labels"):
            assert zipped.samples.labels.tolist() == [0, 1, 2, 0]
            assert zipped.classes == 3
    assert np.array_equal(
        Images(str(archive)).load(cache).samples.values[3],
        noise(8, 8, 3, seed=3).transpose(2, 0, 1),
    )


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ('{"labels": null}', "no labels"),
        ("{}", "cannot be read"),
        ("not json", "cannot be read"),
        ('{"labels": [1, 2]}', "cannot be read"),
        ('{"labels": [["00000/img00000000.png", 0]]}', "img00000001.png no class"),
        (json.dumps({"labels": [[f"00000/img{i:08d}.png", -1] for i in range(4)]}), "-1"),
        (json.dumps({"labels": [[f"00000/img{i:08d}.png", 0.5] for i in range(4)]}), "0.5"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(tmp_path, cache, content, word):
    archive = write_zip(tmp_path / "a.zip", dataset__json=content)
    assert_refused("labels", Images(str(archive), labels=True), cache, "dataset.json", word)
    assert len(Images(str(archive)).load(cache).samples) == 4, "who does not ask, need not know"


def test_stylegans_chunks_are_not_taken_for_classes(tmp_path, cache):
    assert_refused(
        "labels", Images(str(write_zip(tmp_path / "a.zip")), labels=True), cache, "chunks"
    )


def test_real_emoji(cache):
    archive = shared("emoji64.zip")
    real = Images(str(archive)).load(cache)
    assert real.spec == SampleSpec((3, 64, 64))
    assert len(real.samples) == 3916
    with zipfile.ZipFile(archive) as opened:
        names = sorted(opened.namelist())
        for i in (0, 1234, 3915):
            with Image.open(opened.open(names[i])) as image:
                assert np.array_equal(real.samples.values[i].permute(1, 2, 0), np.asarray(image))


# --- pictures: refusals -------------------------------------------------------------------------


def test_places_without_pictures_are_refused(tmp_path, cache):
    assert_refused(
        "root", Images(str(tmp_path / "no")), cache, tmp_path / "no", "does not exist", "zip"
    )
    (tmp_path / "a.tar").write_bytes(b"tar")
    assert_refused("root", Images(str(tmp_path / "a.tar")), cache, "neither a folder nor a zip")
    (tmp_path / "empty").mkdir()
    assert_refused("root", Images(str(tmp_path / "empty")), cache, "no pictures", ".png")
    assert not cache.exists()


def test_pictures_of_many_sizes_need_a_resolution(folder, cache):
    save(folder / "class0" / "wide.png", noise(8, 12, 3))
    assert_refused("resolution", Images(str(folder)), cache, "12 x 8", "wide.png", "8 x 8 (6")
    assert stored(cache) == []
    assert Images(str(folder), resolution=4).load(cache).spec.shape == (3, 4, 4)


@pytest.mark.parametrize("where", ["head", "body", "zip"])
def test_unreadable_pictures_are_refused_by_name(tmp_path, folder, cache, where):
    whole = png(noise(8, 8, 3))
    broken = b"garbage" if where == "head" else whole[: len(whole) // 2]
    if where == "zip":
        root = write_zip(tmp_path / "a.zip", broken__png=broken)
    else:
        root = folder
        (folder / "class1" / "broken.png").write_bytes(broken)
    assert_refused("root", Images(str(root), resolution=8), cache, "broken.png", root)
    assert stored(cache) == [], "a refused set leaves nothing in the cache"


def test_pixels_without_a_range_are_refused(tmp_path, cache):
    save(tmp_path / "x" / "a.tif", np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    assert_refused("root", Images(str(tmp_path / "x")), cache, "a.tif", "no known range")


@pytest.mark.parametrize(
    ("field", "value"), [("resolution", 0), ("channels", 2), ("filter", "nearest")]
)
def test_impossible_arguments_are_refused_at_once(field, value):
    with pytest.raises(Refused) as caught:
        Images("nowhere", **{field: value})
    assert caught.value.field == field


# --- pictures: the cache ------------------------------------------------------------------------


def test_pictures_are_decoded_once(folder, cache, monkeypatch):
    first = Images(str(folder), resolution=4, labels=True).load(cache)
    assert len(stored(cache)) == 1
    assert stored(cache)[0].startswith("images-")

    def never(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr(pictures, "decode", never)
    second = Images(str(folder), resolution=4, labels=True).load(cache)
    assert second.digest == first.digest
    assert second.samples_digest == second.samples.digest(), "the stored digest is the true one"
    assert torch.equal(second.samples.labels, first.samples.labels)
    moved = folder.rename(folder.with_name("moved"))
    assert Images(str(moved), resolution=4, labels=True).load(cache).digest == first.digest
    other = Images(str(moved), resolution=4, filter="box", labels=True)
    with pytest.raises(Refused, match="decoded again"):
        other.load(cache)


def test_every_change_of_the_input_is_noticed(folder, cache):
    digests = [Images(str(folder)).load(cache).digest]
    save(folder / "class0" / "img0.png", noise(8, 8, 3, seed=100))
    digests.append(Images(str(folder)).load(cache).digest)
    save(folder / "class0" / "new.png", noise(8, 8, 3, seed=101))
    digests.append(Images(str(folder)).load(cache).digest)
    (folder / "class0" / "img0.png").unlink()
    digests.append(Images(str(folder)).load(cache).digest)
    (folder / "class0" / "new.png").rename(folder / "class0" / "a.png")
    digests.append(Images(str(folder)).load(cache).digest)
    assert len(set(digests)) == 5
    assert len(stored(cache)) == 5
    Images(str(folder), labels=True).load(cache)
    assert len(stored(cache)) == 6


@pytest.mark.parametrize("zipped", [False, True])
def test_two_sets_with_equal_names_sizes_and_times_are_two_sets(tmp_path, cache, zipped):
    digests = set()
    for where, value in (("a", 10), ("b", 200)):
        folder = tmp_path / where / "pictures"
        for place in range(3):
            save(folder / f"{place}.bmp", np.full((8, 8), value, np.uint8))
        root = folder
        if zipped:
            root = folder.with_suffix(".zip")
            with zipfile.ZipFile(root, "w") as archive:
                for file in sorted(folder.iterdir()):
                    archive.write(file, file.name)
        for path in [root, *folder.iterdir()]:
            os.utime(path, (1_000_000_000, 1_000_000_000))
        loaded = Images(str(root)).load(cache)
        assert loaded.samples.values.unique().tolist() == [value]
        digests.add(loaded.digest)
    assert len(digests) == 2


@pytest.mark.parametrize("labels", [False, True])
def test_a_damaged_cache_is_built_anew(folder, cache, labels):
    """Cut short, or one bit flipped, in the header or in a pixel."""
    first = Images(str(folder), labels=labels).load(cache)
    path = cache / stored(cache)[0]
    whole = path.read_bytes()
    torn = path.with_name(f".{path.name}.77.tmp")
    torn.touch()
    for place in (0, 20, 60, 130, 170, len(whole) // 2, len(whole) - 1):
        broken = bytearray(whole)
        broken[place] ^= 4
        for content in (bytes(broken), whole[:place]):
            path.write_bytes(content)
            again = Images(str(folder), labels=labels).load(cache)
            assert again.digest == first.digest
            assert again.samples.digest() == first.samples.digest()
            assert path.read_bytes() == whole
    assert stored(cache) == [path.name], "and what a killed program left is gone"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux to look at its maps")
def test_samples_are_memory_mapped_and_safe_to_write_on(folder, cache):
    first = Images(str(folder)).load(cache)
    assert stored(cache)[0] in Path("/proc/self/maps").read_text()
    first.samples.values.zero_()
    assert Images(str(folder)).load(cache).samples.values.any(), "the stored file is untouched"


RACE = """
import sys, time
from pathlib import Path
from mad_lightning.data import pictures, sources

def race(me, other, there, root, cache):
    build = pictures._build

    def slowly(*args):
        with (there / "builds").open("a") as log:
            log.write(me)
        time.sleep(0.3)
        build(*args)

    pictures._build = slowly
    (there / me).touch()
    while not (there / other).exists():
        time.sleep(0.005)
    try:
        return sources.Images(root, resolution=4).load(cache).digest
    finally:
        pictures._build = build
"""


def test_processes_that_start_together_decode_once(folder, cache, tmp_path):
    places = f"Path({str(tmp_path)!r}), {str(folder)!r}, Path({str(cache)!r})"
    other = subprocess.Popen(
        [sys.executable, "-c", f"{RACE}\nprint(race('b', 'a', {places}))"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    here = {}
    exec(RACE, here)
    while not (tmp_path / "b").exists():
        assert other.poll() is None
        time.sleep(0.01)
    mine = here["race"]("a", "b", tmp_path, str(folder), cache)
    assert other.communicate(timeout=60)[0].strip() == mine
    assert other.returncode == 0
    assert len((tmp_path / "builds").read_text()) == 1
    assert len(stored(cache)) == 1
    assert Images(str(folder), resolution=4).load(tmp_path / "own").digest == mine


# --- arrays -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (noise(4, 6, 5), noise(4, 6, 5)[:, None]),
        (noise(4, 3, 6, 5), noise(4, 3, 6, 5)),
        (noise(4, 1, 6, 5), noise(4, 1, 6, 5)),
        (noise(4, 6, 5, 3), noise(4, 6, 5, 3).transpose(0, 3, 1, 2)),
        (noise(4, 6, 5, 1), noise(4, 6, 5, 1).transpose(0, 3, 1, 2)),
        (np.linspace(0, 1, 12).reshape(4, 3), np.linspace(0, 1, 12, dtype="f4").reshape(4, 3)),
        (np.ones((4, 3), dtype=">f4"), np.ones((4, 3), dtype="f4")),
        (np.asfortranarray(np.eye(4, 3, dtype="f2")), np.eye(4, 3, dtype="f4")),
    ],
)
def test_arrays_of_any_layout(tmp_path, cache, array, expected):
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", anything=array)
    for name in ("a.npy", "a.npz"):
        values = Arrays(str(tmp_path / name)).load(cache).samples.values
        assert values.is_contiguous()
        assert values.numpy().dtype == expected.dtype.newbyteorder("=")
        assert np.array_equal(values, expected)


def test_arrays_by_name(tmp_path, cache):
    labels = np.array([2, 0, 1, 2], dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=noise(4, 6, 5), y=labels, spare=np.array([object()]))
    path = str(tmp_path / "a.npz")
    real = Arrays(path, values="x", labels="y").load(cache)
    assert real.samples.labels.tolist() == [2, 0, 1, 2]
    assert real.spec == SampleSpec((1, 6, 5), 3)
    assert Arrays(path, values="x").load(cache).samples.labels is None
    assert_refused("values", Arrays(path), cache, "3 arrays", "x, y, spare")
    assert_refused("values", Arrays(path, values="z"), cache, "'z'", "x, y, spare")
    assert_refused("labels", Arrays(path, values="x", labels="z"), cache, "'z'", "x, y, spare")
    assert_refused("path", Arrays(path, values="spare"), cache, "plain")
    np.savez(tmp_path / "b.npz", x=noise(4, 6, 5), y=labels)
    assert Arrays(str(tmp_path / "b.npz"), labels="y").load(cache).digest == real.digest
    np.save(tmp_path / "c.npy", noise(4, 6, 5))
    assert_refused("labels", Arrays(str(tmp_path / "c.npy"), labels="y"), cache, "without a name")


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (noise(4, 6, 5).astype(np.float32), "float32 with shape (4, 6, 5)"),
        (noise(4, 6, 5).astype(np.int64), "int64"),
        (noise(4, 6), "uint8 with shape (4, 6)"),
        (noise(4, 6, 5, 4), "(4, 6, 5, 4)"),
        (noise(4, 3, 8, 3), "(4, 3, 8, 3)"),
        (np.ones(4), "(4,)"),
        (np.ones((0, 3)), "(0, 3)"),
        (np.array([[1.0, np.nan], [1, 2]]), "1 of 2 vectors"),
        (np.array([[1.0, 1e300], [np.inf, 2]]), "2 of 2 vectors"),
    ],
)
def test_arrays_that_are_no_samples_are_refused(tmp_path, cache, array, word):
    np.save(tmp_path / "a.npy", array)
    assert_refused("path", Arrays(str(tmp_path / "a.npy")), cache, word)


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 1, 2, -1], [0.0, 1.0, 2.0, 3.0], [[0, 1, 2, 3]]])
def test_labels_that_are_no_classes_are_refused(tmp_path, cache, labels):
    np.savez(tmp_path / "a.npz", x=noise(4, 6, 5), y=np.array(labels))
    assert_refused("labels", Arrays(str(tmp_path / "a.npz"), labels="y"), cache, "whole numbers")


def test_files_that_are_no_arrays_are_refused(tmp_path, cache):
    assert_refused("path", Arrays(str(tmp_path / "no.npy")), cache, "no.npy", "No such file")
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("1 2 3")
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "b.npz", x=noise(4, 6, 5))
    (tmp_path / "b.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:100])
    for name in ("a.npy", "text.npy", "empty.npy", "b.npz"):
        assert_refused("path", Arrays(str(tmp_path / name)), cache, name, "plain")


# --- photographs --------------------------------------------------------------------------------


def test_photos_are_squares_of_the_two_photographs(cache):
    """Every square is found in its photograph, averaged 2 x 2; most of each photograph is seen."""
    from sklearn.datasets import load_sample_images

    real = Photos(resolution=16, n=300, labels=True).load(cache)
    assert real.samples.values.shape == (300, 3, 16, 16)
    assert real.samples.values.dtype == torch.uint8
    assert real.samples.labels.tolist() == [0, 1] * 150
    assert (real.classes, real.held_out) == (2, None)
    assert len({each.numpy().tobytes() for each in real.samples.values}) == 300
    for label, photo in enumerate(load_sample_images().images):
        x = photo.astype(float)
        means = (x[:-1, :-1] + x[1:, :-1] + x[:-1, 1:] + x[1:, 1:]) / 4
        rows = []
        for square in real.samples.values[label::2][:8].numpy():
            corner = np.abs(means - square[:, 0, 0]).max(axis=2) <= 0.5
            tops, lefts = np.nonzero(corner[:-30, :-30])
            found = [
                top
                for top, left in zip(tops, lefts, strict=True)
                if np.abs(
                    means[top : top + 31 : 2, left : left + 31 : 2] - square.transpose(1, 2, 0)
                ).max()
                <= 0.5
            ]
            assert found
            rows.append(found[0])
        assert max(rows) - min(rows) > 100
    again = Photos(resolution=16, n=300).load(cache)
    assert torch.equal(again.samples.values, real.samples.values)
    assert again.samples.labels is None
    assert again.classes is None


@pytest.mark.parametrize(("field", "value"), [("resolution", 0), ("resolution", 214), ("n", 1)])
def test_photos_that_cannot_be_cut_are_refused(field, value):
    with pytest.raises(Refused) as caught:
        Photos(**{field: value})
    assert caught.value.field == field
