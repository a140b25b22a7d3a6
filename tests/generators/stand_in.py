"""Somebody else's trainer, which knows nothing of this package: mean and spread of each pixel.

Not a test module; see ``test_external.py``. It starts in a twentieth of a second, without numpy
unless it reads or writes arrays.
"""

import argparse
import io
import json
import os
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from PIL import Image


def read(data):
    """Shape (H, W, C) or (D,), values of each sample in a row, and classes; in any order."""
    if data.suffix == ".npz":
        import numpy as np

        arrays = np.load(data)
        values = arrays["values"]
        labels = arrays["labels"].tolist() if "labels" in arrays else [0] * len(values)
        values = values.transpose(0, 2, 3, 1) if values.ndim == 4 else values
        return values.shape[1:], values.reshape(len(values), -1).tolist(), labels
    if data.suffix == ".zip":
        archive = zipfile.ZipFile(data)
        told = json.loads(archive.read("dataset.json"))["labels"]
        names = [name for name in archive.namelist() if name.endswith(".png")]
        files = [io.BytesIO(archive.read(name)) for name in names]
        labels = [dict(told)[name] if told else 0 for name in names]
    else:
        files = sorted(data.rglob("*.png"))
        labels = [0 if path.parent == data else int(path.parent.name[:4]) for path in files]
    images = [Image.open(file) for file in files]
    shape = (*images[0].size[::-1], len(images[0].getbands()))
    return shape, [image.tobytes() for image in images], labels


def train(given):
    shape, rows, labels = read(Path(given.data))
    moments = []
    for k in range(max(labels) + 1):
        mine = [row for row, label in zip(rows, labels, strict=True) if label == k]
        # Pixels are whole numbers, and their sums depend on no order.
        n = max(1, len(mine))  # a class may have none
        means = [sum(pixel) / n for pixel in zip(*mine, strict=True)]
        squares = [sum(x * x for x in pixel) / n for pixel in zip(*mine, strict=True)]
        spreads = [max(s - m * m, 0) ** 0.5 for s, m in zip(squares, means, strict=True)]
        moments.append([means, spreads])
    out = Path(given.out) / "nets"
    out.mkdir()
    (out / f"net-{given.seed}.json").write_text(json.dumps([list(shape), moments]))
    (out / "net-0.json").write_text("an older snapshot")
    (Path(given.out) / "log.txt").write_text(str(time.time()))


def draw(given):
    net = Path(given.out) if given.out.endswith(".json") else newest(given.out)
    shape, moments = json.loads(net.read_text())
    listed = Path(given.seeds_file).read_text() if given.seeds_file else given.seeds
    seeds = [int(seed) for seed in listed.replace("\n", ",").strip(",").split(",")]
    labels = list(map(int, given.labels.split(","))) if given.labels else [given.label] * len(seeds)
    rng, values = random.Random(1), []
    for seed, k in zip(seeds, labels, strict=True):
        if given.fault != "batch":
            rng = random.Random(seed)
        root = given.bias**0.5
        values.append([m + root * s * rng.gauss(0, 1) for m, s in zip(*moments[k], strict=True)])
    write(shape, values[: -1 if given.fault == "few" else None], seeds, given)


def write(shape, values, seeds, given):
    place = Path(given.samples)
    if len(shape) == 3:
        values = [bytes(min(255, max(0, round(x))) for x in row) for row in values]
    if given.names == "npz":
        import numpy as np

        rows = np.stack([np.frombuffer(v, "uint8") if len(shape) == 3 else v for v in values])
        np.savez(f"{place}.npz", rows.reshape(-1, *shape))
        return
    height, width, channels = shape
    for at, (seed, pixels) in enumerate(zip(seeds, values, strict=False)):
        name = place / (f"seed{seed}.png" if given.names == "seed" else f"{at}.png")
        image = Image.frombytes("L" if channels == 1 else "RGB", (width, height), pixels)
        (image.resize((5, 5)) if given.fault == "size" else image).save(name)
        if given.fault == "torn":
            name.write_bytes(name.read_bytes()[:60])


def newest(out):
    return max(Path(out).rglob("net-*.json"), key=lambda path: int(path.stem[4:]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("verb")
    for name in ("data", "out", "seeds", "seeds-file", "labels", "samples"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--label", type=int, default=0)
    parser.add_argument("--bias", type=float, default=1.0)
    parser.add_argument("--names", default="place")
    parser.add_argument("--fault", default="")
    given = parser.parse_args()
    given.fault = given.fault or os.environ.get(f"STAND_IN_{given.verb.upper()}", "")
    print("working", *sys.argv[1:3], f"`{given.fault}`")
    if given.fault == "exit":
        sys.exit("no memory left")
    if given.fault == "kill":
        os.kill(os.getpid(), 9)
    if given.fault == "slow":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print(f"pids {os.getpid()} {child.pid}", flush=True)
        time.sleep(60)
    if given.fault != "silent":
        {"train": train, "draw": draw}[given.verb](given)


if __name__ == "__main__":
    main()
