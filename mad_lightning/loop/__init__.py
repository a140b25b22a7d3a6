"""The paper's loop, and what it is made of.

    meta_trainer.py  the loop: train, sample, measure, record, and again from scratch
    admission.py     what is refused before anything is written
    branching.py     a lineage that begins after a generation of another
    cluster.py       who has started the processes, whether they share a disk, jobs queued again
    trainers.py      the two Lightning Trainers of a generation, and what they may not be asked
    one_pass.py      what serves as one where a single pass is the whole fit
    inside.py        what runs inside them
    checkpoints.py   what is kept of a training: whole, sealed, known by what it was made of
    sampling.py      the shard of a generation and its picture, and the classes asked for
    treating.py      what becomes of it before later generations eat it
    improving.py     a second phase of a generation: both it and an auxiliary are drawn by
    mending.py       an earlier shard, made again as it was
    blocks.py        what is computed block by block, and survives a kill
    store.py         the shards of a lineage, by name
    verifying.py     a finished lineage, looked at again
    measuring.py     features, the floor, and the values of a generation

Only this room carries samples from a generator to the store and on to the evaluator.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
