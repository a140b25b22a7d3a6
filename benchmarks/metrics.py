"""What the two-sample metrics cost, beside everybody else's.

    python benchmarks/metrics.py                       # all measures at their usual sizes
    python benchmarks/metrics.py neighbours --n 10000 --d 84 --peers faiss,scikit-learn
    python benchmarks/metrics.py memory --n 20000 --d 84

Each line is one comparison. Ours and the peer run in turn on the same features, one thread each,
and the ratio is the median over such pairs of the peer's CPU time over ours: above 1 we are faster.
Where a ratio has a bar, the line says it and whether it is met.
CPU time rather than wall time, and pairs rather than means, so that a busy machine changes little.
Peers that are not installed are left out; ``pip install prdc piq faiss-cpu scikit-learn`` brings
them. torch-fidelity and piq give precision and recall alone, ours density and coverage as well.
"""
# ruff: noqa: E402 - it prints, and libraries read the number of threads when imported

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor

from mad_lightning.metrics.functional import (
    Moments,
    frechet_distance,
    kernel_distance,
    squared_radii,
    two_sample,
)

K = 5


def features(n: int, d: int, shrink: float = 1.0, seed: int = 0) -> Tensor:
    """Features (n, d) like a network's: a mixture in 24 dimensions behind a random ReLU layer.

    ``shrink`` < 1 is what a lineage makes of it: narrower components, unequal weights.
    """
    rng = torch.Generator().manual_seed(7)
    centres = 3 * torch.randn(10, 24, generator=rng)
    layer = torch.randn(24, d, generator=rng) / 24**0.5
    bias = 0.3 * torch.randn(d, generator=rng)
    rng = torch.Generator().manual_seed(seed)
    weights = torch.ones(10) if shrink == 1.0 else torch.linspace(0.2, 2.0, 10)
    which = torch.multinomial(weights, n, replacement=True, generator=rng)
    latent = centres[which] + shrink * torch.randn(n, 24, generator=rng)
    return torch.relu(latent @ layer + bias) + 0.02 * torch.randn(n, d, generator=rng)


def seconds(work: Callable[[], Any]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


BARS: dict[tuple[str, int, int], float] = {
    ("prdc", 10_000, 84): 10.0,
    ("prdc", 5_000, 2048): 3.7,
    ("piq", 5_000, 2048): 1.5,
    ("share", 10_000, 2048): 0.8,
    ("frechet", 1_000, 2048): 15.0,
    ("frechet", 10_000, 2048): 3.0,
    ("kernel", 10_000, 84): 4.0,
}
"""The least ratio that will do, by peer or measure, N and d; of ``share`` the share."""


def verdict(value: float, bar: float | None) -> str:
    """What a line says of its bar."""
    return "" if bar is None else f"  bar {bar:g}: {'met' if value >= bar else 'MISSED'}"


def compare(
    label: str,
    ours: Callable[[], Any],
    peer: Callable[[], Any],
    pairs: int,
    bar: float | None = None,
) -> None:
    """Prints the median ratio of alternating pairs, and whether it meets a bar."""
    times = [(seconds(ours), seconds(peer)) for _ in range(pairs)]
    ratios = sorted(theirs / mine for mine, theirs in times)
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{label:44} ours {mine:8.3f} s  peer {theirs:8.3f} s  peer / ours "
        f"{statistics.median(ratios):6.2f}  [{ratios[0]:.2f} .. {ratios[-1]:.2f}]"
        f"{verdict(statistics.median(ratios), bar)}",
        flush=True,
    )


# --- precision, recall, density, coverage --------------------------------------------------------


def by_prdc(x: Tensor, y: Tensor) -> Any:
    """Naeem et al.'s own; prints, so its output is caught."""
    from prdc import compute_prdc

    with contextlib.redirect_stdout(io.StringIO()):
        return compute_prdc(x.numpy(), y.numpy(), nearest_k=K)


def by_piq(x: Tensor, y: Tensor) -> Any:
    """piq, precision and recall."""
    from piq import PR

    return PR(nearest_k=K)(x, y)


def by_torch_fidelity(x: Tensor, y: Tensor) -> Any:
    """torch-fidelity, precision and recall; synthetic samples come first."""
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    return calculate_precision_recall_full(y, x, neighborhood=K)


def by_scikit_learn(x: Tensor, y: Tensor) -> dict[str, float]:
    """scikit-learn's exact search for the radii, and its distances by chunks for the rest."""
    from sklearn.metrics import pairwise_distances_chunked
    from sklearn.neighbors import NearestNeighbors

    real, synthetic = x.numpy(), y.numpy()
    radii, their_radii = (
        NearestNeighbors(n_neighbors=K, algorithm="brute").fit(z).kneighbors()[0][:, -1]
        for z in (real, synthetic)
    )
    precise = np.zeros(len(synthetic), dtype=bool)
    recalled = filled = pairs = start = 0
    for part in pairwise_distances_chunked(real, synthetic):
        inside = part <= radii[start : start + len(part), None]
        precise |= inside.any(axis=0)
        pairs += inside.sum()
        filled += inside.any(axis=1).sum()
        recalled += (part <= their_radii).any(axis=1).sum()
        start += len(part)
    return {
        "precision": precise.mean(),
        "recall": recalled / len(real),
        "density": pairs / (K * len(synthetic)),
        "coverage": filled / len(real),
    }


