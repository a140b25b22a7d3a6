"""Extractors: the same weights for everybody, found or made before anything is trained."""

import unittest.mock
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mad_lightning.data.real import RealData
from mad_lightning.data.sources import Digits
from mad_lightning.metrics import Classifier, Identity, Inception
from mad_lightning.refusal import Refused
from mad_lightning.samples import SampleBlock, Samples, SampleSpec

VECTORS = SampleSpec((5,))
IMAGES = SampleSpec((3, 32, 32))


def not_called(*arguments, **more):
    raise AssertionError("should not have been called")


def pixels(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)


# --- identity -----------------------------------------------------------------------------------


def test_identity_flattens_images_to_floats_around_0():
    images = torch.tensor([0, 255, 51, 204], dtype=torch.uint8).reshape(1, 1, 2, 2)
    assert Identity()(Samples(images)).tolist() == [pytest.approx([-1.0, 1.0, -0.6, 0.6])]


def test_identity_leaves_vectors_alone():
    vectors = torch.randn(4, 5)
    assert torch.equal(Identity()(Samples(vectors)), vectors)


# --- classifier ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return RealData(Digits(), 300, 0, 0, tmp_path_factory.mktemp("data"))


def trained(real, cache, n=200, **arguments):
    """A LeNet trained on a small part of the pool, which takes a moment."""
    classifier = Classifier(n_images=5 * n, **arguments)
    classifier.prepare(lambda: real.pool()[:n], real.spec, real.digest, cache)
    return classifier


@pytest.fixture(scope="module")
def classifier(digits, tmp_path_factory):
    return trained(digits, tmp_path_factory.mktemp("classifier"))


def test_the_classifier_learns_digits_it_was_not_shown(digits, tmp_path):
    classifier = Classifier(n_images=15_000)
    classifier.prepare(digits.pool, digits.spec, digits.digest, tmp_path)
    correct = classifier.classify(digits.reference) == digits.reference.labels
    assert correct.float().mean() > 0.9


