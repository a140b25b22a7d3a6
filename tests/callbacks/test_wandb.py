"""W&B shows each generation once, never waits long, and never stops a lineage."""

import csv
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import mad_lightning
from mad_lightning.callbacks.base import LineageCallback, LineageInfo, Observers
from mad_lightning.callbacks.wandb import WandB
from mad_lightning.callbacks.wandb_files import carried
from mad_lightning.callbacks.wandb_keys import history_row
from mad_lightning.lineage import GenerationRecord, LineageDirectory, Quantity
from mad_lightning.policies import Mix, Part
from mad_lightning.refusal import Refused

EPOCHS, IMAGES = 2, 100  # of a fake generation: epochs, images an epoch


# A lineage without training, and an offline run read back


def info(directory, generations=3):
    return LineageInfo(
        name="digits_diffusion_seed7",
        directory=LineageDirectory(directory),
        generations=generations,
        seed=7,
        policy="synth_aug",
        sampling_bias=0.66,
        floor={"precision": 0.95, "recall": float("nan")},
        protocol={"n": 800, "k": 5},
        config={"policy": {"class_path": "SyntheticAugmentation"}},
    )


def record(t):
    return GenerationRecord(
        generation=t,
        policy="synth_aug",
        n_real=900,
        n_fresh=0,
        n_synthetic=900 * (t - 1),
        sampling_bias=0.66,
        metrics={
            "precision": 0.9,
            "recall": 1 / t,
            "density": 1.1,
            "coverage": 0.8,
            "fid": 3.0 * t,
        },
        floor={"precision": 0.95},
        images=EPOCHS * IMAGES,
        seconds={"train": 1.5},
    )


def records(n):
    return [record(t) for t in range(1, n + 1)]


def keep_curves(directory, epochs):
    path = directory / "train" / "curves.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", "images", "loss"])
        writer.writeheader()
        for epoch in range(epochs):
            writer.writerow(
                {"epoch": epoch, "images": (epoch + 1) * IMAGES, "loss": 1 / (epoch + 1)}
            )


def train(callback, lineage, t, epochs=range(EPOCHS)):
    """Generation ``t``, of which this process trains the given epochs."""
    directory = lineage.directory.generation(t)
    callback.on_generation_start(t, Mix(t, (Part("real", None, 0, 900),)))
    for epoch in epochs:
        keep_curves(directory, epoch + 1)
        callback.on_generation_curves(t, (epoch + 1) * IMAGES, {"loss": 1 / (epoch + 1)})
    if epochs and epochs[-1] < EPOCHS - 1:
        return
    Image.new("L", (8, 8), 40 * t).save(directory / "samples.png")
    callback.on_generation_end(record(t), directory)


def lineage_of(callback, lineage, have=0, upto=None, finished=True):
    upto = lineage.generations if upto is None else upto
    callback.on_lineage_start(lineage, records(have))
    for t in range(have + 1, upto + 1):
        train(callback, lineage, t)
    callback.on_lineage_end(records(upto), finished)


def run_until_killed(directory):
    """Two generations, then half of the third; for a process of its own."""
    callback, lineage = WandB(), info(Path(directory), generations=4)
    callback.on_lineage_start(lineage, [])
    train(callback, lineage, 1)
    train(callback, lineage, 2)
    train(callback, lineage, 3, epochs=[0])
    assert callback.failure is None
    os.write(1, b"half\n")
    time.sleep(60)


def runs(directory):
    return sorted(each for each in directory.glob("wandb/*run-*") if any(each.glob("*.wandb")))


