"""The measure: what one set of pictures lacks of another.

    python -m mad_lightning.measure real/ synthetic.zip --extractor lite0

What a lineage reports of every generation, for pictures from anywhere: precision, recall, density,
coverage, Fréchet and kernel distance, as JSON, with all that they depend on. Both sides are
measured at the same n, because these values change with it. Beside them stands the *floor*: what as
many other real pictures score against the same reference, which takes 2n of them.

Pictures are read by the rules of the source ``Images``: mixed sizes are refused until a resolution
is named. The two sides must be alike in size and colour, since a network tells small pictures from
large ones that were shrunk, and would measure that.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mad_lightning.refusal import Refused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from mad_lightning.data.pictures import Framing
    from mad_lightning.metrics.features import FeatureExtractor

__all__ = ["main", "measure"]

EXTRACTORS = ("lite0", "inception", "vgg16", "dinov2", "pixels")
FILTERS = ("lanczos", "box", "bilinear", "bicubic")


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
    from mad_lightning.data.pictures import Pictures, stream
    from mad_lightning.metrics import Evaluator, Frechet, Kernel, Neighbours
    from mad_lightning.samples import SampleSpec
    from mad_lightning.seeds import permutation

    sides = {}
    for side, root in (("REAL", real), ("SYNTHETIC", synthetic)):
        with _said_of(side):
            sides[side] = Pictures.at(root)
            _check_count(side, len(sides[side].names), k, n)
    counts = {side: len(pictures.names) for side, pictures in sides.items()}
    n = min(counts.values()) if n is None else n
    n_floor = n if counts["REAL"] >= 2 * n else 0
    for side, pictures in sides.items():
        taken = n + (n_floor if side == "REAL" else 0)
        order = permutation(len(pictures.names), seed, "measure")[:taken]
        pictures.names = [pictures.names[place] for place in order]

    streams, shapes = {}, {}
    for side, pictures in sides.items():
        with _said_of(side):
            shapes[side], streams[side] = stream(pictures, framing, "measuring")
    shape = shapes["REAL"]
    if shapes["SYNTHETIC"] != shape:
        raise Refused(
            "SYNTHETIC",
            f"its pictures are {_text(shapes['SYNTHETIC'])}, the real ones {_text(shape)}",
            "make them alike, e.g. --resolution 64 --channels 3",
        )
    features: dict[str, Tensor] = {}
    for side, pixels in streams.items():
        with _said_of(side):
            if not features:  # once, and before any picture is decoded
                extractor.prepare(_nothing, SampleSpec(shape), "", Path())
                extractor.to(device)
            features[side] = _features(pixels, extractor, batch_size, device)

    evaluator = Evaluator(extractor, [Neighbours(k), Frechet(), Kernel()])
    reference, others = features["REAL"][:n], features["REAL"][n:]
    return {
        **evaluator.compare(reference, features["SYNTHETIC"]),
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


def _check_count(side: str, count: int, k: int, n: int | None) -> None:
    """Every picture needs a k-th neighbour on its own side."""
    if n is not None and n <= k:
        raise Refused("--n", f"of {n} pictures none has a {k}-th neighbour", f"take more than {k}")
    if count <= k:
        raise Refused(
            side, f"of {count} pictures none has a {k}-th neighbour", f"give more than k = {k}"
        )
    if n is not None and count < n:
        raise Refused(side, f"{count} pictures, where n = {n}", f"take --n {count} at most")


def _nothing() -> Any:
    raise AssertionError("no extractor here is trained")


def _features(
    pixels: Iterator[NDArray[np.uint8]], extractor: FeatureExtractor, batch_size: int, device: str
) -> Tensor:
    """Features (N, D) of pictures that are decoded as they are needed."""
    import numpy as np
    import torch

    from mad_lightning.samples import Samples

    features = []
    with torch.inference_mode():
        while batch := list(islice(pixels, batch_size)):
            images = torch.from_numpy(np.stack(batch)).to(device)
            features.append(extractor(Samples(images)).cpu())
    return torch.cat(features)


def _text(shape: tuple[int, int, int]) -> str:
    channels, height, width = shape
    return f"{width} x {height} px {'in colour' if channels == 3 else 'grey'}"


@contextmanager
def _said_of(side: str) -> Iterator[None]:
    """Says what a lineage's rooms refuse in the words of this door."""
    try:
        yield
    except Refused as refused:
        raise Refused(
            side if refused.field == "data.source.root" else _here(refused.field),
            refused.problem,
            "\n".join(
                _here(line) for line in refused.remedy.splitlines() if "Classifier" not in line
            ),
        ) from None


