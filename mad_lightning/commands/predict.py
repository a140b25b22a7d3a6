"""mad predict: how much fresh data a loop will need, from lineages that had none.

usage: mad predict LINEAGE LINEAGE ... [options]

Examples:
  mad predict runs/digits_glow_full_synth_seed*
  mad predict runs/x_seed* --metric kd_classifier --margin 1

LINEAGEs are seeds of one fully synthetic loop, four at least and better eight, of three generations
and as many samples in each. Their generators draw new samples, which nobody was trained on, and
products of errors within and between lineages tell what of an error the next generation inherits.
From that follows where a fresh data loop would settle for any share of real data; it is not run.
What the same numbers speak against is not predicted, and why is said (exit code 1).

Options:
  --metric NAME     a kernel or Fréchet distance (default: that which lineages are judged by)
  --width H         of a Gaussian kernel, in units of the features, in place of the metric's own
  --margin M        the limit may lie so far above generation 1's distance, in parts of it
                    (default: 0.25)
  --draws N         new samples of each generator (default: as many as it was trained on, at least
                    1,000)
  --generations T   use the first T (default: 3); more look farther and are farther from linear
  --json PATH       all numbers, for programs
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mad_lightning.commands.explain import PlainParser
from mad_lightning.files import write_json
from mad_lightning.lineage.quantities import distance_name
from mad_lightning.loop.meta_trainer import MetaTrainer
from mad_lightning.loop.probing import probe, reference
from mad_lightning.metrics.products import Products, frechet_products, kernel_products
from mad_lightning.refusal import Refused, check_within
from mad_lightning.report.answers import subject
from mad_lightning.report.groups import Group, load, meanings_of
from mad_lightning.verdict.prediction import (
    LEAST_GENERATIONS,
    LEAST_LINEAGES,
    Prediction,
    predict,
)

__all__ = ["build_parser", "run"]

_MOST = 4000
"""Samples of the reference that are looked at."""
_CHECKED = 8, 2
"""Generations and seeds of the run that would check a prediction."""


def build_parser() -> PlainParser:
    """All that may be said to it."""
    parser = PlainParser("predict")
    add = parser.add_argument
    add("lineages", nargs="+", metavar="LINEAGE")
    add("--metric", metavar="NAME")
    add("--width", type=float, metavar="H")
    add("--margin", type=float, default=0.25, metavar="M")
    add("--draws", type=int, metavar="N")
    add("--generations", type=int, default=LEAST_GENERATIONS, metavar="T")
    add("--json", type=Path, metavar="PATH")
    return parser


def run(args: Sequence[str]) -> None:
    """Predicts, or says why it cannot be predicted."""
    given = build_parser().parse_args(args)
    try:
        check_within("(0, 1000)", "e.g. 0.25", margin=given.margin)
        check_within("(0, inf)", "as wide as the finest that matters", width=given.width)
        check_within("[50, 1000000]", "e.g. 1000", draws=given.draws)
        check_within("[3, 20]", "3 are usual", generations=given.generations)
    except Refused as refused:
        raise refused.renamed(lambda name: f"--{name}") from None
    group = _checked(load(given.lineages), given.generations)
    n = _size(group, given.generations)
    metric = _metric(group, given.metric, given.width)
    told = products(group, metric, given.generations, given.draws or max(n, 1000), given.width)
    seeds, t = len(group.lineages), given.generations
    shaped = [np.asarray(each).reshape(t, seeds, t, seeds) for each in (told.all, *told.without)]
    prediction = predict(shaped[0], margin=given.margin, without=shaped[1:])
    print("\n".join(words(prediction, group, metric, n)))
    if given.json:
        write_json(given.json, asdict(prediction) | {"metric": metric, "n": n}, seal=False)
    if prediction.reasons:
        raise SystemExit(1)


def products(
    group: Group, metric: str, generations: int, n: int, width: float | None = None
) -> Products:
    """Products of the errors of all generators, generation by generation."""
    metas = [_meta(lineage.directory.path) for lineage in group.lineages]
    for meta in metas[:1]:
        meta.measuring.prepare()
    for meta in metas[1:]:
        meta.evaluator, meta.measuring.evaluator = metas[0].evaluator, metas[0].evaluator
    sets = [probe(meta, t, n) for t in range(1, generations + 1) for meta in metas]
    real = reference(metas[0], _MOST)
    if width is None and (metric.startswith("fd_") or metric in ("fid", "w2_squared")):
        law = metas[0].real.law if metas[0].evaluator.extractor.name == "identity" else None
        return frechet_products(sets, real, law)
    return kernel_products(sets, real, width)


def _meta(path: Path) -> MetaTrainer:
    """A lineage as its directory has it, wherever that lies now."""
    from mad_lightning.commands.train import build
    from mad_lightning.lineage.directory import LineageDirectory

    directory = LineageDirectory(path)
    if not directory.config():
        problem = f"{directory} has no {directory.config_file.name}, which tells its data"
        raise Refused("LINEAGE", problem, "run the lineage's own command, which writes it anew")
    place = [f"--lineage.root={path.resolve().parent}", f"--lineage.name={path.resolve().name}"]
    return build([f"--config={directory.config_file}", *place, "--callbacks=[Console]"])


# what can be asked


def _checked(groups: Sequence[Group], generations: int) -> Group:
    """Seeds of one fully synthetic loop.

    Raises:
        Refused: If they are not.
    """
    if len(groups) > 1:
        problem = f"{len(groups)} kinds: {', '.join(group.name for group in groups[:4])}"
        raise Refused("LINEAGE", problem, "give lineages that differ in the seed alone")
    (group,) = groups
    have = f"{len(group.lineages)} of {group.generations} generations"
    if len(group.lineages) < LEAST_LINEAGES or group.generations < generations:
        remedy = f"give at least {LEAST_LINEAGES} seeds of {generations}; 8 are better"
        raise Refused("LINEAGE", have, remedy)
    record = group.lineages[0].records[1]
    ages = record.ages or {1: record.n_synthetic}
    if not group.closed or {*ages} != {1}:
        problem = f"{record.policy}: not fully synthetic, each generation from the one before"
        raise Refused("LINEAGE", problem, "train FullySynthetic on the last generation's samples")
    if len({r.sampling_bias for r in group.lineages[0].records[:generations]}) > 1:
        raise Refused("LINEAGE", "λ changes with the generation", "train with one λ")
    if any(r.published not in ("", r.drawn) for r in group.lineages[0].records):
        raise Refused("LINEAGE", "a treatment changed what was drawn", "train without one")
    if group.lineages[0].records[0].protocol.get("split_seed") == "own":
        problem = "each seed has a reference of its own"
        raise Refused("LINEAGE", problem, "train them with one split, `data.split_seed 0`")
    return group


def _size(group: Group, generations: int) -> int:
    """Samples that each generation was trained on."""
    records = [r for lineage in group.lineages for r in lineage.records[:generations]]
    sizes = {r.n_real + r.n_fresh + r.n_synthetic for r in records}
    if len(sizes) > 1:
        problem = f"trained on {' and '.join(map(str, sorted(sizes)))} samples"
        remedy = "train all generations on as many: n_initial = n_synthetic"
        raise Refused("LINEAGE", problem, remedy)
    return sizes.pop()


def _metric(group: Group, asked: str | None, width: float | None) -> str:
    known = meanings_of([group])
    metric = asked or distance_name(known)
    if width is not None:
        return f"kernel distance of width {width:g}"
    if asked is not None and asked not in known:
        raise Refused("--metric", f"no ledger has {asked}", f"choose from {', '.join(known)}")
    if metric is None or not metric.startswith(("kd_", "kid", "fd_", "fid", "w2_squared")):
        problem = f"{metric or 'no distance'} is no squared length in which mixing is linear"
        raise Refused("--metric", problem, "choose a kernel or a Fréchet distance, or --width")
    return metric


# in words


def words(told: Prediction, group: Group, metric: str, n: int) -> Iterator[str]:
    """What is predicted, what it rests on, and how to check it."""
    of = subject(group)
    bias = group.lineages[0].records[0].sampling_bias
    if metric == "w2_squared" and bias < 1.0:
        metric = "Fréchet distance of what is drawn"
    if told.reasons:
        yield f"Cannot predict how much fresh data {of or 'this loop'} needs to keep {metric}:"
        yield from (f"- {reason}." for reason in told.reasons)
        yield "Run the loop at several shares instead: mad sweep."
        return
    share, low, high = (100.0 * each for each in (told.share, told.low, told.high))
    yield (
        f"With {n:,} samples a generation{' of ' if of else ''}{of}, a fresh data loop is "
        f"predicted to settle within {100 * told.margin:g} % of generation 1's {metric} if at "
        f"least {share:.0f} % [{low:.0f}, {high:.0f}] of them are fresh real data (95 %)."
    )
    law = told.law
    yield (
        f"From {told.lineages} fully synthetic lineages of {len(told.distances)} generations; the "
        f"loop itself was not run. {law.shared / law.first:.0%} of generation 1's distance is the "
        f"same in all seeds, of which a fit passes on {law.shared_kept:.2f}, and of the rest "
        f"{law.own_kept:.2f}; by generation {len(told.distances)} the distance is "
        f"{told.distances[-1] / law.first:.2g} times as large."
    )
    yield (
        "Assumed: errors are small enough to add up linearly, and one number tells what of them is "
        f"passed on. Generation 3 is {told.third:.2f} times what generations 1 and 2 imply, χ² of "
        f"the fit {told.misfit:.1f}; lineages differ in {told.directions:.3g} directions."
    )
    yield "To check it, run the loop there, and compare with generation 1 (mad report):"
    yield from (check_command(group, n, told.share, seed) for seed in range(_CHECKED[1]))


def check_command(group: Group, n: int, share: float, seed: int) -> str:
    """The command that trains the fresh data loop at a share."""
    directory = group.lineages[0].directory
    n_fresh = min(max(round(share * n), 1), n)
    name = f"{directory.name.partition('_seed')[0]}_check{n_fresh}_seed{seed}"
    counts = {"n_initial": n, "n_fresh": n_fresh, "n_synthetic": n - n_fresh}
    return shlex.join(
        [
            *("mad", "train", "--config", str(directory.config_file)),
            *("--seed_everything", str(seed), "--policy", "FreshData"),
            *(text for key, count in counts.items() for text in (f"--policy.{key}", str(count))),
            *("--lineage.generations", str(_CHECKED[0]), "--lineage.name", name),
        ]
    )
