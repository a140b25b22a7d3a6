"""The loop: what goes where, from scratch each time, the same numbers again."""

import gc
import json
import os
from dataclasses import replace

import lightning as L
import pytest
import torch

from mad_lightning.callbacks.base import LineageCallback, Observers
from mad_lightning.commands.train import build
from mad_lightning.data.shards import Shard
from mad_lightning.generators import Diffusion, Gaussian
from mad_lightning.lineage import LineageDirectory
from mad_lightning.loop.admission import admit
from mad_lightning.metrics.functional import frechet_distance, memorisation, two_sample
from mad_lightning.refusal import Refused
from mad_lightning.samples import to_floats


def numbers(records):
    return [(r.metrics, r.digests) for r in records]


def test_a_lineage_leaves_what_was_promised(arguments, tmp_path):
    records = build(arguments).fit()
    directory = tmp_path / "runs" / "tiny"
    assert [r.generation for r in records] == [1, 2, 3]
    assert LineageDirectory(directory).records() == records
    assert [(r.n_real, r.n_fresh, r.n_synthetic) for r in records] == [
        (200, 0, 0),
        (0, 0, 200),
        (0, 0, 200),
    ]
    for record in records:
        path = directory / f"generation_{record.generation:03d}"
        kept = {each.name for each in path.iterdir()}
        assert kept == {
            "mix.json", "train", "generator.ckpt", "shard.safetensors", "shard.json",
            "samples.png", "metrics.json",
        }  # fmt: skip
        assert set(record.metrics) == {
            "precision", "recall", "density", "coverage", "fd_identity",
        }  # fmt: skip
        assert set(record.floor) == set(record.metrics)
        assert record.protocol["n"] == 100
        assert record.protocol["k"] == 5
        assert record.protocol["extractor"] == "identity"
        assert record.images == max(record.n_real, record.n_synthetic)
        assert set(record.seconds) == {"train", "sample", "evaluate"}
        shard = Shard(LineageDirectory(directory).shard(record.published))
        assert shard.samples.digest() == record.digests["shard"]
        assert shard.manifest.name == record.drawn == record.published
    assert (directory / "config.yaml").exists()
    assert (directory / "floor.json").exists()


def test_values_are_those_of_the_functions_on_stored_samples(arguments):
    meta = build(arguments)
    record = meta.fit()[1]
    shard = meta.store["002"].samples
    real, synthetic = (
        to_floats(each.values).flatten(1) for each in (meta.real.reference, shard[:100])
    )
    assert record.metrics["fd_identity"] == pytest.approx(frechet_distance(real, synthetic))
    assert record.metrics["recall"] == two_sample(real, synthetic, k=5)["recall"]


def test_copies_of_the_training_set_are_seen(arguments):
    """Each generation beside what it was itself trained on; the floor beside generation 1's."""
    asked = [*arguments, "--evaluator.metrics+=Memorisation", "--lineage.name", "copies"]
    build([*asked, "--lineage.generations", "1"]).fit()
    meta = build(asked)  # resumed: what the floor was made of is gone, its values are not
    records = meta.fit()

    def features(samples):
        return to_floats(samples.values).flatten(1)

    real = meta.real
    first, second = (features(meta.store[f"{t:03d}"].samples) for t in (1, 2))
    reference, others = features(real.reference), features(real.floor)
    pool = features(real.read(0, 200))
    assert records[2].floor == records[0].floor
    for training, synthetic, values in (
        (pool, others, records[0].floor),
        (pool, first[:100], records[0].metrics),
        (first[:200], second[:100], records[1].metrics),
    ):
        expected = memorisation(training, reference, synthetic)
        assert {name: values[name] for name in expected} == pytest.approx(expected)


def test_the_same_command_gives_the_same_numbers_and_another_seed_others(arguments, tmp_path):
    first = numbers(build(arguments).fit())
    elsewhere = [*arguments, "--lineage.root", str(tmp_path / "elsewhere")]
    assert numbers(build(elsewhere).fit()) == first
    other = [*arguments, "--lineage.name", "other", "--seed_everything", "1"]
    assert numbers(build(other).fit())[0] != first[0]


def test_a_lineage_can_be_made_longer_and_is_the_same_as_one_made_at_once(arguments):
    build([*arguments, "--lineage.generations", "1"]).fit()
    grown = build(arguments).fit()
    at_once = build([*arguments, "--lineage.name", "at_once"]).fit()
    assert numbers(grown) == numbers(at_once)
    assert numbers(build(arguments).fit()) == numbers(grown)  # nothing left to do


