"""Somebody else's samples are of the kind of the real ones, or are refused."""

import numpy as np
import pytest
import torch

from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.data.external import read_external
from mad_lightning.data.sources import Arrays, Digits, Images
from mad_lightning.exchange import write_archive, write_arrays, write_folder
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec

SPEC = SampleSpec((1, 8, 8), 10)


@pytest.fixture
def drawn():
    """60 digits of eight of ten classes."""
    rng = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8, generator=rng)
    return Samples(values, torch.arange(64) % 8 + 1)


def sets(samples):
    """Pairs of class and bytes, in no order."""
    return sorted(
        (label, value.numpy().tobytes())
        for label, value in zip(samples.labels.tolist(), samples.values, strict=True)
    )


@pytest.mark.parametrize("kind", ["folder", "zip", "npz", "named"])
def test_what_mad_export_writes_is_read_back_whatever_classes_are_missing(drawn, kind, tmp_path):
    names = tuple(f"digit {k}" for k in range(10)) if kind == "named" else ()
    if kind in ("folder", "named"):
        write_folder(drawn, tmp_path / "out", names)
        source = Images(str(tmp_path / "out"), labels=True)
    elif kind == "zip":
        write_archive(drawn, tmp_path / "out.zip")
        source = Images(str(tmp_path / "out.zip"), labels=True)
    else:
        write_arrays(drawn, tmp_path / "out.npz")
        source = Arrays(str(tmp_path / "out.npz"), "values", "labels")
    read = read_external(source, tmp_path / "cache", SPEC, names)
    assert sets(read) == sets(drawn)


def test_classes_go_by_the_names_that_the_real_data_have(drawn, tmp_path):
    for folder, name in ((0, "cat"), (1, "dog")):
        some = drawn[(drawn.labels == folder + 1).nonzero().flatten()]
        write_folder(Samples(some.values), tmp_path / "out" / name)
    source = Images(str(tmp_path / "out"), labels=True)
    read = read_external(source, tmp_path, SampleSpec((1, 8, 8), 3), ("dog", "cow", "cat"))
    assert read.labels.bincount(minlength=3).tolist() == [8, 0, 8]
    with pytest.raises(Refused, match="'cat' is none of the real data's"):
        read_external(source, tmp_path, SampleSpec((1, 8, 8), 2), ("dog", "cow"))


@pytest.mark.parametrize(
    ("spec", "labels", "told"),
    [
        (SampleSpec((1, 28, 28), 10), "labels", r"shape \(1, 8, 8\), real ones \(1, 28, 28\)"),
        (SPEC, None, "no classes"),
        (SampleSpec((1, 8, 8), 5), "labels", "none of the real data's"),
    ],
)
def test_other_kinds_are_refused(drawn, tmp_path, spec, labels, told):
    write_arrays(drawn, tmp_path / "out.npz")
    source = Arrays(str(tmp_path / "out.npz"), "values", labels)
    with pytest.raises(Refused, match=told):
        read_external(source, tmp_path, spec)


def test_without_classes_of_real_samples_there_are_none(drawn, tmp_path):
    write_arrays(drawn, tmp_path / "out.npz")
    source = Arrays(str(tmp_path / "out.npz"), "values", "labels")
    assert read_external(source, tmp_path, SampleSpec((1, 8, 8))).labels is None


def test_the_data_module_says_where_it_was_given(tmp_path):
    np.savez(tmp_path / "out.npz", values=np.zeros((9, 3, 3), "uint8"))
    module = GenerationDataModule(
        Digits(), n_reference=50, cache=str(tmp_path), external=Arrays(str(tmp_path / "out.npz"))
    )
    with pytest.raises(Refused) as caught:
        module.outside(0)
    assert caught.value.field == "external"
    with pytest.raises(Refused) as caught:
        GenerationDataModule(Digits(), n_reference=50, cache=str(tmp_path)).outside(0)
    assert caught.value.field == "external"
