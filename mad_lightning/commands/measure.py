"""mad measure: a lineage again, by other metrics; or two sets of samples, as JSON.

usage: mad measure LINEAGE [--extractor NAME] [--metrics NAME ...] [--name NAME] [--key.sub value]
       mad measure REAL SYNTHETIC [options]

Examples:
  mad measure runs/x --extractor lite0
  mad measure runs/x --metrics Kernel Memorisation
  mad measure real/ synthetic.zip --extractor lite0
  mad measure real/ synthetic/ --resolution 64 --channels 3 > values.json
  mad measure real.npz runs/x@3 --extractor pixels

LINEAGE is a lineage's directory. Its finished generations are measured again from what is on disk;
nothing is trained. The values stand in a ledger of their own, LINEAGE/measured/NAME, which mad
report and mad wandb take as any lineage. Run again, it goes on where it was stopped, and with
generations that were finished since. What is not said stays as it was; --key.sub is as for mad
train.

REAL and SYNTHETIC are folders or zips of pictures, arrays (.npy, .npz), a shard (.safetensors), or
LINEAGE@T, what generation T drew. What a lineage reports of every generation, for samples from
anywhere: precision, recall, density, coverage, Fréchet and kernel distance, with all that they
depend on. Both sides are measured at the same n, because these values change with it. Beside them
stands the floor: what as many other real samples score against the same reference, which takes 2n
of them. The two sides must be alike in size and colour, since a network tells small pictures from
large ones that were shrunk, and would measure that.

Options of a lineage:
  --extractor NAME   lite0, inception, vgg16, dinov2, pixels, or a class as mad train takes it
  --metrics NAME ... classes, e.g. Neighbours Kernel Frechet
  --name NAME        what the values are kept under (default: what is said of the other two)

Options of two sets:
  --extractor NAME   lite0 (default), inception, vgg16, dinov2, pixels, or identity (vectors)
  --weights PATH     file with the extractor's weights
  --download         fetch published weights that are not there
  --k N              neighbour that sets a ball's radius (default: 5)
  --n N              samples of each side (default: as many as the smaller has)
  --resolution PX    cut the centre out and resize it
  --channels 1|3     1 makes all grey, 3 all colour
  --filter NAME      of --resolution: lanczos (default), box, bilinear or bicubic
  --batch_size N     samples a pass (default: 64)
  --device NAME      cpu, cuda, cuda:1, ... (default: a GPU if any)
  --seed N           which samples are taken (default: 0)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mad_lightning.commands.explain import PlainParser
from mad_lightning.commands.export import drawn_by, finished
from mad_lightning.data.found import Found, FoundSamples, found
from mad_lightning.data.pictures import Filter, Framing
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.metrics.base import View
from mad_lightning.metrics.distances import Frechet, Kernel
from mad_lightning.metrics.evaluator import Evaluator
from mad_lightning.metrics.features.base import FeatureExtractor
from mad_lightning.metrics.features.dinov2 import DINOv2
from mad_lightning.metrics.features.inception import Inception
from mad_lightning.metrics.features.lite0 import Lite0
from mad_lightning.metrics.features.plain import Identity, Pixels
from mad_lightning.metrics.features.vgg16 import VGG16
from mad_lightning.metrics.neighbours import Neighbours
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec
from mad_lightning.seeds import permutation

__all__ = ["build_parser", "measure", "run"]

_FETCHED = {"inception": Inception, "vgg16": VGG16, "dinov2": DINOv2}
"""Extractors whose weights do not come with a package."""
_EXTRACTORS = {"lite0": Lite0, **_FETCHED, "pixels": Pixels, "identity": Identity}

Shape = tuple[int, ...]


def again_parser() -> PlainParser:
    """What may be said of a lineage."""
    parser = PlainParser("measure")
    parser.add_argument("--extractor")
    parser.add_argument("--metrics", nargs="+")
    parser.add_argument("--name")
    return parser


def build_parser() -> PlainParser:
    """All that may be said to the measure."""
    parser = again_parser()
    add = parser.add_argument
    add("real", metavar="REAL")
    add("synthetic", metavar="SYNTHETIC")
    add("--weights")
    add("--download", action="store_true")
    add("--k", type=int, default=5)
    add("--n", type=int)
    add("--resolution", type=int)
    add("--channels", type=int, choices=(1, 3))
    add("--filter", choices=get_args(Filter), default="lanczos")
    add("--batch_size", type=int, default=64)
    add("--device", default="auto")
    add("--seed", type=int, default=0)
    return parser


def run(args: Sequence[str]) -> None:
    """Measures what the arguments name; prints it, or enters it into a ledger."""
    if LineageDirectory(args[0]).has_ledger:
        return again(args)
    given = build_parser().parse_args(args)
    for name in ("metrics", "name"):
        if getattr(given, name) is not None:
            raise Refused(f"--{name}", "two sets of samples have none", "leave it out")
    for name in ("k", "batch_size", "resolution"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            raise Refused(f"--{name}", f"{getattr(given, name)}", "take at least 1")
    values = measure(
        given.real,
        given.synthetic,
        _extractor((given.extractor or "lite0").lower(), given.weights, given.download),
        Framing(given.resolution, given.channels, given.filter),
        given.k,
        given.n,
        given.batch_size,
        _device(given.device),
        given.seed,
    )
    return print(json.dumps(values, indent=2, ensure_ascii=False))


def again(args: Sequence[str]) -> None:
    """Measures the generations of a lineage again."""
    from mad_lightning.commands.train import build
    from mad_lightning.loop.again import MeasuredAgain

    parser = again_parser()
    parser.add_argument("lineage", metavar="LINEAGE", type=LineageDirectory)
    given, others = parser.parse_known_args(args)
    lineage: LineageDirectory = given.lineage
    if not lineage.config():
        problem = f"{lineage} has no {lineage.config_file.name}, which tells its data"
        raise Refused("LINEAGE", problem, "run the lineage's own command, which writes it anew")
    name = given.name or "-".join(["+".join(given.metrics or ()).lower(), given.extractor or ""])
    if not (name := name.strip("-")) or not re.fullmatch(r"[\w.+-]+", name):
        problem = "the values need a name" if not name else f"{name!r} names no directory"
        raise Refused("--name", problem, "give letters and digits, e.g. --name lite0")
    said = ["--lineage.root", str(lineage.measured_again), "--lineage.name", name]
    said += ["--lineage.generations", str(len(lineage.records())), "--callbacks", "[Console]"]
    if extractor := given.extractor:
        known = _EXTRACTORS.get(extractor.lower())
        said += ["--evaluator.extractor", known.__name__ if known else extractor]
    if given.metrics:
        said += ["--evaluator.metrics", json.dumps(given.metrics)]
    measured = ["--config", str(lineage.config_file), *said, *others]
    build(measured, partial(MeasuredAgain, lineage)).fit()


def measure(
    real: str,
    synthetic: str,
    extractor: FeatureExtractor,
    framing: Framing,
    k: int = 5,
    n: int | None = None,
    batch_size: int = 64,
    device: str = "cpu",
    seed: int = 0,
) -> dict[str, Any]:
    """Measures synthetic samples against real ones.

    Args:
        real: Folder or zip of real pictures, arrays, a shard, or ``LINEAGE@T``.
        synthetic: The others.
        extractor: Makes the features.
        framing: What the pictures of both sides are made into.
        k: Neighbour that sets the radius of a ball.
        n: Samples of each side; None takes as many as the smaller side has.
        batch_size: Samples that pass the network together.
        device: Where the network runs.
        seed: Decides which samples are taken where there are more.

    Returns:
        Values by name; ``floor``, the same values of other real samples, or None where there are
        fewer than 2n; counts, split and protocol. All of it is plain, as JSON wants it.

    Raises:
        Refused: If a side is missing, too small or cannot be read, if the sides are not alike, or
            if the extractor lacks its weights.
    """
    sides = {"REAL": _open("REAL", real, k, n), "SYNTHETIC": _open("SYNTHETIC", synthetic, k, n)}
    counts = {side: samples.count for side, samples in sides.items()}
    n = min(counts.values()) if n is None else n
    n_floor = n if counts["REAL"] >= 2 * n else 0
    taken = {"REAL": n + n_floor, "SYNTHETIC": n}
    rows = {side: permutation(counts[side], seed, "measure")[:m] for side, m in taken.items()}

    shape, streams = _alike(sides, {side: order.tolist() for side, order in rows.items()}, framing)
    with _told_as({"": "--extractor", "weights_path": "--weights"}):  # before samples are decoded
        extractor.prepare(_nothing, SampleSpec(shape), "", Path())
    extractor.to(device)
    features = {}
    for side, samples in streams.items():
        with _told_as({"root": side}):
            features[side] = _features(samples, extractor, batch_size, device)

    evaluator = Evaluator(extractor, [Neighbours(k), Frechet(), Kernel()])
    chosen = (features["REAL"][:n], features["REAL"][n:], features["SYNTHETIC"])
    reference, others, measured = (View(each, extractor.name) for each in chosen)
    return {
        **evaluator.compare(reference, measured),
        "floor": evaluator.compare(reference, others) if n_floor else None,
        "real": {"root": real, "samples": counts["REAL"], "reference": n, "floor": n_floor},
        "synthetic": {"root": synthetic, "samples": counts["SYNTHETIC"], "measured": n},
        "protocol": {
            **evaluator.protocol(n),
            "samples": _text(shape)
            + (f", centre cut, {framing.filter}" if framing.resolution else ", as stored"),
            "split": f"drawn without replacement, seed {seed}; "
            + ("the floor's after the reference's" if n_floor else f"a floor needs {2 * n} real"),
        },
    }


def _open(side: str, root: str, k: int, n: int | None) -> Found:
    """The samples of a side, each of which must have a k-th neighbour there."""
    with _told_as({"root": side, "lineage": side, "generation": side}):
        place = re.fullmatch(r"(.+)@(\d{1,9})", root)
        if place and not Path(root).exists():
            lineage = LineageDirectory(place[1])
            samples: Found = FoundSamples(
                drawn_by(lineage, finished(lineage, int(place[2]))).samples
            )
        else:
            samples = found(root)
        count = samples.count
    if n is not None and n <= k:
        raise Refused("--n", f"of {n} samples none has a {k}-th neighbour", f"take more than {k}")
    if count <= k:
        raise Refused(
            side, f"of {count} samples none has a {k}-th neighbour", f"give more than k = {k}"
        )
    if n is not None and count < n:
        raise Refused(side, f"{count} samples, where n = {n}", f"take --n {count} at most")
    return samples


def _alike(
    sides: Mapping[str, Found], rows: Mapping[str, Sequence[int]], framing: Framing
) -> tuple[Shape, dict[str, Iterator[NDArray[Any]]]]:
    """The shape of all samples, and each side's, decoded as they are asked for."""
    shapes, streams = {}, {}
    for side, samples in sides.items():
        with _told_as({"root": side}):
            shapes[side], streams[side] = samples.stream(rows[side], framing)
    if shapes["SYNTHETIC"] != shapes["REAL"]:
        ours, theirs = _text(shapes["SYNTHETIC"]), _text(shapes["REAL"])
        raise Refused(
            "SYNTHETIC",
            f"its samples are {ours}, the real ones {theirs}",
            "make them alike, e.g. --resolution 64 --channels 3"
            if len(shapes["REAL"]) == len(shapes["SYNTHETIC"]) == 3
            else "give two sets of one kind",
        )
    return shapes["REAL"], streams


