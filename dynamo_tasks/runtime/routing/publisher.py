"""The worker's side: its cache's changes, and its load, as batches on the component's ``kv_events``."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec

from dynamo_tasks.errors import DynamoError, ServerUnavailableError
from dynamo_tasks.observe import event
from dynamo_tasks.protocol.kv.reports import KV_EVENTS, KV_SNAPSHOT_REQUESTS, KvLoad
from dynamo_tasks.protocol.names import Subject
from dynamo_tasks.router.worker_blocks import WorkerBlocks
from dynamo_tasks.store.redis.retry import retry_until_up
from dynamo_tasks.store.topics.topic import Topic

__all__ = ["KvPublisher"]

_KEPT = 1000
"""Batches that Redis keeps: one may have 200 kB, and a router that is further behind takes a snapshot."""
_SPACING = 0.02
"""Seconds between two rounds: a busy engine makes a batch per step, and its load changes with every request."""
_RETRY = 0.2
_BEHIND = 10_000
"""Batches that wait while Redis is away; beyond, routers get a snapshot instead."""
_PART = 20_000
"""Hashes in one batch of a snapshot: some 400 kB, where an event may have 1 MiB."""


class KvPublisher:
    """Publishes what an engine reports, from :meth:`start` to :meth:`stop`.

    Args:
        topic: Events of components.
        namespace: Of the component.
        component: Whose events they are.
        worker_id: The instance, in hex.
        blocks: Names the engine's blocks.
        load: Asked for the load of the moment.
    """

    def __init__(
        self, topic: Topic, namespace: str, component: str, worker_id: str, blocks: WorkerBlocks,
        load: Callable[[], KvLoad],
    ):  # fmt: skip
        self._topic = Topic(topic.store, topic.channels, kept=_KEPT)
        self._subject = Subject.of(namespace, component, KV_EVENTS)
        self._requests = Subject.of(namespace, component, KV_SNAPSHOT_REQUESTS)
        self._worker_id = worker_id
        self._blocks = blocks
        self._load = load
        self._sent = 0
        self._queue: deque[dict[str, Any]] = deque()
        self._taken: list[str] = []
        self._news = asyncio.Event()
        self._snapshot = False
        self._seqs: dict[int | None, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, source: AsyncGenerator[dict[str, Any], None]) -> None:
        """Begin.

        Args:
            source: The engine's batches: ``{"seq", "ts", "dp_rank", "events"}``.
        """
        work = self._read(source), self._publish(), self._listen()
        self._tasks = [asyncio.create_task(one, name="kv-events") for one in work]

    async def stop(self) -> None:
        """End; a second call does nothing."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def changed(self, taken: str = "") -> None:
        """The load has changed, by a request that came (``taken``), got its first token, or ended."""
        if taken:
            self._taken.append(taken)
        self._news.set()

    async def _read(self, source: AsyncGenerator[dict[str, Any], None]) -> None:
        async with aclosing(source):
            async for batch in source:
                self._take(batch)
                self._news.set()

    def _take(self, batch: dict[str, Any]) -> None:
        rank, seq = batch.get("dp_rank"), batch["seq"]
        events = [self._blocks.name(one, rank) for one in batch["events"]]
        if seq - self._seqs.get(rank, seq) > 1:
            # What the engine removed is unknown: rather believe nothing than what is gone.
            event(
                "engine.kv_events_lost", worker_id=self._worker_id, seq=seq, error="the engine left some out"
            )
            self._blocks.clear()
            events = [{"type": "AllBlocksCleared"}]
        self._seqs[rank] = seq
        self._queue.append({**batch, "events": events})
        if len(self._queue) > _BEHIND:
            self._give_up(seq, f"{_BEHIND} batches wait for Redis")

    def _give_up(self, seq: int, error: str) -> None:
        """Leave out what waits: a number is missed, and all routers take a snapshot."""
        event("engine.kv_events_lost", worker_id=self._worker_id, seq=seq, error=error)
        self._queue.clear()
        self._sent += 1
        self._snapshot = True

    async def _publish(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await self._round()
            await asyncio.sleep(_SPACING)

    async def _round(self) -> None:
        told = False
        while self._queue:
            await self._send(self._queue.popleft())
            told = True
        if self._snapshot:
            self._snapshot, hashes = False, self._blocks.cached()
            parts = [hashes[start : start + _PART] for start in range(0, len(hashes), _PART)] or [[]]
            for place, part in enumerate(parts):
                stored = {"type": "BlockStored", "sequence_hashes": part}
                await self._send({"events": [stored], "snapshot": len(parts) - 1 - place, "first": not place})
        elif self._taken or not told:
            await self._send({"events": []})

    async def _send(self, batch: dict[str, Any]) -> None:
        """Publish a batch; one that Redis refuses is given up."""
        self._sent += 1
        taken, self._taken = self._taken, []
        head = {"worker_id": self._worker_id, "event_id": self._sent, "taken": taken}
        while True:
            load = msgspec.to_builtins(self._load())
            try:
                await self._topic.publish(self._subject, {**head, **batch, "load": load})
                return
            except ServerUnavailableError:
                await asyncio.sleep(_RETRY)
            except DynamoError as error:
                self._give_up(int(batch.get("seq", 0)), str(error))
                await asyncio.sleep(_RETRY)
                return

    async def _listen(self) -> None:
        """Give a snapshot to any router that asks."""
        asks = self._topic.subscribe(self._requests)
        await retry_until_up(self._topic.store.commands, asks.start)
        async for asked in asks:
            payload = asked.payload
            if isinstance(payload, dict) and payload.get("worker_id") == self._worker_id:
                self._snapshot = True
                self._news.set()
