"""What a lineage is said to cost is what it costs, and saying so costs nothing."""

import pytest

from mad_lightning.commands import main
from mad_lightning.commands.train import build
from mad_lightning.lineage.ledger import GenerationRecord
from mad_lightning.loop.forecast import counted, forecast
from mad_lightning.loop.pacing import besides, probe


def arguments(root, family, *more, name="x_seed0"):
    return [
        "--lineage.root", str(root / "runs"), "--lineage.name", name,
        "--lineage.generations", "3", "--data.cache", str(root / "cache"),
        "--policy", "SyntheticAugmentation", "--policy.n_real", "70",
        "--policy.n_synthetic", "50", "--data.source", "Digits", "--data.n_reference", "60",
        "--data.batch_size", "16", "--generator", family, "--evaluator.extractor", "Identity",
        "--evaluator.metrics", '["Frechet"]', "--callbacks", "[]", "--trainer.accelerator", "cpu",
        *more,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("Gaussian", []),
        ("Glow", ["--trainer.max_epochs", "2"]),
        ("Glow", ["--data.images_per_epoch", "50", "--trainer.max_epochs", "3"]),
        ("Glow", ["--trainer.max_epochs", "3", "--trainer.max_steps", "4"]),
        ("Glow", ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "2"]),
    ],
)
def test_counts_are_those_of_the_ledger(family, more, tmp_path):
    if family == "Glow":
        more = [*more, "--generator.couplings", "1", "--generator.hidden", "4"]
    meta = build(arguments(tmp_path, family, *more))
    told = forecast(meta)
    assert [*tmp_path.glob("runs/*")] == []
    records = meta.fit()
    assert told.trained == [
        record.images or len(meta.policy.mix(t)) for t, record in enumerate(records, 1)
    ]
    assert told.mixes == [
        (r.generation, r.n_real, r.n_fresh, r.n_synthetic, r.n_external) for r in records
    ]
    files = [meta.lineage.shard(f"{t:03d}").with_suffix(".safetensors") for t in (1, 2, 3)]
    assert told.samples_bytes == pytest.approx(sum(f.stat().st_size for f in files), rel=0.1)
    weights = [meta.lineage.weights(t).stat().st_size for t in (1, 2, 3)]
    assert told.weights_bytes < sum(weights) < told.weights_bytes + 3 * 30_000


def test_time_is_what_the_same_settings_took_before(tmp_path, capsys):
    assert forecast(build(arguments(tmp_path, "Gaussian"))).seconds is None
    records = build(arguments(tmp_path, "Gaussian")).fit()
    took = sum(sum(record.seconds.values()) for record in records)
    sibling = arguments(tmp_path, "Gaussian", "--seed_everything", "1", name="x_seed1")
    assert forecast(build(sibling)).seconds == pytest.approx(took + 3 * besides(records))
    other = arguments(tmp_path, "Gaussian", "--policy.n_real", "140", name="other")
    told = forecast(build(other))  # another mix: what an image costs is known
    image = sum(record.seconds["train"] for record in records[1:]) / 240  # the first warms up
    more = image * (140 + 190 + 190 - 70 - 120 - 120)
    assert told.seconds == pytest.approx(took + more + 3 * besides(records))
    unlike = arguments(tmp_path, "Gaussian", "--data.n_reference", "61", name="unlike")
    assert forecast(build(unlike)).seconds is None
    capsys.readouterr()
    main(["train", *arguments(tmp_path, "Gaussian", "--lineage.generations", "5"), "--dry_run"])
    text = capsys.readouterr().out
    assert "2 generations to come, 3 finished" in text
    assert "as the same settings took before" in text
    assert max(map(len, text.splitlines())) <= 80


def test_what_no_phase_counts_is_read_from_when_generations_ended_but_pauses_are_not():
    def record(t, seconds, time):
        return GenerationRecord(t, "x", 1, 0, 0, 1.0, {}, seconds={"train": seconds}, time=time)

    day = "2026-11-27T0{}:00:{:02d}+00:00"
    quick = [record(t, 2.0, day.format(1, 5 * t)) for t in range(1, 9)]
    assert besides(quick) == pytest.approx(3.0)
    assert besides([*quick, record(9, 2.0, day.format(7, 0))]) == pytest.approx(3.0)  # a pause
    assert besides([record(t, 2.0, "") for t in (1, 2, 3)]) == 0.0  # nobody told
    assert besides(quick[:1]) == 0.0


@pytest.mark.slow
def test_a_probe_tells_disk_and_leaves_nothing(tmp_path, capsys):
    """Of a family that is trained on batches, and of a closed form."""
    for family, more in (
        ("Gaussian", []),
        ("Glow", ["--trainer.max_epochs", "40", "--generator.couplings", "2"]),
    ):
        given = arguments(tmp_path, family, *more, "--callbacks=[SampleGrids]", name=family)
        before = sorted(tmp_path.rglob("*"))
        told = counted(build(given)).at(probe(build(given), given))
        assert sorted(tmp_path.rglob("*")) == before
        meta = build(given)
        records = meta.fit()
        kept = sum(f.stat().st_size for f in meta.lineage.path.rglob("*") if f.is_file())
        assert told.disk == pytest.approx(kept, rel=0.1)
        took = sum(sum(record.cpu_seconds.values()) for record in records)
        assert took / 3 < told.seconds * told.cpu < took * 3  # a busy machine; no timed test
