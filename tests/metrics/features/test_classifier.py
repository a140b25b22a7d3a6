"""The classifier: the same weights for everybody, made before anything is trained."""

from hashlib import sha256

import pytest
import torch
from safetensors.torch import load_file

from mad_lightning.data.real import RealData
from mad_lightning.data.sources import Digits
from mad_lightning.metrics import Classes, Classifier, Evaluator, Identity, View
from mad_lightning.refusal import Refused
from mad_lightning.samples import SampleBlock, SampleSpec

VECTORS = SampleSpec((5,))


def not_called(*arguments, **more):
    raise AssertionError("should not have been called")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return RealData(Digits(), 300, 0, 0, tmp_path_factory.mktemp("data"))


def trained(real, cache, n=200, **arguments):
    """A LeNet trained on a small part of the pool, which takes a moment."""
    classifier = Classifier(n_images=5 * n, **arguments)
    classifier.prepare(lambda: real.lessons()[:n], real.spec, real.digest, cache)
    return classifier


@pytest.fixture(scope="module")
def classifier(digits, tmp_path_factory):
    return trained(digits, tmp_path_factory.mktemp("classifier"))


def test_the_classifier_learns_digits_it_was_not_shown(digits, tmp_path):
    classifier = Classifier(n_images=15_000)
    classifier.prepare(digits.lessons, digits.spec, digits.digest, tmp_path)
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
        Classifier(**{"n_images": 1000} | other).prepare(
            digits.lessons, digits.spec, digest, tmp_path
        )


def test_neither_reference_nor_floor_is_ever_shown(digits, tmp_path, monkeypatch):
    shown = []
    train = Classifier._train

    def watched(self, lessons, spec):
        shown.append(lessons)
        return train(self, lessons[:100], spec)

    monkeypatch.setattr(Classifier, "_train", watched)
    Classifier(n_images=100).prepare(digits.lessons, digits.spec, digits.digest, tmp_path)
    sides = (*shown, digits.reference, digits.floor)
    content = [{x.numpy().tobytes() for x in each.values} for each in sides]
    assert [len(each) for each in content] == [1197, 300, 300]
    assert content[0].isdisjoint(content[1] | content[2])


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


@pytest.mark.parametrize("spoilt", ["classifier-*.safetensors", "classifier-*.sha256"])
@pytest.mark.parametrize("spoil", ["flip", "cut", "gone"])
def test_damaged_weights_are_trained_again_to_the_same(digits, tmp_path, spoilt, spoil):
    weights = trained(digits, tmp_path).weights
    kept = {path: path.read_bytes() for path in tmp_path.glob("classifier-*[56s]")}
    (path,) = tmp_path.glob(spoilt)
    content = bytearray(path.read_bytes())
    content[len(content) * 5 // 6] ^= 1  # in the name, of what stands beside
    path.write_bytes(content if spoil == "flip" else content[: len(content) // 2])
    if spoil == "gone":
        path.unlink()
    assert trained(digits, tmp_path).weights == weights
    for path, whole in kept.items():
        if (spoil, path.suffix) != ("gone", ".sha256"):  # then the weights are believed
            assert path.read_bytes() == whole


def test_weights_that_are_cut_and_have_no_digest_are_trained_again(digits, tmp_path):
    weights = trained(digits, tmp_path).weights
    (path,), (beside,) = tmp_path.glob("*.safetensors"), tmp_path.glob("*.sha256")
    beside.unlink()
    path.write_bytes(path.read_bytes()[:1000])
    assert trained(digits, tmp_path).weights == weights


def test_the_classifier_is_frozen(classifier):
    assert not classifier.net.training
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


@pytest.mark.parametrize(
    "spec", [VECTORS, SampleSpec((1, 8, 8)), SampleSpec((1, 3, 8), 10)], ids=str
)
def test_the_classifier_refuses_what_it_cannot_classify(tmp_path, spec):
    with pytest.raises(Refused, match="labelled images") as caught:
        Classifier().prepare(not_called, spec, "", tmp_path / "cache")
    assert caught.value.field == ""
    assert not (tmp_path / "cache").exists()


def test_too_few_samples_to_learn_from_are_refused(digits, tmp_path):
    with pytest.raises(Refused, match="beside reference and floor 49 real samples are left"):
        trained(digits, tmp_path, 49)


def test_samples_agree_with_the_class_that_was_asked_for(digits, classifier):
    evaluator = Evaluator(classifier, [Classes()])
    features, labels = classifier(digits.reference), digits.reference.labels
    asked = torch.where(torch.arange(300) % 3 == 0, (labels + 1) % 10, labels)
    real, drawn = (View(features, labels=classes) for classes in (labels, asked))
    seen = classifier.classify(digits.reference)
    value = evaluator.compare(real, drawn)["class_agreement"]
    assert value == pytest.approx(float((seen == asked).double().mean()))
    error = evaluator.errors(real, drawn)["class_agreement"]
    assert error.reference == 0.0
    right = (seen == asked).double()
    within = sum(right[asked == k].var(correction=0) * (asked == k).sum() for k in range(10))
    assert error.samples == pytest.approx(float(within / 290 / 300) ** 0.5)
    assert "class_agreement" not in Evaluator(Identity(), [Classes()]).compare(real, drawn)
