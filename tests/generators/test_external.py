"""Programs that know nothing of this package, as a family like any other."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

from mad_lightning import load
from mad_lightning.callbacks.base import LineageCallback
from mad_lightning.commands import main
from mad_lightning.commands.train import build
from mad_lightning.generators.external import External
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.loop.forecast import forecast
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec
from mad_lightning.seeds import reseed, sample_seeds

PROGRAM = f"{{python}} {Path(__file__).with_name('stand_in.py')}"
TRAIN = f"{PROGRAM} train --data {{data}} --out {{out}} --seed {{seed}}"
DRAW = f"{PROGRAM} draw --out {{out}} --samples {{samples}}"
BY_LIST = f"{DRAW} --seeds {{seeds}} --labels {{labels}} --bias {{bias}}"


def given(channels=1, classes=3):
    values = torch.randint(256, (60, channels, 6, 6), generator=torch.Generator().manual_seed(0))
    return Samples(values.byte(), torch.arange(60) % classes)


def trained(samples, train=TRAIN, draw=BY_LIST, keep="*.json", **arguments):
    """As one pass of a lineage trains it."""
    generator = External(train, draw, keep=keep, **arguments).build(SampleSpec.of(samples))
    reseed(0, 1, "fit")
    generator.on_fit_start()
    for start in range(0, len(samples), 20):
        generator.training_step(samples[start : start + 20], 0)
    generator.on_train_epoch_end()
    return generator


@pytest.fixture(scope="module")
def model():
    return trained(given())


def like(model, draw, **arguments):
    """A generator with the same files that draws otherwise."""
    other = External(TRAIN, draw, keep="*.json", **arguments).build(model.spec)
    other.load_state_dict(model.state_dict())
    return other


def drawn(generator, n=9, **arguments):
    return generator.sample(sample_seeds(0, n, 0), labels=torch.arange(n) % 3, **arguments).values


# --- what the programs get, and give ----------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_an_archive_and_arrays_hold_the_same_samples_and_classes(channels):
    formats = ("folder", "zip", "npz") if channels == 1 else ("zip", "npz")
    digests = {trained(given(channels), format=format).digest() for format in formats}
    assert len(digests) == 1


def test_vectors_and_samples_without_classes_come_as_arrays():
    draw = f"{DRAW} --seeds {{seeds}} --names npz"
    vectors = Samples(torch.randn(60, 5))
    generator = trained(vectors, draw=draw, format="npz")
    values = generator.sample(torch.arange(300)).values
    assert values.shape == (300, 5)
    assert torch.allclose(values.mean(0), vectors.values.mean(0), atol=0.3)


@pytest.mark.parametrize(
    "draw",
    [
        f"{DRAW} --seeds {{seeds}} --labels {{labels}} --names seed",
        f"{DRAW} --seeds {{seeds}} --labels {{labels}} --names npz",
        f"{DRAW} --seeds-file {{seeds_file}} --label {{label}} --names seed",
        BY_LIST.replace("{out}", "{out}/*/net-*.json"),
    ],
)
def test_samples_are_the_same_however_the_program_is_told_and_names_them(model, draw):
    other = like(model, draw)
    assert torch.equal(drawn(other), drawn(model))
    if "*" not in draw and "npz" not in draw:  # what is asked twice is drawn once
        seeds, labels = torch.tensor([7, -3, 7, 2**32 + 7, 7]), torch.tensor([1, 0, 1, 1, 2])
        first, _, *same, of_another_class = other.sample(seeds, labels=labels).values
        assert all(torch.equal(first, value) for value in same)
        assert not torch.equal(first, of_another_class)


def test_long_lists_are_drawn_in_several_goes(model, monkeypatch):
    monkeypatch.setattr("mad_lightning.generators.external._AT_ONCE", 5)
    assert torch.equal(drawn(like(model, BY_LIST)), drawn(model))


def test_files_are_the_weights_and_times_are_not(model, tmp_path):
    model.lay_out(tmp_path)
    names = [path.name for path in sorted(tmp_path.rglob("*.*"))]
    assert names == ["net-0.json", f"net-{model._seed}.json"]
    assert trained(given()).digest() == model.digest()
    assert trained(given()[:40]).digest() != model.digest()
    assert trained(given(), keep="*").digest() != model.digest()  # its log tells the time


def test_lambda_is_handed_on_as_it_is_or_as_guidance(model):
    guided = like(model, BY_LIST.replace("--bias {bias}", "--bias {guidance}"))
    biased = drawn(model, sampling_bias=0.5)
    assert not torch.equal(biased, drawn(model))
    assert not torch.equal(drawn(guided, sampling_bias=0.5), biased)
    assert model.sampler()["lambda"] == "{bias}"
    assert guided.sampler()["lambda"] == "{guidance}"


# --- what is refused before anything starts ----------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        ({"train": f"{TRAIN} --x {{sed}}"}, "train", "nothing is known as {sed}"),
        ({"train": "x {out}"}, "train", "{data} does not stand"),
        ({"draw": "x {out} {samples}"}, "draw", "{seeds} does not stand"),
        ({"draw": "x {out} {seeds}"}, "draw", "{samples} does not stand"),
        ({"train": "x '{data} {out}"}, "train", "no command"),
        ({"train": ""}, "train", "empty"),
        ({"format": "tar"}, "format", "tar"),
        ({"patience": 0.0}, "patience", "outside"),
    ],
)
def test_commands_that_cannot_work_are_refused_when_they_are_given(arguments, field, words):
    with pytest.raises(Refused, match=words) as refused:
        External(**{"train": TRAIN, "draw": BY_LIST, **arguments})
    assert refused.value.field == field


def test_what_does_not_fit_the_samples_is_refused_when_it_is_built():
    grey = SampleSpec((1, 6, 6), 3)
    with pytest.raises(Refused, match="npz"):
        External(TRAIN, BY_LIST).build(SampleSpec((5,)))
    with pytest.raises(Refused, match="which of 3 classes"):
        External(TRAIN, f"{DRAW} --seeds {{seeds}}").build(grey)
    generator = External(TRAIN, BY_LIST.replace("{bias}", "1")).build(grey)
    generator.check_bias(1.0)
    with pytest.raises(Refused, match=r"sampling_bias.*takes no bias"):
        generator.check_bias(0.7)


def test_programs_that_are_not_there_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line, words in (
        ("no-such-trainer {data} {out}", "no program 'no-such-trainer'"),
        ("{python} train.py {data} {out}", "no file train.py"),
    ):
        with pytest.raises(Refused, match=words) as refused:
            External(line, BY_LIST).check_training([60], 8)
        assert refused.value.field == "train"
    External(TRAIN, BY_LIST).check_training([60], 8)


# --- what goes wrong while they work -----------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [("exit", "exit code 1"), ("kill", "SIGKILL"), ("silent", "left no file")],
)
def test_a_training_that_fails_shows_its_last_words_and_keeps_all(fault, words, tmp_path):
    with pytest.raises(Refused, match=words) as refused:
        trained(given(), train=f"{TRAIN} --fault {fault}", logs=str(tmp_path))
    assert refused.value.field == "train"
    (log,) = tmp_path.iterdir()
    assert str(log) in refused.value.problem
    assert "working train" in log.read_text()
    assert f"'{fault}'" in refused.value.problem  # its backticks are no parameters of ours
    assert ("no memory left" in refused.value.problem) == (fault == "exit")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("few", "asked for 9 samples and wrote 8"),
        ("size", "L, 5 x 5, samples are L, 6 x 6"),
        ("torn", "cannot be read"),
    ],
)
def test_samples_are_counted_and_checked(model, fault, words, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(Refused, match=words) as refused:
        drawn(like(model, f"{BY_LIST} --fault {fault}"))
    assert refused.value.field == "draw"
    (log,) = tmp_path.rglob("*.log")  # kept where temporary files are
    assert str(log) in refused.value.problem


def test_arrays_of_another_shape_are_refused(model):
    with pytest.raises(Refused, match=r"samples.npz holds \(8, 1, 6, 6\)|\(8, 6, 6, 1\)"):
        drawn(like(model, f"{BY_LIST} --names npz --fault few"))


@pytest.mark.parametrize(
    ("draw", "n"), [(BY_LIST, 9), (f"{DRAW} --seeds {{seeds}} --label {{label}}", 2)]
)
def test_a_new_generator_whose_samples_depend_on_their_batch_is_refused(draw, n, model):
    generator = like(model, f"{draw} --fault batch")
    drawn(generator, n)  # it was tried when it was trained
    generator._is_new = True
    with pytest.raises(Refused, match="when other seeds are drawn with it"):
        drawn(generator, n)


# --- in a lineage ------------------------------------------------------------------------------


@pytest.fixture
def lineage(tmp_path, arguments):
    """Two generations of 60 samples each; drawn in blocks of 60."""
    kept = arguments[: arguments.index("--callbacks")]
    changed = {
        "--lineage.generations": "2",
        "--lineage.block_size": "60",
        "--generator": "External",
    }
    changed |= {"--policy.n_initial": "60", "--data.n_reference": "60"}
    changed |= {"--evaluator.metrics": '[{"class_path": "Frechet"}]'}
    for option, value in changed.items():
        kept[kept.index(option) + 1] = value
    kept += ["--policy.n_synthetic", "60", "--trainer.accelerator", "cpu", "--callbacks", "[]"]

    def made(name, *more, train=TRAIN, draw=BY_LIST):
        commands = ["--generator.train", train, "--generator.draw", draw, "--generator.keep=*.json"]
        return build([*kept, *commands, "--lineage.name", name, *more])

    return made


def outcome(records):
    return [[r.metrics, r.digests["shard"], r.digests["generator"], r.sampler] for r in records]


class Fatal(LineageCallback):
    """Stops the program at a place of generation 2."""

    def __init__(self, phase):
        self.phase = phase

    def on_generation_progress(self, t, phase, done, total):
        if t == 2 and phase == self.phase:
            raise OSError("the disk is gone")


def test_a_killed_lineage_ends_as_one_left_alone_and_its_generators_can_be_loaded(lineage):
    calm = lineage("calm")
    wanted = outcome(calm.fit())
    assert wanted[0][1] != wanted[1][1]
    assert all("{out}" in row[3]["draw"] for row in wanted)
    killed = lineage("killed")
    killed.observers.callbacks += (Fatal("sample"),)
    with pytest.raises(OSError, match="gone"):
        killed.fit()
    assert outcome(lineage("killed").fit()) == wanted
    assert load(calm.lineage.path, 2).digest() == wanted[1][2]


def test_its_files_can_be_had_and_what_they_weigh_is_known_once_there_are_some(lineage, tmp_path):
    first = lineage("first", "--lineage.generations", "1")
    assert forecast(first).weights_bytes is None
    assert "weights known after generation 1" in str(forecast(first))
    first.fit()
    longer = lineage("first", "--lineage.generations", "3")
    assert forecast(longer).weights_bytes == 2 * first.lineage.weights(1).stat().st_size
    main(["export", str(first.lineage), "--to", "files", "--out", str(tmp_path / "out")])
    card, *kept = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert card.name == "README.md"
    assert {path.suffix for path in kept} == {".json"}, "what `keep` names"
    load(first.lineage.path).lay_out(tmp_path / "again")
    for path in kept:
        other = tmp_path / "again" / path.relative_to(tmp_path / "out")
        assert path.read_bytes() == other.read_bytes()


def test_what_was_trained_is_kept_until_it_can_be_drawn_from(lineage, monkeypatch, tmp_path):
    """Training is dear; the program that draws can be mended."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for fault, words in (("exit", "no memory left"), ("batch", "other seeds")):
        monkeypatch.setenv("STAND_IN_DRAW", fault)
        with pytest.raises(Refused, match=rf"generator.draw: (?s:.*){words}"):
            lineage("once", "--lineage.generations", "1").fit()
        monkeypatch.setenv("STAND_IN_TRAIN", "exit")  # it would fail if it were started again
    monkeypatch.delenv("STAND_IN_DRAW")
    (record,) = lineage("once", "--lineage.generations", "1").fit()
    assert record.images == 60


