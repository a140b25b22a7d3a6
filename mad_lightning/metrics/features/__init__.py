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

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
