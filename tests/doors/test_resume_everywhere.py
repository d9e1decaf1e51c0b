"""Going on behind an event: every door, every boundary of ids, every state of a stream."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.support import web
from tests.support.processes import ROOT, Frontend, Worker, environment, together, until
from tests.support.raw_http import chat_body
from tests.support.server import RedisServer

TOP = 2**64 - 1
MALFORMED = (
    "x",
    "1",
    "1-",
    "-1-1",
    "1-1-1",
    "+1-1",
    "1-x",
    " 1-1",
    f"{TOP + 1}-0",
    f"1-{TOP + 1}",
    "9" * 50 + "-1",
)


class Log(NamedTuple):
    """A request, and the ids of its events as its stream shows them (a chat shows its first claim)."""

    id: str
    ids: list[str]

    def behind(self, event: str) -> list[str]:
        return self.ids[self.ids.index(event) + 1 :]


class Stack(NamedTuple):
    server: RedisServer
    frontend: Frontend

    def post(self, **more: Any) -> str:
        """Begin a request in the background."""
        more.setdefault("retention", 600)
        body = json.loads(chat_body(model="mock", background=True, **more))
        status, _, found = self.frontend.request("POST", "/v1/chat/completions", body)
        assert status == 202, found
        return str(found["id"])

    def state(self, request_id: str) -> dict[str, Any]:
        return dict(self.frontend.get(f"/v1/requests/{request_id}")[1])

    def read(self, request_id: str) -> Log:
        """All of its stream, up to its end."""
        found = list(web.events(self.frontend.port, "GET", f"/v1/requests/{request_id}/stream"))
        ids = list(dict.fromkeys(event for event, _ in found if event))
        assert self.state(request_id)["last_event"] == ids[-1]
        return Log(request_id, ids)


ENV = {"DYNAMO_NAMESPACE": "resume-everywhere"}


@pytest.fixture(scope="module")
def stack(redis_server: RedisServer) -> Iterator[Stack]:
    settings = ("Worker.engine=mocker", "Worker.model=mock", "Worker.engine_args.token_delay_ms=20")
    url = redis_server.url
    with together(Worker(url, settings=settings, env=ENV), Frontend(url, env=ENV)) as (_, frontend):
        yield Stack(redis_server, frontend)


@pytest.fixture(scope="module")
def ended(stack: Stack) -> Log:
    return stack.read(stack.post(max_tokens=5))


@pytest.fixture(scope="module")
def cancelled(stack: Stack) -> Log:
    """Its end has an epoch of its own: somebody else than the worker wrote it."""
    request = stack.post(max_tokens=5000)
    until(lambda: int(stack.state(request)["last_event"].split("-")[1]) > 5, 30)
    stack.frontend.request("DELETE", f"/v1/requests/{request}")
    log = stack.read(request)
    assert log.ids[-1].split("-")[0] > log.ids[0].split("-")[0]
    return log


def over_http(stack: Stack, request: str, event: str) -> list[Any]:
    """Status, and ids or error code, by header and by parameter."""
    path, found = f"/v1/requests/{request}/stream", []
    for target, headers in ((path, {"last-event-id": event}), (f"{path}?after={event}", {})):
        status, _, body = web.ask(stack.frontend.port, "GET", target, headers=headers)
        if status == 200:
            lines = body.decode().splitlines()
            assert lines[-2:] == ["data: [DONE]", ""]
            found.append((200, list(dict.fromkeys(line[4:] for line in lines if line.startswith("id: ")))))
        else:
            found.append((status, body["error"]["code"] if body else ""))
    return found


SCRIPT = """
import asyncio, json, sys
from dynamo_tasks import DistributedRuntime, StreamResult

def told(read):
    try:
        return [len(read()), ""]
    except Exception as exc:
        return [-1, getattr(exc, "code", repr(exc))]

async def listed(stream):
    return [item async for item in stream]

async def attached(request, after):
    runtime = await DistributedRuntime.create()
    try:
        client = await runtime.namespace("resume-everywhere").component("Worker").endpoint("generate").client()
        return [event async for event in await client.attach(request, after)]
    finally:
        await runtime.shutdown()

for line in sys.stdin:
    request, after = json.loads(line)
    result = StreamResult(request)
    print(json.dumps([
        told(lambda: list(result.stream(after=after))),
        told(lambda: asyncio.run(listed(result.astream(after=after)))),
        told(lambda: asyncio.run(attached(request, after))),
    ]), flush=True)
