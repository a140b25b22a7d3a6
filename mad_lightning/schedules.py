"""Counts that depend on the generation: integer arithmetic in t, written as text.

Text from a file is never run. It is parsed, and what is not such arithmetic is refused at once; so
is what no machine could count to, before it is computed.
"""

from __future__ import annotations

import ast
import functools
import operator
import re
from collections.abc import Callable

__all__ = ["MOST", "schedule"]

MOST = 10**15
"""No count is larger; how many a machine can hold is asked where machines are known."""


def _power(base: int, exponent: int) -> int:
    """A power that stays small while it is computed."""
    if exponent < 0 or exponent * (abs(base).bit_length() - 1) > MOST.bit_length():
        raise OverflowError
    return base**exponent


_ARITHMETIC: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
    ast.Pow: _power,
}


def schedule(n: int | str) -> Callable[[int], int]:
    """Reads a count that may depend on the generation.

    Args:
        n: A number, or integer arithmetic in ``t``: ``"(t-1) * 70000"``, ``"(t-1) x 70k"``.

    Returns:
        A function from the generation t >= 1 to a count, or ValueError where there is none: it
        divides by zero, or leaves ±10^15.

    Raises:
        ValueError: If the text is not such arithmetic, or has no value for generation 2.

    Example:
        >>> [schedule("(t-1) x 70k")(t) for t in (1, 2, 3)]
        [0, 70000, 140000]
    """
    if isinstance(n, int):
        return lambda t: n
    if len(n) > 200:
        raise ValueError(f"{n[:20]!r}... is longer than 200 characters")
    text = re.sub(r"(?<=[\d)\s])[x×](?=[\d(\st])", "*", n.strip())
    text = re.sub(r"(\d+)\s*k\b", r"\g<1>000", text)
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{n!r} is not arithmetic in t") from error

    def value(node: ast.expr, t: int) -> int:
        match node:
            case ast.Constant(value=int(number)) if not isinstance(number, bool):
                return _bounded(number)
            case ast.Name(id="t"):
                return t
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _bounded(_ARITHMETIC[type(op)](value(left, t), value(right, t)))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand, t)
            case ast.Call(func=ast.Name(id="min" | "max" as name), args=args) if args:
                return (min if name == "min" else max)(value(arg, t) for arg in args)
        raise ValueError(f"{n!r} is not arithmetic in t")

    @functools.cache
    def count(t: int) -> int:
        try:
            return value(tree, t)
        except ZeroDivisionError:
            raise ValueError(f"{n!r} divides by zero at t = {t}") from None
        except OverflowError:
            raise ValueError(f"{n!r} leaves all bounds at t = {t} (10^15 samples)") from None

    count(2)  # complain now, not at generation 2
    return count


def _bounded(n: int) -> int:
    if abs(n) > MOST:
        raise OverflowError
    return n
