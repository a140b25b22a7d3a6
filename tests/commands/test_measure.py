"""The command that measures two sets of pictures, end to end on files."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image

from mad_lightning import (
    Evaluator,
    FullySynthetic,
    Gaussian,
    GenerationDataModule,
    Identity,
    LineageSettings,
    MetaTrainer,
    StandardNormal,
)
from mad_lightning.commands import main
from mad_lightning.commands.measure import measure
from mad_lightning.data.pictures import Framing
from mad_lightning.data.shards import Shard, ShardManifest, save_tensors
from mad_lightning.data.sources import Images
from mad_lightning.metrics.features.base import FeatureExtractor
from mad_lightning.metrics.features.lite0 import Lite0
from mad_lightning.metrics.functional import frechet_distance, kernel_distance, two_sample
from mad_lightning.samples import Samples, SampleSpec
from mad_lightning.seeds import permutation

AS_STORED = Framing(None, None, "lanczos")
SIDE = 6


def drawn(n, seed, contrast=1.0, channels=3, side=SIDE):
    rng = np.random.default_rng(seed)
    images = 128 + contrast * rng.normal(0, 40, (n, side, side, channels))
    return images.round().clip(0, 255).astype(np.uint8).squeeze(axis=-1 if channels == 1 else ())


@pytest.fixture
def folder(tmp_path):
    def write(name, images):
        place = tmp_path / name
        place.mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(place / f"{number}.png")
        return str(place)

    return write


@pytest.fixture
def run(capfd):
    """Runs the command; gives what it printed as JSON, or what it refused."""

    def command(*arguments):
        code = 0
        try:
            main(["measure", *map(str, arguments)])
        except SystemExit as end:
            code = end.code
        out, err = capfd.readouterr()
        if code == 0:
            assert err == "", "the error stream is no terminal: no bar, no warnings"
            return json.loads(out)
        assert (code, out) == (2, "")
        assert len(err.splitlines()) <= 12
        for inner in ("Traceback", "data.source", "evaluator.", "`", "--root"):
            assert inner not in err
        return err

    return command


def expected(real, others, k):
    """All values from the definitions, in float64."""
    x, y = (side.reshape(len(side), -1).astype(np.float64) / 127.5 - 1 for side in (real, others))

    def distances(a, b):
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2))

    def radii(a):
        return np.sort(distances(a, a) + np.diag(np.full(len(a), np.inf)), axis=1)[:, k - 1]

    cross, in_real = distances(x, y), distances(x, y) <= radii(x)[:, None]
    product = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    trace = np.trace(np.cov(x.T)) + np.trace(np.cov(y.T)) - 2 * np.trace(product)

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    within = [
        (kernel(a, a).sum() - np.trace(kernel(a, a))) / (len(a) * (len(a) - 1)) for a in (x, y)
    ]
    return {
        "precision": in_real.any(axis=0).mean(),
        "recall": (cross <= radii(y)[None]).any(axis=1).mean(),
        "density": in_real.sum() / k / len(y),
        "coverage": in_real.any(axis=1).mean(),
        "fd_pixels": ((x.mean(0) - y.mean(0)) ** 2).sum() + trace,
        "kd_pixels": sum(within) - 2 * kernel(x, y).mean(),
    }


def values(report):
    return {name: value for name, value in report.items() if isinstance(value, float)}


# --- what is measured ---------------------------------------------------------------------------


@pytest.mark.parametrize("k", [3, 5])
def test_values_are_those_of_the_definitions(folder, run, k):
    real, others = drawn(150, 0), drawn(150, 1, contrast=0.8)
    a, b = folder("real", real), folder("others", others)
    report = run(a, b, "--extractor", "pixels", "--k", k)
    assert values(report) == pytest.approx(expected(real, others, k), rel=1e-4, abs=1e-7)
    assert report["floor"] is None
    assert report["protocol"]["n"] == 150
    assert "a floor needs 300 real" in report["protocol"]["split"]
    assert report["protocol"]["k"] == k
    assert report["protocol"]["extractor"] == "pixels"
    assert report["protocol"]["resize"] == "none"
    assert report["protocol"]["samples"] == "6 x 6 px in colour, as stored"


def test_the_floor_is_other_real_pictures_at_the_same_n(folder, run):
    real, others = drawn(330, 0, channels=1), drawn(150, 1, 0.8, channels=1)
    report = run(folder("real", real), folder("others", others), "--extractor", "pixels")
    order = permutation(330, 0, "measure").numpy()
    reference, floor = real[order[:150]], real[order[150:300]]
    assert values(report) == pytest.approx(expected(reference, others, 5), rel=1e-4, abs=1e-7)
    assert report["floor"] == pytest.approx(expected(reference, floor, 5), rel=1e-4, abs=1e-7)
    assert report["protocol"]["n"] == 150
    counted = {key: report["real"][key] for key in ("samples", "reference", "floor")}
    assert counted == {"samples": 330, "reference": 150, "floor": 150}
    assert report["protocol"]["samples"].startswith("6 x 6 px grey")


def test_n_and_seed_decide_which_pictures_are_taken(folder, run):
    a, b = folder("real", drawn(60, 0)), folder("others", drawn(50, 1))
    arguments = (a, b, "--extractor", "pixels", "--n", 30)
    report = run(*arguments)
    assert (report["protocol"]["n"], report["synthetic"]["samples"]) == (30, 50)
    assert report["floor"] is not None
    assert run(*arguments) == report
    assert values(run(*arguments, "--seed", 1)) != values(report)


def test_a_zip_is_as_good_as_a_folder_and_the_batch_does_not_matter(folder, run, tmp_path):
    a, b = folder("real", drawn(40, 0)), folder("others", drawn(40, 1))
    archive = tmp_path / "others.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(Path(b).iterdir()):
            file.write(path, f"00000/{path.name}")
    plain = run(a, b, "--extractor", "pixels")
    zipped = run(a, archive, "--extractor", "pixels", "--batch_size", 7)
    assert zipped.pop("synthetic")["root"] == str(archive)
    assert plain.pop("synthetic")["root"] == b
    assert zipped == plain


def test_mixed_sizes_are_made_alike_as_by_the_source_images(folder, run, tmp_path):
    mixed = [*drawn(20, 0, side=12), *drawn(20, 1, side=9)]
    a, b = folder("real", mixed), folder("others", drawn(40, 2, side=8))
    message = run(a, b, "--extractor", "pixels")
    assert message.startswith("error: --resolution: ")
    assert "9 x 9" in message
    assert "12 x 12" in message
    assert "--resolution 64" in message
    report = run(a, b, "--extractor", "pixels", "--resolution", SIDE, "--filter", "box")
    sets = [Images(root, SIDE, filter="box").load(tmp_path / "cache").samples for root in (a, b)]
    real, others = (samples.values.numpy() for samples in sets)
    assert values(report) == pytest.approx(expected(real, others, 5), rel=1e-4, abs=1e-7)
    assert report["protocol"]["samples"] == "6 x 6 px in colour, centre cut, box"


@pytest.mark.parametrize(
    ("name", "keys"), [("inception", {"fid", "kid"}), ("other", {"fd_other", "kd_other"})]
)
def test_only_inceptions_distance_is_called_fid(folder, name, keys):
    class Named(FeatureExtractor):
        def forward(self, samples):
            return samples.values.float().flatten(1)

    Named.name = name
    a, b = folder("real", drawn(20, 0)), folder("others", drawn(20, 1))
    report = measure(a, b, Named(), AS_STORED)
    assert set(values(report)) == {"precision", "recall", "density", "coverage"} | keys


def test_lite0_is_what_is_taken_unasked(folder, run):
    real, others = drawn(8, 0, side=32), drawn(8, 1, side=32)
    report = run(folder("real", real), folder("others", others), "--batch_size", 3)
    lite0 = Lite0()
    lite0.prepare(lambda: None, SampleSpec((3, 32, 32)), "", Path())
    with torch.inference_mode():
        features = [
            lite0(Samples(torch.from_numpy(side).permute(0, 3, 1, 2))) for side in (real, others)
        ]
    wanted = two_sample(*features, k=5) | {
        "fd_lite0": frechet_distance(*features),
        "kd_lite0": kernel_distance(*features),
    }
    assert {key: report[key] for key in wanted} == pytest.approx(wanted, rel=1e-3, abs=1e-6)
    assert report["protocol"].items() >= lite0.protocol().items()


# --- arrays, shards, lineages --------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    """The same pictures in every other way that they may lie, by name."""

    def store(name, images):
        values = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        labels = torch.arange(len(images)) % 3
        place = tmp_path / f"stored-{name}"
        place.mkdir()
        np.save(place / "plain.npy", images)
        np.savez(place / "guided.npz", images, labels.numpy())  # arr_0, arr_1
        np.savez(place / "named.npz", labels=labels, values=values, more=images[:2])
        save_tensors(place / "tensors.safetensors", {"values": values, "labels": labels})
        spec = SampleSpec.of(values, labels).to_dict()
        manifest = ShardManifest("synthetic", 1, 1.0, (0,), {}, "", len(values), spec)
        Shard(place / "shard").write(Samples(values, labels), manifest)
        return place

    return store


def test_arrays_and_shards_are_as_good_as_a_folder(folder, stored, run):
    real, others = drawn(90, 0), drawn(40, 1)
    wanted = run(folder("real", real), folder("others", others), "--extractor", "pixels")
    places = stored("real", real), stored("others", others)
    assert wanted["floor"] is not None
    for name in (
        "plain.npy",
        "guided.npz",
        "named.npz",
        "tensors.safetensors",
        "shard.safetensors",
    ):
        report = run(*(place / name for place in places), "--extractor", "pixels")
        assert report["real"].pop("root") == str(places[0] / name)
        for key in ("floor", "protocol", *values(wanted)):
            assert report[key] == wanted[key]


def test_arrays_are_framed_as_pictures_are(folder, stored, run):
    sides = drawn(30, 0, side=12), drawn(30, 1, side=12)
    framing = ("--extractor", "pixels", "--resolution", SIDE, "--channels", 1)
    wanted = run(folder("real", sides[0]), folder("others", sides[1]), *framing)
    report = run(stored("real", sides[0]) / "named.npz", folder("o", sides[1]), *framing)
    assert values(report) == values(wanted)
    assert report["protocol"] == wanted["protocol"]


def test_vectors_are_measured_as_they_are(tmp_path, run):
    real, others = (np.random.default_rng(seed).normal(size=(50, 3)) for seed in (0, 1))
    for name, side in (("real", real), ("others", others)):
        np.save(tmp_path / f"{name}.npy", side.astype(np.float32))
    roots = tmp_path / "real.npy", tmp_path / "others.npy"
    report = run(*roots, "--extractor", "identity")
    assert report["protocol"]["samples"] == "vectors of 3, as stored"
    sides = [torch.from_numpy(side).float() for side in (real, others)]
    assert report["fd_identity"] == pytest.approx(frechet_distance(*sides), rel=1e-5)
    assert "use Identity for vectors" in run(*roots, "--extractor", "pixels")
    message = run(*roots, "--extractor", "identity", "--resolution", 5)
    assert message.startswith("error: --resolution")
    assert "are no pictures" in message


def test_what_a_generation_drew_is_named_by_its_lineage(stored, run, tmp_path):
    meta = MetaTrainer(
        LineageSettings("x", root=str(tmp_path / "runs"), generations=2),
        FullySynthetic(n_initial=60),
        data=GenerationDataModule(StandardNormal(dim=3), n_reference=30),
        evaluator=Evaluator(Identity()),
        build_generator=Gaussian,
        build_trainer_arguments=lambda: {"max_epochs": 1},
    )
    meta.fit()
    drawn_by_it = Shard(meta.lineage.shard("002")).values_file
    real = tmp_path / "real.npy"
    np.save(real, np.random.default_rng(0).normal(size=(70, 3)))
    options = ("--extractor", "identity", "--n", 30)
    report, same = run(real, f"{meta.lineage}@2", *options), run(real, drawn_by_it, *options)
    assert report.pop("synthetic")["root"] == f"{meta.lineage}@2"
    same.pop("synthetic")
    assert report == same
    assert run(f"{meta.lineage}@3", real).startswith("error: REAL: ")
    assert "is no lineage" in run(real, f"{tmp_path}@3")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("broken.npz", b"PK", "cannot be read"),
        ("absent.npy", None, "cannot be read"),
        ("broken.safetensors", b"x" * 99, "broken.safetensors"),
        ("absent.safetensors", None, "absent.safetensors"),
    ],
)
def test_files_that_hold_no_samples_are_named(two, run, tmp_path, name, content, problem):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    message = run(two[0], tmp_path / name, "--extractor", "pixels")
    assert message.startswith("error: SYNTHETIC: ")
    assert problem in message


def test_of_several_arrays_one_must_be_meant(two, run, tmp_path):
    images = drawn(20, 1)
    np.savez(tmp_path / "x.npz", a=images, b=images)
    message = run(two[0], tmp_path / "x.npz", "--extractor", "pixels")
    assert "call one of them values; now they are a, b" in message
    save_tensors(tmp_path / "y.safetensors", {"weight": torch.zeros(3, 4)})
    assert "no tensor values" in run(two[0], tmp_path / "y.safetensors")
    wide = np.zeros((20, SIDE, SIDE, 3), np.float32)
    np.save(tmp_path / "z.npy", wide)
    assert "store images as uint8" in run(two[0], tmp_path / "z.npy")


# --- what is refused ----------------------------------------------------------------------------


@pytest.fixture
def two(folder):
    return folder("real", drawn(20, 0)), folder("others", drawn(20, 1))


@pytest.mark.parametrize("side", [0, 1])
def test_a_missing_or_empty_side_is_named(two, run, tmp_path, side):
    empty = tmp_path / "empty"
    empty.mkdir()
    for place, problem in ((tmp_path / "nowhere", "does not exist"), (empty, "no pictures in")):
        roots = [*two]
        roots[side] = place
        message = run(*roots, "--extractor", "pixels")
        assert message.startswith(f"error: {('REAL', 'SYNTHETIC')[side]}: ")
        assert problem in message
        assert str(place) in message


def test_too_few_pictures_are_counted(two, folder, run):
    few = folder("few", drawn(5, 2))
    message = run(two[0], few, "--extractor", "pixels")
    assert message.startswith("error: SYNTHETIC: of 5 samples none has a 5-th neighbour")
    assert run(two[0], few, "--extractor", "pixels", "--k", 4)["protocol"]["n"] == 5
    assert "error: --n: " in run(*two, "--extractor", "pixels", "--n", 5)
    assert "20 samples, where n = 21" in run(*two, "--extractor", "pixels", "--n", 21)


def test_a_picture_that_cannot_be_read_is_named(two, run):
    broken = Path(two[1]) / "7.png"
    broken.write_bytes(broken.read_bytes()[:60])
    message = run(*two, "--extractor", "pixels")
    assert message.startswith("error: SYNTHETIC: ")
    assert "7.png" in message


def test_sides_that_look_different_are_refused(two, folder, run):
    small = folder("small", drawn(20, 2, side=5))
    message = run(two[0], small, "--extractor", "pixels")
    assert "5 x 5 px in colour, the real ones 6 x 6 px in colour" in message
    assert run(two[0], small, "--extractor", "pixels", "--resolution", 5)["protocol"]["n"] == 20
    grey = folder("grey", drawn(20, 2, channels=1))
    assert "6 x 6 px grey" in run(two[0], grey, "--extractor", "pixels")
    report = run(two[0], grey, "--extractor", "pixels", "--channels", 1)
    assert report["protocol"]["samples"] == "6 x 6 px grey, as stored"


def test_weights_that_are_missing_are_told_in_this_doors_words(two, run, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for name in ("inception", "vgg16", "dinov2"):
        message = run(*two, "--extractor", name)
        for needed in (
            "SHA-256",
            "put it at",
            "with --weights",
            "with --download",
            "extractor Lite0",
        ):
            assert needed in message
    assert "nowhere.pth" in run(*two, "--weights", tmp_path / "nowhere.pth")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--k", 0),
        ("--batch_size", 0),
        ("--resolution", 0),
        ("--extractor", "pixels", "--weights", "x"),
        ("--extractor", "pixels", "--download"),
        ("--download",),
        ("--device", "cuda:99"),
        ("--device", "abacus"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense_are_refused(two, run, arguments):
    flag = arguments[2] if len(arguments) > 2 else arguments[0]
    assert run(*two, *arguments).startswith(f"error: {flag}: ")


def test_an_option_that_does_not_exist_or_makes_no_sense_is_refused(two, run):
    message = run(*two, "--resoltion", 32)
    assert message.startswith("error: --resoltion: there is no such option")
    assert "did you mean --resolution? " in message
    assert run(*two, "--extractor", "lite1").startswith("error: --extractor: there is no lite1")
    assert run(*two, "--metrics", "Kernel").startswith("error: --metrics: two sets of samples")
    assert run(*two, "--k", "five").startswith("error: --k: invalid int value")
    assert run(two[0]).startswith("error: SYNTHETIC: missing")
