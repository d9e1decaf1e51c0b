"""Who may do what, once, by when, and how much of it: keys, idempotency, deadlines, priorities, limits."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from dynamo_tasks.store.ledger.fields import Field
from tests.support.processes import Frontend, Worker, together, until
from tests.support.promises import in_time
from tests.support.server import RedisServer

ALICE, BOB = {"authorization": "Bearer alice"}, {"authorization": "Bearer bob"}
CHAT = "/v1/chat/completions"


class Small(NamedTuple):
    """One slot at 10 ms per token, a queue of two, two API keys, small bodies."""

    server: RedisServer
    http: Frontend


@pytest.fixture(scope="module")
def small(redis_server: RedisServer) -> Iterator[Small]:
    env = {"DYNAMO_NAMESPACE": "admission", "DYNAMO_API_KEYS": "alice,bob"}
    slow = (
        "Worker.engine=mocker", "Worker.engine_args.token_delay_ms=10", "Worker.ServiceArgs.concurrency=1",
        "Worker.ServiceArgs.traffic.max_queue=2",
    )  # fmt: skip
    with together(
        Worker(redis_server.url, settings=slow, env=env),
        Frontend(redis_server.url, env=env, settings=(*slow, "Frontend.body_limit=20000")),
    ) as (_, http):
        yield Small(redis_server, http)


def _ask(**more: Any) -> dict[str, Any]:
    return {"model": "mocker", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]} | more


def _post(
    small: Small, body: Any, headers: dict[str, str] = ALICE, path: str = CHAT
) -> tuple[int, dict[str, str], Any]:
    return small.http.request("POST", path, body, headers)


@contextlib.contextmanager
def _busy(small: Small) -> Iterator[str]:
    """The one slot is taken until the block is left."""
    stream = small.http.events("POST", CHAT, _ask(max_tokens=2000, stream=True, abandon_after=0), ALICE)
    _, data = next(stream)
    request_id = json.loads(data)["id"].removeprefix("chatcmpl-")
    try:
        yield request_id
    finally:
        small.http.request("DELETE", f"/v1/requests/{request_id}", headers=ALICE)
        stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer carol"}, {"authorization": "Basic alice"}])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", CHAT), ("GET", "/v1/models"), ("GET", "/v1/requests/x")]
)
def test_without_a_key(small: Small, headers: dict[str, str], method: str, path: str) -> None:
    status, answer, body = small.http.request(method, path, _ask(), headers)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    assert answer["www-authenticate"] == "Bearer"


def test_probes_need_no_key(small: Small) -> None:
    assert [small.http.get(path)[0] for path in ("/live", "/health", "/ready", "/metrics")] == [200] * 4


def test_only_the_owner_may_read_cancel_or_ask(small: Small) -> None:
    request_id = _post(small, _ask())[1]["x-request-id"]
    path = f"/v1/requests/{request_id}"
    for method, where in [
        ("GET", path),
        ("GET", f"{path}/stream"),
        ("DELETE", path),
        ("DELETE", f"{path}?purge=true"),
    ]:
        status, _, body = small.http.request(method, where, headers=BOB)
        assert (status, body["error"]["code"]) == (404, "request_not_found"), where
    assert small.http.request("GET", path, headers=ALICE)[0] == 200
    assert list(small.http.events("GET", f"{path}/stream", headers=ALICE))[-1][1] == "[DONE]"


def test_ids_cannot_be_guessed_or_chosen(small: Small) -> None:
    """122 random bits, whatever the client wants: else a stranger could ask for an id before its owner has it."""
    mine = str(uuid.UUID(int=7, version=4))
    answers = [_post(small, _ask(), ALICE | {"x-request-id": mine}) for _ in range(2)]
    first, second = (uuid.UUID(headers["x-request-id"]) for _, headers, _ in answers)
    assert first != second
    assert mine not in (str(first), str(second))
    assert (first.version, second.version) == (4, 4)


def test_a_strangers_look_does_not_count_as_a_reader(small: Small) -> None:
    with _busy(small) as request_id:
        assert small.http.request("GET", f"/v1/requests/{request_id}/stream", headers=BOB)[0] == 404
        key = f"dt:admission:req:{request_id}"
        readers = small.server.command("HGET", key, Field.READERS).split(b"\r\n")[1].split()
        assert len(readers) == 1


def test_an_idempotency_key_joins(small: Small) -> None:
    key = {"idempotency-key": "order-1"}
    first, second = (_post(small, _ask(), ALICE | key) for _ in range(2))
    assert first[1]["x-request-id"] == second[1]["x-request-id"]
    assert first[2] == second[2]
    streamed = list(small.http.events("POST", CHAT, _ask(stream=True), ALICE | key))
    assert json.loads(streamed[0][1])["id"] == first[2]["id"]
    other = _post(small, _ask(max_tokens=4), ALICE | key)
    assert (other[0], other[2]["error"]["code"]) == (409, "idempotency_conflict")
    stranger = _post(small, _ask(), BOB | key)
    assert stranger[1]["x-request-id"] != first[1]["x-request-id"]


def test_an_idempotency_key_joins_a_request_that_runs(small: Small) -> None:
    key = ALICE | {"idempotency-key": "order-2"}
    body = _ask(max_tokens=60, stream=True)
    one = small.http.events("POST", CHAT, body, key)
    next(one)
    two = list(small.http.events("POST", CHAT, body, key))
    rest = list(one)
    assert [event for event in two if event[0]][1:] == [event for event in rest if event[0]]


def test_two_frontends_are_asked_at_once_with_one_key(small: Small) -> None:
    """Eight clients, half of them at another frontend: one request, one answer."""
    env = {"DYNAMO_NAMESPACE": "admission", "DYNAMO_API_KEYS": "alice,bob"}
    answers: list[tuple[int, dict[str, str], Any]] = []
    key = ALICE | {"idempotency-key": "race"}
    with Frontend(small.server.url, env=env) as other:
        gate = threading.Barrier(8)

        def ask(frontend: Frontend) -> None:
            gate.wait(10)
            answers.append(frontend.request("POST", CHAT, _ask(max_tokens=30), key))

        threads = [threading.Thread(target=ask, args=((small.http, other)[n % 2],)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert [status for status, _, _ in answers] == [200] * 8
    assert len({headers["x-request-id"] for _, headers, _ in answers}) == 1
    assert all(body == answers[0][2] for _, _, body in answers)
    assert answers[0][2]["usage"]["completion_tokens"] == 30


def test_a_key_belongs_to_one_api(small: Small) -> None:
    """The same text through another endpoint of the API is another request."""
    key = ALICE | {"idempotency-key": "api"}
    tokens = {"model": "mocker", "prompt": "hi", "max_tokens": 3}
    assert _post(small, tokens, key, "/v1/completions")[0] == 200
    for path, body in ((CHAT, _ask()), ("/v1/embeddings", {"model": "mocker", "input": "hi"})):
        status, _, answer = _post(small, body, key, path)
        assert (status, answer["error"]["code"]) == (409, "idempotency_conflict"), path


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_bad_idempotency_key(small: Small, key: str) -> None:
    status, _, body = _post(small, _ask(), ALICE | {"idempotency-key": key})
    assert (status, body["error"]["param"]) == (400, "idempotency-key")


def test_a_full_queue_is_429_with_retry_after(small: Small) -> None:
    with _busy(small):
        waiting = [small.http.request("POST", CHAT, _ask(background=True), ALICE) for _ in range(2)]
        assert [status for status, _, _ in waiting] == [202, 202]
        status, headers, body = _post(small, _ask())
        assert (status, body["error"]["code"], body["error"]["type"]) == (
            429,
            "queue_full",
            "rate_limit_error",
        )
        assert int(headers["retry-after"]) >= 1
        counted = (
            'dynamo_tasks_requests_rejected_total{code="queue_full",endpoint="admission.Worker.generate"} 1.0'
        )
        assert counted in small.http.get("/metrics")[1].decode()
    for _, _, body in waiting:
        path = f"/v1/requests/{body['id']}"
        until(
            lambda path=path: small.http.request("GET", path, headers=ALICE)[2]["status"] == "succeeded", 10
        )


def test_a_deadline_that_passes_in_the_queue(small: Small) -> None:
    def seconds() -> float:
        with _busy(small):
            began = time.monotonic()
            status, _, body = _post(small, _ask(timeout=0.3))
            assert (status, body["error"]["code"]) == (504, "expired")
            return time.monotonic() - began

    in_time(seconds, 2)


def test_priorities(small: Small) -> None:
    """Of two that wait, the one with the lower number goes first."""
    ends: list[str] = []

    def ask(name: str, priority: int) -> None:
        _post(small, _ask(max_tokens=20, priority=priority))
        ends.append(name)

    threads = []
    with _busy(small):
        for name, priority in [("late", 9), ("early", 0)]:
            queued = _queued(small)
            threads.append(threading.Thread(target=ask, args=(name, priority)))
            threads[-1].start()
            until(lambda queued=queued: _queued(small) == queued + 1, 30, "queued")
    for thread in threads:
        thread.join(10)
    assert ends == ["early", "late"]


def _queued(small: Small) -> int:
    return int(small.server.command("ZCARD", "dt:admission:queued")[1:-2])


def test_a_body_over_the_limit(small: Small) -> None:
    body = json.dumps(_ask(messages=[{"role": "user", "content": "x" * 30000}])).encode()
    status, _, answer = _post(small, body)
    assert (status, answer["error"]["code"]) == (413, "payload_too_large")
