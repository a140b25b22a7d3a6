"""What a report says in sentences, before all numbers: what went MAD, and how sure that is.

People read one sentence and look at one picture. So its conditions stand in the sentence itself:
how far the distance went, at least, by which generation, over how many seeds; and where nothing is
decided, what would decide it. Groups of which the same can be said share a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mad_lightning.lineage.quantities import UNKNOWN
from mad_lightning.report.groups import Group, meanings_of, metrics_of
from mad_lightning.verdict.criteria import Criterion
from mad_lightning.verdict.intervals import Interval
from mad_lightning.verdict.judgement import Judgement

__all__ = [
    "answer",
    "between",
    "change",
    "difference",
    "generation_left",
    "growth",
    "headline",
    "number",
    "sources",
]

Judged = tuple[Group, Judgement]

_MOST = 4
"""Groups that a sentence names; of more it names one less, and counts the others."""


def headline(groups: Sequence[Group], judged: Sequence[Judgement]) -> list[str]:
    """What groups say, in few sentences: what is MAD first, what says nothing yet last.

    Args:
        groups: In the order in which they are named.
        judged: What the seeds of each allow to conclude.
    """
    pairs = list(zip(groups, judged, strict=True))
    alike = [[pair for pair in pairs if _fits(*pair) is sentence] for sentence in _SENTENCES]
    return [sentence(some) for sentence, some in zip(_SENTENCES, alike, strict=True) if some]


def answer(group: Group, judgement: Judgement) -> str:
    """What one group says, in a sentence."""
    return _fits(group, judgement)([(group, judgement)])


# sentences


def _mad(some: Sequence[Judged]) -> str:
    return (
        f"{_names(some)} went MAD: nothing real comes in, and {_distance(some)} grew "
        f"{_factors(some)} by {_end(some)} ({_seeds(some)}{_sure(some)})."
    )


def _mad_by_a_share(some: Sequence[Judged]) -> str:
    verdicts = [judgement.verdict for _, judgement in some[:_MOST]]
    fell = _listed(
        [f"{v.by} fell by {v.lost.estimate:.2g} (at least {v.lost.low:.2g})" for v in verdicts]
    )
    more = ", …" * (len(some) > _MOST)
    return (
        f"{_names(some)} went MAD: nothing real comes in, and {fell}{more} by {_end(some)} "
        f"({_seeds(some)}, 99% sure); that a distance grew is not shown."
    )


def _mad_beside_real_data(some: Sequence[Judged]) -> str:
    return (
        f"{_names(some)} went MAD although real data comes in: {_distance(some)} grew "
        f"{_factors(some)} by {_end(some)} and gathers pace ({_seeds(some)}{_sure(some)})."
    )


def _settled(some: Sequence[Judged]) -> str:
    return (
        f"{_names(some)} settled: at the pace of {_later_half(some)} as many generations again "
        f"would add less than {_margin(some)} to {_distance(some)} ({_seeds(some)}{_sure(some)})."
    )


def _quiet(some: Sequence[Judged]) -> str:
    longer = "the word settled takes 12 generations"
    return (
        f"Of {_names(some)} no growth above {_margin(some)} was seen in {_later_half(some)} "
        f"({_seeds(some)}{_sure(some)}); undecided: {_deciding(some, longer)}."
    )


def _rose(some: Sequence[Judged]) -> str:
    longer = "20 generations would show growth of 20% a generation"
    return (
        f"Of {_names(some)} {_distance(some)} grew {_factors(some)} by {_end(some)} "
        f"({_seeds(some)}{_sure(some)}), as in a loop that settles; undecided: "
        f"{_deciding(some, longer, 20)}."
    )


def _open(some: Sequence[Judged]) -> str:
    seen = _listed([_went(judgement) for _, judgement in some[:_MOST]])
    longer = "12 generations and more seeds would tell"
    return (
        f"Of {_names(some)} neither growth nor its absence is shown: {_distance(some)} went {seen} "
        f"by {_end(some)} ({_seeds(some)}); undecided: {_deciding(some, longer)}."
    )


def _one_lineage(some: Sequence[Judged]) -> str:
    if len(some) == 1:
        return f"{some[0][0].name} is {some[0][1].verdict.reason}."
    return (
        f"{_names(some)} are one lineage each: {_distance(some)} went {_ends(some)}; whether the "
        "loops do this or these lineages did takes two more seeds of each."
    )


def _without_distance(some: Sequence[Judged]) -> str:
    return (
        f"Of {_names(some)} no distance was measured, so nothing tells whether the loop goes MAD "
        f"(`mad measure LINEAGE --metrics Kernel Frechet` measures two): {_ends(some)}."
    )


def _too_short(some: Sequence[Judged]) -> str:
    most = max(judgement.verdict.window[1] for _, judgement in some)
    made = f"{most} generation" + "s" * (most > 1)
    return f"{_names(some)} made {made}, and it takes at least 3 to tell whether a loop goes MAD."


def _with_a_gap(some: Sequence[Judged]) -> str:
    return f"Of {_names(some)} nothing is decided: {some[0][1].verdict.reason}."


_SENTENCES: tuple[Callable[[Sequence[Judged]], str], ...] = (
    _mad,
    _mad_by_a_share,
    _mad_beside_real_data,
    _settled,
    _quiet,
    _rose,
    _open,
    _one_lineage,
    _without_distance,
    _too_short,
    _with_a_gap,
)
"""In the order in which they are said."""


def _fits(group: Group, judgement: Judgement) -> Callable[[Sequence[Judged]], str]:
    """The sentence that can be said of a group."""
    verdict = judgement.verdict
    if verdict.answer == "MAD":
        if verdict.by:
            return _mad_by_a_share
        return _mad if verdict.closed else _mad_beside_real_data
    if verdict.answer == "settled":
        return _settled
    if group.generations < 3:
        return _too_short
    if judgement.distance is None:
        return _without_distance
    if math.isnan(verdict.rise.estimate):
        return _with_a_gap
    if verdict.seeds == 1:
        return _one_lineage
    if verdict.stood:
        return _quiet
    return _rose if verdict.rose else _open


# their parts


def _listed(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _names(some: Sequence[Judged]) -> str:
    names = [group.name for group, _ in some]
    if len(names) > _MOST:
        names = [*names[: _MOST - 1], f"{len(names) - _MOST + 1} more"]
    return _listed(names)


def _seeds(some: Sequence[Judged]) -> str:
    counts = sorted(judgement.verdict.seeds for _, judgement in some)
    span = " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))
    return f"{span} seeds" + " each" * (len(some) > 1)


def _sure(some: Sequence[Judged]) -> str:
    return f", {1 - some[0][1].verdict.alpha:.0%} sure"


def _distance(some: Sequence[Judged]) -> str:
    names = {judgement.distance for _, judgement in some}
    return f"the distance {names.pop()}" if len(names) == 1 else "the distance"


def _factors(some: Sequence[Judged]) -> str:
    """By how much it grew; of many groups, from the least to the most."""
    verdicts = [judgement.verdict for _, judgement in some]
    mark = "×" if all(verdict.relative for verdict in verdicts) else "by "
    if len(some) > _MOST:
        ordered = sorted(verdict.rise.estimate for verdict in verdicts)
        return f"{mark}{ordered[0]:.3g} to {mark}{ordered[-1]:.3g}"
    named = len({judgement.distance for _, judgement in some}) > 1
    return _listed(
        [
            f"{mark}{judgement.verdict.rise.estimate:.3g} "
            f"(at least {mark}{judgement.verdict.rise.low:.3g}"
            + (f", by {judgement.distance})" if named else ")")
            for _, judgement in some
        ]
    )


def _went(judgement: Judgement) -> str:
    """By how much it changed, between what and what."""
    rise, mark = judgement.verdict.rise, "×" if judgement.verdict.relative else "by "
    return f"{mark}{rise.estimate:.3g} ({mark}{rise.low:.3g} to {mark}{rise.high:.3g})"


def _end(some: Sequence[Judged]) -> str:
    """The last third of a lineage, to whose mean it rose."""
    lasts = {group.generations for group, _ in some}
    if len(lasts) > 1:
        return "the last third of their generations"
    last = lasts.pop()
    first = last - max(last // 3, 1) + 1
    return f"generation {last}" if first == last else f"generations {first}–{last}"


def _later_half(some: Sequence[Judged]) -> str:
    windows = {judgement.verdict.window for _, judgement in some}
    if len(windows) > 1:
        return "the later half of their generations"
    return "generations {}–{}".format(*windows.pop())


def _margin(some: Sequence[Judged]) -> str:
    return f"{some[0][1].verdict.margin:.0%}"


def _deciding(some: Sequence[Judged], longer: str, least: int = 12) -> str:
    """What would decide it: a longer lineage where real data comes in, else more of the same."""
    short = any(
        group.generations < least and not judgement.verdict.closed for group, judgement in some
    )
    return longer if short else "more seeds or more generations would tell"


def _ends(some: Sequence[Judged]) -> str:
    """From where to where what was judged went, or else what was measured first."""
    walks = []
    for group, judgement in some[:_MOST]:
        meanings = meanings_of([group])
        known = [name for name in metrics_of([group]) if meanings[name] != UNKNOWN]
        name = judgement.distance or next(iter(known or metrics_of([group])), None)
        if name is None:
            walks.append("nothing was")
            continue
        start, end = group.value(name, 1), group.value(name, group.generations)
        label = "" if judgement.distance else f"{name} went "
        walks.append(f"{label}from {start} to {end}")
    return _listed(walks) + ", …" * (len(some) > _MOST)


# numbers


def between(factor: Interval) -> str:
    """A factor with its bounds."""
    if math.isnan(factor.estimate):
        return "–" if factor.low <= 0 else f"at least ×{factor.low:.3g}"
    if not factor.low > -math.inf or (factor.low == 0 and factor.high == math.inf):
        return f"×{factor.estimate:.3g}"
    high = f"{factor.high:.3g}" if math.isfinite(factor.high) else "∞"
    return f"×{factor.estimate:.3g} [{factor.low:.3g}, {high}]"


def difference(by: Interval) -> str:
    """A difference with its bounds."""
    if math.isnan(by.estimate):
        return "–"
    bounds = f" [{by.low:+.3g}, {by.high:+.3g}]" if math.isfinite(by.low) else ""
    return f"{by.estimate:+.3g}{bounds}"


def growth(slope: Interval) -> str:
    """The slope of a log-distance a generation with its bounds, as percents."""
    if math.isnan(slope.estimate):
        return "–"
    estimate, low = (f"{math.expm1(log):+.1%}" for log in (slope.estimate, slope.low))
    high = f"{math.expm1(slope.high):+.1%}" if slope.high < 700 else "∞"
    return f"{estimate} [{low}, {high}]" if math.isfinite(slope.low) else estimate


def change(judgement: Judgement) -> str:
    """By how much the distance grew, with bounds: a factor, or a difference."""
    verdict = judgement.verdict
    grew = between(verdict.rise) if verdict.relative else difference(verdict.rise)
    return f"{grew}; {verdict.by} fell" if verdict.by else grew


def number(criterion: Criterion) -> str:
    """What a definition of collapse looks at; empty if it was not measured."""
    value = criterion.value
    if value is None:
        return ""
    known = math.isfinite(value.estimate)
    return f"{value.estimate:.3g}" if known else f"at least {value.low:.3g}"


def generation_left(judgement: Judgement, metric: str) -> str:
    """Since when the metric is off its floor: a dash if it is not, nothing if nobody asked."""
    departure = judgement.left.get(metric)
    return "" if departure is None else str(departure.generation or "–")


def sources(judgement: Judgement) -> str:
    """Whose chance its bounds hold, and whose they do not."""
    of = judgement.verdict.sources
    if judgement.verdict.seeds == 1:
        return "± and claims are about this lineage's samples and reference, not about other seeds"
    if "split" in of:
        return (
            "bounds hold the chance of seeds, each with a reference, split and extractor of its own"
        )
    if "reference" in of:
        return (
            "bounds hold the chance of seeds and of the one reference; split and extractor are the "
            "same for all"
        )
    return "bounds hold the chance of seeds; reference, split and extractor are the same for all"
