r"""The Gaussian laboratory: the paper's theory, in formulas and in thousands of lineages at once.

A Gaussian fitted to its own samples is the one generator whose madness can be written down. It
answers in seconds what costs a GPU-year with images:

- :mod:`.closed_forms`: what is known exactly: how the mean walks and the variance dies, where the
  fresh loop settles, what accumulating saves.
- :mod:`.lineages`: the same loops simulated, for any of the project's loop policies; exact, without
  drawing a sample.
- :mod:`.sample_size`: how many real samples a fresh loop is worth, and the threshold past which
  synthetic data hurts.

    >>> from mad_lightning.theory import effective_sample_size
    >>> e = effective_sample_size(n_real=1000, n_synthetic=10_000, sampling_bias=0.85, dim=100)
    >>> f"{e.ratio:.1f} real samples for each that was given: admissible: {e.admissible}"
    '0.2 real samples for each that was given: admissible: False'

The studies of the paper (E9, E11 to E14) are files in ``configs/studies``:

    python -m mad_lightning.study --config configs/studies/e11.yaml
"""

from typing import Any

from mad_lightning.theory.closed_forms import (
    Moments,
    accumulate_limit,
    accumulate_variance,
    covariance_of_wishart,
    expected_variance,
    fresh_fixed_point,
    fresh_moments,
    log_variance_drift,
    mean_drift,
    median_variance,
    regression_error,
    relaxation,
    std_contraction,
    w2_squared_to_standard_normal,
)
from mad_lightning.theory.lineages import (
    Estimator,
    GaussianLineages,
    Segment,
    Setting,
    Trajectories,
    segments,
    simulate,
)
from mad_lightning.theory.sample_size import (
    EffectiveSampleSize,
    FreshLoop,
    RealOnlyCurve,
    effective_sample_size,
    effective_sample_sizes,
    grid,
)

__all__ = [
    "EffectiveSampleSize",
    "Estimator",
    "FreshLoop",
    "GaussianLineages",
    "Moments",
    "RealOnlyCurve",
    "Segment",
    "Setting",
    "Trajectories",
    "accumulate_limit",
    "accumulate_variance",
    "covariance_of_wishart",
    "effective_sample_size",
    "effective_sample_sizes",
    "expected_variance",
    "fresh_fixed_point",
    "fresh_moments",
    "gaussian_w2_squared",
    "grid",
    "log_variance_drift",
    "mean_drift",
    "median_variance",
    "regression_error",
    "relaxation",
    "segments",
    "simulate",
    "std_contraction",
    "w2_squared_to_standard_normal",
]


def __getattr__(name: str) -> Any:
    """The distance between any two Gaussians is a metric, whose room takes seconds to import."""
    if name == "gaussian_w2_squared":
        from mad_lightning.metrics.functional import gaussian_w2_squared

        return gaussian_w2_squared
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
