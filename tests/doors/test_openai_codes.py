"""Codes, headers and phrases that clients act on, as the real ``openai`` client acts on them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from tests.support.processes import Frontend, Worker, together
from tests.support.server import RedisServer

HI: list[Any] = [{"role": "user", "content": "hi"}]
LONG: list[Any] = [{"role": "user", "content": "too long " * 100}]
KEYS = ["free", {"key": "rated", "requests_per_minute": 30}, {"key": "few", "concurrent_requests": 1},
        {"key": "single", "concurrent_requests": 1}]  # fmt: skip


@dataclass
class Door:
    frontend: Frontend

    def answered(self) -> dict[int, int]:
        """Chat requests so far, by status."""
        text = self.frontend.get("/metrics")[1].decode()
        found = re.findall(r'http_requests_total\{api="chat",status="(\d+)"\} (\d+)', text)
        return {int(status): int(float(count)) for status, count in found}

    def client(self, key: str, retries: int) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.frontend.base_url}/v1", api_key=key, max_retries=retries)

    def sent(
        self, ask: Callable[[openai.OpenAI], Any], key: str = "free"
    ) -> tuple[openai.APIStatusError, int]:
        """How a call fails that may be sent three times, and how often it was."""
        before = sum(self.answered().values())
        with self.client(key, 2) as client, pytest.raises(openai.APIStatusError) as caught:
            ask(client)
        return caught.value, sum(self.answered().values()) - before


@pytest.fixture(scope="module")
def door(redis_server: RedisServer) -> Iterator[Door]:
    env = {"DYNAMO_NAMESPACE": "openai-codes"}
    settings = (
        "Worker.engine=tests.support.own_engine:OwnEngine", "Worker.served_model_name=own",
        "Worker.engine_args.max_model_len=256", "Worker.engine_args.token_delay_ms=50",
    )  # fmt: skip
    with together(
        Worker(redis_server.url, settings=settings, env=env),
        Frontend(redis_server.url, env=env, settings=(f"Frontend.api_keys={json.dumps(KEYS)}",)),
    ) as (_, frontend):
        yield Door(frontend)


def _chat(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "own", "messages": HI, "max_tokens": 2} | more)


@pytest.mark.parametrize(
    "more", [{"messages": LONG}, {"max_tokens": 300}, {"messages": LONG, "stream": True}], ids=str
)
def test_a_prompt_that_is_too_long_says_so_in_the_known_words(door: Door, more: dict[str, Any]) -> None:
    error, times = door.sent(lambda client: _chat(client, **more))
    assert (error.status_code, error.code, times) == (400, "context_length_exceeded", 1)
    assert "This model's maximum context length is 256 tokens." in error.message
    assert error.type == "invalid_request_error"


def test_what_cannot_be_helped_is_sent_once(door: Door) -> None:
    error, times = door.sent(lambda client: _chat(client, max_tokens=200, extra_body={"timeout": 0.5}))
    assert (error.status_code, error.code, times) == (504, "deadline_exceeded", 1)
    assert error.response.headers["x-should-retry"] == "false"
    with door.client("free", 0) as client:
        _chat(client, extra_headers={"Idempotency-Key": "one"})
    error, times = door.sent(lambda client: _chat(client, seed=5, extra_headers={"Idempotency-Key": "one"}))
    assert (error.status_code, error.code, times) == (409, "idempotency_conflict", 1)


def test_a_key_at_its_limit_says_when_to_come_back(door: Door) -> None:
    with door.client("few", 0) as client:
        stream = _chat(client, max_tokens=100, stream=True)
        next(stream)
        error, times = door.sent(_chat, key="few")
        stream.close()
    assert (error.status_code, error.code, times) == (429, "rate_limit_exceeded", 3)
    headers = error.response.headers
    assert 0 < int(headers["retry-after-ms"]) <= 1000 * int(headers["retry-after"])
    assert "x-should-retry" not in headers


def test_an_error_in_mid_stream_is_raised_by_the_client(door: Door) -> None:
    with door.client("free", 0) as client:
        stream = _chat(client, max_tokens=200, stream=True, extra_body={"timeout": 1.0})
        with pytest.raises(openai.APIError) as caught:
            for _ in stream:
                pass
    assert caught.value.code == "deadline_exceeded"


def test_requests_count_before_they_are_read(door: Door) -> None:
    """Over-long prompts and bodies that are no JSON use up a key's requests, as they use up the server."""
    bodies = [json.dumps({"model": "own", "messages": LONG}).encode(), b"{", b"[]"]
    found = [
        door.frontend.request(
            "POST", "/v1/chat/completions", bodies[place % 3], {"authorization": "Bearer rated"}
        )[0]
        for place in range(40)
    ]
    assert found[:30] == [400] * 30
    assert found[-1] == 429
    assert found.count(429) >= 5


def test_a_refused_request_gives_its_place_back(door: Door) -> None:
    for body in (b"{", b"{}", json.dumps({"model": "own", "messages": LONG}).encode(), b'{"model":"no"}'):
        status, _, _ = door.frontend.request(
            "POST", "/v1/chat/completions", body, {"authorization": "Bearer single"}
        )
        assert status in (400, 404)
    with door.client("single", 3) as client:
        assert _chat(client).choices
    with door.client("single", 0) as client:
        texts = {_chat(client, extra_headers={"Idempotency-Key": "same"}).id for _ in range(4)}
    assert len(texts) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_endpoint_that_ignores_its_request_is_an_error(door: Door, stream: bool) -> None:
    with door.client("free", 0) as client, pytest.raises(openai.APIError) as caught:
        for _ in _chat(client, messages=[{"role": "user", "content": "[ignore]"}], stream=stream):
            pass
    assert "ignored the request" in caught.value.message