def test_generations_differ_in_initial_weights_noise_and_order(arguments, diffusion):
    meta = build([*arguments, *diffusion])
    seen = {}

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            key = (watch.t, trainer.current_epoch, batch_idx)
            seen[key] = (batch.values.float().mean().item(), torch.rand(()).item())

    watch = Watch()
    plain = meta.trainers.build_arguments
    meta.trainers.build_arguments = lambda: {**plain(), "callbacks": [watch]}
    weights = {}
    fresh = meta.fresh_generator

    def fresh_generator(t):
        watch.t = t
        generator = fresh(t)
        weights[t] = generator.digest()
        return generator

    meta.fresh_generator = fresh_generator
    records = meta.fit()
    assert len(set(weights.values())) == 3
    assert len({noise for _, noise in seen.values()}) == len(seen) == 3 * 2 * 4
    assert all(r.digests["generator"] != weights[r.generation] for r in records)


def test_a_generation_that_meets_a_stray_checkpoint_does_not_continue_it(arguments):
    refused = [*arguments, "--trainer.callbacks", "OnExceptionCheckpoint"]
    with pytest.raises(Refused, match="OnExceptionCheckpoint"):
        build([*refused, "--trainer.callbacks.dirpath", "x"]).fit()


@pytest.mark.parametrize("epochs", [1, 2], ids=["without a Trainer", "with one"])
def test_generators_and_trainers_do_not_outlive_their_generation(arguments, epochs):
    """Python would find them one day; a large model has no room for a dozen of them."""
    alive = []

    class Census(LineageCallback):
        def on_generation_start(self, t, mix):
            kinds = [type(thing) for thing in gc.get_objects()]
            alive.append([sum(issubclass(k, of) for k in kinds) for of in (Gaussian, L.Trainer)])

    gc.collect()
    meta = build([*arguments, "--trainer.max_epochs", str(epochs)])
    meta.observers.callbacks = (Census(),)
    gc.disable()
    try:
        meta.fit()
    finally:
        gc.enable()
    assert alive[1:] == [[0, 0], [0, 0]]
    assert gc.get_freeze_count() == 0


def test_weights_that_do_not_move_are_an_error(arguments, diffusion, monkeypatch):
    monkeypatch.setattr(Diffusion, "training_step", lambda self, batch, batch_idx: None)
    monkeypatch.setattr("mad_lightning.nets.ema.EMA.update", lambda *_: None)  # it counts
    with pytest.raises(Refused, match="did not move"):
        build([*arguments, *diffusion]).fit()


def test_sample_seeds_and_grid_are_addressed(arguments):
    meta = build(arguments)
    meta.fit()
    grids = []

    class Keep(LineageCallback):
        def on_samples_ready(self, t, directory, samples):
            grids.append((t, samples))

    longer = build([*arguments, "--lineage.generations", "5"])
    longer.observers.callbacks = (Keep(),)
    longer.fit()
    assert [t for t, _ in grids] == [4, 5]
    assert grids[0][1].labels.tolist() == [i % 10 for i in range(80)]
    manifest = json.loads(longer.lineage.shard("004").with_suffix(".json").read_text())
    assert manifest["seeds"] == [0, 4, "sample"]
    assert manifest["count"] == 200


def test_reference_is_never_trained_on(arguments):
    meta = build(arguments)
    admit(meta)
    reference = {each.numpy().tobytes() for each in meta.real.reference.values}
    fed = meta.data.feed(meta.policy.mix(1), meta.seed)
    trained = [each.numpy().tobytes() for each in fed.training_set().values]
    # digits hold a few exact duplicates, so compare places instead of contents where they meet
    assert len(reference & set(trained)) <= 3
    assert len(trained) == 200


def test_a_callback_that_says_stop_stops_the_lineage_also_when_resumed(arguments):
    rule = '[{"class_path": "StopWhenMAD", "init_args": {"metric": "recall", "below": 2.0}}]'
    place = arguments.index("--callbacks")
    arguments[place + 1] = rule
    assert len(build(arguments).fit()) == 1
    assert len(build(arguments).fit()) == 1


def test_lambda_below_one_loses_recall_faster(arguments):
    recalls = {}
    for bias in ("1.0", "0.6"):
        options = [*arguments, "--lineage.name", bias, "--sampling_bias", bias]
        options += ["--policy.n_initial", "500", "--data.n_reference", "400"]
        recalls[bias] = [r.metrics["recall"] for r in build(options).fit()]
    assert recalls["1.0"][0] > recalls["1.0"][2]
    assert all(b < u for b, u in zip(recalls["0.6"], recalls["1.0"], strict=True))


