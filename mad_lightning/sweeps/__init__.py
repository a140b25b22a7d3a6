"""Sweeps: many lineages of one question, on as many workers as there are.

One lineage is one throw of the dice. A sweep varies settings (its *arms*) and seeds; each lineage
of it is what the command ``mad train`` makes of the same settings, so state is the ledgers alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
