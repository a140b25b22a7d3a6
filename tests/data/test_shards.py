"""A shard is what its manifest says, and nothing is half there."""

import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save

from mad_lightning.data import shards
from mad_lightning.data.shards import Shard, ShardManifest, save_tensors
from mad_lightning.samples import Parts, Samples, SampleSpec
from mad_lightning.seeds import sample_seeds

SAMPLES = {
    "grey": Samples(torch.arange(5 * 12).reshape(5, 1, 3, 4).byte(), torch.arange(5)),
    "colour_unlabelled": Samples(torch.arange(5 * 36).reshape(5, 3, 3, 4).byte()),
    "vectors": Samples(torch.linspace(-3, 3, 20).reshape(5, 4)),
}


def provenance(samples):
    return ShardManifest(
        origin="synthetic",
        generation=3,
        sampling_bias=0.5,
        seeds=(11, 3, "sample"),
        sampler={"name": "ddpm", "steps": 50},
        generator="ab" * 32,
        count=0,
        spec=SampleSpec(tuple(samples.values.shape[1:]), 5).to_dict(),
        name="003.kept",
        parents=("003",),
    )


@pytest.fixture(params=SAMPLES)
def samples(request):
    return SAMPLES[request.param]


@pytest.fixture
def stem(samples, tmp_path):
    Shard(tmp_path / "g" / "kept.v2").write(samples, provenance(samples))
    return tmp_path / "g" / "kept.v2"


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class TestShard:
    def test_what_was_written_is_read(self, samples, stem):
        found = Shard(stem).samples
        assert found.values.dtype == samples.values.dtype
        assert torch.equal(found.values, samples.values)
        assert (found.labels is None) == (samples.labels is None)
        assert samples.labels is None or torch.equal(found.labels, samples.labels)

    def test_the_manifest_says_where_samples_come_from(self, samples, stem):
        shard = Shard(stem)
        found, wanted = shard.manifest, provenance(samples)
        assert (found.count, found.sha256) == (5, samples.digest())
        assert (found.origin, found.generation, found.sampling_bias) == ("synthetic", 3, 0.5)
        assert (found.sampler, found.generator) == (wanted.sampler, wanted.generator)
        assert (found.name, found.parents) == ("003.kept", ("003",))
        assert shard.spec == SampleSpec(tuple(samples.values.shape[1:]), 5)
        assert torch.equal(sample_seeds(2, 1, *found.seeds), sample_seeds(2, 1, 11, 3, "sample"))

    def test_a_changed_value_is_noticed(self, samples, stem):
        values = samples.values.clone()
        values[2].view(-1)[1] += 1
        tensors = Samples(values, samples.labels).tensors()
        save_tensors(Shard(stem).values_file, tensors)
        with pytest.raises(OSError, match="does not match its manifest"):
            _ = Shard(stem).samples

    def test_changed_labels_are_noticed(self, samples, stem):
        labels = torch.zeros(5, dtype=torch.int64)
        save_tensors(Shard(stem).values_file, Samples(samples.values, labels).tensors())
        with pytest.raises(OSError, match="does not match its manifest"):
            _ = Shard(stem).samples

    def test_missing_rows_are_noticed(self, samples, stem):
        save_tensors(Shard(stem).values_file, samples[:4].tensors())
        with pytest.raises(OSError, match="does not match its manifest"):
            _ = Shard(stem).samples

    def test_the_manifest_comes_last(self, samples, tmp_path, monkeypatch):
        def killed(path, content, lasting):
            raise KeyboardInterrupt

        monkeypatch.setattr(shards, "write_json", killed)
        shard = Shard(tmp_path / "shard")
        with pytest.raises(KeyboardInterrupt):
            shard.write(samples, provenance(samples))
        assert shard.values_file.exists()
        assert not shard.exists
        monkeypatch.undo()
        shard.write(samples, provenance(samples))
        assert shard.exists

    def test_the_manifest_is_plain_json(self, stem):
        plain = json.loads(Shard(stem).manifest_file.read_text())
        assert plain["seeds"] == [11, 3, "sample"]

    def test_its_files_have_the_name_of_the_shard(self, stem):
        files = sorted(path.name for path in stem.parent.iterdir())
        assert files == ["kept.v2.json", "kept.v2.safetensors"]

    @pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
    def test_samples_are_memory_mapped(self, stem):
        file = str(Shard(stem).values_file)
        samples = Shard(stem).samples
        assert file in Path("/proc/self/maps").read_text()
        del samples
        assert file not in Path("/proc/self/maps").read_text()


def test_a_shard_is_written_part_by_part_as_safetensors_would_write_it(samples, tmp_path):
    parts = Parts([samples[:2], samples[2:3], samples[3:]])
    manifest = Shard(tmp_path / "parts").write(parts, provenance(samples))
    written = (tmp_path / "parts.safetensors").read_bytes()
    assert written == save(samples.tensors())
    assert manifest.sha256 == samples.digest()
    assert Shard(tmp_path / "parts").samples.digest() == manifest.sha256


def test_nothing_in_a_shard_is_unpickled(tmp_path):
    sprung = tmp_path / "sprung"
    samples, shard = SAMPLES["grey"], Shard(tmp_path / "003")
    shard.write(samples, provenance(samples))
    for poison in (torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))):
        poison({"values": Trap(sprung)}, shard.values_file)
        with pytest.raises((OSError, SafetensorError)):
            _ = Shard(tmp_path / "003").samples
        assert not sprung.exists()
    pickle.loads(shard.values_file.read_bytes())
    assert sprung.exists(), "the trap itself does not work"


def test_manifests_of_other_versions_are_read(tmp_path):
    """Before shards had names and parents, and when they will have more."""
    samples, shard = SAMPLES["vectors"], Shard(tmp_path / "shard")
    written = shard.write(samples, provenance(samples))
    plain = json.loads(shard.manifest_file.read_text())
    old = {key: plain[key] for key in plain if key not in ("name", "parents", "seal")}
    shard.manifest_file.write_text(json.dumps(old | {"colour": "green"}))
    found = Shard(tmp_path / "shard")
    assert found.manifest == replace(written, name="", parents=())
    assert found.samples.digest() == samples.digest()


def test_a_shard_without_its_files_is_an_error(tmp_path):
    shard = Shard(tmp_path / "003")
    assert not shard.exists
    for read in (lambda: shard.manifest, lambda: shard.samples):
        with pytest.raises(OSError, match="003"):
            read()
