"""A program that asks for every value over every edge, as application code does; prints what it got, as msgpack in hex.

``python -m tests.support.values_client [eager] [HTTP base]``
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import msgspec
from celery import chain

from dynamo_tasks import DistributedRuntime, app
from dynamo_tasks.pipelines import LocalEnvironment, connect
from tests.support.plain_values import NAMES, is_plain, make
from tests.support.values_service import Edges

TIMEOUT = 60


def queued(name: str) -> dict[str, Callable[[], Any]]:
    """Ways through Celery's calls, or eagerly."""
    edges: dict[str, Callable[[], Any]] = {
        "get": lambda: [Edges.one.delay(name).get(timeout=TIMEOUT)],
        "iterate": lambda: list(Edges.one.delay(name)),
        "get, thread": lambda: [Edges.one_in_thread.delay(name).get(timeout=TIMEOUT)],
        "get, stream": lambda: Edges.many.delay(name).get(timeout=TIMEOUT),
        "iterate, stream": lambda: list(Edges.many.delay(name)),
        "iterate, stream, thread": lambda: list(Edges.many_in_thread.delay(name)),
        "chain": lambda: [chain(Edges.one.s(name), Edges.echo.s()).delay().get(timeout=TIMEOUT)],
        "aggregate": lambda: _aggregate(Edges.whole.delay(name).get(timeout=TIMEOUT)),
        "request": lambda: [Edges.echo.delay(make(name)).get(timeout=TIMEOUT)],
        "signature": lambda: [chain(Edges.echo.s(make(name)), Edges.echo.s()).delay().get(timeout=TIMEOUT)],
    }
    return edges


def remote(name: str, http: str) -> dict[str, Callable[[], Any]]:
    """Ways that only a worker serves."""
    return {
        "dependency": lambda: _dependency(Edges.asked.delay(name).get(timeout=TIMEOUT)),
        "pipeline": lambda: _pipeline(name),
        "http": lambda: [_post(f"{http}/json", {"name": name})],
        "sse": lambda: [_sse(f"{http}/sse", {"name": name})],
    }


async def clients(name: str, runtime: DistributedRuntime) -> dict[str, Callable[[], Any]]:
    """Ways of the runtime's client, and events."""
    component = runtime.namespace("plain-values").component("Edges")

    async def client(endpoint: str) -> Any:
        found = await component.endpoint(endpoint).client(annotated=False)
        await found.wait_for_instances()
        return found

    async def iterate(endpoint: str, request: Any) -> list[Any]:
        return [value async for value in (await client(endpoint)).generate(request)]

    async def event() -> list[Any]:
        async with component.subscribe("values") as events:
            await component.publish("values", make(name))
            return [(await anext(events)).data()]

    return {
        "client": lambda: iterate("one", name), "client, stream": lambda: iterate("many", name),
        "client, request": lambda: iterate("echo", make(name)), "event": event,
    }  # fmt: skip


def _aggregate(whole: Any) -> list[Any]:
    assert whole["plain"] is True
    assert is_plain(whole["count"])
    return [whole["last"]]


def _dependency(answers: list[Any]) -> list[Any]:
    assert answers[0] is True
    return answers[1:]


def _pipeline(name: str) -> list[Any]:
    env = LocalEnvironment("values")
    env.register_service("one", Edges.prompted)
    with connect(env) as shop:
        return [shop.call_service("one", name, timeout=TIMEOUT)]


def _post(url: str, body: Any) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise RuntimeError(json.loads(error.read())["error"]["message"]) from None


def _sse(url: str, body: Any) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        first = answer.read().decode().partition("data: ")[2].partition("\n")[0]
    found = json.loads(first)
    if isinstance(found, dict) and set(found) == {"error"}:
        raise RuntimeError(found["error"]["message"])
    return found


async def _asked(edges: dict[str, Callable[[], Any]], name: str, found: dict[str, Any]) -> None:
    for edge, ask in edges.items():
        try:
            values = ask()
            values = await values if asyncio.iscoroutine(values) else values
            plain = all(map(is_plain, values))
            found[f"{edge} | {name}"] = {"values": values if plain else repr(values), "plain": plain}
        except Exception as exc:  # noqa: BLE001 - whatever comes is what the test looks at
            found[f"{edge} | {name}"] = {"error": f"{type(exc).__name__}: {exc}"}


async def main() -> None:
    found: dict[str, Any] = {}
    if sys.argv[1] == "eager":
        app.conf.task_always_eager = True
        for name in NAMES:
            await _asked(queued(name), name, found)
    else:
        runtime = await DistributedRuntime.create()
        for name in NAMES:
            await asyncio.to_thread(lambda name=name: asyncio.run(_queued(name, found)))
            await _asked(await clients(name, runtime), name, found)
        await runtime.aclose()
    print(msgspec.msgpack.encode(found).hex())


async def _queued(name: str, found: dict[str, Any]) -> None:
    await _asked(queued(name) | remote(name, sys.argv[1]), name, found)


if __name__ == "__main__":
    asyncio.run(main())
