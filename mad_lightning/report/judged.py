"""The verdicts on groups."""

from __future__ import annotations

from collections.abc import Sequence

from mad_lightning.report.groups import Group, protocol_of
from mad_lightning.verdict.intervals import level_of_look
from mad_lightning.verdict.judgement import Judgement
from mad_lightning.verdict.lineages import judge_lineages

__all__ = ["judgements"]


def judgements(
    groups: Sequence[Group], alpha: float = 0.05, looks: tuple[int, ...] = ()
) -> list[Judgement]:
    """What the seeds of each group allow to conclude, each claim at this error probability.

    Args:
        groups: The groups.
        alpha: How often a claim may be wrong.
        looks: Numbers of seeds at which somebody looked, and could have given no more.
    """
    n = protocol_of(groups).get("n")
    return [
        judge_lineages(
            [lineage.records[: group.generations] for lineage in group.lineages],
            closed=group.closed,
            n=n,
            alpha=level_of_look(alpha, looks, len(group.lineages)),
        )
        for group in groups
    ]
