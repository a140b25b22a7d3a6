"""One contract for all metrics, whole or in batches, alone or on two processes."""

import json
import math
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from mad_lightning.lineage.quantities import Quantity
from mad_lightning.metrics import (
    Classes,
    Frechet,
    GaussianW2,
    Kernel,
    LogDeterminant,
    Memorisation,
    Metric,
    Modes,
    Neighbours,
    TailMass,
    Trace,
    View,
)
from mad_lightning.metrics.functional import two_sample
from mad_lightning.refusal import Refused
from mad_lightning.samples import Law

ROOT = Path(__file__).parents[2]

METRICS = {
    "neighbours": Neighbours(),
    "neighbours_k3_open": Neighbours(3, "open"),
    "classes": Classes(),
    "frechet": Frechet(),
    "kernel": Kernel(),
    "kernel_of_subsets": Kernel(5, 100),
    "gaussian_w2": GaussianW2(),
    "memorisation": Memorisation(),
    "tails": TailMass(),
    "trace": Trace(),
    "log_det": LogDeterminant(),
    "modes": Modes(4.0),
}


def cloud(n=300, seed=0, dim=4, modes=3):
    """Modes far apart, as classes are."""
    rng = np.random.default_rng(seed)
    centres = 10.0 * np.eye(dim)[np.arange(n) % modes]
    return torch.tensor(centres + rng.normal(size=(n, dim)), dtype=torch.float32)


CENTRES = 10.0 * torch.eye(4).double()[:3]


def view(x, extractor="identity"):
    """A set with all that a metric may ask of it."""
    law = Law(x.double().mean(dim=0), x.double().T.cov(), CENTRES)
    return View(x, extractor, law, torch.arange(len(x)) % 3, cloud(seed=99))


@pytest.fixture(params=METRICS)
def metric(request):
    return METRICS[request.param]


SETS = {
    "the same": (cloud(), cloud()),
    "alike": (cloud(), cloud(seed=1)),
    "shrunken": (cloud(), 0.5 * cloud(seed=1)),
    "far": (cloud(), cloud(seed=1) + 50.0),
    "wide": (cloud(), 5.0 * cloud(seed=1)),
    "one mode": (cloud(), cloud(seed=1, modes=1)),
    "copies": (cloud(), cloud(n=3).repeat(100, 1)),
}


class TestContract:
    @pytest.mark.parametrize("extractor", ["identity", "inception", "lite0"])
    @pytest.mark.parametrize("sets", SETS.values(), ids=SETS)
    def test_every_value_is_explained_and_within_its_bounds(self, metric, sets, extractor):
        quantities = metric.quantities(extractor)
        values = metric(*(view(x, extractor) for x in sets))
        assert values.keys() == quantities.keys()
        for name, value in values.items():
            assert type(value) is float
            low, high = quantities[name].low, quantities[name].high
            assert math.isnan(value) or low <= value <= high, name

    def test_its_docstring_tells_every_name(self, metric):
        told = type(metric).values.__doc__
        for extractor in ("inception", "lite0"):
            for name in metric.quantities(extractor):
                generic = name.removesuffix("_std").replace(f"_{extractor}", "_<extractor>")
                assert f"``{generic}``" in told
                assert "``_std``" in told or not name.endswith("_std")

    def test_its_quantities_say_which_way_is_worse(self, metric):
        """What is far away, lost or copied is worse than what is alike, where anything is."""
        alike = metric(*map(view, SETS["alike"]))
        bad = [metric(*map(view, SETS[name])) for name in ("shrunken", "far", "wide", "one mode")]
        bad.append(metric(view(cloud()), view(cloud(seed=99) + 1e-4)))  # copies of training
        one_class = replace(view(cloud(seed=1)), labels=torch.zeros(300, dtype=torch.int64))
        bad.append(metric(view(cloud()), one_class))
        seen = []
        for name, quantity in metric.quantities("identity").items():
            if quantity.worse is None:
                continue
            worst = min if quantity.worse == "lower" else max
            numbers = [values[name] for values in bad if not math.isnan(values[name])]
            seen.append(worst([alike[name], *numbers]) != alike[name])
        assert all(seen)

    def test_the_order_of_samples_does_not_matter(self, metric):
        if "kernel_subsets" in metric.protocol():
            pytest.skip("subsets are drawn by place")
        real, other = view(cloud()), view(cloud(seed=1))
        turned = [
            View(s.features.flip(0), "identity", s.law, s.labels.flip(0), s.training.flip(0))
            for s in (real, other)
        ]
        assert metric(*turned) == pytest.approx(metric(real, other), rel=1e-9)

    def test_enough_samples_pass_the_check(self, metric):
        metric.check(1000, "identity")


HIGHER_IS_BETTER = {"precision", "recall", "density", "coverage"}
DISTANCES = [Neighbours(), Neighbours(3, "open"), Frechet(), GaussianW2()]


@pytest.mark.parametrize("metric", DISTANCES, ids=lambda metric: str(metric)[:-2])
def test_a_set_is_best_compared_with_itself(metric):
    itself = metric(view(cloud()), view(cloud()))
    other = metric(view(cloud()), view(cloud(seed=1)))
    for name, value in itself.items():
        if name in HIGHER_IS_BETTER - {"density"}:
            assert value == 1.0
        elif name not in HIGHER_IS_BETTER:
            assert value == pytest.approx(0.0, abs=1e-6)
            assert value < other[name]


@pytest.mark.parametrize("metric", DISTANCES, ids=lambda metric: str(metric)[:-2])
def test_a_shift_makes_everything_worse(metric):
    real = cloud()
    values = [metric(view(real), view(cloud(seed=1) + by)) for by in (0.0, 1.5, 50.0)]
    for name in values[0]:
        near, off, far = (at[name] for at in values)
        if name in HIGHER_IS_BETTER:
            assert near > off > far == 0.0
        else:
            assert near < off < far


@pytest.mark.parametrize("metric", [Classes(), Memorisation(), Modes(1.0)])
def test_what_is_missing_is_named(metric):
    with pytest.raises(Refused) as caught:
        metric(View(cloud()), View(cloud(seed=1)))
    assert caught.value.field == ""
    assert type(metric).__name__ in str(caught.value)


def test_a_metric_of_ones_own_says_what_it_means_or_nothing():
    class Spread(Metric):
        def values(self, real, synthetic):
            return {"spread": float(synthetic.features.std())}

    class Explained(Spread):
        def quantities(self, extractor):
            return {"spread": Quantity("diversity", "lower", low=0.0)}

    assert Spread().quantities("identity") == {}
    assert Explained().quantities("identity")["spread"].section == "diversity"


# --- fed in batches, on one process or two ------------------------------------------------------


def normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


STATEFUL = {
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
        for name, metric in STATEFUL.items():
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
def test_two_processes_agree_with_one(tmp_path, two_processes):
    two_processes(__file__)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0] == ranks[1]
    assert len(ranks[0]) == len(DEALS) * len(STATEFUL)
    for name, (first, second) in ranks[0].items():
        assert first == second, name  # the real side was kept, the same synthetic side came again
        check(STATEFUL[name.split("/")[1]], first)


@pytest.mark.parametrize("name", STATEFUL)
def test_batches_do_not_matter(name):
    metric = STATEFUL[name]
    expected = one_process(metric)
    metric.reset()
    for start in (0.0, 0.3):
        feed(metric, [(start, 0.3 if start == 0.0 else 1.0)] * 3)
    assert metric.compute() == expected


@pytest.mark.parametrize("name", STATEFUL)
def test_a_checkpoint_holds_what_was_seen(name):
    metric = STATEFUL[name]
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
