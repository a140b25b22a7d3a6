"""Lineages whose truth is known: from a plain recursion that draws every sample, and from series
with a trend put in."""

import numpy as np

ALPHA = 0.05


def tolerated(trials, rate=ALPHA):
    """Three standard errors of a share above its bound."""
    return rate + 3 * (rate * (1 - rate) / trials) ** 0.5


def gaussians(
    rng, trials, seeds, generations, *, d, first, fresh=0, real=0, synthetic, bias=1.0, pool=False
):
    """Squared W2 distances to N(0, I) of fitted Gaussians, (trials, seeds, generations)."""
    x = rng.standard_normal((trials * seeds, first, d))
    fixed, shards, distances = x[:, :real], [], []
    for _ in range(generations):
        mu = x.mean(1)
        z = x - mu[:, None]
        cov = np.swapaxes(z, 1, 2) @ z / (x.shape[1] - 1)
        roots = np.sqrt(np.clip(np.linalg.eigvalsh(cov), 0, None))
        distances.append((mu**2).sum(1) + ((1 - roots) ** 2).sum(1))
        noise = rng.standard_normal((len(x), synthetic, d))
        scale = np.linalg.cholesky(bias * cov + 1e-200 * np.eye(d))
        shard = mu[:, None] + noise @ np.swapaxes(scale, 1, 2)
        shards = [*shards, shard] if pool else [shard]
        x = np.concatenate([*shards, fixed, rng.standard_normal((len(x), fresh, d))], axis=1)
    return np.stack(distances, axis=1).reshape(trials, seeds, generations)


COLLAPSING = {
    "unbiased": {"d": 5, "first": 40, "synthetic": 40},
    "bias 0.8": {"d": 2, "first": 40, "synthetic": 40, "bias": 0.8},
    "bias 0.5": {"d": 2, "first": 40, "synthetic": 40, "bias": 0.5},  # nothing left by t = 20
}
STABLE = {
    "fresh, from far": {"d": 5, "first": 10, "fresh": 10, "synthetic": 90},
    "fresh, from near": {"d": 8, "first": 200, "fresh": 10, "synthetic": 90},
    "fresh, biased": {"d": 5, "first": 200, "fresh": 10, "synthetic": 90, "bias": 0.8},
    "fresh, in two times": {"d": 12, "first": 100, "fresh": 100, "synthetic": 400, "bias": 0.8},
    "fresh, half": {"d": 2, "first": 40, "fresh": 40, "synthetic": 40},
    "augmentation": {"d": 5, "first": 40, "real": 40, "synthetic": 40},
}


def series(rng, trials, seeds, generations, *, trend, spread, kind="normal", level=0.5):
    """exp(noise + seed's level) times a given trend (generations,)."""
    shape = (trials, seeds, generations)
    if kind == "normal":
        noise = rng.standard_normal(shape)
    elif kind == "heavy":
        noise = rng.standard_t(4, shape) / 2**0.5
    else:  # a stationary walk: generations of a lineage resemble each other
        noise = rng.standard_normal(shape)
        for t in range(1, generations):
            noise[..., t] = 0.8 * noise[..., t - 1] + 0.6 * noise[..., t]
    return trend * np.exp(spread * noise + level * rng.standard_normal((trials, seeds, 1)))


FORMS = {  # of what a relaxing u within [0, 1) makes of a distance
    "variance": lambda u: u,
    "squared bias": lambda u: u**2,
    "bias beside an error": lambda u: u + u**2,
    "noise that is passed on": lambda u: 2 * u - u**2,
}


def relaxing(generations, memories, sizes, form="variance"):
    """A distance that settles, at several speeds: memories in [0, 1), what each adds in the end."""
    t = np.arange(generations)
    gained = [size * FORMS[form](1 - q**t) for q, size in zip(memories, sizes, strict=True)]
    return 1.0 + np.sum(gained, axis=0)


def relaxing_at_random(rng, generations):
    """Any of them: one to three speeds with memories of .2 to .985, sizes of .2 to 300."""
    speeds = rng.integers(1, 4)
    memories = 1 - np.exp(rng.uniform(np.log(0.015), np.log(0.8), speeds))
    sizes = np.exp(rng.uniform(np.log(0.2), np.log(300), speeds))
    return relaxing(generations, memories, sizes, rng.choice(list(FORMS)))


def lost(seeds=4, generations=8):
    """Everything the criteria ask for, going wrong."""
    rng = np.random.default_rng(13)
    t = np.arange(generations)
    wobble = 1 + 0.01 * rng.standard_normal((seeds, generations))
    fall = 0.7**t * wobble
    return {
        "recall": 0.95 * fall,
        "precision": 0.9 * fall,
        "fd_lite0": 1.8**t * wobble,
        "trace_lite0": 10 * fall,
        "tail_mass": fall,
        "modes": 25 * fall,
        "memorised": 1 - 0.95 * fall,
    }


FLOOR = {
    "recall": 0.95, "precision": 0.9, "trace_lite0": 10.0, "tail_mass": 1.0, "modes": 25.0,
    "memorised": 0.05,
}  # fmt: skip