def by_faiss(x: Tensor, y: Tensor) -> dict[str, float]:
    """faiss at its best: every question as one search, of 8 N² D operations in all.

    Whether y lies in the ball around x is an inner product in D + 2 dimensions, so that one range
    search finds the real balls and one top-1 search tells who lies in any synthetic ball.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    mean = x.mean(dim=0)
    real, synthetic = (x - mean).numpy(), (y - mean).numpy()

    def index(kind: Callable[[int], Any], vectors: np.ndarray) -> Any:
        made = kind(vectors.shape[1])
        made.add(np.ascontiguousarray(vectors))
        return made

    def ones(z: np.ndarray) -> np.ndarray:
        return np.ones(len(z), dtype=np.float32)

    radii, their_radii = (
        index(faiss.IndexFlatL2, z).search(z, K + 1)[0][:, -1] for z in (real, synthetic)
    )
    norm, their_norm = (real**2).sum(axis=1), (synthetic**2).sum(axis=1)
    balls = index(faiss.IndexFlatIP, np.column_stack([2 * synthetic, their_radii - their_norm]))
    reach = balls.search(np.column_stack([real, ones(real)]), 1)[0][:, 0]
    balls = index(faiss.IndexFlatIP, np.column_stack([2 * real, radii - norm, ones(real)]))
    queries = np.column_stack([synthetic, ones(synthetic), -their_norm])
    limits, _, owners = balls.range_search(np.ascontiguousarray(queries), 0.0)
    return {
        "precision": (np.diff(limits.astype(np.int64)) > 0).mean(),
        "recall": (reach >= norm).mean(),
        "density": int(limits[-1]) / (K * len(synthetic)),
        "coverage": len(np.unique(owners)) / len(real),
    }


PEERS: dict[str, tuple[str, Callable[[Tensor, Tensor], Any]]] = {
    "prdc": ("prdc", by_prdc),
    "piq": ("piq", by_piq),
    "torch-fidelity": ("torch_fidelity", by_torch_fidelity),
    "scikit-learn": ("sklearn", by_scikit_learn),
    "faiss": ("faiss", by_faiss),
}


def gemm_rate(side: int = 4096) -> float:
    """Operations a second of CPU time of float32 ``torch.mm`` on this machine."""
    a = torch.randn(side, side)
    return 2 * side**3 / min(seconds(lambda: torch.mm(a, a)) for _ in range(3))


def neighbours(n: int, d: int, peers: list[str], pairs: int) -> None:
    """The four neighbour metrics, against peers, against this machine, and a generation later."""
    x, y = features(n, d), features(n, d, 0.8, 1)
    two_sample(x[:500], y[:500], K)
    for name in peers:
        module, peer = PEERS[name]
        if find_spec(module) is None:
            print(f"{name}: not installed")
            continue
        label = f"neighbours N={n} d={d} {name}"
        bar = BARS.get((name, n, d))
        compare(label, lambda: two_sample(x, y, K), lambda peer=peer: peer(x, y), pairs, bar)
    radii = squared_radii(x, K)
    shares, seconds_later = [], []
    for _ in range(pairs):
        rate, first = gemm_rate(), seconds(lambda: two_sample(x, y, K))
        shares.append(4 * n**2 * d / first / rate)
        seconds_later.append(seconds(lambda: two_sample(x, y, K, real_radii=radii)) / first)
    print(
        f"neighbours N={n} d={d}: {statistics.median(shares):.0%} of this machine's rate of matrix "
        f"products ({rate / 1e9:.0f} GF/s), counting 4 N² d; second generation, real radii kept: "
        f"{statistics.median(seconds_later):.2f} of the first"
        f"{verdict(statistics.median(shares), BARS.get(('share', n, d)))}",
        flush=True,
    )


# --- Fréchet and kernel distance -----------------------------------------------------------------


def torchmetrics_moments(x: Tensor, y: Tensor) -> list[Tensor]:
    """Mean and covariance of both sets as torchmetrics' FID adds them up: raw, in float64."""
    moments = []
    for z in (x.double(), y.double()):
        mean = z.sum(dim=0) / len(z)
        moments += [mean, (z.T @ z - len(z) * torch.outer(mean, mean)) / (len(z) - 1)]
    return moments


