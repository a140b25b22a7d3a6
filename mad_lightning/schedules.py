"""Numbers that depend on the generation: arithmetic in t, written as text.

Counts are integer arithmetic, a sampling bias is arithmetic in fractions. Text from a file is never
run. It is parsed, and what is not such arithmetic is refused at once; so is what no machine could
count to, before it is computed.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
import re
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from mad_lightning.refusal import Refused, check_sampling_bias

__all__ = [
    "MOST",
    "bias_schedule",
    "check_count",
    "check_weight",
    "count_schedule",
    "schedule",
    "spelled",
]

MOST = 10**15
"""No count is larger; how many a machine can hold is asked where machines are known."""
_LONGEST = 200


def _power(base: Any, exponent: Any) -> Any:
    """A power that stays small while it is computed."""
    if isinstance(base, float) or isinstance(exponent, float):
        power = float(base) ** float(exponent)
        if isinstance(power, complex):
            raise OverflowError
        return power
    if exponent < 0 or exponent * (abs(base).bit_length() - 1) > MOST.bit_length():
        raise OverflowError
    return base**exponent


_Operators = Mapping[type[ast.operator], Callable[[Any, Any], Any]]
_WHOLE: _Operators = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
    ast.Pow: _power,
}
_FRACTIONS: _Operators = {**_WHOLE, ast.Div: operator.truediv}


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
    if isinstance(n, Integral) and not isinstance(n, bool):
        return lambda t: int(n)
    if not isinstance(n, str):
        raise ValueError(f"{n!r} is no count, and no arithmetic in t")
    return _arithmetic(n, _WHOLE, " (10^15 samples)")


def _arithmetic(given: str, operators: _Operators, bounds: str) -> Callable[[int], Any]:
    """Text as a function of the generation; see :func:`schedule`."""
    if len(given) > _LONGEST:
        raise ValueError(f"{given[:20]!r}... is longer than {_LONGEST} characters")
    kinds = int if operators is _WHOLE else (int, float)
    text = re.sub(r"(?<=[\d)\s])[x×](?=[\d(\st])", "*", given.strip())
    text = re.sub(r"(\d+)\s*k\b", r"\g<1>000", text)
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{given!r} is not arithmetic in t") from error

    def value(node: ast.expr, t: int) -> Any:
        match node:
            case ast.Constant(value=number) if type(number) is not bool and isinstance(
                number, kinds
            ):
                return _bounded(number)
            case ast.Name(id="t"):
                return t
            case ast.BinOp(left=left, op=op, right=right) if type(op) in operators:
                return _bounded(operators[type(op)](value(left, t), value(right, t)))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand, t)
            case ast.Call(func=ast.Name(id="min" | "max" as name), args=args) if args:
                return (min if name == "min" else max)(value(arg, t) for arg in args)
        raise ValueError(f"{given!r} is not arithmetic in t")

    @functools.cache
    def number(t: int) -> Any:
        try:
            return value(tree, t)
        except ZeroDivisionError:
            raise ValueError(f"{given!r} divides by zero at t = {t}") from None
        except OverflowError:
            raise ValueError(f"{given!r} leaves all bounds at t = {t}{bounds}") from None

    number(2)  # complain now, not at generation 2
    return number


def _bounded(number: Any) -> Any:
    if not abs(number) <= MOST:
        raise OverflowError
    return number


# as parameters


def check_count(field: str, n: object, least: int) -> None:
    """Refuses what is no whole number of samples.

    Raises:
        Refused: With the field, and what stands there.
    """
    if isinstance(n, bool) or not isinstance(n, Integral):
        raise Refused(field, f"{n!r} is no count", f"give a whole number, at least {least}")
    if not least <= int(n) <= MOST:
        raise Refused(field, f"{n} samples", f"take at least {least}, at most 10^15")


def check_weight(field: str, weight: object) -> None:
    """Refuses what is no positive number.

    Raises:
        Refused: With the field.
    """
    remedy = "give a positive number, 1 for what counts once"
    if isinstance(weight, bool) or not isinstance(weight, Real):
        raise Refused(field, f"{weight!r} is no number", remedy)
    if not 0.0 < float(weight) <= 1e6:
        raise Refused(field, f"{weight} lies outside (0, 1000000]", remedy)


def count_schedule(field: str, n: object, least: int) -> Callable[[int], int]:
    """A count, or a schedule of counts, as a parameter.

    Args:
        field: Name of the parameter.
        n: What was given for it.
        least: The smallest number that it may be. What a schedule says is looked at later, by
            whoever knows how many generations there are.

    Raises:
        Refused: If it is neither.
    """
    if not isinstance(n, str):
        check_count(field, n, least)
    try:
        return schedule(n)  # type: ignore[arg-type] # it was looked at
    except ValueError as error:
        raise Refused(field, str(error), 'write a whole number, or e.g. "(t-1) * 70000"') from None


def bias_schedule(sampling_bias: float | str) -> Callable[[int], float]:
    """Reads a sampling bias λ that may depend on the generation.

    Args:
        sampling_bias: A number in (0, 1], or arithmetic in ``t``: ``"max(0.5, 1 - 0.1*t)"``.

    Returns:
        A function from the generation t >= 1 to λ; Refused where it is outside (0, 1].

    Raises:
        Refused: If it is neither, or has no value in (0, 1] for generation 1.

    Example:
        >>> [bias_schedule("max(0.5, 1 - 0.25*(t-1))")(t) for t in (1, 2, 3, 4)]
        [1.0, 0.75, 0.5, 0.5]
    """
    if not isinstance(sampling_bias, str):
        if isinstance(sampling_bias, bool) or not isinstance(sampling_bias, Real):
            kind = f"{type(sampling_bias).__name__} is no number"
            raise Refused("sampling_bias", kind, 'write e.g. 0.66 or "max(0.5, 1 - 0.1*t)"')
        check_sampling_bias(float(sampling_bias))
        return lambda t: float(sampling_bias)
    example = 'write e.g. "max(0.5, 1 - 0.1*t)"'
    try:
        number = _arithmetic(sampling_bias, _FRACTIONS, "")
    except ValueError as error:
        raise Refused("sampling_bias", str(error), example) from None

    def bias(t: int) -> float:
        try:
            value = float(number(t))
        except ValueError as error:
            raise Refused("sampling_bias", str(error), example) from None
        if not (math.isfinite(value) and 0.0 < value <= 1.0):
            problem = f"{sampling_bias!r} is λ = {value:g} in generation {t}, outside (0, 1]"
            raise Refused("sampling_bias", problem, "bound it by max(0.1, ...) or min(1, ...)")
        return value

    bias(1)
    return bias


def spelled(sampling_bias: float | str) -> str:
    """A sampling bias as people read it: ``0.66``, or its schedule."""
    return sampling_bias if isinstance(sampling_bias, str) else f"{sampling_bias:g}"
