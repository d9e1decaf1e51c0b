"""Endpoints that a plain program serves: a function, no service class, no worker command."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dynamo_tasks import DistributedRuntime
from dynamo_tasks.errors import AlreadyRegisteredError, ConfigError, InvalidRequestError
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.app import create_app
from dynamo_tasks.queue.client.task import make_task
from dynamo_tasks.runtime import Client
from tests.integration.runtime.conftest import Session
from tests.support.processes import Process, environment, until
from tests.support.server import RedisServer

Run = Callable[[Session], Any]
NAMESPACE = "own-plain"


@pytest.fixture(scope="module")
def program(redis_server: RedisServer) -> Iterator[Process]:
    argv = [sys.executable, "-m", "tests.integration.runtime.plain_server", NAMESPACE]
    with Process(argv, environment(redis_server.url), name="plain") as process:
        until(lambda: "serving" in process.output or not process.alive, what="it serves")
        assert process.alive, process.output
        yield process


async def _client(runtime: DistributedRuntime, component: str, endpoint: str) -> Client:
    found = runtime.namespace(NAMESPACE).component(component).endpoint(endpoint)
    client = await found.client(annotated=False)
    await client.wait_for_instances(1, timeout=30)
    return client


def test_handlers_of_every_kind_are_served_by_one_consumer(with_runtime: Run, program: Process) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        count = await _client(runtime, "First", "count")
        call = count.generate({"n": 3})
        assert [value async for value in call] == [{"number": n, "id": call.id} for n in range(3)]
        square = await _client(runtime, "First", "square")
        assert [value async for value in square.direct(7, square.instance_ids()[0])] == [49]
        with pytest.raises(InvalidRequestError):
            await square("seven")
        whoami = await _client(runtime, "Second", "whoami")
        assert await whoami() == program.pid
        assert count.instance_ids() == square.instance_ids() == whoami.instance_ids()
        stats = await runtime.namespace(NAMESPACE).component("First").scrape_stats()
        assert stats[count.instance_ids()[0]]["count"]["told"] == 7
        listed = (await runtime.client.store.commands.execute("CLIENT", "LIST")).decode().splitlines()
        consumer = f"name=dynamo-tasks:consumer:{count.instance_ids()[0]:x} "
        assert sum(consumer in row and "cmd=blmpop" in row for row in listed) == 1

    with_runtime(session)


@pytest.mark.usefixtures("program")
def test_celery_keeps_results_of_plain_handlers(redis_server: RedisServer) -> None:
    app = create_app("own_plain", server_url=redis_server.url, make_host=lambda *_, **__: None)
    square = make_task(app, EndpointId(NAMESPACE, "First", "square"))
    assert square.delay(5).get(timeout=30) == 25
    app.close()


def test_what_cannot_be_served_is_refused(redis_server: RedisServer) -> None:
    async def session() -> None:
        async with await DistributedRuntime.create(redis_server.url) as runtime:
            endpoint = runtime.namespace("own-refused").component("Here").endpoint("double")
            with pytest.raises(ConfigError, match="has no handler"):
                await endpoint.endpoint_builder().start()
            info = await endpoint.endpoint_builder().handler(lambda number: number * 2).start()
            assert [one.lease_id for one in await endpoint.component.instances()] == [info.lease_id]
            with pytest.raises(AlreadyRegisteredError):
                await endpoint.endpoint_builder().handler(lambda number: number * 3).start()
            client = await endpoint.client(annotated=False)
            assert await client(4) == 8
        async with await DistributedRuntime.create(redis_server.url) as runtime:
            assert await runtime.client.registry.instances("own-refused") == []
            # A second runtime of the process may serve once the first one is closed.
            endpoint = runtime.namespace("own-refused").component("Here").endpoint("double")
            await endpoint.endpoint_builder().handler(lambda number: number * 4).start()
            assert await (await endpoint.client(annotated=False))(4) == 16

    asyncio.run(session())


def test_a_program_that_ends_finishes_what_runs(with_runtime: Run, program: Process) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        client = await _client(runtime, "First", "count")
        call = client.generate({"n": 20, "pause": 0.02})
        values = [await anext(call)]
        ending = asyncio.create_task(asyncio.to_thread(program.terminate))
        values += [value async for value in call]
        assert [value["number"] for value in values] == list(range(20))
        assert await ending == 0, program.output
        assert await runtime.client.registry.instances(NAMESPACE) == []
        assert await runtime.client.store.commands.execute("KEYS", f"dt:{NAMESPACE}:lease*") == []

    with_runtime(session)
    assert "ended" in program.output


def test_a_start_that_was_given_up_can_be_tried_again(own_server: RedisServer) -> None:
    async def session() -> int:
        async with await DistributedRuntime.create(own_server.url) as runtime:
            endpoint = runtime.namespace("own-again").component("Here").endpoint("double")
            own_server.freeze()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await endpoint.endpoint_builder().handler(lambda number: number * 2).start()
            own_server.thaw()
            await endpoint.endpoint_builder().handler(lambda number: number * 3).start()
            client = await endpoint.client(annotated=False)
            await client.wait_for_instances(1, timeout=30)
            found: int = await client(7)
            return found

    assert asyncio.run(session()) == 21


def test_a_start_in_another_namespace_that_was_given_up_leaves_nothing_there(own_server: RedisServer) -> None:
    """Neither its health checks nor the next start make it known there, nor keep a lease of it."""

    async def session() -> None:
        async with await DistributedRuntime.create(
            own_server.url, health_check={"interval": 0.02}
        ) as runtime:
            execute = runtime.client.store.commands.execute

            async def start(namespace: str, name: str) -> None:
                endpoint = runtime.namespace(namespace).component("Here").endpoint(name)
                await endpoint.endpoint_builder().handler(lambda n: n).start()

            await start("own-kept", "one")
            given_up = []
            for n, pause in enumerate((0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)):
                starting = asyncio.create_task(start(f"own-elsewhere-{n}", "two"))
                await asyncio.sleep(pause)
                if starting.cancel():
                    given_up.append(f"own-elsewhere-{n}")
                await asyncio.wait([starting])
                await start("own-kept", f"further-{n}")
            assert given_up
            for namespace in given_up:
                assert await execute("KEYS", f"dt:{namespace}:inst*") == []
                assert await execute("KEYS", f"dt:{namespace}:lease:*") == []

    asyncio.run(session())


def test_a_further_start_that_was_given_up_leaves_nothing(with_runtime: Run) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        hierarchy = runtime.namespace("own-given-up")
        await hierarchy.component("Here").endpoint("one").endpoint_builder().handler(lambda n: n).start()
        further = hierarchy.component("There").endpoint("double")
        for pause in (0, 0.0005, 0.001, 0.002, 0.004, 0.008):
            starting = asyncio.create_task(further.endpoint_builder().handler(lambda n: n * 2).start())
            await asyncio.sleep(pause)
            if not starting.cancel():
                break
            await asyncio.wait([starting])
            assert starting.cancelled()
            assert further.endpoint_config is None
            assert not any(further.id.queue in queue for queue in runtime.serving.host.queues)
            assert await further.component.instances() == []
            assert runtime.registry.stats(further.id.queue) == {}
        else:
            await further.endpoint_builder().handler(lambda n: n * 2).start()
        client = await further.client(annotated=False)
        await client.wait_for_instances(1, timeout=30)
        assert await client(7) == 14

    with_runtime(session)
