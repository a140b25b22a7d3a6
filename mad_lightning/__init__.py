"""Self-consuming generative models, generation after generation.

A *lineage* is a sequence of generators, each trained from scratch on the mix of real and synthetic
samples that a *loop policy* prescribes (Alemohammad et al., 2023, arXiv 2307.01850). This package
trains lineages, measures each generation and keeps a ledger of it.

Nothing heavy is imported here: a name is fetched from its room when it is asked for.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
