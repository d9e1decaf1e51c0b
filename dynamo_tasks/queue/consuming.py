"""A worker that runs takes messages of further queues, or of some no more."""

from __future__ import annotations

from typing import Any

from dynamo_tasks.queue import greenlets

__all__ = ["abandon", "consume"]


async def consume(worker: Any, queues: list[str]) -> None:
    """Take messages of further queues, for tasks that were registered meanwhile."""
    worker.consumer.update_strategies()
    for queue in queues:
        await greenlets.run(worker.consumer.add_task_queue, queue)


async def abandon(worker: Any, queues: list[str]) -> None:
    """Take messages of some queues no more."""
    for queue in queues:
        await greenlets.run(worker.consumer.cancel_task_queue, queue)
