"""Vectorised lineages against lineages that draw every sample, for any loop policy."""

from collections import Counter

import numpy as np
import plain_lineages as plain
import pytest
import scipy.stats
import torch

from mad_lightning.commands.train import build
from mad_lightning.policies import (
    Combined,
    FreshData,
    FullySynthetic,
    LoopPolicy,
    Mix,
    Part,
    SyntheticAugmentation,
    shard_name,
)
from mad_lightning.refusal import Refused
from mad_lightning.theory import GaussianLineages, Setting, segments, simulate


class Patchwork(LoopPolicy):
    """Takes real and synthetic samples again, in runs that overlap, some twice, one empty."""

    token = "patchwork"

    def mix(self, t):
        if t == 1:
            return Mix(t, (Part("real", None, 0, 6),))
        older = tuple(Part("synthetic", shard_name(g), g, 3) for g in range(1, t))
        none = Part("real", None, 9, 0)
        real, last = Part("real", None, 2 * (t % 2), 5), Part("synthetic", shard_name(t - 1), 1, 2)
        return Mix(t, (real, none, *older, last))


POLICIES = {
    "fully_synthetic": FullySynthetic(9, 7),
    "fully_synthetic_all": FullySynthetic(9, 8, synthetic_from="all"),
    "fully_synthetic_last_3": FullySynthetic(9, 7, synthetic_from="last_k", k=3),
    "augmentation": SyntheticAugmentation(5, 6),
    "augmentation_initial": SyntheticAugmentation(5, 4, n_initial=9),
    "accumulate": SyntheticAugmentation(6, "(t-1) * 6", synthetic_from="all"),
    "fresh": FreshData(8, 3, 6),
    "fresh_last_3": FreshData(8, 3, 7, synthetic_from="last_k", k=3),
    "fresh_real_only": FreshData(8, 5, 0),
    "patchwork": Patchwork(),
    "combined": Combined(8, "3 + t", 2, 5),
    "weighted": Combined(8, 3, 2, 4, synthetic_from="all", weight_fresh=3.0, weight_synthetic=0.4),
}
T = 5
policies = pytest.mark.parametrize("name", POLICIES)


def places(mix):
    """Every sample of a mix, as (source, place)."""
    return Counter(
        (part.generation or 0, place)
        for part in mix.parts
        for place in range(part.start, part.stop)
    )


class TestSegments:
    @policies
    def test_two_generations_share_as_many_samples_as_their_mixes_do(self, name):
        policy = POLICIES[name]
        mixes = {t: places(policy.mix(t)) for t in range(1, T + 1)}
        plan = segments(policy, T)
        for t in mixes:
            for u in mixes:
                for source in range(T):
                    shared = sum(
                        times * mixes[u][sample]
                        for sample, times in mixes[t].items()
                        if sample[0] == source
                    )
                    cut = [each for each in plan if each.source == source]
                    assert shared == sum(
                        each.count * each.uses.count(t) * each.uses.count(u) for each in cut
                    )

    def test_order_is_that_of_first_use_with_real_samples_first(self):
        plan = segments(POLICIES["patchwork"], T)
        keys = [(each.uses[0], each.source > 0) for each in plan]
        assert keys == sorted(keys)
        assert len({(each.source, each.uses) for each in plan}) == len(plan)


def moments(policy, dim, count, estimator="unbiased", bias=1.0):
    """Means (T, R, d) and covariances (T, R, d, d) of ours."""
    run = GaussianLineages([Setting(policy, bias, seed=5)], dim, T, count, estimator)
    means, covs = [], []
    for _ in range(T):
        run.step()
        means.append(run.mean[0].numpy())
        covs.append(run.covariance()[0].numpy())
    return np.stack(means), np.stack(covs)


