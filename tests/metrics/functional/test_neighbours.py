"""Precision, recall, density, coverage: not one decision may differ from float64 brute force."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mad_lightning.metrics.functional import neighbours, squared_radii, two_sample


@pytest.fixture(autouse=True)
def one_thread():
    """Tiles are small here: two threads wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


NAMES = ("precision", "recall", "density", "coverage")


def distances(x, y):
    """Squared distances by differences in float64, the definition and nothing else."""
    return np.stack([((row - y) ** 2).sum(axis=1) for row in x])


class Brute:
    """All pairs of two sets, kept, so that one case can be asked for several k."""

    def __init__(self, real, synthetic):
        real, synthetic = real.double().numpy(), synthetic.double().numpy()
        self.cross = distances(real, synthetic)
        self.real, self.synthetic = distances(real, real), distances(synthetic, synthetic)
        np.fill_diagonal(self.real, np.inf)
        np.fill_diagonal(self.synthetic, np.inf)

    def radii(self, k):
        return (np.sort(own, axis=1)[:, k - 1] for own in (self.real, self.synthetic))

    def values(self, k, balls="closed"):
        real, synthetic = self.radii(k)
        inside = np.less_equal if balls == "closed" else np.less
        in_real = inside(self.cross, real[:, None])
        in_synthetic = inside(self.cross, synthetic[None, :])
        return {
            "precision": float(in_real.any(axis=0).mean()),
            "recall": float(in_synthetic.any(axis=1).mean()),
            "density": int(in_real.sum()) / (k * in_real.shape[1]),
            "coverage": float(in_real.any(axis=1).mean()),
        }


def normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def mixture(n, d, spread, seed, kinds=8, centre_seed=99):
    """Near-point masses: where a mixture drifts whose components shrink."""
    which = torch.randint(kinds, (n,), generator=torch.Generator().manual_seed(seed))
    return normal(kinds, d, centre_seed)[which] + spread * normal(n, d, seed + 1)


def lattice(n, d, levels, seed):
    return torch.randint(levels, (n, d), generator=torch.Generator().manual_seed(seed)).float()


def pair(n=400, m=400, d=64):
    """An ordinary real set and a synthetic one that has lost some diversity."""
    return normal(n, d, 1), 0.9 * normal(m, d, 2)


N, D = 400, 64
REAL, SYNTHETIC = pair()
CONSTANT = torch.full((N, D), 0.1)  # its mean, summed in float32, is not 0.1
TENFOLD = REAL[:40].repeat(10, 1)
OUTLIER = torch.cat([REAL[1:], REAL[:1] * 1e6])
TWO_SCALES = torch.cat([normal(200, D, 5), 1e-5 * normal(200, D, 6)])
WIDE = torch.logspace(-20, 15, N)[:, None] * normal(N, D, 7)

NEAR_EQUAL = mixture(N, D, 3e-7, 1, kinds=5), mixture(N, D, 3e-7, 3, kinds=5)
HALF_ZERO = 0.1 * (torch.arange(900)[:, None] % 2)

