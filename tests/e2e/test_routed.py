"""The routed graph over HTTP: a Router in front of two Workers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.app import create_app
from dynamo_tasks.queue.client.task import make_task
from dynamo_tasks.store.keys import Keys
from tests.support.processes import Frontend, Worker, together, until
from tests.support.server import RedisServer

NAMESPACE = "routed"
ENV = {"DYNAMO_NAMESPACE": NAMESPACE}
ENGINE = ("Worker.engine=mocker", "Worker.engine_args.token_delay_ms=10")
CHAT = {
    "model": "mocker",
    "max_tokens": 40,
    "stream": True,
    "messages": [{"role": "user", "content": "tell me"}],
}


@pytest.fixture(scope="module")
def frontend(redis_server: RedisServer) -> Iterator[Frontend]:
    settings = ("Router.policy=round_robin",)
    with together(
        Worker(redis_server.url, service="workers.routed:Router", env=ENV, settings=settings, name="router"),
        Worker(redis_server.url, env=ENV, settings=ENGINE, name="one"),
        Frontend(redis_server.url, service="workers.routed:Frontend", env=ENV),
    ) as (_, _, frontend):
        yield frontend


@pytest.fixture(scope="module")
def second(redis_server: RedisServer, frontend: Frontend) -> Iterator[Worker]:
    """Another worker, until a test kills it."""
    with Worker(redis_server.url, env=ENV, settings=ENGINE, name="two") as worker:
        # The Router looks at the registry when a join is announced, and every second.
        until(
            lambda: len({_claims(redis_server, one)[-1] for one in _ids(frontend, 4)}) == 2, what="both known"
        )
        yield worker


def _ids(frontend: Frontend, count: int) -> list[str]:
    """Ids of a few requests that have ended."""
    with ThreadPoolExecutor(count) as pool:
        bodies = [{**CHAT, "stream": False, "max_tokens": 1}] * count
        answers = list(pool.map(lambda body: frontend.request("POST", "/v1/chat/completions", body), bodies))
    assert [status for status, _, _ in answers] == [200] * count
    return [headers["x-request-id"] for _, headers, _ in answers]


def _claims(server: RedisServer, request_id: str) -> list[str]:
    """Leases of the instances that claimed a request, as its log tells."""
    with redis.Redis(port=server.port) as client:
        rows = client.xrange(Keys(NAMESPACE).stream(request_id))
    # An entry's field is its kind; a claim's value is `previous|attempt|lease`.
    return [row[b"k"].decode().split("|")[2] for _, row in rows if b"k" in row]


def _text(events: list[tuple[str, str]]) -> str:
    chunks = [json.loads(data) for _, data in events if data != "[DONE]"]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


@pytest.mark.usefixtures("second")
def test_requests_are_spread_by_policy_and_keep_id_and_stream(
    redis_server: RedisServer, frontend: Frontend
) -> None:
    ids = _ids(frontend, 6)
    claims = [_claims(redis_server, request_id) for request_id in ids]
    assert len({first for first, _ in claims}) == 1
    assert sorted(Counter(last for _, last in claims).values()) == [3, 3]
    status, answer = frontend.get(f"/v1/requests/{ids[0]}")
    assert (status, answer["attempts"], answer["endpoint"]) == (200, 1, f"{NAMESPACE}.Worker.generate")


def test_a_stream_goes_on_elsewhere_when_the_chosen_worker_dies(frontend: Frontend, second: Worker) -> None:
    whole = _text(list(frontend.events("POST", "/v1/chat/completions", CHAT)))
    streams = [frontend.events("POST", "/v1/chat/completions", CHAT) for _ in range(2)]
    begun = [[next(stream) for _ in range(5)] for stream in streams]
    second.kill()
    # Round robin: one of the two ran on the killed worker.
    texts = [_text([*events, *stream]) for events, stream in zip(begun, streams, strict=True)]
    assert texts == [whole] * 2


@pytest.mark.usefixtures("frontend")
def test_a_call_of_the_router_is_a_celery_call(redis_server: RedisServer) -> None:
    app = create_app("routed", server_url=redis_server.url, make_host=lambda *_, **__: None)
    task = make_task(app, EndpointId(NAMESPACE, "Router", "generate"))
    result = task.delay({"prompt": "hello", "max_tokens": 5})
    chunks = list(result)
    assert "".join(chunk["text"] for chunk in chunks) == result.get(timeout=30)["text"]
    assert result.state == "SUCCESS"
