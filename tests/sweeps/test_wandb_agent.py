"""The sweep of W&B's agents that the page shows: its trials have names of their own and train."""

import itertools
import re
from pathlib import Path

import yaml

from mad_lightning.commands import main
from mad_lightning.commands.train import build
from mad_lightning.lineage import LineageDirectory

ROOT = Path(__file__).parents[2]


def trials():
    """The commands that an agent runs: ``${args}`` are ``--name=value``, as W&B documents."""
    (text,) = re.findall(r"```yaml\n(method: .*?)```", (ROOT / "docs/wandb.md").read_text(), re.S)
    plain = yaml.safe_load(text)
    names = [*plain["parameters"]]
    for values in itertools.product(*(plain["parameters"][name]["values"] for name in names)):
        args = [f"--{name}={value}" for name, value in zip(names, values, strict=True)]
        yield [w for word in plain["command"] for w in (args if word == "${args}" else [word])]


def test_no_two_trials_share_a_name_and_one_trains_offline(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = list(trials())
    assert len(commands) == 18
    assert all(command[:2] == ["mad", "train"] for command in commands)
    some = [commands[0], commands[1], commands[3], commands[6]]  # each differs from the first
    names = {build(command[2:]).lineage.name for command in some}
    assert len(names) == 4
    assert "gaussian_fresh,n_fresh=50,sampling_bias=1.0_seed0" not in names  # as the file says
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    small = ["--lineage.generations=2", f"--lineage.root={tmp_path}", "--callbacks=[]"]
    main([*commands[-1][1:], *small])
    (made,) = tmp_path.glob("*_seed2")
    assert made.name == "gaussian_fresh,n_fresh=200,sampling_bias=0.8_seed2"
    record = LineageDirectory(made).records()[-1]
    assert (record.n_fresh, record.sampling_bias, record.seed) == (200, 0.8, 2)
