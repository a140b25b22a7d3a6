"""A shell completes verbs, options, names of configurations, and files."""

import shutil
import subprocess

import pytest

from mad_lightning.commands import VERBS, main
from mad_lightning.commands.completion import script


@pytest.fixture(scope="module")
def bash():
    return script("bash")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["mad", ""], {*VERBS}),
        (["mad", "re"], {"report"}),
        (["mad", "export", "runs/x", "--t"], {"--to"}),
        (["mad", "train", "--trainer.max_e"], {"--trainer.max_epochs"}),
        (["mad", "branch", "--lineage.na"], {"--lineage.name"}),
        (["mad", "configs", "--show", "digits_glow_f"],
         {"digits_glow_full_synth"}),
        (["mad", "report", "runs/"], set()),  # which are files
    ],
)  # fmt: skip
def test_it_completes(bash, line, expected):
    words = " ".join(f"'{word}'" for word in line)
    told = f'COMP_WORDS=({words}); COMP_CWORD={len(line) - 1}; _mad; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "-c", f"{bash}\n{told}"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert set(done.stdout.split()) == expected


def test_zsh_takes_the_same_and_no_other_shell_is_known(bash, capsys):
    assert script("zsh").endswith(bash)
    with pytest.raises(SystemExit):
        main(["completion", "fish"])
    assert "error: SHELL" in capsys.readouterr().err
