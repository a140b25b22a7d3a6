"""Loop policies: what each generation trains on.

An autophagous loop is fixed by one rule: given the generation index t, which samples, from where,
and how many (Alemohammad et al., 2023, sections 1.2 and 2.2). A policy is that rule and nothing
else: pure arithmetic, no data, no tensors, so that it can be printed as a table, drive an image
lineage and drive a million simulated Gaussian ones alike.

Two invariants hold for every policy: generation 1 is real only, and no fresh sample is used twice
in a lineage.

    mixes.py      a mix and its parts: origin, shard, place, count, weight
    base.py       the contract, and the checks that hold for any policy
    windows.py    synthetic samples of the last generation, of all, of the last k
    paper.py      the paper's three loops
    combined.py   fixed real, fresh, synthetic and somebody else's samples at once, with weights
    subsample.py  a fixed budget, drawn at random from all that there ever was
"""

from mad_lightning.policies.base import LoopPolicy
from mad_lightning.policies.combined import Combined
from mad_lightning.policies.mixes import EXTERNAL, FOREIGN, ORIGINS, Mix, Origin, Part, shard_name
from mad_lightning.policies.paper import FreshData, FullySynthetic, SyntheticAugmentation
from mad_lightning.policies.subsample import AccumulateSubsample
from mad_lightning.schedules import schedule

__all__ = [
    "EXTERNAL",
    "FOREIGN",
    "ORIGINS",
    "AccumulateSubsample",
    "Combined",
    "FreshData",
    "FullySynthetic",
    "LoopPolicy",
    "Mix",
    "Origin",
    "Part",
    "SyntheticAugmentation",
    "schedule",
    "shard_name",
]
