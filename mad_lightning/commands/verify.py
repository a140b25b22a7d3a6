"""mad verify: lineages' directories in, what on disk is not as their ledgers tell.

usage: mad verify DIRECTORY [DIRECTORY ...]

Examples:
  mad verify runs/digits_diffusion_full_synth_seed0
  mad verify runs/*

Every finished generation is read again: its mix, weights, shards, metrics, curves, picture and
times are compared with their digests and with the ledger, and the ledger's lines with each other;
so are configuration, floor and notes. Samples that were evicted (--lineage.keep) are not missed.
Nothing is changed. Ends with exit code 2 if anything is not what was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mad_lightning.commands.explain import PlainParser
from mad_lightning.lineage.directory import LineageDirectory, finished_among
from mad_lightning.loop.verifying import damage, damage_of_whole, evicted
from mad_lightning.policies import shard_name
from mad_lightning.refusal import Refused

__all__ = ["build_parser", "run"]


def build_parser() -> PlainParser:
    """All that may be said to it."""
    parser = PlainParser("verify")
    parser.add_argument("lineages", nargs="+", metavar="DIRECTORY")
    return parser


def run(args: Sequence[str]) -> None:
    """Reads lineages, and tells what is wrong with them."""
    wrong: list[str] = []
    for lineage in finished_among(build_parser().parse_args(args).lineages):
        for told, words in looked_at(lineage):
            wrong += words
            print(f"{lineage}{told}: {'; '.join(words) or 'as told'}")
        if gone := evicted(lineage, drawn(lineage)):
            again = f"mad train --config {lineage.config_file} --lineage.keep all"
            print(f"{lineage}: {gone}; drawn again by: {again}")
    if wrong:
        raise Refused(
            "lineages",
            f"{len(wrong)} artefacts are not what was written, the first: {wrong[0]}",
            "bring them back from a copy; what a later generation still needs of a shard is drawn "
            "again from its generator's weights when the lineage goes on",
        )


def drawn(lineage: LineageDirectory) -> list[str]:
    """Names of the shards that the generators of a lineage drew."""
    try:
        records = lineage.records()
    except Refused:  # it was told already
        return []
    return [record.drawn or shard_name(record.generation) for record in records]


def looked_at(lineage: LineageDirectory) -> Iterator[tuple[str, list[str]]]:
    """Of a lineage and of each of its generations: which it is, and all that is wrong with it."""
    try:
        records = lineage.records()
    except Refused as refused:
        yield "", [f"{refused.field}: {refused.problem}"]
        return
    if words := list(damage_of_whole(lineage)):
        yield "", words
    for record in records:
        of = f" of {record.branched_from['name']}" if record.branched_from else ""
        yield f" generation {record.generation}{of}", list(damage(lineage, record))