@pytest.mark.parametrize(
    ("dim", "bias", "estimator"), [(2, 1.0, "unbiased"), (7, 0.7, "maximum_likelihood")]
)
@policies
def test_lineages_are_distributed_as_if_every_sample_were_drawn(name, dim, bias, estimator):
    """Means, covariances, distances and what ties generations together, at n <= d too."""
    policy, count = POLICIES[name], 3000
    ours = moments(policy, dim, count, estimator, bias)
    theirs = plain.lineages(policy, dim, T, count, bias, estimator == "unbiased", seed=6)
    for a, b in zip(ours, theirs, strict=True):
        assert plain.agree(a.swapaxes(0, 1), b.swapaxes(0, 1))
    scalars = []
    for means, covs in (ours, theirs):
        trace = np.trace(covs, axis1=2, axis2=3)
        between = np.einsum("trd,urd->rtu", means, means)
        together = np.einsum("tr,ur->rtu", trace - trace.mean(1)[:, None], trace - dim)
        shared = np.einsum("trij,urij->rtu", covs, covs)
        scalars.append(np.concatenate([between, together, shared], axis=1))
    assert plain.agree(*scalars)
    distances = [plain.w2_squared(*each) for each in (ours, theirs)]
    for t in range(T):
        assert scipy.stats.ks_2samp(distances[0][t], distances[1][t]).pvalue > 1e-4


@pytest.mark.parametrize("n", [2, 3, 5, 6, 40])
def test_one_fit_has_the_eigenvalues_of_a_wishart_matrix(n):
    dim, count = 5, 4000
    run = GaussianLineages([Setting(FreshData(n, 1, 1), seed=1)], dim, 1, count)
    run.step()
    ours = np.linalg.eigvalsh(run.covariance()[0].numpy())
    x = np.random.default_rng(2).standard_normal((count, n, dim))
    x -= x.mean(axis=1, keepdims=True)
    theirs = np.linalg.eigvalsh(np.einsum("rni,rnj->rij", x, x) / (n - 1))
    rank = min(n - 1, dim)
    assert (np.abs(ours[:, : dim - rank]) < 1e-12).all()
    for k in range(dim - rank, dim):
        assert scipy.stats.ks_2samp(ours[:, k], theirs[:, k]).pvalue > 1e-4


@policies
def test_a_mix_counts_as_many_samples_as_the_policy_asks_for(name, monkeypatch):
    from mad_lightning.theory import lineages

    counted, merge = [], lineages._merge

    def spy(stacks):
        merged = merge(stacks)
        counted.append(float(merged[0][0]))
        return merged

    monkeypatch.setattr(lineages, "_merge", spy)
    policy = POLICIES[name]
    run = GaussianLineages([Setting(policy)], 2, T, 3)
    for t in range(1, T + 1):
        run.step()
        sums = [sum(p.count * p.weight**power for p in policy.mix(t).parts) for power in (1, 2)]
        assert counted[-1] == pytest.approx(sums[0] ** 2 / sums[1])  # all of them, weights alike


def test_the_same_policies_drive_image_lineages_and_these(arguments, monkeypatch):
    """Both ask the same classes; every mix that an image lineage trains on is one of ours."""
    asked = []
    for cls in (FullySynthetic, SyntheticAugmentation, FreshData):
        original = cls.mix

        def spy(self, t, original=original):
            mix = original(self, t)
            asked.append((type(self), mix))
            return mix

        monkeypatch.setattr(cls, "mix", spy)
    loops = {
        "FullySynthetic": (FullySynthetic, {"n_initial": 200, "n_synthetic": 150}),
        "SyntheticAugmentation": (SyntheticAugmentation, {"n_real": 100, "n_synthetic": 80}),
        "FreshData": (FreshData, {"n_initial": 100, "n_fresh": 60, "n_synthetic": 50}),
    }
    for name, (cls, counts) in loops.items():
        arguments[arguments.index("--policy") + 1] = name
        start = arguments.index("--policy.n_initial")
        given = [f"--policy.{key}={value}" for key, value in counts.items()]
        image = [*arguments[:start], *given, *arguments[start + 2 :], "--lineage.name", name]
        asked.clear()
        records = build([*image, "--callbacks", "[]"]).fit()
        of_images = {mix.generation: mix for kind, mix in asked if kind is cls}
        asked.clear()
        segments.cache_clear()
        run = GaussianLineages([Setting(cls(**counts))], 2, 3, 2)
        of_ours = {mix.generation: mix for kind, mix in asked if kind is cls}
        assert {t: of_ours[t] for t in (1, 2, 3)} == {t: of_images[t] for t in (1, 2, 3)}
        for record in records:
            run.step()
            mix = of_ours[record.generation]
            told = (record.n_real, record.n_fresh, record.n_synthetic)
            assert told == (mix.n_real, mix.n_fresh, mix.n_synthetic)


