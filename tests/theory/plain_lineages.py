"""The oracle: lineages as anybody would write them, drawing every sample, in NumPy.

It knows a policy by the samples that its mixes name, by place, and nothing of segments, moments or
Bartlett. All lineages are one axis of one array. Weights are NumPy's own (``aweights`` of a
covariance); a choice is NumPy's, among all that may be chosen.
"""

import numpy as np


def lineages(policy, dim, generations, count, sampling_bias=1.0, unbiased=True, seed=0):
    """Means (T, R, d) and covariances (T, R, d, d) of R lineages, every sample drawn."""
    rng = np.random.default_rng(seed)
    mixes = [policy.mix(t) for t in range(1, generations + 1)]
    sizes = {}
    for mix in mixes:
        for part in policy.union(mix.generation).parts:
            sizes[part.generation] = max(sizes.get(part.generation, 0), part.stop)
    stores = {None: rng.standard_normal((count, sizes[None], dim))}
    means, covs = [], []
    for t, mix in enumerate(mixes, 1):
        parts = policy.union(t).parts
        x = np.concatenate([stores[p.generation][:, p.start : p.stop] for p in parts], axis=1)
        if len(mix) < x.shape[1]:
            chosen = rng.permuted(np.tile(np.arange(x.shape[1]), (count, 1)), axis=1)
            x = np.take_along_axis(x, chosen[:, : len(mix), None], axis=1)
        n = x.shape[1]
        weights = np.concatenate([np.full(p.count, p.weight) for p in mix.parts])
        if (weights != 1.0).any():
            ddof = 1 if unbiased else 0
            mean = np.average(x, axis=1, weights=weights)
            cov = np.stack([np.cov(one.T, aweights=weights, ddof=ddof) for one in x])
            cov = cov.reshape(count, dim, dim)
        else:
            mean = x.mean(axis=1)
            centred = x - mean[:, None]
            cov = np.einsum("rni,rnj->rij", centred, centred) / (n - 1 if unbiased else n)
        means.append(mean)
        covs.append(cov)
        if t in sizes:
            values, axes = np.linalg.eigh(sampling_bias * cov)
            root = np.swapaxes(axes * np.sqrt(values.clip(0.0))[:, None], 1, 2)
            z = rng.standard_normal((count, sizes[t], dim))
            stores[t] = mean[:, None] + z @ root
    return np.stack(means), np.stack(covs)


def w2_squared(means, covs):
    """Squared W2 distance to N(0, I)."""
    roots = np.sqrt(np.linalg.eigvalsh(covs).clip(0.0))
    return (means**2).sum(-1) + ((1 - roots) ** 2).sum(-1)


def agree(a, b, sigmas=4.5):
    """Whether two sets of independent draws (R, ...) have the same mean, within their errors."""
    a, b = np.asarray(a), np.asarray(b)
    error = np.sqrt(a.var(0, ddof=1) / len(a) + b.var(0, ddof=1) / len(b))
    return bool((np.abs(a.mean(0) - b.mean(0)) <= sigmas * error + 1e-12).all())


def hits(draws, value, sigmas=4.5):
    """Whether independent draws (R, ...) have a given mean, within their error."""
    draws = np.asarray(draws)
    error = draws.std(0, ddof=1) / np.sqrt(len(draws))
    return bool((np.abs(draws.mean(0) - value) <= sigmas * error + 1e-12).all())
