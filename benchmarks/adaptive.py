"""What `mad sweep --until decided` saves, and how often it is wrong, with a stand-in for training.

    python benchmarks/adaptive.py            # 300 sweeps, two minutes of CPU time
    python benchmarks/adaptive.py 2000

A sweep here has ten arms of up to eight seeds and 20 generations. Lineages of three arms are
Gaussians, really simulated; those of seven are curves with a known law: an expected distance, and
noise of 10 % that each seed has anew in each generation. Rounds, looks and levels are those of the
command (`mad_lightning.sweeps.rounds.ask`), the verdict is the package's.

Printed by arm: generations trained with looks over those without; what all eight seeds say at 5 %;
what the looks say; how often they contradict (one says MAD, the other settled); and how often looks
decide against the truth. Bar: at most 70 % of the generations over all arms; no arm in which both
contradict each other, and at least 90 % of what eight seeds decide decided alike (the others stay
undecided: that is what looking costs); in each arm at most 5 % are wrong (and 3 standard errors).
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mad_lightning.policies import FreshData, FullySynthetic
from mad_lightning.report.answers import Question
from mad_lightning.sweeps import Member, Outcome, Sweep, ask
from mad_lightning.theory import Setting, simulate
from mad_lightning.verdict import Floor, verdict
from mad_lightning.verdict.intervals import Array, level_of_look

SEEDS, LAST, NOISE = 8, 20, 0.1
T = np.arange(1, LAST + 1)
CURVES: dict[str, tuple[bool, str, Callable[[], Array]]] = {
    "closed, grows by 20 % a generation": (True, "MAD", lambda: 1.2 ** (T - 1.0)),
    "closed, grows by 5 %": (True, "MAD", lambda: 1.05 ** (T - 1.0)),
    "closed, stands still": (True, "", lambda: np.ones(LAST)),
    "open, grows by 30 %": (False, "MAD", lambda: 1.3 ** (T - 1.0)),
    "open, settles, memory .5": (False, "settled", lambda: 4 - 3 * 0.5 ** (T - 1.0)),
    "open, settles, memory .9": (False, "settled", lambda: 4 - 3 * 0.9 ** (T - 1.0)),
    "open, stands still": (False, "settled", lambda: np.ones(LAST)),
}
GAUSSIANS = {
    "Gaussian, fully synthetic": (True, "MAD", Setting(FullySynthetic(200, 200), 1.0, 10)),
    "Gaussian, λ = 0.8": (True, "MAD", Setting(FullySynthetic(200, 200), 0.8, 11)),
    "Gaussian, half fresh": (False, "settled", Setting(FreshData(200, 100, 100), 1.0, 12)),
}
"""By arm: whether nothing real comes in, what may be said of it, and its law."""


def distances(sweeps: int) -> dict[str, Array]:
    """Distances (sweeps, seeds, generations) by arm."""
    rng = np.random.default_rng(1)
    settings = [setting for *_, setting in GAUSSIANS.values()]
    walks = simulate(settings, 20, LAST, sweeps * SEEDS).w2_squared.numpy()
    walks = walks.reshape(len(settings), sweeps, SEEDS, LAST)
    shape = (sweeps, SEEDS, LAST)
    told = {
        arm: law() * np.exp(NOISE * rng.standard_normal(shape))
        for arm, (_, _, law) in CURVES.items()
    }
    return told | dict(zip(GAUSSIANS, walks, strict=True))


def answer(arm: str, d: Array, alpha: float) -> str:
    """The verdict on seeds of an arm."""
    closed = (CURVES | GAUSSIANS)[arm][0]
    return verdict(d, closed=closed, floor=Floor(), alpha=alpha).answer


def looked(sweep: Sweep, d: Mapping[str, Array]) -> tuple[dict[str, str], Counter[str]]:
    """One sweep -> the answer and the generations trained, by arm."""
    names = dict(zip(sweep.arms, d, strict=True))
    trained: Counter[str] = Counter()

    def work_off(members: Sequence[Member]) -> list[Outcome]:
        trained.update({names[m.arm]: 0 for m in members})
        for member in members:
            trained[names[member.arm]] += LAST
        return [Outcome(member, "finished") for member in members]

    def judge(arms: Mapping[str, Sequence[Member]], question: Question) -> dict[str, str]:
        return {
            arm: answer(
                names[arm],
                d[names[arm]][: len(members)],
                level_of_look(question.alpha, question.looks, len(members)),
            )
            for arm, members in arms.items()
        }

    told = ask(sweep, work_off, until_decided=True, judge=judge)
    return {names[arm]: word for arm, word in told.words.items()}, trained


def main(sweeps: int) -> None:
    """Prints the table and whether the bar is met."""
    d = distances(sweeps)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder, "base.yaml")
        base.write_text("{}")
        grid = {"policy.n": [*range(len(d))], "seed_everything": [*range(SEEDS)]}
        sweep = Sweep([base], grid)
        runs = [looked(sweep, {arm: d[arm][place] for arm in d}) for place in range(sweeps)]
    print(
        f"{'arm':36}{'trained':>8}  {'eight seeds say':28}{'looks say':28}{'other':>6}{'wrong':>7}"
    )
    whole = SEEDS * LAST
    alike = decided = used = 0
    worst = contradicted = 0.0
    for arm in d:
        truth = (CURVES | GAUSSIANS)[arm][1]
        full = [answer(arm, each, 0.05) for each in d[arm]]
        seen = [words[arm] for words, _ in runs]
        mine = sum(trained[arm] for _, trained in runs)
        pairs = [(a, b) for a, b in zip(full, seen, strict=True) if a != "undecided"]
        decided, alike = decided + len(pairs), alike + sum(a == b for a, b in pairs)
        other = sum({a, b} == {"MAD", "settled"} for a, b in pairs) / sweeps
        wrong = sum(word not in (truth, "undecided") for word in seen) / sweeps
        worst, contradicted, used = max(worst, wrong), max(contradicted, other), used + mine
        said = (
            ", ".join(f"{word} {n / sweeps:.0%}" for word, n in Counter(words).most_common())
            for words in (full, seen)
        )
        print(f"{arm:36}{mine / whole / sweeps:>8.0%}  {next(said):28}{next(said):28}"
              f"{other:>6.1%}{wrong:>7.1%}")  # fmt: skip
    share = used / (whole * sweeps * len(d))
    print(f"in all {share:.0%} of the generations; of what eight seeds decide, "
          f"{alike / decided:.1%} is decided alike")  # fmt: skip
    limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / sweeps)
    met = share <= 0.70 and alike / decided >= 0.9 and not contradicted and worst <= limit
    print(f"bar {'met' if met else 'MISSED'}: wrong at most {worst:.1%} (limit {limit:.1%})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
