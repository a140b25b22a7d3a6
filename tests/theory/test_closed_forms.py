"""Every formula against a simulation that draws samples, or a number worked out elsewhere."""

import math

import numpy as np
import plain_lineages as plain
import pytest
import torch

from mad_lightning.metrics.functional import gaussian_w2_squared
from mad_lightning.policies import FreshData, FullySynthetic, SyntheticAugmentation
from mad_lightning.theory import closed_forms as forms

ESTIMATORS = ["unbiased", "maximum_likelihood"]


class TestEstimators:
    @pytest.mark.parametrize(("n", "bias"), [(2, 1.0), (5, 0.7), (40, 1.0)])
    def test_std_and_log_variance_of_one_fit(self, n, bias):
        x = math.sqrt(bias) * np.random.default_rng(1).standard_normal((200_000, n))
        variance = x.var(axis=1, ddof=1)
        assert plain.hits(np.sqrt(variance), forms.std_contraction(n, bias))
        assert plain.hits(np.log(variance), forms.log_variance_drift(n, bias))

    def test_the_rates_are_about_those_of_the_paper_sheet(self):
        assert forms.std_contraction(1000) == pytest.approx(1 - 1 / (4 * 999), abs=1e-6)
        assert forms.log_variance_drift(1000, 0.9) == pytest.approx(
            math.log(0.9) - 1 / 999, abs=1e-6
        )
        assert forms.std_contraction(2) == pytest.approx(math.sqrt(2 / math.pi))

    def test_log_determinant_in_several_dimensions(self):
        x = np.random.default_rng(2).standard_normal((20_000, 9, 4))
        x -= x.mean(axis=1, keepdims=True)
        cov = np.einsum("rni,rnj->rij", x, x) / 8
        drift = np.linalg.slogdet(0.8 * cov)[1] / 4
        assert plain.hits(drift, forms.log_variance_drift(9, 0.8, dim=4))

    def test_covariance_of_the_covariance(self):
        rng = np.random.default_rng(3)
        a = rng.standard_normal((3, 3))
        sigma = a @ a.T
        x = rng.standard_normal((50_000, 6, 3)) @ a.T
        x -= x.mean(axis=1, keepdims=True)
        off = np.einsum("rni,rnj->rij", x, x) / 5 - sigma
        products = np.einsum("rij,rkl->rijkl", off, off)
        expected = forms.covariance_of_wishart(torch.from_numpy(sigma), 5).numpy()
        assert plain.hits(products, expected)


