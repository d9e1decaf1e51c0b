"""Strings and numbers that a JSON schema allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from dynamo_tasks.engines.mocker.dice import Dice

__all__ = ["UnmadeError", "bound", "make_number", "make_string"]

_LONGEST = 4096
_SEARCHED = 4096
"""Multiples among which a number is looked for."""
_MOST = 1 << 53
"""Up to here whole numbers are exact in every reader of JSON."""


class UnmadeError(Exception):
    """A value that cannot be made: where, and why."""


def _date(dice: Dice) -> str:
    return f"20{20 + dice.below(10)}-{1 + dice.below(12):02}-{1 + dice.below(28):02}"


def _time(dice: Dice) -> str:
    return f"{dice.below(24):02}:{dice.below(60):02}:{dice.below(60):02}Z"


def _uuid(dice: Dice) -> str:
    return f"{dice.hex(8)}-{dice.hex(4)}-4{dice.hex(3)}-8{dice.hex(3)}-{dice.hex(12)}"


_FORMATS: dict[str, Callable[[Dice], str]] = {
    "date": _date,
    "date-time": lambda dice: f"{_date(dice)}T{_time(dice)}",
    "duration": lambda dice: f"PT{1 + dice.below(59)}M",
    "email": lambda dice: f"{dice.words(1)}@{dice.words(1)}.example",
    "hostname": lambda dice: f"{dice.words(1)}.example",
    "ipv4": lambda dice: f"192.0.2.{1 + dice.below(254)}",
    "ipv6": lambda dice: f"2001:db8::{dice.hex(4).lstrip('0') or '1'}",
    "time": _time,
    "uri": lambda dice: f"https://{dice.words(1)}.example/{dice.words(1)}",
    "url": lambda dice: f"https://{dice.words(1)}.example/{dice.words(1)}",
    "uuid": _uuid,
}


def bound(schema: Mapping[str, Any], name: str, at: str) -> int | None:
    """A count that a schema names, of at least 0; ``None`` where it does not.

    Raises:
        UnmadeError: It is no such number.
    """
    value = schema.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST:
        _refuse(at, f"{name} must be a number of at least 0")
    return int(value)


def make_string(schema: Mapping[str, Any], dice: Dice, at: str) -> str:
    """A string: of its format, else pseudo-words within its bounds.

    Raises:
        UnmadeError: Its bounds leave nothing, are too large, or its format does not fit into them.
    """
    least, most = bound(schema, "minLength", at) or 0, bound(schema, "maxLength", at)
    if least > _LONGEST:
        _refuse(at, f"minLength is {least}; at most {_LONGEST} is made")
    if most is not None and most < least:
        _refuse(at, "maxLength is below minLength")
    made = _FORMATS.get(str(schema.get("format")))
    if made is not None:
        text = made(dice)
        if len(text) < least or (most is not None and len(text) > most):
            _refuse(at, f"format {schema['format']!r} does not fit into minLength and maxLength")
        return text
    text = dice.words(1 + dice.below(3))
    while len(text) < least:
        text += " " + dice.words(1)
    return text[: max(least, len(text) if most is None else most)].rstrip().ljust(least, "a")


def make_number(schema: Mapping[str, Any], dice: Dice, at: str, *, whole: bool) -> int | float:
    """A number within its bounds; a multiple where that is asked for.

    Raises:
        UnmadeError: Its bounds leave nothing, or are not numbers.
    """
    low, high = _limits(schema, at)
    step = _number(schema, "multipleOf", at)
    if step is not None and step <= 0:
        _refuse(at, "multipleOf must be above 0")
    if step is None and not whole:
        return low + (high - low) * (1 + dice.below(15)) / 16 if low < high else low
    step = step or 1
    first, last = math.ceil(low / step), math.floor(high / step)
    count = min(last - first + 1, _SEARCHED)
    start = dice.below(min(count, 64)) if count > 0 else 0
    for place in range(count):
        number = (first + (start + place) % count) * step
        if _inside(number, schema) and (not whole or number == int(number)):
            return int(number) if whole else number
    _refuse(at, "no number fits")


def _limits(schema: Mapping[str, Any], at: str) -> tuple[float, float]:
    lows = [_number(schema, name, at) for name in ("minimum", "exclusiveMinimum")]
    highs = [_number(schema, name, at) for name in ("maximum", "exclusiveMaximum")]
    low = max((value for value in lows if value is not None), default=None)
    high = min((value for value in highs if value is not None), default=None)
    step = _number(schema, "multipleOf", at) or 1
    if low is None:
        low = 0 if high is None or high > 0 else high - 100 * step
    if high is None:
        high = low + 100 * step
    if low > high or (low == high and not _inside(low, schema)):
        _refuse(at, "its bounds leave no number")
    return low, high


def _inside(number: float, schema: Mapping[str, Any]) -> bool:
    return not (number == schema.get("exclusiveMinimum") or number == schema.get("exclusiveMaximum"))


def _number(schema: Mapping[str, Any], name: str, at: str) -> float | None:
    value = schema.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_MOST <= value <= _MOST:
        _refuse(at, f"{name} must be a number of at most 2^53")
    return value


def _refuse(at: str, problem: str) -> NoReturn:
    raise UnmadeError(f"{at}: {problem}")