class TestBatches:
    def settings(self):
        loops = [(20, 30, 1.0), (10, 90, 0.8), (3, 7, 0.5)]
        return [Setting(FreshData(9, a, b), c, seed=s) for s, (a, b, c) in enumerate(loops)]

    def test_a_setting_does_not_see_who_else_is_simulated(self):
        together = simulate(self.settings(), 4, 6, 5)
        for place, setting in enumerate(self.settings()):
            alone = simulate([setting], 4, 6, 5)
            for a, b in zip(together, alone, strict=True):
                torch.testing.assert_close(a[place], b[0], rtol=1e-9, atol=1e-12)

    def test_nor_who_leaves(self):
        stays = GaussianLineages(self.settings(), 4, 9, 5)
        leaves = GaussianLineages(self.settings(), 4, 9, 5)
        for t in range(9):
            stays.step()
            leaves.step()
            if t == 4:
                leaves.keep([0, 2])
        torch.testing.assert_close(stays.w2_squared([0, 2]), leaves.w2_squared())

    @policies
    def test_nor_do_kept_samples(self, name):
        settings = [Setting(POLICIES[name], bias, seed=9) for bias in (1.0, 0.6)]
        both, one = (GaussianLineages(settings, 3, T, 4) for _ in range(2))
        for t in range(T):
            both.step()
            one.step()
            if t == 2:
                one.keep([1])
        torch.testing.assert_close(both.w2_squared([1]), one.w2_squared())

    def test_lineages_dealt_out_in_parts_draw_what_they_would_together(self, monkeypatch):
        from mad_lightning.theory import lineages

        monkeypatch.setattr(lineages, "_STREAM", 2 * 4**2)  # two lineages of four dimensions
        together, dealt = (GaussianLineages(self.settings(), 4, 9, 5) for _ in range(2))
        parts = dealt.parts()
        assert [part.lineages for part in parts] == [2, 2, 1]
        for t in range(9):
            together.step()
            for part in reversed(parts):
                part.step()
                if t == 6:
                    part.keep([0, 2])
        w2 = torch.cat([part.w2_squared() for part in parts], dim=1)
        torch.testing.assert_close(w2, together.w2_squared([0, 2]), rtol=1e-12, atol=0.0)
        assert len(w2.unique()) == w2.numel()
        with pytest.raises(ValueError, match="before their first step"):
            together.parts()

    def test_threads_and_blocks_change_nothing(self, monkeypatch):
        from mad_lightning.theory import lineages

        policies = [Setting(each, 0.9, seed=3) for each in POLICIES.values()]
        usual = simulate(policies, 3, T, 4, threads=1)
        monkeypatch.setattr(lineages, "_BLOCK", 1)
        other = simulate(policies, 3, T, 4, threads=2)
        drawn_alike = [place for place, name in enumerate(POLICIES) if "last_3" not in name]
        for a, b in zip(usual, other, strict=True):
            torch.testing.assert_close(a[drawn_alike], b[drawn_alike], rtol=1e-8, atol=1e-10)

    def test_other_seeds_are_other_lineages_and_equal_seeds_the_same(self):
        settings = [Setting(POLICIES["fresh"], 1.0, seed) for seed in (1, 1, 2)]
        w2 = simulate(settings, 3, T, 50).w2_squared
        torch.testing.assert_close(w2[0], w2[1])
        assert not torch.isclose(w2[0], w2[2]).any()
        assert abs(np.corrcoef(w2[0, :, -1], w2[2, :, -1])[0, 1]) < 0.5

    def test_settings_of_other_shapes_are_refused_in_one_batch(self):
        with pytest.raises(ValueError, match="2 shapes"):
            GaussianLineages([Setting(POLICIES[p]) for p in ("fresh", "augmentation")], 2, T, 2)


