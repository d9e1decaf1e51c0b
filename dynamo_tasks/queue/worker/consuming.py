"""Queues that a worker takes messages of: at its start, and while it runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery.app.amqp import Queues as CeleryQueues
from celery.utils.text import str_to_list
from kombu import Exchange, Queue

from dynamo_tasks.queue import greenlets

__all__ = ["Queues", "abandon", "along_with", "chosen", "consume", "direct_queue"]


def direct_queue(name: str) -> Queue:
    """A queue that is sent to by its name; kombu keeps no binding of it in Redis, which would outlive it."""
    return Queue(name, Exchange("", type="direct"), routing_key=name)


def _of_endpoints(name: str) -> bool:
    return "|" in name


class Queues(CeleryQueues):  # type: ignore[misc]
    """Queues of an application; those of endpoints are sent to by their names, whatever it wants of others."""

    def _add(self, queue: Queue) -> Queue:
        if not _of_endpoints(queue.name):
            return super()._add(queue)
        self[queue.name] = queue
        return queue

    def new_missing(self, name: str) -> Queue:
        """Celery callback: a queue that nobody has described."""
        return direct_queue(name) if _of_endpoints(name) else super().new_missing(name)

    def declare(self, name: str) -> None:
        """Know a queue of endpoints, also where names that nobody has described are refused."""
        if _of_endpoints(name) and name not in self:
            self.add(direct_queue(name))


def along_with(queues: Iterable[str], own: Iterable[str]) -> list[str]:
    """List a worker's own queues that others bring along: a component's queue those of its instance."""
    wanted = set(queues)
    return [name for name in own if name not in wanted and name.partition(".")[0] in wanted]


def chosen(asked: Any, own: list[str], plain: list[str]) -> list[str]:
    """List the queues that a worker takes messages of.

    Args:
        asked: As ``-Q`` names them; all others are left then.
        own: Of the service's component, and of this instance.
        plain: Of plain tasks.
    """
    names = str_to_list(asked) if asked else [*own, *plain]
    return [*names, *along_with(names, own)]


async def consume(worker: Any, queues: list[str]) -> None:
    """Take messages of further queues, for tasks that were registered meanwhile."""
    worker.consumer.update_strategies()
    for queue in queues:
        await greenlets.run(worker.consumer.add_task_queue, queue)


async def abandon(worker: Any, queues: list[str]) -> None:
    """Take messages of some queues no more."""
    for queue in queues:
        await greenlets.run(worker.consumer.cancel_task_queue, queue)
