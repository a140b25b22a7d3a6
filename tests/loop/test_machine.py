"""What the machine has and what a lineage weighs."""

import shutil
import subprocess

import pytest
import torch
from torch import nn

from mad_lightning.loop.machine import commit, memory, nearest, sample_bytes, weight_bytes
from mad_lightning.refusal import Refused
from mad_lightning.samples import SampleSpec


def test_a_sample_weighs_what_its_tensors_do():
    assert sample_bytes(SampleSpec((3, 8, 8), 10)) == 3 * 64 + torch.zeros(1).long().nbytes
    assert sample_bytes(SampleSpec((2,))) == torch.zeros(2).nbytes


def test_a_network_weighs_its_weights_and_buffers():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert weight_bytes(net) == sum(tensor.nbytes for tensor in net.state_dict().values())


def test_memory_is_at_least_what_this_process_has_and_less_than_a_petabyte():
    assert 2**28 < memory() < 2**50


def test_the_nearest_directory_is_where_another_can_be_made(tmp_path):
    assert nearest(tmp_path) == nearest(tmp_path / "a" / "b") == tmp_path
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file" / "a", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(Refused):
            nearest(wrong)


def git(folder, *arguments):
    told = ["-c", "user.name=x", "-c", "user.email=x@y", *arguments]
    done = subprocess.run(["git", "-C", folder, *told], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_clone_tells_its_commit_and_an_installed_package_none(tmp_path):
    package, installed = tmp_path / "package", tmp_path / "venv" / "package"
    for folder in (package, installed):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
    assert commit(package) == ""
    commit.cache_clear()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-qm", "one", "--no-verify")
    assert commit(package) == git(tmp_path, "rev-parse", "HEAD")
    assert commit(installed) == "", "it lies in somebody's repository, and is no part of it"
    commit.cache_clear()
    (package / "__init__.py").write_text("x = 1\n")
    assert commit(package) == git(tmp_path, "rev-parse", "HEAD") + "-dirty"


def test_a_package_without_git_tells_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(tmp_path) == ""
