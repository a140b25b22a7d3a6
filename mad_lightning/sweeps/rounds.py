"""Which lineages are worth training next: seeds until an arm is decided, shares around the border.

To look at the seeds after each of them and to stop when they agree is to give chance several
tries: five looks at 5 % each call every seventh loop that stands still MAD. So each look has a
level of its own, such that *all* looks together keep 5 %, little of it at first and most at the end
(:func:`~mad_lightning.verdict.intervals.level_of_look`). It pays where effects are clear: of eight
seeds three or four are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mad_lightning.refusal import Refused
from mad_lightning.report.answers import Question, answers
from mad_lightning.report.groups import load
from mad_lightning.report.judged import judgements
from mad_lightning.sweeps.engine import Outcome
from mad_lightning.sweeps.plan import Member, Sweep

__all__ = ["FIRST_LOOK", "Asked", "Judge", "ask", "judge"]

FIRST_LOOK = 3
"""Seeds that an arm has before anybody looks."""
_SAFE = ("settled", "enough")

Arms = Mapping[str, Sequence[Member]]
WorkOff = Callable[[Sequence[Member]], Sequence[Outcome]]
Judge = Callable[[Arms, Question], Mapping[str, str]]
"""What finished lineages allow to conclude: a word an arm, *undecided* where they do not."""


@dataclass
class Asked:
    """What a sweep was told.

    Attributes:
        looks: Numbers of seeds after which somebody looked; empty if nobody did.
        outcomes: Of each lineage that was given a turn.
        words: What is known of each arm that was looked at.
        seeds: How many of its seeds that rests on.
    """

    looks: tuple[int, ...] = ()
    outcomes: list[Outcome] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)


def judge(arms: Arms, question: Question) -> dict[str, str]:
    """Whether an arm's share of real data is enough; the verdict on its distance where it has none.

    Args:
        arms: Finished lineages.
        question: What is to be kept, and after how many seeds somebody looks.
    """
    groups = {arm: load([m.directory.path for m in members])[0] for arm, members in arms.items()}
    told = answers([*groups.values()], question)
    words: dict[str, str] = {}
    for arm, group in groups.items():
        states = [state for answer in told if (state := answer.state(group)) is not None]
        closed = [] if states else judgements([group], question.alpha, question.looks)
        words[arm] = states[0] if states else closed[0].verdict.answer
    return words


def ask(
    sweep: Sweep,
    work_off: WorkOff,
    *,
    until_decided: bool = False,
    question: Question | None = None,
    judge: Judge = judge,
) -> Asked:
    """Trains what the sweep asks for.

    Args:
        sweep: Its lineages; arms that refine it are added.
        work_off: Trains some of them.
        until_decided: Whether an arm gets no more seeds once it is decided.
        question: What is to be kept.
        judge: Reads arms.

    Raises:
        Refused: If an arm has too few seeds for that.
    """
    most = max(map(len, sweep.arms.values()))
    fewest = min(map(len, sweep.arms.values()))
    if until_decided and fewest < FIRST_LOOK:
        problem = f"an arm has {fewest} seeds, and is looked at after the third"
        raise Refused("seed_everything", problem, f"give {FIRST_LOOK} at least, e.g. 8")
    told = Asked(tuple(range(FIRST_LOOK, most + 1)) if until_decided else ())
    asked = replace(question or Question(), looks=told.looks)
    coming = sweep.arms
    while coming:
        if until_decided:
            for n in told.looks:
                _give(coming, n, work_off, told)
                _look(sweep.arms, n, judge, asked, told)
        else:
            told.outcomes += work_off([m for m in sweep.members if m.arm in coming])
            if sweep.refine is not None:
                _look(sweep.arms, most, judge, asked, told)
        coming = sweep.refined([arm for arm, word in told.words.items() if word in _SAFE])
    return told


def _give(arms: Arms, n: int, work_off: WorkOff, told: Asked) -> None:
    """Gives all arms that are not decided their n-th seed; at first, all up to it."""
    turns = range(FIRST_LOOK) if n == FIRST_LOOK else [n - 1]
    open_ = [members for arm, members in arms.items() if not _is_decided(arm, told)]
    told.outcomes += work_off([some[k] for k in turns for some in open_ if k < len(some)])


def _look(arms: Arms, n: int, judge: Judge, question: Question, told: Asked) -> None:
    """Reads what stands: of arms that were decided before, what they were decided by.

    Seeds count in the order in which they were planned, and an arm that lacks one is left out.
    """
    finished = {one.member.name for one in told.outcomes if one.state == "finished"}
    known: dict[str, Sequence[Member]] = {}
    for arm, members in arms.items():
        mine = members[: told.seeds[arm] if _is_decided(arm, told) else n]
        if all(member.name in finished for member in mine):
            known[arm] = mine
    for arm, word in (judge(known, question) if known else {}).items():
        if not _is_decided(arm, told):
            told.words[arm], told.seeds[arm] = word, len(known[arm])


def _is_decided(arm: str, told: Asked) -> bool:
    return told.words.get(arm, "undecided") != "undecided"
