"""The verdicts on groups, and the safe share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from mad_lightning.lineage.configuration import differences
from mad_lightning.report.groups import Group, meanings_of, protocol_of
from mad_lightning.verdict.judgement import Judgement, judge
from mad_lightning.verdict.shares import SafeShare, safe_share

__all__ = ["judgements", "safe_shares"]


def judgements(groups: Sequence[Group]) -> list[Judgement]:
    """What the seeds of each group allow to conclude."""
    n = protocol_of(groups).get("n")
    return [_judgement(group, n) for group in groups]


def _judgement(group: Group, n: int | None) -> Judgement:
    meanings = meanings_of([group])
    firsts = [lineage.records[0] for lineage in group.lineages]
    floor_errors = {
        name: [one.floor_errors.get(name, math.nan) for one in firsts] for name in meanings
    }
    errors = {metric: group.errors(metric) for metric in meanings}
    return judge(
        {metric: group.values(metric) for metric in meanings},
        {name: [first.floor.get(name, math.nan) for first in firsts] for name in firsts[0].floor},
        floor_errors={name: fmean(told) for name, told in floor_errors.items()},
        errors={metric: told for metric, told in errors.items() if told is not None},
        own_split=group.own_split,
        quantities=meanings,
        closed=group.closed,
        n=n,
    )


def safe_shares(
    groups: Sequence[Group], judged: Sequence[Judgement]
) -> list[tuple[list[str], SafeShare]]:
    """The share of fresh data that is safe, for groups that differ in nothing but their mixes.

    Returns:
        Names of such groups, where there are several shares, with what they say.
    """
    families: list[list[tuple[Group, float, Judgement]]] = []
    for group, judgement in zip(groups, judged, strict=True):
        if (share := group.fresh_share) is None:
            continue
        kin = (family for family in families if _differ_in_mix_alone(family[0][0], group))
        member = (group, share, judgement)
        if (family := next(kin, None)) is None:
            families.append([member])
        else:
            family.append(member)
    return [
        (
            [group.name for group, *_ in family],
            safe_share([(share, judgement.verdict.answer) for _, share, judgement in family]),
        )
        for family in families
        if len({share for _, share, _ in family}) > 1
    ]


def _differ_in_mix_alone(group: Group, other: Group) -> bool:
    lines = differences(group.lineages[0].config, other.lineages[0].config)
    return all(line.startswith("policy.") for line in lines)
