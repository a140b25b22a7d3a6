"""The mixture family is maximum likelihood, whoever holds the samples."""

import json
import signal

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.mixture import GaussianMixture
from sklearn.mixture._gaussian_mixture import _estimate_gaussian_parameters

from mad_lightning.data.laws import Grid25
from mad_lightning.generators import Gaussian, Mixture
from mad_lightning.generators.mixture import Components, assign, expect, fit, in_order, maximise
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec
from mad_lightning.seeds import sample_seeds, seed_for


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(n=600, k=4, dim=3, apart=4.0, seed=0):
    """Overlapping normal blobs, each stretched in its own way; float64."""
    centres = apart * torch.randn(k, dim, generator=rng(seed)).double()
    stretch = torch.randn(k, dim, dim, generator=rng(seed + 1)).double()
    which = torch.arange(n) % k
    z = torch.randn(n, dim, generator=rng(seed + 2)).double()
    return centres[which] + (stretch[which] @ z[:, :, None])[:, :, 0]


def covariances(components):
    return components.root() @ components.root()


@pytest.fixture
def trained(fit):
    def mixture(x, labels=None, size=100, epochs=1, seed=0, precision="32-true", **options):
        generator = Mixture(**options).build(SampleSpec.of(x, labels))
        data = Samples(x, labels)
        batches = [data[i : i + size] for i in range(0, len(x), size)]
        fit(generator, batches, epochs, address=(seed, 1), precision=precision)
        return generator

    return mixture


def draw(generator, n, bias=1.0, labels=None):
    return generator.sample(sample_seeds(0, n, 0, "s"), bias, labels).values.double().flatten(1)


# expectation-maximisation


@pytest.mark.parametrize("different", [1, 2, 7, 1000])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_rows_come_in_the_order_of_a_dictionary(different, dim):
    x = torch.randint(different, (300, dim), generator=rng()).double()
    assert in_order(x).tolist() == sorted(x.tolist())
    assert in_order(x[:1]).tolist() == x[:1].tolist()


