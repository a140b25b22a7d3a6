"""Every command on a page is one: read by the command line it speaks to, and most of them run.

Pages are the README, ``docs/``, the help of each verb and the heads of the configurations. Where a
block of a page is run, it is run from top to bottom in a directory of its own, where a user's
things lie: pictures, arrays, a network that diffusers has saved, lineages.
"""

import contextlib
import json
import re
import shlex
import shutil
import sys
from importlib import import_module
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mad_lightning.commands import VERBS, configs, main, page
from mad_lightning.commands.train import build
from mad_lightning.loop.admission import admit
from mad_lightning.sweeps.plan import Sweep

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HEADS = sorted((ROOT / "configs").rglob("*.yaml"))

NO_COMMAND_OF_OURS = {
    "python3 -m venv": "what installs is not tested by what it installs",
    ".venv/bin/pip install": "as above",
    ".venv-test/bin/pip install": "as above",
    ".venv-test/bin/python -m pytest": "it is what runs this",
    "pip install 'mad-lightning[wandb-report]'": "it needs a network",
}
NOT_RUN = {
    "--trainer.devices 8": "eight devices, and MNIST",
    "--config cifar.yaml": "CIFAR-10",
    "my_module.KeepAll": "tests/test_readme.py runs it",
    "sweep --config configs/": "minutes; docs/sweeps.md has a smaller one",
    "study --config configs/": "seconds to minutes; tests/commands/test_study.py runs each",
}
"""Commands that hold this are read and not run, for the reason told. A ``train`` is tried up to
where generation 1 would be trained; tests/test_configs.py trains each configuration."""


def spoken(path):
    """Commands of a page's blocks, as words, one after the other."""
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", path.read_text(), re.DOTALL | re.MULTILINE)
    for line in "".join(blocks).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            yield words[: words.index("&&")]
            words = words[words.index("&&") + 1 :]
        if words:
            yield words


def has_commands(path):
    return any(spoken(path))


def asked(words):
    """Variables that stand before a command, and what ``mad`` is to do; nothing if it is another's.

    What follows ``>`` or ``|`` is the shell's, and is left out.
    """
    words = list(takewhile(lambda word: word not in (">", "|"), words))
    variables = {}
    while re.match("[A-Z_]+=", words[0]):
        name, _, variables[name] = words.pop(0).partition("=")
    program = words[0].removeprefix(".venv/bin/")
    if program == "python" and words[1] == "train.py":
        return variables, ["train", *words[2:]]
    return variables, words[1:] if program == "mad" else []


def ours(path):
    """What ``mad`` is asked on a page."""
    for words in spoken(path):
        variables, said = asked(words)
        if said:
            yield variables, said
        else:
            command = shlex.join(words)
            assert any(command.startswith(known) for known in NO_COMMAND_OF_OURS), command


PARENT = ["--config", "configs/digits_diffusion_full_synth.yaml"]
"""Stands for what a lineage was configured with, where a command goes on from one."""


