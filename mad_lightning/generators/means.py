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


class Means:
    """Running means of numbers by name."""

    def __init__(self) -> None:
        self._noted: dict[str, tuple[Tensor, Tensor, list[int]]] = {}

    def add(self, name: str, value: Tensor, step: int) -> None:
        """Adds the mean of a tensor, seen at a step."""
        if name not in self._noted:
            zero = torch.zeros((), device=value.device)
            self._noted[name] = (zero, zero, [])
        total, n_whole, steps = self._noted[name]
        total = total + value.detach().float().mean()
        steps.append(step)
        self._noted[name] = (total, n_whole + total.isfinite(), steps)

    def taken(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Means over all processes, and the steps at which broken ones broke; forgets them.

        Returns:
            Means by name, and of those that are not finite the first step that any process found
            so. Every process must ask, and hears the same.
        """
        noted, self._noted = self._noted, {}
        means = mean_over_all(*(total / len(steps) for total, _, steps in noted.values()))
        by_name = dict(zip(noted, means, strict=True))
        if not means or bool(torch.stack(means).isfinite().all()):
            return by_name, {}
        n_whole = Team.of().gathered(torch.stack([n for _, n, _ in noted.values()])).amin(dim=0)
        broken = {
            name: steps[min(int(n), len(steps) - 1)]
            for (name, (_, _, steps)), n in zip(noted.items(), n_whole, strict=True)
            if not bool(by_name[name].isfinite())
        }
        return by_name, dict(sorted(broken.items(), key=lambda pair: pair[1]))
