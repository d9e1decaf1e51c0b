"""The policy ``fixed``: always the same number."""

from __future__ import annotations

from dynamo_tasks.planner.observation import Observation
from dynamo_tasks.planner.settings import FixedSettings

__all__ = ["FixedPolicy"]


class FixedPolicy:
    """The number that somebody chose; what others are measured against."""

    def __init__(self, settings: FixedSettings) -> None:
        self._settings = settings

    @property
    def interval(self) -> float:
        """Seconds from one look to the next."""
        return self._settings.interval

    def wanted(self, seen: Observation) -> int:
        """Return the number of workers; see :meth:`Policy.wanted`."""
        return min(max(self._settings.workers, self._settings.min), self._settings.max)