def test_features_are_what_the_last_layer_classifies(digits, classifier):
    features = classifier(digits.reference)
    assert (features.shape, features.dtype) == ((300, 84), torch.float32)
    classes = classifier.net[-1](features).argmax(dim=1)
    assert torch.equal(classes, classifier.classify(digits.reference))
    block = SampleBlock(0, digits.reference)
    assert torch.equal(classifier.predict_step(block, 0), features)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_everybody_gets_the_same_weights(digits, classifier, tmp_path, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.rand(threads)  # nor does it matter where the global generator stands
        assert trained(digits, tmp_path).weights == classifier.weights
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_global_randomness_does_not_tell_training_from_finding(digits, tmp_path):
    draws = []
    for _ in ("trained", "found"):
        torch.manual_seed(0)
        trained(digits, tmp_path)
        draws.append(torch.rand(3))
    assert torch.equal(*draws)


def test_the_second_time_the_weights_are_found(digits, tmp_path, monkeypatch):
    weights = trained(digits, tmp_path).weights
    monkeypatch.setattr(Classifier, "_train", not_called)
    again = Classifier(n_images=1000)
    again.prepare(not_called, digits.spec, digits.digest, tmp_path)
    assert again.weights == weights


@pytest.mark.parametrize("other", [{"n_images": 1001}, {"lr": 1e-3}, {"seed": 1}, {"digest": "x"}])
def test_another_recipe_or_other_data_is_trained_anew(digits, tmp_path, monkeypatch, other):
    trained(digits, tmp_path)
    monkeypatch.setattr(Classifier, "_train", not_called)
    digest = other.pop("digest", digits.digest)
    with pytest.raises(AssertionError):
        Classifier(**{"n_images": 1000} | other).prepare(digits.pool, digits.spec, digest, tmp_path)


def test_the_reference_is_never_shown(digits, tmp_path, monkeypatch):
    shown = []
    train = Classifier._train

    def watched(self, pool, spec):
        shown.append(pool)
        return train(self, pool[:64], spec)

    monkeypatch.setattr(Classifier, "_train", watched)
    Classifier(n_images=100).prepare(digits.pool, digits.spec, digits.digest, tmp_path)
    content = [{x.numpy().tobytes() for x in each.values} for each in (*shown, digits.reference)]
    assert [len(each) for each in content] == [1497, 300]
    assert content[0].isdisjoint(content[1])


def test_the_protocol_names_the_stored_weights(digits, tmp_path):
    classifier = trained(digits, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    assert classifier.protocol() == {
        "extractor": "classifier",
        "weights": sha256(file.read_bytes()).hexdigest()[:12],
        "resize": "none",
    }
    stored, used = load_file(file), classifier.net.state_dict()
    assert stored.keys() == used.keys()
    assert all(torch.equal(stored[name], used[name]) for name in used)


def test_the_classifier_is_frozen(classifier):
    assert not classifier.net.training
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


@pytest.mark.parametrize(
    "spec", [VECTORS, SampleSpec((1, 8, 8)), SampleSpec((1, 3, 8), 10)], ids=str
)
def test_the_classifier_refuses_what_it_cannot_classify(tmp_path, spec):
    with pytest.raises(Refused, match="labelled images") as caught:
        Classifier().prepare(not_called, spec, "", tmp_path / "cache")
    assert caught.value.field == "evaluator.extractor"
    assert not (tmp_path / "cache").exists()


# --- Inception ----------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub cache, and no way to fill it."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", not_called)
    monkeypatch.setattr(torch.hub, "urlopen", not_called)
    return tmp_path / "hub"


def prepare(spec=IMAGES, **arguments):
    inception = Inception(**arguments)
    inception.prepare(not_called, spec, "", Path("no_cache"))
    return inception


def refusal(**arguments):
    """What a refusal says; it must be what a user without network can act upon."""
    with pytest.raises(Refused) as caught:
        prepare(**arguments)
    message = str(caught.value)
    assert len(message.splitlines()) <= 10
    for needed in (
        "weights-inception-2015-12-05-6726825d.pth",
        "91 MiB",
        f"SHA-256 {arguments.get('sha256_prefix', '6726825d')}",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/",
        f"{torch.hub.get_dir()}/checkpoints/weights-inception",
        "--evaluator.extractor.weights_path",
        "--evaluator.extractor Classifier",
    ):
        assert needed in message
    assert caught.value.field == "evaluator.extractor.weights_path"
    return message


def test_without_weights_and_download_nothing_is_touched(hub):
    assert f"no weights at {hub}" in refusal(download=False)
    assert not hub.exists()


def test_without_a_network_the_reason_is_told_and_nothing_is_left(hub, monkeypatch):
    def offline(url, dst, hash_prefix):
        Path(dst).write_bytes(b"half")
        Path(dst).unlink()  # as torch does
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    assert "Name or service not known" in refusal()
    assert not [path for path in hub.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_cache_that_cannot_be_written_is_told(hub):
    hub.parent.joinpath("hub").write_bytes(b"a file where the folder should be")
    assert "the download failed" in refusal()


def test_a_missing_file_is_not_replaced_by_a_download(hub, tmp_path):
    assert "mine.pth" in refusal(weights_path=str(tmp_path / "mine.pth"))
    assert "no weights at" in refusal(weights_path=str(tmp_path))


def test_weights_with_another_hash_are_refused(hub, tmp_path):
    (tmp_path / "other.pth").write_bytes(b"other")
    message = refusal(weights_path=str(tmp_path / "other.pth"))
    assert f"has SHA-256 {sha256(b'other').hexdigest()[:8]}..., not 6726825d" in message


def test_weights_are_downloaded_once_and_checked(hub, monkeypatch):
    calls, prefix = [], sha256(b"downloaded").hexdigest()[:8]

    def download(url, dst, hash_prefix):
        calls.append((url, hash_prefix))
        Path(dst).write_bytes(b"downloaded")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        assert "does not hold the weights" in refusal(sha256_prefix=prefix)
    assert calls == [(Inception.URL, prefix)]
    files = {path.name for path in hub.rglob("*") if path.is_file()}
    assert files - {f"{Inception.FILE}.lock"} == {Inception.FILE}


@pytest.mark.parametrize("spec", [VECTORS, SampleSpec((2, 8, 8))], ids=str)
def test_inception_refuses_what_is_no_picture_before_it_looks_for_weights(hub, spec):
    with pytest.raises(Refused, match="Identity for vectors") as caught:
        prepare(spec)
    assert caught.value.field == "evaluator.extractor"
    assert not hub.exists()


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_the_weights_is_unpickled(hub, tmp_path):
    file, sprung = tmp_path / "weights.pth", tmp_path / "sprung"
    torch.save({"fc.weight": Trap(sprung)}, file)
    assert "does not hold the weights" in refusal(weights_path=str(file), sha256_prefix="")
    assert not sprung.exists()
    torch.load(file, weights_only=False)
    assert sprung.exists(), "the trap itself does not work"


@pytest.mark.parametrize(
    "content", [{"fc.weight": torch.zeros(3)}, [torch.zeros(3)], torch.zeros(3)], ids=str
)
def test_weights_of_another_network_are_refused(hub, tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    refusal(weights_path=str(tmp_path / "weights.pth"), sha256_prefix="")


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """Random weights in the form of the published file: a plain dict of tensors, in full precision.

    Like that file it lacks the batch counters of the normalisation layers.
    """
    from torch_fidelity import feature_extractor_inceptionv3 as port

    class Untrained(port.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_):
            pass

    with unittest.mock.patch.object(port, "load_state_dict_from_url"):
        network = Untrained("untrained", ["2048"])
    rng = torch.Generator().manual_seed(0)
    weights = {}
    for name, value in network.state_dict().items():
        if value.ndim == 4:  # a scale that neither fades nor grows through 90 layers of ReLUs
            scale = (2 / value[0].numel()) ** 0.5
            weights[name] = torch.empty_like(value).normal_(0.0, scale, generator=rng)
        elif name.endswith(("bias", "running_mean")):
            weights[name] = torch.empty_like(value).normal_(0.0, 0.1, generator=rng)
        elif not name.endswith("num_batches_tracked"):
            weights[name] = value
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(weights, path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def inception(weights_file):
    digest = sha256(weights_file.read_bytes()).hexdigest()
    with unittest.mock.patch.object(torch, "load", wraps=torch.load) as load:
        prepared = prepare(weights_path=str(weights_file), sha256_prefix=digest[:8])
    prepared.loads = load.call_args_list
    return prepared


@pytest.fixture(scope="module")
def torch_fidelity(weights_file):
    """The library's own way from a file to features."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3("own", ["2048"], str(weights_file))


def test_torch_fidelity_which_unpickles_never_opens_the_file(inception, weights_file):
    opened = [(call.args[0], call.kwargs["weights_only"]) for call in inception.loads]
    assert (weights_file, True) in opened
    assert (weights_file, False) not in opened
    assert (str(weights_file), False) not in opened


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_those_of_torch_fidelity(inception, torch_fidelity, channels):
    images = pixels(2, channels, 32, 24)
    features = inception(Samples(images))
    assert (features.shape, features.dtype) == ((2, 2048), torch.float32)
    (expected,) = torch_fidelity(images.repeat(1, 3 // channels, 1, 1))
    assert expected.std(dim=0).max() > 0.01
    assert torch.equal(features, expected)


def test_inception_is_frozen_and_names_its_weights(inception, weights_file):
    assert not inception.net.training
    assert not any(parameter.requires_grad for parameter in inception.parameters())
    protocol = inception.protocol()
    assert protocol["extractor"] == "inception"
    assert protocol["weights"] == sha256(weights_file.read_bytes()).hexdigest()[:12]
    assert "299 px" in protocol["resize"]
