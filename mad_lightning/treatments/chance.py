"""At random: the control of every selection.

Whatever a selection changes, it must change more than this, which costs as many candidates and
knows nothing.
"""

from __future__ import annotations

from torch import Tensor

from mad_lightning.seeds import permutation
from mad_lightning.treatments.base import Candidates, Treatment

__all__ = ["Random"]


class Random(Treatment):
    """Keeps candidates at random.

    Args:
        candidates: How many are drawn for each that is kept.
        n_real: Real samples that tell which candidates are right, beside which it keeps; 0: nobody
            asks.
    """

    sees = False

    def __init__(self, candidates: float = 4.0, n_real: int = 0) -> None:
        super().__init__(candidates, n_real)

    def __call__(self, drawn: Candidates) -> Tensor:
        """Places (budget,)."""
        return permutation(len(drawn), *drawn.address)[: drawn.budget]
