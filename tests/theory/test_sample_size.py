"""Effective sample sizes against closed forms, plain lineages, and the paper sheet's numbers."""

import dataclasses
import math

import numpy as np
import plain_lineages as plain
import pytest

from mad_lightning.policies import FreshData
from mad_lightning.refusal import Refused
from mad_lightning.theory import (
    DriftAndVariance,
    FreshLoop,
    RealOnlyCurve,
    effective_sample_size,
    effective_sample_sizes,
    fresh_loops,
    std_contraction,
)
from mad_lightning.theory.limits import _Run

REAL_ONLY = {
    100: 31.9, 200: 14.1, 300: 9.17, 500: 5.42, 1000: 2.64, 2000: 1.32, 5000: 0.524, 10_000: 0.263,
}  # fmt: skip
N_SYNTHETIC = (100, 300, 1000, 3000, 10_000)
RATIOS = {
    (0.7, 100): (1.72, 1.78, 1.08, 0.73, 0.53),
    (0.7, 250): (1.33, 1.47, 0.84, 0.42, 0.27),
    (0.7, 1000): (1.09, 1.19, 0.90, 0.33, 0.12),
    (0.85, 100): (1.73, 2.22, 1.61, 0.94, 0.64),
    (0.85, 250): (1.34, 1.68, 1.41, 0.65, 0.35),
    (0.85, 1000): (1.09, 1.24, 1.34, 0.69, 0.20),
    # The sheet says 2.33 of the last one. A plain loop that draws every sample (3 lineages of 800
    # generations) puts the limit at W2² = 11.4, which is 2.44: the sheet's had not settled.
    (1.0, 100): (1.63, 1.98, 2.29, 2.36, 2.44),
    (1.0, 250): (1.29, 1.61, 1.94, 2.10, 2.11),
    (1.0, 1000): (1.09, 1.23, 1.52, 1.77, 1.95),
}
"""n_e / n_real at d = 100, from an independent Monte-Carlo with errors of a few percent."""


class TestRealOnlyCurve:
    def test_one_dimension_has_a_closed_form(self):
        """E W2² = 1/n + E (1 - σ)², and E σ is the contraction of the standard deviation."""
        curve = RealOnlyCurve(1, precision=0.005)
        for n in (2, 3, 10, 100):
            exact = 1 / n + 2 - 2 * std_contraction(n)
            assert curve.at(n) == pytest.approx(exact, rel=0.02)

    @pytest.mark.parametrize("n", [100, 500, 5000])
    def test_the_paper_sheet_s_values(self, n):
        assert RealOnlyCurve(100, precision=0.005).at(n) == pytest.approx(REAL_ONLY[n], rel=0.015)

    @pytest.mark.parametrize("dim", [1, 3, 30])
    def test_its_inverse_undoes_it_between_knots_too(self, dim):
        curve = RealOnlyCurve(dim, precision=0.005)
        n = np.array([2, 5, 13, 70, 1234, 40_321])
        again = curve.inverse(np.array([curve.at(int(each)) for each in n]))
        # in many dimensions few samples all do alike, so an error of W2 is one of n several times
        assert again[1:] == pytest.approx(n[1:], rel=0.06)

    def test_what_no_two_samples_do_as_badly_has_no_size(self):
        curve = RealOnlyCurve(3, precision=0.02)
        assert np.isnan(curve.inverse(np.array([2.0 * curve.at(2), 1.0]))).tolist() == [True, False]

    def test_its_value_does_not_depend_on_what_else_was_asked(self):
        alone, after = RealOnlyCurve(4, precision=0.02), RealOnlyCurve(4, precision=0.02)
        after.inverse(np.array([3.0, 0.001]))
        w2 = np.array([0.2])
        assert alone.inverse(w2) == pytest.approx(after.inverse(w2), rel=1e-12)

    def test_maximum_likelihood_begins_at_one_sample(self):
        curve = RealOnlyCurve(2, "maximum_likelihood", precision=0.02)
        assert curve.at(1) == pytest.approx(2.0 + 2.0)  # the mean is off by d, the variance by d
        with pytest.raises(Refused, match="at least 2"):
            RealOnlyCurve(2).at(1)


