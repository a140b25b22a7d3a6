"""Ray's engine: the same ledgers, a killed worker's lineage goes on, what is refused is final."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import yaml

from mad_lightning.commands.sweep import _PROGRAM, train
from mad_lightning.commands.train import build
from mad_lightning.refusal import Refused
from mad_lightning.sweeps import Ray, Sweep

from .test_plan import BASE


def dying_once(arguments):
    """Trains as the command does; of one lineage, the first worker is killed on the way."""
    from mad_lightning.loop import meta_trainer

    told = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    mark = Path(told["lineage.root"], "killed")
    generation = meta_trainer.MetaTrainer.generation

    def killed(meta, t):
        if t == 2 and meta.lineage.name.endswith("=0.5_seed0") and not mark.exists():
            mark.write_text(f"{os.getpid()}")
            os.kill(os.getpid(), signal.SIGKILL)
        return generation(meta, t)

    meta_trainer.MetaTrainer.generation = killed
    try:
        train(arguments)
    finally:
        meta_trainer.MetaTrainer.generation = generation


@pytest.mark.ray
@pytest.mark.slow
def test_ledgers_are_those_of_separate_commands_though_a_worker_is_killed(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    here = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(here))  # dying_once is found in workers
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    sweep = Sweep(
        [tmp_path / "base.yaml"],
        {"sampling_bias": [1.0, 0.5], "seed_everything": [0, 1]},
        also=[
            {"policy.n_initial": 0},
            {"trainer.devices": 2, "trainer.strategy": "ddp", "lineage.threads": 1},
        ],
        root=tmp_path / "runs",
    )
    with Ray(dying_once, _PROGRAM, parallel=2) as engine:
        outcomes = engine.work_off(sweep.members)
    states = {one.member.name: (one.state, one.tries) for one in outcomes}
    assert states.pop("base,n_initial=0_seed0") == ("refused", 1)
    assert states.pop("base,sampling_bias=0.5_seed0") == ("finished", 2)
    assert {*states.values()} == {("finished", 1)}
    assert (tmp_path / "runs" / "killed").exists()
    (twice,) = (one for one in outcomes if one.tries == 2)
    assert "worker" in twice.log.read_text()  # how it died
    for one in outcomes:
        if one.state == "finished" and one.member.devices == 1:
            alone = build([*one.member.arguments, f"--lineage.root={tmp_path / 'alone'}"])
            alone.fit()
            mine, theirs = (
                [(r["metrics"], r["digests"]) for r in map(json.loads, (
                    record.to_json() for record in directory.records()))]
                for directory in (one.member.directory, alone.lineage)
            )  # fmt: skip
            assert mine == theirs
    assert not (home / ".ray").exists()  # no token of Ray's


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Refused) as caught:
        Ray(train, _PROGRAM)
    assert caught.value.field == "engine"
    assert "mad-lightning[ray]" in caught.value.remedy
