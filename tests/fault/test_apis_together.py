"""Every API at once, under every fault: the text of a calm run, one end, exact counts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_clients import STREAMED, TOKENS, ApiClients
from tests.support.batches import background_of
from tests.support.processes import Frontend, Process, Worker, together
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow
WORKS = (
    "Worker.engine=mocker", "Worker.engine_args.token_delay_ms=15", "Worker.engine_args.max_num_seqs=16",
    "Worker.ServiceArgs.concurrency=16",
)  # fmt: skip
NAMES = ("Frontend.models={gpt: mocker}", "Frontend.fallbacks={gpt: [mocker]}")
EACH = 3
PATHS = {
    "chat": "/v1/chat/completions", "completions": "/v1/completions", "responses": "/v1/responses",
    "messages": "/v1/messages",
}  # fmt: skip


class Fleet:
    """Two workers, two frontends, a Background; and what kills them."""

    def __init__(self, server: RedisServer, folder: Path, entered: ExitStack):
        self.server = server
        self.env = {"DYNAMO_NAMESPACE": "together", "DYNAMO_FILES_URL": folder.as_uri()}
        self._entered = entered
        processes = [self._worker(), self._worker(), self._background(), self._frontend(), self._frontend()]
        first, second, background, one, two = entered.enter_context(together(*processes))
        self.workers, self.background, self.frontends = [first, second], background, [one, two]
        self.clients = ApiClients(lambda: self.frontends)

    def _worker(self, **more: Any) -> Worker:
        return Worker(self.server.url, settings=WORKS, env=self.env, **more)

    def _background(self) -> Worker:
        return background_of(self.server.url, self.env, *NAMES)

    def _frontend(self, **more: Any) -> Frontend:
        return Frontend(self.server.url, settings=NAMES, env=self.env, **more)

    async def _replaced(self, old: Process, made: Callable[[], Any]) -> Any:
        await asyncio.to_thread(old.kill)
        return await asyncio.to_thread(lambda: self._entered.enter_context(made()))

    async def kill_worker(self) -> None:
        self.workers = [self.workers[1], await self._replaced(self.workers[0], self._worker)]

    async def kill_frontend(self) -> None:
        self.frontends = [self.frontends[1], await self._replaced(self.frontends[0], self._frontend)]

    async def kill_background(self) -> None:
        self.background = await self._replaced(self.background, self._background)

    async def kill_background_again_and_again(self) -> None:
        for _ in range(3):
            await self.kill_background()

    async def restart_redis(self) -> None:
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)

    async def come_first(self) -> None:
        """Interactive requests, as many as there are slots."""
        body = {"model": "mocker", "prompt": "quick", "max_tokens": 20}
        await asyncio.gather(*[self.clients.call("POST", "/v1/completions", json=body) for _ in range(32)])

    async def come_first_and_kill(self) -> None:
        await asyncio.gather(self.come_first(), self.kill_worker())

    async def kill_all(self) -> None:
        for fault in (self.kill_worker, self.kill_background, self.restart_redis, self.kill_frontend):
            await fault()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server, ExitStack() as entered:
        yield Fleet(server, tmp_path_factory.mktemp("files"), entered)


@pytest.fixture(scope="module")
def calm(fleet: Fleet) -> dict[str, Any]:
    return asyncio.run(everything(fleet, "calm"))


def body_of(api: str, number: int, **more: Any) -> dict[str, Any]:
    said = f"tell me story number {number}"
    limit = "max_output_tokens" if api == "responses" else "max_tokens"
    asked: dict[str, Any] = {
        "completions": {"prompt": said}, "responses": {"input": said}
    }.get(api, {"messages": [{"role": "user", "content": said}]})  # fmt: skip
    counts = {"stream_options": {"include_usage": True}} if api in ("chat", "completions") else {}
    streamed = {"stream": True, **counts} if more.get("stream") else {}
    return {"model": "mocker", limit: TOKENS, **asked} | more | streamed


async def everything(
    fleet: Fleet,
    name: str,
    fault: Callable[[], Awaitable[None]] | None = None,
    model: str = "mocker",
    tier: str = "default",
) -> dict[str, Any]:
    """Ask every API; in the midst of it something happens."""
    clients, tasks = fleet.clients, {}
    clients.reading.clear()
    for n in range(EACH):
        for api in STREAMED:
            flex = {} if api == "messages" else {"service_tier": tier}
            body = body_of(api, n, model=model, stream=True, **flex)
            tasks[f"{api} {n}"] = asyncio.create_task(clients.stream(PATHS[api], body, f"{name} {api} {n}"))
        polled = body_of("responses", n, model=model, service_tier=tier)
        tasks[f"polled {n}"] = asyncio.create_task(clients.poll(polled, f"{name} polled {n}"))
    for api, lines in (("chat", 140), ("responses", 10)):
        limit = "max_output_tokens" if api == "responses" else "max_tokens"
        bodies = [body_of(api, n, model=model) | {limit: 16} for n in range(lines)]
        batch = clients.batch(PATHS[api], bodies, f"{name} batch {api}")
        tasks[f"batch {api}"] = asyncio.create_task(batch)
    if fault is not None:
        await clients.in_the_midst(EACH * len(STREAMED))
        await fault()
    found = {name: await task for name, task in tasks.items()}
    return {name: one if isinstance(one, list) else one.said for name, one in found.items()}


@pytest.mark.parametrize(
    ("fault", "more"),
    [
        ("kill_worker", {}),
        ("kill_worker", {"model": "gpt"}),
        ("kill_frontend", {}),
        ("kill_background", {"model": "gpt"}),
        ("kill_background_again_and_again", {}),
        ("restart_redis", {}),
        ("come_first", {"tier": "flex"}),
        ("come_first_and_kill", {"tier": "flex"}),
        ("kill_all", {"tier": "flex", "model": "gpt"}),
    ],
)
def test_nobody_notices(fleet: Fleet, calm: dict[str, Any], fault: str, more: dict[str, str]) -> None:
    found = asyncio.run(everything(fleet, f"{fault} {more}", getattr(fleet, fault), **more))
    assert {name: one for name, one in found.items() if one != calm[name]} == {}
