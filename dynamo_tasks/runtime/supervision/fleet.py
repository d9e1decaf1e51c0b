"""Gauges of the fleet: what the registry holds of all instances, as seen by this process.

Any frontend shows what the workers report with their leases; a worker shows the part of it that is its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from dynamo_tasks.observe import metrics
from dynamo_tasks.protocol.instances import InstanceInfo, Load

__all__ = ["FleetGauges", "show_own"]


class FleetGauges:
    """Keeps the gauges of one namespace current; what has gone is shown as 0."""

    def __init__(self) -> None:
        self._endpoints: set[str] = set()
        self._models: set[str] = set()

    def update(self, instances: Iterable[InstanceInfo], loads: Mapping[int, Load]) -> None:
        """Take a new snapshot of the registry."""
        infos = list(instances)
        counts = Counter(info.id.label for info in infos)
        self._endpoints |= counts.keys()
        for endpoint in self._endpoints:
            metrics.gauge("instances", endpoint=endpoint).set(counts[endpoint])
        by_model: dict[str, dict[int, Load]] = {}
        for info in infos:
            if info.model is not None:
                by_model.setdefault(info.model.name, {})[info.lease_id] = loads.get(info.lease_id, Load())
        self._models |= by_model.keys()
        for model in self._models:
            _show(model, list(by_model.get(model, {}).values()))


def _show(model: str, loads: list[Load]) -> None:
    count = len(loads) or 1
    metrics.gauge("engine_running", model=model).set(sum(load.running for load in loads))
    metrics.gauge("engine_waiting", model=model).set(sum(load.waiting for load in loads))
    metrics.gauge("engine_kv_usage", model=model).set(sum(load.kv_usage for load in loads) / count)
    metrics.gauge("engine_prefix_hits", model=model).set(sum(load.prefix_hits for load in loads) / count)


def show_own(component: str, load: Load) -> None:
    """Gauges of this process's own engine."""
    metrics.gauge("instance_running", component=component).set(load.running)
    metrics.gauge("instance_waiting", component=component).set(load.waiting)
    metrics.gauge("instance_kv_usage", component=component).set(load.kv_usage)
    metrics.gauge("instance_prefix_hits", component=component).set(load.prefix_hits)
