"""From samples to values: samples -> :mod:`.features` -> :mod:`.functional` -> :mod:`.evaluator`.

Maths lives in ``functional`` as pure functions on features. ``two_sample`` names what a lineage
reports, ``features`` turns stored samples into vectors, ``evaluator`` holds both together.
"""

from mad_lightning.metrics.evaluator import Evaluator
from mad_lightning.metrics.features import Classifier, FeatureExtractor, Identity, Inception
from mad_lightning.metrics.two_sample import Frechet, GaussianW2, Metric, Neighbours

__all__ = [
    "Classifier",
    "Evaluator",
    "FeatureExtractor",
    "Frechet",
    "GaussianW2",
    "Identity",
    "Inception",
    "Metric",
    "Neighbours",
]
