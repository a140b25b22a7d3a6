"""mad export: a generation's samples as common files, or its generator as a diffusers pipeline.

usage: mad export LINEAGE --to KIND [--generation T] [--out PATH]

Examples:
  mad export runs/x --to folder
  mad export runs/x --generation 3 --to diffusers --out my_model

  folder      a PNG a sample, a folder a class (ImageFolder)
  zip         as StyleGAN's dataset_tool.py writes it, classes in dataset.json
  npz         arrays values and labels; images (N, C, H, W) or vectors (N, D)
  parquet     a row a sample, as datasets.load_dataset("parquet", ...) reads it
  files       what the program of an External generator has left, as it left it
  diffusers   the generator, loaded by DiffusionPipeline.from_pretrained(PATH,
              trust_remote_code=True), which draws the same image from the same noise

Options:
  --to KIND          folder, zip, npz, parquet, files or diffusers
  --generation T     which one (default: the last finished)
  --out PATH         where to (default: the lineage's name and the generation, here)

A card in Markdown goes along: how much of what the generation was trained on is synthetic, its
ancestry, its values. In Python, mad_lightning.load("runs/x", 3) is the generator, ready to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mad_lightning import __version__
from mad_lightning.callbacks.console import say
from mad_lightning.commands.explain import PlainParser
from mad_lightning.data.shards import Shard
from mad_lightning.exchange import write_archive, write_arrays, write_folder, write_parquet
from mad_lightning.files import appearing, folder_appearing
from mad_lightning.generators.base import Generator
from mad_lightning.generators.diffusion import Diffusion
from mad_lightning.generators.external import External
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.lineage.ledger import GenerationRecord
from mad_lightning.loop.checkpoints import load_told
from mad_lightning.loop.improving import load_improved
from mad_lightning.loop.verifying import evicted
from mad_lightning.policies import shard_name
from mad_lightning.refusal import Refused, at
from mad_lightning.samples import SampleSpec

__all__ = ["build_parser", "card", "drawn_by", "finished", "load", "run"]

_ENDINGS = {
    "folder": "",
    "zip": ".zip",
    "npz": ".npz",
    "parquet": ".parquet",
    "files": "-files",
    "diffusers": "-diffusers",
}


def build_parser() -> PlainParser:
    """All that may be said to it."""
    parser = PlainParser("export")
    add = parser.add_argument
    add("lineage", metavar="LINEAGE")
    add("--to", choices=tuple(_ENDINGS), required=True)
    add("--generation", type=int, metavar="T")
    add("--out", type=Path, metavar="PATH")
    return parser


def run(args: Sequence[str]) -> None:
    """Writes what was asked for, whole or not at all."""
    given = build_parser().parse_args(args)
    lineage = LineageDirectory(given.lineage)
    record = finished(lineage, given.generation)
    name = f"{lineage.name}-{record.generation:03d}"
    out = given.out or Path(f"{name}{_ENDINGS[given.to]}")
    is_file = given.to in ("zip", "npz", "parquet")
    beside = Path(f"{out}.md")
    for path in (out, *([beside] if is_file else [])):
        if path.exists():
            raise Refused("--out", f"{path} exists already", "name another, or take it away")
    text = card(lineage, record, given.to)
    if is_file:
        drawn = drawn_by(lineage, record)
        with appearing(out) as place, at("to"):
            if given.to == "parquet":
                write_parquet(drawn.samples, place, drawn.manifest.classes)
            else:
                {"zip": write_archive, "npz": write_arrays}[given.to](drawn.samples, place)
        beside.write_text(text, encoding="utf-8")
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        with folder_appearing(out) as place:
            if given.to == "folder":
                drawn = drawn_by(lineage, record)
                with at("to"):
                    write_folder(drawn.samples, place, drawn.manifest.classes)
            else:
                save = _save_files if given.to == "files" else _save_pipeline
                save(load(lineage.path, record.generation), place, record)
            (place / "README.md").write_text(text, encoding="utf-8")
    say(f"generation {record.generation} of {lineage}: {out}")


def load(lineage: Path | str, generation: int | None = None) -> Generator:
    """The generator of a finished generation, ready to draw.

    Args:
        lineage: A lineage's directory.
        generation: Which one; None takes the last.

    Returns:
        The generator, with the weights that the ledger tells of, on the CPU; its ``sample`` takes
        seeds (N,), λ and classes (N,).

    Raises:
        Refused: If there is no such generation, or its files are not what was written.
    """
    from mad_lightning.commands.train import LineageCLI

    directory = LineageDirectory(lineage)
    record = finished(directory, generation)
    if not directory.config():
        problem = f"{directory} has no {directory.config_file.name}, which tells its family"
        raise Refused("lineage", problem, "run the lineage's own command, which writes it anew")
    cli = LineageCLI(["--config", str(directory.config_file)])
    generator: Generator = cli.make("generator").build(_spec(directory, record))
    try:
        load_told(generator, directory.weights(record.generation), record.digests.get("generator"))
        if "auxiliary" in record.digests:
            load_improved(
                generator,
                lambda: cli.make("generator").build(generator.spec),
                cli.make("improve"),
                directory,
                record.generation,
                record.digests,
                record.sampling_bias,
            )
    except OSError as error:
        raise Refused("lineage", str(error), "bring it back from a copy") from None
    return generator.eval()


def card(lineage: LineageDirectory, record: GenerationRecord, kind: str = "folder") -> str:
    """What a stranger must know of what was exported, in Markdown."""
    t = record.generation
    lines = [
        "---",
        "tags: [synthetic, mad-lightning]",
        *(["library_name: diffusers"] if kind == "diffusers" else []),
        "---",
        f"# {lineage.name}, generation {t}",
        "",
        "Everything here is synthetic: "
        + ("a generator, whose samples were" if kind in ("diffusers", "files") else "samples")
        + f" drawn with sampling bias λ = {record.sampling_bias:g}.",
        f"It was trained on {_of(record)}.",
        *_ancestry(record),
        "",
        "| generation | trained on | λ | " + " | ".join(record.metrics) + " |",
        "| --- " * (3 + len(record.metrics)) + "|",
    ]  # fmt: skip
    for past in lineage.records()[:t]:
        values = (f"{past.metrics.get(name, float('nan')):.3g}" for name in record.metrics)
        cells = [str(past.generation), _of(past), f"{past.sampling_bias:g}", *values]
        lines.append(f"| {' | '.join(cells)} |")
    floor = (f"{record.floor.get(name, float('nan')):.3g}" for name in record.metrics)
    lines += [f"| real vs real | | | {' | '.join(floor)} |", ""]
    facts = {"policy": record.policy, "seed": record.seed, "start": record.start}
    names = Shard(lineage.shard(record.drawn or shard_name(t))).manifest.classes
    for title, told in (
        ("Lineage", facts),
        ("Classes", {f"{k}": name for k, name in enumerate(names)}),
        ("Sampler", record.sampler),
        ("Measured", record.protocol),
        ("SHA-256", record.digests),
        ("Made", {"time": record.time or "unknown", **record.environment}),
    ):
        if told:
            lines.append(f"- {title}: {', '.join(f'{key} = {told[key]}' for key in told)}")
    return "\n".join([*lines, f"- Exported by mad_lightning {__version__}", ""])


def _of(record: GenerationRecord) -> str:
    made = {"synthetic": record.n_synthetic, "external synthetic": record.n_external}
    counts = {"real": record.n_real, "fresh real": record.n_fresh, **made}
    told = " + ".join(f"{n} {what}" for what, n in counts.items() if n)
    return f"{told} samples ({sum(made.values()) / sum(counts.values()):.0%} synthetic)"


def _ancestry(record: GenerationRecord) -> list[str]:
    if not record.ages:
        return []
    told = (f"{n} from generation {record.generation - age}" for age, n in record.ages.items())
    return [f"Of the synthetic ones, {', '.join(told)}."]


def finished(lineage: LineageDirectory, t: int | None) -> GenerationRecord:
    """What the ledger tells of a generation."""
    if not lineage.has_ledger:
        raise Refused("lineage", f"{lineage} is no lineage", "name the directory of one")
    records = lineage.records()
    t = len(records) if t is None else t
    if not 1 <= t <= len(records):
        finished = f"{len(records)} are finished" if records else "none is finished"
        raise Refused("generation", f"{lineage} has no generation {t}: {finished}", "take another")
    return records[t - 1]


def drawn_by(lineage: LineageDirectory, record: GenerationRecord) -> Shard:
    """What it drew, as the ledger tells it."""
    name = record.drawn or shard_name(record.generation)
    shard = Shard(lineage.shard(name))
    if words := evicted(lineage, [name]):
        again = f"draw them again by mad train --config {lineage.config_file} --lineage.keep all"
        raise Refused("lineage", f"{lineage}: {words}", again)
    try:
        if shard.manifest.sha256 == record.digests.get("shard", shard.manifest.sha256):
            _ = shard.samples
            return shard
        problem = f"{shard.values_file} holds other samples than the ledger tells of"
    except OSError as error:
        problem = str(error)
    raise Refused("lineage", problem, "bring it back from a copy, or run the lineage's command")


def _spec(lineage: LineageDirectory, record: GenerationRecord) -> SampleSpec:
    """What it draws, which is known of samples that were evicted, too."""
    shard = Shard(lineage.shard(record.drawn or shard_name(record.generation)))
    return shard.spec if shard.is_evicted else drawn_by(lineage, record).spec


def _save_files(generator: Generator, place: Path, record: GenerationRecord) -> None:
    if not isinstance(generator, External):
        problem = f"no program has trained a {type(generator).__name__}"
        raise Refused("to", problem, "export its samples, or draw with mad_lightning.load")
    generator.lay_out(place)


def _save_pipeline(generator: Generator, place: Path, record: GenerationRecord) -> None:
    if not isinstance(generator, Diffusion):
        what = type(generator).__name__
        problem = f"diffusers has no pipeline for {what}"
        raise Refused("to", problem, "export its samples, or draw with mad_lightning.load")
    generator.save_pretrained(place, record.sampling_bias)
