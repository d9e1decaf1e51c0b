"""What a publisher is told: queue limits and idempotency keys."""

from __future__ import annotations

import pytest

from dynamo_tasks.errors import IdempotencyConflictError, QueueFullError
from dynamo_tasks.queue.client.task import make_task
from dynamo_tasks.sdk import dynamo_endpoint, service
from tests.support.queue import Lab


def test_a_key_that_is_known_stands_for_its_first_request(lab: Lab) -> None:
    first = lab.call("add", {"a": 1}, idempotency_key="k")
    again = lab.call("add", {"a": 1}, idempotency_key="k")
    assert again.id == first.id
    assert lab.length() == 1
    with pytest.raises(IdempotencyConflictError):
        lab.call("add", {"a": 2}, idempotency_key="k")
    other = lab.call("add", {"a": 2}, idempotency_key="k", tenant="other")
    assert other.id != first.id
    first.cancel()
    other.cancel()


def test_a_full_queue_refuses(lab: Lab) -> None:
    @service(dynamo={"namespace": lab.namespace, "name": "Lab"}, traffic={"max_queue": 2})
    class Limited:
        @dynamo_endpoint()
        async def add(self, request: dict) -> dict:
            return request

    endpoint = Limited.get_endpoint("add")
    assert endpoint is not None
    task = make_task(lab.app, endpoint.id, endpoint)
    queued = [task.delay({}) for _ in range(2)]
    with pytest.raises(QueueFullError, match="holds 2 requests, its limit") as caught:
        task.delay({})
    assert caught.value.retry_after
    queued[0].cancel()
    task.delay({})
