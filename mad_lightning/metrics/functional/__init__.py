"""Two-sample measures as pure functions: feature tensors in, plain numbers out.

Whatever takes two sets takes them as ``(real, synthetic)``.
"""

from mad_lightning.metrics.functional.frechet import frechet_distance, gaussian_w2_squared
from mad_lightning.metrics.functional.neighbours import squared_radii, two_sample

__all__ = ["frechet_distance", "gaussian_w2_squared", "squared_radii", "two_sample"]
