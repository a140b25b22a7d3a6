"""Warm workers leave the ledgers that separate commands leave, whatever happens to them."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from mad_lightning.commands import main
from mad_lightning.commands.sweep import _PROGRAM, _WORKER
from mad_lightning.commands.train import build
from mad_lightning.loop.pacing import Pace
from mad_lightning.refusal import Refused
from mad_lightning.sweeps import Local, Sweep
from mad_lightning.sweeps.local import _Worker, cards

from .test_plan import BASE


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    (root / "base.yaml").write_text(yaml.safe_dump(BASE))
    fields = {
        "grid": {"sampling_bias": [1.0, 0.5], "seed_everything": [0, 1]},
        "also": [{"policy.n_initial": 0}],  # which is refused
    }
    (root / "sweep.yaml").write_text(yaml.safe_dump({"base": "base.yaml", **fields}))
    return root / "sweep.yaml"


def ledger(directory):
    """What decides numbers."""
    lines = [json.loads(record.to_json()) for record in directory.records()]
    return [(line["metrics"], line["digests"], line["seed"]) for line in lines]


@pytest.fixture(scope="module")
def swept(file):
    """A sweep whose worker was killed when it had begun its second lineage."""
    killed, train = [], _Worker.train

    def killing(worker, arguments, log):
        if not killed and "0.5_seed0" in log:
            killed.append(log)
            os.kill(worker.process.pid, signal.SIGKILL)
            worker.process.wait()
        return train(worker, arguments, log)

    sweep = Sweep.read(file, root=file.parent / "runs")
    with pytest.MonkeyPatch.context() as patch, Local(_WORKER, _PROGRAM) as engine:
        patch.setattr(_Worker, "train", killing)
        return engine.work_off(sweep.members)


def test_ledgers_are_those_of_separate_commands_though_a_worker_is_killed(file, swept):
    states = {outcome.member.name: (outcome.state, outcome.tries) for outcome in swept}
    assert states.pop("base,n_initial=0_seed0") == ("refused", 1)
    assert states.pop("base,sampling_bias=0.5_seed0") == ("finished", 2)
    assert set(states.values()) == {("finished", 1)}
    for outcome in swept:
        if outcome.state == "refused":
            assert "policy.n_initial" in outcome.last_words
        elif outcome.member.seed == 0:
            member = outcome.member
            alone = build([*member.arguments, f"--lineage.root={file.parent / 'alone'}"])
            alone.fit()
            assert ledger(member.directory) == ledger(alone.lineage)


def test_again_it_does_what_is_missing_and_reports_all(file, swept, capsys):
    root = file.parent / "runs"
    before = {path: path.stat().st_mtime_ns for path in root.glob("*/*")}
    with pytest.raises(SystemExit) as left:
        main(["sweep", "--config", str(file), "--parallel", "1", "--root", str(root)])
    assert left.value.code == 1  # one is refused
    text = capsys.readouterr().out
    assert "runs: base,n_initial=0_seed0 (4 of 5 finished)" in text
    assert text.count("runs: ") == 1
    assert "refused: base,n_initial=0_seed0" in text
    assert "Verdict" in text
    assert before == {path: path.stat().st_mtime_ns for path in root.glob("*/*")}


def test_a_dry_run_says_what_it_will_cost_and_whose_arm_cannot_be_trained(
    file, capsys, monkeypatch
):
    asked = []

    def probe(meta, arguments):  # of which tests/loop/test_forecast.py knows
        asked.append(arguments)
        return Pace(0.001, 2.0, 0.5, 5.0, 1000.0, 100.0, "as told", 0.25)

    monkeypatch.setattr("mad_lightning.loop.pacing.probe", probe)
    kept = yaml.safe_load(file.read_text())
    kept.pop("also")
    (file.parent / "dry.yaml").write_text(yaml.safe_dump(kept))
    root = str(file.parent / "d")
    one = ["--parallel", "1", "--dry_run", "--root", root]
    main(["sweep", "--config", str(file.parent / "dry.yaml"), *one])
    text = capsys.readouterr().out
    assert len(asked) == 1  # for all arms, which differ in bias and seed alone
    trained = 4 * 2 * 50 * 0.001  # lineages, generations, images
    whole = 4 * (2 * 2.0 + 0.5) + trained + 5.0
    assert f"about {whole:.3g} s on 1 workers ({whole / 4:.3g} s of CPU time)" in text
    assert text.startswith("4 lineages in 2 arms, 8 generations\n")  # before anything is measured
    assert text.index("measuring the pace") < text.index("4 lineages to train, ")
    assert not (file.parent / "d").exists()
    with pytest.raises(SystemExit):
        main(["sweep", "--config", str(file), "--dry_run", "--root", root])
    assert "base,n_initial=0" in capsys.readouterr().err  # whose arm cannot be trained


# --- what engines do alike, with a stand-in for training -----------------------------------------


@pytest.fixture
def stand_in(file, tmp_path):
    """An engine whose worker and program run a few lines, and a sweep of two lineages."""
    kind = [sys.executable, str(Path(__file__).with_name("stand_in.py"))]

    def make(also=(), **given):
        grid = {"seed_everything": [0, 1]}
        sweep = Sweep([file.parent / "base.yaml"], grid, None, also, root=tmp_path / "runs")
        return sweep, Local([*kind, "worker"], [*kind, "program"], **given)

    return make


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_breaks_is_tried_three_times_and_stops_nobody(stand_in, tmp_path, devices):
    also = [{"code": code, "seed_everything": 5} for code in (70, 2, 1)]
    also = [{**one, "trainer.devices": devices} for one in also]
    sweep, engine = stand_in(also)
    told = []
    with engine:
        outcomes = engine.work_off(sweep.members, lambda one: told.append(one.state))
    states = {one.member.arm: (one.state, one.tries) for one in outcomes}
    assert states == {
        "base": ("finished", 1),
        "base,code=70": ("failed", 3),
        "base,code=2": ("refused", 1),
        "base,code=1": ("diverged", 1),
    }
    tries = {path.stem: len(path.read_text()) for path in tmp_path.glob("runs/*.tries")}
    assert tries == {one.member.name: one.tries for one in outcomes}
    assert {one.last_words for one in outcomes} == {"error: because"}
    assert told.count("runs") == 7
    assert told.count("waits") == 2


def test_ctrl_c_ends_workers_and_programs(stand_in):
    also = [{"code": "sleep", "seed_everything": 5}]
    also += [{"code": "sleep", "trainer.devices": 2, "seed_everything": 6}]
    sweep, engine = stand_in(also, parallel=2)
    begun = threading.Event()

    def changed(outcome):
        if outcome.member.seed == 6 and outcome.state == "runs":
            begun.set()

    def press():
        begun.wait(60)
        time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    started = time.monotonic()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    try:
        with pytest.raises(KeyboardInterrupt), engine:
            engine.work_off(sweep.members, changed)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 50
    assert [each._process.poll() is None for each in engine._programs.values()] == [False]
    assert not engine._workers


def test_cards_are_shared_in_turn_and_several_belong_to_one_place():
    name = "CUDA_VISIBLE_DEVICES"
    assert cards(2, 0) == [{}, {}]
    assert [place[name] for place in cards(3, 2)] == ["0", "1", "0"]
    assert [place[name] for place in cards(4, 8, devices=3)] == ["0,1,2", "3,4,5"]
    with pytest.raises(Refused) as caught:
        cards(1, 1, devices=2)
    assert caught.value.field == "gpus"


def test_the_worker_of_a_place_sees_its_card(stand_in, monkeypatch):
    seen, popen = [], _Worker.__init__

    def watch(worker, command, environment):
        seen.append(environment.get("CUDA_VISIBLE_DEVICES"))
        popen(worker, command, environment)

    monkeypatch.setattr(_Worker, "__init__", watch)
    sweep, engine = stand_in(parallel=2, gpus=2)
    with engine:
        engine.work_off(sweep.members)
    assert {*seen} <= {"0", "1"}
    assert seen


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--parallel", "0"], "--parallel"),
        (["--gpus", "-1"], "--gpus"),
        (["--address", "auto"], "--address"),
        (["--slurm", "time=3"], "--slurm"),
        (["--engine", "slurm", "--slurm", "time"], "--slurm"),
        (["--engine", "cloud"], "--engine"),
        (["--until", "monday"], "--until"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(file, options, field, capsys):
    with pytest.raises(SystemExit) as left:
        main(["sweep", "--config", str(file), *options])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {field}")


def test_it_ends_with_an_answer_and_gives_it_again_from_what_stands(file, tmp_path, capsys):
    fields = {
        "base": str(file.parent / "base.yaml"),
        "zip": {"policy.n_fresh": [50, 150], "policy.n_synthetic": [150, 50]},
        "grid": {"policy": ["FreshData"], "policy.n_initial": [200], "seed_everything": [0, 1]},
    }
    (tmp_path / "shares.yaml").write_text(yaml.safe_dump(fields))
    asked = ["--config", str(tmp_path / "shares.yaml"), "--root", str(tmp_path / "runs")]
    main(["sweep", *asked, "--parallel", "1", "--margin", "0.9"])
    told = " ".join(capsys.readouterr().out.split())
    files = [tmp_path / "runs" / f"shares.{end}" for end in ("csv", "html", "svg")]
    assert all(path.exists() for path in files)
    assert "policy.n_fresh" in files[0].read_text().partition("\n")[0]
    sentence = told.partition("(tried: 25 and 75 %, 2 seeds each)")[0]
    assert "With 200 samples a generation" in sentence
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/*")}
    main(["sweep", *asked, "--answer", "--margin", "0.9"])
    assert sentence[sentence.index("With 200") :] in " ".join(capsys.readouterr().out.split())
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/*")}
    with pytest.raises(SystemExit) as left:
        main(["sweep", *asked, "--answer", "--margin", "-1"])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: --margin")
