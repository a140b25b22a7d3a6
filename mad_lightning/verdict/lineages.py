"""From ledgers to a judgement: the records of lineages that differ only in the seed, as arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from statistics import fmean

from mad_lightning.lineage.ledger import GenerationRecord, meanings
from mad_lightning.verdict.judgement import Judgement, judge

__all__ = ["judge_lineages"]


def judge_lineages(
    lineages: Sequence[Sequence[GenerationRecord]],
    *,
    closed: bool,
    n: int | None = None,
    alpha: float = 0.05,
) -> Judgement:
    """What lineages of one configuration say, by all that was measured of them.

    Args:
        lineages: A row of records a seed, all equally long, from generation 1 on.
        closed: Whether nothing real comes in after generation 1.
        n: Samples behind a floor whose error no ledger tells.
        alpha: Error probability of each claim, by itself.
    """
    meaning, firsts = meanings(chain.from_iterable(lineages)), [records[0] for records in lineages]
    floor_errors = {
        name: [first.floor_errors.get(name, math.nan) for first in firsts] for name in meaning
    }
    told = [
        name for name in meaning if all(name in r.errors for records in lineages for r in records)
    ]
    return judge(
        {
            name: [[r.metrics.get(name, math.nan) for r in row] for row in lineages]
            for name in meaning
        },
        {name: [first.floor.get(name, math.nan) for first in firsts] for name in firsts[0].floor},
        floor_errors={name: fmean(errors) for name, errors in floor_errors.items()},
        errors={name: [[r.errors[name] for r in row] for row in lineages] for name in told},
        own_split=all(first.protocol.get("split_seed") == "own" for first in firsts),
        quantities=meaning,
        closed=closed,
        n=n,
        alpha=alpha,
    )
