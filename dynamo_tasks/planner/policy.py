"""The one question that a planner asks a policy."""

from __future__ import annotations

from typing import Protocol

from dynamo_tasks.planner.observation import Observation

__all__ = ["Policy"]


class Policy(Protocol):
    """A rule for the number of workers. It remembers what it saw, and does nothing else: no I/O, no clock."""

    @property
    def interval(self) -> float:
        """Seconds from one look to the next."""

    def wanted(self, seen: Observation) -> int:
        """Return how many workers there should be, ready and starting ones together.

        Whoever asks does the rest: starts what is missing, drains what is too much, and never kills a request.
        """
