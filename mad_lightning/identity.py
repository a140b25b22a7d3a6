"""What a thing is: its class, and what it was made with.

A configuration file names classes and their arguments. What was made in Python tells the same of
itself: whatever is :class:`Described` remembers the call that made it, so that a lineage that was
built in Python is known by the same facts as one from the command line, and goes on under no
others. What remembers nothing is told by its class and by what can be seen of it: arrays and
frozen weights by a digest, weights that training decides by their shapes, other objects by their
plain attributes.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

__all__ = ["Described", "class_path", "description"]


class Described:
    """Remembers the arguments that it was made with, also those of a subclass."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keeps the arguments; ``__init__`` reads them."""
        if cls.__init__ is object.__init__ and (args or kwargs):
            raise TypeError(f"{cls.__name__}() takes no arguments")
        made = super().__new__(cls)
        object.__setattr__(made, "_made_with", (args, kwargs))  # a module is not ready for others
        return made


def description(thing: Any) -> Any:
    """A thing as a configuration file would have it, in plain values.

    Objects and partial calls become ``class_path`` and ``init_args``, defaults included.
    """
    if isinstance(thing, bool | None):
        return thing
    if isinstance(thing, Enum):
        return description(thing.value)
    for plain in (str, int, float):
        if isinstance(thing, plain):
            return plain(thing)  # also what is only like one, as numpy's numbers
    if isinstance(thing, Path):
        return str(thing)
    if isinstance(thing, Mapping):
        return {str(key): description(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [description(value) for value in thing]
    if isinstance(thing, set | frozenset):
        return sorted(map(description, thing), key=repr)
    if isinstance(thing, Described) and hasattr(thing, "_made_with"):
        args, kwargs = thing._made_with
        return _call(type(thing), *args, **kwargs)
    if isinstance(thing, partial):
        return _call(thing.func, *thing.args, **thing.keywords)
    if isinstance(thing, type) or inspect.isroutine(thing):
        return _function(thing)
    if is_dataclass(thing):
        return _call(
            type(thing), **{f.name: getattr(thing, f.name) for f in fields(thing) if f.init}
        )
    if getattr(thing, "shape", None) == () and hasattr(thing, "item"):
        return description(thing.item())
    if not hasattr(thing, "__dict__") and not hasattr(thing, "shape") and "0x" not in repr(thing):
        return repr(thing)  # of a dtype, a device, a range, that is all there is to say
    return {"class_path": class_path(type(thing)), **_seen(thing)}


def class_path(thing: Any) -> str:
    """Where a class or function can be imported from; a script is known by its file."""
    module = getattr(thing, "__module__", None) or ""
    if module == "__main__":
        module = Path(getattr(sys.modules["__main__"], "__file__", None) or module).stem
    return f"{module}.{thing.__qualname__}"


def _call(made: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """A class or function, and all arguments of a call of it, as far as they are given."""
    try:
        call = inspect.signature(made).bind_partial(*args, **kwargs)
        call.apply_defaults()
        arguments = dict(call.arguments)
        for parameter in inspect.signature(made).parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments |= arguments.pop(parameter.name, {})
            elif parameter.kind is parameter.VAR_POSITIONAL and not arguments[parameter.name]:
                del arguments[parameter.name]
    except (TypeError, ValueError):  # it has no signature, or the call did not fit
        arguments = {**{str(place): value for place, value in enumerate(args)}, **kwargs}
    path = class_path(made) if hasattr(made, "__qualname__") else description(made)
    told = {"class_path": path}
    return told | ({"init_args": description(arguments)} if arguments else {})


def _function(thing: Any) -> Any:
    """A name that can be imported; of one that has none, the names and numbers in it."""
    code = getattr(thing, "__code__", None)
    path = class_path(thing) if hasattr(thing, "__qualname__") else type(thing).__name__
    if code is None or "<" not in path:
        return path
    inside = sorted(
        {*code.co_names, *(repr(c) for c in code.co_consts if isinstance(c, int | float | str))}
    )
    around = []
    for cell in thing.__closure__ or ():
        with suppress(ValueError):  # it is empty still
            around += [cell.cell_contents] if cell.cell_contents is not thing else []
    return {
        "function": inside,
        "around": description(around),
        "defaults": description(thing.__defaults__),
    }


def _seen(thing: Any) -> dict[str, Any]:
    """What can be seen of an object that remembers nothing."""
    if hasattr(thing, "state_dict") and hasattr(thing, "named_parameters"):
        shapes = {
            name: list(value.shape)
            for name, value in thing.state_dict().items()
            if hasattr(value, "shape")
        }
        told = {"shapes": sha256(repr(shapes).encode()).hexdigest(), **_attributes(thing)}
        frozen = {k: _digest(v) for k, v in thing.named_parameters() if not v.requires_grad}
        return {**told, "frozen": frozen} if frozen else told
    if hasattr(thing, "shape") and hasattr(thing, "dtype"):
        return {"sha256": _digest(thing)}
    return _attributes(thing)


def _digest(array: Any) -> str:
    """SHA-256 of an array or tensor."""
    facts = f"{array.dtype} {tuple(array.shape)}".encode()
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = (array.float() if "bfloat16" in str(array.dtype) else array).numpy()
    return sha256(facts + array.tobytes()).hexdigest()


def _attributes(thing: Any) -> dict[str, Any]:
    """Its plain attributes."""
    told = {
        name: value
        for name, value in sorted(getattr(thing, "__dict__", {}).items())
        if not name.startswith("_")
        and name != "training"
        and isinstance(value, str | int | float | bool | None)
    }
    return {"init_args": told} if told else {}