def _features(
    samples: Iterator[NDArray[Any]], extractor: FeatureExtractor, batch_size: int, device: str
) -> Tensor:
    """Features (N, D) of samples that are decoded as they are needed."""
    features = []
    with torch.inference_mode():
        while batch := list(islice(samples, batch_size)):
            values = torch.from_numpy(np.stack(batch)).to(device)
            features.append(extractor(Samples(values)).cpu())
    return torch.cat(features)


def _text(shape: Shape) -> str:
    if len(shape) != 3:
        return f"vectors of {shape[0]}"
    channels, height, width = shape
    return f"{width} x {height} px {'in colour' if channels == 3 else 'grey'}"


def _nothing() -> Any:
    raise AssertionError("no extractor here is trained")


@contextmanager
def _told_as(names: Mapping[str, str]) -> Iterator[None]:
    """Says where this door mounts the room that refuses inside.

    Args:
        names: This door's words for the room's parameters; others are flags of the same name.
    """

    def spell(name: str, value: str) -> str:
        value = value.removeprefix(":").strip()
        return name if value in ("", "true") else f"{name} {value}"

    try:
        yield
    except Refused as refused:
        mounted = refused.renamed(lambda name: names.get(name, f"--{name}"), spell)
        raise mounted from refused.__cause__


def _extractor(name: str, weights: str | None, download: bool) -> FeatureExtractor:
    """An extractor by its name."""
    if name not in _EXTRACTORS:
        raise Refused("--extractor", f"there is no {name}", f"choose {', '.join(_EXTRACTORS)}")
    if name in _FETCHED:
        return _FETCHED[name](weights_path=weights, download=download)
    if download:
        raise Refused("--download", f"{name} has nothing to download", "leave it out")
    if name == "lite0":
        return Lite0(weights)
    if weights is not None:
        raise Refused("--weights", f"{name} has no weights", "leave it out")
    return _EXTRACTORS[name]()


def _device(name: str) -> str:
    """A device that is there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise Refused("--device", f"{name}: {reason}", "take cpu, or leave it out") from None
    return name
