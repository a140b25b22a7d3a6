"""Addressed randomness: same address, same draw; and the draws are what they claim."""

import math
from types import SimpleNamespace

import pytest
import torch
from scipy import stats

from mad_lightning.seeds import normal, permutation, reseed, sample_seeds, seed_for, uniform


def test_addresses_do_not_collide_and_repeat():
    addresses = [
        (s, t, p, i) for s in range(3) for t in range(5) for p in ("a", "b") for i in range(9)
    ]
    seeds = {seed_for(*address) for address in addresses}
    assert len(seeds) == len(addresses)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_for(1, "x") == seed_for(1, "x") != seed_for("1", "x")


def test_reseed_makes_global_draws_repeat():
    draws = []
    for _ in range(2):
        reseed(0, 1, "train")
        draws.append(torch.randn(4))
        torch.randn(3)
    assert torch.equal(*draws)


def test_sample_seeds_agree_where_ranges_overlap():
    assert torch.equal(sample_seeds(0, 10, 5, "x")[4:], sample_seeds(4, 6, 5, "x"))
    assert len(sample_seeds(0, 100_000, 5, "x").unique()) == 100_000


def test_a_row_does_not_depend_on_the_others():
    seeds = sample_seeds(0, 64, 0, "x")
    whole = normal(seeds, 3, 5, 7)
    assert whole.shape == (64, 3, 5, 7)
    assert torch.equal(whole[10:20], normal(seeds[10:20], 3, 5, 7))
    assert torch.equal(whole.flip(0), normal(seeds.flip(0), 3, 5, 7))


def by_definition(seeds, n, stream):
    """The normal draws of one seed, in Python's own integers and float64."""
    word = 2**64

    def mixed(bits):
        bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % word
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % word
        return bits ^ bits >> 31

    start = mixed((seeds + stream * 0xBF58476D1CE4E5B9) % word)
    pairs = [mixed((start + i * 0x9E3779B97F4A7C15) % word) for i in range(1, (n + 1) // 2 + 1)]
    radii = [math.sqrt(-2 * math.log(((bits >> 32) + 0.5) / 2**32)) for bits in pairs]
    angles = [(bits % 2**32) * 2 * math.pi / 2**32 for bits in pairs]
    cosines = [r * math.cos(a) for r, a in zip(radii, angles, strict=True)]
    return (cosines + [r * math.sin(a) for r, a in zip(radii, angles, strict=True)])[:n]


@pytest.mark.parametrize("block", [1, 5, 16, 2**15])
@pytest.mark.parametrize("n", [1, 6, 33])
def test_normal_draws_are_their_definition_whatever_is_computed_at_once(monkeypatch, block, n):
    monkeypatch.setattr("mad_lightning.seeds._BLOCK", block)
    seeds = sample_seeds(0, 7, 5, "n")
    expected = [by_definition(seed % 2**64, n, 3) for seed in seeds.tolist()]
    torch.testing.assert_close(normal(seeds, n, stream=3), torch.tensor(expected))


@pytest.mark.parametrize("draw", [normal, uniform])
def test_blocks_change_no_bit(monkeypatch, draw):
    seeds = sample_seeds(0, 9, 5, "n")
    whole = draw(seeds, 3, 7)
    monkeypatch.setattr("mad_lightning.seeds._BLOCK", 8)
    assert torch.equal(draw(seeds, 3, 7), whole)


def test_streams_differ():
    seeds = sample_seeds(0, 1000, 0, "x")
    draws = [normal(seeds, 10, stream=stream).flatten() for stream in (0, 1, 2, 3, 999)]
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(5)
    assert correlations.abs().max() < 0.04


def test_normal_draws_are_standard_normal_and_independent():
    x = normal(sample_seeds(0, 4000, 3, "x"), 50)
    assert stats.kstest(x.flatten()[:100_000].numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(x[:, 7].numpy(), "norm").pvalue > 1e-3
    covariance = torch.cov(x.T)
    assert (covariance - torch.eye(50)).abs().max() < 0.1
    assert abs(stats.kurtosis(x.flatten().numpy())) < 0.05
    # the pairs of Box-Muller share a radius: their squares must not be correlated
    assert abs(torch.corrcoef(x.square().T)[0, 25]) < 0.06


def test_uniform_draws_are_uniform_and_never_meet_an_end(monkeypatch):
    u = uniform(sample_seeds(0, 4000, 3, "u"), 50)
    assert u.dtype == torch.float64
    assert stats.kstest(u.flatten()[:100_000].numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(u[:, 7].numpy(), "uniform").pvalue > 1e-3
    assert abs(u.mean() - 0.5) < 0.003
    assert abs(u.var() - 1 / 12) < 0.001
    correlations = torch.corrcoef(u.T) - torch.eye(50)
    assert correlations.abs().max() < 0.08
    ends = torch.tensor([[0, -1]])  # all bits 0, all bits 1
    everywhere = slice(None)
    blocks = [(everywhere, everywhere, ends)]
    monkeypatch.setattr("mad_lightning.seeds._bits", lambda *_: blocks)
    low, high = uniform(torch.zeros(1).long(), 2)[0].tolist()
    assert 0.0 < low < 1e-15
    assert 1.0 - 1e-15 < high < 1.0


def test_uniform_streams_are_independent_of_each_other_and_of_normal_ones():
    seeds = sample_seeds(0, 2000, 0, "x")
    draws = [uniform(seeds, 10, stream=stream).flatten() for stream in (0, 1, 2)]
    draws += [normal(seeds, 10, stream=stream).flatten().double() for stream in (3, 4)]
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(5)
    assert correlations.abs().max() < 0.03
    whole = uniform(seeds, 3, 5)
    assert whole.shape == (2000, 3, 5)
    assert torch.equal(whole[10:20], uniform(seeds[10:20], 3, 5))
    assert torch.equal(uniform(seeds), uniform(seeds, 1).squeeze(1))


def test_permutation_is_one_and_addressed():
    order = permutation(100, 0, 1, "order", 2)
    assert torch.equal(order.sort().values, torch.arange(100))
    assert torch.equal(order, permutation(100, 0, 1, "order", 2))
    assert not torch.equal(order, permutation(100, 0, 1, "order", 3))


def test_where_a_device_has_no_float64_draws_are_made_on_the_cpu_and_stay_below_1(monkeypatch):
    class There(torch.Tensor):
        device = SimpleNamespace(type="mps")

    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self)
    seeds = sample_seeds(0, 1000, "x")
    there = seeds.as_subclass(There)
    monkeypatch.setattr(There, "cpu", lambda self: seeds)
    here = uniform(seeds, 9)
    drawn = uniform(there, 9)
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn, here.float())
    assert normal(there, 4).equal(normal(seeds, 4))
    largest = torch.full((1, 1), 2.0**52 - 1, dtype=torch.float64)
    monkeypatch.setattr("mad_lightning.seeds._floats", lambda bits: largest.expand(bits.shape) + 0)
    assert float(uniform(there, 1).max()) < 1.0
