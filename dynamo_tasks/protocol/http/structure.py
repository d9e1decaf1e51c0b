"""The amount of values in a JSON text, bounded before it is decoded.

A decoder holds the interpreter until it is done, in whichever thread it runs. Texts cost it next to nothing (10 MB in
20 ms); a million small objects cost a second, in which nobody else is served. So their number is bounded, and counted
in a way that lets others run.
"""

from __future__ import annotations

import re

from dynamo_tasks.errors import InvalidRequestError

__all__ = ["MAX_CONTAINERS", "MAX_VALUES", "check_structure"]

MAX_CONTAINERS = 100_000
"""Objects, arrays and members of objects, each; of one body."""
MAX_VALUES = 500_000
"""Values of one body: a prompt may be that many token ids."""

_MARKS = ((b"[", MAX_CONTAINERS), (b"{", MAX_CONTAINERS), (b":", MAX_CONTAINERS), (b",", MAX_VALUES))
_WINDOW = 1 << 16
_INSIDE = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
"""The rest of a string, up to its end."""


def check_structure(raw: bytes) -> None:
    """Count what stands outside of strings; may take a second, in steps of less than a millisecond.

    Raises:
        InvalidRequestError: It is more than :data:`MAX_CONTAINERS` or :data:`MAX_VALUES`.
    """
    if len(raw) <= MAX_CONTAINERS or all(_count(raw, mark) <= most for mark, most in _MARKS):
        return  # even with what stands inside of strings
    counts = [0] * len(_MARKS)
    at, end = 0, len(raw)
    while at < end:
        stop = raw.find(b'"', at, at + _WINDOW)
        until = min(at + _WINDOW, end) if stop < 0 else stop
        for place, (mark, most) in enumerate(_MARKS):
            counts[place] += raw.count(mark, at, until)
            if counts[place] > most:
                raise _too_much()
        at = until if stop < 0 else _behind(raw, stop + 1)


def _count(raw: bytes, mark: bytes) -> int:
    return sum(raw.count(mark, at, at + _WINDOW) for at in range(0, len(raw), _WINDOW))


def _behind(raw: bytes, at: int) -> int:
    """The place after the string that goes on at ``at``."""
    end = len(raw)
    while at < end:
        found = _INSIDE.match(raw, at, min(at + _WINDOW, end))
        stop = found.end() if found else at
        if raw[stop : stop + 1] == b'"':
            return stop + 1
        # The window ended, perhaps between a backslash and its letter.
        at = stop + 2 if raw[stop : stop + 1] == b"\\" else stop
    return end


def _too_much() -> InvalidRequestError:
    return InvalidRequestError(
        f"the body holds more than {MAX_CONTAINERS} objects and arrays, or more than {MAX_VALUES} values"
    )
