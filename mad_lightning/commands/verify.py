"""mad verify: lineages' directories in, what on disk is not as their ledgers tell.

usage: mad verify DIRECTORY [DIRECTORY ...]

Examples:
  mad verify runs/digits_diffusion_full_synth_seed0
  mad verify runs/*

Every finished generation is read again: its mix, weights, shards, metrics, curves, picture and
times are compared with their digests and with the ledger, and the ledger's lines with each other;
so are configuration, floor and notes. Nothing is changed. Ends with exit code 2 if anything is not
what was written.
"""

from __future__ import annotations

from collections.abc import Sequence

from mad_lightning.commands.explain import PlainParser
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.loop.verifying import damage, damage_of_whole
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
    for path in build_parser().parse_args(args).lineages:
        lineage = LineageDirectory(path)
        records = lineage.records()
        if not records:
            raise Refused(path, "no generation is finished", "give lineages' directories")
        for line in damage_of_whole(lineage):
            wrong.append(line)
            print(f"{path}: {line}")
        for record in records:
            words = list(damage(lineage, record))
            wrong += words
            of = f" of {record.branched_from['name']}" if record.branched_from else ""
            print(f"{path} generation {record.generation}{of}: {'; '.join(words) or 'as told'}")
    if wrong:
        raise Refused(
            "lineages",
            f"{len(wrong)} artefacts are not what was written, the first: {wrong[0]}",
            "bring them back from a copy; what a later generation still needs of a shard is drawn "
            "again from its generator's weights when the lineage goes on",
        )
