"""Several treatments, one after the other: what the first leaves, the next one looks at.

Whoever marks what he publishes may also throw away what looks marked already: ``[Unmarked,
Watermark]``. Each is given as many as those after it ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import torch

from mad_lightning.refusal import Refused, at
from mad_lightning.samples import SampleSpec, to_floats
from mad_lightning.treatments.base import Candidates, Treated, Treatment, treated

__all__ = ["InTurn"]


class InTurn(Treatment):
    """Treats what is drawn by several treatments in turn.

    Args:
        treatments: In this order; the first alone may have an extractor for its features. Of all
            their own real samples there are as many as the one has that asks for most.
    """

    def __init__(self, treatments: list[Treatment]) -> None:
        if not isinstance(treatments, Sequence) or not treatments:
            raise Refused("treatments", "there is none", "name one or more")
        for member in treatments:
            if not isinstance(member, Treatment):
                raise Refused("treatments", f"{member!r} is none", "take e.g. Random")
        if any(member.features is not None for member in treatments[1:]):
            problem = "a later one has an extractor, and the samples may be others by then"
            raise Refused("treatments", problem, "let the first alone have `features`")
        first = treatments[0]
        super().__init__(1.0, max(member.n_real for member in treatments), first.features)
        self.treatments = list(treatments)
        self.looks = any(member.looks for member in treatments)  # type: ignore[misc] # of this one

    def n_candidates(self, budget: int) -> int:
        """How many the first looks at."""
        last_first = reversed(self.treatments)
        return reduce(lambda n, member: member.n_candidates(n), last_first, budget)

    def check(self, spec: SampleSpec) -> None:
        """Refuses samples that one of them cannot work with."""
        for member in self.treatments:
            with at(f"treatments.{type(member).__name__}"):
                member.check(spec)

    def __call__(self, drawn: Candidates) -> Treated:
        """What is left."""
        spec = SampleSpec(tuple(drawn.samples.shape[1:]))
        left, places, weights = drawn, torch.arange(len(drawn)), None
        changed = False
        for turn, member in enumerate(self.treatments):
            rest = InTurn(self.treatments[turn + 1 :]) if self.treatments[turn + 1 :] else None
            budget = drawn.budget if rest is None else rest.n_candidates(drawn.budget)
            left = replace(left, address=(*drawn.address, turn), budget=budget)
            with at(f"treatments.{type(member).__name__}"):
                said = treated(member(left), left, spec)
            chosen = said.places
            assert chosen is not None  # in full
            changed = changed or said.values is not None
            samples = left.samples[chosen] if said.values is None else said.values
            own = said.weights
            if weights is not None:
                own = weights[chosen] if own is None else weights[chosen] * own
            places, weights = places[chosen], own
            left = replace(
                left,
                samples=samples,
                features=to_floats(samples).flatten(1),
                labels=None if left.labels is None else left.labels[chosen],
                real_features=(
                    None if left.real is None else to_floats(left.real.values).flatten(1)
                ),
            )
        return Treated(places, left.samples if changed else None, weights)
