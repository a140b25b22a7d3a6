"""Wrong and odd inputs, as a table: what came, what should have come, and whether it is so.

    python benchmarks/inputs.py [--only GROUP ...] [--seed N] [--fuzz N] [--keep DIRECTORY]

Every input is tried in a process and a directory of its own, which is forked from one that has
imported everything, so that one input costs what it does and not what Python does. All of them take
a quarter of an hour on an idle core, and half an hour on a busy one. What is expected of an input:

    refuse   exit code 2 on one screen, with field and remedy, no traceback, nothing written
    ok       exit code 0
    any      either of both
    diverge  one screen that names the generation, and no traceback; what was trained may stay

Ends with exit code 1 if anything is otherwise. The last group draws options and odd values by a
seed; nobody knows what to expect of those, so any answer will do that is one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}

import numpy as np
import torch
from PIL import Image

import mad_lightning.commands.measure
import mad_lightning.commands.report
import mad_lightning.commands.study
import mad_lightning.commands.train
import mad_lightning.commands.verify  # noqa: F401
from mad_lightning.commands import main

LIMIT = 90.0
"""Seconds after which an input counts as one that hangs."""
SCREEN = 24
SMALL = """
lineage: {generations: 1, threads: 1, n_grid: 10, name: x}
policy: {class_path: FullySynthetic, init_args: {n_initial: 200, n_synthetic: 200}}
data: {source: {class_path: Digits}, n_reference: 100, batch_size: 32, images_per_epoch: 128}
generator: {class_path: Diffusion, init_args: {
  network: {class_path: mad_lightning.nets.unet.UNet, init_args: {widths: [8, 8]}},
  timesteps: 100, beta_schedule: squaredcos_cap_v2, prediction: velocity, sampling_steps: 3}}
evaluator: {extractor: {class_path: Pixels}, metrics: [{class_path: Neighbours}]}
callbacks: [{class_path: Console}]
trainer: {accelerator: cpu, max_epochs: 1}
"""
SPACE = "--data.source StandardNormal --data.source.dim 2 --evaluator.extractor Identity "
TOY = SPACE + "--generator Gaussian "

Prepare = Callable[[Path], None]


@dataclass
class Case:
    """One input.

    Attributes:
        group: Kind of input.
        name: What is odd about it.
        expect: ``refuse``, ``ok``, ``any`` or ``diverge``.
        line: Arguments; of ``mad train`` on the small lineage unless ``verb`` says otherwise.
        prepare: Puts files where the program will stand.
        environment: Variables.
        verb: Another verb, without the small lineage.
        told: What the answer must contain.
    """

    group: str
    name: str
    expect: str
    line: str = ""
    prepare: Prepare = lambda place: None
    environment: dict[str, str] = field(default_factory=dict)
    verb: str = ""
    told: str = ""


@dataclass
class Answer:
    """What came of an input."""

    code: int | None
    text: str
    written: list[str]
    changed: list[str]
    seconds: float

    def fault(self, case: Case) -> str:
        """Why this is not what was expected; empty if it is."""
        lines = self.text.splitlines()
        if self.code is None:
            return "hangs"
        if "Traceback (most recent call last)" in self.text:
            return "traceback"
        if self.changed:
            return f"changed {self.changed[0]}"
        if case.told not in self.text:
            return f"does not tell {case.told!r}"
        if case.expect == "diverge":
            fits = self.code in (1, 2) and len(lines) <= SCREEN and "generation 1" in self.text
            return "" if fits else "no screen about generation 1"
        if self.code == 0:
            return "accepted" if case.expect == "refuse" else ""
        if self.code != 2:
            return f"exit code {self.code}"
        if len(lines) > SCREEN or "error: " not in self.text or "remedy: " not in self.text:
            return "no screen with field and remedy"
        if case.expect == "ok":
            return "refused"
        return f"wrote {self.written[0]}" if self.written else ""


# --- how an input is tried -----------------------------------------------------------------------


def files(place: Path) -> dict[str, str]:
    """Digests of all files in a directory; the shared cache is left out."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        if path.is_symlink() or "cache" in path.relative_to(place).parts or path.is_dir():
            continue
        is_file = stat.S_ISREG(path.stat().st_mode) and os.access(path, os.R_OK)
        found[name] = sha256(path.read_bytes()).hexdigest() if is_file else ""
    return found


def attempt(case: Case, place: Path) -> Answer:
    """Tries an input in a process and a directory of its own."""
    place.mkdir(parents=True)
    (place / "small.yaml").write_text(SMALL)
    case.prepare(place)
    before, output, started = files(place), place.with_suffix(".out"), time.monotonic()
    child = os.fork()
    if not child:
        become(case, place, output)
    code = ended(child)
    after = files(place)
    return Answer(
        code,
        output.read_text(encoding="utf-8", errors="replace"),
        [name for name in after if name not in before and not name.endswith(".pyc")],
        [name for name in before if before[name] != after.get(name)],
        time.monotonic() - started,
    )


