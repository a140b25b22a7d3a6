"""Three seeds of three loops."""

import pytest

from .ledgers import lineage


@pytest.fixture
def directories(tmp_path):
    loops = ("full_synth", "synth_aug", "fresh")
    return [lineage(tmp_path, loop, seed) for loop in loops for seed in range(3)]
