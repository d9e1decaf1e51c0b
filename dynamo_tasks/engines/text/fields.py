"""Checks of single fields of a payload, each with one clear error that names the field."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.http.bodies import similar

__all__ = [
    "integer",
    "nearest",
    "number",
    "refuse_misspelled",
    "string",
    "string_list",
    "switch",
    "token_ids",
]


def nearest(name: str, known: Iterable[str], cutoff: float = 0.0) -> str | None:
    """The known name that looks most like ``name``, if any is at least ``cutoff`` (0..1) similar."""
    plain = {other.lower(): other for other in known}
    found = difflib.get_close_matches(name.lower().replace("-", "_"), plain, n=1, cutoff=cutoff)
    return plain[found[0]] if found else None


def refuse_misspelled(payload: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse a field that nobody knows and that looks like a known one; other unknown fields pass.

    Raises:
        InvalidRequestError: names the field and the one that was probably meant.
    """
    for name in payload:
        if not isinstance(name, str):
            raise InvalidRequestError(f"field names must be strings, not {type(name).__name__}")
    if found := similar(payload, known):
        name, meant = found
        raise InvalidRequestError(f"unknown field {name!r}; did you mean {meant!r}?", param=name)


def _wrong(param: str, value: object, allowed: str) -> InvalidRequestError:
    shown = f"{value!r}" if isinstance(value, int | float | str | None) else type(value).__name__
    if len(shown) > 60:
        shown = shown[:57] + "..."
    return InvalidRequestError(f"{param} must be {allowed}, not {shown}", param=param)


def _bounds(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low} to {high}"
    return f" of at least {low}" if low is not None else ""


def integer(value: object, param: str, low: int | None = None, high: int | None = None) -> int:
    """``value`` if it is an integer from ``low`` to ``high`` (both included)."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON of some clients writes 16 as 16.0
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or (low is not None and value < low)
        or (high is not None and value > high)
    ):
        raise _wrong(param, value, f"an integer{_bounds(low, high)}")
    return value


def number(value: object, param: str, low: float, high: float) -> float:
    """``value`` if it is a number from ``low`` to ``high`` (both included)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _wrong(param, value, f"a number{_bounds(low, high)}")
    return float(value)


def switch(value: object, param: str) -> bool:
    """``value`` if it is true or false."""
    if not isinstance(value, bool):
        raise _wrong(param, value, "true or false")
    return value


def string(value: object, param: str) -> str:
    """``value`` if it is a string that is not empty."""
    if not isinstance(value, str) or not value:
        raise _wrong(param, value, "a string that is not empty")
    return value


def string_list(value: object, param: str, most: int) -> list[str]:
    """A string or a list of up to ``most`` strings, as a list; none of them empty."""
    if isinstance(value, str):
        return [string(value, param)]
    if not isinstance(value, list | tuple):
        raise _wrong(param, value, "a string or a list of strings")
    if len(value) > most:
        raise InvalidRequestError(
            f"{param} has {len(value)} entries; at most {most} are allowed", param=param
        )
    return [string(item, f"{param}[{i}]") for i, item in enumerate(value)]


def token_ids(value: object, param: str, vocab_size: int | None = None) -> list[int]:
    """A list of token ids, each from 0 to below ``vocab_size``; may be empty."""
    if not isinstance(value, list | tuple):
        raise _wrong(param, value, "a list of token ids")
    top = (vocab_size or 1 << 32) - 1
    for i, item in enumerate(value):
        if type(item) is not int or not 0 <= item <= top:
            raise _wrong(f"{param}[{i}]", item, f"a token id from 0 to {top}")
    return list(value)
