"""A lineage that was killed anywhere ends with the numbers of one left alone."""

import signal
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

PLACES = [
    ["train", 3],  # before the first checkpoint
    ["train", 9],  # between two checkpoints
    ["train", 12],  # at the very end of training
    ["sample", 1],
    ["sample", 3],
    ["commit", 0],  # all blocks drawn, the shard not joined
    ["evaluate", 1],
    ["record", 0],  # measured, not in the ledger
    ["torn", 0],  # in the middle of the ledger's line
    ["after", 0],
]


@pytest.mark.parametrize("family", ["Gaussian", pytest.param("Diffusion", marks=pytest.mark.slow)])
def test_sigkill_in_every_phase_changes_nothing(tmp_path, arguments, diffusion, family, crash):
    options = [*arguments[: arguments.index("--callbacks")], "--trainer.accelerator", "cpu"]
    places = PLACES
    if family == "Diffusion":
        options += [*diffusion, "--trainer.max_epochs", "3"]
    else:
        places = [["sample", 2], ["record", 0]]
    results = crash(tmp_path / "lineages", places, options)
    calm = results.pop("calm")
    assert calm["codes"] == [0]
    assert [row[0] for row in calm["outcome"]] == [1, 2, 3]
    digests = [row[2]["shard"] for row in calm["outcome"]]
    assert len(set(digests)) == 3
    assert len(results) == len(places)
    for name, result in results.items():
        assert result["codes"] == [-signal.SIGKILL, 0], name
        assert result["outcome"] == calm["outcome"], name
