"""The oracle: lineages as anybody would write them, drawing every sample, in NumPy.

It knows a policy by the samples that its mixes name, by place, and nothing of segments, moments or
Bartlett. All lineages are one axis of one array.
"""

import numpy as np


def lineages(policy, dim, generations, count, sampling_bias=1.0, unbiased=True, seed=0):
    """Means (T, R, d) and covariances (T, R, d, d) of R lineages, every sample drawn."""
    rng = np.random.default_rng(seed)
    mixes = [policy.mix(t) for t in range(1, generations + 1)]
    sizes = {}
    for mix in mixes:
        for part in mix.parts:
            sizes[part.generation] = max(sizes.get(part.generation, 0), part.stop)
    stores = {None: rng.standard_normal((count, sizes[None], dim))}
    means, covs = [], []
    for t, mix in enumerate(mixes, 1):
        x = np.concatenate([stores[p.generation][:, p.start : p.stop] for p in mix.parts], axis=1)
        n = x.shape[1]
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
