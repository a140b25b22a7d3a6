"""Observers of the lineage: what a person watches, and what may end it early.

    base.py         the hooks, and all observers as one
    console.py      a table that grows by a row a generation
    grids.py        a picture a generation
    wandb.py        Weights & Biases as a view of the ledger
    wandb_keys.py   what a run carries, and under which words
    wandb_graph.py  what generations use and make, for its lineage graph
    wandb_files.py  what a run's own file holds
    stopping.py     stopping rules

What runs inside one generation's Trainer are Lightning's callbacks; they live in
:mod:`mad_lightning.loop.inside`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
