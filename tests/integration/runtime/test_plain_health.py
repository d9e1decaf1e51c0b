"""Health checks of what plain code serves: the same canary, probes and lag as for service classes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from dynamo_tasks import DistributedRuntime
from dynamo_tasks.errors import ConfigError, InstanceDeadError
from dynamo_tasks.runtime import Client, Endpoint
from tests.integration.runtime.conftest import sent
from tests.support.server import RedisServer

TIMES = {"interval": 0.05, "canary_after": 0.2, "max_lag": 0.3}


@dataclass
class Patient:
    """Its health is what its fields say."""

    ready: bool = True
    alive: bool = True
    mute: bool = False

    async def is_ready(self) -> bool:
        return self.ready

    def is_alive(self) -> bool | None:
        return self.alive or False

    async def work(self, request: dict[str, Any]) -> AsyncIterator[int]:
        if self.mute:
            raise RuntimeError("does not answer")
        for number in range(request["n"]):
            yield number
            await asyncio.sleep(request.get("pause", 0))


async def _client(runtime: DistributedRuntime, namespace: str) -> Client:
    return await _endpoint(runtime, namespace).client(annotated=False)


def _endpoint(runtime: DistributedRuntime, namespace: str) -> Endpoint:
    return runtime.namespace(namespace).component("Plain").endpoint("work")


async def _serve(runtime: DistributedRuntime, namespace: str, patient: Patient) -> None:
    builder = _endpoint(runtime, namespace).endpoint_builder().handler(patient.work).policy("replay")
    builder.health_check_payload({"n": 1}).liveness(patient.is_alive).readiness(patient.is_ready)
    await builder.start()


async def _until(fact: Callable[[], Any], timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not (await found if isinstance(found := fact(), Awaitable) else found):
            await asyncio.sleep(0.01)


def _run(server: RedisServer, session: Callable[[DistributedRuntime, DistributedRuntime], Any]) -> None:
    async def main() -> None:
        async with (
            await DistributedRuntime.create(server.url) as caller,
            await DistributedRuntime.create(server.url, health_check=TIMES) as serving,
        ):
            await session(caller, serving)

    asyncio.run(main())


def test_an_unhealthy_program_takes_no_work_and_comes_back(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def session(caller: DistributedRuntime, serving: DistributedRuntime) -> None:
        patient = Patient()
        client = await _client(caller, "plain-health")
        await _serve(serving, "plain-health", patient)
        await client.wait_for_instances(1, timeout=30)
        await _until(lambda: serving.serving.host.lifecycle.state == "Healthy")
        for field, ill in (("ready", False), ("mute", True)):
            setattr(patient, field, ill)
            await _until(lambda: not client.instance_ids())
            call = client.generate({"n": 3})
            result = await sent(caller, call)
            assert (await caller.client.ledger.get(call.id)).state == "QUEUED"
            setattr(patient, field, not ill)
            await client.wait_for_instances(1, timeout=30)
            assert await result == [0, 1, 2]
        time.sleep(0.5)  # noqa: ASYNC251 - that is the trouble
        await _until(lambda: "the event loop was blocked" in caplog.text)
        await _until(lambda: serving.serving.host.lifecycle.state == "Healthy")

    _run(redis_server, session)


def test_a_program_that_is_not_alive_hands_over_and_says_so(redis_server: RedisServer) -> None:
    async def session(caller: DistributedRuntime, serving: DistributedRuntime) -> None:
        patient = Patient()
        await _serve(serving, "plain-dead", patient)
        client = await _client(caller, "plain-dead")
        await client.wait_for_instances(1, timeout=30)
        call = client.generate({"n": 40, "pause": 0.02})
        values = [await anext(call)]
        patient.alive = False
        with pytest.raises(InstanceDeadError, match="liveness: no"):
            await serving.serving.wait_closed()
        await _until(lambda: not client.instance_ids())
        async with await DistributedRuntime.create(redis_server.url, health_check=TIMES) as next_one:
            await _serve(next_one, "plain-dead", Patient())
            values += [value async for value in call]
        assert values == list(range(40))

    _run(redis_server, session)


def test_the_configuration_of_an_endpoint_can_be_seen_and_used_again(redis_server: RedisServer) -> None:
    async def session(caller: DistributedRuntime, serving: DistributedRuntime) -> None:
        component = serving.namespace("plain-config").component("Plain")
        one, two = component.endpoint("one"), component.endpoint("two")
        assert one.endpoint_config is None
        builder = one.endpoint_builder().handler(Patient().work).policy("replay")
        await builder.start()
        assert one.endpoint_config == builder.build()
        assert one.endpoint_config.policy == "replay"
        await two.endpoint_builder(one.endpoint_config).policy("fail").start()
        assert two.endpoint_config is not None
        assert (two.endpoint_config.policy, two.endpoint_config.handler) == ("fail", builder.build().handler)
        client = await two.client(annotated=False)
        await client.wait_for_instances(1, timeout=30)
        assert [value async for value in client.generate({"n": 2})] == [0, 1]

    _run(redis_server, session)


def test_times_of_the_checks_are_checked(redis_server: RedisServer) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match="intervall"):
            await DistributedRuntime.create(redis_server.url, health_check={"intervall": 1})

    asyncio.run(main())
