"""``router_late_binding`` over HTTP: while all workers are full, requests wait for the one that reuses most of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from dynamo_tasks.store.keys import Keys
from dynamo_tasks.store.ledger.fields import Field
from tests.support.processes import Frontend, Worker, together, until
from tests.support.server import RedisServer

ENGINE = (
    "Worker.engine=mocker",
    "Worker.engine_args.token_delay_ms=2",
    "Worker.engine_args.prefill_ms_per_1k_tokens=60",
    "Worker.engine_args.max_num_batched_tokens=512",
    "Worker.engine_args.kv_events_config.enable_kv_cache_events=true",
)
SOFT = ("Frontend.router_mode=kv", 'Frontend.kv_router={"router_late_binding": "soft"}')
TOPICS = [f"{number} " + "tell me all that you know of it " * 25 for number in range(6)]
ASKED = 36


class Fleet:
    """Workers behind a frontend, as tests ask it."""

    def __init__(self, server: RedisServer, namespace: str, frontend: Frontend) -> None:
        self.keys = Keys(namespace)
        self.frontend = frontend
        self.redis = redis.Redis(port=server.port)

    def ask(self, number: int) -> str:
        """Ask one of a burst; its id."""
        text = f"{TOPICS[number % len(TOPICS)]} {number}"
        body = {"model": "mocker", "max_tokens": 3, "messages": [{"role": "user", "content": text}]}
        status, headers, answer = self.frontend.request("POST", "/v1/chat/completions", body, {})
        assert status == 200, answer
        assert answer["usage"]["completion_tokens"] == 3
        return str(headers["x-request-id"])

    def why(self, request_id: str) -> dict[str, Any]:
        """Why its worker took it; empty where it was bound early."""
        found = self.redis.hget(self.keys.record(request_id), Field.WHY)
        return json.loads(found) if found else {}

    def claims(self, request_id: str) -> list[str]:
        rows = self.redis.xrange(self.keys.stream(request_id))
        return [row[b"k"].decode().split("|")[2] for _, row in rows if b"k" in row]

    def waits(self) -> int:
        """Requests that wait for late binding."""
        return sum(self.redis.zcard(key) for key in self.redis.keys(f"{self.keys.base}line:*.late*"))

    def burst(self, pool: ThreadPoolExecutor) -> Iterator[str]:
        return pool.map(self.ask, range(ASKED))


@contextmanager
def fleet_of(server: RedisServer, namespace: str) -> Iterator[tuple[Fleet, Worker, Worker]]:
    env = {"DYNAMO_NAMESPACE": namespace}
    with together(
        Worker(server.url, env=env, settings=ENGINE, name="one"),
        Worker(server.url, env=env, settings=ENGINE, name="two"),
        Frontend(server.url, env=env, settings=SOFT),
    ) as (one, two, frontend):
        yield Fleet(server, namespace, frontend), one, two


def test_full_workers_take_what_they_have_most_of(redis_server: RedisServer) -> None:
    with fleet_of(redis_server, "late") as (fleet, _, _), ThreadPoolExecutor(ASKED) as pool:
        ids = [*fleet.burst(pool)]
        bound = {request_id: why for request_id in ids if (why := fleet.why(request_id))}
        assert len(bound) > ASKED // 3
        for request_id, why in bound.items():
            assert fleet.claims(request_id) == [why["instance_id"]]
        # Of six topics in the window, the cached ones go first.
        assert (
            sum(why["overlap_tokens"] > 0.8 * why["prompt_tokens"] for why in bound.values())
            > len(bound) // 3
        )
        assert len({why["instance_id"] for why in bound.values()}) == 2
        assert fleet.waits() == 0
        assert not fleet.redis.exists(f"{fleet.keys.base}lines")


@pytest.mark.slow
def test_workers_die_with_what_they_took(redis_server: RedisServer) -> None:
    """Killed in the midst of a burst, between look, take, claim and run; all is answered by the other one."""
    with fleet_of(redis_server, "latefault") as (fleet, one, _), ThreadPoolExecutor(ASKED) as pool:
        answers = [pool.submit(fleet.ask, number) for number in range(ASKED)]
        until(lambda: fleet.waits() > 5, what="requests wait")
        one.kill()
        ids = [answer.result(60) for answer in answers]
        assert len({*ids}) == ASKED
        assert fleet.waits() == 0
