"""Warm workers leave the ledgers that separate commands leave, whatever happens to them."""

import json
import os
import signal

import pytest
import yaml

from mad_lightning.commands import main
from mad_lightning.commands.sweep import _WORKER
from mad_lightning.commands.train import build
from mad_lightning.lineage import LineageDirectory
from mad_lightning.sweeps.local import _Worker, work_off
from mad_lightning.sweeps.plan import Sweep

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

    def killing(worker, outcome):
        if not killed and outcome.member.name.endswith("=0.5_seed0"):
            killed.append(outcome.member.name)
            os.kill(worker.process.pid, signal.SIGKILL)
            worker.process.wait()
        return train(worker, outcome)

    sweep = Sweep.read(file, root=file.parent / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Worker, "train", killing)
        return work_off(sweep.members, _WORKER, parallel=1), killed


def test_ledgers_are_those_of_separate_commands_though_a_worker_is_killed(file, swept):
    outcomes, killed = swept
    states = {outcome.member.name: (outcome.state, outcome.tries) for outcome in outcomes}
    assert states.pop("base,n_initial=0_seed0") == ("refused", 1)
    assert states.pop(killed[0]) == ("finished", 2)
    assert set(states.values()) == {("finished", 1)}
    for outcome in outcomes:
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


def test_printed_commands_train_the_same_lineages(file, capsys):
    main(["sweep", "--config", str(file), "--engine", "print", "--root", str(file.parent / "p")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("mad train --config=") for line in lines)
    assert not LineageDirectory(file.parent / "p").path.exists()


def test_a_dry_run_says_what_it_will_cost(file, capsys):
    kept = yaml.safe_load(file.read_text())
    kept.pop("also")
    (file.parent / "dry.yaml").write_text(yaml.safe_dump(kept))
    main(
        [
            "sweep",
            "--config",
            str(file.parent / "dry.yaml"),
            "--dry_run",
            "--root",
            str(file.parent / "d"),
        ]
    )
    text = capsys.readouterr().out
    assert "4 lineages, " in text
    assert "known once" in text
    assert not (file.parent / "d").exists()
