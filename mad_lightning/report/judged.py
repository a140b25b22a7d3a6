"""The verdicts on groups, and the safe share."""

from __future__ import annotations

from collections.abc import Sequence

from mad_lightning.lineage.configuration import differences
from mad_lightning.report.groups import Group, protocol_of
from mad_lightning.verdict.judgement import Judgement
from mad_lightning.verdict.lineages import judge_lineages
from mad_lightning.verdict.shares import SafeShare, safe_share

__all__ = ["judgements", "safe_shares"]


def judgements(groups: Sequence[Group]) -> list[Judgement]:
    """What the seeds of each group allow to conclude."""
    n = protocol_of(groups).get("n")
    return [
        judge_lineages(
            [lineage.records[: group.generations] for lineage in group.lineages],
            closed=group.closed,
            n=n,
        )
        for group in groups
    ]


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
