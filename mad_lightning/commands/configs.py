"""mad configs: the configurations that come along, to be read and copied.

usage: mad configs [WORD ...]
       mad configs --show NAME
       mad configs --copy NAME [--to FILE]

Examples:
  mad configs digits                  # those whose name or first sentence holds the word
  mad configs --copy digits_diffusion_full_synth
  mad train --config digits_diffusion_full_synth.yaml

Options:
  --show NAME   print a file
  --copy NAME   write it here, under its own name; a sweep in sweeps/, and here what it names
  --to FILE     or under this one, alone
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from mad_lightning.commands.explain import PlainParser
from mad_lightning.refusal import Refused

__all__ = ["CONFIGS", "build_parser", "names", "run"]

CONFIGS = Path(__file__).parents[1] / "configs"
"""Where they lie, in a clone and in an installed package."""


def build_parser() -> PlainParser:
    """All that may be said to it."""
    parser = PlainParser("configs")
    add = parser.add_argument
    add("words", nargs="*", metavar="WORD")
    add("--show", metavar="NAME")
    add("--copy", metavar="NAME")
    add("--to", type=Path, metavar="FILE")
    return parser


def run(args: Sequence[str]) -> None:
    """Lists, shows or copies."""
    given = build_parser().parse_args(args)
    files = names()
    if name := given.show or given.copy:
        if given.show:
            return print(_file(files, name).read_text(encoding="utf-8"), end="")
        return _copy(_file(files, name), given.to)
    told = {name: _lesson(file) for name, file in files.items()}
    words = [word.lower() for word in given.words]
    for name, lesson in told.items():
        if all(word in f"{name} {lesson}".lower() for word in words):
            print(
                name,
                textwrap.fill(lesson, 80, initial_indent="  ", subsequent_indent="  "),
                sep="\n",
            )
    return None


def names() -> dict[str, Path]:
    """The configurations, by name."""
    files = sorted(CONFIGS.rglob("*.yaml"))
    return {str(file.relative_to(CONFIGS).with_suffix("")): file for file in files}


def _copy(file: Path, to: Path | None) -> None:
    """Writes a file, and those that it names beside it: a sweep names what it varies."""
    text = file.read_text(encoding="utf-8")
    named = re.findall(r"[\w./-]+\.yaml", re.sub("#.*", "", text))
    target = to or (file.relative_to(CONFIGS) if named else Path(file.name))
    if target.exists():
        raise Refused("--to", f"{target} exists already", "name another file")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    for name in () if to else dict.fromkeys(named):
        beside = Path(os.path.normpath(target.parent / name))  # sweeps/../x.yaml is x.yaml
        if not beside.exists():
            beside.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text((file.parent / name).read_text(encoding="utf-8"), encoding="utf-8")
            print(beside)
    verb = "sweep" if named else "study" if file.parent.name == "studies" else "train"
    print(f"{target}: mad {verb} --config {target}")


def _file(files: dict[str, Path], name: str) -> Path:
    name = name.removeprefix("configs/").removesuffix(".yaml")
    if name not in files:
        near = get_close_matches(name, files, 3, 0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "mad configs lists them"
        raise Refused("NAME", f"there is no configuration {name}", hint)
    return files[name]


def _lesson(file: Path) -> str:
    """The first sentence of the comment that a file opens with."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    sentence, end, _ = " ".join(lines).partition(". ")
    return sentence.removesuffix(".") + ("." if end or lines else "")
