"""Statistics of the calls of a service."""

from __future__ import annotations

import threading
import time
from typing import Any

from dynamo_tasks.observe import metrics

__all__ = ["CallStatistics"]


class CallStatistics:
    """Counters of one service task, and the process's metrics of that service.

    Args:
        service: Its name.
    """

    def __init__(self, service: str):
        self._service = service
        self._lock = threading.Lock()
        self._started = time.time()
        self._calls = self._errors = self._expired = 0
        self._seconds = self._slowest = 0.0
        self._seconds_metric = metrics.histogram("service_call_seconds", service=service)
        self._outcomes = {
            outcome: metrics.counter("service_calls_total", service=service, outcome=outcome)
            for outcome in ("ok", "error", "expired")
        }

    def add(self, seconds: float, *, ok: bool) -> None:
        """Count a call that has ended."""
        with self._lock:
            self._calls += 1
            self._errors += not ok
            self._seconds += seconds
            self._slowest = max(self._slowest, seconds)
        self._outcomes["ok" if ok else "error"].inc()
        self._seconds_metric.observe(seconds)

    def add_expired(self) -> None:
        """Count a call that was dropped, since its caller had given up."""
        with self._lock:
            self._expired += 1
        self._outcomes["expired"].inc()

    def as_dict(self) -> dict[str, Any]:
        """``requests``, ``errors``, ``expired``, ``processing_s``, ``average_s``, ``slowest_s``, ``started``."""
        with self._lock:
            average = self._seconds / self._calls if self._calls else 0.0
            return {
                "requests": self._calls, "errors": self._errors, "expired": self._expired,
                "processing_s": self._seconds, "average_s": average, "slowest_s": self._slowest,
                "started": self._started,
            }  # fmt: skip

    def render(self) -> str:
        """The same in Prometheus' text format, one sample per line."""
        rows = self.as_dict()
        names = {"requests": "requests_total", "errors": "errors_total", "expired": "expired_total",
                 "processing_s": "processing_seconds_total", "slowest_s": "slowest_seconds"}  # fmt: skip
        label = f'{{service="{self._service}"}}'
        return "".join(f"dynamo_tasks_service_{name}{label} {rows[key]}\n" for key, name in names.items())
