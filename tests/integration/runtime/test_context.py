"""What a call chain shares: cancellation, deadline, trace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dynamo_tasks import Context, DistributedRuntime
from dynamo_tasks.errors import DeadlineExceededError, RequestCancelledError
from dynamo_tasks.runtime import Client
from tests.integration.runtime.conftest import OWN, Session
from tests.support.processes import Worker
from tests.support.promises import in_time
from tests.support.server import RedisServer

Run = Callable[[Session], Any]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(scope="module", autouse=True)
def worker(redis_server: RedisServer) -> Iterator[None]:
    with Worker(
        redis_server.url, service=f"{OWN}:Traced", env={"DYNAMO_NAMESPACE": "own-context"}, name="ctx"
    ):
        yield


async def _client(runtime: DistributedRuntime, endpoint: str) -> Client:
    component = runtime.namespace("own-context").component("Traced")
    return await component.endpoint(endpoint).client(annotated=False)


@pytest.mark.parametrize("how", ["stop_generating", "kill"])
def test_a_context_ends_its_calls(with_runtime: Run, how: str) -> None:
    async def session(runtime: DistributedRuntime) -> float:
        client, context = await _client(runtime, "long"), Context()
        call = client.generate({"n": 1000, "pause": 0.01}, context=context)
        waiting = asyncio.create_task(context.async_killed_or_stopped())
        values = [await anext(call) for _ in range(3)]
        began = time.monotonic()
        getattr(context, how)()
        if how == "kill":
            with pytest.raises(RequestCancelledError):
                values += [value async for value in call]
        else:
            values += [value async for value in call]
        took = time.monotonic() - began
        assert values == list(range(len(values)))
        assert await waiting
        assert (context.is_stopped, context.is_killed) == (True, how == "kill")
        async with asyncio.timeout(10):
            while (await runtime.client.ledger.get(call.id)).state != "CANCELLED":
                await asyncio.sleep(0.01)
        with pytest.raises(RequestCancelledError):
            await client({"n": 1}, context=context)
        return took

    in_time(lambda: with_runtime(session), 0.2)


def test_deadline_and_trace_reach_the_calls_of_a_call(with_runtime: Run) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        client = await _client(runtime, "deep")
        given = f"00-{TRACE}-00f067aa0ba902b7-01"
        context = Context(deadline=time.time() + 5, headers={"traceparent": given, "tracestate": "a=b"})
        ((near, far),) = [value async for value in client.random(None, context=context)]
        spans = {given, context.traceparent, near["trace"], far["trace"]}
        assert len(spans) == 4
        assert {span.split("-")[1] for span in spans} == {TRACE}
        assert near["headers"] == {"traceparent": context.traceparent, "tracestate": "a=b"}
        assert far["headers"] == {"traceparent": near["trace"], "tracestate": "a=b"}
        # What is left travels: each hop adds the time that it took.
        assert near["deadline"] == pytest.approx(context.deadline, abs=1.0)
        assert far["deadline"] == pytest.approx(near["deadline"], abs=1.0)

    with_runtime(session)


def test_a_context_past_its_deadline_ends_its_call(with_runtime: Run) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        client = await _client(runtime, "long")
        with pytest.raises(DeadlineExceededError):
            await client({"n": 1000, "pause": 0.01}, context=Context(deadline=time.time() + 0.3))

    with_runtime(session)