def kinds(n: int, d: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Four kinds of features (n, d): real ones and synthetic ones that have shrunk."""
    rng = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    scales, turn = torch.logspace(0, -3, d), torch.linalg.qr(normal(d, d)).Q
    layer = normal(64, d)
    yield "well-conditioned", normal(n, d), 0.9 * normal(n, d) + 0.1
    yield "ill-conditioned", normal(n, d) * scales @ turn, 0.9 * normal(n, d) * scales @ turn
    yield "ReLU", features(n, d), features(n, d, 0.8, 1)
    yield "low rank", normal(n, 64) @ layer, 0.9 * normal(n, 64) @ layer


def frechet(n: int, d: int, pairs: int) -> None:
    """The Fréchet distance, from features of four kinds and from moments."""
    if find_spec("torchmetrics") is None:
        print("torchmetrics: not installed")
        return
    from torchmetrics.image.fid import _compute_fid

    for kind, x, y in kinds(n, d):
        compare(
            f"Fréchet N={n} d={d} torchmetrics, {kind}",
            lambda x=x, y=y: frechet_distance(x, y),
            lambda x=x, y=y: _compute_fid(*torchmetrics_moments(x, y)),
            pairs,
            BARS.get(("frechet", n, d)),
        )
    x, y = features(n, d), features(n, d, 0.8, 1)
    theirs, ours = torchmetrics_moments(x, y), (Moments.of(x), Moments.of(y))
    if n > d:
        compare(
            f"Fréchet N={n} d={d} torchmetrics, from moments",
            lambda: frechet_distance(*ours),
            lambda: _compute_fid(*theirs),
            pairs,
        )
    else:
        compare(
            f"Fréchet N={n} d={d} torchmetrics, its moments free",
            lambda: frechet_distance(x, y),
            lambda: _compute_fid(*theirs),
            pairs,
        )


def kernel(n: int, d: int, pairs: int) -> None:
    """The kernel distance over all pairs, against the usual mean over 100 subsets of 1,000."""
    if find_spec("torchmetrics") is None:
        print("torchmetrics: not installed")
        return
    from torchmetrics.image.kid import KernelInceptionDistance

    x, y = features(n, d), features(n, d, 0.8, 1)
    metric = KernelInceptionDistance(feature=torch.nn.Identity(), subset_size=min(n, 1000))
    metric.update(x, real=True)
    metric.update(y, real=False)

    def theirs() -> Any:
        metric._computed = None
        return metric.compute()

    label = f"kernel N={n} d={d} torchmetrics"
    bar = BARS.get(("kernel", n, d))
    compare(label, lambda: kernel_distance(x, y), theirs, pairs, bar)


# --- memory --------------------------------------------------------------------------------------


def memory(n: int, d: int) -> None:
    """Peak memory above the features, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for name, x in (("x", features(n, d)), ("y", features(n, d, 0.8, 1))):
            np.save(Path(folder) / f"{name}.npy", x.numpy())
        done = subprocess.run(
            [sys.executable, __file__, "--peak-of", folder],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    above, held = float(done.stdout), 2 * n * d * 4 / 2**20
    print(
        f"memory N={n} d={d}: features {held:.0f} MiB, peak above them {above:.0f} MiB "
        f"= {(above - 64) / held:.2f} x features + 64 MiB",
        flush=True,
    )


def peak_of(folder: str) -> None:
    """Prints by how many MiB calls raise this process's peak memory."""
    x, y = (torch.from_numpy(np.load(Path(folder) / f"{name}.npy")) for name in "xy")
    two_sample(x[:100], y[:100], K)
    before = peak_mib()
    for _ in range(2):
        two_sample(x, y, K)
    print(peak_mib() - before)


def peak_mib() -> float:
    """Peak memory of this process. On Linux, ``ru_maxrss`` would be its parent's where larger."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


# --- the command ---------------------------------------------------------------------------------

USUAL: dict[str, list[tuple[int, int]]] = {
    "neighbours": [(10_000, 84), (5_000, 2048), (10_000, 2048)],
    "frechet": [(1_000, 2048), (10_000, 2048)],
    "kernel": [(10_000, 84)],
    "memory": [(20_000, 84), (5_000, 2048), (10_000, 2048)],
}


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measures", nargs="*", default=list(USUAL), help="; ".join(USUAL))
    parser.add_argument("--n", type=int, help="samples in each set")
    parser.add_argument("--d", type=int, help="features of a sample")
    parser.add_argument("--pairs", type=int, default=3, help="alternating pairs (default: 3)")
    parser.add_argument(
        "--peers", default=",".join(PEERS), help="of the neighbours, by name, or none"
    )
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.peak_of:
        peak_of(given.peak_of)
        return
    peers = [] if given.peers == "none" else given.peers.split(",")
    unknown = [name for name in peers if name not in PEERS]
    unknown += [name for name in given.measures if name not in USUAL]
    if unknown or (given.n is None) != (given.d is None):
        parser.error(f"unknown: {unknown}" if unknown else "give both --n and --d, or neither")
    for measure in given.measures:
        for n, d in [(given.n, given.d)] if given.n else USUAL[measure]:
            if measure == "neighbours":
                neighbours(n, d, peers, given.pairs)
            elif measure == "memory":
                memory(n, d)
            else:
                {"frechet": frechet, "kernel": kernel}[measure](n, d, given.pairs)


if __name__ == "__main__":
    main()
