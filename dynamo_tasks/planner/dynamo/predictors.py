"""Forecasts of the next interval's load, one figure at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["PREDICTORS", "Constant", "Kalman", "Predictor"]


class Predictor(Protocol):
    """A series of figures, one per interval."""

    def add(self, value: float) -> None:
        """Take the figure of the interval that ended."""

    def next(self) -> float:
        """Forecast the figure of the interval that begins; 0 before any."""


class Constant:
    """The next is as the last."""

    def __init__(self) -> None:
        self._last = 0.0

    def add(self, value: float) -> None:
        """Take a figure; see :meth:`Predictor.add`."""
        self._last = value

    def next(self) -> float:
        """Forecast; see :meth:`Predictor.next`."""
        return self._last


class Kalman:
    """A level and a trend, by a Kalman filter with Dynamo's noise: level 1, trend 0.1, measurement 10."""

    LEVEL, TREND, MEASUREMENT = 1.0, 0.1, 10.0

    def __init__(self) -> None:
        self._level = self._trend = 0.0
        self._cov = (1000.0, 0.0, 1000.0)
        self._began = False

    def add(self, value: float) -> None:
        """Take a figure; see :meth:`Predictor.add`."""
        if not self._began:  # an idle time before the first request says nothing
            self._began = value != 0
            self._level = value
            return
        level, (a, b, c) = self._level + self._trend, self._ahead()
        error, scale = value - level, a + self.MEASUREMENT
        self._level = level + a / scale * error
        self._trend += b / scale * error
        self._cov = a - a * a / scale, b - a * b / scale, c - b * b / scale

    def _ahead(self) -> tuple[float, float, float]:
        a, b, c = self._cov
        return a + 2 * b + c + self.LEVEL, b + c, c + self.TREND

    def next(self) -> float:
        """Forecast; see :meth:`Predictor.next`."""
        return max(0.0, self._level + self._trend)


PREDICTORS: dict[str, Callable[[], Predictor]] = {"constant": Constant, "kalman": Kalman}
"""Predictors by the name that ``load_predictor`` has."""
