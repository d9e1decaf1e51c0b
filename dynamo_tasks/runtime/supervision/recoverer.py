"""The actor that watches all instances of all namespaces and requeues what dead ones held.

Runs in every worker and every frontend; the first one to come takes a short lock in Redis.
"""

from __future__ import annotations

import asyncio
import secrets

from dynamo_tasks.errors import DynamoError
from dynamo_tasks.observe import metrics
from dynamo_tasks.observe.log import event
from dynamo_tasks.observe.tracing import span
from dynamo_tasks.protocol.jitter import jittered
from dynamo_tasks.runtime.supervision.actor import Actor
from dynamo_tasks.runtime.supervision.detector import Detector, Sighting
from dynamo_tasks.store.ledger.recovery import Recovery
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.registry import LEASE_TTL

__all__ = ["Recoverer"]

_EVERY = 0.2
_NAMESPACES_EVERY = 2.0
_ORPHANS_EVERY = 2.0
LEFT_TO_WORKERS = 0.6
"""Seconds, three polls, for which one that may not cut leaves the frozen to those that may: what it requeued would be
handed to the frozen process, which waits for messages yet, and be missed there only seconds later."""
_STALL = 1.5
"""Seconds between two polls, or for the answer to one, after which what was seen says nothing of the others."""


class Recoverer(Actor):
    """One per process that serves."""

    name = "recoverer"

    def __init__(self, store: Store, *, cuts: bool = True):
        self._store = store
        self._cuts = cuts
        self._recovery = Recovery(store, cuts=cuts)
        self._observer = secrets.token_hex(4)
        self._detectors: dict[str, Detector] = {}
        self._suspects: dict[str, set[str]] = {}
        self._seen = (0, "")
        self._disturbed_at: float | None = None
        self._namespaces_at = self._orphans_at = 0.0
        self._looked_at: dict[str, float] = {}

    async def _run(self) -> None:
        while True:
            try:
                await self._poll(asyncio.get_running_loop().time())
            except DynamoError:
                await asyncio.sleep(_EVERY)
            # Jittered: every process looks, and those that a deployment started together would all ask at once.
            await asyncio.sleep(jittered(_EVERY, 0.8, 1.2))

    async def _poll(self, now: float) -> None:
        if now >= self._namespaces_at:
            for namespace in await self._store.namespaces():
                if namespace not in self._detectors:
                    self._detectors[namespace] = self._new_detector()
            self._namespaces_at = now + _NAMESPACES_EVERY
        self._notice_disturbance(now)
        for namespace, detector in self._detectors.items():
            with contained("recovery", f"instances of {namespace}"):
                await self._watch(namespace, detector)
        if now >= self._orphans_at:
            for namespace in self._detectors:
                with contained("recovery", f"queues of {namespace}"):
                    await self._find_lost(namespace)
            self._orphans_at = now + _ORPHANS_EVERY

    def _new_detector(self) -> Detector:
        detector = Detector(LEASE_TTL + (0.0 if self._cuts else LEFT_TO_WORKERS))
        if self._disturbed_at is not None:
            # A namespace that is found only now may have been there when everybody was absent.
            detector.disturbed(self._disturbed_at)
        return detector

    async def _find_lost(self, namespace: str) -> None:
        suspects = self._suspects.get(namespace, set())
        self._suspects[namespace], sent = await self._recovery.lost_messages(namespace, suspects)
        if sent:
            metrics.counter("sweeper_moves_total", kind="republished").inc(sent)
            event("sweeper.moved", kind="republished", count=sent, namespace=namespace)

    def _notice_disturbance(self, now: float) -> None:
        seen = (self._store.commands.reconnects, self._store.run_id)
        if self._seen[1] and seen != self._seen:
            self._disturbed_at = now
            for detector in self._detectors.values():
                detector.disturbed(now)
            # A server that was restarted may lack what its clients are about to write again: that is not lost yet.
            self._orphans_at = now + 2 * _ORPHANS_EVERY
        self._seen = seen

    async def _watch(self, namespace: str, detector: Detector) -> None:
        leases = await self._recovery.owners(namespace)
        if not leases:
            return
        seen = await self._recovery.sightings(namespace, leases)
        now = asyncio.get_running_loop().time()
        # Once more: the answer may have come over a new connection.
        self._notice_disturbance(now)
        if now - self._looked_at.get(namespace, now) > _STALL:
            # We hung, or Redis did: nobody could renew a lease that we could have seen.
            detector.disturbed(now)
        self._looked_at[namespace] = now
        sightings = {lease: Sighting(*one) for lease, one in zip(leases, seen, strict=True)}
        dead = detector.observe(sightings, now)
        for lease, by in dead.items():
            moved = await self._take_over(namespace, lease)
            detector.forget(lease)  # if it lives, it is judged anew
            if moved is not None:
                self._report(namespace, lease, by, moved)

    async def _take_over(self, namespace: str, lease: int) -> dict[str, int] | None:
        traced = span("dynamo.recover", attributes={"dynamo.lost_instance": f"{lease:x}"})
        moved = await self._recovery.take_over(namespace, lease, self._observer)
        if moved is not None:  # else another observer does it: a span that does not end is not recorded
            traced.set("dynamo.moved", sum(moved.values()))
            traced.end()
        return moved

    def _report(self, namespace: str, lease: int, by: str, moved: dict[str, int]) -> None:
        event("instance.died", namespace=namespace, instance_id=f"{lease:x}", by=by)
        for kind, count in moved.items():
            if count:
                metrics.counter("sweeper_moves_total", kind=kind).inc(count)
                event(
                    "sweeper.moved", kind=kind, count=count, namespace=namespace, lost_instance=f"{lease:x}"
                )
