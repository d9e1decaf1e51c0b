"""Clients of the runtime on real workers: the shared queue, the ways to choose an instance, items."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dynamo_tasks import DistributedRuntime
from dynamo_tasks.errors import InvalidNameError, NoInstancesError
from dynamo_tasks.protocol.events import EventId
from dynamo_tasks.protocol.instances import InstanceInfo
from dynamo_tasks.runtime import Client
from dynamo_tasks.store.registry import new_lease
from tests.integration.runtime.conftest import OWN, Session
from tests.support.processes import Worker, together
from tests.support.promises import in_time
from tests.support.server import RedisServer
from tests.support.streams import eventually

Run = Callable[[Session], Any]
NAMESPACE = "own-clients"
ENV = {"DYNAMO_NAMESPACE": NAMESPACE}


@pytest.fixture(scope="module")
def pair(redis_server: RedisServer) -> Iterator[list[Worker]]:
    url, service = redis_server.url, f"{OWN}:Child"
    with together(
        Worker(url, service=service, env=ENV, name="a"),
        Worker(url, service=service, env=ENV, name="b"),
    ) as (one, two):
        yield [one, two]


async def _client(runtime: DistributedRuntime, endpoint: str = "show", *, annotated: bool = False) -> Client:
    component = runtime.namespace(NAMESPACE).component("Child")
    client = await component.endpoint(endpoint).client(annotated=annotated)
    await client.wait_for_instances(2, timeout=30)
    return client


async def _pids(client: Client, policy: str, calls: int) -> Counter[int]:
    found: Counter[int] = Counter()
    for _ in range(calls):
        async for value in getattr(client, policy)(None):
            found[value["pid"]] += 1
    return found


@pytest.mark.parametrize(
    "policy", ["generate", "static", "random", "power_of_two", "least_loaded", "round_robin"]
)
def test_every_way_reaches_the_workers(with_runtime: Run, pair: list[Worker], policy: str) -> None:
    async def session(runtime: DistributedRuntime) -> Counter[int]:
        return await _pids(await _client(runtime), policy, 10)

    found = with_runtime(session)
    assert set(found) <= {worker.pid for worker in pair}
    assert sum(found.values()) == 10
    if policy == "round_robin":
        assert set(found.values()) == {5}


def test_direct(with_runtime: Run, pair: list[Worker]) -> None:
    async def session(runtime: DistributedRuntime) -> set[int]:
        client = await _client(runtime)
        pids = set()
        for instance in await client.wait_for_instances(2):
            for wanted in (instance.lease_id, instance.instance_id):
                (value,) = [value async for value in client.direct(None, wanted)]
                assert value["pid"] == instance.pid
                pids.add(value["pid"])
        assert sorted(client.instance_ids()) == sorted(i.lease_id for i in await client.wait_for_instances(2))
        return pids

    assert with_runtime(session) == {worker.pid for worker in pair}


@pytest.mark.usefixtures("pair")
def test_direct_to_an_instance_that_is_not_there(with_runtime: Run) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        client = await _client(runtime)
        with pytest.raises(NoInstancesError, match="dead"):
            client.direct(None, 0xDEAD)
        with pytest.raises(NoInstancesError):
            client.direct(None, "dead")
        with pytest.raises(ValueError, match="xyz"):
            client.direct(None, "xyz")

    with_runtime(session)


@pytest.mark.usefixtures("pair")
def test_items_carry_their_event(with_runtime: Run) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        client = await _client(runtime, "count", annotated=True)
        items = [item async for item in client.generate({"n": 3, "pause": 0.01})]
        assert [item.data() for item in items] == [{"number": 0}, {"number": 1}, {"number": 2}]
        ids = [EventId.parse(item.id) for item in items]
        assert ids == sorted(set(ids))
        awaited = await client.generate({"n": 2})
        assert [item.data() async for item in awaited] == [{"number": 0}, {"number": 1}]
        assert await client({"n": 2}) == [{"number": 0}, {"number": 1}]

    with_runtime(session)


@pytest.mark.usefixtures("pair")
def test_another_process_reads_along_and_from_the_middle(with_runtime: Run) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        client = await _client(runtime, "count", annotated=True)
        call = client.generate({"n": 20, "pause": 0.01})
        items = [await anext(call) for _ in range(5)]
        sub = await client.attach(call.id, after=items[-1].id)
        rest = [event async for event in sub]
        items += [item async for item in call]
        # The events behind that of the fifth item, and the end; what gathered is one event.
        later = dict.fromkeys(item.id for item in items[5:] if item.id != items[4].id)
        assert [str(event.id) for event in rest[:-1]] == list(later)

    with_runtime(session)


def test_waiting_for_instances_that_do_not_come(with_runtime: Run) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        client = await runtime.namespace("own-nobody").component("Child").endpoint("show").client()
        with pytest.raises(NoInstancesError, match="0 instances"):
            await client.wait_for_instances(timeout=0.1)
        for policy in ("random", "round_robin", "power_of_two", "least_loaded"):
            with pytest.raises(NoInstancesError):
                getattr(client, policy)(None)
        assert client.instance_ids() == []

    with_runtime(session)


@pytest.mark.parametrize(
    ("namespace", "component", "endpoint", "wrong"),
    [
        ("Dynamo", "W", "g", "D"),
        ("a b", "W", "g", " "),
        ("a", "W.x", "g", "."),
        ("a", "W", "g|h", "|"),
        ("", "W", "g", "empty"),
    ],
)
def test_bad_names(with_runtime: Run, namespace: str, component: str, endpoint: str, wrong: str) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        with pytest.raises(InvalidNameError) as caught:
            runtime.namespace(namespace).component(component).endpoint(endpoint)
        assert isinstance(caught.value, ValueError)
        assert (wrong if len(wrong) > 1 else repr(wrong)) in str(caught.value)

    with_runtime(session)


def test_names_of_the_hierarchy(with_runtime: Run) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        component = runtime.namespace("dynamo").component("processor")
        assert component.etcd_path() == component.registry_path() == "dynamo/components/processor"
        assert component.service_name() == "dynamo|processor"
        assert component.path() == "dynamo/processor"
        assert (
            component.endpoint("generate").id.instance_queue(0x1A2B3C4D)
            == "dynamo|processor.generate-1a2b3c4d"
        )
        endpoint = component.endpoint("generate")
        assert (endpoint.name, endpoint.component.name, component.namespace.name) == (
            "generate", "processor", "dynamo",
        )  # fmt: skip
        assert component.drt is component.namespace.runtime is runtime

    with_runtime(session)


@pytest.mark.usefixtures("pair")
def test_the_registration_is_plain_json(with_runtime: Run, redis_server: RedisServer) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        (info, _) = await (await _client(runtime)).wait_for_instances(2)
        key = f"dt:{NAMESPACE}:inst:Child:show:{info.instance_id}"
        raw = json.loads(await runtime.client.store.commands.execute("GET", key))
        assert raw["component"] == "Child"
        assert raw["endpoint"] == "show"
        assert raw["namespace"] == NAMESPACE
        assert raw["lease_id"] == info.lease_id
        assert raw["transport"] == {"celery": f"{NAMESPACE}|Child.show-{info.lease_id:x}"}

    with_runtime(session)


def test_join_and_leave_are_seen_within_100_ms(with_runtime: Run, redis_server: RedisServer) -> None:
    async def session(runtime: DistributedRuntime) -> float:
        client = await runtime.namespace("own-joins").component("Child").endpoint("show").client()
        async with await DistributedRuntime.create(redis_server.url) as elsewhere:
            registry, lease = elsewhere.client.registry, new_lease()
            info = InstanceInfo(
                "Child", "show", "own-joins", lease, {"celery": client.id.instance_queue(lease)}
            )
            waiting = asyncio.create_task(client.wait_for_instances(1, timeout=30))
            await asyncio.sleep(0)
            began = time.monotonic()
            await registry.register("own-joins", lease, [info])
            assert await waiting == [info]
            joined = time.monotonic()
            await registry.revoke("own-joins", lease)
            await eventually(lambda: not client.instance_ids())
            return max(joined - began, time.monotonic() - joined)

    in_time(lambda: with_runtime(session), 0.1)


@pytest.mark.usefixtures("pair")  # who sweeps
def test_all_keys_of_a_dead_instance_go_with_its_lease(with_runtime: Run, redis_server: RedisServer) -> None:
    env = {"DYNAMO_NAMESPACE": "own-dies"}

    async def session(runtime: DistributedRuntime) -> None:
        client = await runtime.namespace("own-dies").component("Child").endpoint("show").client()
        with Worker(redis_server.url, service=f"{OWN}:Child", env=env, wait=False) as worker:
            (info,) = await client.wait_for_instances(1, timeout=30)
            worker.kill()
        async with asyncio.timeout(30):
            await eventually(lambda: not client.instance_ids(), 30)
            execute = runtime.client.store.commands.execute
            while any(not key.startswith(b"_kombu") for key in await execute("KEYS", f"*{info.lease_id:x}*")):
                await asyncio.sleep(0.05)
        assert await runtime.client.store.commands.execute("SMEMBERS", "dt:own-dies:instances") == []

    with_runtime(session)


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize("pattern", ["lease:*", "inst:*", "instances", "*"])
def test_an_instance_whose_keys_were_deleted_registers_again(with_runtime: Run, pattern: str) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        client = await _client(runtime)
        commands = runtime.client.store.commands
        keys = list(await commands.execute("KEYS", f"dt:{NAMESPACE}:{pattern}"))
        await commands.execute("DEL", *keys)
        async with asyncio.timeout(10):
            while not await _complete(runtime, len(keys) if pattern == "lease:*" else 2):
                await asyncio.sleep(0.02)
        async with asyncio.timeout(10):
            while len(client.instance_ids()) < 2:
                await asyncio.sleep(0.02)

    async def _complete(runtime: DistributedRuntime, leases: int) -> bool:
        commands = runtime.client.store.commands
        found = await runtime.client.registry.instances(NAMESPACE, "Child")
        held = await commands.execute("KEYS", f"dt:{NAMESPACE}:lease:*")
        return len({info.lease_id for info in found}) == 2 and len(held) >= leases

    with_runtime(session)