def become(case: Case, place: Path, output: Path) -> None:
    """The child: runs the command line and is gone."""
    os.setsid()
    os.chdir(place)
    target = os.open(output, os.O_WRONLY | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for stream, to in ((0, nothing), (1, target), (2, target)):
        os.dup2(to, stream)
    os.environ.update(case.environment)
    sys.path.insert(0, str(place))
    words = shlex.split(case.line)
    args = [case.verb, *words] if case.verb else ["train", "--config", "small.yaml", *words]
    code: object = 1
    try:
        main(args)
        code = 0
    except SystemExit as left:
        code = left.code
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def ended(child: int) -> int | None:
    """A child's exit code; None if it had to be ended, with all that it started."""
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


# --- the inputs ----------------------------------------------------------------------------------

FLAGS = {
    ("config", "refuse"): """
--lineage.generations 0
--lineage.generations -1
--lineage.generations 1000000000000
--lineage.generations 1.5
--lineage.generations two
--lineage.generations null
--lineage.threads 0
--lineage.threads 1000000
--lineage.threads 1000
--lineage.n_grid 0
--lineage.n_grid 10000000000
--lineage.block_size 0
--lineage.block_size 1000000000000
--lineage.start sideways
--lineage.base nowhere.ckpt
--lineage.nosuch 1
--nosuch 1
--policy.n_initial 0
--policy.n_initial -5
--policy.n_initial 5000
--policy.n_initial 1000000000000
--policy.n_initial 1e30
--policy.n_synthetic 1000000000000
--policy.n_synthetic 0 --lineage.generations 2
--policy.synthetic_from first
--policy.k 0
--policy.k 1000000000000
--sampling_bias 0
--sampling_bias -1
--sampling_bias 1.5
--sampling_bias .nan
--sampling_bias .inf
--sampling_bias text
--sampling_bias null
--seed_everything null
--seed_everything -1
--seed_everything true
--seed_everything 1.5
--seed_everything text
--data.n_reference 0
--data.n_reference 1
--data.n_reference -1
--data.n_reference 3
--data.n_reference 1000
--data.n_reference 1000000000000
--data.batch_size 0
--data.batch_size 1000000000000
--data.images_per_epoch 0
--data.images_per_epoch 16
--data.images_per_epoch 1000000000000
--data.source nosuch
--data.source null
--generator null
--generator nosuch
--generator Console
--policy null
--policy Gaussian
--evaluator.metrics null
--evaluator.metrics [nosuch]
--evaluator.extractor nosuch
--callbacks Console
--callbacks [nosuch]
--config nowhere.yaml
--config .
--config
""",
    ("config", "any"): """
--lineage.threads 4
--lineage.n_grid '!!float 1'
--evaluator.metrics [Neighbours,Neighbours]
--evaluator.metrics []
--policy.n_synthetic 'max(t)'
--lineage.n_grid 1
--lineage.block_size 1
--seed_everything 99999999999999999999999999999999
--callbacks []
--data.batch_size 1
--data.split_seed -1
--data.split_seed 99999999999999999999999999
--data.batch_size 100000
""",
    ("schedule", "refuse"): """
--lineage.generations 3 --policy.n_synthetic 't**9**9**9'
--lineage.generations 9 --policy.n_synthetic 't**t**t'
--lineage.generations 3 --policy.n_synthetic 9**9**9
--lineage.generations 3 --policy.n_synthetic 1/0
--lineage.generations 3 --policy.n_synthetic '100//(t-2)'
--lineage.generations 3 --policy.n_synthetic '100//(t-3)'
--lineage.generations 3 --policy.n_synthetic '100//(4-t)'
--lineage.generations 9 --policy.n_synthetic '10**(t+3)' --policy.synthetic_from all
--lineage.generations 9 --policy.n_synthetic '10**(t+3)'
--lineage.generations 9 --policy.n_synthetic 't*t*t' --policy.synthetic_from all
--lineage.generations 3 --policy.n_synthetic '2**(0-t)'
--lineage.generations 3 --policy.n_synthetic '100-60*t'
--lineage.generations 3 --policy.n_synthetic '__import__("os").system("ls")'
--lineage.generations 3 --policy.n_synthetic 't.real'
--lineage.generations 3 --policy.n_synthetic '[t]'
--lineage.generations 3 --policy.n_synthetic '(lambda: t)()'
--lineage.generations 3 --policy.n_synthetic '1 if t else 2'
--lineage.generations 3 --policy.n_synthetic 't^2'
--lineage.generations 3 --policy.n_synthetic 'n*2'
--lineage.generations 3 --policy.n_synthetic '1.5*t'
--lineage.generations 3 --policy.n_synthetic '(t'
--lineage.generations 3 --policy.n_synthetic ''
--lineage.generations 3 --policy.n_synthetic 'min()'
--lineage.generations 3 --policy.n_synthetic 't if'
""",
    ("names", "refuse"): """
--lineage.name ../escaped
--lineage.name ../../escaped
--lineage.name /tmp/absolute
--lineage.name .
--lineage.name ..
--lineage.name ''
--lineage.name ' '
--lineage.name ' x'
--lineage.name a/b
--lineage.name 'a\\b'
--lineage.name "$(x)/y"
--lineage.name cache
--lineage.root small.yaml
--lineage.root small.yaml/below
--lineage.root /dev/null
--lineage.root ''
--lineage.root /proc/nope
--lineage.root /sys/nope
--data.cache small.yaml
--data.cache small.yaml/below
--data.cache /dev/null
--data.cache /proc/nope
--data.cache runs/x
""",
    ("names", "ok"): """
--lineage.name=-x-
--lineage.name 'two words'
--lineage.name λ=0.5
--lineage.name .hidden
--lineage.name a..b
--lineage.name CON
--lineage.root 'a b/c'
--lineage.root ./runs/../other
""",
    ("trainer", "refuse"): """
--trainer.max_epochs 0
--trainer.max_epochs -1
--trainer.max_epochs -7
--trainer.max_epochs 1.5
--trainer.max_epochs 1000000000000
--trainer.max_steps 0
--trainer.max_steps -9
--trainer.max_time 00:00:00:00
--trainer.max_time 00:00:00:01
--trainer.max_time nonsense
--trainer.limit_train_batches 0
--trainer.limit_train_batches 0.0
--trainer.limit_train_batches 0.0001
--trainer.limit_train_batches -1
--trainer.limit_train_batches 1.5
--trainer.overfit_batches -1
--trainer.overfit_batches 1e-30
--trainer.gradient_clip_val -1
--trainer.gradient_clip_val .nan
--trainer.gradient_clip_val .inf
--trainer.gradient_clip_val 1 --trainer.gradient_clip_algorithm nope
--trainer.accumulate_grad_batches 0
--trainer.accumulate_grad_batches -2
--trainer.devices 0
--trainer.devices -2
--trainer.devices text
--trainer.devices []
--trainer.devices 100000
--trainer.num_nodes 0
--trainer.num_nodes 2
--trainer.accelerator abacus
--trainer.accelerator cuda
--trainer.strategy nope
--trainer.strategy fsdp
--trainer.strategy ddp_spawn
--trainer.strategy ddp_fork
--trainer.precision 12
--trainer.precision nope
--trainer.enable_checkpointing false
--trainer.barebones true
--trainer.callbacks EarlyStopping --trainer.callbacks.monitor nope
--trainer.callbacks ModelCheckpoint
--trainer.callbacks OnExceptionCheckpoint --trainer.callbacks.dirpath here
--trainer.callbacks RichProgressBar
--trainer.callbacks nope
--trainer.callbacks Console
--trainer.logger TensorBoardLogger --trainer.logger.save_dir here
--trainer.logger WandbLogger
--trainer.logger nope
--trainer.plugins nope
--trainer.profiler nope
--trainer.fast_dev_run -1
--trainer.val_check_interval -1
--trainer.reload_dataloaders_every_n_epochs -1
--trainer.deterministic nope
--trainer.benchmark maybe
--trainer.nosuch 1
""",
    ("trainer", "ok"): """
--trainer.limit_train_batches 2
--trainer.limit_train_batches 0.5
--trainer.max_steps 3
--trainer.max_epochs -1 --trainer.max_steps 3
--trainer.overfit_batches 1
--trainer.fast_dev_run true
--trainer.precision 16-mixed
--trainer.precision bf16-mixed
--trainer.gradient_clip_val 1
--trainer.callbacks EarlyStopping --trainer.callbacks.monitor loss
--trainer.callbacks LearningRateMonitor --trainer.logger CSVLogger --trainer.logger.save_dir logs
--trainer.detect_anomaly true
--trainer.profiler simple
--trainer.enable_progress_bar true
--trainer.deterministic true
--trainer.accumulate_grad_batches 2
""",
    ("trainer", "any"): """
--trainer.min_epochs 3
--trainer.check_val_every_n_epoch 0
--trainer.log_every_n_steps -1
--trainer.num_sanity_val_steps -1
--trainer.inference_mode false
--trainer.precision 64-true
--trainer.precision bf16-true
--trainer.precision 16-true
--trainer.sync_batchnorm true
--trainer.logger true
--trainer.callbacks null
--trainer.plugins []
--trainer.callbacks StochasticWeightAveraging --trainer.callbacks.swa_lrs 0.01
--trainer.default_root_dir /proc/nope
--trainer.strategy ddp
""",
    ("generator", "refuse"): """
--generator.lr -1
--generator.lr .nan
--generator.lr .inf
--generator.lr text
--generator.network.widths []
--generator.network.widths [0,0]
--generator.network.widths [-8]
--generator.network.widths [8.5]
--generator.network.widths text
--generator.network nosuch
--generator.network Pixels
--generator.timesteps 0
--generator.timesteps 1
--generator.timesteps -5
--generator.sampling_steps 0
--generator.sampling_steps -1
--generator.sampling_steps 1000000
--generator.beta_schedule nope
--generator.prediction nope
--generator.nosuch 1
--generator Glow --generator.levels 0
--generator Glow --generator.levels 99
--generator WGAN --generator.lr -1
--generator WGAN --generator.networks.depth 0
--generator StyleGAN2 --generator.lr .nan
--generator Gaussian --generator.estimator best
--generator Mixture --generator.components 0
""",
    ("data", "refuse"): TOY.join(["\n", "--data.source.dim 0\n", "--data.source.dim -1\n"])
    + f"{TOY}--data.source.dim 1000000000\n{TOY}--data.n_reference 1000000000000\n"
    + f"{TOY}--policy.n_initial 1000000000000\n{TOY}--policy.n_synthetic 1000000000000\n"
    + f"{SPACE}\n--data.source Grid25 --data.source.side 0\n"
    + "--data.source MNIST --data.source.root nowhere\n--data.source Images\n"
    + "--data.source Images --data.source.root nowhere\n"
    + "--data.source Images --data.source.root small.yaml\n"
    + "--data.source Arrays --data.source.path nowhere.npz\n"
    + "--data.source Arrays --data.source.path small.yaml\n",
    ("evaluator", "refuse"): """
--evaluator.metrics [{class_path: Neighbours, init_args: {k: 0}}]
--evaluator.metrics [{class_path: Neighbours, init_args: {k: -1}}]
--evaluator.metrics [{class_path: Neighbours, init_args: {k: 1000}}]
--evaluator.metrics [{class_path: Neighbours, init_args: {nosuch: 1}}]
--evaluator.metrics [{class_path: Neighbours, init_args: {k: 1, k: 2}}]
--evaluator.metrics text
--callbacks [{class_path: SampleGrids, init_args: {every: 0}}]
--callbacks [{class_path: StopWhenMAD, init_args: {metric: recal}}]
--callbacks [{class_path: StopWhenMAD, init_args: {patience: 0}}]
""",
    ("diverge", "diverge"): """
--generator.lr 1e30
--generator WGAN --generator.lr 1e30
--generator Glow --generator.lr 1e30
--generator StyleGAN2 --generator.lr 1e30
""",
}

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
YAML: dict[str, tuple[str, bytes | str]] = {
    "a key twice": ("refuse", "sampling_bias: 0.5\nsampling_bias: 1.0\n"),
    "a nested key twice": ("refuse", "lineage: {generations: 1, generations: 2}\n"),
    "a key twice deep in a list": (
        "refuse",
        "evaluator: {metrics: [{class_path: Neighbours, init_args: {k: 3, k: 5}}]}\n",
    ),
    "a group twice": ("refuse", "data: {batch_size: 32}\nlineage: {n_grid: 5}\ndata: {}\n"),
    "dotted and nested": ("refuse", "data.batch_size: 32\ndata: {batch_size: 64}\n"),
    "octal": ("refuse", "data: {n_reference: 0100}\n"),
    "octal with a sign": ("refuse", "data: {split_seed: +010}\n"),
    "sexagesimal": ("refuse", "policy: {init_args: {n_synthetic: 3:20}}\n"),
    "sexagesimal float": ("refuse", "sampling_bias: 0:0.5\n"),
    "billion laughs": ("refuse", LAUGHS),
    "an alias of itself": ("refuse", "a: &a {b: *a}\n"),
    "an unknown alias": ("refuse", "a: *nowhere\n"),
    "nested 60 deep": ("refuse", "a: " + "[" * 60 + "]" * 60),
    "nested 500 deep": ("refuse", "a: " + "[" * 500 + "]" * 500),
    "nested 100,000 deep": ("refuse", "a: " + "[" * 100_000),
    "nested in blocks": ("refuse", "".join(f"{' ' * n}a:\n" for n in range(300))),
    "latin-1": ("refuse", "# café\nsampling_bias: 0.5\n".encode("latin-1")),
    "UTF-16": ("refuse", "sampling_bias: 0.5\n".encode("utf-16")),
    "UTF-32": ("refuse", "sampling_bias: 0.5\n".encode("utf-32")),
    "bytes": ("refuse", bytes(range(256))),
    "NUL": ("refuse", b"sampling_bias: 0.5\0\n"),
    "zip": ("refuse", b"PK\x03\x04" + bytes(range(128, 256))),
    "empty": ("refuse", ""),
    "blanks": ("refuse", " \n\n"),
    "a list": ("refuse", "[1, 2]\n"),
    "a text": ("refuse", "hello\n"),
    "two documents": ("refuse", "sampling_bias: 0.5\n---\nsampling_bias: 1.0\n"),
    "a tab": ("refuse", "data:\n\tbatch_size: 32\n"),
    "open bracket": ("refuse", "data: {batch_size: 32\n"),
    "an object of Python": ("refuse", "a: !!python/object/apply:os.system [ls]\n"),
    "a tag": ("refuse", "sampling_bias: !mine 0.5\n"),
    "a null group": ("any", "data: null\n"),
    "a group that is a number": ("refuse", "data: 5\n"),
    "a group that is a list": ("refuse", "lineage: [1]\n"),
    "null seed": ("refuse", "seed_everything: null\n"),
    "null callbacks": ("ok", "callbacks: null\n"),
    "null policy": ("refuse", "policy: null\n"),
    "a key that is a number": ("refuse", "1: 2\n"),
    "a key that is a list": ("refuse", "[1, 2]: 3\n"),
    "a key that is null": ("refuse", "null: 3\n"),
    "a float for a count": ("refuse", "policy: {init_args: {n_synthetic: 2e2}}\n"),
    "true for a count": ("refuse", "policy: {init_args: {n_synthetic: true}}\n"),
    "a date for a name": ("ok", "lineage: {name: 2024-01-01}\n"),
    "no for a name": ("any", "lineage: {name: no}\n"),
    "a number for a name": ("any", "lineage: {name: 12}\n"),
    "a mark of the byte order": ("ok", "sampling_bias: 0.5\n".encode("utf-8-sig")),
    "letters of Greece": ("ok", "# λ Σ\nsampling_bias: 0.5\n"),
    "CRLF": ("ok", "sampling_bias: 0.5\r\nlineage: {n_grid: 5}\r\n"),
    "dotted keys": ("ok", "data.batch_size: 64\n"),
    "a merge": ("ok", "lineage: {<<: {n_grid: 5}, threads: 1}\n"),
    "a file in a file": ("refuse", "data: other.yaml\n"),
    "quoted numbers": ("any", "sampling_bias: '0.5'\n"),
    "underscores": ("ok", "data: {batch_size: 3_2}\n"),
    "100,000 keys": ("refuse", "".join(f"k{n}: 1\n" for n in range(100_000))),
    "a name of 300 letters": ("refuse", f"lineage: {{name: {'x' * 300}}}\n"),
    "a name with ESC": ("refuse", 'lineage: {name: "a\\e[31m"}\n'),
    "a name with NUL": ("refuse", 'lineage: {name: "a\\0b"}\n'),
    "a name with a newline": ("refuse", 'lineage: {name: "a\\nb"}\n'),
    "a root with NUL": ("refuse", 'lineage: {root: "a\\0b"}\n'),
    "a root of 300 letters": ("refuse", f"lineage: {{root: {'x' * 300}}}\n"),
    "a path of 5,000 letters": ("refuse", f"lineage: {{root: {'x/' * 2500}}}\n"),
    "a cache with NUL": ("refuse", 'data: {cache: "a\\0b"}\n'),
}

MODULE = "from mad_lightning import LoopPolicy, FullySynthetic, Mix, Part\n"
FUTURE = """class Mine(LoopPolicy):
    def mix(self, t): return Mix(t, (Part('synthetic', '009', 0, 100),))
"""
OWN = {
    "a package that is not there": ("import nosuch\n", "No module named 'nosuch'"),
    "a name that is not there": ("from math import nosuch\n", "cannot import name"),
    "a word forgotten": ("class Mine(\n", "SyntaxError"),
    "an indentation": ("if 1:\npass\n", "IndentationError"),
    "an error at the top": ("x = 1 / 0\n", "ZeroDivisionError"),
    "a ValueError at the top": ("raise ValueError('early')\n", "early"),
    "no such class": ("x = 1\n", "has no Mine"),
    "no policy": ("class Mine: pass\n", ""),
    "an abstract policy": (f"{MODULE}class Mine(LoopPolicy): pass\n", ""),
    "no base called": (
        f"{MODULE}class Mine(FullySynthetic):\n    def __init__(self): pass\n",
        "AttributeError",
    ),
    "an error in the constructor": (
        f"{MODULE}class Mine(FullySynthetic):\n    def __init__(self): raise ValueError('mine')\n",
        "mine",
    ),
    "an error in a method": (
        f"{MODULE}class Mine(LoopPolicy):\n    def mix(self, t): return nowhere\n",
        "NameError",
    ),
    "a mix that is None": (f"{MODULE}class Mine(LoopPolicy):\n    def mix(self, t): pass\n", ""),
    "an empty mix": (
        f"{MODULE}class Mine(LoopPolicy):\n    def mix(self, t): return Mix(t, ())\n",
        "nothing to train on",
    ),
    "a shard of the future": (f"{MODULE}{FUTURE}", ""),
    "latin-1": ("# caf\xe9\nclass Mine: pass\n", ""),
}

VERBS = {
    "": "any", "nosuch": "refuse", "train --nosuch": "refuse", "report nowhere": "refuse",
    "report small.yaml": "refuse", "report .": "refuse", "report nowhere --figure x.png": "refuse",
    "report --nosuch": "refuse", "report": "any", "verify nowhere": "refuse",
    "verify small.yaml": "refuse", "verify": "any", "measure nowhere": "refuse",
    "measure --nosuch": "refuse", "study nowhere": "refuse", "study small.yaml": "refuse",
    "train --config small.yaml extra": "refuse", "train -c small.yaml fit": "refuse",
    "train --config small.yaml policy.n_initial=5": "refuse",
    "train --config small.yaml --version": "refuse", "train --print_config --nosuch": "refuse",
    "report runs/\0": "refuse",
}  # fmt: skip


def pictures(place: Path, *names: str, n: int = 120, side: int = 8, mode: str = "L") -> None:
    """Pictures of noise, the n of them dealt out to folders."""
    rng = np.random.default_rng(0)
    for number in range(n):
        folder = place / "pics" / names[number % len(names)] if names else place / "pics"
        folder.mkdir(parents=True, exist_ok=True)
        shape = (side, side) if mode == "L" else (side, side, 3)
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels, mode).save(folder / f"{number}.png")


