"""The three loops of the paper: fully synthetic, augmented, fresh.

Source: Alemohammad et al., 2023, section 1.2.
"""

from __future__ import annotations

from mad_lightning.policies.mixes import Part
from mad_lightning.policies.windows import SyntheticFrom, Windowed
from mad_lightning.refusal import Refused
from mad_lightning.schedules import check_count, count_schedule

__all__ = ["FreshData", "FullySynthetic", "SyntheticAugmentation"]


class FullySynthetic(Windowed):
    """The fully synthetic loop: after generation 1, nothing but samples of earlier generators.

    Source: Alemohammad et al., 2023, sections 1.2 and 3; the experiments draw from ``last``.

    Args:
        n_initial: Real samples of generation 1.
        n_synthetic: Synthetic samples of each later generation; None takes ``n_initial``.
            A number, or arithmetic in ``t`` such as ``"(t-1) * 70000"``.
        synthetic_from: ``last`` generation, ``all`` earlier ones, or the ``last_k``.
        k: How many generations ``last_k`` reaches back.
    """

    token = "full_synth"
    pool_field = "n_initial"

    def __init__(
        self,
        n_initial: int,
        n_synthetic: int | str | None = None,
        synthetic_from: SyntheticFrom = "last",
        k: int = 1,
    ) -> None:
        check_count("n_initial", n_initial, 1)
        super().__init__(n_initial if n_synthetic is None else n_synthetic, synthetic_from, k)
        self.n_initial = int(n_initial)

    def real_parts(self, t: int) -> tuple[Part, ...]:
        """Real samples for t = 1, none ever after."""
        return (Part("real", None, 0, self.n_initial),) if t == 1 else ()

    def arithmetic(self, generations: int) -> str:
        """Only generation 1 touches the pool."""
        return f"n_initial = {self.n_initial}"


class SyntheticAugmentation(Windowed):
    """The synthetic augmentation loop: a fixed real training set beside synthetic samples.

    Source: Alemohammad et al., 2023, sections 1.2 and 4. With StyleGAN2 the paper keeps ``all``
    earlier samples, ``n_synthetic = "(t-1) * 70000"``; with MNIST it draws from ``last``.

    Args:
        n_real: Size of the fixed real set, the same samples in each generation. A schedule takes
            more or fewer of its first samples as t grows: ``"max(0, 900 - 300*(t-1))"``.
        n_synthetic: Synthetic samples of each later generation, or a schedule; None takes
            ``n_real``.
        n_initial: Real samples of generation 1; None takes ``n_real``.
        synthetic_from: ``last`` generation, ``all`` earlier ones, or the ``last_k``.
        k: How many generations ``last_k`` reaches back.
    """

    token = "synth_aug"

    def __init__(
        self,
        n_real: int | str,
        n_synthetic: int | str | None = None,
        n_initial: int | None = None,
        synthetic_from: SyntheticFrom = "last",
        k: int = 1,
    ) -> None:
        sizes = count_schedule("n_real", n_real, 1)
        if n_initial is not None:
            check_count("n_initial", n_initial, 1)
        n_synthetic = n_real if n_synthetic is None else n_synthetic
        super().__init__(n_synthetic, synthetic_from, k, n_real=n_real)
        self.n_real = n_real
        self.n_initial = _first(sizes) if n_initial is None else int(n_initial)

    def real_parts(self, t: int) -> tuple[Part, ...]:
        """The fixed real set."""
        n = self.n_initial if t == 1 else self.count("n_real", t)
        return (Part("real", None, 0, n),) if n else ()

    def arithmetic(self, generations: int) -> str:
        """The larger of the fixed set and generation 1's."""
        most = max([self.count("n_real", t) for t in range(2, generations + 1)], default=0)
        return f"max(n_real = {most or self.n_initial}, n_initial = {self.n_initial})"


def _first(n_real: object) -> int:
    """What a schedule says of generation 1."""
    try:
        n = n_real(1)  # type: ignore[operator] # it is a schedule
    except ValueError as error:
        raise Refused("n_real", str(error), "give `n_initial`, or another schedule") from None
    if n < 1:
        problem = f"{n} samples in generation 1, which is real only"
        raise Refused("n_real", problem, "give `n_initial`, e.g. `n_initial: 900`")
    return int(n)


class FreshData(Windowed):
    """The fresh data loop: new real samples in every generation beside synthetic ones.

    Source: Alemohammad et al., 2023, sections 1.2 and 5, appendix G for ``last_k``.

    Args:
        n_initial: Real samples of generation 1.
        n_fresh: New real samples of each later generation, or a schedule; none is ever used twice.
        n_synthetic: Synthetic samples of each later generation, or a schedule.
        synthetic_from: ``last`` generation, ``all`` earlier ones, or the ``last_k``.
        k: How many generations ``last_k`` reaches back.
    """

    token = "fresh"
    pool_field = "n_fresh"

    def __init__(
        self,
        n_initial: int,
        n_fresh: int | str,
        n_synthetic: int | str,
        synthetic_from: SyntheticFrom = "last",
        k: int = 1,
    ) -> None:
        check_count("n_initial", n_initial, 1)
        count_schedule("n_fresh", n_fresh, 1)
        super().__init__(n_synthetic, synthetic_from, k, n_fresh=n_fresh)
        self.n_initial, self.n_fresh = int(n_initial), n_fresh
        self._starts = [self.n_initial] * 3  # where what is fresh in generation t begins

    def real_parts(self, t: int) -> tuple[Part, ...]:
        """The initial samples, then the next ``n_fresh`` of the pool."""
        if t == 1:
            return (Part("real", None, 0, self.n_initial),)
        n = self.count("n_fresh", t)
        while len(self._starts) <= t:
            last = len(self._starts) - 1
            self._starts.append(self._starts[last] + self.count("n_fresh", last))
        return (Part("fresh", None, self._starts[t], n),) if n else ()

    def arithmetic(self, generations: int) -> str:
        """Initial samples and the fresh ones of every later generation."""
        if isinstance(self.n_fresh, str):
            told = f"the sum of n_fresh = {self.n_fresh!r} over generations 2 to {generations}"
            return f"n_initial + {told} = {self.n_pool(generations)}"
        return (
            f"n_initial + (generations - 1) x n_fresh = "
            f"{self.n_initial} + {generations - 1} x {self.n_fresh} = {self.n_pool(generations)}"
        )
