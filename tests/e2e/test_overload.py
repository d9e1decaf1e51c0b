"""More than there is: limits of keys over several frontends, of a component over all instances, deadlines."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from tests.support.processes import Frontend, Worker, together, until
from tests.support.server import RedisServer

CHAT = "/v1/chat/completions"
FREE, RATED, FEW = ({"authorization": f"Bearer {key}"} for key in ("free", "rated", "few"))
KEYS = json.dumps(
    ["free", {"key": "rated", "requests_per_minute": 3}, {"key": "few", "concurrent_requests": 1}]
)


class Stack(NamedTuple):
    """Two workers with eight slots each, of which three may be taken in all; two frontends."""

    server: RedisServer
    one: Frontend
    two: Frontend


@pytest.fixture(scope="module")
def stack(redis_server: RedisServer) -> Iterator[Stack]:
    env = {"DYNAMO_NAMESPACE": "overload"}
    worker = (
        "Worker.engine=mocker", "Worker.engine_args.token_delay_ms=10", "Worker.ServiceArgs.concurrency=8",
        "Worker.ServiceArgs.traffic.concurrency=3", "Worker.ServiceArgs.traffic.max_queue=40",
    )  # fmt: skip
    settings = (*worker, f"Frontend.api_keys={KEYS}")
    with together(
        Worker(redis_server.url, settings=worker, env=env),
        Worker(redis_server.url, settings=worker, env=env),
        Frontend(redis_server.url, env=env, settings=settings),
        Frontend(redis_server.url, env=env, settings=settings),
    ) as (_, _, one, two):
        yield Stack(redis_server, one, two)


def _ask(**more: Any) -> dict[str, Any]:
    return {"model": "mocker", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]} | more


def _number(stack: Stack, *command: str) -> int:
    return int(stack.server.command(*command)[1:-2])


@contextlib.contextmanager
def _all_busy(stack: Stack) -> Iterator[None]:
    """The component runs as many as it may."""
    streams = [
        stack.one.events("POST", CHAT, _ask(max_tokens=1500, stream=True, abandon_after=0), FREE)
        for _ in range(3)
    ]
    for stream in streams:
        next(stream)
    try:
        yield
    finally:
        for stream in streams:
            stream.close()  # type: ignore[attr-defined]
        until(lambda: _number(stack, "SCARD", "dt:overload:running:Worker") == 0, 20, "abandoned")


def test_requests_per_minute_over_two_frontends(stack: Stack) -> None:
    answers = [http.request("POST", CHAT, _ask(), RATED) for http in (stack.one, stack.two) * 2]
    assert [status for status, _, _ in answers] == [200, 200, 200, 429]
    left = [headers["x-ratelimit-remaining-requests"] for _, headers, _ in answers]
    assert left == ["2", "1", "0", "0"]
    _, headers, body = answers[3]
    assert headers["x-ratelimit-limit-requests"] == "3"
    assert 10 <= int(headers["retry-after"]) <= 20
    assert (body["error"]["code"], body["error"]["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert "x-ratelimit-limit-requests" not in stack.one.request("POST", CHAT, _ask(), FREE)[1]


def test_concurrent_requests_over_two_frontends(stack: Stack) -> None:
    stream = stack.one.events("POST", CHAT, _ask(max_tokens=1500, stream=True, abandon_after=0), FEW)
    next(stream)
    status, headers, body = stack.two.request("POST", CHAT, _ask(), FEW)
    assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert headers["retry-after"]
    assert stack.two.request("POST", CHAT, _ask(), FREE)[0] == 200
    stream.close()  # type: ignore[attr-defined]
    until(lambda: stack.two.request("POST", CHAT, _ask(), FEW)[0] == 200, 20, "the place is free again")


def test_a_component_never_runs_more_than_it_may(stack: Stack) -> None:
    """Twenty at once, over both frontends: at most three run at any time, and all are answered."""
    key, peak = "dt:overload:running:Worker", 0
    with ThreadPoolExecutor(20) as pool:
        calls = [
            pool.submit((stack.one, stack.two)[n % 2].request, "POST", CHAT, _ask(max_tokens=20), FREE)
            for n in range(20)
        ]
        while not all(call.done() for call in calls):
            peak = max(peak, _number(stack, "SCARD", key))
    assert [call.result()[0] for call in calls] == [200] * 20
    assert peak == 3
    assert _number(stack, "SCARD", "dt:overload:waiting:Worker") == 0


def test_a_deadline_that_cannot_be_met_is_refused_at_once(stack: Stack) -> None:
    with ThreadPoolExecutor(6) as pool:  # so that the server knows how long a run takes: 1 s
        assert {
            one[0]
            for one in pool.map(
                lambda _: stack.one.request("POST", CHAT, _ask(max_tokens=100), FREE), range(6)
            )
        } == {200}
    with _all_busy(stack):
        waiting = [stack.one.request("POST", CHAT, _ask(background=True), FREE) for _ in range(12)]
        assert {status for status, _, _ in waiting} == {202}
        for more, headers in ((_ask(timeout=0.5), {}), (_ask(), {"x-request-timeout": "0.5"})):
            status, answer, body = stack.two.request("POST", CHAT, more, FREE | headers)
            assert (status, body["error"]["code"]) == (503, "deadline_unreachable"), body
            assert int(answer["retry-after"]) >= 1
        counted = (
            'requests_rejected_total{code="deadline_unreachable",endpoint="overload.Worker.generate"} 2.0'
        )
        assert counted in stack.two.get("/metrics")[1].decode()


@pytest.mark.parametrize("value", ["soon", "0", "-1", "inf", "nan"])
def test_a_bad_timeout_header(stack: Stack, value: str) -> None:
    status, _, body = stack.one.request("POST", CHAT, _ask(), FREE | {"x-request-timeout": value})
    assert (status, body["error"]["param"]) == (400, "x-request-timeout")
