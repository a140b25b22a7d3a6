"""Printed commands are lines for shells, xargs and the queues of others."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

from mad_lightning.commands import main
from mad_lightning.sweeps import Sweep

from .test_plan import BASE


def test_xargs_runs_the_printed_commands_as_the_page_says(tmp_path, capsys):
    """With whatever a shell or xargs would read otherwise in their arguments."""
    if shutil.which("xargs") is None:
        pytest.skip("no xargs")
    (tmp_path / "ba se.yaml").write_text(yaml.safe_dump(BASE))
    grid = {
        "policy.n_initial": [30, 0],
        "callbacks": [[{"class_path": "Console"}]],
        "generator.train": ["a 'b' \"c\" \\d $HOME `e` *"],
    }
    plain = {"base": "ba se.yaml", "grid": grid}
    file, root = tmp_path / "sweep.yaml", tmp_path / "it's $HOME"
    file.write_text(yaml.safe_dump(plain))
    main(["sweep", "--config", str(file), "--engine", "print", "--root", str(root)])
    text = capsys.readouterr().out
    wanted = [["train", *member.arguments] for member in Sweep.read(file, root).members]
    assert [shlex.split(line) for line in text.splitlines()] == [["mad", *one] for one in wanted]
    assert not root.exists()
    program = tmp_path / "mad"  # tells its arguments; one of them is refused
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "os.write(1, (json.dumps(sys.argv[1:]) + chr(10)).encode())\n"
        "sys.exit(2 if '--policy.n_initial=0' in sys.argv else 0)\n"
    )
    program.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    done = subprocess.run(
        ["xargs", "-P", "2", "-L", "1", "env"],
        input=text, text=True, capture_output=True, timeout=60, env=os.environ | {"PATH": path},
    )  # fmt: skip
    assert sorted(map(json.loads, done.stdout.splitlines())) == sorted(wanted)
    assert done.returncode == 123, done.stderr  # one is refused, which stops nobody
