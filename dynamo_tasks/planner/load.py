"""The policy ``load``: as few workers as keep the targets."""

from __future__ import annotations

import math

from dynamo_tasks.planner.limits import Patience
from dynamo_tasks.planner.observation import Latency, Observation
from dynamo_tasks.planner.settings import LoadSettings

__all__ = ["LoadPolicy"]


class LoadPolicy:
    """Takes the greatest of what queue, latencies and KV caches need."""

    def __init__(self, settings: LoadSettings) -> None:
        self._settings = settings
        self._patience = Patience(settings.limits)

    @property
    def interval(self) -> float:
        """Seconds from one look to the next."""
        return self._settings.interval

    def wanted(self, seen: Observation) -> int:
        """Return the number of workers; see :meth:`Policy.wanted`."""
        return self._patience.decide(seen.time, seen.live, self._need(seen))

    def _need(self, seen: Observation) -> int:
        if not seen.ready:
            return max(seen.live, 1 if seen.waiting else 0)
        given = self._settings
        queue_time = given.queue_time or given.ttft / 2
        share = max(
            _ratio(seen.ttft, given.ttft),
            _ratio(seen.itl, given.itl),
            seen.oldest_wait / queue_time,
            sum(one.kv_usage for one in seen.workers) / seen.ready / given.kv_usage,
        )
        return math.ceil(seen.ready * share - 1e-9)


def _ratio(measured: Latency | None, target: float) -> float:
    return measured.p90 / target if measured is not None else 0.0