IMAGES = "--data.source Images --data.source.root pics --data.n_reference 20 --policy.n_initial 50"
ARRAYS = "--data.source Arrays --data.source.path a.npz --data.n_reference 20 --policy.n_initial 50"


def picture_cases() -> Iterator[Case]:
    """Folders of pictures that are not what they seem."""

    def beside(name: str, content: bytes) -> Prepare:
        def prepare(place: Path) -> None:
            pictures(place)
            (place / "pics" / name).write_bytes(content)

        return prepare

    def dangling(place: Path) -> None:
        pictures(place)
        (place / "pics" / "z.png").symlink_to(place / "nowhere.png")

    def labelled(labels: object) -> Prepare:
        def prepare(place: Path) -> None:
            pictures(place)
            text = json.dumps({"labels": labels})
            (place / "pics" / "dataset.json").write_text(text)

        return prepare

    def folders(*names: str) -> Prepare:
        return lambda place: pictures(place, *names)

    asked = f"{IMAGES} --data.source.labels true"
    for name, expect, line, prepare in (
        ("as they should be", "ok", IMAGES, folders()),
        ("an empty folder", "refuse", IMAGES, lambda place: (place / "pics").mkdir()),
        ("one of 1 pixel", "refuse", IMAGES, lambda place: pictures(place, side=1)),
        ("a dangling link", "refuse", IMAGES, dangling),
        ("a text as PNG", "refuse", IMAGES, beside("z.png", b"hello")),
        ("an empty PNG", "refuse", IMAGES, beside("z.png", b"")),
        ("a torn PNG", "refuse", IMAGES, beside("z.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")),
        ("a pointer of git-lfs", "refuse", IMAGES, beside("z.png", b"version https://git-lfs")),
        ("a text beside", "ok", IMAGES, beside("notes.txt", b"hello")),
        ("a resolution of 10^6", "refuse", f"{IMAGES} --data.source.resolution 1000000", folders()),
        ("a resolution of 0", "refuse", f"{IMAGES} --data.source.resolution 0", folders()),
        ("a resolution of -1", "refuse", f"{IMAGES} --data.source.resolution -1", folders()),
        ("5 channels", "refuse", f"{IMAGES} --data.source.channels 5", folders()),
        ("classes that are not there", "refuse", asked, folders()),
        ("one class", "refuse", asked, folders("cat")),
        ("two classes", "ok", asked, folders("cat", "dog")),
        ("train and test as classes", "refuse", asked, folders("train/cat", "test/cat")),
        ("labels: class 10^9", "any", asked, labelled([["0.png", 0], ["1.png", 10**9]])),
        (
            "labels: class 10^30",
            "refuse",
            asked,
            labelled([[f"{n}.png", 10**30] for n in range(120)]),
        ),
        ("labels: -1", "refuse", asked, labelled([[f"{n}.png", -1] for n in range(120)])),
        ("labels: text", "any", asked, labelled([[f"{n}.png", "cat"] for n in range(120)])),
        ("labels: null", "refuse", asked, labelled(None)),
        ("labels: a number", "refuse", asked, labelled(5)),
        (
            "labels: half of them",
            "refuse",
            asked,
            labelled([[f"{n}.png", n % 2] for n in range(60)]),
        ),
        ("labels: no JSON", "refuse", asked, beside("dataset.json", b"{")),
        ("labels: bytes", "refuse", asked, beside("dataset.json", bytes(range(256)))),
    ):
        yield Case("pictures", name, expect, line, prepare)


