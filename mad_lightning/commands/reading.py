"""A configuration file says one thing, or is refused with the line.

YAML is kinder than an experiment can stand: of two equal keys the last one wins, ``0100`` is 64 and
``3:20`` is 200, a page of aliases unfolds to gigabytes. And a file is UTF-8 whatever the system's
language is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from jsonargparse import get_loader, set_loader

from mad_lightning.refusal import Refused

__all__ = ["Unreadable", "check", "read_strictly", "text_of"]

_DEEPEST = 50
_LONGEST = 20_000
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
"""What YAML 1.1 reads to the base of 8 or 60, and nobody means."""


class Unreadable(Exception):  # no ValueError: the parser would take it for a wrong value
    """A text that is no configuration; carries the refusal.

    Args:
        refused: With the file, or nothing where the text was given on the command line.
    """

    def __init__(self, refused: Refused) -> None:
        super().__init__(str(refused))
        self.refused = refused


def text_of(path: Path, name: str) -> str:
    """Reads a configuration file.

    Args:
        path: The file.
        name: What it is called where it was asked for.

    Raises:
        Unreadable: If it is not UTF-8, or does not say one thing.
    """
    if path.suffix == ".py":
        remedy = f"name a class in it as {path.stem}.Class"
        raise Unreadable(Refused(name, "is Python, no configuration", remedy))
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"is no UTF-8 text: byte {error.object[error.start]:#04x} at {error.start}"
        raise Unreadable(Refused(name, problem, "save it as UTF-8")) from None
    if not text.strip():
        raise Unreadable(Refused(name, "is empty", "mad configs lists files that say something"))
    check(text, name)
    return text


def check(text: str, path: str = "") -> None:
    """Looks for what YAML would accept in silence.

    Args:
        text: YAML. Where there is no path, text that is no YAML at all is left to the parser.
        path: The file that it stands in, if any.

    Raises:
        Unreadable: If a key stands twice, a number has another base, or it unfolds without end.
    """
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise _no(path, event, f"is nested more than {_DEEPEST} deep", "write it flatter")
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        if not path:
            return
        raise _no(
            path, error, _first_words(error), "mend the YAML there, configs/ has examples"
        ) from None
    if root is not None:
        _unfolded(root, path, {})
        _check_numbers_and_keys(root, path)


def _no(path: str, where: Any, problem: str, remedy: str) -> Unreadable:
    """What is wrong, with the line."""
    mark = getattr(where, "start_mark", None) or getattr(where, "problem_mark", None)
    line = f"line {mark.line + 1}: " if path and mark else ""
    return Unreadable(Refused(path or "configuration", line + problem, remedy))


def _first_words(error: yaml.YAMLError) -> str:
    context, problem = getattr(error, "context", None), getattr(error, "problem", None)
    words = ", ".join(part for part in (context, problem) if part) or str(error).splitlines()[0]
    return words[:300]


def _unfolded(node: yaml.Node, path: str, sizes: dict[int, int]) -> int:
    """How many nodes a node is, with all aliases written out."""
    if id(node) not in sizes:
        sizes[id(node)] = _LONGEST + 1  # met again below itself, it has no end
        sizes[id(node)] = 1 + sum(_unfolded(inner, path, sizes) for inner in _inner(node))
        if sizes[id(node)] > _LONGEST:
            problem = f"unfolds to more than {_LONGEST} values through its aliases"
            raise _no(path, node, problem, "write out what is meant")
    return sizes[id(node)]


def _inner(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _check_numbers_and_keys(root: yaml.Node, path: str) -> None:
    """Refuses numbers to another base, and keys that stand twice, dotted ones too."""
    keys: dict[str, int] = {}

    def walk(node: yaml.Node, place: str) -> None:
        if isinstance(node, yaml.ScalarNode):
            is_number = node.tag.endswith((":int", ":float"))
            if path and is_number and _OTHER_BASE.fullmatch(node.value):
                problem = f"{node.value} is a number to the base of 8 or 60 in YAML"
                raise _no(path, node, problem, "write it to the base of 10, or in quotes as text")
        elif isinstance(node, yaml.SequenceNode):
            for number, inner in enumerate(node.value):
                walk(inner, f"{place}[{number}].")
        elif isinstance(node, yaml.MappingNode):
            here: set[str] = set()
            for key, inner in node.value:
                if key.tag.endswith(":merge"):
                    continue
                name = place + str(key.value)
                is_leaf = not isinstance(inner, yaml.MappingNode)
                if name in here or (is_leaf and name in keys):
                    before = f", before on line {keys[name]}" if path and name in keys else ""
                    problem = f"{name} stands twice{before}: which one is meant?"
                    raise _no(path, key, problem, "take one of them out")
                here.add(name)
                keys[name] = key.start_mark.line + 1
                walk(inner, name + ".")

    walk(root, "")


@cache
def read_strictly() -> None:
    """Lets the parser read all YAML so, in files and in values."""
    load, read_text = get_loader("yaml"), jsonargparse.Path.read_text

    def load_strictly(text: str) -> Any:
        check(text)
        try:
            return load(text)
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
            raise yaml.YAMLError(f"{text[:80]!r} has no value: {error}") from error

    def read_strictly(self: Any) -> str:
        path = Path(self.absolute)
        return text_of(path, str(self)) if path.is_file() else read_text(self)

    set_loader("yaml", load_strictly, (yaml.YAMLError,))
    jsonargparse.Path.read_text = read_strictly