class TestLimit:
    @pytest.mark.parametrize(
        ("loop", "dim", "estimator"),
        [
            (FreshLoop(6, 12, 0.8), 2, "unbiased"),
            (FreshLoop(4, 12, 1.0, k=3), 3, "unbiased"),
            (FreshLoop(5, 5, 1.0), 6, "maximum_likelihood"),
        ],
    )
    def test_it_is_where_plain_lineages_end(self, loop, dim, estimator):
        (found,) = effective_sample_sizes([loop], dim, estimator=estimator, precision=0.02)
        source = "last" if loop.k == 1 else "last_k"
        policy = FreshData(20, loop.n_real, loop.n_synthetic, source, loop.k)
        means, covs = plain.lineages(
            policy, dim, 30, 3000, loop.sampling_bias, estimator == "unbiased"
        )
        late = plain.w2_squared(means, covs)[24:].mean(axis=0)
        error = late.std() / len(late) ** 0.5
        allowed = 4 * math.hypot(error, found.standard_error)
        assert found.settled
        assert found.w2_squared == pytest.approx(late.mean(), abs=allowed)

    def test_without_synthetic_samples_a_loop_is_worth_its_real_ones(self):
        found = effective_sample_size(40, 0, 1.0, dim=10)
        assert found.low / 1.03 < 40 < found.high * 1.03
        assert found.ratio == pytest.approx(1.0, abs=0.03)
        assert found.interval == (found.low / 40, found.high / 40)

    def test_intervals_hold_what_they_should(self):
        """The truth is known where nothing is synthetic: n_e = n_real."""
        inside = []
        for seed in range(60):
            found = effective_sample_size(30, 0, dim=20, precision=0.05, seed=seed)
            inside.append(found.low <= 30 <= found.high)
        assert np.mean(inside) >= 0.87  # 0.95 less 3 standard errors

    def test_intervals_know_of_a_loop_that_is_slow_to_settle(self):
        """W2² = 1.0393 with standard error 0.0008 in 1,200 plain lineages of 90 generations each.

        A fit on so many real samples does as well, by a simulated curve of standard error 0.0025.
        """
        truth = RealOnlyCurve(10).inverse(np.array([1.0393]))[0]
        inside = []
        for seed in range(60):
            found = effective_sample_size(20, 80, 0.8, dim=10, k=3, precision=0.02, seed=seed)
            inside.append(found.low <= truth <= found.high)
        assert np.mean(inside) >= 0.87  # 0.95 less 3 standard errors

    def test_a_loop_does_not_see_who_else_is_asked_for(self):
        loops = fresh_loops([20, 30], [10, 60], [0.7, 1.0])
        together = effective_sample_sizes(loops, 8, precision=0.05, threads=2)
        alone = effective_sample_sizes(loops[5:6], 8, precision=0.05, threads=1)[0]
        other, mine = dataclasses.asdict(together[5]), dataclasses.asdict(alone)
        assert other.pop("loop") == mine.pop("loop")
        assert other.pop("estimator") == mine.pop("estimator")
        assert other == pytest.approx(mine, rel=1e-6)

    def test_the_number_of_cores_changes_no_bit(self, monkeypatch):
        from mad_lightning.theory import lineages

        monkeypatch.setattr(lineages, "_STREAM", 2 * 6**2)  # two lineages of six dimensions
        loops = fresh_loops([20], [10, 60], [0.7, 1.0], [1, 3])
        one, three = (
            effective_sample_sizes(loops, 6, precision=0.1, threads=threads) for threads in (1, 3)
        )
        assert one == three
        assert one[0].lineages == 7, "four streams, the last one of a single lineage"

    def test_synthetic_samples_help_and_then_hurt(self):
        loops = fresh_loops([20], [10, 40, 400], [0.7])
        few, some, many = effective_sample_sizes(loops, 10, precision=0.03)
        assert few.admissible
        assert some.admissible
        assert not many.admissible
        assert many.ratio < 0.7

    def test_the_last_argument_varies_fastest(self):
        loops = fresh_loops([2, 3], [4], [0.5, 1.0], [1, 2])
        assert [(each.n_real, each.sampling_bias, each.k) for each in loops[:4]] == [
            (2, 0.5, 1), (2, 0.5, 2), (2, 1.0, 1), (2, 1.0, 2),
        ]  # fmt: skip


