"""Means over an epoch, and the step at which one of them broke.

``self.log`` is dear in small steps, and so is every look at a number that a device has not worked
out yet. So what a step notes is added up where it lies, and looked at once an epoch. A sum that is
broken once stays broken; how often it was whole before that tells when it happened.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mad_lightning.processes import Team, mean_over_all

__all__ = ["Means"]


class _Sum:
    """A running sum, how often it was finite, and at which steps something was added."""

    def __init__(self, device: torch.device) -> None:
        self.total = self.n_whole = torch.zeros((), device=device)
        self.steps: list[int] = []
        self.waiting: list[Tensor] = []

    def fold(self) -> None:
        """Adds up what waits, one after the other."""
        totals = []
        for value in self.waiting:
            self.total = self.total + value
            totals.append(self.total)
        if totals:
            self.n_whole = self.n_whole + torch.stack(totals).isfinite().sum()
        self.waiting.clear()


_FOLDED = 64  # values that wait to be added up


class Means:
    """Running means of numbers by name."""

    def __init__(self) -> None:
        self._noted: dict[str, _Sum] = {}

    def add(self, name: str, value: Tensor, step: int) -> None:
        """Adds the mean of a tensor, seen at a step."""
        if name not in self._noted:
            self._noted[name] = _Sum(value.device)
        noted = self._noted[name]
        noted.waiting.append(value.detach().float().mean())  # a copy: it may change later
        noted.steps.append(step)
        if len(noted.waiting) == _FOLDED:
            noted.fold()

    def taken(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Means over all processes, and the steps at which broken ones broke; forgets them.

        Returns:
            Means by name, and of those that are not finite the first step that any process found
            so. Every process must ask, and hears the same.
        """
        noted, self._noted = self._noted, {}
        for numbers in noted.values():
            numbers.fold()
        means = mean_over_all(*(some.total / len(some.steps) for some in noted.values()))
        by_name = dict(zip(noted, means, strict=True))
        if not means or bool(torch.stack(means).isfinite().all()):
            return by_name, {}
        n_whole = Team.of().gathered(torch.stack([some.n_whole for some in noted.values()]))
        broken = {
            name: some.steps[min(int(n), len(some.steps) - 1)]
            for (name, some), n in zip(noted.items(), n_whole.amin(dim=0), strict=True)
            if not bool(by_name[name].isfinite())
        }
        return by_name, dict(sorted(broken.items(), key=lambda pair: pair[1]))