def _here(text: str) -> str:
    """Flags of this door instead of a lineage's fields."""
    for theirs, ours in (
        ("--data.source.root ", ""),
        ("--data.source.", "--"),
        ("data.source.", "--"),
        ("--evaluator.extractor.weights_path", "--weights"),
        ("evaluator.extractor.weights_path", "--weights"),
        ("--evaluator.extractor.download true", "--download"),
        ("--evaluator.extractor", "--extractor"),
        ("evaluator.extractor", "--extractor"),
    ):
        text = text.replace(theirs, ours)
    return text


# the door


def _build(name: str, weights: str | None, download: bool) -> FeatureExtractor:
    from mad_lightning.metrics.features import VGG16, DINOv2, Inception, Lite0, Pixels

    if name in ("lite0", "pixels") and download:
        raise Refused("--download", f"{name} has nothing to download", "leave it out")
    if name == "pixels":
        if weights is not None:
            raise Refused("--weights", "pixels has no weights", "leave it out")
        return Pixels()
    if name == "lite0":
        return Lite0(weights)
    kinds = {"inception": Inception, "vgg16": VGG16, "dinov2": DINOv2}
    return kinds[name](weights_path=weights, download=download)


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; exits with code 2 if the input was refused."""
    parser = argparse.ArgumentParser(
        prog="python -m mad_lightning.measure",
        description="Measures synthetic pictures against real ones and prints JSON.",
    )
    add = parser.add_argument
    add("real", metavar="REAL", help="folder or zip of real pictures")
    add("synthetic", metavar="SYNTHETIC", help="folder or zip of pictures to measure")
    add("--extractor", type=str.lower, choices=EXTRACTORS, default="lite0", help="default: lite0")
    add("--weights", metavar="PATH", help="file with the extractor's weights")
    add("--download", action="store_true", help="fetch published weights that are not there")
    add("--k", type=int, default=5, help="neighbour that sets a ball's radius (default: 5)")
    add("--n", type=int, help="pictures of each side (default: as many as the smaller has)")
    add("--resolution", type=int, metavar="PX", help="cut the centre out and resize it")
    add("--channels", type=int, choices=(1, 3), help="1 makes all grey, 3 all colour")
    add("--filter", choices=FILTERS, default="lanczos", help="of --resolution (default: lanczos)")
    add("--batch_size", type=int, default=64, help="pictures a pass (default: 64)")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU if any)")
    add("--seed", type=int, default=0, help="which pictures are taken (default: 0)")
    given = parser.parse_args(args)
    try:
        for name in ("k", "batch_size", "resolution"):
            if getattr(given, name) is not None and getattr(given, name) < 1:
                raise Refused(f"--{name}", f"{getattr(given, name)}", "take at least 1")
        from mad_lightning.data.pictures import Framing

        values = measure(
            given.real,
            given.synthetic,
            _build(given.extractor, given.weights, given.download),
            Framing(given.resolution, given.channels, given.filter),
            given.k,
            given.n,
            given.batch_size,
            _device(given.device),
            given.seed,
        )
    except Refused as refused:
        print(f"error: {refused}", file=sys.stderr)
        raise SystemExit(2) from None
    print(json.dumps(values, indent=2, ensure_ascii=False))


def _device(name: str) -> str:
    """A device that is there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise Refused("--device", f"{name}: {reason}", "take cpu, or leave it out") from None
    return name


if __name__ == "__main__":
    main()
