"""Two-sample measures as pure functions: feature tensors in, plain numbers out.

Whatever takes two sets takes them as ``(real, synthetic)``.
"""

from mad_lightning.metrics.functional.classes import class_recall, class_share
from mad_lightning.metrics.functional.frechet import Moments, frechet_distance, gaussian_w2_squared
from mad_lightning.metrics.functional.kernel import kernel_distance, kernel_distance_of_subsets
from mad_lightning.metrics.functional.memorisation import memorisation
from mad_lightning.metrics.functional.neighbours import (
    recalled,
    squared_nearest,
    squared_radii,
    two_sample,
)

__all__ = [
    "Moments",
    "class_recall",
    "class_share",
    "frechet_distance",
    "gaussian_w2_squared",
    "kernel_distance",
    "kernel_distance_of_subsets",
    "memorisation",
    "recalled",
    "squared_nearest",
    "squared_radii",
    "two_sample",
]
