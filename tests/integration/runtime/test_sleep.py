"""Instances that are told to sleep: they leave, what runs ends or goes elsewhere, and they come back when woken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from click.testing import CliRunner

from dynamo_tasks import DistributedRuntime
from dynamo_tasks.errors import InvalidRequestError, NoInstancesError
from dynamo_tasks.runtime import Client
from dynamo_tasks.runtime.inspect import gather
from dynamo_tasks.serve.cli import cli
from tests.integration.runtime.conftest import Session
from tests.support.processes import Worker
from tests.support.server import RedisServer

Run = Callable[[Session], Any]
NAMESPACE = "own-sleep"
MOCKER = ("Worker.engine=mocker", "Worker.engine_args.token_delay_ms=5")
LONG = {"prompt": "a story", "max_tokens": 200, "seed": 7}


def _worker(server: RedisServer, name: str, *settings: str, namespace: str = NAMESPACE) -> Worker:
    return Worker(server.url, settings=(f"Worker.dynamo.namespace={namespace}", *settings), name=name)


async def _answer(client: Client, began: asyncio.Event) -> str:
    text = ""
    async for value in client.generate(LONG):
        text += value["text"]
        began.set()
    return text


async def _until(runtime: DistributedRuntime, found: Callable[[dict[str, Any]], Any]) -> Any:
    """Loads are told every quarter of a second."""
    async with asyncio.timeout(10):
        while not (value := found(await _rows(runtime))):
            await asyncio.sleep(0.05)
    return value


async def _rows(runtime: DistributedRuntime) -> dict[str, dict[str, Any]]:
    found = await gather([runtime.client.store], NAMESPACE)
    return {row["instance_id"]: row for row in found["instances"]}


def test_a_component_sleeps_and_wakes(
    with_runtime: Run, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMO_REDIS_URL", redis_server.url)

    async def command(*arguments: str) -> tuple[int, str]:
        found = await asyncio.to_thread(CliRunner().invoke, cli, arguments)
        return found.exit_code, found.output

    async def session(runtime: DistributedRuntime) -> None:
        component = runtime.namespace(NAMESPACE).component("Worker")
        client = await component.endpoint("generate").client(annotated=False)
        await client.wait_for_instances(2, timeout=20)
        whole = await _answer(client, asyncio.Event())
        began = asyncio.Event()
        running = asyncio.create_task(_answer(client, began))
        await began.wait()
        busy = await _until(
            runtime, lambda rows: next((name for name in rows if rows[name]["in_flight"]), "")
        )

        # What still runs after the time that it was given goes on at the other one.
        assert await component.sleep(instance_id=busy, drain=0.1) == {busy: "asleep"}
        row = await _until(runtime, lambda rows: rows[busy]["state"] == "asleep" and rows[busy])
        assert (row["endpoints"], row["model"], row["in_flight"]) == (["asleep"], None, 0)
        assert await running == whole

        # With all of them asleep, a request waits; health checks do not bring them back.
        assert await component.sleep(level=2) == dict.fromkeys(await _rows(runtime), "asleep")
        waiting = asyncio.create_task(_answer(client, asyncio.Event()))
        done, _ = await asyncio.wait([waiting], timeout=1.5)
        assert not done
        assert {row["state"] for row in (await _rows(runtime)).values()} == {"asleep"}
        code, output = await command("wake", f"{NAMESPACE}.Worker")
        assert (code, sorted(output.split())) == (0, sorted([*await _rows(runtime), "awake", "awake"]))
        assert await waiting == whole
        await client.wait_for_instances(2, timeout=30)

        with pytest.raises(NoInstancesError, match="instance 1f of own-sleep/Worker: there is none"):
            await component.wake_up(instance_id="1f")
        assert (await command("sleep", "nobody.Worker"))[0] == 2
        assert (await command("sleep", "Worker"))[1].startswith(
            "Error: 'Worker': must be NAMESPACE.COMPONENT"
        )

    with (
        _worker(redis_server, "sleep-a", *MOCKER),
        _worker(redis_server, "sleep-b", *MOCKER),
    ):
        with_runtime(session)


def test_what_cannot_sleep_says_so_and_serves_on(with_runtime: Run, redis_server: RedisServer) -> None:
    async def work(request: Any) -> AsyncIterator[Any]:
        yield request

    async def session(runtime: DistributedRuntime) -> None:
        async with await DistributedRuntime.create(redis_server.url) as serving:
            endpoint = serving.namespace("own-sleepless").component("Plain").endpoint("work")
            await endpoint.endpoint_builder().handler(work).start()
            component = runtime.namespace("own-sleepless").component("Plain")
            with pytest.raises(InvalidRequestError, match="this instance does not sleep"):
                await component.sleep()
            client = await component.endpoint("work").client(annotated=False)
            assert [value async for value in client.generate(7)] == [7]

    with_runtime(session)
