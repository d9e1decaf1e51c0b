"""The decisions for a namespace: one ``serve`` makes them at a time, and writes how many instances are wanted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from dynamo_tasks.errors import NotStartedError
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.events import End, ErrorInfo
from dynamo_tasks.protocol.scale import Scale
from dynamo_tasks.protocol.states import State
from dynamo_tasks.serve.processes.spec import Deployment
from dynamo_tasks.serve.scaling.demand import Demand, next_wanted
from dynamo_tasks.serve.scaling.planner import ComponentPlanner, Scrape
from dynamo_tasks.serve.scaling.view import ComponentView, NamespaceView
from dynamo_tasks.store.ledger.ledger import Ledger
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.scales import Scales

__all__ = ["ScaleLeader"]

_MOST_ENDED = 200
"""Requests that one look ends, where nothing can be started for them."""


class ScaleLeader:
    """Decides for the components of one namespace that this ``serve`` deploys.

    Args:
        store: Redis.
        namespace: Its name.
        name: Of this ``serve``.
        deployments: Those in this namespace.
        scrape: Gives what planners see of latencies.
    """

    def __init__(
        self, store: Store, namespace: str, name: str, deployments: Sequence[Deployment], scrape: Scrape
    ):
        self._scales = Scales(store, namespace)
        self._keys, self._commands = store.keys(namespace), store.commands
        self._ledger = Ledger(store)
        self._namespace = namespace
        self._name = name
        self._deployments = deployments
        self._activity = {one.component: _Activity() for one in deployments}
        self._planners = {
            one.component: ComponentPlanner(one, one.policy(), scrape)
            for one in deployments
            if one.policy is not None
        }

    async def decide(self, view: NamespaceView) -> dict[str, Scale]:
        """Write what is wanted from now on, unless another ``serve`` decides; returns what stands then."""
        scales = dict(view.scales)
        if not await self._scales.lead(self._name):
            return scales
        for one in self._deployments:
            if one.bounds is None:
                continue
            scale = scales.setdefault(one.component, Scale(one.component, bounds=one.bounds, fleets={}))
            await self._decide(one, scale, view.of(one.component))
        return scales

    async def _decide(self, one: Deployment, scale: Scale, seen: ComponentView) -> None:
        assert one.bounds is not None
        quiet = self._activity[one.component].quiet(seen)
        planner = self._planners.get(one.component)
        planned = await planner.wanted(seen, scale) if planner is not None and scale.wanted else None
        demand = Demand(
            waiting=seen.waiting, running=seen.running, quiet=quiet, known=seen.known, planned=planned
        )
        decided = next_wanted(scale, one.bounds, demand)
        if decided is not None and await self._scales.want(one.component, *decided, lead=self._name):
            event(
                "scale.wanted", component=f"{self._namespace}.{one.component}", wanted=decided[0], before=scale.wanted,
                by=decided[1], waiting=seen.waiting,
            )  # fmt: skip
            scale.wanted, scale.by = decided
        if scale.failed and seen.waiting and not seen.instances:
            await self._end_waiting(one.component, scale.failed)

    async def _end_waiting(self, component: str, why: str) -> None:
        """End requests that somebody waits for, and no worker will ever take; those in the background wait on."""
        error = ErrorInfo.of(NotStartedError(f"no worker of {component} can be started: {why}"))
        end = End(State.FAILED, "not_started", error=error)
        waiting = await self._commands.execute("SMEMBERS", self._keys.waiting(component))
        for raw in waiting[:_MOST_ENDED]:
            await self._ledger.cancel(self._namespace, raw.decode(), end=end, guard="awaited")

    async def leave(self) -> None:
        """Decide no more."""
        await self._scales.leave(self._name, [one.component for one in self._deployments])


class _Activity:
    """When a component last had a request."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._taken: Mapping[int, int] = {}

    def quiet(self, seen: ComponentView) -> float:
        """Seconds since then."""
        taken = {lease: load.taken for lease, load in seen.loads.items()}
        # A request may come and end between two looks: instances count what they take.
        came = any(count > self._taken.get(lease, 0) for lease, count in taken.items())
        if seen.waiting or seen.running or came:
            self._last = time.monotonic()
        self._taken = taken
        return time.monotonic() - self._last
