"""The Worker's part in routing: it says what its engine's prefix cache holds, and how much its requests ask of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from dynamo_tasks.engines.base import Engine, EngineStats
from dynamo_tasks.protocol.kv.block_hashes import sequence_hashes
from dynamo_tasks.protocol.kv.reports import KvLoad
from dynamo_tasks.protocol.tokens import several_prompts
from dynamo_tasks.queue.broker.late import LateBinding
from dynamo_tasks.queue.execution.context import WorkerContext
from dynamo_tasks.router.demand import WorkerDemand
from dynamo_tasks.router.worker_blocks import WorkerBlocks
from dynamo_tasks.runtime.components.component import Component
from dynamo_tasks.runtime.routing.publisher import KvPublisher
from dynamo_tasks.store.routing.late import LateQueue

__all__ = ["KvReporter", "Tracked"]


class Tracked:
    """A request that is counted from its coming to its end."""

    __slots__ = ("_id", "_reporter", "_waits")

    def __init__(self, reporter: KvReporter, request_id: str) -> None:
        self._reporter = reporter
        self._id = request_id
        self._waits = True

    def got_token(self) -> None:
        """It has got a token; cheap after the first one."""
        if self._waits:
            self._waits = False
            self._reporter.prefilled(self._id)


class KvReporter:
    """Counts the requests of one engine; publishes that and its KV events, where routers shall follow them.

    Args:
        engine: It was made; its card is read once it has started.

    Attributes:
        counts: Each request is to be counted by :meth:`request`; ``False`` where the engine's own figures say all that
            routers ask for.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._demand = WorkerDemand()
        self._blocks: WorkerBlocks | None = None
        self._publisher: KvPublisher | None = None
        self._requests = 0
        self.counts = True
        self._late: LateBinding | None = None

    async def start(
        self, component: Component | None, worker_id: str, context: WorkerContext | None = None
    ) -> None:
        """Publish on the events of a component, if the engine reports any, and take late; it runs by now."""
        source = self._engine.kv_events()
        if source is None or component is None or not self._engine.card.kv_block_size:
            self.counts = self._engine.stats().prefill_tokens < 0
            return
        self._blocks = WorkerBlocks(self._engine.card.kv_block_size)
        self._publisher = KvPublisher(
            component.drt.registry.events, component.namespace.name, component.name, worker_id, self._blocks,
            self.load,
        )  # fmt: skip
        await self._publisher.start(source)
        self._take_late(component, worker_id, context)

    def _take_late(self, component: Component, worker_id: str, context: WorkerContext | None) -> None:
        """Let the process take requests that wait for late binding."""
        step = self._engine.card.step_tokens
        if context is None or not step or self._blocks is None:
            return
        keys = context.store.keys(component.namespace.name)
        queue = LateQueue(context.store, keys, component.name)
        shared = f"{keys.prefix}{component.service_name()}"
        self._late = context.late = LateBinding(
            queue, shared, worker_id, self._blocks, self._backlog, step / 2
        )
        context.late.on_room = lambda: context.on_room()

    def _backlog(self) -> float | None:
        """Tokens before the engine; ``None`` while requests wait inside of it, for want of blocks or places."""
        stats = self.stats()
        return None if stats.waiting else stats.prefill_tokens

    async def stop(self) -> None:
        """Publish no more; a second call does nothing."""
        if self._publisher is not None:
            await self._publisher.stop()

    def stats(self) -> EngineStats:
        """The engine's, with what its requests ask for besides what it says itself."""
        stats, demand = self._engine.stats(), self._demand
        if not self.counts:
            return stats
        # The engine knows how far it is; what is cached of those that wait, it does not.
        tokens = demand.prefill_tokens
        if stats.prefill_tokens >= 0:
            tokens = min(tokens, stats.prefill_tokens)
        blocks = max(stats.kv_active_blocks, demand.blocks)
        return msgspec.structs.replace(stats, prefill_tokens=tokens, kv_active_blocks=blocks)

    def load(self) -> KvLoad:
        """The load of the moment, as routers get it."""
        stats = self.stats()
        return KvLoad(stats.prefill_tokens, stats.kv_active_blocks, self._requests, stats.kv_total_blocks)

    @contextmanager
    def request(self, request_id: str, payload: Any) -> Iterator[Tracked]:
        """Count a request for as long as the context is open.

        Args:
            request_id: Its id.
            payload: With ``prompt_token_ids``; of other prompts the length is guessed.
        """
        tokens, hashes = self._read(payload)
        cached = 0
        if self._blocks is not None and hashes:
            cached = self._blocks.overlap(hashes) * self._blocks.block_size
        self._demand.begin(request_id, max(1, tokens - cached), hashes)
        self._requests += 1
        if self._late is not None:
            self._late.begun(request_id)
        self._changed(request_id)
        try:
            yield Tracked(self, request_id)
        finally:
            self._requests -= 1
            self._demand.end(request_id)
            self._changed()

    def prefilled(self, request_id: str) -> None:
        """A request has its first token."""
        self._demand.prefilled(request_id)
        self._changed()

    def _changed(self, taken: str = "") -> None:
        if self._publisher is not None:
            self._publisher.changed(taken)
        if self._late is not None:
            self._late.changed()

    def _read(self, payload: Any) -> tuple[int, list[int]]:
        """Tokens of a prompt and, where anybody follows, the hashes of its blocks."""
        if not isinstance(payload, dict):
            return 1, []
        ids = payload.get("prompt_token_ids")
        if several_prompts(payload) or not isinstance(ids, list):
            return 1 + len(str(payload.get("prompt") or payload.get("messages") or "")) // 4, []
        if self._blocks is None or payload.get("images"):
            return len(ids), []
        card = self._engine.card
        lora = payload["model"] if payload.get("model") in card.adapters else ""
        try:
            return len(ids), sequence_hashes(
                ids, card.kv_block_size, lora, str(payload.get("cache_salt") or "")
            )
        except (OverflowError, TypeError):  # no token ids: the engine refuses them
            return len(ids), []
