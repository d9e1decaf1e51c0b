"""A client's view of the queue's test service, and what the server knows of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.app import DynamoApp, create_app
from dynamo_tasks.queue.client.result import StreamResult
from dynamo_tasks.queue.client.task import EndpointTask, make_task
from dynamo_tasks.store.keys import Keys
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.queue_keys import priority_suffix
from tests.support.processes import Worker, until
from tests.support.records import by_word
from tests.support.server import RedisServer

__all__ = ["SERVICE", "Lab", "not_consuming"]

SERVICE = "tests.support.services_queue:Lab"


class Lab:
    """One namespace of the test service on one server."""

    def __init__(self, server: RedisServer, namespace: str, url: str = ""):
        self.server = server
        self.url = url or server.url
        self.namespace = namespace
        self.app: DynamoApp = create_app(
            f"lab_{namespace}", server_url=self.url, make_host=lambda *_, **__: None
        )
        self.app.conf.update(broker_connection_retry_on_startup=True)
        self.redis = redis.Redis(port=server.port, decode_responses=True)
        self.keys = Keys(namespace)
        self.queue = f"{namespace}|Lab"

    def worker(
        self, *arguments: str, name: str = "", env: dict[str, str] | None = None, **more: Any
    ) -> Worker:
        """A worker process of this namespace."""
        more.setdefault("service", SERVICE)
        return Worker(
            self.url, *arguments, name=name or self.namespace,
            env={"LAB_NAMESPACE": self.namespace, **(env or {})}, **more,
        )  # fmt: skip

    def task(self, endpoint: str) -> EndpointTask:
        """The Celery task of an endpoint."""
        return make_task(self.app, EndpointId(self.namespace, "Lab", endpoint))

    def call(self, endpoint: str, payload: Any = None, **options: Any) -> StreamResult:
        """Queue a call."""
        return self.task(endpoint).apply_async((payload,), **options)

    def plain(self, name: str) -> Any:
        """The signature of a plain task of the test service."""
        return self.app.signature(f"{self.namespace}.{name}", queue="dynamo-tasks")

    def record(self, request_id: str) -> dict[str, str]:
        """The ledger's record, by the words of its fields."""
        return by_word(self.redis.hgetall(self.keys.record(request_id)))

    def state(self, request_id: str) -> str | None:
        """The ledger's state."""
        return self.redis.hget(self.keys.record(request_id), Field.STATE)

    def reaches(self, request_id: str, state: str, timeout: float = 30.0) -> None:
        """Wait for a state."""
        until(
            lambda: self.state(request_id) == state, timeout, lambda: f"{state}, is {self.record(request_id)}"
        )

    def length(self, priority: int = 0) -> int:
        """Messages in the queue."""
        return self.redis.llen(self.queue + priority_suffix(priority))

    def unacked(self) -> int:
        """Messages that workers hold."""
        return sum(self.redis.hlen(key) for key in self.redis.scan_iter("dt:@unacked:*"))

    def events(self, request_id: str) -> list[Any]:
        """The raw log."""
        return redis.Redis(port=self.server.port).xrange(self.keys.stream(request_id))

    def close(self) -> None:
        """Drop the connections."""
        self.app.close()
        self.redis.close()


@contextmanager
def not_consuming(lab: Lab) -> Iterator[None]:
    """The worker leaves the component's queue alone."""
    assert lab.app.control.cancel_consumer(lab.queue, reply=True, timeout=5, limit=1)
    until(lambda: _blocked_on(lab) == 0, what="the pop of the queue to end")
    yield
    assert lab.app.control.add_consumer(lab.queue, reply=True, timeout=5, limit=1)


def _blocked_on(lab: Lab) -> int:
    """Clients that wait for the component's queue."""
    probe = f"probe-{lab.queue}"
    lab.redis.rpush(probe, "x")
    lab.redis.delete(probe)
    queues = lab.app.control.inspect(timeout=5, limit=1).active_queues() or {}
    return sum(queue["name"] == lab.queue for found in queues.values() for queue in found)
