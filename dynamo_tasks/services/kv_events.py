"""The changes of an engine's prefix cache, published as ``kv_events`` on the component's events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from dynamo_tasks.errors import ServerUnavailableError
from dynamo_tasks.observe import event
from dynamo_tasks.runtime.components.component import Component

__all__ = ["TOPIC", "publish_kv_events"]

TOPIC = "kv_events"


async def publish_kv_events(
    source: AsyncGenerator[dict[str, Any], None], component: Component, worker_id: str
) -> None:
    """Publish batches until cancelled.

    While Redis cannot be reached they are left out: ``seq`` shows subscribers that some are missing.

    Args:
        source: Of the engine.
        component: Its events carry them, with ``worker_id``.
        worker_id: The instance.
    """
    async with aclosing(source):
        async for batch in source:
            try:
                await component.publish(TOPIC, {"worker_id": worker_id, **batch})
            except ServerUnavailableError as error:
                event("engine.kv_events_lost", worker_id=worker_id, seq=batch["seq"], error=str(error))
                await asyncio.sleep(0)
