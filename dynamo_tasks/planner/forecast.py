"""A rate, smoothed, with its trend."""

from __future__ import annotations

import math

__all__ = ["Forecast", "Smoothed"]


class Smoothed:
    """A mean that forgets: what is older than ``seconds`` counts for little."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._sum = self._weight = 0.0

    def add(self, value: float, weight: float, passed: float) -> None:
        """Take a figure of the time that passed since the last one."""
        keep = math.exp(-passed / self._seconds)
        self._sum = keep * self._sum + weight * value
        self._weight = keep * self._weight + weight

    @property
    def value(self) -> float | None:
        """The mean; ``None`` before there was any figure."""
        return self._sum / self._weight if self._weight else None


class Forecast:
    """Holt's linear smoothing of a rate: a level and a trend.

    Args:
        level: Seconds over which the level is smoothed.
        trend: Seconds over which the trend is.
    """

    def __init__(self, level: float, trend: float) -> None:
        self._seconds = level, trend
        self._level: float | None = None
        self._trend = 0.0

    def add(self, rate: float, passed: float) -> None:
        """Take the rate over the time that passed since the last one."""
        if self._level is None:
            self._level = rate
            return
        fresh, turn = (1 - math.exp(-passed / seconds) for seconds in self._seconds)
        before = self._level
        self._level += self._trend * passed + fresh * (rate - before - self._trend * passed)
        self._trend += turn * ((self._level - before) / passed - self._trend)

    def ahead(self, seconds: float) -> float:
        """The rate after so many seconds; never below 0."""
        return max(0.0, (self._level or 0.0) + self._trend * seconds)