@pytest.mark.parametrize(("n", "k", "dim"), [(600, 4, 3), (50, 1, 2), (301, 7, 5), (40, 3, 1)])
def test_the_m_step_is_scikit_learns(n, k, dim):
    x = blobs(n, k, dim)
    responsibilities = torch.rand(n, k, generator=rng(5)).double()
    responsibilities /= responsibilities.sum(dim=1, keepdim=True)
    ours = maximise(x, responsibilities, 1e-12)
    theirs = _estimate_gaussian_parameters(x.numpy(), responsibilities.numpy(), 0.0, "full")
    np.testing.assert_allclose(ours.weight, theirs[0] / n, rtol=1e-12)
    np.testing.assert_allclose(ours.mean, theirs[1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(covariances(ours), theirs[2], rtol=1e-9, atol=1e-12)


def test_the_e_step_is_bayes_rule():
    x = blobs(40, 3, 2)
    components = maximise(x, assign(x, 3, rng()), 1e-12)
    density = np.stack(
        [
            weight * stats.multivariate_normal(mean, cov).pdf(x)
            for weight, mean, cov in zip(
                components.weight.numpy(),
                components.mean.numpy(),
                covariances(components).numpy(),
                strict=True,
            )
        ],
        axis=1,
    )
    responsibilities, log_likelihood = expect(x, components)
    np.testing.assert_allclose(log_likelihood, np.log(density.sum(axis=1)), rtol=1e-10)
    np.testing.assert_allclose(
        responsibilities, density / density.sum(axis=1, keepdims=True), rtol=1e-8, atol=1e-12
    )


def test_far_samples_have_a_finite_likelihood():
    x = torch.tensor([[0.0], [1e6], [-1e6]]).double()
    components = Components(
        torch.tensor([0.5, 0.5]).double(),
        torch.tensor([[0.0], [1.0]]).double(),
        torch.full((2, 1), 1e-8).double(),
        torch.ones(2, 1, 1).double(),
    )
    responsibilities, log_likelihood = expect(x, components)
    assert torch.isfinite(log_likelihood).all()
    torch.testing.assert_close(responsibilities.sum(dim=1), torch.ones(3).double())
    assert responsibilities.argmax(dim=1).tolist() == [0, 1, 0]


@pytest.mark.parametrize("seed", range(3))
def test_a_fit_ends_where_scikit_learns_does_from_the_same_start(seed):
    x = blobs(500, 4, 2, apart=2.0, seed=seed)
    first = maximise(x, assign(x, 4, rng(seed)), 1e-12)
    theirs = GaussianMixture(
        4,
        reg_covar=0.0,
        tol=1e-8,
        max_iter=5000,
        weights_init=first.weight.numpy(),
        means_init=first.mean.numpy(),
        precisions_init=torch.linalg.inv(covariances(first)).numpy(),
    ).fit(x.numpy())
    ours, history = fit(x, 4, rng(seed), 1e-9, tolerance=1e-8, max_iterations=5000)
    assert history[-1] == pytest.approx(theirs.lower_bound_, abs=1e-6)
    np.testing.assert_allclose(ours.mean, theirs.means_, atol=1e-3)
    np.testing.assert_allclose(covariances(ours), theirs.covariances_, atol=1e-2)
    assert history[-1] == pytest.approx(expect(x, ours)[1].mean().item(), abs=1e-7)


@pytest.mark.parametrize("least", [1e-9, 0.05, 0.5])
@pytest.mark.parametrize("k", [2, 9])
def test_the_likelihood_never_falls(least, k):
    for seed in range(4):
        x = blobs(120, 4, 3, apart=2.0, seed=seed)
        _, history = fit(x, k, rng(seed), least, tolerance=-1.0, max_iterations=60)
        assert len(history) == 60
        assert (np.diff(history) > -1e-12).all()
        assert history[-1] > history[0] + 1e-3


def test_the_least_variance_gives_the_best_of_all_covariances_above_it():
    x = blobs(30, 1, 2)
    x[:, 1] = x[:, 0] + 0.01 * x[:, 1]  # nearly a line
    least = 0.1
    best = maximise(x, torch.ones(30, 1).double(), least)
    value = expect(x, best)[1].sum()
    for seed in range(300):
        move = torch.randn(1, 2, 2, generator=rng(seed)).double() * 10 ** -(seed % 4 + 0.0)
        move = move + move.mT
        variances, axes = torch.linalg.eigh(covariances(best) + move)
        rival = best._replace(variances=variances.clamp(min=least), axes=axes)
        assert expect(x, rival)[1].sum() <= value + 1e-9


def test_the_start_finds_every_mode_of_the_grid():
    x = Grid25().draw(sample_seeds(0, 1000, 0, "real")).values.double()
    modes = []
    for seed in range(20):
        responsibilities = assign(x, 25, rng(seed))
        assert responsibilities.sum(dim=1).eq(1.0).all()
        means = (responsibilities.T @ x) / responsibilities.sum(dim=0)[:, None]
        modes.append(len(means.round().unique(dim=0)))
    assert np.mean(np.array(modes) == 25) >= 0.9


def test_the_rng_decides_the_start():
    x = blobs(200, 4, 2, apart=0.5)
    starts = [assign(x, 5, rng(seed)) for seed in (0, 0, 1)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


# degenerate samples


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_fewer_different_samples_than_components(rows, trained):
    points = torch.tensor([[2.0, -1.0], [0.5, 7.0], [-3.0, 0.0]])[:rows]
    generator = trained(points.repeat_interleave(20, dim=0), components=5)
    assert int((generator.weight > 0).sum()) == rows
    np.testing.assert_allclose(generator.weight.sum(), 1.0, rtol=1e-12)
    drawn = draw(generator, 200)
    distance = torch.cdist(drawn, points.double())
    assert distance.min(dim=1).values.max() < 0.03  # of points that lie units apart
    assert len(distance.argmin(dim=1).unique()) == rows


def test_a_set_of_equal_samples_is_drawn_as_it_is(trained):
    for value in (0.1, 1e4, -1e-6):
        x = torch.full((64, 3), value)
        np.testing.assert_array_equal(draw(trained(x, components=4), 30), x[:30].double())


def test_more_dimensions_than_samples(trained):
    x = torch.randn(12, 30, generator=rng())
    drawn = draw(trained(x, components=3), 50)
    assert torch.isfinite(drawn).all()


def test_the_unit_of_the_data_does_not_matter(trained):
    x = blobs(300, 4, 2).float()
    one = draw(trained(x, components=4), 100)
    for scale in (2.0**-30, 2.0**30):
        other = draw(trained(x * scale, components=4), 100)
        torch.testing.assert_close(other / scale, one, rtol=1e-5, atol=1e-5)


def test_a_class_without_samples_is_not_drawn(trained):
    mixture = trained(torch.randn(30, 2), torch.tensor([0, 2]).repeat(15), components=2)
    assert mixture.sample(torch.arange(4), labels=torch.tensor([0, 2, 2, 0])).values.std() > 0.1
    with pytest.raises(Refused, match="class 1, of which it had no sample"):
        mixture.sample(torch.arange(3), labels=torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("components", 0),
        ("max_iterations", 0),
        ("least_variance", 0.0),
        ("least_variance", float("nan")),
        ("tolerance", -1.0),
        ("tolerance", float("nan")),
    ],
)
def test_settings_that_mean_nothing_are_refused(field, value):
    with pytest.raises(Refused, match=f"{field}: "):
        Mixture(**{field: value})


def test_a_fit_that_did_not_converge_says_so(trained):
    with pytest.warns(UserWarning, match="max_iterations"):
        trained(blobs(300, 4, 2, apart=0.5).float(), components=6, max_iterations=3, tolerance=0.0)


# the family


def test_one_component_is_the_gaussian_family(trained):
    x = blobs(101, 2, 4).float()
    x[60:90] = x[5]  # samples that are equal count as often as they occur
    for estimator, ddof in (("unbiased", 1), ("maximum_likelihood", 0)):
        law = trained(x, components=1, estimator=estimator).law()
        np.testing.assert_allclose(law.mean, x.double().mean(dim=0), rtol=1e-12)
        np.testing.assert_allclose(law.covariance, np.cov(x.double().T, ddof=ddof), rtol=1e-9)
    gaussian = Gaussian().build(SampleSpec((4,)))
    gaussian.training_step(Samples(x), 0)
    np.testing.assert_allclose(
        trained(x, components=1).law().covariance, gaussian.law().covariance, rtol=1e-9
    )


def test_unbiased_covariances_divide_by_one_less_than_the_samples_of_each_mode(trained):
    x = Grid25(side=2).draw(sample_seeds(0, 60, 0, "real")).values
    generator = trained(x, components=4)
    for mean, root in zip(generator.mean[0], generator.root[0], strict=True):
        mine = x[(x - mean).abs().max(dim=1).values < 0.4].double()
        np.testing.assert_allclose(root @ root, np.cov(mine.T), rtol=1e-6)


def test_the_fit_does_not_depend_on_order_batches_or_precision(trained):
    x = blobs(300, 4, 2, apart=1.0).float()
    x[150:200] = x[100:150]
    labels = torch.arange(300) % 2
    order = torch.randperm(300, generator=rng())
    digests = {
        trained(x, labels, components=3).digest(),
        trained(x, labels, components=3, size=7).digest(),
        trained(x, labels, components=3, size=300, epochs=2).digest(),
        trained(x[order], labels[order], components=3, size=41).digest(),
        trained(x, labels, components=3, precision="bf16-mixed").digest(),
    }
    assert len(digests) == 1
    assert trained(x, labels, components=3, seed=1).digest() not in digests


def test_the_start_has_an_address_whatever_was_drawn_before(trained):
    x = blobs(200, 4, 2, apart=0.3).float()
    digests = []
    for noise in (0, 5):
        torch.randn(noise)
        digests.append(trained(x, components=6).digest())
    assert digests[0] == digests[1]


@pytest.mark.parametrize("estimator", ["unbiased", "maximum_likelihood"])
@pytest.mark.parametrize("bias", [1.0, 0.5, 0.1])
def test_samples_have_the_moments_of_the_mixture(bias, estimator, trained):
    generator = trained(blobs(300, 3, 2, apart=1.0).float(), components=3, estimator=estimator)
    weight, mean, root = (part[0] for part in (generator.weight, generator.mean, generator.root))
    centre = (weight[:, None] * mean).sum(dim=0)
    spread = sum(
        w * (bias * r @ r + torch.outer(m - centre, m - centre))
        for w, m, r in zip(weight, mean, root, strict=True)
    )
    drawn = draw(generator, 60_000, bias)
    scale = spread.diagonal().mean()
    assert (drawn.mean(dim=0) - centre).abs().max() < 0.02 * scale.sqrt()
    assert (drawn.T.cov() - spread).abs().max() < 0.03 * scale
    if bias == 1.0:
        law = generator.law()
        torch.testing.assert_close(law.mean, centre)
        torch.testing.assert_close(law.covariance, spread)


def test_modes_are_drawn_by_their_weights_and_lambda_leaves_those_alone(trained):
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    shares = [50, 150, 300]
    x = centres.repeat_interleave(torch.tensor(shares), dim=0)
    x = x + 0.1 * torch.randn(500, 2, generator=rng())
    generator = trained(x, components=3)
    for bias in (1.0, 0.2):
        drawn = draw(generator, 20_000, bias)
        counts = torch.cdist(drawn, centres.double()).argmin(dim=1).bincount(minlength=3)
        expected = torch.tensor(shares) * 40
        assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3
        mine = drawn[(drawn - 10.0 * torch.tensor([1.0, 0.0])).abs().max(dim=1).values < 2]
        assert mine.var(dim=0).mean() == pytest.approx(bias * 0.01, rel=0.2)


def test_an_empty_component_is_never_drawn(trained):
    generator = trained(torch.tensor([[-9.0], [1.0], [9.0]]).repeat(20, 1), components=3)
    middle = generator.mean[0].abs().argmin()
    for rounding in (0.0, 1e-2):  # much more than the sum of the weights can be off
        generator.weight.zero_()
        generator.weight[0, middle] = 1.0 - rounding
        assert (draw(generator, 5000) - 1.0).abs().max() < 0.1


def test_the_component_and_the_noise_are_independent(trained):
    x = torch.cat([torch.randn(100, 1, generator=rng()) + at for at in (-50.0, 50.0)])
    drawn = draw(trained(x, components=2), 20_000).squeeze(1)
    left, right = drawn[drawn < 0], drawn[drawn > 0]
    assert abs(left.mean() + 50) < 0.15
    assert abs(right.mean() - 50) < 0.15
    assert left.std() == pytest.approx(x[:100].std().item(), rel=0.04)


def test_one_mixture_a_class(trained):
    x = blobs(300, 4, 3).float()
    labels = torch.arange(300) % 3
    x[labels == 2] += 100.0
    generator = trained(x, labels, components=2)
    assert generator.law() is None
    for g in range(3):
        alone, _ = fit(
            x[labels == g].double().unique(dim=0),
            2,
            torch.Generator().manual_seed(seed_for(generator._seed, g)),
        )
        torch.testing.assert_close(generator.mean[g], alone.mean, rtol=1e-12, atol=1e-12)
    asked = torch.tensor([0, 1, 2]).repeat(50)
    drawn = draw(generator, 150, labels=asked)
    assert ((drawn.mean(dim=1) > 50) == (asked == 2)).all()


# whole lineages

TINY = [
    "--lineage.generations", "3",
    "--lineage.block_size", "64",
    "--lineage.threads", "1",
    "--policy", "FullySynthetic",
    "--policy.n_initial", "151",
    "--data.source", "Grid25",
    "--data.source.side", "2",
    "--data.n_reference", "60",
    "--data.batch_size", "40",
    "--generator", "Mixture",
    "--generator.components", "5",
    "--evaluator.extractor", "Identity",
    "--evaluator.metrics", '[{"class_path": "Modes", "init_args": {"radius": 0.25}}]',
    "--trainer.accelerator", "cpu",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_fit_what_one_does(tmp_path, run):
    places = ["--lineage.root", str(tmp_path / "runs"), "--data.cache", str(tmp_path / "cache")]
    plain = ["train.py", *TINY, *places, "--callbacks", "[]"]
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    for name, options in (("one", []), ("two", two)):
        run(*plain, "--lineage.name", name, *options)
    records = [LineageDirectory(tmp_path / "runs" / name).records() for name in ("one", "two")]
    assert [r.digests for r in records[0]] == [r.digests for r in records[1]]
    assert [r.world_size for r in records[0] + records[1]] == [1, 1, 1, 2, 2, 2]
    assert len({r.digests["shard"] for r in records[0]}) == 3


def test_sigkill_in_every_phase_changes_nothing(tmp_path, run):
    places = [["train", 1], ["train", 2], ["sample", 2], ["record", 0]]
    options = [*TINY, "--data.cache", str(tmp_path / "cache"), "--trainer.max_epochs", "2"]
    command = ["tests/crash.py", str(tmp_path / "runs"), json.dumps(places), *options]
    results = json.loads(run(*command).splitlines()[-1])
    calm = results.pop("calm")
    assert calm["codes"] == [0]
    assert len(calm["outcome"]) == 3
    assert len(results) == len(places)
    for name, result in results.items():
        assert result["codes"] == [-signal.SIGKILL, 0], name
        assert result["outcome"] == calm["outcome"], name
