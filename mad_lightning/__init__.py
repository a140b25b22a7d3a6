"""Self-consuming generative models, generation after generation.

A *lineage* is a sequence of generators, each trained from scratch on the mix of real and synthetic
samples that a *loop policy* prescribes (Alemohammad et al., 2023, arXiv 2307.01850). This package
trains lineages, measures each generation and keeps a ledger of it.

Nothing heavy is imported here, so that ``python train.py --help`` answers at once.
"""

__version__ = "0.1.0"
