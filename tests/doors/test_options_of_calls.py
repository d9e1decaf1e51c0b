"""What a call and its service ask for happens or is refused: known ids, ids that are none, the time of the service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue

from dynamo_tasks import DistributedRuntime
from dynamo_tasks.errors import (
    IdempotencyConflictError,
    InvalidRequestError,
)
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.app import create_app
from dynamo_tasks.queue.client.task import make_task
from tests.support.processes import Worker
from tests.support.server import RedisServer


@pytest.fixture(scope="module")
def app(redis_server: RedisServer) -> Iterator[Celery]:
    made = create_app("limited", server_url=redis_server.url, make_host=lambda *_, **__: None)
    yield made
    made.close()


@pytest.fixture(scope="module")
def worker(redis_server: RedisServer) -> Iterator[Worker]:
    with Worker(
        redis_server.url, app="tests.support.limited", service="tests.support.limited:Limited"
    ) as process:
        yield process


def task(app: Celery, endpoint: str = "rest", namespace: str = "limited") -> Any:
    return make_task(app, EndpointId(namespace, "Limited", endpoint))


@pytest.mark.parametrize("direct", [True, False], ids=["one step", "Celery's way"])
def test_a_task_id_stands_for_one_payload(app: Celery, direct: bool) -> None:
    rest, name = task(app, namespace="nobody"), f"order-17-{direct}"
    more = {} if direct else {"priority": 3}
    first = rest.apply_async(({"sleep": 0},), task_id=name, **more)
    again = rest.apply_async(({"sleep": 0},), task_id=name, **more)
    assert first.id == again.id == name
    with pytest.raises(IdempotencyConflictError, match=name):
        rest.apply_async(({"sleep": 1},), task_id=name, **more)
    with pytest.raises(IdempotencyConflictError, match=name):
        rest.apply_async(({"sleep": 1},), task_id=name, priority=6)
    assert first.cancel()


@pytest.mark.parametrize("wrong", [5, b"x", ["x"], "two words", "a\nb", "x" * 256, "\ud800"])
def test_what_is_no_id_is_refused(app: Celery, wrong: Any) -> None:
    with pytest.raises(InvalidRequestError, match="task_id must be"):
        task(app, namespace="nobody").apply_async(({"sleep": 0},), task_id=wrong)


@pytest.mark.parametrize("serializer", ["pickle", "yaml", "msgpack"])
def test_another_serializer_is_refused_by_name(app: Celery, serializer: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"serializer must be json.*{serializer}"):
        task(app).apply_async(({"sleep": 0},), serializer=serializer)
    assert task(app, namespace="nobody").apply_async(({"sleep": 0},), serializer="json").cancel()


@pytest.mark.parametrize("exchange", ["x", Exchange("x", "topic"), Exchange("x", "fanout")], ids=repr)
def test_a_call_that_no_queue_would_get_is_refused(app: Celery, exchange: Any) -> None:
    """Celery publishes it, and nobody hears of it."""
    with pytest.raises(InvalidRequestError, match="exchange 'x' has no queue for the routing key 'y'"):
        task(app, namespace="nobody").apply_async(({"sleep": 0},), exchange=exchange, routing_key="y")


def test_a_call_through_an_exchange_with_a_queue_is_queued_there(app: Celery) -> None:
    queue = Queue("elsewhere", Exchange("bound", "direct"), routing_key="here")
    with app.connection_for_write() as connection:
        queue(connection.default_channel).declare()
    call = task(app, namespace="nobody").apply_async(({"sleep": 0},), exchange="bound", routing_key="here")
    assert call.cancel()


def _delay(app: Celery, endpoint: str) -> Any:
    return task(app, endpoint).delay({"sleep": 60}).get(timeout=30)


def _celerys_way(app: Celery, endpoint: str) -> Any:
    return task(app, endpoint).apply_async(({"sleep": 60},), priority=1, countdown=0.3).get(timeout=30)


def _longer_deadline(app: Celery, endpoint: str) -> Any:
    return task(app, endpoint).apply_async(({"sleep": 60},), deadline=3600).get(timeout=30)


def _bare_message(app: Celery, endpoint: str) -> Any:
    with Celery("stranger", broker=app.server_url, backend=app.server_url, set_as_current=False) as stranger:
        sent = stranger.send_task(f"limited.Limited.{endpoint}", ({"sleep": 60},), queue="limited|Limited")
        return sent.get(timeout=30)


def _runtime(app: Celery, endpoint: str) -> Any:
    async def call() -> list[Any]:
        async with await DistributedRuntime.create(app.server_url) as runtime:
            client = await runtime.namespace("limited").component("Limited").endpoint(endpoint).client()
            await client.wait_for_instances()
            return [item async for item in client.direct({"sleep": 60}, client.instance_ids()[0])]

    return asyncio.run(asyncio.wait_for(call(), 30))


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("endpoint", ["rest", "drip"])
@pytest.mark.parametrize(
    "way",
    [_delay, _celerys_way, _longer_deadline, _bare_message, _runtime],
    ids=lambda way: way.__name__.strip("_"),
)
def test_the_services_timeout_holds_whichever_way_a_call_comes(
    app: Celery, way: Callable[[Celery, str], Any], endpoint: str
) -> None:
    began = time.monotonic()
    with pytest.raises(Exception, match="deadline"):
        way(app, endpoint)
    assert time.monotonic() - began < 15


@pytest.mark.usefixtures("worker")
def test_what_is_in_time_is_not_touched(app: Celery) -> None:
    assert task(app).delay({"sleep": 0.01}).get(timeout=30) == {"sleep": 0.01}


@pytest.mark.usefixtures("worker")
def test_a_deadline_that_is_earlier_holds(app: Celery) -> None:
    with pytest.raises(Exception, match="deadline"):
        task(app).apply_async(({"sleep": 60},), deadline=0.3).get(timeout=30)