DEGENERATE = {
    "both constant, equal": (CONSTANT, CONSTANT),
    "both constant, different": (CONSTANT, CONSTANT + 1e-7),
    "every sample 10 times": (TENFOLD, TENFOLD),
    "every sample 10 times, in one set": (REAL, TENFOLD),
    "copy": (REAL, REAL.clone()),
    "half copied": (REAL, torch.cat([REAL[:200], SYNTHETIC[:200]])),
    "constant at a real sample": (REAL, REAL[7].expand(N, D)),
    "constant at the mean": (REAL, REAL.mean(dim=0).expand(N, D)),
    "offset 100": (REAL + 100, SYNTHETIC + 100),
    "offset 1000": (REAL + 1000, SYNTHETIC + 1000),
    "far apart": (REAL, SYNTHETIC + 1e6),
    "masses 1e-2": (mixture(N, D, 1e-2, 1), mixture(N, D, 1e-2, 3)),
    "masses 1e-4": (mixture(N, D, 1e-4, 1), mixture(N, D, 1e-4, 3)),
    "masses 1e-6": (mixture(N, D, 1e-6, 1), mixture(N, D, 1e-6, 3)),
    "masses of single roundings": (mixture(N, D, 6e-8, 1), mixture(N, D, 6e-8, 3)),
    "masses 3e-7, far out": (NEAR_EQUAL[0] + 7, NEAR_EQUAL[1] + 7),
    "masses of unequal width": (
        mixture(N, D, 1, 1) * torch.logspace(0, -7, N)[:, None],
        mixture(N, D, 1, 3) * torch.logspace(0, -7, N)[:, None],
    ),
    "masses 1e-6, synthetic only": (REAL, mixture(N, D, 1e-6, 3)),
    "masses 1e-6, moved": (mixture(N, D, 1e-6, 1) + 100, mixture(N, D, 1e-6, 3) + 100),
    "collapsed 1e-2": (REAL, REAL[3] + 1e-2 * SYNTHETIC),
    "collapsed 1e-4": (REAL, REAL[3] + 1e-4 * SYNTHETIC),
    "scale 1e4": (1e4 * REAL, 1e4 * SYNTHETIC),
    "scale 1e-6": (1e-6 * REAL, 1e-6 * SYNTHETIC),
    "scale 1e30: squares overflow": (1e30 * REAL, 1e30 * SYNTHETIC),
    "scale 1e-30: squares vanish": (1e-30 * REAL, 1e-30 * SYNTHETIC),
    "scale 1e-43: subnormal": (1e-43 * REAL, 1e-43 * SYNTHETIC),
    "one outlier": (OUTLIER, SYNTHETIC),
    "two scales": (TWO_SCALES, TWO_SCALES.flip(0) + 1e-6 * SYNTHETIC),
    "all scales": (WIDE, WIDE.flip(1)),
    "lattice: ties between different samples": (lattice(N, 6, 3, 1), lattice(N, 6, 3, 2)),
    "binary": (lattice(N, D, 2, 1), lattice(N, D, 2, 2)),
    "dead features": (REAL * (torch.arange(D) < 9), SYNTHETIC * (torch.arange(D) < 5)),
    "one feature": (normal(N, 1, 1), normal(N, 1, 2)),
    "bfloat16": (REAL.bfloat16(), SYNTHETIC.bfloat16()),
    "float64 of float32": (REAL.double(), SYNTHETIC.double()),
    "float64, offset 1e6": (REAL.double() / 3 + 1e6, SYNTHETIC.double() / 3 + 1e6),
    "float64, masses 1e-12": (mixture(N, D, 1e-12, 1), mixture(N, D, 1e-12, 3).double() / 3),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_sets_agree_with_brute_force(name):
    real, synthetic = DEGENERATE[name]
    truth = Brute(real, synthetic)
    assert two_sample(real, synthetic, 3) == truth.values(3)
    assert two_sample(real, synthetic, 3, tile=96) == truth.values(3)
    assert two_sample(real, synthetic, 1, "open", tile=160) == truth.values(1, "open")


@pytest.mark.parametrize(
    ("real", "synthetic", "values"),
    [
        ("both constant, equal", None, (1.0, 1.0, N / 3, 1.0)),
        ("every sample 10 times", None, (1.0, 1.0, 10 / 3, 1.0)),
        # each sample lies on the surface of the balls it defines: its own and those around it
        ("copy", None, (1.0, 1.0, 4 / 3, 1.0)),
        ("both constant, different", None, (0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_values_known_by_hand(real, synthetic, values):
    assert two_sample(*DEGENERATE[real], k=3) == dict(zip(NAMES, values, strict=True))


def test_a_line_by_hand():
    real = torch.tensor([[0.0], [1.0], [3.0], [7.0]])  # radii 1, 1, 2, 4
    synthetic = torch.tensor([[2.0], [2.5], [20.0]])  # radii 0.5, 0.5, 17.5
    assert squared_radii(real, 1).tolist() == [1.0, 1.0, 4.0, 16.0]
    # 2 lies in the balls of 1 (surface) and 3; 2.5 in that of 3; 20 in none
    # of the real samples, 3 lies on the surface around 2.5, and 3 and 7 within 17.5 of 20
    assert two_sample(real, synthetic, 1) == {
        "precision": 2 / 3,
        "recall": 2 / 4,
        "density": 3 / 3,
        "coverage": 2 / 4,
    }
    assert two_sample(real, synthetic, 1, "open")["density"] == 2 / 3


@pytest.mark.parametrize(
    ("n", "m", "d", "k"),
    [
        (4, 4, 3, 3),  # N = k + 1
        (2, 2, 1, 1),
        (6, 500, 10, 5),
        (500, 6, 10, 5),
        (33, 31, 5, 2),  # around the run length
        (257, 513, 40, 4),  # around a tile of 256
        (300, 200, 700, 5),
        (120, 90, 8, 60),  # k beyond the number of runs in a tile
        (150, 130, 3000, 1),  # wide features make finer tiles
        (700, 30, 513, 3),
        (65, 1000, 1, 1),
    ],
)
def test_sizes(n, m, d, k):
    real, synthetic = pair(n, m, d)
    truth = Brute(real, synthetic)
    for tile in (1, 64, 256, 1000, 4096):
        assert two_sample(real, synthetic, k, tile=tile) == truth.values(k)
    np.testing.assert_allclose(squared_radii(real, k), next(truth.radii(k)), rtol=1e-14)


@pytest.mark.parametrize("name", ["masses 1e-3", "half copied", "lattice", "outliers"])
def test_larger_sets_over_many_tiles(name):
    """Enough tiles for bounds to be carried along, and for candidates to be settled early."""
    real, synthetic = {
        "masses 1e-3": (mixture(1200, 30, 1e-3, 1), mixture(900, 30, 1e-3, 3)),
        "half copied": (normal(1200, 30, 1), normal(1200, 30, 1).roll(600, 0)[:900] + HALF_ZERO),
        "lattice": (lattice(1200, 5, 3, 1), lattice(900, 5, 3, 2)),
        "outliers": (normal(1200, 30, 1) ** 5, normal(900, 30, 2) ** 5),
    }[name]  # fmt: skip
    expected = Brute(real, synthetic).values(5)
    assert all(two_sample(real, synthetic, 5, tile=tile) == expected for tile in (128, 512))


def test_row_order_and_threads_do_not_matter():
    real, synthetic = DEGENERATE["masses 1e-4"]
    expected = two_sample(real, synthetic, 3)
    shuffle = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    assert two_sample(real[shuffle], synthetic.flip(0), 3) == expected
    assert torch.equal(squared_radii(real[shuffle], 3), squared_radii(real, 3)[shuffle])
    torch.set_num_threads(2)
    assert two_sample(real, synthetic, 3) == expected


def test_a_set_compared_with_itself():
    for x in (REAL, TENFOLD, CONSTANT):
        assert two_sample(x, x, 3) == two_sample(x, x.clone(), 3)
        assert two_sample(x, x, 3)["precision"] == 1.0


def test_radii_tie_with_distances_to_copies():
    """A copy of the k-th neighbour lies on the surface: in or out, but never by luck."""
    real = 0.1 * normal(300, 777, 4)
    truth = Brute(real, real)
    nearest, radii = truth.real, next(truth.radii(1))
    place = int(nearest[11].argmin())
    synthetic = real[[place, place]]
    closed = two_sample(real, synthetic, 1)["density"]
    opened = two_sample(real, synthetic, 1, "open")["density"]
    assert closed == int((nearest[:, place] <= radii).sum()) + 1
    assert opened == int((nearest[:, place] < radii).sum()) + 1
    assert closed > opened


def test_kept_real_radii_change_nothing():
    real, synthetic = REAL[:200].repeat(2, 1).flip(0), SYNTHETIC  # copies must find their radius
    radii = squared_radii(real, 3)
    assert two_sample(real, synthetic, 3, real_radii=radii) == two_sample(real, synthetic, 3)
    smaller = two_sample(real, synthetic, 3, real_radii=radii / 1e6)
    assert smaller["density"] == 0.0  # they are used


class Precisions(TorchDispatchMode):
    """Remembers in which dtype and with which permission matrices were multiplied."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket in (
            torch.ops.aten.mm,
            torch.ops.aten.addmm,
            torch.ops.aten.addmm_,
        ):
            backends = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
            self.seen |= {(result.dtype, backend.fp32_precision) for backend in backends}
        return result


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_reduced_precision_of_the_caller_is_neither_used_nor_changed(precision):
    real, synthetic = pair(100, 100, 20)
    expected = Brute(real, synthetic).values(3)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        with torch.autocast("cpu", dtype=torch.bfloat16), Precisions() as precisions:
            assert two_sample(real, synthetic, 3) == expected
            assert precisions.seen == {(torch.float32, "ieee")}
            assert (real @ real.T).dtype == torch.bfloat16
        with pytest.raises(RuntimeError):
            two_sample(real, synthetic, 3, real_radii=torch.empty(100, device="meta"))
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.mkldnn.matmul.fp32_precision != "ieee"
    finally:
        torch.set_float32_matmul_precision(before)


def test_agrees_with_prdc_where_there_are_no_ties(capsys):
    """prdc takes open balls and float64."""
    prdc = pytest.importorskip("prdc")
    for n, m, k in ((500, 300, 5), (200, 450, 1)):
        real, synthetic = pair(n, m, 20)
        theirs = prdc.compute_prdc(real.numpy(), synthetic.numpy(), nearest_k=k)
        ours = two_sample(real, synthetic, k, "open")
        assert ours == pytest.approx({name: float(theirs[name]) for name in NAMES}, abs=1e-12)


def test_agrees_with_torch_fidelity():
    """torch-fidelity takes closed balls and float32, synthetic samples first."""
    theirs = pytest.importorskip("torch_fidelity.metric_prc")
    real, synthetic = pair(500, 300, 20)
    precision, recall = theirs.calculate_precision_recall_full(synthetic, real, neighborhood=5)
    ours = two_sample(real, synthetic, 5)
    assert (ours["precision"], ours["recall"]) == pytest.approx((precision, recall), abs=1e-7)
    assert precision != recall


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_are_left_as_they_are(dtype):
    real, synthetic = (x.to(dtype) for x in pair(50, 50, 4))
    before = real.clone(), synthetic.clone()
    real.requires_grad_()
    two_sample(real, synthetic, 3)
    assert not squared_radii(real, 3).requires_grad
    assert torch.equal(real, before[0])
    assert torch.equal(synthetic, before[1])


def bad(real=REAL, synthetic=SYNTHETIC, **arguments):
    return real, synthetic, arguments


NAN, INF = REAL.clone(), SYNTHETIC.clone()
NAN[[3, 9], 5] = torch.nan
INF[2, 0] = -torch.inf


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (bad(real=NAN), ["real", "2 of 400", "NaN"]),
        (bad(synthetic=INF), ["synthetic", "1 of 400", "infinite"]),
        (bad(real=REAL[:3], k=3), ["real", "3 samples", "k = 3"]),
        (bad(synthetic=SYNTHETIC[:0]), ["synthetic", "0 samples", "k = 5"]),
        (bad(k=0), ["k = 0"]),
        (bad(synthetic=SYNTHETIC[:, :9]), ["64", "9"]),
        (bad(real=REAL[0]), ["real", "(64,)"]),
        (bad(real=REAL.long()), ["real", "int64"]),
        (bad(synthetic=SYNTHETIC[:, :0]), ["synthetic", "(400, 0)"]),
        (bad(balls="half"), ["half"]),
        (bad(real_radii=torch.ones(399)), ["real_radii", "399", "400"]),
    ],
)
def test_refusals_name_what_is_wrong(arguments, words):
    real, synthetic, rest = arguments
    with pytest.raises(ValueError) as refusal:
        two_sample(real, synthetic, **rest)
    assert all(word in str(refusal.value) for word in words)


def test_radii_refuse_too():
    with pytest.raises(ValueError, match="x has 5 samples, more than k = 5"):
        squared_radii(REAL[:5], 5)


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-6, 6e-8])
def test_few_pairs_are_measured_however_tight_masses_are(spread, monkeypatch):
    """Exactness has a price for each pair that brackets leave open; they must not be N²."""
    measured = []
    measure = neighbours.squared_distances

    def counted(x, i, y, j):
        measured.append(len(i))
        return measure(x, i, y, j)

    monkeypatch.setattr(neighbours, "squared_distances", counted)
    n, d = 1500, 100
    real, synthetic = mixture(n, d, spread, 1, kinds=3), mixture(n, d, spread, 3, kinds=3)
    values = two_sample(real, synthetic, 5)
    assert values == Brute(real, synthetic).values(5)
    assert 0 < sum(measured) < 64 * n  # pairs within masses are 1,500 n


class Largest(TorchDispatchMode):
    """Remembers the most numbers that any tensor held."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


@pytest.mark.parametrize(
    ("real", "synthetic"),
    [
        (normal(1200, 50, 1), normal(1200, 50, 2)),
        # nearly every synthetic sample lies in nearly every real ball
        (normal(1200, 50, 1), 1e-3 * normal(1200, 50, 2)),
        # half of all pairs can be told apart by differences only
        (mixture(1200, 50, 6e-8, 1, kinds=2), mixture(1200, 50, 6e-8, 3, kinds=2)),
    ],
    ids=["ordinary", "centre", "masses"],
)
def test_memory_has_no_square_in_it(real, synthetic):
    with Largest() as largest:
        two_sample(real, synthetic, 5, tile=128)
    assert 128**2 <= largest.numbers <= 10 * 128**2  # all pairs would be 88 times the tile
