"""Planners under load: they see for how long requests have waited for their workers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from dynamo_tasks.planner import Observation
from dynamo_tasks.protocol.scale import Scale
from dynamo_tasks.serve.processes.spec import Deployment, ProcessSpec
from dynamo_tasks.serve.scaling.planner import ComponentPlanner
from dynamo_tasks.serve.scaling.view import ComponentView, look
from dynamo_tasks.store.redis.server import Store
from tests.support.processes import Frontend, Worker, together, until
from tests.support.server import RedisServer

NAMESPACE = "seen"
ENV = {"DYNAMO_NAMESPACE": NAMESPACE}
ONE_SLOT = (
    "Worker.engine=mocker",
    "Worker.engine_args.token_delay_ms=20",
    "Worker.engine_args.max_num_seqs=1",
)
CHATS = "/v1/chat/completions"
TOKENS, SERVICE_S = 20, 0.4
CHAT = {
    "model": "mocker",
    "max_tokens": TOKENS,
    "stream": True,
    "messages": [{"role": "user", "content": "a"}],
}


class Recorder:
    """A policy that keeps what it sees."""

    interval = 0.0

    def __init__(self) -> None:
        self.seen: list[Observation] = []

    def wanted(self, seen: Observation) -> int:
        self.seen.append(seen)
        return 1


class Watch:
    """A planner of one component, and the looks that it is given."""

    def __init__(self, store: Store, frontend: Frontend):
        self._store = store
        self._frontend = frontend
        self.policy = Recorder()
        made = Deployment(
            service="Worker",
            namespace=NAMESPACE,
            component="Worker",
            bounds=None,
            workers=1,
            spec=_no_process,
        )
        self._planner = ComponentPlanner(made, self.policy, self._scrape)

    async def _scrape(self) -> str:
        return await asyncio.to_thread(lambda: str(self._frontend.get("/metrics")[1].decode()))

    async def look(self, taken: int = 0) -> ComponentView:
        """A look at which the worker has reported so many requests."""
        while True:
            seen = (await look(self._store, NAMESPACE, ["Worker"])).of("Worker")
            if taken_of(seen) >= taken:
                return seen
            await asyncio.sleep(0.1)

    async def observe(self, taken: int) -> Observation:
        async with asyncio.timeout(60):
            await self._planner.wanted(await self.look(taken), Scale("Worker", fleets={}))
        return self.policy.seen[-1]


def _no_process(number: int) -> ProcessSpec:
    raise AssertionError("nothing is started here")


def taken_of(seen: ComponentView) -> int:
    return sum(load.taken for load in seen.loads.values())


def answered(frontend: Frontend, count: int) -> None:
    """So many requests at once, all of them read to the end."""
    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(lambda: [*frontend.events("POST", CHATS, CHAT)]) for _ in range(count)]
        assert all(one.result()[-1][1] == "[DONE]" for one in asked)


async def two_looks(url: str, frontend: Frontend) -> tuple[Observation, Observation]:
    """After a request that waited for nobody, and after four that came at once."""
    store = await Store.connect(url)
    watch = Watch(store, frontend)
    before = taken_of(await watch.look())
    await asyncio.to_thread(answered, frontend, 1)
    first = await watch.observe(before + 1)
    await asyncio.to_thread(answered, frontend, 4)
    second = await watch.observe(before + 5)
    await store.close()
    return first, second


@pytest.fixture(scope="module")
def frontend(redis_server: RedisServer) -> Iterator[Frontend]:
    url = redis_server.url
    with together(Worker(url, env=ENV, settings=ONE_SLOT), Frontend(url, env=ENV)) as (_, made):
        yield made


@pytest.mark.slow
def test_times_in_the_queue_arrive(redis_server: RedisServer, frontend: Frontend) -> None:
    first, seen = asyncio.run(two_looks(redis_server.url, frontend))
    assert first.queue_time is None
    assert seen.queue_time is not None
    assert seen.ttft is not None
    assert (seen.queue_time.count, seen.ttft.count, sum(seen.queue_time.buckets)) == (4, 4, 4)
    # One after the other: on a busy machine they come a little apart, and wait for less than 0, 1, 2 and 3 turns.
    assert seen.queue_time.mean > SERVICE_S / 2


def test_what_waits_and_runs_is_on_a_frontends_metrics(frontend: Frontend) -> None:
    def counts() -> tuple[float, ...]:
        text = frontend.get("/metrics")[1].decode()
        names = (
            f'dynamo_tasks_requests_{kind}{{component="{NAMESPACE}.Worker"}} '
            for kind in ("waiting", "running")
        )
        return tuple(float(text.partition(name)[2].partition("\n")[0] or -1) for name in names)

    until(lambda: counts() == (0, 0), what=lambda: str(counts()))
    body = {**CHAT, "max_tokens": 1500, "abandon_after": 0}
    with ExitStack() as entered:
        for _ in range(4):
            entered.enter_context(httpx.stream("POST", frontend.base_url + CHATS, json=body, timeout=60))
        until(lambda: counts() == (3, 1), what=lambda: str(counts()))
    until(lambda: counts() == (0, 0), what=lambda: str(counts()))
