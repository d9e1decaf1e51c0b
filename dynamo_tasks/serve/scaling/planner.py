"""A planner's policy, asked about one component: what it sees, and how often."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping

from dynamo_tasks.errors import DynamoError
from dynamo_tasks.observe.log import event
from dynamo_tasks.planner import Latency, Observation, Policy, WorkerLoad
from dynamo_tasks.protocol.scale import Scale
from dynamo_tasks.serve.processes.spec import Deployment
from dynamo_tasks.serve.scaling.latencies import Histogram, growth, queue_times, read_histogram
from dynamo_tasks.serve.scaling.view import ComponentView

__all__ = ["ComponentPlanner", "Scrape"]

Scrape = Callable[[], Awaitable[str]]
"""Gives the metrics of this machine's frontend; empty where there is none."""

_PREFIX = "dynamo_tasks_"
_TIMES = {"ttft": "time_to_first_token_seconds", "itl": "inter_token_seconds"}


class ComponentPlanner:
    """Asks a policy how many instances of a component there should be.

    Args:
        deployment: The component.
        policy: Of its ``planner``.
        scrape: Gives what clients had to wait for.
    """

    def __init__(self, deployment: Deployment, policy: Policy, scrape: Scrape):
        self._component = f"{deployment.namespace}.{deployment.component}"
        self._policy = policy
        self._scrape = scrape
        self._due = 0.0
        self._before: ComponentView | None = None
        self._times: dict[str, Histogram] = {}

    async def wanted(self, seen: ComponentView, scale: Scale) -> int | None:
        """Ask, if it is time to; ``None`` else, and where the policy itself fails."""
        now = time.monotonic()
        if now < self._due:
            return None
        self._due = now + self._policy.interval
        observation = self._observation(now, seen, scale, await self._latencies(seen))
        self._before = seen
        try:
            return self._policy.wanted(observation)
        except (DynamoError, ArithmeticError, LookupError, ValueError) as error:
            event("planner.failed", component=self._component, error=f"{type(error).__name__}: {error}")
            return None

    def _observation(
        self, now: float, seen: ComponentView, scale: Scale, times: Mapping[str, Latency | None]
    ) -> Observation:
        taken, tokens = self._grown(seen, "taken"), self._grown(seen, "tokens")
        waited = self._before.waiting if self._before is not None else 0
        loads = [*seen.loads.values()]
        return Observation(
            time=now, ready=len(loads), starting=scale.starting, draining=scale.draining, waiting=seen.waiting,
            oldest_wait=seen.oldest_wait,
            workers=tuple(
                WorkerLoad(running=load.in_flight, slots=load.capacity, kv_usage=load.kv_usage) for load in loads
            ),
            # What came is what was taken, and what waits now and did not before.
            arrivals=max(0, taken + seen.waiting - waited), output_tokens=tokens,
            prefix_hits=sum(load.prefix_hits for load in loads) / len(loads) if loads else None,
            ttft=times["ttft"], itl=times["itl"],
            queue_time=queue_times(seen.loads, self._before.loads) if self._before is not None else None,
        )  # fmt: skip

    def _grown(self, seen: ComponentView, field: str) -> int:
        """Growth of a counter over all instances since the last look; one that is new has counted from 0."""
        before = self._before.loads if self._before is not None else seen.loads
        grown = [
            getattr(load, field) - getattr(before.get(lease), field, 0) for lease, load in seen.loads.items()
        ]
        return sum(max(0, one) for one in grown)

    async def _latencies(self, seen: ComponentView) -> dict[str, Latency | None]:
        models = {info.model.name for info in seen.instances if info.model is not None}
        text = await self._scrape() if models else ""
        new = {name: read_histogram(text, _PREFIX + metric, models) for name, metric in _TIMES.items()}
        found = {name: growth(new[name], self._times[name]) if name in self._times else None for name in new}
        self._times = new
        return found
