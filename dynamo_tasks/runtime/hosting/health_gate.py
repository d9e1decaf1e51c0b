"""The consequences of an instance's health checks: out of the registry and off the queues, or back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from dynamo_tasks.errors import ServerUnavailableError
from dynamo_tasks.queue.broker.consumer_gate import ConsumerGate
from dynamo_tasks.runtime.hosting.lifecycle import InstanceState, Lifecycle
from dynamo_tasks.runtime.hosting.registration import Registration

__all__ = ["HealthGate"]


class HealthGate:
    """Acts on each round of a :class:`~dynamo_tasks.runtime.supervision.health.HealthMonitor`.

    Args:
        lifecycle: State of the instance.
        consumer_gate: Of its worker.
        registrations: One per namespace that it serves in; asked each round.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        consumer_gate: ConsumerGate,
        registrations: Callable[[], Iterable[Registration]],
    ) -> None:
        self._lifecycle = lifecycle
        self._consumer_gate = consumer_gate
        self._registrations = registrations

    async def result(self, reason: str) -> None:
        """Act on a round that is done.

        Args:
            reason: What is wrong; ``""`` where all is well.
        """
        await (self._ill(reason) if reason else self._well())

    async def _well(self) -> None:
        with contextlib.suppress(ServerUnavailableError):
            for registration in self._registrations():
                await registration.register()
            if self._lifecycle.state is InstanceState.ASLEEP:
                return
            self._consumer_gate.resume()
            self._lifecycle.advance(InstanceState.HEALTHY, "all checks passed")

    async def _ill(self, reason: str) -> None:
        self._consumer_gate.pause()
        registered = [one for one in self._registrations() if one.registered]
        if not registered:
            return
        self._lifecycle.report("instance.unhealthy", reason)
        if self._lifecycle.state is not InstanceState.ASLEEP:
            self._lifecycle.advance(InstanceState.RUNNING, reason)
        for registration in registered:
            await registration.deregister()