def protos(path):
    """The records of a ``.wandb`` file: 7 bytes, then a LevelDB log in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    data, place, buffer = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, n, kind = struct.unpack("<IHB", data[place : place + 7])
        if kind == n == 0:
            place += left
            continue
        chunk = data[place + 7 : place + 7 + n]
        place += 7 + n
        buffer = chunk if kind in (1, 2) else buffer + chunk
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(buffer)


def read_run(directory):
    """What an offline run holds."""
    run = SimpleNamespace(rows=[], config={}, axes={}, exit_code=None)
    (file,) = directory.glob("*.wandb")
    for each in protos(file):
        match each.WhichOneof("record_type"):
            case "run":
                run.id, run.group, run.name = (
                    each.run.run_id,
                    each.run.run_group,
                    each.run.display_name,
                )
                run.job_type, run.project = each.run.job_type, each.run.project
                run.tags = [*each.run.tags]
                run.config |= {i.key: json.loads(i.value_json) for i in each.run.config.update}
            case "history":
                items = {i.key or "/".join(i.nested_key): i.value_json for i in each.history.item}
                run.rows.append({k: json.loads(v) for k, v in items.items() if k[0] != "_"})
            case "metric":
                run.axes[each.metric.name or each.metric.glob_name] = each.metric.step_metric
            case "exit":
                run.exit_code = each.exit.exit_code
    run.generations = [row["generation"] for row in run.rows if "generation" in row]
    run.curve = [row["train/images"] for row in run.rows if "train/images" in row]
    return run


@pytest.fixture(autouse=True)
def _nobodys_settings(tmp_path_factory, monkeypatch):
    """No key, no settings, no cache of whoever runs the tests; a new wandb for every test."""
    for name in [*os.environ]:
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    if hasattr(sys.modules.get("wandb"), "teardown"):
        sys.modules["wandb"].teardown()


# What is logged


def test_a_row_names_what_a_metric_is_about():
    assert history_row(record(2)) == {
        "generation": 2,
        "fidelity/precision": 0.9,
        "fidelity/density": 1.1,
        "diversity/recall": 0.5,
        "diversity/coverage": 0.8,
        "distance/fid": 6.0,
        "fidelity/precision_floor": 0.95,
        "data/n_real": 900,
        "data/n_fresh": 0,
        "data/n_synthetic": 900,
        "seconds/train": 1.5,
    }


def test_a_metric_is_filed_as_it_states_and_not_by_what_its_name_begins_with():
    quantities = {"precise_emd": Quantity("distance", "higher"), "modest": Quantity("copies")}
    metrics = {
        "class_recall": 0.5,
        "class_share": 0.5,
        "memorised": 0.1,
        "nearest_ratio": 1.0,
        "precise_emd": 2.0,
        "modest": 3.0,
    }
    row = history_row(replace(record(2), metrics=metrics, quantities=quantities))
    assert {key for key in row if key.rpartition("/")[2] in metrics} == {
        "diversity/class_recall",
        "diversity/class_share",
        "copies/memorised",
        "copies/nearest_ratio",
        "distance/precise_emd",
        "copies/modest",
    }


def test_without_key_and_terminal_a_lineage_is_one_offline_run(tmp_path, capsys):
    callback = WandB(tags=["paper"])
    started = time.monotonic()
    lineage_of(callback, info(tmp_path))
    assert callback.failure is None
    assert time.monotonic() - started < 30  # wandb's own patience is 90 s

    (directory,) = runs(tmp_path)
    run = read_run(directory)
    assert (run.name, run.group) == ("digits_diffusion_seed7", "digits_diffusion")
    assert (run.project, run.job_type, run.exit_code) == ("mad-lightning", "lineage", 0)
    assert run.generations == [1, 2, 3]
    assert run.curve == [100, 200, 300, 400, 500, 600]  # counted through all generations
    assert run.axes["diversity/*"] == run.axes["samples"] == "generation"
    assert run.axes["train/*"] == "train/images"
    assert run.config["policy"] == "synth_aug"
    assert run.config["config"]["policy"] == {"class_path": "SyntheticAugmentation"}
    assert run.config["protocol"] == {"n": 800, "k": 5}
    assert run.config["floor"] == {"precision": 0.95}

    told = carried(directory)
    assert told["config"] == run.config
    assert run.config["sampling_bias"] == 0.66
    assert run.config["arm"].startswith("synth_aug λ 0.66 ")
    assert told["summary"]["verdict"].startswith("one lineage: fid went from 3 to 9")
    assert (told["summary"]["first/fid"], told["summary"]["last/fid"]) == (3.0, 9.0)
    assert told["history"]["fidelity/precision_floor"] == 0.95
    assert told["summary"]["generation"] == 3  # W&B keeps the last row there

    last = [row for row in run.rows if "generation" in row][-1]
    samples = {k.removeprefix("samples/"): v for k, v in last.items() if k.startswith("samples")}
    assert last["diversity/recall"] == pytest.approx(1 / 3)
    assert "generation 3" in str(samples)
    assert len([*directory.glob("files/media/images/*.png")]) == 3

    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"W&B: to upload this offline run: wandb sync {directory}"]


# Resume


def test_a_killed_lineage_resumes_into_one_run_with_every_row_once(tmp_path):
    here = [Path(__file__).parent, Path(mad_lightning.__file__).parents[1]]
    killed = subprocess.Popen(
        [sys.executable, "-c", f"import test_wandb as t; t.run_until_killed({str(tmp_path)!r})"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, here))},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert killed.stdout.readline() == "half\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (before,) = runs(tmp_path)

    callback, lineage = WandB(), info(tmp_path, generations=4)
    callback.on_lineage_start(lineage, records(2))
    train(callback, lineage, 3, epochs=[1])
    train(callback, lineage, 4)
    callback.on_lineage_end(records(4), finished=True)
    assert callback.failure is None

    (after,) = runs(tmp_path)
    run = read_run(after)
    assert after.name.split("-")[-1] == before.name.split("-")[-1] == run.id
    assert run.generations == [1, 2, 3, 4]
    assert run.curve == [100 * i for i in range(1, 9)]
    assert len([*after.glob("files/media/images/*.png")]) == 4


def test_curves_of_a_generation_that_only_missed_its_record_are_not_lost(tmp_path):
    lineage, callback = info(tmp_path), WandB()
    callback.on_lineage_start(lineage, [])
    keep_curves(lineage.directory.generation(1), EPOCHS)
    train(callback, lineage, 1, epochs=[])
    callback.on_lineage_end(records(1), finished=False)
    assert callback.failure is None
    run = read_run(*runs(tmp_path))
    assert (run.generations, run.curve, run.exit_code) == ([1], [100, 200], 1)


def test_what_was_synced_is_kept_and_not_logged_again(tmp_path):
    lineage_of(WandB(), info(tmp_path), upto=2, finished=False)
    (first,) = runs(tmp_path)
    (file,) = first.glob("*.wandb")
    file.with_suffix(".wandb.synced").touch()  # as `wandb sync` does
    for _ in range(2):  # the second time, the unsynced rest is made anew
        lineage_of(WandB(), info(tmp_path), have=2, finished=False)
        kept, rest = (read_run(each) for each in runs(tmp_path))
        assert (kept.generations, rest.generations) == ([1, 2], [3])
        assert rest.curve == [500, 600]
        assert kept.id == rest.id


def test_a_complete_lineage_adds_nothing_until_it_grows(tmp_path):
    lineage_of(WandB(), info(tmp_path))

    def written():  # W&B's own service may still be writing its log
        files = (each for each in tmp_path.rglob("*") if each.name != "debug-core.log")
        return {each: each.stat().st_mtime_ns for each in files}

    before = written()
    again = WandB()
    lineage_of(again, info(tmp_path), have=3)
    assert again.failure is None
    assert written() == before

    lineage_of(again, info(tmp_path, generations=4), have=3)
    assert read_run(*runs(tmp_path)).generations == [1, 2, 3, 4]


# What counts is what is there


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A lineage whose offline run is complete."""
    directory = tmp_path_factory.mktemp("whole")
    lineage_of(WandB(mode="offline"), info(directory))
    sys.modules["wandb"].teardown()
    return directory


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


