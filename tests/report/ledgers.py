"""Lineages as they lie on disk, made of nothing but numbers, and tables read back into them."""

import io

import numpy as np
from PIL import Image

from mad_lightning.lineage import GenerationRecord, LineageDirectory

PROTOCOL = {"n": 800, "extractor": "classifier", "weights": "833f", "k": 5}
FLOOR = {"precision": 0.971, "recall": 0.97, "fd_classifier": 4.56}
GENERATIONS = 6


def measured(loop, seed, t):
    """Falls, falls slower, stays; the seeds lie around it."""
    fall = {"full_synth": 1.0, "synth_aug": 0.4, "fresh": 0.0}[loop] * (t - 1) / (GENERATIONS - 1)
    noise = (seed - 1) * 0.004 * t
    return {
        "precision": 0.91 - 0.16 * fall + noise,
        "recall": 0.96 - 0.31 * fall - noise,
        "fd_classifier": 10 + 78 * fall + 100 * noise,
    }


def config(loop, seed):
    return {
        "seed_everything": seed,
        "lineage": {"name": f"{loop}-{seed}", "generations": GENERATIONS},
        "policy": {"class_path": loop},
        "data": {"source": {"class_path": "Digits"}, "cache": f"cache{seed}"},
        "callbacks": [{"class_path": "Console"}] * seed,
    }


def kept(path, records, plain=None, image=None):
    """A lineage of these records, with a configuration and pictures if there are any."""
    directory = LineageDirectory(path)
    directory.path.mkdir(parents=True)
    if plain:
        directory.keep_config(plain)
    for record in records:
        directory.ledger.append(record)
        if image:
            directory.generation(record.generation).mkdir()
            directory.picture(record.generation).write_bytes(image)
    return directory.path


def lineage(
    root, loop, seed, *, generations=GENERATIONS, protocol=PROTOCOL, metrics=measured, **more
):
    """One that eats nothing but what the generation before drew."""
    records = [
        GenerationRecord(
            t, loop, 9 * (t == 1), 0, 9 * (t > 1), 1.0, metrics(loop, seed, t),
            floor=more.get("floor", FLOOR), protocol=protocol, ages={1: 9} if t > 1 else {},
            quantities=more.get("quantities", {}), digests=more.get("digests", {}),
            errors=more["errors"](loop, seed, t) if "errors" in more else {},
            floor_errors=more.get("floor_errors", {}),
        )
        for t in range(1, generations + 1)
    ]  # fmt: skip
    plain = more.get("config", config(loop, seed))
    return kept(root / f"digits_diffusion_{loop}_seed{seed}", records, plain, more.get("picture"))


def fed(root, name, policy, trend, /, *, start="scratch", ages=True, **plain):
    """Three seeds of a loop with mixes of that policy, whose distance grows or follows a curve."""
    rng = np.random.default_rng(0)
    directories = []
    for seed in range(3):
        records = []
        for t in range(1, 13):
            mix = policy.mix(t)
            curve = trend(t) if callable(trend) else trend**t
            distance = curve * np.exp(0.01 * rng.normal())
            records.append(
                GenerationRecord(
                    t, policy.token, mix.n_real, mix.n_fresh, mix.n_synthetic, 1.0,
                    metrics={"recall": 0.9 - 0.1 * t, "fid": distance},
                    floor={"recall": 0.8, "fid": 0.1}, protocol=PROTOCOL,
                    start=start, ages=mix.ages() if ages else None, n_external=mix.n_external,
                )
            )  # fmt: skip
        told = {"seed_everything": seed, "policy": {"class_path": name}} | plain
        directories.append(kept(root / f"{name}_seed{seed}", records, told))
    return directories


def picture(width, height, mode="RGB"):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, "PNG")
    return file.getvalue()


def cells(text):
    """The first table of a text in Markdown, as {row: {column: cell}}."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in rows}) == 1
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


def section(text, head):
    """The table that begins with that cell."""
    return cells(next(part for part in text.split("\n\n") if part.startswith(f"| {head}")))
