"""How much fresh data is safe? The share that is needed, between two bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mad_lightning.refusal import Refused
from mad_lightning.verdict.growth import Answer

__all__ = ["SafeShare", "safe_share"]


@dataclass(frozen=True)
class SafeShare:
    """What lineages that differ in their fresh share say about the share that is needed.

    Attributes:
        largest_mad: Largest share that was judged MAD; None if none was.
        smallest_safe: Smallest share such that it and all larger ones were judged settled; None if
            the largest one was not.
        undecided: Shares that were judged neither.
        contradicted: Shares that were judged settled although a larger one was judged MAD.
    """

    largest_mad: float | None
    smallest_safe: float | None
    undecided: tuple[float, ...]
    contradicted: tuple[float, ...]

    def __str__(self) -> str:
        if self.smallest_safe is None:
            text = "no share was shown to be safe"
            if self.largest_mad is not None:
                text += f"; it takes more than {self.largest_mad:.3g}"
        else:
            low = "not bounded below: none was judged MAD"
            if self.largest_mad is not None:
                low = f"needed: between {self.largest_mad:.3g} and {self.smallest_safe:.3g}"
            text = f"{self.smallest_safe:.3g} is the smallest share shown to be safe ({low})"
        for name in ("undecided", "contradicted"):
            if shares := getattr(self, name):
                text += f"; {name}: {', '.join(f'{share:.3g}' for share in shares)}"
        return text


def safe_share(answers: Sequence[tuple[float, Answer]]) -> SafeShare:
    """The smallest share of fresh data that keeps a loop from going MAD, between two bounds.

    Shares are read from the largest down, and the reading stops at the first that is not judged
    safe, so P(a share at which the loop is MAD is called safe) is at most the alpha of one verdict,
    however many shares were tried (as in :func:`~mad_lightning.verdict.departure`). The lower end
    is the largest of k shares judged MAD, and wrong with probability k alpha at most. A share that
    several lineages have is safe if all say so, and MAD if any does.

    Args:
        answers: Pairs of n_fresh / (n_fresh + n_synthetic) and a verdict's answer, in any order.

    Raises:
        Refused: If there are none.
    """
    if not answers:
        raise Refused("answers", "there are none", "give a share and an answer at least")
    by_share: dict[float, set[Answer]] = {}
    for share, answer in sorted(answers, reverse=True):
        by_share.setdefault(share, set()).add(answer)
    mad = [share for share, given in by_share.items() if "MAD" in given]
    calm = [share for share, given in by_share.items() if given == {"settled"}]
    safe: float | None = None
    for share in by_share:
        if share not in calm:
            break
        safe = share
    return SafeShare(
        largest_mad=max(mad, default=None),
        smallest_safe=safe,
        undecided=tuple(sorted(by_share.keys() - {*mad, *calm})),
        contradicted=tuple(sorted(share for share in calm if mad and share < max(mad))),
    )
