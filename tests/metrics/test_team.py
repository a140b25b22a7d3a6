"""However work and samples are dealt out over processes, the values are those of one process."""

import json
import os
import subprocess
import sys
import threading
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from mad_lightning.metrics import Classes, Frechet, GaussianW2, Kernel, Memorisation, Neighbours
from mad_lightning.metrics.functional import (
    Moments,
    Team,
    frechet_distance,
    kernel_distance,
    squared_nearest,
    squared_radii,
    two_sample,
)

ROOT = Path(__file__).parents[2]


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


# --- moments that merge -------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_moments_of_parts_are_those_of_the_whole(offset):
    x = normal(500, 7, 1).double() * torch.logspace(0, -3, 7) + offset
    whole, cuts = Moments.of(x), (0, 1, 3, 250, 251, 500)
    for order in (1, -1):
        parts = [Moments.of(x[a:b]) for a, b in pairwise(cuts)][::order]
        merged = Moments.merged(parts)
        assert merged.n == 500
        centred = x.numpy().astype("longdouble")
        centred = centred - centred.mean(axis=0)
        scatter = torch.tensor((centred.T @ centred).astype("float64"))
        scale = scatter.diag().sqrt()
        for found in (whole, merged):
            assert ((found.scatter - scatter) / torch.outer(scale, scale)).abs().max() < 1e-12 * (
                1 + offset
            )
            torch.testing.assert_close(found.mean, x.mean(dim=0), rtol=1e-14, atol=1e-15)


def test_a_distance_from_moments_is_that_from_features():
    real, synthetic = normal(200, 9, 1), 0.8 * normal(90, 9, 2) + 0.2
    moments = Moments.of(real), Moments.of(synthetic)
    expected = frechet_distance(real, synthetic)
    assert frechet_distance(*moments) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(moments[0], synthetic) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(real, moments[1]) == pytest.approx(expected, rel=1e-12)
    kept = frechet_distance(real, synthetic, real_moments=moments[0])
    assert kept == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="real_moments are of 90"):
        frechet_distance(real, synthetic, real_moments=moments[1])
    with pytest.raises(ValueError, match="synthetic has moments of 1 samples"):
        frechet_distance(real, Moments.of(synthetic[:1]))


# --- metrics, fed by two processes --------------------------------------------------------------

METRICS = {
    "neighbours": Neighbours(3),
    "frechet": Frechet(),
    "kernel": Kernel(),
    "kernel_of_subsets": Kernel(subsets=5, subset_size=20),
    "gaussian_w2": GaussianW2(),
    "classes": Classes(3),
    "memorisation": Memorisation(),
}
COUNTS = {"precision", "recall", "density", "coverage", "class_share", "class_recall", "memorised"}
DEALS = {  # shares of (real, synthetic, training) samples that the first of two processes sees
    "equal": (0.5, 0.5, 0.5),
    "unequal": (0.9, 0.25, 0.01),
    "one has none": (1.0, 1.0, 1.0),
    "each has one side": (0.0, 1.0, 0.0),
}


def feed(metric, part):
    """Updates a metric with its part (start, stop as fractions) of each set."""
    sets = (normal(130, 6, 1), 0.9 * normal(111, 6, 2), normal(140, 6, 3))
    for place, (x, (start, stop)) in enumerate(zip(sets, part, strict=True)):
        rows = slice(round(len(x) * start), round(len(x) * stop))
        for batch in x[rows].split(32):
            if isinstance(metric, Memorisation):
                metric.update(batch, real=place != 1, training=place == 2)
            elif isinstance(metric, Classes) and place < 2:
                metric.update(batch, real=place == 0, labels=(batch[:, 0] > 0).long())
            elif place < 2:
                metric.update(batch, real=place == 0)


def one_process(metric):
    metric.reset()
    feed(metric, [(0, 1)] * 3)
    return metric.compute()


def check(metric, values):
    expected = one_process(metric)
    assert values.keys() == expected.keys()
    for name, value in values.items():
        if name in COUNTS:
            assert value == expected[name], name
        else:
            assert value == pytest.approx(expected[name], rel=1e-12, abs=1e-14), name


def two_processes(rank, path):
    """What each of the two does: all metrics, all deals, two generations, in one go."""
    torch.distributed.init_process_group(
        "gloo", f"file://{path}/meeting", timedelta(seconds=500), world_size=2, rank=rank
    )
    results = {}
    for deal, shares in DEALS.items():
        part = [((0, share), (share, 1))[rank] for share in shares]
        for name, metric in METRICS.items():
            metric.reset()
            feed(metric, part)
            first = metric.compute()
            metric.forget_synthetic()
            feed(metric, [(0, 0), part[1], (0, 0)])
            results[f"{deal}/{name}"] = first, metric.compute()
    Path(f"{path}/{rank}.json").write_text(json.dumps(results))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.ddp
def test_two_processes_agree_with_one(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path)],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors[-3000:]
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0] == ranks[1]
    assert len(ranks[0]) == len(DEALS) * len(METRICS)
    for name, (first, second) in ranks[0].items():
        assert first == second, name  # the real side was kept, the same synthetic side came again
        check(METRICS[name.split("/")[1]], first)


# --- metrics as torchmetrics knows them ---------------------------------------------------------


@pytest.mark.parametrize("name", METRICS)
def test_batches_do_not_matter(name):
    metric = METRICS[name]
    expected = one_process(metric)
    metric.reset()
    for start in (0.0, 0.3):
        feed(metric, [(start, 0.3 if start == 0.0 else 1.0)] * 3)
    assert metric.compute() == expected


@pytest.mark.parametrize("name", METRICS)
def test_a_checkpoint_holds_what_was_seen(name):
    metric = METRICS[name]
    expected = one_process(metric)
    metric.persistent(True)
    state = metric.state_dict()
    metric.reset()
    with pytest.raises(ValueError, match="real has 0 samples"):
        metric.compute()
    metric.load_state_dict(state)
    metric.persistent(False)
    assert metric.compute() == expected


def test_the_next_generation_starts_with_the_real_side():
    metric = Neighbours(3)
    one_process(metric)
    metric.forget_synthetic()
    with pytest.raises(ValueError, match="synthetic has 0 samples"):
        metric.compute()
    metric.update(normal(50, 6, 8), real=False)
    assert metric.compute() == two_sample(normal(130, 6, 1), normal(50, 6, 8), 3)
    metric.update(normal(40, 6, 7), real=True)
    joined = torch.cat([normal(130, 6, 1), normal(40, 6, 7)])
    assert metric.compute() == two_sample(joined, normal(50, 6, 8), 3)


def test_radii_of_the_real_side_are_found_once(monkeypatch):
    calls = []
    find = Neighbours.values.__globals__["squared_radii"]
    monkeypatch.setitem(
        Neighbours.values.__globals__,
        "squared_radii",
        lambda *args, **named: calls.append(1) or find(*args, **named),
    )
    metric = Neighbours(3)
    one_process(metric)
    for seed in (1, 2):
        metric.forget_synthetic()
        metric.update(normal(50, 6, seed), real=False)
        metric.compute()
    assert len(calls) == 1


def test_bad_batches_are_refused_at_once():
    with pytest.raises(ValueError, match=r"synthetic is torch\.int64"):
        Neighbours().update(torch.zeros(3, 2).long(), real=False)
    with pytest.raises(ValueError, match="real has 3 samples and labels"):
        Classes().update(torch.zeros(3, 2), real=True, labels=torch.zeros(2).long())


if __name__ == "__main__":
    two_processes(int(sys.argv[1]), sys.argv[2])