def read(verb, *words):
    """Reads a command as its verb does, as far as the verb does it before it looks at the disk."""
    module = import_module(f"mad_lightning.commands.{verb}")
    if {"--help", "--full_help"} & {*words}:
        return
    if verb == "train":
        build([word for word in words if word != "--dry_run"])
    elif verb == "branch":
        _, others = module.build_parser().parse_known_args(words)
        build(others if "--config" in others else [*PARENT, *others])
    elif verb == "measure" and (len(words) == 1 or words[1].startswith("--")):
        given, others = module.again_parser().parse_known_args(words[1:])
        build([*PARENT, *others, "--evaluator.metrics", json.dumps(given.metrics)])
    else:
        given = module.build_parser().parse_args(words)
        if verb == "study":
            module._made(module.build_parser(), given)
        elif verb == "sweep":
            Sweep.read(given.config, given.root)
        elif verb == "configs" and given.copy:
            assert given.copy in configs.names()


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """Where somebody stands who reads the pages: beside the configurations, and files of theirs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    Path("configs").symlink_to(ROOT / "configs")
    for stem, kind, name in (("README", "python", "my_module.py"), ("sweeps", "yaml", "mine.yaml")):
        (text,) = (path.read_text() for path in PAGES if path.stem == stem)
        (own,) = re.findall(rf"```{kind}\n(# {name}.*?)```", text, re.DOTALL)
        Path(name).write_text(own)
    return tmp_path


@pytest.fixture
def later(clone):
    """What earlier commands of a page have written."""
    for name in ("digits_diffusion_full_synth", "cifar10_diffusion_full_synth"):
        shutil.copy(ROOT / "configs" / f"{name}.yaml", clone)
    shutil.copy(clone / "digits_diffusion_full_synth.yaml", clone / "other.yaml")
    (clone / "cifar.yaml").write_text("lineage: {generations: 2}\n")


@pytest.mark.parametrize("path", [*filter(has_commands, PAGES)], ids=lambda path: path.name)
def test_every_command_of_a_page_is_understood(path, later):
    commands = [words for _, words in ours(path)]
    assert commands
    for words in commands:
        read(*words)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if "Examples:\n" in page(verb)])
def test_every_example_of_a_verb_is_understood(verb, later):
    text = page(verb).partition("Examples:\n")[2].partition("\n\n")[0].replace("\\\n", " ")
    assert text.strip()
    for line in text.splitlines():
        _, words = asked(shlex.split(line, comments=True))
        read(*words)


@pytest.mark.slow
def test_every_command_at_the_head_of_a_configuration_is_understood(later):
    """Those that tell more than the file itself, which tests/test_configs.py reads."""
    comment = re.compile(r"^#   ((?:mad|python train\.py) (?:.*\\\n#)*.*)$", re.MULTILINE)
    lines = {line for path in HEADS for line in comment.findall(path.read_text())}
    lines = sorted(line.replace("\\\n#", " ") for line in lines)
    more = [asked(shlex.split(line, comments=True))[1] for line in lines]
    more = [words for words in more if len(words) > 3]
    assert len(more) > 5
    for words in more:
        read(*words)


# --- run ------------------------------------------------------------------------------------------

DIGITS = ["--data.source", "Digits", "--data.n_reference", "100", "--evaluator.extractor", "Pixels"]
NORMAL = ["--data.source", "StandardNormal", "--data.source.dim", "2", "--data.n_reference", "200",
          "--evaluator.extractor", "Identity"]  # fmt: skip
EXTERNAL = f"{sys.executable} {ROOT / 'tests' / 'generators' / 'stand_in.py'}"
LINEAGES = {
    "x": [
        *DIGITS, "--policy", "FullySynthetic", "--policy.n_initial", "60",
        "--generator", "Diffusion", "--generator.network", "UNet",
        "--generator.network.widths", "[8, 16]", "--generator.sampling_steps", "3",
        "--data.images_per_epoch", "64", "--data.batch_size", "32",
    ],
    "my_trainer": [
        *DIGITS, "--policy", "FullySynthetic", "--policy.n_initial", "60",
        "--lineage.generations", "1", "--generator", "External",
        "--generator.train", f"{EXTERNAL} train --data {{data}} --out {{out}} --seed {{seed}}",
        "--generator.draw",
        f"{EXTERNAL} draw --out {{out}} --seeds {{seeds}} --label {{label}} --samples {{samples}}",
    ],
    **{
        f"digits_gaussian_seed{seed}": [
            *DIGITS, "--policy", "FullySynthetic", "--policy.n_initial", "200",
            "--generator", "Gaussian", "--seed_everything", f"{seed}",
        ]
        for seed in range(2)
    },
    **{
        f"x_full_synth_seed{seed}": [
            *NORMAL, "--policy", "FullySynthetic", "--policy.n_initial", "200",
            "--generator", "Gaussian", "--seed_everything", f"{seed}",
        ]
        for seed in range(4)
    },
    **{
        f"x_fresh{n}_seed{seed}": [
            *NORMAL, "--policy", "FreshData", "--policy.n_initial", "200",
            "--policy.n_fresh", f"{n}", "--policy.n_synthetic", f"{200 - n}",
            "--generator", "Gaussian", "--seed_everything", f"{seed}",
        ]
        for n in (50, 150)
        for seed in range(2)
    },
}  # fmt: skip
"""What stands in ``runs/`` already: three small generations of each."""


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """A user's things: lineages, pictures, arrays, and a network that diffusers has saved."""
    from diffusers import DDPMScheduler, UNet2DModel

    place = tmp_path_factory.mktemp("things")
    few = ["--lineage.root", str(place / "runs"), "--data.cache", str(place / "runs" / "cache"),
           "--callbacks", "[SampleGrids]", "--trainer.accelerator", "cpu"]  # fmt: skip
    for name, words in LINEAGES.items():
        build([*few, "--lineage.generations", "3", "--lineage.name", name, *words]).fit()
    rng = np.random.default_rng(0)
    for n in range(1600):
        folder = place / "photos" / ("cats" if n % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 36, 3), np.uint8)).save(folder / f"{n}.png")
    shutil.make_archive(str(place / "photos"), "zip", place / "photos")
    np.savez(place / "values.npz", x=rng.normal(size=(1600, 5)).astype(np.float32))
    for name, t in (("real", 1), ("synthetic", 3)):
        lineage = str(place / "runs" / "digits_gaussian_seed0")
        for kind, end in (("folder", ""), ("zip", ".zip"), ("npz", ".npz")):
            out = str(place / f"{name}{end}")
            main(["export", lineage, "--generation", str(t), "--to", kind, "--out", out])
    small = {"sample_size": 32, "block_out_channels": (8, 8), "norm_num_groups": 4}
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    UNet2DModel(**small, **blocks).save_pretrained(place / "ddpm-cifar10-32" / "unet")
    DDPMScheduler().save_pretrained(place / "ddpm-cifar10-32" / "scheduler")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("path", [*filter(has_commands, PAGES)], ids=lambda path: path.name)
def test_the_commands_of_a_page_run_in_order(path, clone, things, monkeypatch, capsys):
    shutil.copytree(things, clone, dirs_exist_ok=True)
    few = Path("mine.yaml").read_text().replace("grid:", "grid:\n  lineage.generations: [2]", 1)
    Path("mine.yaml").write_text(few)
    monkeypatch.setenv("HOME", str(clone))
    for variables, words in ours(path):
        if any(told in shlex.join(words) for told in NOT_RUN):
            read(*words)
            continue
        for name, value in ({"WANDB_MODE": "offline"} | variables).items():
            monkeypatch.setenv(name, value)
        words = [each for word in words for each in (there(word) if "*" in word else [word])]
        if words[0] == "train":
            admit(build(words[1:]))
            continue
        left = contextlib.nullcontext()
        if words[0] == "predict":  # which tells with its code whether the numbers allow it
            left = contextlib.suppress(SystemExit)
        with left:
            main(words)
        assert capsys.readouterr().out.strip(), words


def there(pattern):
    """As a shell has it."""
    return sorted(map(str, Path().glob(pattern)))
