"""Which lineages are worth training next: seeds until an arm is decided, shares around the border.

To look at the seeds after each of them and to stop when they agree is to give chance several
tries: five looks at 5 % each call every seventh loop that stands still MAD. So each look has a
level of its own, such that *all* looks together keep 5 % (Pocock, 1977, solved for Student's t on
seeds that accumulate). It pays where effects are clear: of eight seeds three or four are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mad_lightning.refusal import Refused
from mad_lightning.report.groups import load
from mad_lightning.report.judged import judgements
from mad_lightning.sweeps.engine import Outcome
from mad_lightning.sweeps.plan import Member, Sweep
from mad_lightning.verdict.growth import Answer

__all__ = ["FIRST_LOOK", "LEVELS", "Asked", "Judge", "ask", "judge"]

FIRST_LOOK = 3
"""Seeds that an arm has before anybody looks."""
LEVELS = {
    3: 0.05,
    4: 0.0320,
    5: 0.0246,
    6: 0.0204,
    7: 0.0178,
    8: 0.0159,
    9: 0.0145,
    10: 0.0134,
    11: 0.0126,
    12: 0.0119,
}
"""Error probability of each look, by the most seeds that an arm may have: after the third and each
later one somebody looks, and all looks together are wrong in 5 %."""

Judge = Callable[[Sequence[Member], float], Answer]
"""What the finished lineages of an arm allow to conclude, at an error probability."""
WorkOff = Callable[[Sequence[Member]], Sequence[Outcome]]


@dataclass
class Asked:
    """What a sweep was told.

    Attributes:
        outcomes: Of each lineage that was given a turn.
        answers: By arm: the answer, after how many seeds, and the error probability of that look.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    answers: dict[str, tuple[Answer, int, float]] = field(default_factory=dict)


def ask(
    sweep: Sweep, work_off: WorkOff, *, until_decided: bool = False, judge: Judge | None = None
) -> Asked:
    """Trains what the sweep asks for.

    Args:
        sweep: Its lineages; arms that refine it are added.
        work_off: Trains some of them.
        until_decided: Whether an arm gets no more seeds once it is decided.
        judge: Reads an arm; None takes :func:`judge`.

    Raises:
        Refused: If an arm has too few or too many seeds for that.
    """
    read, told = judge or globals()["judge"], Asked()
    if until_decided:
        for arm, members in sweep.arms.items():
            if len(members) not in LEVELS:
                problem = f"{arm} has {len(members)} seeds"
                raise Refused("seed_everything", problem, f"give {FIRST_LOOK} to {max(LEVELS)}")
    coming = sweep.arms
    while coming:
        if until_decided:
            _by_seeds(coming, work_off, read, told)
        else:
            in_order = [member for member in sweep.members if member.arm in coming]
            told.outcomes += work_off(in_order)
            if sweep.refine is not None:
                _look(coming, 0.05, read, told)
        answers = {arm: answer for arm, (answer, *_) in told.answers.items()}
        coming = sweep.refined(answers)
    return told


def judge(members: Sequence[Member], alpha: float) -> Answer:
    """The verdict on the distance of an arm."""
    groups = load([member.directory.path for member in members])
    (judgement,) = judgements(groups, alpha)
    return judgement.verdict.answer


def _by_seeds(
    arms: Mapping[str, list[Member]], work_off: WorkOff, judge: Judge, told: Asked
) -> None:
    """Seed by seed, for all arms that are not decided."""
    most = max(map(len, arms.values()))
    finished: set[str] = set()
    for n in range(FIRST_LOOK, most + 1):
        open_ = {arm: members for arm, members in arms.items() if _is_open(arm, told)}
        turns = range(FIRST_LOOK) if n == FIRST_LOOK else [n - 1]
        turn = [members[k] for k in turns for members in open_.values() if k < len(members)]
        told.outcomes += (outcomes := work_off(turn))
        finished |= {one.member.name for one in outcomes if one.state == "finished"}
        for arm, members in open_.items():
            if n <= len(members) and all(m.name in finished for m in members[:n]):
                level = LEVELS[len(members)]
                told.answers[arm] = (judge(members[:n], level), n, level)


def _is_open(arm: str, told: Asked) -> bool:
    return arm not in told.answers or told.answers[arm][0] == "undecided"


def _look(arms: Mapping[str, list[Member]], alpha: float, judge: Judge, told: Asked) -> None:
    """Once, at arms that are all there."""
    finished = {one.member.name for one in told.outcomes if one.state == "finished"}
    for arm, members in arms.items():
        if all(member.name in finished for member in members):
            told.answers[arm] = (judge(members, alpha), len(members), alpha)
