"""A parser's words become field, problem and remedy.

jsonargparse nests its messages and argparse leaves the program by itself; neither says what to do.
All that is known of their wording is known here.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from mad_lightning.refusal import Refused

__all__ = ["PlainParser", "explain"]


def explain(message: str, parser: Any, listing: str) -> Refused:
    """Turns jsonargparse's words, which nest, into a refusal.

    Args:
        message: What it complained of.
        parser: The parser, for names that could have been meant.
        listing: Where all names are listed.
    """
    text = re.sub(r"\s+", " ", message).strip()
    field = ""
    for key in re.findall(r"Parser key [\"']([\w.]+)[\"']", text):  # the last may be told again
        field += "" if f".{field}".endswith(f".{key}") else f".{key}" if field else key
    keys, field = [field] if field else [], field or "configuration"
    for name in dict.fromkeys(re.findall(r"\b(?:[a-zA-Z_]\w*\.)+[A-Z]\w*", text)):
        if problem := check_class(name):
            return Refused(field, problem, "name a class as module.Class")

    if missing := re.search(r"(?:File does not exist|Unable to open file)[^']*'([^']+)'", text):
        path = Path(missing[1])
        there = [file.name for file in path.parent.glob("*.y*ml")]
        near = difflib.get_close_matches(path.name, there, 3, 0.5)
        hint = (
            f"did you mean {_either(near)}?" if near else "mad configs lists those that come along"
        )
        return Refused(field, f"there is no file {path}", hint)
    unknown = re.search(r"[Oo]ption '([\w.+]+)' is not accepted", text) or re.search(
        r"[Uu]nrecognized arguments: (?:--)?([\w.+]+)", text
    )
    group = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text)
    if unknown or group:
        key = group[2] if group else unknown[1] if unknown else ""
        field = ".".join([*keys, *([group[1]] if group else []), key])
        near = _near(key.split(".")[-1], _known_fields(parser, text))
        hint = f"did you mean {_either(near)}? " if near else ""
        return Refused(field, "there is no such field", hint + listing)
    if name := re.search(r"Expected a dot import path string: (\S+)", text):
        known = _known_classes(text)
        near = difflib.get_close_matches(name[1], known, 3, 0.5) or known
        hint = f"choose {_either(near)}" if near else listing
        return Refused(field, f"there is no class {name[1]}", hint)
    lost = re.search(r"Given value: NestedArg\(key='(\w+)'", text)
    if lost and "class_path" not in text:
        classless = f"a class takes {lost[1]}, and none is named before it"
        return Refused(
            f"{field}.{lost[1]}", classless, f"name it: --{field} CLASS, or in a --config"
        )
    if reason := _reason(text):
        return Refused(field, *reason)
    if value := re.search(
        r"Expected a (.+?)\. Got value: (.*?)(?: - (?:Expected|Problem)|$)", text
    ):
        kinds = value[1].replace("typing.Literal", "one of ").replace("<class ", "")
        return Refused(field, f"{value[2]} is not accepted", "give " + kinds.strip("'>"))
    if value := re.search(r"Subtypes: \[(.+?)\] .*Given value: (.*)$", text):
        kinds = re.sub(r"<class '([\w.]+)'>", r"\1", value[1]).replace("NoneType", "null")
        kinds = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", kinds)
        return Refused(field, f"{value[2]} is not accepted", f"give {kinds}")
    return Refused(field, text[:500], listing)


def _reason(text: str) -> tuple[str, str] | None:
    """Why a class that is there cannot stand where it was named, and the remedy."""
    given = re.findall(r"[\w.]+\.[A-Za-z]\w*", text.partition("Given value: ")[2])
    if missing := re.search(
        r"class_path '([\w.]+)': the following arguments are required: (.*?) - ", text
    ):
        name = missing[1].rpartition(".")[2]
        init_args = ", ".join(f"{argument}: ..." for argument in missing[2].split(", "))
        remedy = f"give {{class_path: {name}, init_args: {{{init_args}}}}}"
        return f"{name} needs {missing[2]}", remedy
    if "Expected an instantiatable class" in text:
        for name in given:
            module, _, kind = name.rpartition(".")
            lacking = getattr(
                getattr(importlib.import_module(module), kind), "__abstractmethods__", ()
            )
            if lacking:
                return f"{name} does not define {', '.join(sorted(lacking))}", "define it"
    if base := re.search(r"(\S+) does not correspond to a subclass of (\w+)", text):
        name = given[-1] if given else base[1]
        return f"{name} is no {base[2]}", f"name a class that inherits from {base[2]}"
    if untyped := re.search(r"Parameter '(\w+)' from '([\w.]+)' does not specify a type", text):
        return f"{untyped[2]} does not say what {untyped[1]} is", f"write {untyped[1]}: int, say"
    if named := re.search(r"Unexpected import path format: (\S+)", text):
        return f"{named[1]} names no class", "name one as module.Class, e.g. my_module.Mine"
    if absent := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text):
        return f"{absent[1]} has no {absent[2]}", "name what is there, as module.name"
    return None


def check_class(name: str) -> str:
    """Why there is no such class: its module is not there, or lacks it.

    Args:
        name: A dotted name.

    Returns:
        The problem in words; nothing if there is such a class.

    Raises:
        Exception: What a module of the user's own raises when it is imported: the parser hides it.
    """
    module, _, name_in_it = name.rpartition(".")
    try:
        has_it = hasattr(importlib.import_module(module), name_in_it)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        return f"there is no module {error.name}, neither installed nor where you stand"
    return "" if has_it else f"{module} has no {name_in_it}{_hidden(module)}"


def _hidden(module: str) -> str:
    """What to say of a file where one stands that a library's module of the same name hides."""
    file, own = getattr(sys.modules[module], "__file__", None), Path(f"{module}.py")
    if not own.is_file() or (file and Path(file).resolve() == own.resolve()):
        return ""
    return f": it is {file or 'built in'}, which hides {own}; call yours otherwise"