def test_what_it_cannot_do_is_refused_before_anything_is_written(lineage, tmp_path):
    for words, more in (
        (r"trainer.devices: 2 processes.*`trainer.devices: 1`", ["--trainer.devices", "2"]),
        (r"lineage.start: External is fitted anew", ["--lineage.start", "previous"]),
        (r"generator.draw: it does not say which of 10", ["--generator.draw", f"{DRAW} {{seeds}}"]),
    ):
        with pytest.raises(Refused, match=f"(?s){words}"):
            lineage("refused", *more).fit()
    with pytest.raises(Refused, match=r"generator.train: there is no program"):
        lineage("refused", train="no-such-trainer {data} {out}").fit()
    assert not (tmp_path / "runs" / "refused").exists()


# --- a plain diffusers script --------------------------------------------------------------------

ROOT = Path(__file__).parents[2]


def started(name, tmp_path):
    """The shipped configuration as a program, with short trainings; its own examples train."""
    config = ROOT / "configs" / "digits_external_full_synth.yaml"
    given = yaml.safe_load(config.read_text())["generator"]["init_args"]
    options = {
        "--lineage.name": name,
        "--lineage.root": tmp_path,
        "--lineage.generations": 4,
        "--policy.n_initial": 100,
        "--policy.n_synthetic": 100,
        "--data.n_reference": 100,
        "--data.cache": tmp_path / "cache",
        "--generator.train": given["train"].replace("--steps 600", "--steps 60"),
        "--generator.logs": tmp_path / name / "logs",
        "--evaluator.extractor": "Pixels",
    }
    arguments = [str(part) for option in options.items() for part in option]
    return subprocess.Popen(
        [sys.executable, "train.py", "--config", str(config), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / f"tmp {name}")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def working(script, place):
    """Processes of a script that work below a place."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            arguments = (folder / "cmdline").read_bytes().decode().split("\0")
            is_leash = any(argument.endswith("leash.py") for argument in arguments)
            if script in arguments and not is_leash and any(str(place) in a for a in arguments):
                yield int(folder.name)


def awaited(find, process, limit=400):
    for _ in range(limit * 10):
        if result := find():
            return result
        assert process.poll() is None, process.stderr.read()[-3000:]
        time.sleep(0.1)
    raise AssertionError("it never came")


@pytest.mark.slow
def test_a_plain_diffusers_script_killed_three_times_ends_as_one_left_alone(tmp_path):
    for name in ("calm", "killed"):
        (tmp_path / f"tmp {name}").mkdir()
    records = LineageDirectory(tmp_path / "killed").records
    for t, script, kills_us in ((1, "train", True), (2, "train", False), (3, "draw", True)):
        ours = started("killed", tmp_path)
        program = f"examples/diffusers_{script}.py"
        awaited(lambda: ours.poll() is None and len(records()) >= t - 1, ours)  # noqa: B023
        pids = awaited(lambda: [*working(program, tmp_path)], ours)  # noqa: B023
        time.sleep(2.0)
        os.kill(ours.pid if kills_us else pids[0], signal.SIGKILL)
        code = ours.wait()
        assert code == (-signal.SIGKILL if kills_us else 2)
        assert kills_us or "SIGKILL" in ours.stderr.read()
        for _ in range(100):
            if not [*working(program, tmp_path)]:
                break
            time.sleep(0.1)
        assert not [*working(program, tmp_path)]
        assert len(records()) == t - 1
    for name in ("killed", "calm"):
        ours = started(name, tmp_path)
        _, errors = ours.communicate()
        assert ours.returncode == 0, errors[-3000:]
        assert [*(tmp_path / f"tmp {name}").glob("mad-*")] == []
    wanted = outcome(LineageDirectory(tmp_path / "calm").records())
    assert len(wanted) == 4
    assert len({row[1] for row in wanted}) == 4
    assert outcome(records()) == wanted
