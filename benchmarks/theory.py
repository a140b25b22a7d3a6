"""The five Gaussian studies, against a plain NumPy loop over the same lineages.

    python benchmarks/theory.py [STUDY ...]

Each study runs as shipped (configs/studies), on as many threads as torch likes. The plain loop is
what anybody would write: draw n points from the last fit, take their mean and covariance. It is
timed for a few generations at every setting of the study, in the same process, and its cost times
the generations that ours ran is what it would have taken; it measures no distance, ours does. Both
in CPU seconds, so that a busy machine changes little.

What we save is the drawing of points, so it grows with n / d: E14 has up to 1,000 points a
dimension. E9 has 10 and measures every fit, which costs as much as the fit; in E13 each of K models
gives as few as d points, and there a Wishart matrix costs as much as the points.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from mad_lightning.theory.study import LoopGrid, Study, relative_error

STUDIES = Path(__file__).parents[1] / "configs" / "studies"
FIVE = ("e9", "e11", "e12", "e13", "e14")
GENERATIONS = 3


def plain_seconds(n_real: int, n_synthetic: int, bias: float, k: int, dim: int) -> float:
    """CPU seconds of one generation of one lineage."""
    rng = np.random.default_rng(0)
    window = [(np.zeros(dim), np.eye(dim))] * k
    started = time.process_time()
    for _ in range(GENERATIONS):
        parts = [rng.standard_normal((n_real, dim))]
        for place, (mean, cov) in enumerate(window):
            share = n_synthetic // k + (place < n_synthetic % k)
            parts.append(rng.multivariate_normal(mean, bias * cov, share, method="cholesky"))
        x = np.concatenate(parts)
        window = [*window[1:], (x.mean(axis=0), np.cov(x, rowvar=False))]
    return (time.process_time() - started) / GENERATIONS


def benchmark(name: str) -> tuple[float, float, float]:
    """CPU seconds of ours and of the plain loop, wall seconds of ours."""
    config: dict[str, Any] = yaml.safe_load((STUDIES / f"{name}.yaml").read_text())
    grids = {key: LoopGrid(**config.pop(key)) for key in ("grid", "also") if key in config}
    del config["axes"]
    cpu, wall = time.process_time(), time.perf_counter()
    rows = Study(**grids, **config).run()
    ours, waited = time.process_time() - cpu, time.perf_counter() - wall
    costs: dict[tuple[Any, ...], float] = {}
    plain = 0.0
    for row in rows:
        point = tuple(row[name] for name in ("n_real", "n_synthetic", "sampling_bias", "k", "dim"))
        if point not in costs:
            costs[point] = plain_seconds(*point)
        plain += costs[point] * row["lineages"] * row.get("generations", 1)
    print(
        f"{name:>5}  {len(rows):5} rows  {ours:8.1f} s CPU  {waited:6.1f} s wall  "
        f"plain {plain:9.1f} s CPU  ratio {plain / ours:6.1f}x  "
        f"Monte-Carlo error of W2² {max(map(relative_error, rows)):.1%} at most",
        flush=True,
    )
    return ours, plain, waited


def main() -> None:
    """Prints a line a study, and the sum."""
    names = sys.argv[1:] or FIVE
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    ours, plain, wall = map(sum, zip(*map(benchmark, names), strict=True))
    print(f"  all  {ours:.1f} s CPU, {wall:.1f} s wall, plain {plain:.0f} s, {plain / ours:.0f}x")


if __name__ == "__main__":
    main()
