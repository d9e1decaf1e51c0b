"""``kv`` in a process: follows the caches of a component's workers, keeps sessions, chooses, and says why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from dynamo_tasks.errors import DynamoError, NoInstancesError
from dynamo_tasks.observe import event, metrics
from dynamo_tasks.observe.tracing import OFF, span
from dynamo_tasks.protocol.instances import InstanceInfo
from dynamo_tasks.protocol.kv.reports import KV_EVENTS, KV_SNAPSHOT_REQUESTS, KvBatch
from dynamo_tasks.protocol.names import EndpointId, Subject
from dynamo_tasks.router.costs import KvRouterConfig
from dynamo_tasks.router.followed import FollowedWorkers
from dynamo_tasks.router.kv import Choice, KvPolicy
from dynamo_tasks.router.predicted import RoutingLoad
from dynamo_tasks.runtime.routing.agreement import Agreement
from dynamo_tasks.runtime.routing.prompt import read_prompt
from dynamo_tasks.runtime.supervision.actor import Actor
from dynamo_tasks.runtime.supervision.watcher import Watcher
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.routing.sessions import Sessions
from dynamo_tasks.store.topics.topic import Topic

__all__ = ["KvRouter"]

_RETRY = 0.5
_ASK_EVERY = 2.0
"""Seconds until a worker is asked for its snapshot again."""
_CATCH_UP = 3.0
"""Seconds for which the first request waits for the workers' snapshots."""
_STALE = 3.0
"""Seconds after a worker's last batch from which on the load of its lease is believed rather."""