def array_cases() -> Iterator[Case]:
    """Files of arrays that are not what they seem."""
    x = np.random.default_rng(0).integers(0, 256, (120, 8, 8, 1), dtype=np.uint8)
    y = np.arange(120) % 3
    huge = b"\x93NUMPY\x01\x00v\x00" + (
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 128, 128, 1), }"
    ).ljust(117) + b"\n"  # fmt: skip

    def saved(**arrays: object) -> Prepare:
        return lambda place: np.savez(
            place / "a.npz", **{k: np.asarray(v) for k, v in arrays.items()}
        )

    def raw(content: bytes, name: str = "a.npz") -> Prepare:
        return lambda place: (place / name).write_bytes(content) and None

    labels = f"{ARRAYS} --data.source.values x --data.source.labels y"
    hole = np.where(y == 2, 10**9, y)
    npy = ARRAYS.replace("a.npz", "a.npy")
    for name, expect, line, prepare in (
        ("as they should be", "ok", ARRAYS, saved(x=x)),
        ("with classes", "ok", labels, saved(x=x, y=y)),
        ("no archive", "refuse", ARRAYS, raw(b"hello")),
        ("empty", "refuse", ARRAYS, raw(b"")),
        ("no arrays", "refuse", ARRAYS, saved()),
        ("two arrays", "refuse", ARRAYS, saved(x=x, z=x)),
        ("no images", "refuse", ARRAYS, saved(x=x[:0])),
        ("three images", "refuse", ARRAYS, saved(x=x[:3])),
        ("complex", "refuse", ARRAYS, saved(x=x.astype(complex))),
        ("text", "refuse", ARRAYS, saved(x=np.array(["a"] * 120))),
        ("five dimensions", "refuse", ARRAYS, saved(x=x[None])),
        ("a number", "refuse", ARRAYS, saved(x=5)),
        ("NaN", "refuse", ARRAYS, saved(x=np.full((120, 8), np.nan))),
        ("infinite", "refuse", ARRAYS, saved(x=np.full((120, 8), np.inf))),
        ("classes of floats", "any", labels, saved(x=x, y=y + 0.5)),
        ("classes of NaN", "refuse", labels, saved(x=x, y=np.full(120, np.nan))),
        ("classes with a hole of 10^9", "any", labels, saved(x=x, y=hole)),
        ("negative classes", "refuse", labels, saved(x=x, y=y - 1)),
        ("too few classes", "refuse", labels, saved(x=x, y=y[:5])),
        ("one class", "refuse", labels, saved(x=x, y=y * 0)),
        ("a header of 14 TiB", "refuse", npy, raw(huge, "a.npy")),
        ("half a header", "refuse", npy, raw(huge[:40], "a.npy")),
    ):
        yield Case("arrays", name, expect, line, prepare)


