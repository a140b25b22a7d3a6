"""However work and samples are dealt out over processes, the values are those of one process."""

import os
import sys
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from mad_lightning.metrics.functional import (
    Moments,
    frechet_distance,
    kernel_distance,
    squared_nearest,
    squared_radii,
    two_sample,
)
from mad_lightning.processes import (
    Team,
    alone,
    barrier,
    ending_together,
    from_all,
    from_first,
    gather_rows,
    is_first,
    joined,
    know_devices,
    mean_over_all,
    on_first,
    one_thread,
    part_ways,
    together,
)

ROOT = Path(__file__).parents[1]


def normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def masses(n, d, seed):
    return normal(4, d, 9)[torch.arange(n) % 4] + 1e-4 * normal(n, d, seed)


# --- work, shared by threads that stand in for processes ----------------------------------------


class Threads(Team):
    """A team whose processes are threads."""

    def gathered(self, part):
        barrier, parts = self.group
        parts[self.rank] = part.clone()
        barrier.wait(60)
        together = torch.stack(parts)
        barrier.wait(60)
        return together


def shared(size, work):
    """What each of ``size`` processes gets for ``work(team)``."""
    precision = torch.backends.mkldnn.matmul.fp32_precision  # which threads have in common
    group = threading.Barrier(size), [None] * size
    results = [None] * size

    def run(rank):
        results[rank] = work(Threads(rank, size, group))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for backend in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
        backend.fp32_precision = precision
    return results


SETS = {
    "ordinary": (normal(300, 12, 1), 0.9 * normal(250, 12, 2)),
    "copies": (normal(60, 12, 1).repeat(4, 1), torch.cat([normal(60, 12, 1), normal(90, 12, 2)])),
    "masses": (masses(300, 12, 1), masses(300, 12, 2)),
    "fewer tiles than processes": (normal(20, 3, 1), normal(30, 3, 2)),
    "many features": (normal(150, 600, 1), normal(140, 600, 2)),
}


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("name", SETS)
def test_shared_work_gives_the_same_bits(name, size):
    real, synthetic = SETS[name]
    alone = two_sample(real, synthetic, 3, tile=64)
    assert shared(size, lambda team: two_sample(real, synthetic, 3, tile=64, team=team)) == (
        [alone] * size
    )
    for function in (
        lambda team: squared_radii(real, 3, tile=64, team=team),
        lambda team: squared_nearest(synthetic, real, tile=64, team=team),
    ):
        assert all(torch.equal(found, function(None)) for found in shared(size, function))


@pytest.mark.parametrize("d", [9, 40])
def test_shared_sums_agree(d):
    real, synthetic = normal(100, d, 1), normal(80, d, 2) + 0.1
    alone = kernel_distance(real, synthetic, tile=32)
    for value in shared(3, lambda team: kernel_distance(real, synthetic, tile=32, team=team)):
        assert value == alone
    for function in (
        lambda team: frechet_distance(real, synthetic, team=team),
        lambda team: frechet_distance(
            real, synthetic, real_moments=Moments.of(real, team), team=team
        ),
    ):
        for value in shared(3, function):
            assert value == pytest.approx(function(None), rel=1e-11)


# --- one process --------------------------------------------------------------------------------


def test_alone_nobody_waits_and_everything_is_as_it_was():
    x = normal(4, 3, 1)
    barrier()
    part_ways()
    assert (together(), Team.of()) == (False, Team())
    assert joined(x) is x
    assert (from_first(lambda: x), from_all(x)) == (x, [x])
    with ending_together():
        pass
    assert torch.equal(gather_rows(x)[0], x)
    assert mean_over_all(x)[0] is x
    assert torch.equal(Team().gathered(x), x[None])
    assert mean_over_all() == ()


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0"}, True),
        ({"RANK": "2"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
        ({"RANK": "0", "SLURM_PROCID": "3"}, True),
    ],
)
def test_before_processes_meet_the_launcher_says_who_is_first(monkeypatch, environment, first):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first() == first
    entered = []

    class Work:
        def __enter__(self):
            entered.append(True)

        def __exit__(self, *_):
            pass

    with on_first(Work()):
        assert bool(entered) == first


def test_on_one_thread_until_the_end_even_a_bad_one():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with suppress(KeyError), one_thread() as threads:
            assert (torch.get_num_threads(), threads) == (1, 3)
            raise KeyError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# --- two processes ------------------------------------------------------------------------------


def two_processes(rank, path):
    """What each of the two does; an assertion that fails shows in its exit code."""
    torch.distributed.init_process_group(
        "gloo", f"file://{path}/meeting", timedelta(seconds=120), world_size=2, rank=rank
    )
    assert together()
    assert is_first() == (rank == 0)
    team = Team.of()
    assert (team.rank, team.size) == (rank, 2)
    assert list(team.mine(range(5))) == [[0, 2, 4], [1, 3]][rank]
    assert team.gathered(torch.tensor([rank, 7])).tolist() == [[0, 7], [1, 7]]

    whole = normal(9, 3, 1)
    for cut in (0, 2, 9):
        mine = (whole[:cut], whole[cut:])[rank]
        assert torch.equal(joined(mine), whole)
        parts = gather_rows(mine if len(mine) else torch.empty(0))
        assert torch.equal(torch.cat([part for part in parts if len(part)]), whole)
    wide = gather_rows((whole.float(), whole.double())[rank])
    assert {part.dtype for part in wide} == {torch.float64}
    with pytest.raises(ValueError, match="different widths"):
        gather_rows(torch.zeros(2, 3 + rank))

    means = mean_over_all(torch.full((2, 2), float(rank)), torch.tensor(3.0 * rank))
    assert [mean.tolist() for mean in means] == [[[0.5, 0.5], [0.5, 0.5]], 1.5]

    assert from_first(lambda: {"rank": rank}) == {"rank": 0}
    assert from_all("ab"[rank]) == ["a", "b"]
    with pytest.raises((KeyError, SystemExit)[rank]):
        from_first({}.popitem)  # fails on the first one, and the other leaves without a word

    Path(f"{path}/{rank}").touch()
    barrier()
    assert Path(f"{path}/{1 - rank}").exists()
    part_ways()
    assert not together()


@pytest.mark.ddp
def test_two_processes_agree(two_processes):
    two_processes(__file__)


if __name__ == "__main__":
    two_processes(int(sys.argv[1]), sys.argv[2])


def test_a_process_that_trains_by_itself_is_the_first_whatever_is_left_around_it(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.setenv(name, "1")
    assert not is_first()
    alone()
    assert is_first()


@pytest.mark.parametrize("has_gpu", [True, False])
def test_the_driver_is_asked_no_more_where_there_is_no_gpu(monkeypatch, has_gpu):
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as Lightning sets it
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    know_devices()
    assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == ("1" if has_gpu else "0")