class TestSettling:
    def run(self, away, noise=0.0, tau=50.0, length=200, limit=10.0):
        """A run whose distance comes from ``away`` with relaxation τ, and R = 8 lineages' noise."""
        run = _Run(first=1, tau=tau, length=length, longest=10_000, every=1)
        rng = np.random.default_rng(0)
        for t in range(1, length + 2):
            run.times.append(t)
            clean = limit + away * math.exp(-(t - 1 - length / 2) / tau)
            run.values.append(np.zeros((3, 8)))
            run.values[-1][0] = clean + noise * rng.standard_normal(8)
        return run

    @pytest.mark.parametrize("tau", [5.0, 50.0, 1000.0])
    def test_the_bias_is_how_far_the_window_is_from_the_limit(self, tau):
        run = self.run(0.7, tau=tau)
        away = np.mean([values[0] for values in run.values[run.burn_in :]]) - 10.0
        limit, _ = run.judge(0.01)
        assert limit.bias == pytest.approx(away, rel=0.15, abs=0.01)
        assert limit.per_lineage.mean() == pytest.approx(10.0, abs=0.15 * away + 0.01)

    def test_a_loop_that_still_moves_has_not_settled(self):
        assert not self.run(away=1.0).judge(0.01)[0].settled
        assert self.run(away=0.01).judge(0.01)[0].settled

    def test_nor_has_one_whose_noise_could_hide_that_it_moves(self):
        assert not self.run(away=0.0, noise=2.0, tau=2000.0).judge(0.01)[0].settled
        assert self.run(away=0.0, noise=0.1).judge(0.01)[0].settled

    def test_the_burn_in_is_left_out(self):
        run = self.run(away=0.0)
        for place, t in enumerate(run.times):
            if t <= run.burn_in:
                run.values[place] = run.values[place] + 1e6
        limit, over = run.judge(0.01)
        assert limit.settled
        assert over
        assert limit.burn_in == 101
        assert limit.per_lineage == pytest.approx(10.0)

    def test_wandering_that_is_known_to_be_chance_is_taken_away(self):
        run = self.run(away=0.0, noise=0.01)
        run.known = DriftAndVariance(2.0, 5.0)
        noisy, _ = self.run(away=0.0, noise=0.01).judge(0.01)
        rng = np.random.default_rng(1)
        for place, values in enumerate(run.values):
            drift, variance = rng.exponential(2.0, 8), 5.0 + 3.0 * rng.standard_normal(8)
            distance = values[0] + 0.7 * (drift - 2.0) - 0.2 * (variance - 5.0)
            run.values[place] = np.stack([distance, drift, variance])
        steady, _ = run.judge(0.01)
        assert steady.per_lineage == pytest.approx(noisy.per_lineage, abs=0.01)

    def test_it_is_given_up_in_the_end_and_says_so(self):
        run = self.run(away=3.0, length=200)
        run.longest = 200
        limit, over = run.judge(0.01)
        assert over
        assert not limit.settled


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((1, 10), "n_real"),
        ((0, 10), "n_real"),
        ((2.5, 10), "n_real"),
        ((True, 10), "n_real"),
        ((10, -1), "n_synthetic"),
        ((10, 10, 0.0), "sampling_bias"),
        ((10, 10, 1.5), "sampling_bias"),
        ((10, 10, 1.0, 0), "dim"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments, field):
    with pytest.raises(Refused) as refused:
        effective_sample_size(*arguments)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"k": 0}, "k"),
        ({"precision": 0.0}, "precision"),
        ({"precision": 1.0}, "precision"),
        ({"estimator": "robust"}, "estimator"),
    ],
)
def test_options_too(options, field):
    with pytest.raises(Refused) as refused:
        effective_sample_size(10, 10, **options)
    assert refused.value.field == field


# the paper's studies, d = 100


def test_a_few_points_of_the_paper_sheet():
    loops = [FreshLoop(100, 1000, 0.85), FreshLoop(1000, 300, 1.0), FreshLoop(1000, 3000, 0.7)]
    found = effective_sample_sizes(loops)
    assert [each.ratio for each in found] == pytest.approx([1.61, 1.23, 0.33], rel=0.04)
    assert all(each.settled for each in found)
    assert all(each.standard_error < 0.02 * each.w2_squared for each in found)


@pytest.mark.slow
def test_the_whole_table_of_the_paper_sheet():
    points = [(n, s, bias) for bias, n in RATIOS for s in N_SYNTHETIC]
    found = effective_sample_sizes([FreshLoop(*point) for point in points])
    ratios = [each.ratio for each in found]
    assert ratios == pytest.approx([each for row in RATIOS.values() for each in row], rel=0.04)
    assert all(each.settled for each in found)


@pytest.mark.slow
def test_e13_a_window_of_models():
    known = {1: 1.99, 2: 2.68, 5: 4.4, 10: 6.0, 25: 8.2, 50: 9.4, 100: 10.1}
    found = effective_sample_sizes(fresh_loops([1000], [10_000], k=list(known)))
    assert [each.ratio for each in found] == pytest.approx(list(known.values()), rel=0.04)


@pytest.mark.slow
def test_e14_more_data_of_which_a_share_is_real():
    # The sheet says 52.9, 11.0, 112, 28 of the last four, and 4.1 of (0.03, 10_000): its lineages
    # had not settled. These are means of plain lineages that draw every sample (W2² every fifth
    # generation, over the last half or more of 4 to 18 relaxation times): 96 lineages, standard
    # error 0.4; 3, 0.1; 7, 6; 2, 0.2; and 4, 0.02.
    known = {
        (0.1, 1000, 1.0): 12.2, (0.1, 10_000, 1.0): 1.36, (0.1, 100_000, 1.0): 0.14,
        (0.03, 1000, 1.0): 30.4, (0.03, 10_000, 1.0): 4.26,
        (0.01, 1000, 1.0): 62.9, (0.01, 10_000, 1.0): 11.3,
        (0.003, 1000, 1.0): 121, (0.003, 10_000, 1.0): 30.8,
    }  # fmt: skip
    biased = {
        0.97: (10.4, 4.5, 2.2, 1.6), 0.95: (10.7, 5.5, 3.7, 3.2),
        0.93: (11.5, 7.1, 5.4, 5.0), 0.9: (13.4, 9.5, 8.1, 7.7),
    }  # fmt: skip
    for bias, row in biased.items():
        known |= {
            (0.1, n, bias): w2 for n, w2 in zip((1000, 3000, 10_000, 30_000), row, strict=True)
        }
    loops = [FreshLoop(round(p * n), n - round(p * n), bias) for p, n, bias in known]
    found = effective_sample_sizes(loops)
    assert [each.w2_squared for each in found] == pytest.approx(list(known.values()), rel=0.04)