def base_cases() -> Iterator[Case]:
    """Weights to start from that are none."""
    line = "--lineage.start base --lineage.base b.ckpt"

    def saved(value: object) -> Prepare:
        return lambda place: torch.save(value, place / "b.ckpt")

    for name, prepare in {
        "empty": lambda place: (place / "b.ckpt").touch(),
        "text": lambda place: (place / "b.ckpt").write_text("hello") and None,
        "a list": saved([1]),
        "a number": saved(5),
        "no state_dict": saved({}),
        "a state_dict that is a number": saved({"state_dict": 5}),
        "a state_dict of texts": saved({"state_dict": {"a": "b"}}),
        "of another network": saved({"state_dict": {"a": torch.zeros(1)}}),
        "a directory": lambda place: (place / "b.ckpt").mkdir(),
    }.items():
        yield Case("base", name, "refuse", line, prepare)


def environment_cases() -> Iterator[Case]:
    """Machines that are not as one wishes."""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0"}
    for name, variables in {
        "RANK left over": {"RANK": "1"},
        "LOCAL_RANK left over": {"LOCAL_RANK": "3"},
        "WORLD_SIZE left over": {"WORLD_SIZE": "4"},
        "RANK and WORLD_SIZE left over": {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "2"},
        "SLURM_PROCID left over": {"SLURM_PROCID": "2"},
        "no language": plain,
        "no home": {"HOME": "/nonexistent"},
        "one column": {"COLUMNS": "1"},
        "no terminal": {"TERM": "dumb"},
    }.items():
        yield Case("environment", name, "ok", "", environment=variables, told="done: 1")
    slurm = {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "1"}
    yield Case("environment", "SLURM_NTASKS left over", "refuse", environment=slurm, told="SLURM")
    yield Case("environment", "a refusal under RANK", "refuse", "--sampling_bias 0",
               environment={"RANK": "1"}, told="sampling_bias")  # fmt: skip

    def of_root(what: str) -> Prepare:
        def prepare(place: Path) -> None:
            made = place / what
            made.parent.mkdir(parents=True, exist_ok=True)
            made.mkdir() if what.endswith("d") else made.write_text("mine")

        return prepare

    yield Case("environment", "runs is a file", "refuse", prepare=of_root("runs"))
    yield Case("environment", "runs/x is a file", "refuse", prepare=of_root("runs/x"))
    yield Case("environment", "notes of one's own", "ok", prepare=of_root("runs/x/.notes.tmp"))
    yield Case("environment", "notes of a neighbour", "ok", prepare=of_root("runs/y/.z.7.tmp"))


