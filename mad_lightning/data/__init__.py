"""The data room: real samples come in by name, and leave as the batches of one generation.

    sources.py     a named data set becomes a RealSet: bytes, in the source's own fixed order
    pictures.py    what a folder or zip of pictures costs to decode and resize is paid once, here
    laws.py        or the real data is a known law, and the pool never runs out
    real.py        real samples by role: a training pool in order, a reference nobody trains on
    shards.py      synthetic sample sets, immutable, with provenance
    datamodule.py  a mix names places in the pool and in shards; here it becomes batches

Everything is read in that direction. Nothing in this room is random except by address, and nothing
in it knows what a generator is.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
