"""What happens to a request when its readers leave, at the HTTP side; and what ends one at once."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from benchmarks.undisturbed import undisturbed
from tests.e2e.conftest import Stack
from tests.support.processes import Frontend, Process, environment, until
from tests.support.promises import in_time

ASK: dict[str, Any] = {
    "model": "mocker", "max_tokens": 1000, "stream": True, "messages": [{"role": "user", "content": "go on"}]
}  # fmt: skip


class Reader:
    """One SSE reader that may leave."""

    def __init__(self, frontend: Frontend, **more: Any):
        self.stream: Iterator[tuple[str, str]] = frontend.events("POST", "/v1/chat/completions", ASK | more)
        self.last, data = next(self.stream)
        self.id = json.loads(data)["id"].removeprefix("chatcmpl-")

    def leave(self) -> None:
        self.stream.close()  # type: ignore[attr-defined]


def _status(frontend: Frontend, request_id: str) -> dict[str, Any]:
    status, body = frontend.get(f"/v1/requests/{request_id}")
    assert status == 200
    return dict(body)


def _ended(frontend: Frontend, request_id: str) -> bool:
    return _status(frontend, request_id)["status"] not in ("queued", "running")


def test_a_request_without_a_reader_is_cancelled_after_its_time(stack: Stack) -> None:
    reader = Reader(stack.one, abandon_after=1)
    reader.leave()
    left = time.monotonic()
    until(lambda: not stack.record(reader.id, "readers"), 30, "the ledger knows that the reader left")
    assert not _ended(stack.one, reader.id)
    until(lambda: _ended(stack.one, reader.id), 30, "abandoned")
    assert time.monotonic() - left > 0.9
    info = _status(stack.one, reader.id)
    assert (info["status"], info["finish_reason"]) == ("cancelled", "abandoned")


def test_the_default_time_is_five_seconds(stack: Stack) -> None:
    reader = Reader(stack.one)
    reader.leave()
    left = time.time()
    until(lambda: stack.timer(f"a:{reader.id}") is not None, 30, "the ledger knows that the reader left")
    due = stack.timer(f"a:{reader.id}")
    assert due is not None
    assert 4 < due / 1000 - left < 15
    stack.one.request("DELETE", f"/v1/requests/{reader.id}")


def test_abandon_after_0_acts_at_once(stack: Stack) -> None:
    def measure() -> float:
        reader = Reader(stack.one, abandon_after=0)
        reader.leave()
        left = time.monotonic()
        until(lambda: _ended(stack.one, reader.id), what="cancelled")
        return time.monotonic() - left

    in_time(measure, 3.0)


def test_a_collected_answer_whose_client_leaves_is_abandoned_too(stack: Stack) -> None:
    body = json.dumps(ASK | {"stream": False, "abandon_after": 0, "user": "leaver"}).encode()
    with socket.create_connection(("127.0.0.1", stack.one.port), timeout=5) as sock:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        running = until(lambda: _members(stack, f"dt:{stack.namespace}:owned:"), 30, "claimed")
    until(lambda: all(_ended(stack.one, request_id) for request_id in running), 30, "cancelled")


def _members(stack: Stack, prefix: str) -> list[str]:
    keys = stack.server.command("KEYS", f"{prefix}*").split(b"\r\n")[2::2]
    found = []
    for key in filter(None, keys):
        found += [
            m.decode() for m in stack.server.command("SMEMBERS", key.decode()).split(b"\r\n")[2::2] if m
        ]
    return found


def test_a_reader_who_comes_back_in_time_goes_on(stack: Stack) -> None:
    reader = Reader(stack.one, max_tokens=60, abandon_after=1)
    reader.leave()
    until(lambda: not stack.record(reader.id, "readers"), 30, "the ledger knows that the reader left")
    headers = {"Last-Event-ID": reader.last}
    rest = list(stack.two.events("GET", f"/v1/requests/{reader.id}/stream", headers=headers))
    assert rest[-1][1] == "[DONE]"
    assert _status(stack.one, reader.id)["status"] == "succeeded"


def test_one_of_two_readers_may_leave(stack: Stack) -> None:
    reader = Reader(stack.one, max_tokens=40, abandon_after=0)
    other = stack.two.events("GET", f"/v1/requests/{reader.id}/stream")
    next(other)
    reader.leave()
    assert list(other)[-1][1] == "[DONE]"
    assert _status(stack.two, reader.id)["status"] == "succeeded"


def test_a_background_request_runs_on(stack: Stack) -> None:
    reader = Reader(stack.one, max_tokens=50, abandon_after=0, background=True)
    reader.leave()
    until(lambda: _ended(stack.one, reader.id), 30, "done")
    assert _status(stack.one, reader.id)["status"] == "succeeded"


def test_background_without_stream_is_202_and_read_later(stack: Stack) -> None:
    body = ASK | {"stream": False, "background": True, "max_tokens": 20}
    status, headers, answer = stack.one.request("POST", "/v1/chat/completions", body)
    assert (status, answer["status"]) == (202, "queued")
    assert headers["location"] == f"/v1/requests/{answer['id']}"
    rest = list(stack.two.events("GET", f"/v1/requests/{answer['id']}/stream"))
    assert rest[-1][1] == "[DONE]"
    assert len(rest) > 10


@pytest.mark.slow
def test_the_requests_of_a_killed_frontend_are_abandoned(stack: Stack) -> None:
    env = {"DYNAMO_NAMESPACE": stack.namespace}
    with Frontend(stack.server.url, env=env) as dying:
        lost = Reader(dying, abandon_after=1)
        kept = Reader(dying, abandon_after=1, max_tokens=250)
        dying.kill()
        # Somebody attaches to one of them within its time.
        rest = list(
            stack.two.events("GET", f"/v1/requests/{kept.id}/stream", headers={"Last-Event-ID": kept.last})
        )
    assert rest[-1][1] == "[DONE]"
    assert _status(stack.one, kept.id)["status"] == "succeeded"
    until(lambda: _ended(stack.one, lost.id), 30, "abandoned")
    assert _status(stack.one, lost.id)["finish_reason"] == "abandoned"


def test_delete_stops_the_engine_and_ends_the_stream_with_its_reason(stack: Stack) -> None:
    asked: list[tuple[Reader, list[str]]] = []

    def measure() -> float:
        reader = Reader(stack.one)
        began = time.monotonic()
        status, _, answer = stack.two.request("DELETE", f"/v1/requests/{reader.id}")
        assert (status, answer["status"], answer["finish_reason"]) == (200, "cancelled", "cancelled")
        asked.append((reader, [data for _, data in reader.stream]))
        return time.monotonic() - began

    in_time(measure, 1.0)
    reader, rest = asked[-1]
    assert rest[-1] == "[DONE]"
    assert json.loads(rest[-2])["error"]["code"] == "cancelled"
    again = stack.two.request("DELETE", f"/v1/requests/{reader.id}")
    assert (again[0], again[2]["status"]) == (200, "cancelled")


def test_delete_of_a_collected_answer(stack: Stack) -> None:
    answers: list[tuple[int, dict[str, str], Any]] = []
    body = ASK | {"stream": False, "max_tokens": 900}
    thread = threading.Thread(
        target=lambda: answers.append(stack.one.request("POST", "/v1/chat/completions", body))
    )
    before = set(_members(stack, f"dt:{stack.namespace}:owned:"))
    thread.start()
    new = until(lambda: set(_members(stack, f"dt:{stack.namespace}:owned:")) - before, 30, "claimed")
    for request_id in new:
        stack.two.request("DELETE", f"/v1/requests/{request_id}")
    thread.join(5)
    assert answers[0][0] == 499
    assert answers[0][2]["error"]["code"] == "cancelled"


def _engine_stopped(stack: Stack, request_id: str) -> float:
    """When the worker had stopped the engine, by its log; Unix seconds."""
    pattern = re.compile(rf"^\[(\S+ \S+): INFO.*request\.stopped request_id={request_id} .*$", re.MULTILINE)
    found = until(lambda: pattern.search(stack.worker.output), 30, f"request.stopped of {request_id}")
    return datetime.strptime(found.group(1), "%Y-%m-%d %H:%M:%S,%f").timestamp()


def _delete(stack: Stack, reader: Reader) -> float:
    began = time.time()
    stack.two.request("DELETE", f"/v1/requests/{reader.id}")
    return began


def _disconnect(stack: Stack, reader: Reader) -> float:
    reader.leave()
    until(lambda: _ended(stack.one, reader.id), 30, "cancelled")
    return int(stack.record(reader.id, "finished")) / 1000


@pytest.mark.parametrize(
    ("act", "options"),
    [(_delete, {}), (_disconnect, {"abandon_after": 0}), (_disconnect, {"abandon_after": 0.5})],
    ids=["delete", "disconnect", "abandoned"],
)
def test_the_engine_stops_within_100_ms(
    stack: Stack, act: Callable[[Stack, Reader], float], options: dict[str, Any]
) -> None:
    def measure() -> float:
        reader = Reader(stack.one, **options)
        began = act(stack, reader)
        return _engine_stopped(stack, reader.id) - began

    in_time(measure, 0.1)


CLIENT = """
import json, sys, time
from workers.agg import Worker

