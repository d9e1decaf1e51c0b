"""Dynamo's default forecast, ARIMA, where ``pmdarima`` is installed: ``load_predictor=arima`` of a planner's run.

The package itself does without: it would bring numpy, scipy, scikit-learn and statsmodels for one number.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from typing import Any

from dynamo_tasks.planner.dynamo.predictors import PREDICTORS

__all__ = ["Arima", "register"]

_FEWEST = 5
"""Figures before a model is fitted; until then the last one holds."""


class Arima:
    """A model that is chosen at the fifth figure, of logarithms if it finds nothing in the figures themselves."""

    def __init__(self) -> None:
        self._pmdarima: Any = importlib.import_module("pmdarima")
        self._values: list[float] = []
        self._model: Any = None
        self._logs = False
        self._known = 0

    def add(self, value: float) -> None:
        if value or self._values:
            self._values.append(max(0.0, value))

    def next(self) -> float:
        values = self._values
        if len(values) < _FEWEST or len(set(values)) == 1:
            return values[-1] if values else 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self._model is None:
                self._choose()
            elif self._known < len(values):
                self._model.update(self._scaled(values[self._known :]))
            self._known = len(values)
            forecast = float(self._model.predict(n_periods=1)[0])
        return max(0.0, math.expm1(forecast) if self._logs else forecast)

    def _choose(self) -> None:
        self._model = self._fit()
        p, _, q = self._model.order
        if p == q == 0:
            self._logs = True
            self._model = self._fit()

    def _fit(self) -> Any:
        return self._pmdarima.auto_arima(
            self._scaled(self._values), suppress_warnings=True, error_action="ignore"
        )

    def _scaled(self, values: list[float]) -> list[float]:
        return [math.log1p(value) for value in values] if self._logs else values


def register() -> None:
    """Make ``arima`` a predictor, if its package is there."""
    if importlib.util.find_spec("pmdarima") is not None:
        PREDICTORS["arima"] = Arima