def fuzz_cases(seed: int, n: int) -> Iterator[Case]:
    """Options and odd values, by a seed."""
    rng = random.Random(seed)
    options = [line.split()[0] for lines in FLAGS.values() for line in lines.splitlines() if line]
    options = sorted({option for option in options if option.count(".") == 1})
    odd = [
        "0", "-1", "1", "1e30", "-1e30", "1e-30", ".nan", ".inf", "null", "true", "''", "text",
        "[]", "{}", "[1]", "{a: 1}", "λ", "0x10", "1_0", "99999999999999999999", "1.5", "'1 2'",
        "../..", "/dev/null", "'*'", "'{'", "'a: b: c'", "!!float 1",
    ]  # fmt: skip
    for number in range(n):
        line = " ".join(
            f"{rng.choice(options)} {rng.choice(odd)}" for _ in range(rng.choice((1, 1, 2)))
        )
        yield Case("fuzz", f"{number}", "any", line)


def all_cases(seed: int, n: int) -> Iterator[Case]:
    """Every input."""
    for (group, expect), lines in FLAGS.items():
        for line in filter(None, map(str.strip, lines.splitlines())):
            yield Case(group, line[-60:], expect, line)
    for name, (expect, content) in YAML.items():
        raw = content if isinstance(content, bytes) else content.encode()

        def prepare(place: Path, raw: bytes = raw) -> None:
            (place / "odd.yaml").write_bytes(raw)
            (place / "other.yaml").write_text("batch_size: 32\nbatch_size: 64\n")

        yield Case("yaml", name, expect, "--config odd.yaml", prepare)
    for number, (name, (text, told)) in enumerate(OWN.items()):
        module = f"own{number}"

        def put(place: Path, module: str = module, text: str = text) -> None:
            (place / f"{module}.py").write_text(text, encoding="latin-1")

        yield Case("own code", name, "refuse", f"--policy {module}.Mine", put, told=told)
    for line, expect in VERBS.items():
        verb, _, rest = line.partition(" ")
        yield Case("verbs", line or "nothing", expect, rest, verb=verb or "--help")
    for cases in (picture_cases, array_cases, base_cases, environment_cases):
        yield from cases()
    yield from fuzz_cases(seed, n)


