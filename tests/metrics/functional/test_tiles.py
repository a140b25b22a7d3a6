"""The parts of a tile that the metrics built on them would not show to be wrong, only slow."""

import pytest
import torch

from mad_lightning.metrics.functional.tiles import alike_in_runs, places

RUN = 16


def numbers(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(5, 8), (7, 12), (1, 1), (3, 1), (0, 4), (64, 16)])
@pytest.mark.parametrize("turned", [False, True])
def test_places_are_those_that_are_true(shape, turned):
    mask = numbers(*shape) < 0.3
    mask = mask.T if turned else mask
    found = sorted(zip(*(axis.tolist() for axis in places(mask)), strict=True))
    assert found == sorted(map(tuple, mask.nonzero().tolist()))


@pytest.mark.parametrize(("n", "side"), [(64, 64), (200, 64), (37, 1024), (3, 16), (161, 80)])
def test_columns_of_a_run_are_alike(n, side):
    values = numbers(n)
    order = alike_in_runs(values, side)
    assert order.sort().values.tolist() == list(range(n))
    padded = torch.full((-(-n // RUN) * RUN,), torch.nan)
    padded[:n] = values[order]
    runs = []
    for tile in padded.split(side):
        # run c of a tile is every (columns / 16)-th column from c on
        runs += [run[~run.isnan()] for run in tile.view(RUN, -1).T]
    in_runs = torch.cat(runs)
    assert torch.equal(in_runs, values.sort().values)  # no two orders of runs are more alike
    assert all(len(run) for run in runs[: n // RUN])
