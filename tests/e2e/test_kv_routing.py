"""``router_mode: kv`` over HTTP: a chat goes to where its prefix is, whoever chooses, and whatever ends meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis

from dynamo_tasks.store.keys import Keys
from tests.support.processes import Frontend, Worker, together, until
from tests.support.server import RedisServer

ENGINE = (
    "Worker.engine=mocker",
    "Worker.engine_args.token_delay_ms=5",
    "Worker.engine_args.kv_events_config.enable_kv_cache_events=true",
)
MODE = (
    "Frontend.router_mode=kv",
    'Frontend.api_keys=[{"key": "one"}, {"key": "two", "cache_namespace": "*"}, '
    '{"key": "three", "cache_namespace": "*"}]',
    'Frontend.kv_router={"router_session_affinity_ttl_secs": 60, "router_session_affinity_mode": "hard", '
    '"router_session_affinity_fields": ["prompt_cache_key"]}',
)
PREFIX = "tell me more of it " * 40


class Fleet:
    """Workers behind a frontend, as tests ask it."""

    def __init__(self, server: RedisServer, namespace: str, frontend: Frontend) -> None:
        self.server = server
        self.namespace = namespace
        self.frontend = frontend

    def chat(self, text: str, key: str = "one", session: str = "", **more: object) -> tuple[str, int]:
        """The instance that answered, and how many tokens it had cached; asked once all are known to idle."""
        until(self.idle, what="all idle")
        body = {"model": "mocker", "max_tokens": 3, "messages": [{"role": "user", "content": text}], **more}
        headers = {"authorization": f"Bearer {key}"}
        if session:
            headers["x-dynamo-session-id"] = session
        status, sent, answer = self.frontend.request("POST", "/v1/chat/completions", body, headers)
        assert status == 200, answer
        details = answer["usage"].get("prompt_tokens_details") or {}
        return self.claims(sent["x-request-id"])[-1], int(details.get("cached_tokens") or 0)

    def claims(self, request_id: str) -> list[str]:
        with redis.Redis(port=self.server.port) as client:
            rows = client.xrange(Keys(self.namespace).stream(request_id))
        return [row[b"k"].decode().split("|")[2] for _, row in rows if b"k" in row]

    def idle(self) -> bool:
        key = Keys(self.namespace).events(f"namespace.{self.namespace}.component.Worker.kv_events")
        with redis.Redis(port=self.server.port) as client:
            batches = [json.loads(row[b"p"]) for _, row in client.xrange(key)]
        last = {batch["worker_id"]: batch["load"] for batch in batches}
        return not any(load.get("active_requests") for load in last.values())

    def settle(self, text: str, **more: object) -> str:
        """Ask until the prefix is found; where."""
        return str(until(lambda: self._hit(f"{text} please", **more), what="the prefix is known"))

    def _hit(self, text: str, **more: object) -> str:
        instance, cached = self.chat(text, **more)  # type: ignore[arg-type]
        return instance if cached > 600 else ""


@pytest.fixture(scope="module")
def fleet(redis_server: RedisServer) -> Iterator[Fleet]:
    env = {"DYNAMO_NAMESPACE": "kvrouted"}
    with together(
        Worker(redis_server.url, env=env, settings=ENGINE, name="one"),
        Worker(redis_server.url, env=env, settings=ENGINE, name="two"),
        Frontend(redis_server.url, env=env, settings=MODE),
    ) as (_, _, frontend):
        yield Fleet(redis_server, "kvrouted", frontend)


def test_a_chat_goes_to_where_its_prefix_is(fleet: Fleet) -> None:
    texts = [f"{number} {PREFIX}" for number in range(8)]
    first = {text: fleet.chat(text)[0] for text in texts}
    assert len({*first.values()}) == 2
    for text in texts:
        assert fleet.settle(text) == first[text]
        for more in ("now", "again"):
            instance, cached = fleet.chat(f"{text} {more}")
            assert (instance, cached > 600) == (first[text], True)


def test_tenants_with_namespaces_of_their_own_share_nothing(fleet: Fleet) -> None:
    text = f"salt {PREFIX}"
    assert [fleet.chat(text, key)[1] for key in ("one", "two", "three")] == [0, 0, 0]
    assert fleet.chat(text, "two", cache_salt="mine")[1] == 0
    for key in ("one", "two", "three"):
        fleet.settle(text, key=key)


def test_a_session_stays_with_its_worker(fleet: Fleet) -> None:
    for names in ({"session": "s"}, {"prompt_cache_key": "s"}):
        turns = [fleet.chat(f"turn {number}", **names)[0] for number in range(6)]  # type: ignore[arg-type]
        assert len({*turns}) == 1


@pytest.mark.slow
def test_routers_come_and_workers_go(redis_server: RedisServer) -> None:
    """A Router that starts later learns what is cached; what a dead worker had is gone, and its prompts go on."""
    env = {"DYNAMO_NAMESPACE": "kvfaults"}
    settings = ("Router.router_mode=kv",)
    with together(
        Worker(redis_server.url, service="workers.routed:Router", env=env, settings=settings, name="router"),
        Worker(redis_server.url, env=env, settings=ENGINE, name="one"),
        Worker(redis_server.url, env=env, settings=ENGINE, name="two"),
        Frontend(redis_server.url, service="workers.routed:Frontend", env=env),
    ) as (router, one, _, frontend):
        fleet = Fleet(redis_server, "kvfaults", frontend)
        texts = [f"{number} {PREFIX}" for number in range(4)]
        first = {text: fleet.chat(text)[0] for text in texts}
        assert {text: fleet.settle(text) for text in texts} == first
        router.kill()
        late = Worker(
            redis_server.url, service="workers.routed:Router", env=env, settings=settings, name="late"
        )
        with late:
            assert {text: fleet.settle(text) for text in texts} == first
            until(fleet.idle, what="all idle")  # the last that is heard of a dead worker
            one.kill()
            alive = {fleet.chat(f"{text} go on")[0] for text in texts}
            assert len(alive) == 1
            assert alive < {*first.values()}
            assert {fleet.settle(text) for text in texts} == alive
