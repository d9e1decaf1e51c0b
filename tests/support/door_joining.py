"""A script that first looks at requests while the server is away; see ``tests/doors/test_joining_in_an_outage.py``.

Its arguments: ``fresh`` or ``connected``, and the ids of a request that streamed and of one that returned a value.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from celery.result import ResultSet

from dynamo_tasks import DistributedRuntime, StreamResult, app
from tests.support.door_calls import Caller

IS_CONNECTED, STREAMED, RETURNED = sys.argv[1] == "connected", sys.argv[2], sys.argv[3]


async def _collected(result: Any) -> list[Any]:
    return [value async for value in result]


async def _awaited(result: Any) -> Any:
    return await result


async def _created() -> bool:
    async with await DistributedRuntime.create():
        return True


async def _called() -> Any:
    async with await DistributedRuntime.create(timeout=100) as runtime:
        client = await runtime.namespace("door").component("Caller").endpoint("double").client()
        await client.wait_for_instances(timeout=60)
        return await client(4)


WAYS: dict[str, Callable[[], Any]] = {
    "stream": lambda: list(StreamResult(STREAMED).stream()),
    "iterate": lambda: list(StreamResult(STREAMED, namespace="door")),
    "astream": lambda: asyncio.run(_collected(StreamResult(STREAMED))),
    "get": lambda: StreamResult(RETURNED).get(timeout=100),
    "get of a stream": lambda: StreamResult(STREAMED).get(timeout=100),
    "await": lambda: asyncio.run(_awaited(StreamResult(RETURNED))),
    "by its task": lambda: Caller.double.AsyncResult(RETURNED).get(timeout=100),
    "set": lambda: ResultSet([StreamResult(RETURNED), StreamResult(STREAMED)], app=app).get(timeout=100),
    "runtime": lambda: asyncio.run(_called()),
}
IMPATIENT: dict[str, Callable[[], Any]] = {
    "get": lambda: StreamResult(RETURNED).get(timeout=2),
    "look": lambda: StreamResult(RETURNED).record().id,
    "runtime": lambda: asyncio.run(_created()),
}
"""What does not wait until the server is back."""


def told(call: Callable[[], Any]) -> list[Any]:
    began = time.monotonic()
    try:
        value = call()
    except Exception as exc:  # noqa: BLE001 - it is what is tested
        return [time.monotonic() - began, [kind.__name__ for kind in type(exc).__mro__], str(exc)]
    return [time.monotonic() - began, value]


def all_told(found: dict[str, Future[Any]]) -> str:
    return json.dumps({name: future.result() for name, future in found.items()})


if IS_CONNECTED:
    assert StreamResult(RETURNED).get(timeout=60) == 8
print("begun", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(len(WAYS) + len(IMPATIENT)) as pool:
    patient = {name: pool.submit(told, call) for name, call in WAYS.items()}
    impatient = {name: pool.submit(told, call) for name, call in IMPATIENT.items()}
    print(all_told(impatient), flush=True)
    print(all_told(patient), flush=True)