def main_table() -> int:
    """Tries all inputs, prints the table and the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="GROUP")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fuzz", type=int, default=100, help="how many drawn inputs")
    parser.add_argument("--keep", type=Path, help="keep what was printed, here")
    given = parser.parse_args()
    counts: Counter[str] = Counter()
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="inputs-"))
    started = time.monotonic()
    print("group | input | expected | exit | lines | traceback | written | seconds | verdict")
    for number, case in enumerate(all_cases(given.seed, given.fuzz)):
        if given.only and case.group not in given.only:
            continue
        answer = attempt(case, root / f"{number:03d}")
        fault = answer.fault(case)
        has_traceback = "Traceback (most" in answer.text
        counts.update(
            {
                "inputs": 1,
                "tracebacks": has_traceback,
                "hangs": answer.code is None,
                "accepted in silence": fault == "accepted",
                "files changed": bool(answer.changed),
                "not as expected": bool(fault),
            }
        )
        print(
            f"{case.group} | {(case.line if case.group == 'fuzz' else case.name)!r} | {case.expect}"
            f" | {'hangs' if answer.code is None else answer.code} | "
            f"{len(answer.text.splitlines())} | {'yes' if has_traceback else 'no'} | "
            f"{len(answer.written)} | {answer.seconds:.1f} | "
            f"{f'WRONG: {fault}' if fault else 'ok'}",
            flush=True,
        )
        if fault:
            print("    " + " / ".join(answer.text.strip().splitlines()[-3:])[:300])
        if given.keep:
            given.keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / f"{number:03d}.out", given.keep / f"{number:03d}-{case.group}.txt")
        shutil.rmtree(root / f"{number:03d}", ignore_errors=True)
    shutil.rmtree(root, ignore_errors=True)
    print(f"\n{time.monotonic() - started:.0f} s, seed {given.seed}")
    for name, count in counts.items():
        print(f"{name}: {count}")
    return 1 if counts["not as expected"] else 0


if __name__ == "__main__":
    sys.exit(main_table())
