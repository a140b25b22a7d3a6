"""Somebody else's trainer, which knows nothing of this package: mean and spread of each pixel.

Not a test module; see ``test_external.py``. It starts in a tenth of a second.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def read(data):
    """Values (N, ...) as floats, and classes, in any order."""
    if data.suffix == ".npz":
        arrays = np.load(data)
        values = arrays["values"]
        return values, arrays["labels"] if "labels" in arrays else np.zeros(len(values), int)
    if data.suffix == ".zip":
        archive = zipfile.ZipFile(data)
        labels = json.loads(archive.read("dataset.json"))["labels"]
        names = [name for name in archive.namelist() if name.endswith(".png")]
        files = [io.BytesIO(archive.read(name)) for name in names]
        labels = [dict(labels)[name] if labels else 0 for name in names]
    else:
        files = sorted(data.rglob("*.png"))
        labels = [0 if path.parent == data else int(path.parent.name[:4]) for path in files]
    pixels = [np.array(Image.open(file)) for file in files]
    return np.stack([p[None] if p.ndim == 2 else p.transpose(2, 0, 1) for p in pixels]), labels


def train(given):
    values, labels = read(Path(given.data))
    moments = np.zeros((max(labels) + 1, 2, *values.shape[1:]))
    for k in set(labels):
        # Whole numbers first: their sum depends on no order.
        mine = values[np.array(labels) == k]
        mine = mine.astype("int64") if values.dtype == np.uint8 else mine.astype("float64")
        mean = mine.sum(0) / len(mine)
        moments[k] = mean, ((mine**2).sum(0) / len(mine) - mean**2).clip(0) ** 0.5
    out = Path(given.out) / "nets"
    out.mkdir()
    np.save(out / f"net-{given.seed}.npy", moments)
    np.save(out / "net-9.npy", moments * 0)  # an older snapshot
    (Path(given.out) / "log.txt").write_text(str(time.time()))


def draw(given):
    moments = np.load(given.out if given.out.endswith(".npy") else newest(given.out))
    listed = Path(given.seeds_file).read_text() if given.seeds_file else given.seeds
    seeds = [int(seed) for seed in listed.replace("\n", ",").strip(",").split(",")]
    labels = list(map(int, given.labels.split(","))) if given.labels else [given.label] * len(seeds)
    rng, values = np.random.default_rng(1), []
    for seed, k in zip(seeds, labels, strict=True):
        if given.fault != "batch":
            rng = np.random.default_rng(seed)
        mean, spread = moments[k]
        values.append(mean + given.bias**0.5 * spread * rng.standard_normal(mean.shape))
    values = np.stack(values)
    if values.ndim == 4:
        values = values.clip(0, 255).round().astype("uint8")
    write(values[: -1 if given.fault == "few" else None], seeds, given)


def write(values, seeds, given):
    place = Path(given.samples)
    if given.names == "npz":
        np.savez(f"{place}.npz", values.transpose(0, 2, 3, 1) if values.ndim == 4 else values)
        return
    for at, (seed, image) in enumerate(zip(seeds, values, strict=False)):
        name = place / (f"seed{seed}.png" if given.names == "seed" else f"{at}.png")
        image = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        image = Image.fromarray(image)
        (image.resize((5, 5)) if given.fault == "size" else image).save(name)
        if given.fault == "torn":
            name.write_bytes(name.read_bytes()[:60])


def newest(out):
    return max(Path(out).rglob("net-*.npy"), key=lambda path: int(path.stem[4:]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("verb")
    for name in ("data", "out", "seeds", "seeds-file", "labels", "samples"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--seed", type=int, default=0)
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
