"""``router_mode: kv`` over HTTP: a chat goes to where its prefix is."""

from __future__ import annotations

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


def settings_of(namespace: str) -> dict[str, str]:
    return {"DYNAMO_NAMESPACE": namespace}


class Fleet:
    """Two workers and a frontend, with what tests ask of them."""

    def __init__(self, server: RedisServer, namespace: str, frontend: Frontend) -> None:
        self.server = server
        self.namespace = namespace
        self.frontend = frontend

    def chat(self, text: str, headers: dict[str, str] | None = None, **more: object) -> tuple[str, int]:
        """The instance that answered, and how many tokens it had cached."""
        body = {"model": "mocker", "max_tokens": 3, "messages": [{"role": "user", "content": text}], **more}
        status, sent, answer = self.frontend.request("POST", "/v1/chat/completions", body, headers or {})
        assert status == 200, answer
        details = answer["usage"].get("prompt_tokens_details") or {}
        return self.claims(sent["x-request-id"])[-1], int(details.get("cached_tokens") or 0)

    def claims(self, request_id: str) -> list[str]:
        with redis.Redis(port=self.server.port) as client:
            rows = client.xrange(Keys(self.namespace).stream(request_id))
        return [row[b"k"].decode().split("|")[2] for _, row in rows if b"k" in row]


@pytest.fixture(scope="module")
def fleet(redis_server: RedisServer) -> Iterator[Fleet]:
    env = settings_of("kvrouted")
    mode = ("Frontend.router_mode=kv",)
    with together(
        Worker(redis_server.url, env=env, settings=ENGINE, name="one"),
        Worker(redis_server.url, env=env, settings=ENGINE, name="two"),
        Frontend(redis_server.url, env=env, settings=mode),
    ) as (_, _, frontend):
        yield Fleet(redis_server, "kvrouted", frontend)


def test_a_chat_goes_to_where_its_prefix_is(fleet: Fleet) -> None:
    texts = [f"{number} " + "tell me more of it " * 40 for number in range(8)]
    first = {text: fleet.chat(text)[0] for text in texts}
    assert len({*first.values()}) == 2
    for text in texts:
        until(lambda text=text: fleet.chat(f"{text} please")[1] > 600, what="the prefix is known")
        instance, cached = fleet.chat(f"{text} now")
        assert (instance, cached > 600) == (first[text], True)
