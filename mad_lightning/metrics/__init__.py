"""From samples to values: samples -> :mod:`.features` -> :mod:`.functional` -> :mod:`.evaluator`.

Maths lives in ``functional`` as pure functions on features. ``two_sample``, ``diversity`` and
``tails`` name what a lineage reports, ``features`` turns stored samples into vectors, ``evaluator``
holds both together.
"""

from mad_lightning.metrics.diversity import Modes, Trace
from mad_lightning.metrics.evaluator import Evaluator
from mad_lightning.metrics.features import (
    VGG16,
    Classifier,
    DINOv2,
    FeatureExtractor,
    Identity,
    Inception,
    Lite0,
    Pixels,
)
from mad_lightning.metrics.tails import TailMass
from mad_lightning.metrics.two_sample import (
    Classes,
    Frechet,
    GaussianW2,
    Kernel,
    Memorisation,
    Metric,
    Neighbours,
)

__all__ = [
    "VGG16",
    "Classes",
    "Classifier",
    "DINOv2",
    "Evaluator",
    "FeatureExtractor",
    "Frechet",
    "GaussianW2",
    "Identity",
    "Inception",
    "Kernel",
    "Lite0",
    "Memorisation",
    "Metric",
    "Modes",
    "Neighbours",
    "Pixels",
    "TailMass",
    "Trace",
]