class PlainParser(argparse.ArgumentParser):
    """argparse for a verb of few flags, whose errors are refusals.

    Args:
        verb: The verb; its page describes the flags.
    """

    def __init__(self, verb: str) -> None:
        super().__init__(prog=f"mad {verb}", add_help=False, allow_abbrev=False)

    @property
    def flags(self) -> list[str]:
        """All options that start with dashes."""
        return [name for action in self._actions for name in action.option_strings]

    def error(self, message: str) -> NoReturn:
        """Says no as all doors do."""
        listing = f"{self.prog} --help shows all options"
        if unknown := re.match(r"unrecognized arguments: (\S+)", message):
            near = difflib.get_close_matches(unknown[1], self.flags, 3, 0.6)
            hint = f"did you mean {_either(near)}? " if near else ""
            raise Refused(unknown[1], "there is no such option", hint + listing)
        if missing := re.match(r"the following arguments are required: (.*)", message):
            raise Refused(missing[1], "missing", listing)
        argument, _, problem = message.removeprefix("argument ").partition(": ")
        raise Refused(argument, problem, listing)


def _either(names: Sequence[str]) -> str:
    return " or ".join(names)


def _known_fields(parser: Any, text: str) -> list[str]:
    """Fields that could have been meant, as one would write them."""
    names = {action.dest for action in parser._actions}
    inner: set[str] = set()
    for path in re.findall(r"class_path ?[=']+ ?'?([\w.]+)'", text):
        module, _, name = path.rpartition(".")
        try:
            at_fault = getattr(importlib.import_module(module), name)
            inner |= set(inspect.signature(at_fault).parameters)  # it knows best
        except (ImportError, AttributeError, ValueError):
            continue
    return sorted(inner or names)


def _near(name: str, fields: Sequence[str]) -> list[str]:
    """Fields whose last part is a name; if there are none, looks like it; or else contains it."""
    parts = {field.rpartition(".")[2] for field in fields}
    near = [name] if name in parts else difflib.get_close_matches(name, parts, 3, 0.6)
    near = near or [part for part in sorted(parts) if len(name) > 2 and name in part]
    return [field for part in near for field in fields if field.rpartition(".")[2] == part][:3]


def _known_classes(text: str) -> list[str]:
    """Concrete classes below those that a message names as acceptable."""
    names: set[str] = set()
    for path in re.findall(r"<class '([\w.]+)'>", text):
        module, _, name = path.rpartition(".")
        if module.startswith("mad_lightning"):
            bases = [getattr(importlib.import_module(module), name)]
            while bases:
                base = bases.pop()
                bases += base.__subclasses__()
                if not inspect.isabstract(base) and not base.__name__.startswith("_"):
                    names.add(base.__name__)
    return sorted(names)
