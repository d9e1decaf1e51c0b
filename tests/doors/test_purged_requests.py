"""A request that is purged is erased wherever it waits: no key of the server holds its text any more."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from dynamo_tasks.store.ledger.fields import Field
from tests.support.acl import server_with_users, url_of
from tests.support.processes import Frontend, Worker, until
from tests.support.queue import Lab
from tests.support.readers import MODEL
from tests.support.server import RedisServer

SECRET = "the quick brown secret"
SLOW = ("Worker.engine=mocker", "Worker.engine_args.token_delay_ms=100", "Worker.engine_args.max_num_seqs=1")


def everything(client: Any) -> Iterator[tuple[str, bytes]]:
    """What each key of the server holds, with the bodies of messages as they are read."""
    for key in client.scan_iter(count=1000):
        kind = client.type(key)
        if kind == b"list":
            yield from ((key.decode(), _read(one)) for one in client.lrange(key, 0, -1))
        elif kind == b"hash":
            yield from ((key.decode(), name + b" " + _read(one)) for name, one in client.hgetall(key).items())
        elif kind == b"stream":
            yield key.decode(), repr(client.xrange(key)).encode()
        elif kind == b"string":
            yield key.decode(), client.get(key) or b""
        else:
            yield key.decode(), client.dump(key) or b""


def _read(raw: bytes) -> bytes:
    try:
        return raw + base64.b64decode(json.loads(raw)["body"])
    except (ValueError, TypeError, LookupError):
        return raw


def holders(client: Any, text: str) -> list[str]:
    """Keys that hold a text, or its tokens: the mocker's are the bytes."""
    looked_for = (text.encode(), ",".join(map(str, text.encode())).encode())
    return [key for key, content in everything(client) if any(one in content for one in looked_for)]


def gone(client: Any, text: str) -> None:
    until(lambda: not holders(client, text), 30, lambda: f"nothing of it left: {holders(client, text)}")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with server_with_users(tmp_path_factory.mktemp("purged")) as server:
        yield server


def _ask(http: Frontend, text: str, **more: Any) -> str:
    body = {"model": MODEL, "prompt": text, "max_tokens": 2000, "background": True, **more}
    status, headers, answer = http.request("POST", "/v1/completions", body)
    assert status == 202, answer
    return headers["x-request-id"]


def _purge(http: Frontend, request_id: str) -> None:
    status, _, answer = http.request("DELETE", f"/v1/requests/{request_id}?purge=true")
    assert (status, answer["status"]) == (200, "cancelled")


@pytest.mark.slow
@pytest.mark.parametrize("worker_lives", [True, False], ids=["worker is busy", "worker is gone"])
def test_a_prompt_is_purged_from_the_queue_and_the_line(guarded: RedisServer, worker_lives: bool) -> None:
    """Over HTTP, under the shipped users; what others asked for stays."""
    admin = redis.Redis(port=guarded.port)
    work = url_of(guarded, "worker")
    with Frontend(url_of(guarded, "frontend"), ready="/live") as http:
        with Worker(work, settings=SLOW) as worker:
            until(lambda: http.get("/ready")[0] == 200, 30, "the model")
            busy = _ask(http, "busy")
            until(lambda: admin.hget(f"dt:dynamo:req:{busy}", Field.STATE) == b"RUNNING", 20, "it runs")
            waiting = [_ask(http, f"{SECRET} {n}", priority=n % 2 * 5) for n in range(44)]
            cancelled = waiting[-1]
            assert http.request("DELETE", f"/v1/requests/{cancelled}")[0] == 200
            other = _ask(http, "of somebody else")
            assert admin.exists("dt:dynamo:lines")
            assert "dynamo|Worker" in holders(admin, SECRET)
            if not worker_lives:
                worker.kill()
            for request_id in waiting:
                _purge(http, request_id)
            if worker_lives:
                gone(admin, SECRET)
                assert admin.hget(f"dt:dynamo:req:{busy}", Field.STATE) == b"RUNNING"
        if not worker_lives:
            with Worker(work, service="tests.support.limited:Limited", name="of another component"):
                gone(admin, SECRET)
        assert holders(admin, "of somebody else")
        assert admin.hget(f"dt:dynamo:req:{other}", Field.STATE) == b"QUEUED"
        for request_id in (busy, other):
            _purge(http, request_id)
    assert admin.acl_log() == []
    admin.close()


def test_forget_erases_what_waits_for_its_turn_its_time_or_a_retry(redis_server: RedisServer) -> None:
    lab = Lab(redis_server, "forgotten")
    with lab.worker(name="first"):
        again = lab.call("flaky", {"until": 3, "countdown": 3600, "text": SECRET})
        until(
            lambda: lab.record(again.id).get("retries") == "1", 20, lambda: f"a retry: {lab.record(again.id)}"
        )
    calls = [
        again, lab.call("echo", SECRET), lab.call("echo", SECRET, countdown=3600),
        lab.call("echo", SECRET, priority=9, ignore_result=True), lab.call("echo", SECRET, queue="elsewhere"),
    ]  # fmt: skip
    other = lab.call("echo", "of somebody else")
    admin = redis.Redis(port=redis_server.port)
    for call in calls:
        call.forget()
        assert lab.state(call.id) == "QUEUED"  # as in Celery: who forgets a result does not stop its task
    for call in calls:
        call.cancel()
    assert {lab.queue, "elsewhere"} < set(holders(admin, SECRET))
    for call in calls:
        call.forget()
    with Worker(lab.url, service="tests.support.limited:Limited", name="of another component"):
        gone(admin, SECRET)
    assert lab.state(other.id) == "QUEUED"
    assert lab.length() == 1
    assert {lab.record(call.id)["purged"] for call in calls} == {"1"}
    assert not any(lab.redis.zscore(lab.keys.queued, call.id) for call in calls)
    other.cancel()
    admin.close()
    lab.close()
