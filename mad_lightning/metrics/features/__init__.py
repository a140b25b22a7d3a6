"""Feature extractors: from stored samples to the vectors that metrics compare.

The extractor is half of any metric: the same samples score a Fréchet distance of 7 or 700 depending
on it. So each has a name, a hash of its weights and an explicit resize, and all three are recorded
with every value. Whatever weights it needs are found, or trained, before the first generation is.

    base.py         the contract
    plain.py        Identity, Pixels: the samples themselves
    classifier.py   Classifier: a LeNet trained on the real data at hand
    pretrained.py   how a network that others trained is found, checked, loaded and fed
    lite0.py, inception.py, vgg16.py, dinov2.py   four of those
"""

from mad_lightning.metrics.features.base import FeatureExtractor
from mad_lightning.metrics.features.classifier import Classifier
from mad_lightning.metrics.features.dinov2 import DINOv2
from mad_lightning.metrics.features.inception import Inception
from mad_lightning.metrics.features.lite0 import Lite0
from mad_lightning.metrics.features.plain import Identity, Pixels
from mad_lightning.metrics.features.vgg16 import VGG16

__all__ = [
    "VGG16",
    "Classifier",
    "DINOv2",
    "FeatureExtractor",
    "Identity",
    "Inception",
    "Lite0",
    "Pixels",
]
