"""Accounts of keys while their frontend, a worker or Redis is killed: each counts once, nothing stays reserved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.faults import restart_redis
from tests.support.keys import KeyDesk, bearer, counted_row
from tests.support.processes import Frontend, Worker, until
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow

NAMESPACE = "accounts"
ENV = {"DYNAMO_NAMESPACE": NAMESPACE}
SLOTS = 2
WORKER = (
    "Worker.engine=mocker", "Worker.engine_args.token_delay_ms=10", f"Worker.engine_args.max_num_seqs={SLOTS}",
)  # fmt: skip
HTTP = (*WORKER, "Frontend.require_api_keys=true")
COMPLETIONS = "/v1/completions"
Events = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Stack(KeyDesk):
    """A worker and two frontends that want keys."""

    server: RedisServer
    frontends: list[Frontend]

    def reserved(self) -> list[str]:
        reply = self.server.command("KEYS", f"dt:{NAMESPACE}:held:*")
        return [line for line in reply.decode().split("\r\n") if line.startswith("dt:")]


@pytest.fixture
def stack(own_server: RedisServer) -> Iterator[Stack]:
    with ExitStack() as entered:
        entered.enter_context(Worker(own_server.url, settings=WORKER, env=ENV, wait=False))
        made = [Frontend(own_server.url, settings=HTTP, env=ENV) for _ in range(2)]
        yield Stack(own_server.url, NAMESPACE, own_server, [entered.enter_context(one) for one in made])


def ask(tokens: int, **more: Any) -> dict[str, Any]:
    return {"model": "mocker", "prompt": "hi", "max_tokens": tokens} | more


def begun(frontend: Frontend, key: str, tokens: int, **more: Any) -> tuple[str, str, Events]:
    """A stream that runs: its request, the id of its first event, what follows."""
    events = frontend.events("POST", COMPLETIONS, ask(tokens, stream=True, **more), bearer(key))
    event_id, data = next(events)
    return json.loads(data)["id"].removeprefix("cmpl-"), event_id, events


def rest(frontend: Frontend, key: str, request_id: str, after: str) -> None:
    """Read a stream to its end."""
    headers = bearer(key) | {"last-event-id": after}
    events = frontend.events("GET", f"/v1/requests/{request_id}/stream", None, headers)
    assert [data for _, data in events][-1] == "[DONE]"


def test_a_client_that_goes_on_at_another_frontend_is_charged_once(stack: Stack) -> None:
    key = stack.create("--tokens-per-minute", "10000", "--tokens-per-day", "100000")["key"]
    request_id, after, _ = begun(stack.frontends[0], key, 300)
    assert stack.reserved()
    stack.frontends[0].kill()
    rest(stack.frontends[1], key, request_id, after)
    row = counted_row(stack.frontends[-1], key, 1)
    assert (row["requests"], row["errors"], row["output_tokens"]) == (1, 0, 300)
    assert stack.reserved() == []
    code, headers, _ = stack.frontends[1].request("POST", COMPLETIONS, ask(1), bearer(key))
    assert code == 200
    # 300 and a few, not twice that.
    assert int(headers["x-ratelimit-remaining-tokens"]) > 10_000 - 400


def test_redis_that_starts_on_its_aof_has_keys_limits_and_usage(stack: Stack) -> None:
    key = stack.create("--tokens-per-day", "500")["key"]
    http = stack.frontends[1]
    assert http.request("POST", COMPLETIONS, ask(50), bearer(key))[0] == 200
    before = counted_row(stack.frontends[-1], key, 1)
    until(lambda: b"aof_pending_bio_fsync:0" in stack.server.command("INFO", "persistence"))
    request_id, after, _ = begun(stack.frontends[0], key, 200)
    restart_redis(stack.server)
    path = f"/v1/requests/{request_id}"
    until(lambda: http.request("GET", path, None, bearer(key))[0] == 200, what="connected again")
    until(lambda: http.get("/ready")[0] == 200)
    rest(http, key, request_id, after)
    row = counted_row(stack.frontends[-1], key, 2)
    assert row["requests"] == 2
    assert row["output_tokens"] == before["output_tokens"] + 200
    code, _, body = http.request("POST", COMPLETIONS, ask(400), bearer(key))
    assert (code, body["error"]["code"]) == (429, "insufficient_quota")
    assert stack.reserved() == []


def test_a_preempted_request_that_goes_on_is_charged_once(stack: Stack) -> None:
    key = stack.create("--tokens-per-day", "100000")["key"]
    http = stack.frontends[0]
    streams = [begun(http, key, 300, service_tier="flex") for _ in range(SLOTS)]
    assert http.request("POST", COMPLETIONS, ask(3), bearer(key))[0] == 200
    for _, _, events in streams:
        assert [data for _, data in events][-1] == "[DONE]"
    preempted = [
        http.request("GET", f"/v1/requests/{request_id}", None, bearer(key))[2]
        for request_id, _, _ in streams
    ]
    row = counted_row(stack.frontends[-1], key, SLOTS + 1)
    assert (row["requests"], row["errors"], row["output_tokens"]) == (SLOTS + 1, 0, SLOTS * 300 + 3), (
        preempted
    )
    assert stack.reserved() == []
    assert http.output.count("Traceback") == 0
