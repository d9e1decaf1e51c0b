"""Dynamo's targets ``throughput`` and ``latency``: thresholds of what the KV caches hold, and will hold."""

from __future__ import annotations

from dynamo_tasks.planner.dynamo.settings import DynamoSettings
from dynamo_tasks.planner.observation import Observation, WorkerLoad

__all__ = ["ThresholdPolicy"]

_THRESHOLDS = {"throughput": (1.0, 0.6), "latency": (0.4, 0.1)}
"""Up above the first on any engine, down below the second on all: Dynamo's ``_DECODE_*_SCALE_UP`` and ``_DOWN``."""


class ThresholdPolicy:
    """One worker more if any engine is above, one less if all are below."""

    def __init__(self, settings: DynamoSettings) -> None:
        self._settings = settings
        self._up, self._down = _THRESHOLDS[settings.optimization_target]

    @property
    def interval(self) -> float:
        """Seconds from one look to the next."""
        return self._settings.load_adjustment_interval

    def wanted(self, seen: Observation) -> int:
        """Return the number of workers; see :meth:`Policy.wanted`."""
        if seen.starting or not seen.workers:  # a change is under way: observe only
            return self._settings.bounded(seen.live)
        used = [_used(one) for one in seen.workers]
        if any(share > self._up for share in used):
            return self._settings.bounded(seen.ready + 1)
        if seen.ready > 1 and all(share < self._down for share in used):
            return self._settings.bounded(seen.ready - 1)
        return self._settings.bounded(seen.ready)


def _used(load: WorkerLoad) -> float:
    """Share of the KV cache that is in use, prompts that wait in the engine included."""
    return load.kv_usage + (load.queued_tokens / load.kv_tokens if load.kv_tokens else 0.0)
