"""SLURM's engine, on submitit's stand-ins for it; and the script that SLURM would get."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mad_lightning.commands import main
from mad_lightning.refusal import Refused
from mad_lightning.sweeps import Slurm, Sweep

from .stand_in import lineage
from .test_plan import BASE

pytest.importorskip("submitit")


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))

    def sweep(*codes):
        also = [{"code": code, "seed_everything": 0} for code in codes]
        return Sweep([tmp_path / "base.yaml"], also=also, root=tmp_path / "runs")

    return sweep


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ("local", {"die": ("finished", 2), "2": ("refused", 1)}),
        ("debug", {"0": ("finished", 1), "2": ("refused", 1), "70": ("failed", 3)}),  # in here
    ],
)
def test_jobs_are_tried_three_times_unless_refused(sweep, tmp_path, cluster, expected, monkeypatch):
    here = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, here)))
    with Slurm(lineage, tmp_path / "runs" / "slurm", cluster=cluster) as engine:
        engine.pause = 0.05
        outcomes = engine.work_off(sweep(*expected).members)
    states = {one.member.arm.partition("=")[2]: (one.state, one.tries) for one in outcomes}
    assert states == expected
    for one in outcomes:
        tries = Path(one.log.with_name(f"{one.member.name}.tries")).read_text()
        assert len(tries) == one.tries
        assert cluster == "debug" or one.last_words == "error: because"


def test_the_script_is_one_that_a_shell_takes_and_a_person_reads(sweep, tmp_path):
    engine = Slurm(
        lineage, tmp_path / "slurm", parallel=2, gpus=1, threads=4,
        options={"time": 240, "partition": "gpu", "mem": "8GB"},
    )  # fmt: skip
    text = engine.script(sweep("0", "1", "2").members)
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    asked = dict(line.removeprefix("#SBATCH --").split("=", 1) for line in lines if "=" in line
                 and line.startswith("#SBATCH"))  # fmt: skip
    assert asked["array"] == "0-2%2"  # three lineages, two at a time
    assert (asked["time"], asked["partition"], asked["mem"]) == ("240", "gpu", "8GB")
    assert (asked["cpus-per-task"], asked["gpus-per-node"]) == ("4", "1")
    assert (asked["nodes"], asked["ntasks-per-node"], asked["job-name"]) == ("1", "1", "mad")
    assert asked["signal"] == "USR2@90"  # in time to be queued again
    assert "srun" in lines[-1]
    assert "submitit.core._submit" in lines[-1]


def test_several_devices_are_several_tasks_of_an_array_of_their_own(sweep, tmp_path):
    swept = sweep("0", "1")
    swept.members[0] = Sweep(
        swept.base, also=[{"trainer.devices": 4}], root=swept.root
    ).members[0]  # fmt: skip
    text = Slurm(lineage, tmp_path / "slurm", gpus=1).script(swept.members)
    assert text.count("#!/bin/bash") == 2
    assert "--ntasks-per-node=4" in text
    assert "--gpus-per-node=4" in text


def test_what_slurm_lacks_is_refused_by_name(sweep, tmp_path, monkeypatch, capsys):
    with pytest.raises(Refused) as caught:
        Slurm(lineage, tmp_path, options={"quality": 3})
    assert caught.value.field == "slurm"
    assert "partition" in caught.value.remedy
    monkeypatch.setenv("PATH", str(tmp_path))  # no srun there
    with pytest.raises(Refused) as caught:
        Slurm(lineage, tmp_path).work_off(sweep("0").members)
    assert caught.value.field == "engine"
    monkeypatch.setitem(sys.modules, "submitit", None)
    (tmp_path / "sweep.yaml").write_text("base: base.yaml")
    with pytest.raises(SystemExit):
        main(["sweep", "--config", str(tmp_path / "sweep.yaml"), "--engine", "slurm"])
    assert "mad-lightning[slurm]" in capsys.readouterr().err
