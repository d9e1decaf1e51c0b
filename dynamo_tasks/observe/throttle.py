"""Keeps a log line that may repeat many times a second from flooding the log."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["LogThrottle"]


class LogThrottle:
    """Lets the first occurrence through, and then at most one per period.

    Args:
        every: The period, seconds.
        clock: Monotonic seconds.
    """

    def __init__(self, every: float = 5.0, clock: Callable[[], float] = time.monotonic):
        self._every = every
        self._clock = clock
        self._next = float("-inf")
        self.count = 0
        """Occurrences so far."""

    def due(self) -> bool:
        """Count an occurrence; returns whether it is to be logged."""
        self.count += 1
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._every
        return True
