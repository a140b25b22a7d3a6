"""How the program says no.

Bad input is the user's business, a bug is ours. Whatever can be known before work starts is refused
with three things: the field to look at, what is wrong with it, and the remedy. The door prints
them on one screen, without a traceback; everything else that is raised is a bug and keeps its
traceback. A training that diverges could not be known before; it is told in the same way.

A room knows its own parameters and not where somebody mounted it, so it refuses ``root`` and
speaks of `` `resolution: 64` `` in backticks. Whoever mounted it says where: inside
``with at("data.source"):`` both names get that in front, and a door may spell them as its flags.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real

__all__ = [
    "Diverged",
    "Refused",
    "at",
    "check_memory",
    "check_one_of",
    "check_sampling_bias",
    "check_system",
    "check_within",
]

_MENTIONED = re.compile(r"`([A-Za-z_][\w.]*)((?::| )[^`]*)?`")


class Refused(ValueError):
    """A request that the program declines before doing any of it.

    Args:
        field: Name of the parameter; empty if the object as a whole does not fit where it stands.
        problem: What is wrong, with the numbers.
        remedy: What to do about it. Parameters of the same object stand in backticks, alone or as
            in YAML, ``name: value``.
    """

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        self.field, self.problem, self.remedy = field, problem, remedy
        where = f"{field}: " if field else ""
        super().__init__(f"{where}{problem}\n  remedy: {remedy}")

    def renamed(
        self,
        rename: Callable[[str], str],
        spell: Callable[[str, str], str] = lambda name, value: f"`{name}{value}`",
    ) -> Refused:
        """The same refusal in other words.

        Args:
            rename: From the name of a parameter (empty: the object itself) to another name.
            spell: From the new name and what follows it (``": 64"``, or nothing) to how a parameter
                is mentioned in problem and remedy.

        Returns:
            One of the same kind.
        """

        def reworded(text: str) -> str:
            return _MENTIONED.sub(lambda found: spell(rename(found[1]), found[2] or ""), text)

        return type(self)(rename(self.field), reworded(self.problem), reworded(self.remedy))


class Diverged(Refused, FloatingPointError):
    """A training whose numbers are not finite any more, so that nothing can go on from it.

    Args:
        field: As of a refusal.
        problem: Which family diverged, where, and what of it is broken.
        remedy: What would keep the numbers small.
    """

    stands: str = ""
    """The last generation that stands, ``runs/<lineage>@<t>``; empty if there is none."""


@contextmanager
def at(place: str) -> Iterator[None]:
    """Says where the room that refuses inside is mounted: ``root`` is ``<place>.root``."""
    try:
        yield
    except Refused as refused:
        mounted = refused.renamed(lambda name: f"{place}.{name}" if name else place)
        raise mounted from refused.__cause__


def check_within(
    interval: str, example: str = "", **numbers: float | Sequence[float] | None
) -> None:
    """Refuses numbers outside an interval; NaN lies in none.

    Args:
        interval: In the notation of mathematics, e.g. ``(0, 1]``.
        example: What is usual, e.g. ``the paper takes 5``.
        numbers: By the name of their parameter: one number, several of which there must be one at
            least, or None where nothing is to be checked.

    Raises:
        Refused: With the field, the number and the interval.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    where = f"choose within {interval}" + (f", {example}" if example else "")
    for field, given in numbers.items():
        listed = list(given) if isinstance(given, Sequence) else [given]
        if not listed:
            raise Refused(field, "it is empty", f"give at least one number; {where}")
        for number in listed:
            if number is None:
                continue
            if not isinstance(number, Real):
                raise Refused(field, f"{type(number).__name__} is no number", where)
            far_enough = number > low or (number == low and interval[0] == "[")
            near_enough = number < high or (number == high and interval[-1] == "]")
            if not (far_enough and near_enough):
                raise Refused(field, f"{number} lies outside {interval}", where)


def check_one_of(names: Collection[object], **chosen: object) -> None:
    """Refuses what is none of the names.

    Raises:
        Refused: With the field, what was chosen, and all names.
    """
    for field, name in chosen.items():
        if name not in names:
            raise Refused(field, f"there is no {name!r}", f"choose {' or '.join(map(str, names))}")


def check_system() -> None:
    """Refuses Windows, which cannot bring the names in a directory to the disk.

    On that all rests that a lineage keeps: a file appears whole or not at all.

    Raises:
        Refused: If this is Windows.
    """
    if sys.platform == "win32":
        raise Refused("", "lineages are not kept on Windows", "use Linux, also in WSL, or a Mac")


def check_memory(field: str, size: float, what: str, remedy: str) -> None:
    """Refuses what this machine cannot hold.

    Args:
        field: The parameter that asks for it.
        size: Bytes.
        what: What has that size.
        remedy: What to do about it.

    Raises:
        Refused: If that is more than the machine's memory.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory:
        held = f"{size / 2**30:,.0f} GiB, this machine has {memory / 2**30:,.0f}"
        raise Refused(field, f"{what} would take {held}", remedy)


def check_sampling_bias(sampling_bias: float) -> None:
    """Refuses a λ outside (0, 1].

    Raises:
        Refused: With the field, the value and the range.
    """
    if not 0.0 < sampling_bias <= 1.0:
        raise Refused(
            "sampling_bias",
            f"λ = {sampling_bias} lies outside (0, 1]",
            "1 samples without bias; smaller values trade diversity for fidelity, e.g. 0.66",
        )