DAMAGE = {
    "the folder is gone": lambda here: shutil.rmtree(here / "wandb"),
    "the run's file is gone": lambda here: next(here.glob("wandb/*/*.wandb")).unlink(),
    "the run's file was cut": lambda here: cut(next(here.glob("wandb/*/*.wandb"))),
    "a bit of the run's file": lambda here: flip(next(here.glob("wandb/*/*.wandb"))),
    "the note was cut": lambda here: cut(here / "wandb.json"),
    "the note is a list": lambda here: (here / "wandb.json").write_text("[1]"),
    "the note has no name": lambda here: (here / "wandb.json").write_text('{"complete": true}'),
    "the note is gone": lambda here: (here / "wandb.json").unlink(),
    "killed before the first row": lambda here: (
        shutil.rmtree(here / "wandb"),
        (here / "wandb.json").write_text(
            '{"id": "abcd", "complete": false, "logged": {"a": {"generation": 3, "images": 600}}}'
        ),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_whatever_is_lost_stands_again_after_the_next_start(whole, tmp_path, damage):
    here = tmp_path / "copy"
    shutil.copytree(whole, here)
    before = read_run(*runs(here))
    DAMAGE[damage](here)
    callback = WandB()
    lineage_of(callback, info(here), have=3)  # nothing is left to train
    assert callback.failure is None
    (after,) = runs(here)
    run = read_run(after)
    assert (run.generations, run.curve) == (before.generations, before.curve)
    assert (run.id == before.id) is (damage not in ("killed before the first row",))
    again = WandB()
    lineage_of(again, info(here), have=3)
    assert runs(here) == [after]


# Modes, and waiting


def test_a_key_without_network_falls_back_within_seconds(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody answers there
    callback = WandB(init_timeout=1, finish_timeout=2)
    started = time.monotonic()
    lineage_of(callback, info(tmp_path))
    assert time.monotonic() - started < 30
    assert callback.failure is None
    assert read_run(*runs(tmp_path)).generations == [1, 2, 3]
    out, err = capfd.readouterr()
    assert out.startswith("W&B: the run is offline, since the server did not take it (CommError")
    assert len(out.splitlines()) == 2
    assert err == ""


def test_online_without_a_key_asks_nobody(tmp_path, capsys):
    lineage_of(WandB(mode="online"), info(tmp_path), upto=1)
    assert "no API key" in capsys.readouterr().out
    assert len(runs(tmp_path)) == 1


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_disabled_leaves_no_trace(tmp_path, monkeypatch, how):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would fail
    if how == "environment":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    callback = WandB(mode="disabled" if how == "argument" else "auto")
    lineage_of(callback, info(tmp_path))
    assert callback.failure is None
    assert not [*tmp_path.glob("wandb*")]


class FakeRun:
    """An online run; its server has it up to some generation."""

    offline, url, id = False, "https://wandb.test/run", "abc"
    entity, project = "me", "mine"

    def __init__(self, directory, summary):
        self.dir, self.summary = str(directory / "wandb" / "run-1-abc" / "files"), summary
        self.resumed, self.rows, self.exit_code, self.breaks = bool(summary), [], None, False

    def define_metric(self, *_, **__): ...

    def log(self, row):
        if self.breaks:
            raise BrokenPipeError("the service is gone")
        self.rows.append(row)

    def finish(self, exit_code):
        self.exit_code = exit_code

    def scan_history(self, keys):
        return [row for row in self.rows if all(key in row for key in keys)]


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Stands in for wandb, with a server and a key in ``~/.netrc``."""
    (Path.home() / ".netrc").write_text("machine api.wandb.ai login user password 123\n")
    settings = SimpleNamespace(
        api_key=None, identity_token_file=None, base_url="https://api.wandb.ai"
    )
    module = SimpleNamespace(
        run=FakeRun(tmp_path, {}),
        asked=[],
        Settings=lambda **each: each,
        Image=lambda path, caption: caption,
        setup=lambda: SimpleNamespace(settings=settings),
        init=lambda **each: module.asked.append(each) or module.run,
    )
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_online_gets_what_the_server_lacks(tmp_path, fake):
    for t in (1, 2, 3):
        keep_curves(info(tmp_path).directory.generation(t), EPOCHS)
    fake.run = FakeRun(tmp_path, {"generation": 1, "train/images": 300})  # killed in generation 2
    callback = WandB()
    lineage_of(callback, info(tmp_path), have=2)
    assert callback.failure is None
    (asked,) = fake.asked
    assert (asked["mode"], asked["resume"]) == ("online", "allow")
    assert 0 < asked["settings"]["init_timeout"] < 60
    assert [row["generation"] for row in fake.run.rows if "generation" in row] == [2, 3]
    assert [row["train/images"] for row in fake.run.rows if "train/images" in row] == [
        400,
        500,
        600,
    ]
    assert fake.run.exit_code == 0


def test_online_is_asked_for_its_history_and_gets_the_rows_in_the_middle(tmp_path, fake):
    for t in (1, 2, 3):
        keep_curves(info(tmp_path).directory.generation(t), EPOCHS)
    fake.run = FakeRun(tmp_path, {"generation": 3, "train/images": 600})
    there = FakeRun(tmp_path, {})
    there.rows = [{"generation": 1}, {"generation": 3}]
    there.rows += [{"train/images": images} for images in (100, 200, 300, 600)]
    asked = []
    fake.Api = lambda timeout: SimpleNamespace(run=lambda path: asked.append(path) or there)
    lineage_of(WandB(), info(tmp_path), have=3)
    assert asked == ["me/mine/abc"]
    assert [row.get("generation") or row["train/images"] for row in fake.run.rows] == [400, 2, 500]
    again = WandB()
    lineage_of(again, info(tmp_path), have=3)  # the server has confirmed it: nobody is asked
    assert len(asked) == len(fake.asked) == 1


@pytest.mark.parametrize("variable", ["offline", "dryrun"])
def test_the_environment_decides_before_a_key_does(tmp_path, fake, monkeypatch, variable):
    monkeypatch.setenv("WANDB_MODE", variable)
    lineage_of(WandB(), info(tmp_path), upto=1)
    lineage_of(WandB(mode="online"), info(tmp_path), have=1)
    assert [each["mode"] for each in fake.asked] == ["offline", "online"]


def test_a_run_that_the_server_has_stays_and_the_rebuilt_one_is_another(tmp_path, fake, capsys):
    lineage_of(WandB(), info(tmp_path))
    passed = []
    WandB().rebuild(info(tmp_path), records(3), lambda rows: passed.extend(rows) or rows)
    first, second = fake.asked
    assert first["id"] != second["id"]
    assert [row["generation"] for row in fake.run.rows if "generation" in row] == [1, 2, 3] * 2
    assert [each.generation for each in passed] == [1, 2, 3]
    assert capsys.readouterr().out.count("W&B: https://wandb.test/run") == 4


def test_a_rebuild_that_fails_says_so(tmp_path, fake):
    fake.run.breaks = True
    with pytest.raises(RuntimeError, match="BrokenPipeError: the service is gone"):
        WandB().rebuild(info(tmp_path), records(3))


def test_project_and_group_are_taken_from_the_environment_unless_they_are_told(
    tmp_path, fake, monkeypatch
):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_RUN_GROUP", "many")
    lineage_of(WandB(), info(tmp_path), upto=1)
    monkeypatch.setenv("WANDB_ENTITY", "team")
    monkeypatch.setenv("WANDB_NAME", "trial")
    lineage_of(WandB(), info(tmp_path), have=1)
    explicit = {"project": "mine", "group": "few", "entity": "me", "name": "short"}
    lineage_of(WandB(**explicit), info(tmp_path), have=1)
    named = ("project", "group", "entity", "name")
    assert [tuple(asked[part] for part in named) for asked in fake.asked] == [
        ("theirs", "many", None, "digits_diffusion_seed7"),
        ("theirs", "many", "team", "trial"),
        ("mine", "few", "me", "short"),
    ]


def test_wandb_itself_takes_its_tags_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_TAGS", "paper,digits")
    lineage_of(WandB(), info(tmp_path), upto=1)
    (directory,) = runs(tmp_path)
    assert read_run(directory).tags == ["paper", "digits"]


def test_a_failure_is_said_once_and_stops_nothing(tmp_path, fake, capsys):
    callback, lineage = WandB(), info(tmp_path)
    callback.on_lineage_start(lineage, [])
    train(callback, lineage, 1)
    fake.run.breaks = True
    train(callback, lineage, 2)
    train(callback, lineage, 3)
    callback.on_lineage_end(records(3), finished=True)
    assert isinstance(callback.failure, BrokenPipeError)
    url, failure = capsys.readouterr().out.splitlines()
    assert url == "W&B: https://wandb.test/run"
    assert failure.startswith("W&B: logging curves failed (BrokenPipeError: the service is gone)")


def test_an_upload_that_takes_too_long_is_left_for_later(tmp_path, fake, capsys):
    def finish(exit_code):
        raise TimeoutError

    fake.run.finish = finish
    callback = WandB()
    lineage_of(callback, info(tmp_path))
    assert callback.failure is None
    assert "W&B: to upload what 120 s were too short for: wandb sync" in capsys.readouterr().out


def test_a_second_one_beside_it_is_refused():
    with pytest.raises(Refused, match=r"callbacks\.WandB: two of them"):
        Observers([WandB(), LineageCallback(), WandB(tags=["paper"])]).check({})
    Observers([WandB(mode="disabled"), LineageCallback(), LineageCallback()]).check({})


def test_a_wait_without_end_is_refused():
    WandB().check({})
    with pytest.raises(Refused, match="finish_timeout"):
        WandB(finish_timeout=0).check({})


@pytest.mark.parametrize(
    ("field", "arguments", "mode"),
    [
        ("mode", {}, "nonsense"),
        ("mode", {"mode": "sometimes"}, ""),
        ("project", {"project": "a/b?c"}, "offline"),
        ("project", {"project": "p" * 129}, "online"),
        ("tags", {"tags": ["fine", ""]}, "offline"),
        ("", {"mode": "offline"}, "nonsense"),
    ],
)
def test_what_wandb_would_not_take_is_refused_before_training(monkeypatch, field, arguments, mode):
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    with pytest.raises(Refused) as caught:
        WandB(**arguments).check({})
    assert caught.value.field == field
    assert len(str(caught.value).splitlines()) == 2
    if mode != "nonsense" and field != "mode":
        WandB(**arguments, mode="disabled").check({})
