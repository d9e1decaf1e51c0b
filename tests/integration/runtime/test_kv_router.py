"""Publisher and routers over a real server: gaps, snapshots, the order of choices, sessions, a server that restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from dynamo_tasks import DistributedRuntime
from dynamo_tasks.protocol.instances import InstanceInfo, Load, ModelCard
from dynamo_tasks.protocol.kv.block_hashes import sequence_hashes
from dynamo_tasks.protocol.kv.reports import KV_EVENTS, KvLoad
from dynamo_tasks.protocol.names import EndpointId, Subject
from dynamo_tasks.router.costs import KvRouterConfig
from dynamo_tasks.router.worker_blocks import WorkerBlocks
from dynamo_tasks.runtime.routing.kv_router import KvRouter
from dynamo_tasks.runtime.routing.publisher import KvPublisher
from dynamo_tasks.store.client import StoreClient
from tests.support.server import RedisServer

SIZE = 4
PROMPT = [*range(40)]
HASHES = sequence_hashes(PROMPT, SIZE)
CARD = ModelCard("m", kv_block_size=SIZE, kv_events=True)


class Instances:
    """A watcher whose instances are set by hand."""

    def __init__(self, namespace: str, *leases: int) -> None:
        self.namespace = namespace
        self.set(*leases)

    def set(self, *leases: int) -> None:
        self.loads = {lease: Load() for lease in leases}
        self.instances = [
            InstanceInfo("W", "generate", self.namespace, lease, {"celery": ""}, model=CARD)
            for lease in leases
        ]

    def of(self, endpoint: EndpointId) -> list[InstanceInfo]:
        return self.instances


class Engine:
    """Reports what a test says; its worker publishes it."""

    def __init__(self, runtime: DistributedRuntime, namespace: str, lease: int) -> None:
        self.blocks = WorkerBlocks(SIZE)
        self.load = KvLoad()
        self._batches: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._seq = 0
        topic = runtime.registry.events
        self.publisher = KvPublisher(topic, namespace, "W", f"{lease:x}", self.blocks, lambda: self.load)

    def store(self, tokens: list[int]) -> None:
        hashes = [f"h{value}" for value in sequence_hashes(tokens, SIZE)]
        event = {
            "type": "BlockStored", "block_hashes": hashes, "parent_block_hash": None, "token_ids": tokens,
            "block_size": SIZE,
        }  # fmt: skip
        self.report(event)

    def report(self, event: dict[str, Any], seq: int | None = None) -> None:
        self._seq = self._seq + 1 if seq is None else seq
        self._batches.put_nowait({"seq": self._seq, "ts": 0.0, "dp_rank": None, "events": [event]})

    async def source(self) -> AsyncGenerator[dict[str, Any], None]:
        while True:
            yield await self._batches.get()


class World:
    """Two workers and as many routers as a test wants, in one namespace."""

    def __init__(self, runtime: DistributedRuntime, namespace: str, stack: AsyncExitStack) -> None:
        self.runtime = runtime
        self.namespace = namespace
        self.watcher = Instances(namespace, 1, 2)
        self.stack = stack
        self.endpoint = EndpointId(namespace, "W", "generate")
        self.engines: dict[int, Engine] = {}

    async def engine(self, lease: int) -> Engine:
        made = self.engines[lease] = Engine(self.runtime, self.namespace, lease)
        await made.publisher.start(made.source())
        self.stack.push_async_callback(made.publisher.stop)
        return made

    async def router(self, **config: Any) -> KvRouter:
        watcher: Any = self.watcher
        store, events = self.runtime.client.store, self.runtime.registry.events
        made = KvRouter(store, events, watcher, "W", KvRouterConfig(router_predicted_ttl_secs=0, **config))
        await made.start()
        self.stack.push_async_callback(made.stop)
        return made

    async def choose(self, router: KvRouter, number: int = 0, session: str = "") -> Any:
        payload = {"prompt_token_ids": PROMPT, "model": "m"}
        return await router.choose(self.endpoint, payload, f"r{number}", session)


async def becomes(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(15):
        while not check():
            await asyncio.sleep(0.01)


def run(server: RedisServer, namespace: str, session: Callable[[World], Any]) -> None:
    async def whole() -> None:
        client = await StoreClient.connect(server.url)
        async with DistributedRuntime(client) as runtime, AsyncExitStack() as stack:
            await session(World(runtime, namespace, stack))

    asyncio.run(whole())


def known(router: KvRouter) -> dict[int, int]:
    return router.policy.index.find(HASHES)


def test_a_router_that_starts_late_takes_a_snapshot_and_follows(redis_server: RedisServer) -> None:
    async def session(world: World) -> None:
        one, two = await world.engine(1), await world.engine(2)
        first = await world.router()
        one.store(PROMPT)
        two.store(PROMPT[:8])
        await becomes(lambda: known(first) == {1: 10, 2: 2})
        late = await world.router()
        worker = (await world.choose(late)).worker
        await becomes(lambda: known(late) == {1: 10, 2: 2})
        world.engines[worker].publisher.changed("r0")  # it has the request, and is done with it
        await becomes(lambda: late.policy.loads.of(worker, 0.0).active_requests == 0)
        one.report({"type": "BlockRemoved", "block_hashes": [f"h{value}" for value in HASHES[3:]]})
        await becomes(lambda: known(first) == known(late) == {1: 3, 2: 2})
        assert (await world.choose(late, 1)).worker == 1
        world.watcher.set(2)
        assert (await world.choose(late, 2)).worker == 2
        assert known(late) == {2: 2}

    run(redis_server, "kvlate", session)


def test_what_was_lost_on_the_way_is_noticed(redis_server: RedisServer) -> None:
    async def session(world: World) -> None:
        one, router = await world.engine(1), await world.router()
        one.store(PROMPT[:4])
        await becomes(lambda: known(router) == {1: 1})
        subject = Subject.of(world.namespace, "W", KV_EVENTS)
        # A batch whose predecessors never came: nothing is applied, a snapshot is asked for.
        await world.runtime.registry.events.publish(subject, {"worker_id": "1", "event_id": 50, "events": []})
        one.store(PROMPT)
        await becomes(lambda: known(router) == {1: 10})
        # Those that the engine itself has left out may have been removals: nothing of before is believed.
        one.report({"type": "BlockRemoved", "block_hashes": []}, seq=99)
        await becomes(lambda: known(router) == {})

    run(redis_server, "kvlost", session)


def test_each_router_knows_the_choices_before_its_own(redis_server: RedisServer) -> None:
    async def session(world: World) -> None:
        routers = await asyncio.gather(*[world.router() for _ in range(4)])
        both = await asyncio.gather(*[world.choose(routers[n % 4], n) for n in range(40)])
        counts = [sum(choice.worker == lease for choice in both) for lease in (1, 2)]
        assert counts == [20, 20]
        alone = await asyncio.gather(*[world.router(router_replica_sync=False) for _ in range(2)])
        assert all([await world.choose(one, 90) for one in alone])

    run(redis_server, "kvorder", session)


def test_a_session_outlives_its_router(redis_server: RedisServer) -> None:
    async def session(world: World) -> None:
        settings = {"router_session_affinity_ttl_secs": 60.0, "router_session_affinity_mode": "hard"}
        first = await world.router(**settings)
        was = await world.choose(first, 1, "s")
        await first.stop()
        second = await world.router(**settings)
        for number in range(2, 8):
            choice = await world.choose(second, number, "s")
            assert (choice.worker, choice.session) == (was.worker, True)
        world.watcher.set(3 - was.worker)
        moved = await world.choose(second, 9, "s")
        assert (moved.worker, moved.session) == (3 - was.worker, False)

    run(redis_server, "kvsession", session)


@pytest.mark.slow
def test_a_server_that_restarts_with_nothing(tmp_path: Path) -> None:
    async def session(world: World) -> None:
        one, router = await world.engine(1), await world.router()
        one.store(PROMPT[:4])
        await becomes(lambda: known(router) == {1: 1})
        server.kill()
        one.store(PROMPT)
        for file in tmp_path.rglob("*"):
            if file.is_file():
                file.unlink()
        server.start()
        await becomes(lambda: known(router) == {1: 10})
        assert (await world.choose(router)).worker == 1

    with RedisServer(tmp_path) as server:
        run(server, "kvrestart", session)