options = json.loads(sys.argv[1])
read = options.pop("read")
result = Worker.generate.apply_async(({"prompt": "hi", "max_tokens": 200},), **options)
print(result.id, flush=True)
if read:
    for chunk in result:
        print("chunk", flush=True)
time.sleep(60)
"""


def _client(stack: Stack, **options: Any) -> Process:
    env = environment(stack.server.url, DYNAMO_NAMESPACE=stack.namespace)
    return Process([sys.executable, "-c", CLIENT, json.dumps(options)], env, name="client")


@pytest.mark.slow
def test_what_clients_asked_for_that_were_killed(stack: Stack) -> None:
    """``kill -9`` of processes that read, read something of the background, or never read at all."""
    with (
        _client(stack, read=True, abandon_after=1) as reading,
        _client(stack, read=True, abandon_after=1, background=True) as background,
        _client(stack, read=False, abandon_after=1) as never,
    ):
        for one in (reading, background):
            until(lambda one=one: "chunk" in one.output, 30, f"a chunk: {one.output}")
        until(lambda: "\n" in never.output, 30, "its id")
        clients = [reading, background, never]
        ids = [one.output.split()[0] for one in clients]
        for one in clients:
            one.kill()
    until(lambda: _ended(stack.one, ids[0]), 20, "abandoned")
    assert _status(stack.one, ids[0])["finish_reason"] == "abandoned"
    _engine_stopped(stack, ids[0])
    for request_id in ids[1:]:
        until(lambda one=request_id: _ended(stack.one, one), 20, "done")
        assert _status(stack.one, request_id)["status"] == "succeeded"
        assert _status(stack.two, request_id)["usage"]["completion_tokens"] == 200


def test_a_collected_answer_outlives_its_frontend(stack: Stack) -> None:
    """Its client asks another one with the same key, and gets the same request's whole text."""
    body = {"model": "mocker", "prompt": "go on", "max_tokens": 60}
    headers = {"Idempotency-Key": "outlives"}
    before = set(_members(stack, f"dt:{stack.namespace}:owned:"))
    with Frontend(stack.server.url, env={"DYNAMO_NAMESPACE": stack.namespace}) as dying:
        lost: list[Exception] = []

        def ask() -> None:
            try:
                dying.request("POST", "/v1/completions", body, headers)
            except OSError as exc:
                lost.append(exc)

        thread = threading.Thread(target=ask)
        thread.start()
        (request_id,) = until(
            lambda: set(_members(stack, f"dt:{stack.namespace}:owned:")) - before, 10, "claimed"
        )
        dying.kill()
        thread.join(10)
    assert lost
    assert _status(stack.two, request_id)["status"] in ("running", "succeeded")
    status, found, answer = stack.two.request("POST", "/v1/completions", body, headers)
    assert (status, found["x-request-id"]) == (200, request_id)
    assert answer["choices"][0]["text"] == undisturbed(["go on"], 60)[0]
    info = _status(stack.one, request_id)
    assert (info["status"], info["attempts"], info["usage"]["completion_tokens"]) == ("succeeded", 1, 60)


