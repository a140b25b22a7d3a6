"""Whether a spoilt file is ever used: one bit flipped, or the file cut in half.

    python benchmarks/flips.py                             # every kind of artefact, both ways
    python benchmarks/flips.py --seed 3 --only classifier

A lineage whose file was spoilt goes on by the same command, or with one generation more. What came
of it is compared with the same lineage left alone: its rows, and every file that it left. Each
trial is a row, the last line counts, and the program ends with 1 if a spoilt file was used or
answered by a traceback. Lineages run in forks of this program, which has imported everything once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "disabled"

DIFFUSION = [
    "--generator=Diffusion",
    "--generator.network=mad_lightning.nets.unet.UNet",
    "--generator.network.widths=[8]",
    "--generator.sampling_steps=3",
]
FAMILIES: dict[str, list[str]] = {
    "gaussian": ["--generator=Gaussian"],
    "gaussian of all": ["--generator=Gaussian", "--policy.synthetic_from=all"],
    "diffusion": DIFFUSION,
    "based": [*DIFFUSION, "--lineage.start=base", "--lineage.base=base.ckpt"],
    "wgan": ["--generator=WGAN"],
}
"""What a lineage is of, with the arguments that make it so."""


def arguments(family: str, pictures: Path, generations: int) -> list[str]:
    """A small lineage below the current directory: ``runs/x``, with ``cache`` beside it."""
    return [
        "train",
        f"--lineage.generations={generations}",
        "--lineage.root=runs",
        "--lineage.name=x",
        "--lineage.block_size=32",
        "--lineage.threads=1",
        "--lineage.n_grid=10",
        "--policy=FullySynthetic",
        "--policy.n_initial=60",
        "--data.source=Images",
        f"--data.source.root={pictures}",
        "--data.source.labels=true",
        "--data.n_reference=40",
        "--data.batch_size=20",
        "--data.cache=cache",
        "--evaluator.extractor=Classifier",
        "--evaluator.extractor.n_images=200",
        '--evaluator.metrics=[{"class_path": "Neighbours"}, {"class_path": "Frechet"}]',
        '--callbacks=[{"class_path": "SampleGrids"}, {"class_path": "WandB"}]',
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=2",
        *FAMILIES[family],
    ]


def draw_pictures(folder: Path) -> None:
    """150 handwritten digits as PNG files, a folder a class."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number in range(150):
        path = folder / str(digits.target[number]) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype("uint8")).save(path)


class End(NamedTuple):
    """How a program ended: its exit code and what it said."""

    code: int
    said: str


def forked(directory: Path, work: Callable[[], None]) -> End:
    """Does some work in a directory, in a process of its own."""
    log = directory / "log.txt"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(directory)
            with log.open("w") as file, redirect_stdout(file), redirect_stderr(file):
                try:
                    work()
                    code = 0
                except SystemExit as left:
                    code = left.code if isinstance(left.code, int) else 1
                except BaseException:
                    import traceback

                    traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return End(os.waitstatus_to_exitcode(status), log.read_text())


def mad(directory: Path, *args: str) -> End:
    """Runs the command line in a directory."""
    from mad_lightning.commands import main

    return forked(directory, lambda: main(args))


def left(directory: Path) -> dict[str, str]:
    """Every file of a lineage and its cache, by what it holds apart from times.

    Of a checkpoint, its weights: beside them it tells how the training went that made it.
    """
    from mad_lightning.generators.base import digest_of
    from mad_lightning.loop.checkpoints import read

    held: dict[str, str] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_dir() or path.suffix == ".lock" or name in ("log.txt", "runs/x/.lock"):
            continue
        if path.name == "lineage.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            apart = ("seconds", "chain")
            content = repr([{k: row[k] for k in row if k not in apart} for row in rows]).encode()
        else:
            content = b"" if path.name == "seconds.json" else path.read_bytes()
        if path.suffix == ".ckpt":
            with suppress(OSError):
                content = digest_of(read(path)["state_dict"]).encode()
        held[name] = sha256(content).hexdigest()
    return held


# --- flips ----------------------------------------------------------------------------------------


class Artefact(NamedTuple):
    """A kind of stored file.

    Attributes:
        state: ``finished`` (two generations of three) or ``stopped`` (just before the second is
            entered into the ledger).
        pattern: Where such files lie.
        gone: What is taken away, so that it must be used.
    """

    state: str
    pattern: str
    gone: tuple[str, ...] = ()


_OLD, _NEW = "runs/x/generation_001", "runs/x/generation_002"
_OF_A_GENERATION = (
    "mix.json",
    "generator.ckpt",
    "shard.safetensors",
    "shard.json",
    "metrics.json",
    "seconds.json",
    "samples.png",
    "train/curves.csv",
)
ARTEFACTS = {
    **{
        name: Artefact("finished", pattern)
        for name, pattern in {
            "cache: pictures": "cache/images-*.safetensors",
            "cache: classifier": "cache/classifier-*.safetensors",
            "cache: its digest": "cache/classifier-*.sha256",
            "cache: features of the reference": "cache/features-*/reference/*",
            "cache: features of the floor": "cache/features-*/floor/*",
            "config.yaml": "runs/x/config.yaml",
            "floor.json": "runs/x/floor.json",
            "lineage.jsonl": "runs/x/lineage.jsonl",
            "wandb.json": "runs/x/wandb.json",
            "base.ckpt": "base.ckpt",
        }.items()
    },
    **{f"first: {name}": Artefact("finished", f"{_OLD}/{name}") for name in _OF_A_GENERATION},
    **{f"last: {name}": Artefact("finished", f"{_NEW}/{name}") for name in _OF_A_GENERATION},
    **{f"open: {name}": Artefact("stopped", f"{_NEW}/{name}") for name in _OF_A_GENERATION},
    "open: floor.json": Artefact("stopped", "runs/x/floor.json"),
    "open: train/last.ckpt": Artefact(
        "stopped", f"{_NEW}/train/last.ckpt", (f"{_NEW}/generator.ckpt", f"{_NEW}/shard.json")
    ),
    "open: blocks": Artefact("stopped", f"{_NEW}/blocks/*/*", (f"{_NEW}/shard.json",)),
    "open: grid": Artefact("stopped", f"{_NEW}/grid/*/*", (f"{_NEW}/shard.json",)),
    "open: features": Artefact("stopped", f"{_NEW}/features/*/*/*", (f"{_NEW}/metrics.json",)),
}
GOOD = ("rebuilt", "refused", "told by verify")
"""Outcomes that are as they should be."""


