"""All at once: fixed real, fresh and synthetic samples, and what comes from outside.

The paper leaves combinations of its loops to others (section 6); the literature since then adds
weights (a sample of one origin counts more than one of another) and samples that somebody else's
generator drew and that nobody can tell from real ones.
"""

from __future__ import annotations

from mad_lightning.policies.mixes import EXTERNAL, Part
from mad_lightning.policies.windows import SyntheticFrom, Windowed
from mad_lightning.schedules import check_count, check_weight

__all__ = ["Combined"]


class Combined(Windowed):
    """Fixed real, fresh, synthetic and external samples in one mix, each with a weight.

    Sources: Alemohammad et al., 2023, section 6; He et al., 2025 (arXiv 2502.18049), weights;
    Hataya et al., 2023 (arXiv 2211.08095), samples from outside; Shi et al., 2025, equal shares of
    all generators within a fixed budget (``n_real: "100//t"``, ``n_synthetic: "100 - 100//t"``,
    ``synthetic_from: all``).

    All counts are numbers or schedules in ``t``, from generation 2 on. A weight says how often a
    sample is seen in training beside a sample of weight 1; families in closed form weigh it so in
    their moments.

    Args:
        n_initial: Real samples of generation 1, which is real only.
        n_real: Samples of the fixed real set, of which the initial ones are the first.
        n_fresh: New real samples, none ever used twice.
        n_synthetic: Samples of earlier generators.
        n_external: Samples of ``data.external``, its first ones in the lineage's own order.
        synthetic_from: ``last`` generation, ``all`` earlier ones, or the ``last_k``.
        k: How many generations ``last_k`` reaches back.
        weight_real: Weight of each sample of the fixed real set.
        weight_fresh: Weight of each fresh sample.
        weight_synthetic: Weight of each sample of an earlier generator.
        weight_external: Weight of each sample from outside.
    """

    token = "combined"

    def __init__(
        self,
        n_initial: int,
        n_real: int | str = 0,
        n_fresh: int | str = 0,
        n_synthetic: int | str = 0,
        n_external: int | str = 0,
        synthetic_from: SyntheticFrom = "last",
        k: int = 1,
        weight_real: float = 1.0,
        weight_fresh: float = 1.0,
        weight_synthetic: float = 1.0,
        weight_external: float = 1.0,
    ) -> None:
        check_count("n_initial", n_initial, 1)
        weights = {
            "real": weight_real,
            "fresh": weight_fresh,
            "synthetic": weight_synthetic,
            "external": weight_external,
        }
        for origin, weight in weights.items():
            check_weight(f"weight_{origin}", weight)
        super().__init__(
            n_synthetic,
            synthetic_from,
            k,
            float(weight_synthetic),
            n_real=n_real,
            n_fresh=n_fresh,
            n_external=n_external,
        )
        n_initial = int(n_initial)
        self.n_initial, self.n_real, self.n_fresh = n_initial, n_real, n_fresh
        self.n_external = n_external
        self.weights = {origin: float(weight) for origin, weight in weights.items()}
        self.pool_field = "n_fresh" if n_fresh else "n_real"
        self._fixed = [(0, n_initial)]  # runs of the pool that the fixed set is made of
        self._fresh = [n_initial] * 2  # where what is fresh in generation t begins

    def real_parts(self, t: int) -> tuple[Part, ...]:
        """The fixed real set, and the next samples of the pool.

        A fixed set that grows takes what nobody has taken before: fresh samples stay fresh.
        """
        if t == 1:
            return (Part("real", None, 0, self.n_initial),)
        while len(self._fresh) <= t:
            self._hand_out(len(self._fresh))
        wanted, parts = self.count("n_real", t), []
        for start, stop in self._fixed:
            n = min(wanted, stop - start)
            if n:
                parts.append(Part("real", None, start, n, self.weights["real"]))
            wanted -= n
        if n := self.count("n_fresh", t):
            parts.append(Part("fresh", None, self._fresh[t], n, self.weights["fresh"]))
        return tuple(parts)

    def _hand_out(self, t: int) -> None:
        """Gives generation ``t``, after those before it, its new samples of the pool."""
        end = self._fresh[-1] + (self.count("n_fresh", t - 1) if t > 2 else 0)
        lacking = self.count("n_real", t) - sum(stop - start for start, stop in self._fixed)
        if lacking > 0:
            start, stop = self._fixed[-1]
            grown = (start, end + lacking) if stop == end else (end, end + lacking)
            self._fixed[-1 if stop == end else len(self._fixed) :] = [grown]
            end += lacking
        self._fresh.append(end)

    def other_parts(self, t: int) -> tuple[Part, ...]:
        """Real and fresh parts, then what comes from outside."""
        n = 0 if t == 1 else self.count("n_external", t)
        outside = (Part("external", EXTERNAL, 0, n, self.weights["external"]),) if n else ()
        return self.real_parts(t) + outside

    def arithmetic(self, generations: int) -> str:
        """The fixed set, and the fresh samples of every later generation."""
        return f"the fixed set and the fresh ones after it, {self.n_pool(generations)}"