class KvRouter(Actor):
    """Chooses instances of one component.

    Args:
        store: Redis.
        topic: Events of components.
        watcher: The namespace's instances.
        component: Whose instances.
        config: Parameters.
    """

    def __init__(self, store: Store, topic: Topic, watcher: Watcher, component: str, config: KvRouterConfig):
        self.name = f"kv-router-{component}"
        self._topic = topic
        self._watcher = watcher
        self._component = component
        self._config = config
        self._sessions = Sessions(store, watcher.namespace)
        self._events = Subject.of(watcher.namespace, component, KV_EVENTS)
        self._requests = Subject.of(watcher.namespace, component, KV_SNAPSHOT_REQUESTS)
        self.policy = KvPolicy(config, 1)
        self._followed = FollowedWorkers(self.policy.index, self.policy.loads)
        self._heard: dict[int, float] = {}
        self._asked: dict[int, float] = {}
        self._loads: Any = None
        self._applied = asyncio.Event()
        self._agreement = Agreement(store, watcher.namespace, component, self.policy)

    # -- follow -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Follow the workers; returns once it is known what they have cached."""
        if self._task is not None:
            return
        if self._config.router_replica_sync:
            await self._agreement.begin()
        own = [info for info in self._watcher.instances if info.component == self._component]
        if self._config.use_kv_events:
            self._subscription = self._topic.subscribe(self._events)
            await self._subscription.start()
            await self._look(own)
        await super().start()
        await self._catch_up(own)

    async def _catch_up(self, infos: Sequence[InstanceInfo]) -> None:
        """Wait for their snapshots, though not for one that hangs."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CATCH_UP):
                while any(
                    self._reports(info) and not self._followed.is_known(info.lease_id) for info in infos
                ):
                    self._applied.clear()
                    await self._applied.wait()

    async def _run(self) -> None:
        if not self._config.use_kv_events:
            return
        async for one in self._subscription:
            with contained("pubsub", str(self._events)):
                await self._apply(KvBatch.read(one.payload))

    async def _apply(self, batch: KvBatch) -> None:
        now = time.monotonic()
        self._heard[batch.worker] = now
        gaps = self._followed.gaps
        if not self._followed.apply(batch, now):
            await self._ask(batch.worker, now)
        elif self._followed.is_known(batch.worker):
            self._asked.pop(batch.worker, None)  # it has answered: the next gap is asked about at once
        if self._followed.gaps > gaps:
            metrics.counter("router_kv_event_gaps_total", component=self._component).inc()
            event("router.kv_events_missed", worker_id=batch.worker_id, event_id=batch.event_id)
        metrics.gauge("router_kv_blocks", component=self._component).set(len(self.policy.index))
        self._applied.set()

    async def _ask(self, worker: int, now: float) -> None:
        if now - self._asked.get(worker, -_ASK_EVERY) < _ASK_EVERY:
            return
        self._asked[worker] = now
        try:
            await self._topic.publish(self._requests, {"worker_id": f"{worker:x}"})
        except DynamoError:  # Redis is away, or refuses for the moment
            # Sooner than after a question that was heard: the worker has not heard the question.
            self._asked[worker] = now - _ASK_EVERY + _RETRY

    async def _look(self, infos: Sequence[InstanceInfo]) -> None:
        """Take what the registry says by now: who is gone, who has never been heard, who reports by lease alone."""
        loads = self._watcher.loads
        if loads is self._loads:
            return
        self._loads, now = loads, time.monotonic()
        known = {*self.policy.index.workers(), *self._heard}
        for worker in known - {info.lease_id for info in self._watcher.instances}:
            self._forget(worker)
        for info in infos:
            worker, load = info.lease_id, loads.get(info.lease_id)
            if load is not None and now - self._heard.get(worker, -_STALE) >= _STALE:
                reported = RoutingLoad(
                    load.prefill_tokens, load.kv_active_blocks, load.in_flight, load.kv_total_blocks
                )
                self.policy.loads.report(worker, reported, now, older=now - _STALE / 2)
            if self._reports(info) and not self._followed.is_known(worker):
                await self._ask(worker, now)

    def _reports(self, info: InstanceInfo) -> bool:
        return bool(self._config.use_kv_events and info.model is not None and info.model.kv_events)

    def _forget(self, worker: int) -> None:
        self.policy.drop(worker)
        self._followed.drop(worker)
        self._heard.pop(worker, None)
        self._asked.pop(worker, None)

    # -- choose -------------------------------------------------------------------------------------

    async def choose(self, endpoint: EndpointId, payload: Any, request_id: str, session: str = "") -> Choice:
        """Choose the instance that a request goes to; it is counted as sent.

        Args:
            endpoint: Whose instances.
            payload: The request's.
            request_id: Its id.
            session: The session that it belongs to; empty = none.

        Raises:
            NoInstancesError: nobody serves the endpoint, or the model that the request names.
        """
        model = payload.get("model") if isinstance(payload, dict) else None
        infos = _serving(self._watcher.of(endpoint), model)
        if not infos:
            raise NoInstancesError(f"no instance serves {endpoint}")
        await self._look(infos)
        with span("dynamo.route") as made:
            prompt = await read_prompt(payload, infos[0].model)
            last = await self._last(session)
            self.policy.block_size = (infos[0].model.kv_block_size if infos[0].model else 0) or 1
            workers = {info.lease_id: info for info in infos}
            silent = {worker for worker, info in workers.items() if not self._reports(info)}
            choice = await self._agreement.choose([*workers], prompt, request_id, last, silent, _step(infos))
            if session and not choice.late and self._config.router_session_affinity_ttl_secs:
                self._sessions.note(session, choice.worker, self._config.router_session_affinity_ttl_secs)
            facts = _facts(choice, request_id, endpoint)
            if made is not OFF:
                for name, value in facts.items():
                    made.set(f"dynamo.{name}", value)
        self._count(choice, facts)
        return choice

    async def _last(self, session: str) -> int | None:
        if not (session and self._config.router_session_affinity_ttl_secs):
            return None
        try:
            async with asyncio.timeout(1.0):
                return await self._sessions.last(session)
        except (DynamoError, TimeoutError):  # a session is worth no failure
            return None

    def _count(self, choice: Choice, facts: dict[str, Any]) -> None:
        component = self._component
        event("router.chosen", **facts)
        metrics.counter("router_requests_total", component=component).inc()
        if choice.late:  # how much is cached where it goes, its worker says
            metrics.counter("router_late_total", component=component).inc()
            return
        if choice.prompt:
            metrics.histogram("router_kv_hit_rate", component=component).observe(
                choice.overlap / choice.prompt
            )
            metrics.histogram("router_input_sequence_tokens", component=component).observe(choice.prompt)
        cached = metrics.counter("router_kv_selected_cached_prefix_tokens_total", component=component)
        cached.inc(choice.overlap)
        best = metrics.counter("router_kv_best_eligible_cached_prefix_tokens_total", component=component)
        best.inc(choice.best_overlap)
        if choice.overlap < choice.best_overlap:
            metrics.counter("router_non_max_overlap_selections_total", component=component).inc()


def _serving(infos: list[InstanceInfo], model: Any) -> list[InstanceInfo]:
    """The instances of a component that serve a model; all of them where none is named."""
    if not isinstance(model, str):
        return infos
    return [info for info in infos if info.model is None or model in (info.model.name, *info.model.adapters)]


def _step(infos: list[InstanceInfo]) -> int:
    """The tokens of a step of workers that all take requests late; 0 where any of them does not."""
    return min(info.model.step_tokens if info.model and info.model.kv_events else 0 for info in infos)


def _facts(choice: Choice, request_id: str, endpoint: EndpointId) -> dict[str, Any]:
    """Why this worker."""
    return {
        "request_id": request_id, "endpoint": str(endpoint), "instance_id": f"{choice.worker:x}",
        "prompt_tokens": choice.prompt, "overlap_tokens": choice.overlap, "best_overlap_tokens": choice.best_overlap,
        "prefill_tokens": round(choice.prefill_tokens), "active_blocks": round(choice.active_blocks),
        "cost": round(choice.cost, 3), "least_cost": round(choice.least_cost, 3), "by_session": choice.session,
        "late": choice.late,
    }  # fmt: skip
