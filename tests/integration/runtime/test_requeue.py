"""A worker goes down in the middle of a stream: what each policy makes of it, and of the calls inside."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dynamo_tasks import DistributedRuntime
from dynamo_tasks.errors import NotResumableError
from dynamo_tasks.protocol.events import Kind
from dynamo_tasks.protocol.tokens import CompletionAggregate
from tests.integration.runtime.conftest import OWN, Session
from tests.support.processes import Worker
from tests.support.server import RedisServer

Run = Callable[[Session], Any]
NAMESPACE = "own-requeue"
ENV = {"DYNAMO_NAMESPACE": NAMESPACE}
COUNT = {"n": 40, "pause": 0.02}


class Found(NamedTuple):
    values: list[Any]
    error: Exception | None
    runs: int


@pytest.fixture(scope="module")
def child(redis_server: RedisServer) -> Iterator[Worker]:
    with Worker(redis_server.url, service=f"{OWN}:Child", env=ENV, name="child") as worker:
        yield worker


def _handed_over(
    server: RedisServer,
    run: Run,
    note: Path,
    service: str,
    endpoint: str,
    started: Callable[[list[Any]], bool],
) -> Found:
    """Call an endpoint; once it has ``started``, its worker is asked to go at once, and another one is there."""
    env = ENV | {"DYNAMO_NAMESPACE": f"{NAMESPACE}-{endpoint}"} if service == "Policies" else ENV
    namespace = env["DYNAMO_NAMESPACE"]

    async def session(runtime: DistributedRuntime) -> Found:
        values: list[Any] = []

        async def read() -> None:
            client = (
                await runtime.namespace(namespace)
                .component(service)
                .endpoint(endpoint)
                .client(annotated=False)
            )
            async for value in client.generate({**COUNT, "note": str(note)}):
                values.append(value)

        with Worker(server.url, service=f"{OWN}:{service}", env=env, name="first") as first:
            reading = asyncio.create_task(read())
            while not started(values):
                await asyncio.sleep(0.005)
            first.signal(signal.SIGQUIT)
            with Worker(server.url, service=f"{OWN}:{service}", env=env, name="second", wait=False):
                await asyncio.wait([reading], timeout=20)
                await asyncio.to_thread(first.popen.wait, 10)
        error = reading.exception() if reading.done() else TimeoutError(f"no end; {values[-1:]}")
        reading.cancel()
        return Found(values, error, len(note.read_text().splitlines()))  # type: ignore[arg-type]

    found: Found = run(session)
    return found


def test_replay_goes_on_where_the_first_worker_stopped(
    redis_server: RedisServer, with_runtime: Run, tmp_path: Path
) -> None:
    found = _handed_over(
        redis_server, with_runtime, tmp_path / "n", "Policies", "replay", lambda v: len(v) > 5
    )
    assert found == Found(list(range(40)), None, 2)


@pytest.mark.parametrize("policy", ["restart", pytest.param("fail", marks=pytest.mark.slow)])
def test_a_stream_that_may_not_run_again_ends_with_an_error(
    redis_server: RedisServer, with_runtime: Run, tmp_path: Path, policy: str
) -> None:
    found = _handed_over(redis_server, with_runtime, tmp_path / "n", "Policies", policy, lambda v: len(v) > 5)
    assert isinstance(found.error, NotResumableError)
    assert found.values == list(range(len(found.values)))
    assert found.runs == 1


def test_restart_runs_again_what_has_put_out_nothing(
    redis_server: RedisServer, with_runtime: Run, tmp_path: Path
) -> None:
    note = tmp_path / "n"
    found = _handed_over(redis_server, with_runtime, note, "Policies", "silent", lambda _: note.exists())
    assert found == Found(["done"], None, 2)


@pytest.mark.usefixtures("child")
def test_a_parent_that_is_run_again_finds_its_child(
    redis_server: RedisServer, with_runtime: Run, tmp_path: Path
) -> None:
    note = tmp_path / "n"
    found = _handed_over(redis_server, with_runtime, note, "Parent", "relay", lambda v: len(v) > 5)
    assert found == Found([{"relayed": number} for number in range(40)], None, 1)


@pytest.mark.parametrize(
    "more", [pytest.param({}, marks=pytest.mark.slow), {"n": 3, "stop": ["zz"]}], ids=["one", "three"]
)
def test_the_mocker_continues_its_text(
    redis_server: RedisServer, with_runtime: Run, more: dict[str, Any]
) -> None:
    namespace = f"{NAMESPACE}-mocker-{len(more)}"
    settings = ("Worker.engine=mocker", "Worker.engine_args.token_delay_ms=20")
    ask = {"prompt": "tell me", "max_tokens": 60, "seed": 3, **more}

    def start(name: str, **more: Any) -> Worker:
        env = {"DYNAMO_NAMESPACE": namespace}
        return Worker(redis_server.url, env=env, settings=settings, name=name, **more)

    async def session(runtime: DistributedRuntime) -> tuple[dict[str, Any], dict[str, Any]]:
        endpoint = runtime.namespace(namespace).component("Worker").endpoint("generate")
        client = await endpoint.client(annotated=False)
        with start("first") as first:
            whole, interrupted = CompletionAggregate(), CompletionAggregate()
            async for value in client.generate(ask):
                whole.add(value)
            call = client.generate(ask)
            for _ in range(20):
                interrupted.add(await anext(call))
            first.signal(signal.SIGQUIT)
            with start("second", wait=False):
                async for value in call:
                    interrupted.add(value)
        sub = await runtime.client.reader.join(call.id)
        assert [event.kind async for event in sub].count(Kind.CLAIM) == 2
        return whole.result(), interrupted.result()

    whole, interrupted = with_runtime(session)
    assert interrupted == whole