def flip(path: Path, rng: random.Random) -> None:
    """Turns one bit over."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content))


def cut(path: Path, rng: random.Random) -> None:
    """Drops the second half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def states(family: str, pictures: Path, place: Path) -> None:
    """Makes what is spoilt: ``finished``, ``stopped``, and ``calm``, which is left alone."""
    from mad_lightning.commands.train import build
    from mad_lightning.files import write_json

    def stop() -> None:
        meta = build(arguments(family, pictures, 3)[1:])
        record = meta.record

        def late(t: int, *rest: Any) -> Any:
            if t == 2:
                raise SystemExit(0)
            return record(t, *rest)

        meta.record = late  # type: ignore[method-assign] # it stops before the line
        meta.fit()

    for name in ("calm", "finished", "stopped"):
        (place / name / "runs" / "x").mkdir(parents=True)
        write_json(place / name / "runs" / "x" / "wandb.json", {"id": "0a1b2c3d"})
        if family == "based":
            shutil.copy(place.parent / "diffusion/calm" / _OLD / "generator.ckpt", place / name)
            (place / name / "generator.ckpt").rename(place / name / "base.ckpt")
    ends = [
        mad(place / "calm", *arguments(family, pictures, 3)),
        mad(place / "finished", *arguments(family, pictures, 2)),
        forked(place / "stopped", stop),
    ]
    if any(end.code for end in ends):
        sys.exit(f"{family}: {ends}")


def trial(
    family: str, pictures: Path, place: Path, artefact: Artefact, spoil: Any, rng: random.Random
) -> tuple[str, str]:
    """What became of one spoilt file, and what was said."""
    directory = place / "trial"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(place / artefact.state, directory)
    path = rng.choice(sorted(directory.glob(artefact.pattern)))
    name, whole = str(path.relative_to(directory)), path.read_bytes()
    spoil(path, rng)
    spoilt = path.read_bytes()
    for gone in artefact.gone:
        (directory / gone).unlink()
    command, calm = arguments(family, pictures, 3), left(place / "calm")
    end = mad(directory, *command)
    if "Traceback" in end.said or end.code not in (0, 2):
        return "TRACEBACK", end.said
    if end.code == 2:
        named = Path(name).name in end.said and len(end.said.splitlines()) < 24
        path.write_bytes(whole)
        again = mad(directory, *command)
        went_on = again.code == 0 and left(directory) == calm
        return ("refused" if named and went_on else "REFUSED BADLY"), end.said + again.said
    now = left(directory)
    unlike = {file for file in now.keys() | calm.keys() if now.get(file) != calm.get(file)}
    still = path.exists() and path.read_bytes() == spoilt
    if not unlike and not still:
        return "rebuilt", end.said
    told = mad(directory, "verify", "runs/x")
    if still and unlike <= {name} and told.code == 2 and Path(name).name in told.said:
        return "told by verify", end.said
    return "USED", f"{name}: {sorted(unlike)}\n{end.said}{told.said}"


def flips(given: argparse.Namespace) -> bool:
    """Spoils each kind of artefact of small lineages, and lets them go on."""
    work = Path(tempfile.mkdtemp(prefix="flips-"))
    draw_pictures(work / "pictures")
    counts: Counter[str] = Counter()
    for family in FAMILIES:
        wanted = any(given.only in f"{family} {kind}" for kind in ARTEFACTS)
        if not wanted and family != "diffusion":  # whose weights are the base of another
            continue
        states(family, work / "pictures", work / family)
        for kind, spoil, outcome, said in trials(given, family, work):
            counts[outcome] += 1
            print(f"{family:15} {kind:34} {spoil:5} {outcome}", flush=True)
            if outcome not in GOOD:
                print("    " + said.replace("\n", "\n    "), flush=True)
    shutil.rmtree(work)
    print(", ".join(f"{n} {outcome}" for outcome, n in counts.most_common()))
    return not counts.keys() - set(GOOD)


def trials(
    given: argparse.Namespace, family: str, work: Path
) -> Iterator[tuple[str, str, str, str]]:
    """Every kind of artefact that a family has, spoilt in both ways."""
    for kind, artefact in ARTEFACTS.items():
        if given.only not in f"{family} {kind}":
            continue
        if not list((work / family / artefact.state).glob(artefact.pattern)):
            continue
        for spoil in (flip, cut):
            rng = random.Random(f"{given.seed} {family} {kind}")
            outcome = trial(family, work / "pictures", work / family, artefact, spoil, rng)
            yield kind, spoil.__name__, *outcome


def main() -> None:
    """Runs all trials."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="where bits flip")
    parser.add_argument("--only", default="", help="trials with this in their name")
    given = parser.parse_args()
    import mad_lightning.commands.train  # noqa: F401 - once, for all forks

    sys.exit(0 if flips(given) else 1)


if __name__ == "__main__":
    main()
