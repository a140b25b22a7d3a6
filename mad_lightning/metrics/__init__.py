"""From samples to values: samples -> :mod:`.features` -> :mod:`.functional` -> :mod:`.evaluator`.

functional/    the maths: pure functions on features, which need torch and nothing heavier
features/      from stored samples to vectors
base.py        a metric: two sets in, named values out, and what these mean
neighbours.py  precision, recall, density, coverage; and class by class
distances.py   Fréchet, kernel and Wasserstein distances
copies.py      memorisation
diversity.py, tails.py   what recall competes with
marks.py, detect.py      watermarks, and whether they are in what was drawn
evaluator.py   one feature pass feeds them all
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