def test_purge_erases_payload_and_log(stack: Stack) -> None:
    status, headers, _ = stack.one.request(
        "POST", "/v1/chat/completions", ASK | {"stream": False, "max_tokens": 3}
    )
    request_id = headers["x-request-id"]
    assert status == 200
    assert stack.one.request("DELETE", f"/v1/requests/{request_id}?purge=maybe")[0] == 400
    status, _, answer = stack.one.request("DELETE", f"/v1/requests/{request_id}?purge=true")
    assert (status, answer["status"]) == (200, "succeeded")
    assert stack.server.command("EXISTS", f"dt:{stack.namespace}:log:{request_id}") == b":0\r\n"
    assert stack.record(request_id, "message") == ""
    assert stack.one.get(f"/v1/requests/{request_id}/stream")[0] == 410
    assert stack.one.get(f"/v1/requests/{request_id}")[0] == 200


def test_purge_of_a_running_request(stack: Stack) -> None:
    reader = Reader(stack.one)
    status, _, answer = stack.one.request("DELETE", f"/v1/requests/{reader.id}?purge=true")
    assert (status, answer["status"]) == (200, "cancelled")
    reader.leave()
    assert stack.one.get(f"/v1/requests/{reader.id}/stream")[0] == 410


@pytest.mark.parametrize("path", ["", "/stream"])
def test_an_unknown_request(stack: Stack, path: str) -> None:
    status, body = stack.one.get(f"/v1/requests/nobody{path}")
    assert (status, body["error"]["code"]) == (404, "request_not_found")


@pytest.mark.parametrize("position", ["soon", "1-", "99999999999999-1", "-1-2"])
def test_a_bad_last_event_id(stack: Stack, position: str) -> None:
    _, headers, _ = stack.one.request(
        "POST", "/v1/chat/completions", ASK | {"stream": False, "max_tokens": 2}
    )
    path = f"/v1/requests/{headers['x-request-id']}/stream"
    status, _, body = stack.one.request("GET", path, headers={"Last-Event-ID": position})
    assert (status, body["error"]["code"]) == (400, "invalid_event_id")


def test_a_stream_past_its_retention_is_gone(stack: Stack) -> None:
    body = ASK | {"stream": False, "max_tokens": 2, "retention": 0}
    _, headers, _ = stack.one.request("POST", "/v1/chat/completions", body)
    path = f"/v1/requests/{headers['x-request-id']}"
    status = until(lambda: stack.one.get(f"{path}/stream")[0] == 410 or None, 30, "expired")
    assert status
    assert stack.one.get(path)[1]["status"] == "succeeded"


def test_a_silent_stream_gets_comments(stack: Stack) -> None:
    body = json.dumps(ASK | {"max_tokens": 3, "stop": None}).encode()
    with stack.worker_paused(), socket.create_connection(("127.0.0.1", stack.one.port), timeout=5) as sock:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        seen = b""
        while b": keep-alive" not in seen:
            got = sock.recv(4096)
            assert got
            seen += got