class TestDistance:
    def test_it_is_the_project_s_own_distance_where_both_apply(self):
        rng = torch.Generator().manual_seed(0)
        mean = torch.randn(4, 6, dtype=torch.float64, generator=rng)
        root = torch.randn(4, 6, 6, dtype=torch.float64, generator=rng)
        ours = forms.w2_squared_to_standard_normal(mean, root)
        zero, one = torch.zeros(6).double(), torch.eye(6).double()
        for k in range(4):
            theirs = gaussian_w2_squared(zero, one, mean[k], root[k].T @ root[k])
            assert ours[k].item() == pytest.approx(theirs, rel=1e-7)

    @pytest.mark.parametrize("rank", [1, 2, 5])
    def test_a_root_of_few_rows_is_a_singular_covariance(self, rank):
        root = torch.randn(rank, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        variances = np.linalg.eigvalsh((root.T @ root).numpy()).clip(0)
        value = forms.w2_squared_to_standard_normal(torch.ones(5).double(), root)
        assert value.item() == pytest.approx(5 + ((1 - np.sqrt(variances)) ** 2).sum(), rel=1e-7)

    def test_a_point_is_as_far_as_its_variances_are_missing(self):
        root = torch.zeros(3, 3).double()
        assert forms.w2_squared_to_standard_normal(torch.zeros(3).double(), root).item() == 3.0


class TestFullySynthetic:
    @pytest.mark.parametrize("bias", [1.0, 0.8])
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_drift_and_expected_covariance(self, bias, estimator):
        policy = FullySynthetic(12, 8)
        means, covs = plain.lineages(policy, 2, 6, 20_000, bias, estimator == "unbiased")
        shrink = 1.0 if estimator == "unbiased" else 11 / 12 * (7 / 8) ** 5
        assert plain.hits(covs[5], bias**5 * shrink * np.eye(2))
        if estimator == "unbiased":
            assert plain.hits((means[5] ** 2).sum(-1), forms.mean_drift(6, 8, bias, 2.0, 12))

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_expected_variance_with_equal_sizes(self, estimator):
        _, covs = plain.lineages(FullySynthetic(8), 2, 5, 20_000, 0.9, estimator == "unbiased")
        for t in (1, 3, 5):
            expected = forms.expected_variance(t, 8, 0.9, estimator)
            assert plain.hits(covs[t - 1], expected * np.eye(2))

    def test_oracles_of_the_paper_sheet(self):
        assert forms.mean_drift(10, 20, 1.0, 1.0, 50) == pytest.approx(0.470, abs=1e-9)
        assert forms.mean_drift(10, 20, 0.8, 1.0, 50) == pytest.approx(0.1932, abs=1e-4)

    def test_the_median_variance_collapses_where_the_mean_stays(self):
        n, t = 10, 60
        _, covs = plain.lineages(FullySynthetic(n), 1, t, 4000)
        variance = covs[:, :, 0, 0]
        for each in (20, 60):
            log = np.log(variance[each - 1])
            median = math.log(forms.median_variance(each, n))
            # the median of a sample of R has an error of about 1.25 standard errors of the mean
            error = 1.25 * log.std() / math.sqrt(len(log))
            assert np.median(log) == pytest.approx(median, abs=4 * error + 1 / (3 * n))
        assert forms.median_variance(t, n) < 2e-3
        assert forms.expected_variance(t, n) == 1.0


class TestFreshLoop:
    @pytest.mark.parametrize("bias", [1.0, 0.8])
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_moments_of_every_generation(self, bias, estimator):
        policy = FreshData(7, 4, 9)
        means, covs = plain.lineages(policy, 3, 6, 20_000, bias, estimator == "unbiased")
        for t in (1, 2, 6):
            expected = forms.fresh_moments(t, 7, 4, 9, bias, 3.0, estimator)
            assert plain.hits((means[t - 1] ** 2).sum(-1), expected.drift)
            assert plain.hits(np.trace(covs[t - 1], axis1=1, axis2=2), expected.variance)

    def test_fixed_point_is_that_of_e9(self):
        assert forms.fresh_fixed_point(100, 900, 1.0, 100) == pytest.approx(
            (0.529, 100.48), rel=1e-3
        )
        assert forms.fresh_fixed_point(100, 900, 0.8, 100) == pytest.approx(
            (0.188, 35.77), rel=2e-3
        )

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    @pytest.mark.parametrize("loop", [(100, 900, 1.0), (5, 300, 0.9), (10, 0, 1.0), (1, 1, 0.5)])
    def test_every_start_ends_at_the_fixed_point_in_the_time_that_relaxation_says(
        self, loop, estimator
    ):
        end = np.array(forms.fresh_fixed_point(*loop, 100.0, estimator))
        tau = forms.relaxation(*loop, estimator=estimator)
        t = 2 + math.ceil(12 * tau)
        near = np.array(forms.fresh_moments(t, 3, *loop, 100.0, estimator))
        assert near == pytest.approx(end, rel=1e-3)
        # With λ = 1 and maximum likelihood, drift + variance is constant and hides the slow mode.
        if tau > 1 and estimator == "unbiased":
            ahead = np.array(forms.fresh_moments(t + 1, 3, *loop, 100.0, estimator))
            slowest = np.abs(ahead - end).sum() / np.abs(near - end).sum()
            assert slowest == pytest.approx(math.exp(-1 / tau), rel=1e-2)

    @pytest.mark.parametrize("k", [1, 3, 20])
    def test_a_window_of_models_forgets_more_slowly(self, k):
        """Against the largest root of z^k = q/k (z^(k-1) + ... + 1), the recursion of the trace."""
        q = 900 / 1000
        roots = np.roots([1.0, *[-q / k] * k])
        exact = -1 / math.log(np.abs(roots).max())
        assert forms.relaxation(100, 900, 1.0, k) == pytest.approx(exact, rel=0.08)


class TestAccumulating:
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_every_generation(self, estimator):
        n = 5
        policy = SyntheticAugmentation(n, f"(t-1) * {n}", synthetic_from="all")
        _, covs = plain.lineages(policy, 2, 6, 20_000, 1.0, estimator == "unbiased")
        for t in (1, 2, 6):
            expected = forms.accumulate_variance(t, n, estimator)
            assert plain.hits(covs[t - 1], expected * np.eye(2))

    @pytest.mark.parametrize("n", [1, 2, 10, 1000])
    def test_the_product_ends_at_the_sine(self, n):
        far = forms.accumulate_variance(20_000, n)
        assert far == pytest.approx(forms.accumulate_limit(n), rel=1e-4, abs=1e-12)

    def test_the_limit_of_the_paper_sheet(self):
        assert forms.accumulate_limit(10) == pytest.approx(0.843, abs=5e-4)


@pytest.mark.parametrize("accumulate", [False, True])
def test_linear_regression_on_its_own_labels(accumulate):
    n, dim, noise, generations, count = 12, 3, 0.5, 5, 20_000
    rng = np.random.default_rng(4)
    x = rng.standard_normal((count, n, dim))
    inverse = np.linalg.pinv(x)
    truth = np.array([1.0, -2.0, 0.5])
    w = np.broadcast_to(truth, (count, dim))
    labels, errors = [], []
    for _ in range(generations):
        y = np.einsum("rni,ri->rn", x, w) + math.sqrt(noise) * rng.standard_normal((count, n))
        labels = [*labels, y] if accumulate else [y]
        # least squares on the same inputs again and again is that on their mean label
        w = np.einsum("rin,rn->ri", inverse, np.mean(labels, axis=0))
        errors.append(((w - truth) ** 2).sum(axis=1))
    for t in (1, 3, 5):
        expected = forms.regression_error(t, n, dim, noise, accumulate)
        assert plain.hits(errors[t - 1], expected)


def test_accumulating_costs_at_most_pi_squared_over_6():
    ratio = forms.regression_error(10_000, 20, 3) / forms.regression_error(1, 20, 3)
    assert ratio == pytest.approx(math.pi**2 / 6, rel=1e-3)
    assert ratio < math.pi**2 / 6