def test_fresh_data_lineage_on_a_law_measures_the_fitted_law(tmp_path):
    meta = build(
        [
            "--config", "configs/gaussian_fresh.yaml",
            "--lineage.root", str(tmp_path),
            "--lineage.name", "e9",
            "--lineage.generations", "3",
            "--data.cache", str(tmp_path / "cache"),
            "--callbacks", "[]",
        ]
    )  # fmt: skip
    records = meta.fit()
    assert records[0].metrics["w2_squared"] == pytest.approx(31.9, rel=0.1)  # paper-facts: n = 100
    assert [(r.n_real, r.n_fresh, r.n_synthetic) for r in records][1] == (0, 100, 900)
    state = torch.load(meta.lineage.weights(1), weights_only=True)["state_dict"]
    law_mean = state["mean"][0]
    real = meta.real.read(0, 100).values.double()
    assert torch.allclose(law_mean, real.mean(dim=0), atol=1e-12)


def test_a_second_program_on_the_same_lineage_is_refused(arguments):
    class Second(LineageCallback):
        def on_generation_start(self, t, mix):
            with pytest.raises(Refused, match="another program"):
                build(arguments).fit()

    meta = build([*arguments, "--lineage.generations", "1"])
    meta.observers = Observers([Second()])
    assert len(meta.fit()) == 1


def test_what_a_kill_left_half_written_is_swept(arguments, tmp_path):
    torn = tmp_path / "runs" / "tiny" / "generation_001" / "blocks" / ".00000.safetensors.7.tmp"
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b"half")
    build([*arguments, "--lineage.generations", "1"]).fit()
    assert not list((tmp_path / "runs").rglob("*.tmp"))


def test_fast_dev_run_is_a_smoke_run(arguments, diffusion):
    records = build([*arguments, *diffusion, "--trainer.fast_dev_run", "true"]).fit()
    assert [r.generation for r in records] == [1, 2, 3]


def starts(meta):
    """Digest of the weights that each generation's training begins with."""
    seen = {}
    plain = meta.trainers.build_arguments

    class Watch(L.Callback):
        def on_train_start(self, trainer, pl_module):
            seen[len(seen) + 1] = (pl_module.digest(), trainer.global_step)

    meta.trainers.build_arguments = lambda: {**plain(), "callbacks": [Watch()]}
    return seen


def ends(records):
    return [record.digests["generator"] for record in records]


def test_start_previous_continues_and_start_base_returns(arguments, diffusion):
    options = [*arguments, *diffusion]
    seen, records = {}, {}
    for start in ("scratch", "previous", "base"):
        meta = build([*options, "--lineage.name", start, "--lineage.start", start])
        seen[start] = starts(meta)
        records[start] = meta.fit()
        assert {record.start for record in records[start]} == {start}
        assert {step for _, step in seen[start].values()} == {0}  # optimisers start anew
    first = seen["scratch"][1][0]
    assert all(each[1][0] == first for each in seen.values())
    assert len({ends(each)[0] for each in records.values()}) == 1
    previous, base = ends(records["previous"]), ends(records["base"])
    assert [seen["previous"][t][0] for t in (2, 3)] == previous[:2]
    assert [seen["base"][t][0] for t in (2, 3)] == [base[0], base[0]]
    assert len({*previous, *base, *ends(records["scratch"])}) == 1 + 3 * 2 - 1


def test_a_base_from_a_file_starts_every_generation(arguments, diffusion):
    options = [*arguments, *diffusion, "--lineage.generations", "2"]
    origin = build([*options, "--lineage.generations", "1"])
    digest = ends(origin.fit())[0]
    checkpoint = str(origin.lineage.weights(1))
    meta = build(
        [*options, "--lineage.name", "on", "--lineage.start", "base", "--lineage.base", checkpoint]
    )
    seen = starts(meta)
    meta.fit()
    assert [each[0] for each in seen.values()] == [digest, digest]


