"""A user's own services: kinds of endpoints, dependencies near and far, hooks, settings, errors."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dynamo_tasks import DistributedRuntime
from dynamo_tasks.errors import (
    EndpointError,
    InvalidRequestError,
    RequestCancelledError,
    UnknownEndpointError,
)
from dynamo_tasks.protocol.states import TERMINAL
from tests.integration.runtime.conftest import OWN, Session, sent
from tests.support.processes import Frontend, Worker, together, until
from tests.support.promises import in_time
from tests.support.server import RedisServer
from tests.support.streams import eventually

Run = Callable[[Session], Any]
ENV = {"DYNAMO_NAMESPACE": "own-services"}


@pytest.fixture(scope="module")
def workers(redis_server: RedisServer) -> Iterator[list[Worker]]:
    settings = ("Child.greeting=moin", "Child.enable-magic=true", "Child.options.level=3")
    with together(
        Worker(redis_server.url, service=f"{OWN}:Child", env=ENV, settings=settings, name="child"),
        Worker(redis_server.url, service=f"{OWN}:Parent", env=ENV, name="parent"),
        Worker(
            redis_server.url,
            service=f"{OWN}:Parent",
            env=ENV | {"DYNAMO_NAMESPACE": "own-near"},
            name="near",
            settings=("Child.dynamo.enabled=false",),
        ),
    ) as (child, parent, near):
        yield [child, parent, near]


async def _call(
    runtime: DistributedRuntime,
    endpoint: str,
    request: Any = None,
    component: str = "Child",
    namespace: str = "own-services",
) -> list[Any]:
    client = (
        await runtime.namespace(namespace).component(component).endpoint(endpoint).client(annotated=False)
    )
    return [value async for value in client.generate(request)]


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize(
    ("endpoint", "request_", "values"),
    [
        ("count", {"n": 3}, [{"number": 0}, {"number": 1}, {"number": 2}]),
        ("double", 21, [42]),
        ("square", 7, [49]),
        ("letters", "abc", ["a", "b", "c"]),
    ],
)
def test_all_kinds_of_endpoints(with_runtime: Run, endpoint: str, request_: Any, values: list[Any]) -> None:
    assert with_runtime(lambda runtime: _call(runtime, endpoint, request_)) == values


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("namespace", ["own-services", "own-near"])
def test_a_dependency_is_called_the_same_way_near_and_far(with_runtime: Run, namespace: str) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        (found,) = await _call(runtime, "sums", 5, "Parent", namespace)
        assert found == {
            "double": 10, "square": 25, "letters": ["a", "b", "c"], "all": ["x", "y"], "awaited": ["d", "e"]
        }  # fmt: skip
        relayed = await _call(runtime, "relay", {"n": 3}, "Parent", namespace)
        assert relayed == [{"relayed": 0}, {"relayed": 1}, {"relayed": 2}]
        (pids,) = await _call(runtime, "child_pid", None, "Parent", namespace)
        assert (pids[0] == pids[1]) is (namespace == "own-near")
        for what, message in [("type", "int"), ("name", "count, double"), ("other", "no 1")]:
            with pytest.raises(Exception, match=message):
                await _call(runtime, "wrong", what, "Parent", namespace)

    with_runtime(session)


@pytest.mark.usefixtures("workers")
def test_extra_keys_go_where_the_class_says(with_runtime: Run) -> None:
    (found,) = with_runtime(lambda runtime: _call(runtime, "show"))
    assert found["greeting"] == "moin"
    assert found["options"] == {"enable_magic": True, "level": 3}


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize(
    ("endpoint", "request_", "error", "param"),
    [
        ("double", "many", InvalidRequestError, "number"),
        ("double", None, InvalidRequestError, "number"),
        ("count", {}, InvalidRequestError, "n"),
        ("count", {"n": "x"}, InvalidRequestError, "n"),
        ("count", [], InvalidRequestError, "request"),
        ("count", {"n": 3, "fail_at": 1}, EndpointError, None),
    ],
)
def test_errors_come_back(
    with_runtime: Run, endpoint: str, request_: Any, error: type[Exception], param: str | None
) -> None:
    with pytest.raises(error) as caught:
        with_runtime(lambda runtime: _call(runtime, endpoint, request_))
    assert getattr(caught.value, "param", None) == param


@pytest.mark.usefixtures("workers")
def test_an_unknown_endpoint_lists_the_known_ones(with_runtime: Run) -> None:
    with pytest.raises(UnknownEndpointError, match=r"count.*double.*letters"):
        with_runtime(lambda runtime: _call(runtime, "tripple", 3))


@pytest.mark.usefixtures("workers")
def test_a_queued_calls_id_comes_from_its_parents(with_runtime: Run, tmp_path: Path) -> None:
    note = tmp_path / "note"

    async def session(runtime: DistributedRuntime) -> str:
        client = await runtime.namespace("own-services").component("Parent").endpoint("relay").client()
        call = client.generate({"n": 2, "note": str(note)})
        assert [item.data() async for item in call] == [{"relayed": 0}, {"relayed": 1}]
        return call.id

    parent = with_runtime(session)
    child = note.read_text().split()[1]
    assert child == str(uuid.uuid5(uuid.UUID(parent), "1"))


@pytest.mark.usefixtures("workers")
def test_a_parent_that_is_cancelled_cancels_its_child(with_runtime: Run) -> None:
    async def session(runtime: DistributedRuntime) -> str:
        client = await runtime.namespace("own-services").component("Parent").endpoint("relay").client()
        call = client.generate({"n": 1000, "pause": 0.02})
        await anext(call)
        ledger = runtime.client.ledger
        child = str(uuid.uuid5(uuid.UUID(call.id), "1"))
        await ledger.cancel("own-services", call.id)
        async with asyncio.timeout(10):
            while (record := await ledger.get(child, "own-services")).state not in TERMINAL:
                await asyncio.sleep(0.01)
        await call.aclose()
        return str(record.state)

    assert with_runtime(session) == "CANCELLED"


@pytest.mark.usefixtures("workers")
def test_a_cancelled_request_is_stopped_within_100_ms(with_runtime: Run, tmp_path: Path) -> None:
    notes = (tmp_path / f"note{n}" for n in itertools.count())
    in_time(lambda: _stopped_after(with_runtime, next(notes)), 0.1)


def _stopped_after(with_runtime: Run, note: Path) -> float:
    """Seconds between the cancellation and the end of the body."""

    async def session(runtime: DistributedRuntime) -> float:
        child = runtime.namespace("own-services").component("Child")
        client = await child.endpoint("hold").client()
        neighbour = (await child.endpoint("count").client()).generate({"n": 20, "pause": 0.01})
        await anext(neighbour)
        call = client.generate(str(note))
        result = await sent(runtime, call)
        while not note.exists():
            await asyncio.sleep(0.005)
        began = time.time()
        await runtime.client.ledger.cancel("own-services", call.id)
        with pytest.raises(RequestCancelledError):
            await result
        assert len([item async for item in neighbour]) == 19
        return began

    began = with_runtime(session)
    # The reader may see the end before the endpoint has finished writing its note.
    stopped = until(lambda: note.read_text(), what="the note of the stopped endpoint")
    return float(stopped) - began


def test_a_failing_start_hook_stops_the_process_and_registers_nothing(redis_server: RedisServer) -> None:
    env = {"DYNAMO_NAMESPACE": "own-broken"}
    with Worker(redis_server.url, service=f"{OWN}:Broken", env=env, wait=False) as worker:
        until(lambda: not worker.alive, 20, "the process ends")
        assert worker.popen.returncode not in (0, None)
        assert "Traceback" in worker.output
        assert "RuntimeError: the weights are missing" in worker.output
        assert 'raise RuntimeError("the weights are missing")' in worker.output  # the user's own line
    assert redis_server.command("KEYS", "dt:own-broken:*") == b"*0\r\n"


def test_a_failing_shutdown_hook_does_not_keep_the_lease(redis_server: RedisServer) -> None:
    env = {"DYNAMO_NAMESPACE": "own-sulky"}
    with Worker(redis_server.url, service=f"{OWN}:Sulky", env=env) as worker:
        assert redis_server.command("KEYS", "dt:own-sulky:lease:*") != b"*0\r\n"
        worker.terminate()
        assert 'raise RuntimeError("the door is stuck")' in worker.output
        assert redis_server.command("KEYS", "dt:own-sulky:lease:*") == b"*0\r\n"


def test_an_annotation_that_cannot_be_read_is_refused_at_the_start(redis_server: RedisServer) -> None:
    with Worker(redis_server.url, service=f"{OWN}:Unreadable", wait=False) as worker:
        until(lambda: not worker.alive, 20, "the process ends")
        assert worker.popen.returncode == 2
        assert "Unreadable.call: annotation 'Reqest': name 'Reqest' is not defined" in worker.output
        assert "Traceback" not in worker.output


def test_hooks_run_in_order_and_shutdown_after_the_last_request(
    redis_server: RedisServer, tmp_path: Path, with_runtime: Run
) -> None:
    notes = tmp_path / "notes"
    env = {"DYNAMO_NAMESPACE": "own-hooked"}
    with Worker(
        redis_server.url, service=f"{OWN}:Hooked", env=env, settings=(f"Hooked.notes={notes}",)
    ) as worker:

        async def session(runtime: DistributedRuntime) -> Any:
            client = await runtime.namespace("own-hooked").component("Hooked").endpoint("work").client()
            call = client.generate(0.5)
            result = await sent(runtime, call)

            async def runs() -> bool:
                return (await runtime.client.ledger.get(call.id)).state == "RUNNING"

            await eventually(runs)
            worker.signal(15)
            return await result

        with_runtime(session)
        assert worker.popen.wait(30) == 0, worker.output
    assert notes.read_text().split() == ["first", "second", "worked", "down"]


@pytest.mark.usefixtures("workers")
def test_api_methods_over_http(redis_server: RedisServer) -> None:
    with Frontend(redis_server.url, service=f"{OWN}:Shop", env=ENV, ready="/live") as shop:
        assert shop.request("POST", "/double", {"number": 4})[2] == {"doubled": 8}
        assert shop.request("POST", "/double", 4)[2] == {"doubled": 8}
        assert [data for _, data in shop.events("POST", "/count", {"n": 2})] == [
            '{"number":0}',
            '{"number":1}',
            "[DONE]",
        ]
        assert shop.request("POST", "/now")[0] == 200
        for body, param in [({"number": "x"}, "number"), ({}, "number"), ({"numbr": 1}, "number")]:
            status, _, answer = shop.request("POST", "/double", body)
            assert (status, answer["error"]["param"]) == (400, param)
        status, _, answer = shop.request("POST", "/wrong")
        assert (status, answer["error"]["code"]) == (400, "invalid_request_error")
        assert shop.get("/health")[0] == 200
        assert shop.request("POST", "/nothing", {})[0] == 404
        assert shop.request("GET", "/double")[0] == 405
