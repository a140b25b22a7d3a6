"""A lineage goes on under what made it, wherever it was built and wherever it lies."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from mad_lightning import (
    Digits,
    Evaluator,
    Frechet,
    FreshData,
    FullySynthetic,
    Gaussian,
    GenerationDataModule,
    Identity,
    LineageSettings,
    MetaTrainer,
    Neighbours,
    SampleGrids,
)
from mad_lightning.commands.train import build
from mad_lightning.generators.mixture import Mixture
from mad_lightning.lineage import LineageDirectory, differences
from mad_lightning.refusal import Refused
from mad_lightning.report.groups import load


class Wide(MetaTrainer):
    """Publishes what it draws under another name."""

    treatment = ""


def built(
    tmp_path,
    generations=2,
    *,
    kind=MetaTrainer,
    policy=None,
    data=None,
    metrics=None,
    generator=Gaussian,
    trainer=None,
    name="python",
    **more,
):
    """The lineage of the fixture ``arguments``, in Python."""
    source = {"n_reference": 100, "cache": str(tmp_path / "cache"), **(data or {})}
    return kind(
        LineageSettings(name, str(tmp_path / "runs"), generations, block_size=32, threads=1),
        policy or FullySynthetic(200),
        data=GenerationDataModule(**{"source": Digits(), **source}),
        evaluator=Evaluator(Identity(), metrics or [Neighbours(), Frechet()]),
        build_generator=generator,
        build_trainer_arguments=lambda: {"max_epochs": 1, "accelerator": "cpu", **(trainer or {})},
        callbacks=[SampleGrids()],
        **more,
    )


def test_a_lineage_in_python_is_the_one_from_the_command_line(arguments, tmp_path):
    told = built(tmp_path, 3, name="tiny").config
    assert differences(build(arguments).config, told) == []
    meta = build([*arguments, "--lineage.generations", "1"])
    first = meta.fit()
    both = built(tmp_path, name="tiny").fit()
    assert both[0] == first[0]
    assert built(tmp_path, name="tiny", generations=3).fit() == build(arguments).fit()


def test_in_python_a_lineage_goes_on_under_nothing_else(tmp_path):
    built(tmp_path).fit()
    for change in (
        {"policy": FullySynthetic(200, n_synthetic=150)},
        {"policy": FreshData(200, 10, 190)},
        {"sampling_bias": 0.5},
        {"seed": 1},
        {"generator": lambda: Gaussian("maximum_likelihood")},
        {"generator": lambda: Mixture(2)},
        {"data": {"batch_size": 7}},
        {"data": {"split_seed": 3}},
        {"metrics": [Neighbours(k=3), Frechet()]},
        {"trainer": {"max_epochs": 2}},
        {"kind": Wide},
    ):
        with pytest.raises(Refused) as caught:
            built(tmp_path, 3, **change).fit()
        assert caught.value.field in ("lineage", "lineage.config")
        assert len(str(caught.value).splitlines()) < 20
        assert not (tmp_path / "runs" / "python" / "generation_003").exists()
    assert len(built(tmp_path, 3).fit()) == 3


def test_a_report_tells_lineages_from_python_apart(tmp_path):
    for seed in (0, 1):
        built(tmp_path, 1, name=f"a_seed{seed}", seed=seed).fit()
    built(tmp_path, 1, name="a_seed2", seed=2, policy=FreshData(200, 10, 190)).fit()
    groups = load([tmp_path / "runs" / f"a_seed{seed}" for seed in (0, 1, 2)])
    assert [len(group.lineages) for group in groups] == [2, 1]


def test_what_no_number_depends_on_may_change_and_the_ledger_says_since_when(arguments, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(600, 3)))
    place = arguments.index("Digits")
    arguments[place : place + 1] = ["Arrays", "--data.source.path", str(tmp_path / "x.npy")]
    calm = build([*arguments, "--lineage.name", "calm"]).fit()
    build([*arguments, "--lineage.generations", "1"]).fit()

    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "x.npy", tmp_path / "elsewhere" / "y.npy")
    (tmp_path / "moved").mkdir()
    shutil.move(tmp_path / "runs" / "tiny", tmp_path / "moved" / "tiny")
    arguments[place + 2] = str(tmp_path / "elsewhere" / "y.npy")
    arguments += ["--lineage.root", str(tmp_path / "moved")]
    moved = [*arguments, "--lineage.threads", "2", "--trainer.accelerator", "auto"]
    moved += ["--trainer.devices", "1", "--callbacks", "[]"]
    build([*moved, "--lineage.generations", "2"]).fit()
    records = build(moved).fit()
    assert [record.digests for record in records] == [record.digests for record in calm]
    assert [bool(record.changed) for record in records] == [False, True, False]
    changed = dict(line.split(": ", 1) for line in records[1].changed)
    assert changed["lineage.threads"] == "1 -> 2"
    assert changed["trainer.accelerator"] == "cpu -> auto"
    assert changed["data.source.init_args.path"].endswith("y.npy")
    assert "lineage.generations" not in changed
    (group,) = load([tmp_path / "moved" / "tiny"])
    assert group.lineages[0].has_data_of(load([tmp_path / "runs" / "calm"])[0].lineages[0])

    np.save(tmp_path / "elsewhere" / "y.npy", rng.normal(size=(600, 3)))
    with pytest.raises(Refused) as caught:
        build([*moved, "--lineage.generations", "4"]).fit()
    assert caught.value.field == "data.source"


def test_a_change_is_told_once_also_after_a_kill_between_ledger_and_configuration(tmp_path):
    built(tmp_path, 1).fit()
    kept = LineageDirectory(tmp_path / "runs" / "python").config_file
    old = kept.read_bytes()
    built(tmp_path, 2, trainer={"accelerator": "auto"}).fit()
    kept.write_bytes(old)
    records = built(tmp_path, 3, trainer={"accelerator": "auto"}).fit()
    assert [len(record.changed) for record in records] == [0, 1, 0]


def test_settings_are_known_without_their_file_or_beside_another_one(tmp_path):
    built(tmp_path, 1).fit()
    kept = LineageDirectory(tmp_path / "runs" / "python").config_file
    whole = kept.read_text()
    for content in ("", whole.replace("estimator: unbiased", "estimator: maximum_likelihood")):
        kept.write_text(content)
        with pytest.raises(Refused) as caught:
            built(tmp_path, generator=lambda: Gaussian("maximum_likelihood")).fit()
        assert caught.value.field == "lineage"
    kept.unlink()
    assert len(built(tmp_path).fit()) == 2


def test_a_lineage_whose_reference_was_held_out_blindly_does_not_go_on(tmp_path):
    meta = built(tmp_path, 1)
    (record,) = meta.fit()
    protocol = {key: value for key, value in record.protocol.items() if key != "split"}
    meta.lineage.ledger.path.write_text("")
    meta.lineage.ledger.append(replace(record, protocol=protocol))
    with pytest.raises(Refused, match="held out blindly") as caught:
        built(tmp_path).fit()
    assert caught.value.field == "lineage"
    assert "name" in caught.value.remedy


def test_a_split_of_its_own_is_told(tmp_path):
    (record,) = built(tmp_path, 1, data={"split_seed": None}).fit()
    assert record.protocol["split_seed"] == "own"
    with pytest.raises(Refused):
        built(tmp_path).fit()