def test_a_base_of_another_size_or_without_use_is_refused(arguments, diffusion, tmp_path):
    small = build([*arguments, *diffusion, "--lineage.generations", "1"])
    small.fit()
    base = ["--lineage.name", "other", "--lineage.start", "base", "--lineage.base"]
    base.append(str(small.lineage.weights(1)))
    other = [*arguments, *diffusion, "--generator.network.widths", "[16,16]", *base]
    with pytest.raises(Refused, match=r"lineage.base.*does not fit Diffusion"):
        build(other).fit()
    with pytest.raises(Refused, match=r"lineage.start.*closed form"):
        build([*arguments, "--lineage.name", "g", "--lineage.start", "previous"]).fit()
    base[-1] = str(small.lineage.generation(1) / "shard.json")
    with pytest.raises(Refused, match=r"lineage.base.*no checkpoint"):
        build([*arguments, *diffusion, *base]).fit()


def test_initialisation_from_data_happens_once_before_training(arguments, diffusion, monkeypatch):
    met = []
    monkeypatch.setattr(
        Diffusion, "initialise", lambda self, samples: met.append((self.digest(), samples))
    )
    meta = build([*arguments, *diffusion, "--lineage.start", "previous"])
    seen = starts(meta)
    meta.fit()
    assert len(met) == 1  # later generations start from weights that are initialised
    assert met[0][0] == seen[1][0]
    fed = meta.data.feed(meta.policy.mix(1), meta.seed)
    assert met[0][1].digest() == next(iter(fed.loader())).digest()


def test_classes_are_measured_by_the_labels_that_were_asked_for(arguments):
    metrics = '[{"class_path": "Classes"}]'
    meta = build([*arguments, "--lineage.generations", "1", "--evaluator.metrics", metrics])
    record = meta.fit()[0]
    asked, reference = meta.store["001"].samples.labels[:100], meta.real.reference.labels
    kept = (asked.bincount(minlength=10) / reference.bincount()).clamp(max=1.0).mean()
    assert record.metrics["class_share"] == pytest.approx(float(kept), abs=1e-6)
    assert 0.0 < record.metrics["class_recall"] <= 1.0
    assert 0.0 < record.floor["class_share"] <= 1.0


def test_what_the_ledger_tells_of_would_survive_a_power_cut(arguments, monkeypatch):
    """Every file of a generation has reached the disk, under its name, when its line is written."""
    meta, synced, told = build([*arguments, "--lineage.generations", "2"]), set(), []
    fsync, append = os.fsync, type(meta.lineage.ledger).append

    def watched(file):
        fsync(file)
        synced.add(os.fstat(file).st_ino)

    def appended(ledger, record):
        folder = meta.lineage.generation(record.generation)
        kept = [folder, folder / "train", *folder.glob("*.*"), *folder.glob("train/*.csv")]
        told.append([path.name for path in kept if path.stat().st_ino not in synced])
        append(ledger, record)

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr(type(meta.lineage.ledger), "append", appended)
    meta.fit()
    assert told == [[], []]


def test_a_training_in_float64_draws_the_same_after_a_kill_and_the_ledger_tells_of_it(
    arguments, tmp_path
):
    flow = ["--generator", "Glow", "--generator.levels", "1", "--generator.couplings", "1"]
    flow += ["--generator.hidden", "4", "--lineage.generations", "1"]
    options = [*arguments, *flow, "--trainer.precision", "64-true"]
    (calm,) = build(options).fit()
    place = tmp_path / "runs" / "tiny"
    (place / "lineage.jsonl").unlink()
    (place / "generation_001" / "shard.json").unlink()
    (again,) = build(options).fit()
    assert again.digests == calm.digests
    told = calm.environment
    assert (told["precision"], told["drawn_in"]) == ("64-true", "float32")
    assert told["device"].startswith("cpu (")
    assert {"python", "torch", "lightning", "mad_lightning"} <= told.keys()
    assert Shard(LineageDirectory(place).shard("001")).manifest.environment == told
    versions = {"torch": "1.0"}
    record = replace(calm, environment=told | versions)
    assert build(options).changed_since(record) == [f"torch: 1.0 -> {told['torch']}"]


def test_how_many_samples_a_device_takes_at_once_changes_nothing_and_may_change(arguments):
    alone = build(arguments).fit()
    begun = [*arguments, "--lineage.name", "begun", "--data.device_batch", "7"]
    build([*begun, "--lineage.generations", "2"]).fit()
    records = build([*begun, "--data.device_batch", "50"]).fit()
    assert [record.digests for record in records] == [record.digests for record in alone]
    assert records[2].changed == ["data.device_batch: 7 -> 50"]
    with pytest.raises(Refused) as caught:
        build([*begun, "--data.device_batch", "0"])
    assert "device_batch" in caught.value.field
