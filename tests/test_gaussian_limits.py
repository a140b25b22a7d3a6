"""E9 (section 5.2, figure 10 left): the fresh loop forgets where it started.

Reference values come from an independent Monte-Carlo of the same recursion; the first two moments
of its limit are also known in closed form (a 2 x 2 fixed point).
"""

import numpy as np
import pytest

from mad_lightning.commands.train import build

SEEDS, GENERATIONS, BURN_IN = 20, 40, 25


def limit(tmp_path, bias, n_initial):
    """Mean over seeds of the squared W2 distance after the burn-in, and its standard error."""
    means = []
    for seed in range(SEEDS):
        records = build(
            [
                "--config", "configs/gaussian_fresh.yaml",
                "--lineage.root", str(tmp_path / f"{bias}_{n_initial}"),
                "--lineage.generations", str(GENERATIONS),
                "--data.cache", str(tmp_path / "cache"),
                "--seed_everything", str(seed),
                "--sampling_bias", str(bias),
                "--policy.n_initial", str(n_initial),
                "--evaluator.metrics", '[{"class_path": "GaussianW2"}]',
                "--callbacks", "[]",
            ]
        ).fit()  # fmt: skip
        values = [record.metrics["w2_squared"] for record in records]
        start = {100: 31.9, 1000: 2.64}[n_initial]
        assert values[0] == pytest.approx(start, rel=0.15)
        means.append(np.mean(values[BURN_IN:]))
    return np.mean(means), np.std(means, ddof=1) / SEEDS**0.5


@pytest.mark.slow
@pytest.mark.parametrize("n_initial", [100, 1000])
@pytest.mark.parametrize(("bias", "value", "tolerance"), [(1.0, 12.1, 0.4), (0.8, 20.7, 0.6)])
def test_the_limit_is_the_papers_from_both_starts(tmp_path, bias, value, tolerance, n_initial):
    mean, error = limit(tmp_path, bias, n_initial)
    print(f"λ = {bias}, n_initial = {n_initial}: {mean:.2f} ± {error:.2f}")
    assert mean == pytest.approx(value, abs=tolerance)
    assert error < tolerance / 2