def test_memory_holds_what_is_still_needed_and_no_more():
    run = GaussianLineages([Setting(POLICIES["accumulate"])], 3, 60, 2)
    window = GaussianLineages([Setting(POLICIES["fresh_last_3"])], 3, 60, 2)
    for _ in range(50):
        run.step()
        window.step()
        assert len(run._kept) == 1  # one pool, not 50 shards
        assert len(run._laws) == 1
        assert len(window._kept) == 0
        assert len(window._laws) <= 3


class TestCollapse:
    def test_without_bias_the_median_variance_collapses_while_the_mean_stays_one(self):
        run = simulate([Setting(FullySynthetic(10), 1.0, seed=4)], 1, 60, 20_000)
        variance = run.variance[0]
        early = variance[:, :6]
        assert plain.hits(early, 1.0)  # later the mean rests on too few lineages to be seen
        assert float(variance[:, -1].median()) < 2e-3
        assert (variance[:, -1] > 0).all()

    def test_every_lineage_loses_everything_in_the_end(self):
        run = simulate([Setting(FullySynthetic(6), 1.0, seed=4)], 2, 3000, 8)
        assert float(run.variance[0, :, -1].max()) < 1e-60
        assert run.w2_squared.isfinite().all()
        settled = run.w2_squared[0, :, -1] - run.drift[0, :, -1]
        torch.testing.assert_close(settled, torch.full((8,), 2.0).double())

    @pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
    def test_it_runs_in_many_dimensions(self, device):
        if device == "cuda" and not torch.cuda.is_available():
            pytest.skip("no GPU")
        run = GaussianLineages([Setting(FreshData(50, 20, 40))], 300, 3, 2, device=device)
        for _ in range(3):
            run.step()
        assert torch.linalg.matrix_rank(run.covariance()[0, 0]).item() == 59
        assert run.w2_squared().isfinite().all()


class TestRefusals:
    def test_a_generation_of_one_sample_has_no_unbiased_covariance(self):
        with pytest.raises(Refused, match="generation 2 has 1 samples") as refused:
            GaussianLineages([Setting(FullySynthetic(5, 1))], 2, 3, 2)
        assert refused.value.field == "policy"
        run = GaussianLineages([Setting(FullySynthetic(5, 1))], 2, 3, 2, "maximum_likelihood")
        for _ in range(3):
            run.step()
        assert float(run.variance().max()) == 0.0

    def test_a_generation_without_samples(self):
        with pytest.raises(Refused, match="generation 3 has 0 samples"):
            GaussianLineages([Setting(FullySynthetic(5, "8 * (3 - t)"))], 2, 3, 2)

    @pytest.mark.parametrize("bias", [0.0, 1.2, float("nan")])
    def test_a_bias_outside_its_range(self, bias):
        with pytest.raises(Refused, match="outside"):
            Setting(FullySynthetic(5), bias)

    def test_more_generations_than_were_planned(self):
        run = GaussianLineages([Setting(FullySynthetic(5))], 2, 1, 2)
        run.step()
        with pytest.raises(ValueError, match="planned for 1"):
            run.step()
