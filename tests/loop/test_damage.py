"""What stands on disk is believed if it is what was written, and made of what this lineage has."""

import shutil

import pytest

from mad_lightning.commands.train import build
from mad_lightning.refusal import Refused


@pytest.fixture
def tiny(arguments, diffusion):
    return [*arguments, *diffusion]


def numbers(records):
    return [(r.metrics, r.digests, r.images) for r in records]


def flip(path):
    """One bit, in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(bytes(content))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def interrupted(meta, phase, t=2):
    """Stops a lineage just before a phase of a generation; tells where it lies."""
    original = getattr(meta, phase)

    def late(generation, *rest):
        if generation == t:
            raise KeyboardInterrupt
        return original(generation, *rest)

    setattr(meta, phase, late)
    with pytest.raises(KeyboardInterrupt):
        meta.fit()
    return meta.lineage


@pytest.fixture(scope="module")
def calm(request):
    return {}


def undisturbed(tiny, calm):
    """Computed once: the same lineage, left alone."""
    if "numbers" not in calm:
        calm["numbers"] = numbers(build([*tiny, "--lineage.name", "calm"]).fit())
    return calm["numbers"]


ARTEFACTS = {
    "weights": ("record", lambda lineage: lineage.weights(2)),
    "shard": ("record", lambda lineage: lineage.shard("002").with_suffix(".safetensors")),
    "manifest": ("record", lambda lineage: lineage.shard("002").with_suffix(".json")),
    "metrics": ("record", lambda lineage: lineage.metrics_file(2)),
    "mix": ("record", lambda lineage: lineage.mix_file(2)),
    "an earlier shard": ("train", lambda lineage: lineage.shard("001").with_suffix(".safetensors")),
}


@pytest.mark.parametrize("spoil", [flip, cut])
@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_what_was_spoilt_is_made_again(tiny, calm, artefact, spoil):
    expected = undisturbed(tiny, calm)
    at, path_of = ARTEFACTS[artefact]
    lineage = interrupted(build(tiny), at)
    spoil(path_of(lineage))
    assert numbers(build(tiny).fit()) == expected


def test_a_last_checkpoint_that_was_spoilt_is_not_resumed(tiny, calm, tmp_path):
    """Trained from scratch it ends the same; resumed it would end otherwise, or never."""
    expected = undisturbed(tiny, calm)
    longer = [*tiny, "--trainer.max_epochs", "2"]
    lineage = interrupted(build(longer), "sample")
    weights, last = lineage.weights(2), lineage.checkpoint(2)
    assert last.exists()
    weights.unlink()
    flip(last)
    assert numbers(build(longer).fit()) == expected


def test_a_shard_that_cannot_be_made_again_is_refused_by_name(tiny):
    lineage = interrupted(build(tiny), "train")
    cut(lineage.weights(1))
    flip(lineage.shard("001").with_suffix(".safetensors"))
    with pytest.raises(Refused) as caught:
        build(tiny).fit()
    assert caught.value.field == "lineage"
    assert "shard.safetensors" in caught.value.problem
    assert "generator.ckpt" in caught.value.problem


def test_a_generation_from_another_lineage_is_refused(tiny, tmp_path):
    other = build([*tiny, "--lineage.name", "other", "--seed_everything", "1"])
    other.fit()
    lineage = interrupted(build(tiny), "train")
    shutil.copytree(other.lineage.generation(2), lineage.generation(2), dirs_exist_ok=True)
    with pytest.raises(Refused, match=r"generator\.ckpt was made of other"):
        build(tiny).fit()
    lineage.weights(2).unlink()
    with pytest.raises(Refused, match="drawn otherwise"):
        build(tiny).fit()


def test_data_replaced_under_a_lineage_is_refused(arguments, tmp_path):
    import numpy as np

    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(600, 3)))
    place = arguments.index("Digits")
    arguments[place : place + 1] = ["Arrays", "--data.source.path", str(tmp_path / "x.npy")]
    build([*arguments, "--lineage.generations", "1"]).fit()
    np.save(tmp_path / "x.npy", rng.normal(size=(600, 3)) + 100)
    with pytest.raises(Refused) as caught:
        build(arguments).fit()
    assert caught.value.field == "data.source"


def test_a_lineage_goes_on_under_what_its_ledger_tells_even_without_its_configuration(arguments):
    meta = build([*arguments, "--lineage.generations", "2"])
    meta.fit()
    meta.lineage.config_file.unlink()
    for change in (
        ["--sampling_bias", "0.3"],
        ["--policy.n_synthetic", "50"],
        ["--policy", "SyntheticAugmentation", "--policy.n_real", "200"],
        ["--evaluator.metrics", '[{"class_path": "Neighbours", "init_args": {"k": 3}}]'],
    ):
        with pytest.raises(Refused) as caught:
            build([*arguments, *change]).fit()
        assert caught.value.field == "lineage"
        assert "generation 1" in caught.value.problem or "generation 2" in caught.value.problem
    assert len(build(arguments).fit()) == 3


def test_a_generation_that_is_gone_is_missed(arguments):
    meta = build([*arguments, "--lineage.generations", "2"])
    meta.fit()
    shutil.rmtree(meta.lineage.generation(1))
    with pytest.raises(Refused, match="generation_001 is gone"):
        build(arguments).fit()