"""


class Script:
    """A program of somebody's own, which reads streams as Python lets it."""

    def __init__(self, url: str):
        self._child = subprocess.Popen(
            [sys.executable, "-c", SCRIPT], env=environment(url, **ENV), cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def read(self, request: str, after: str) -> list[Any]:
        """How many values or events there were, or the error's code; three ways."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        print(json.dumps([request, after]), file=self._child.stdin, flush=True)
        return list(json.loads(self._child.stdout.readline()))

    def close(self) -> None:
        self._child.communicate(timeout=60)


@pytest.fixture(scope="module")
def script(redis_server: RedisServer) -> Iterator[Script]:
    with contextlib.closing(Script(redis_server.url)) as running:
        yield running


def test_behind_any_event_of_the_log_comes_the_rest(
    stack: Stack, script: Script, ended: Log, cancelled: Log
) -> None:
    for log in (ended, cancelled):
        for event in (log.ids[0], log.ids[1], log.ids[-2]):
            assert over_http(stack, log.id, event) == [(200, log.behind(event))] * 2
        for start in ("", "0-0"):
            assert over_http(stack, log.id, start) == [(200, log.ids)] * 2
    for event in ended.ids:
        sync, asynchronous, events = script.read(ended.id, event)
        rest = ended.behind(event)
        assert sync == asynchronous == [max(0, len(rest) - 1), ""]  # the end has no value
        assert events == [len(rest), ""]


def test_behind_the_end_is_nothing_and_nobody_comes_again(
    stack: Stack, script: Script, ended: Log, cancelled: Log
) -> None:
    """204 stops an EventSource; what iterates, is at its end."""
    for log in (ended, cancelled):
        assert over_http(stack, log.id, log.ids[-1]) == [(204, "")] * 2
        assert script.read(log.id, log.ids[-1]) == [[0, ""]] * 3


def _above(log: Log) -> list[str]:
    epoch, seq = map(int, log.ids[-1].split("-"))
    return [f"{epoch}-{seq + 1}", f"{epoch + 1}-0", f"{epoch}-{TOP}", f"{TOP}-{TOP}", f"{TOP}-0"]


def _never(log: Log) -> list[str]:
    """Below the end, but no event: of an older epoch, or between two."""
    epoch, seq = map(int, log.ids[-2].split("-"))
    older = [f"{epoch - 1}-0", f"{epoch - 1}-{seq}", "1-0", "0-1", f"1-{TOP}"]
    last = int(log.ids[-1].split("-")[0])
    return older if last == epoch else [*older, f"{epoch}-{seq + 1}", f"{epoch}-{TOP}"]


def test_what_is_no_event_of_the_stream_is_an_error_with_a_status(
    stack: Stack, script: Script, ended: Log, cancelled: Log
) -> None:
    for log in (ended, cancelled):
        for event in _above(log):
            assert over_http(stack, log.id, event) == [(400, "invalid_event_id")] * 2, event
            assert script.read(log.id, event) == [[-1, "invalid_event_id"]] * 3
        for event in _never(log):
            assert over_http(stack, log.id, event) == [(500, "stream_diverged")] * 2, event
            assert script.read(log.id, event) == [[-1, "stream_diverged"]] * 3


def test_what_is_no_event_id_at_all(stack: Stack, script: Script, ended: Log) -> None:
    for event in MALFORMED:
        target = f"/v1/requests/{ended.id}/stream"
        for status, _, body in (
            web.ask(stack.frontend.port, "GET", target, headers={"last-event-id": event.strip() or "-"}),
            web.ask(
                stack.frontend.port, "GET", f"{target}?after={event.replace(' ', '%20').replace('+', '%2B')}"
            ),
        ):
            if event.strip() == event or "after" in str(body):
                assert (status, body["error"]["code"]) == (400, "invalid_event_id"), event
        assert script.read(ended.id, event) == [[-1, "invalid_event_id"]] * 3


def test_a_running_stream_goes_on_behind_its_top(stack: Stack) -> None:
    request = stack.post(max_tokens=5000)
    until(lambda: int(stack.state(request)["last_event"].split("-")[1]) > 5, 30)
    top = stack.state(request)["last_event"]
    with contextlib.closing(
        web.events(stack.frontend.port, "GET", f"/v1/requests/{request}/stream?after={top}")
    ) as rest:
        epoch, seq = top.split("-")
        assert next(rest)[0] == f"{epoch}-{int(seq) + 1}"
    assert over_http(stack, request, f"{epoch}-{int(seq) + 100_000}") == [(400, "invalid_event_id")] * 2
    assert over_http(stack, request, f"{int(epoch) - 1}-0") == [(500, "stream_diverged")] * 2
    stack.frontend.request("DELETE", f"/v1/requests/{request}")


def test_a_stream_past_its_retention_is_gone_from_everywhere(stack: Stack, script: Script) -> None:
    request = _short(stack)
    log = f"dt:{ENV['DYNAMO_NAMESPACE']}:log:{request.id}"
    until(lambda: stack.server.command("EXISTS", log) == b":0\r\n", 30)  # each reader prolongs it
    for event in (request.ids[0], request.ids[-1], *_above(request)):
        assert over_http(stack, request.id, event) == [(410, "stream_expired")] * 2
    assert script.read(request.id, request.ids[-1]) == [[-1, "stream_expired"]] * 3


def _short(stack: Stack) -> Log:
    body = json.loads(chat_body(model="mock", stream=True, retention=0.2, max_tokens=2))
    status, headers, raw = web.ask(stack.frontend.port, "POST", "/v1/chat/completions", body)
    assert status == 200
    ids = [line[4:] for line in raw.decode().splitlines() if line.startswith("id: ")]
    return Log(headers["x-request-id"], ids)


def test_tail(stack: Stack, ended: Log) -> None:
    def tail(event: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "dynamo_tasks", "tail", ended.id, "--after", event]
        env = environment(stack.server.url, **ENV)
        return subprocess.run(
            argv, env=env, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
        )

    end = tail(ended.ids[-1])
    assert (end.returncode, end.stdout.strip(), end.stderr) == (0, "", "")
    for event, told in ((_above(ended)[0], "beyond the top"), ("x", "not <epoch>")):
        wrong = tail(event)
        assert (wrong.returncode, told in wrong.stderr, "Traceback" in wrong.stderr) == (2, True, False), (
            wrong
        )
