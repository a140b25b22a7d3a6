"""mad measure: a lineage again, by other metrics; or two folders of pictures, as JSON.

usage: mad measure LINEAGE [--extractor NAME] [--metrics NAME ...] [--name NAME] [--key.sub value]
       mad measure REAL SYNTHETIC [options]

Examples:
  mad measure runs/x --extractor lite0
  mad measure runs/x --metrics Kernel Memorisation
  mad measure real/ synthetic.zip --extractor lite0
  mad measure real/ synthetic/ --resolution 64 --channels 3 > values.json

LINEAGE is a lineage's directory. Its finished generations are measured again from what is on disk;
nothing is trained. The values stand in a ledger of their own, LINEAGE/measured/NAME, which mad
report and mad wandb take as any lineage. Run again, it goes on where it was stopped, and with
generations that were finished since. What is not said stays as it was; --key.sub is as for mad
train.

REAL and SYNTHETIC are folders or zips of pictures. What a lineage reports of every generation, for
pictures from anywhere: precision, recall, density, coverage, Fréchet and kernel distance, with all
that they depend on. Both sides are measured at the same n, because these values change with it.
Beside them stands the floor: what as many other real pictures score against the same reference,
which takes 2n of them. The two sides must be alike in size and colour, since a network tells small
pictures from large ones that were shrunk, and would measure that.

Options of a lineage:
  --extractor NAME   lite0, inception, vgg16, dinov2, pixels, or a class as mad train takes it
  --metrics NAME ... classes, e.g. Neighbours Kernel Frechet
  --name NAME        what the values are kept under (default: what is said of the other two)

Options of two folders:
  --extractor NAME   lite0 (default), inception, vgg16, dinov2 or pixels
  --weights PATH     file with the extractor's weights
  --download         fetch published weights that are not there
  --k N              neighbour that sets a ball's radius (default: 5)
  --n N              pictures of each side (default: as many as the smaller has)
  --resolution PX    cut the centre out and resize it
  --channels 1|3     1 makes all grey, 3 all colour
  --filter NAME      of --resolution: lanczos (default), box, bilinear or bicubic
  --batch_size N     pictures a pass (default: 64)
  --device NAME      cpu, cuda, cuda:1, ... (default: a GPU if any)
  --seed N           which pictures are taken (default: 0)
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
from mad_lightning.data.pictures import Filter, Framing, Pictures, stream
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.metrics.base import View
from mad_lightning.metrics.distances import Frechet, Kernel
from mad_lightning.metrics.evaluator import Evaluator
from mad_lightning.metrics.features.base import FeatureExtractor
from mad_lightning.metrics.features.dinov2 import DINOv2
from mad_lightning.metrics.features.inception import Inception
from mad_lightning.metrics.features.lite0 import Lite0
from mad_lightning.metrics.features.plain import Pixels
from mad_lightning.metrics.features.vgg16 import VGG16
from mad_lightning.metrics.neighbours import Neighbours
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec
from mad_lightning.seeds import permutation

__all__ = ["build_parser", "measure", "run"]

_FETCHED = {"inception": Inception, "vgg16": VGG16, "dinov2": DINOv2}
"""Extractors whose weights do not come with a package."""
_EXTRACTORS = {"lite0": Lite0, **_FETCHED, "pixels": Pixels}

Shape = tuple[int, int, int]


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
            raise Refused(f"--{name}", "two folders have none", "leave it out")
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
    """Measures synthetic pictures against real ones.

    Args:
        real: Folder or zip of real pictures.
        synthetic: Folder or zip of the others.
        extractor: Makes the features.
        framing: What the pictures of both sides are made into.
        k: Neighbour that sets the radius of a ball.
        n: Pictures of each side; None takes as many as the smaller side has.
        batch_size: Pictures that pass the network together.
        device: Where the network runs.
        seed: Decides which pictures are taken where there are more.

    Returns:
        Values by name; ``floor``, the same values of other real pictures, or None where there are
        fewer than 2n; counts, split and protocol. All of it is plain, as JSON wants it.

    Raises:
        Refused: If a side is missing, too small or cannot be read, if the sides are not alike, or
            if the extractor lacks its weights.
    """
    sides = {"REAL": _open("REAL", real, k, n), "SYNTHETIC": _open("SYNTHETIC", synthetic, k, n)}
    counts = {side: len(pictures.names) for side, pictures in sides.items()}
    n = min(counts.values()) if n is None else n
    n_floor = n if counts["REAL"] >= 2 * n else 0
    for pictures, taken in zip(sides.values(), (n + n_floor, n), strict=True):
        order = permutation(len(pictures.names), seed, "measure")[:taken]
        pictures.names = [pictures.names[place] for place in order]

    shape, streams = _alike(sides, framing)
    with _told_as({"": "--extractor", "weights_path": "--weights"}):  # before pictures are decoded
        extractor.prepare(_nothing, SampleSpec(shape), "", Path())
    extractor.to(device)
    features = {}
    for side, pixels in streams.items():
        with _told_as({"root": side}):
            features[side] = _features(pixels, extractor, batch_size, device)

    evaluator = Evaluator(extractor, [Neighbours(k), Frechet(), Kernel()])
    rows = (features["REAL"][:n], features["REAL"][n:], features["SYNTHETIC"])
    reference, others, measured = (View(chosen, extractor.name) for chosen in rows)
    return {
        **evaluator.compare(reference, measured),
        "floor": evaluator.compare(reference, others) if n_floor else None,
        "real": {"root": real, "pictures": counts["REAL"], "reference": n, "floor": n_floor},
        "synthetic": {"root": synthetic, "pictures": counts["SYNTHETIC"], "measured": n},
        "protocol": {
            **evaluator.protocol(n),
            "pictures": _text(shape)
            + (f", centre cut, {framing.filter}" if framing.resolution else ", as stored"),
            "split": f"drawn without replacement, seed {seed}; "
            + ("the floor's after the reference's" if n_floor else f"a floor needs {2 * n} real"),
        },
    }


def _open(side: str, root: str, k: int, n: int | None) -> Pictures:
    """The pictures of a side, each of which must have a k-th neighbour there."""
    with _told_as({"root": side}):
        pictures = Pictures.at(root)
        count = len(pictures.names)
    if n is not None and n <= k:
        raise Refused("--n", f"of {n} pictures none has a {k}-th neighbour", f"take more than {k}")
    if count <= k:
        raise Refused(
            side, f"of {count} pictures none has a {k}-th neighbour", f"give more than k = {k}"
        )
    if n is not None and count < n:
        raise Refused(side, f"{count} pictures, where n = {n}", f"take --n {count} at most")
    return pictures


def _alike(
    sides: Mapping[str, Pictures], framing: Framing
) -> tuple[Shape, dict[str, Iterator[NDArray[np.uint8]]]]:
    """The shape of all pictures, and each side's pixels, decoded as they are asked for."""
    shapes, streams = {}, {}
    for side, pictures in sides.items():
        with _told_as({"root": side}):
            shapes[side], streams[side] = stream(pictures, framing, "measuring")
    if shapes["SYNTHETIC"] != shapes["REAL"]:
        ours, theirs = _text(shapes["SYNTHETIC"]), _text(shapes["REAL"])
        raise Refused(
            "SYNTHETIC",
            f"its pictures are {ours}, the real ones {theirs}",
            "make them alike, e.g. --resolution 64 --channels 3",
        )
    return shapes["REAL"], streams


def _features(
    pixels: Iterator[NDArray[np.uint8]], extractor: FeatureExtractor, batch_size: int, device: str
) -> Tensor:
    """Features (N, D) of pictures that are decoded as they are needed."""
    features = []
    with torch.inference_mode():
        while batch := list(islice(pixels, batch_size)):
            images = torch.from_numpy(np.stack(batch)).to(device)
            features.append(extractor(Samples(images)).cpu())
    return torch.cat(features)


def _text(shape: Shape) -> str:
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
        raise Refused("--weights", "pixels has no weights", "leave it out")
    return Pixels()


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
