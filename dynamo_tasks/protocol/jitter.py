"""Chance in the timing of waits, apart from the program's own.

A program that seeds ``random`` must not make its whole fleet retry in step, and gets the numbers that it seeded for.
The system's source has no state: it may be used from any thread, and after a fork.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["chosen", "jittered"]

T = TypeVar("T")
_SOURCE = random.SystemRandom()


def jittered(seconds: float, least: float = 0.5, most: float = 1.0) -> float:
    """Stretch a wait by chance.

    Args:
        seconds: The wait.
        least: Its smallest part.
        most: Its largest part.
    """
    return seconds * _SOURCE.uniform(least, most)


def chosen(items: Sequence[T], most: int) -> list[T]:
    """Take some items, in any order.

    Args:
        items: All of them.
        most: How many to take; all where there are fewer.
    """
    return _SOURCE.sample(items, min(len(items), most))
