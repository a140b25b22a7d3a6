"""What grows, and how fast: over generations, parts of a mix, samples, sides of images.

    python benchmarks/growth.py              # everything, about three minutes
    python benchmarks/growth.py schedule parts

One thread, CPU seconds, the least of a few runs. An exponent is the slope of log time over log size
between the last two sizes: 1 is linear. Bars: a schedule of 1,000 generations that keeps every pool
is checked in a tenth of a second; a batch from 1,000 parts costs at most three times an index into
one tensor; generation 200 costs what generation 2 does; a lineage of 200 generations with `all`
costs what its mathematics does over one of 100, within a tenth.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}

import torch

from mad_lightning.commands.train import build
from mad_lightning.data.datamodule import MixLoader
from mad_lightning.metrics.functional import frechet_distance, kernel_distance, two_sample
from mad_lightning.policies import FreshData, FullySynthetic, SyntheticAugmentation
from mad_lightning.samples import Samples, to_floats


def seconds(work: Callable[[], Any], runs: int = 5) -> float:
    """CPU time of one call, the least of several."""
    spent = []
    for _ in range(runs):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return min(spent)


def slope(sizes: list[int], times: list[float]) -> float:
    """The exponent between the last two sizes."""
    return math.log(times[-1] / times[-2]) / math.log(sizes[-1] / sizes[-2])


def verdict(value: float, bar: float) -> str:
    """Whether a bar is met."""
    return f"bar {bar:g} {'met' if value <= bar else 'MISSED'}"


def told(what: str, sizes: list[int], times: list[float], more: str = "") -> None:
    """Prints a row."""
    cells = "  ".join(f"{n:,}: {1e3 * t:.2f} ms" for n, t in zip(sizes, times, strict=True))
    print(f"{what:38} {cells}   exponent {slope(sizes, times):.2f}   {more}", flush=True)


def schedule() -> None:
    """Checking what a lineage will train on, before anything is trained."""
    sizes = [100, 300, 1000]
    policies = {
        "augmentation, all": SyntheticAugmentation(900, 900, synthetic_from="all"),
        "augmentation, last": SyntheticAugmentation(900, 900),
        "fully synthetic, last 10": FullySynthetic(900, 900, synthetic_from="last_k", k=10),
        "fresh": FreshData(900, 100, 900),
    }
    for name, policy in policies.items():
        times = [seconds(lambda t=t, policy=policy: policy.check(t), 2) for t in sizes]
        told(f"check, {name}", sizes, times, verdict(times[-1], 0.1))
        pools = [seconds(lambda t=t, policy=policy: policy.n_pool(t), 2) for t in sizes]
        told(f"n_pool, {name}", sizes, pools)


def parts() -> None:
    """A batch of 64 images of 8 x 8 from many parts, beside one index."""
    sizes = [1, 10, 100, 1000]
    index = torch.randperm(90_000)[:64]
    whole = torch.zeros(90_000, 1, 8, 8, dtype=torch.uint8)

    def many(work: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: [work() for _ in range(200)]

    one_index = seconds(many(lambda: whole[index])) / 200
    times = []
    for n in sizes:
        loader = MixLoader([Samples(part) for part in whole.chunk(n)], 64, None, (0,))
        times.append(seconds(many(lambda loader=loader: loader.gather(index))) / 200)
    ratio = times[-1] / one_index
    told("a batch, by parts", sizes, times, f"{ratio:.2f} times an index, {verdict(ratio, 3.0)}")


def samples() -> None:
    """Measures by number of samples, and floats of an image by side."""
    sizes = [1000, 2000, 4000]
    sets = [torch.randn(n, 84) for n in sizes]
    measures = {
        "precision, recall, density, coverage": lambda x: two_sample(x, x + 0.1, 5),
        "kernel distance": lambda x: kernel_distance(x, x + 0.1),
        "Fréchet distance": lambda x: frechet_distance(x, x + 0.1),
    }
    for name, measure in measures.items():
        times = [seconds(lambda x=x, measure=measure: measure(x), 2) for x in sets]
        told(f"{name}, by n", sizes, times, verdict(slope(sizes, times), 2.1))
    sides = [32, 64, 128]
    images = [torch.zeros(64, 3, side, side, dtype=torch.uint8) for side in sides]
    times = [seconds(lambda x=x: to_floats(x)) for x in images]
    told("floats of 64 images, by side", sides, times, verdict(slope(sides, times), 2.6))


def lineage(generations: int, root: str) -> list[float]:
    """CPU seconds of each generation of Gaussians that keep every pool."""
    loop = build(
        [
            "--lineage.root", root,
            "--lineage.name", f"T{generations}",
            "--lineage.generations", str(generations),
            "--lineage.block_size", "1000",
            "--data.source", "StandardNormal",
            "--data.source.dim", "20",
            "--data.n_reference", "200",
            "--data.batch_size", "1000",
            "--data.cache", f"{root}/cache",
            "--policy", "SyntheticAugmentation",
            "--policy.n_real", "200",
            "--policy.synthetic_from", "all",
            "--policy.n_synthetic", "(t-1)*200",
            "--generator", "Gaussian",
            "--evaluator.extractor", "Identity",
            "--evaluator.metrics", '[{"class_path": "Frechet"}]',
            "--callbacks", "[]",
            "--trainer.accelerator", "cpu",
        ]
    )  # fmt: skip
    spent, generation = [], loop.generation

    def timed(t: int) -> Any:
        start = time.process_time()
        record = generation(t)
        spent.append(time.process_time() - start)
        return record

    loop.generation = timed  # type: ignore[method-assign] # it times each of them
    with contextlib.redirect_stdout(io.StringIO()):
        loop.fit()
    return spent


def fits(first: int, last: int) -> float:
    """CPU seconds of the mathematics of some generations: moments of t pools, in an order."""

    def work() -> None:
        for t in range(first, last + 1):
            pool, moments = torch.randn(200 * t, 20), torch.zeros(20, 20).double()
            for index in torch.randperm(len(pool)).split(1000):
                rows = pool[index].double()
                centred = rows - rows.mean(dim=0)
                moments += centred.T @ centred

    return seconds(work, 2)


def generations() -> None:
    """Two lineages that keep every pool, one twice as long, beside the fits alone."""
    with tempfile.TemporaryDirectory() as root:
        lineage(3, root)  # warms up
        short, long = lineage(100, root), lineage(200, root)
    early, late, maths = (
        1e3 * value / 11 for value in (sum(long[1:12]), sum(long[-11:]), fits(190, 200))
    )
    excess = (late - maths) / early
    print(
        f"generations 2 to 12: {early:.1f} ms, 190 to 200: {late:.1f} ms, of which the fit "
        f"{maths:.1f} ms: {excess:.2f} times, {verdict(excess, 1.1)}"
    )
    own = (sum(long) - fits(1, 200)) / (sum(short) - fits(1, 100))
    print(
        f"200 over 100 generations: {sum(long) / sum(short):.2f} times; beside the fits {own:.2f} "
        f"times, half of it {verdict(own / 2.0, 1.1)}"
    )


def main() -> None:
    """Prints what was asked for."""
    works = {work.__name__: work for work in (schedule, parts, samples, generations)}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("works", nargs="*", choices=[[], *works])
    torch.set_num_threads(1)
    for name in parser.parse_args().works or works:
        works[name]()


if __name__ == "__main__":
    main()
