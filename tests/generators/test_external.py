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

from mad_lightning import load
from mad_lightning.callbacks.base import LineageCallback
from mad_lightning.commands.train import build
from mad_lightning.generators.external import External
from mad_lightning.loop.one_pass import OnePass
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


def trained(samples, train=TRAIN, draw=BY_LIST, keep="*.npy", **arguments):
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
    other = External(TRAIN, draw, keep="*.npy", **arguments).build(model.spec)
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
        BY_LIST.replace("{out}", "{out}/*/net-*.npy"),
    ],
)
def test_samples_are_the_same_however_the_program_is_told_and_names_them(model, draw):
    other = like(model, draw)
    assert torch.equal(drawn(other), drawn(model))
    if "*" not in draw and "npz" not in draw:  # what is asked twice is drawn once
        seeds, labels = torch.tensor([7, -3, 7, 2**32 + 7]), torch.tensor([1, 0, 1, 1])
        first, _, *same = other.sample(seeds, labels=labels).values
        assert all(torch.equal(first, value) for value in same)


def test_long_lists_are_drawn_in_several_goes(model, monkeypatch):
    monkeypatch.setattr("mad_lightning.generators.external._AT_ONCE", 5)
    assert torch.equal(drawn(like(model, BY_LIST)), drawn(model))


def test_files_are_the_weights_and_times_are_not(model):
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


def test_braces_around_other_things_than_names_are_left_alone():
    command = f"{TRAIN} --net '{{\"width\": 8}}'"
    assert External(command, BY_LIST)._trains.filled({})[-1] == '{"width": 8}'


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


def is_alive(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    return False


def pids(log):
    """Of the program and of what it has started, as soon as it tells them."""
    for _ in range(600):
        if log.exists() and len(told := log.read_text().partition("pids ")[2].split()) == 2:
            return [int(pid) for pid in told]
        time.sleep(0.05)
    raise AssertionError("it never started")


def gone(processes):
    for _ in range(200):
        if not any(map(is_alive, processes)):
            return True
        time.sleep(0.05)
    return False


def test_a_program_without_an_end_is_ended_with_all_that_it_has_started(tmp_path):
    with pytest.raises(Refused, match=r"after 1.5 s without an end"):
        trained(given(), train=f"{TRAIN} --fault slow", logs=str(tmp_path), patience=1.5)
    assert gone(pids(next(tmp_path.iterdir())))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_when_we_are_killed_the_program_goes_too(end, tmp_path):
    log = tmp_path / "log"
    command = f"{PROGRAM} train --fault slow".format(python=sys.executable).split()
    code = f"""
from pathlib import Path
from mad_lightning.programs import run
run({command!r}, Path({str(log)!r}))
"""
    ours = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    processes = pids(log)
    assert all(map(is_alive, processes))
    os.kill(ours.pid, end)
    assert gone(processes)
    assert ours.wait() != 0


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
    for option, value in changed.items():
        kept[kept.index(option) + 1] = value
    kept += ["--policy.n_synthetic", "60", "--trainer.accelerator", "cpu"]

    def made(name, *more, train=TRAIN, draw=BY_LIST):
        commands = ["--generator.train", train, "--generator.draw", draw, "--generator.keep=*.npy"]
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
            raise KeyboardInterrupt


def test_a_killed_lineage_ends_as_one_left_alone_and_its_generators_can_be_loaded(lineage):
    calm = lineage("calm")
    wanted = outcome(calm.fit())
    assert wanted[0][1] != wanted[1][1]
    assert all("{out}" in row[3]["draw"] for row in wanted)
    for phase in ("train", "sample"):
        killed = lineage("killed")
        killed.observers.callbacks += (Fatal(phase),)
        with pytest.raises(KeyboardInterrupt):
            killed.fit()
    with pytest.raises(Refused, match=r"generator.train: .* SIGKILL"):
        lineage("other", train=f"{TRAIN} --fault kill").fit()
    assert outcome(lineage("killed").fit()) == wanted
    assert isinstance(calm.trainer(1, calm.fresh_generator(1), "", False, None), OnePass)
    assert load(calm.lineage.path, 2).digest() == wanted[1][2]


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
