"""The configurations that come along are found, read and copied wherever the package lies."""

from itertools import pairwise
from pathlib import Path

import pytest

from mad_lightning.commands import main
from mad_lightning.commands.configs import CONFIGS
from mad_lightning.sweeps.plan import Sweep


def said(capsys, *arguments):
    main(["configs", *arguments])
    return capsys.readouterr().out


def test_each_has_a_name_and_a_first_sentence_in_80_columns(capsys):
    lines = said(capsys).splitlines()
    names = [line for line in lines if not line.startswith(" ")]
    files = {str(path.relative_to(CONFIGS))[:-5] for path in CONFIGS.rglob("*.yaml")}
    assert files == {*names} > {"digits_diffusion_full_synth", "studies/e11"}
    assert max(map(len, lines)) <= 80
    assert all(below.startswith("  ") for line, below in pairwise(lines) if line in names)


def test_words_choose_among_them(capsys):
    text = said(capsys, "wgan", "mnist")
    assert "mnist_wgan_full_synth" in text
    assert "digits" not in text.splitlines()[0]
    assert said(capsys, "nosuchword") == ""


@pytest.mark.parametrize("name", ["gaussian_fresh", "configs/gaussian_fresh.yaml", "studies/e9"])
def test_what_is_shown_and_copied_is_the_file(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (CONFIGS / f"{name.removeprefix('configs/').removesuffix('.yaml')}.yaml").read_text()
    assert said(capsys, "--show", name) == text
    told = said(capsys, "--copy", name)
    (copied,) = tmp_path.iterdir()
    assert copied.read_text() == text
    assert f"mad {'study' if 'studies' in name else 'train'} --config {copied.name}" in told
    with pytest.raises(SystemExit):
        main(["configs", "--copy", name])
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gaussian_fresh_share", "digits_bias_means"])
def test_a_sweep_comes_with_what_it_names(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = said(capsys, "--copy", f"sweeps/{name}").splitlines()[-1]
    assert told == f"sweeps/{name}.yaml: mad sweep --config sweeps/{name}.yaml"
    here = Sweep.read(Path("sweeps", f"{name}.yaml"))
    there = Sweep.read(CONFIGS / "sweeps" / f"{name}.yaml")
    assert [one.name for one in here.members] == [one.name for one in there.members]
    (tmp_path / f"sweeps/{name}.yaml").unlink()
    said(capsys, "--copy", f"sweeps/{name}")  # what stands is left as it is


def test_a_name_that_is_none_is_refused_with_those_that_are_near(capsys):
    with pytest.raises(SystemExit):
        main(["configs", "--copy", "gausian_fresh"])
    assert "did you mean gaussian_fresh" in capsys.readouterr().err
