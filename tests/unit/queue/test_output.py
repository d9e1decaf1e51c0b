"""What an endpoint has put out over several attempts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_tasks.errors import NotResumableError, ServerUnavailableError
from dynamo_tasks.protocol.events import ZERO, EventId
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.tokens import CompletionAggregate, TokenDelta
from dynamo_tasks.queue.execution import call as produced
from dynamo_tasks.queue.execution.call import OutputCollector

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "cached_tokens": 0}
FIRST, LAST = TokenDelta("a", [1]), TokenDelta("b", [2], finish_reason="stop", usage=USAGE)


class _Handler:
    endpoint = EndpointId("ns", "Worker", "generate")
    streaming = True

    def __init__(self, policy: str):
        self.policy = policy
        self.given: list[Any] | None = None

    def aggregate(self) -> CompletionAggregate:
        return CompletionAggregate()

    async def run(self, payload: Any, logged: list[Any]) -> AsyncIterator[Any]:
        self.given = list(logged)
        for value in (FIRST, LAST)[len(logged) :]:
            yield value


def _rest(
    monkeypatch: pytest.MonkeyPatch, policy: str, logged: list[TokenDelta]
) -> tuple[OutputCollector, Any, Any]:
    """Of an attempt that finds ``logged``: what it put out, what it took itself, and what the process counted."""

    async def read(store: Any, attempt: Any) -> tuple[list[TokenDelta], int]:
        return logged, 10

    monkeypatch.setattr(produced, "written_values", read)
    worker: Any = SimpleNamespace(tokens=100, store=SimpleNamespace(commands=None))
    log: Any = SimpleNamespace(
        attempt=SimpleNamespace(previous=EventId(5, 1)), count_earlier=lambda size: None
    )
    made = OutputCollector(worker, worker.store, _Handler(policy), keeps_result=True)  # type: ignore[arg-type]

    async def main() -> list[Any] | None:
        values = await made.rest(log, {})
        if values is None:
            return None
        taken = [value async for value in values]
        for value in taken:
            made.take(value)
        return taken

    return made, asyncio.run(main()), worker.tokens


@pytest.mark.parametrize("policy", ["continue", "replay"])
def test_the_result_is_of_all_attempts_and_the_count_of_this_one(
    monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    made, taken, counted = _rest(monkeypatch, policy, [FIRST])
    assert taken == [LAST]
    assert counted == 101
    assert (made.result()["text"], made.end().finish_reason, made.end().usage) == ("ab", "stop", USAGE)


def test_what_was_logged_to_its_end_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, taken, counted = _rest(monkeypatch, "continue", [FIRST, LAST])
    assert (taken, counted, made.result()["text"]) == (None, 100, "ab")


@pytest.mark.parametrize("policy", ["restart", "fail"])
def test_an_endpoint_that_cannot_go_on_says_so(monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    with pytest.raises(NotResumableError, match="1 values"):
        _rest(monkeypatch, policy, [FIRST])
    assert _rest(monkeypatch, policy, [])[1] == [FIRST, LAST]


def test_without_a_result_nothing_is_kept() -> None:
    worker: Any = SimpleNamespace(tokens=0, store=None)
    made = OutputCollector(worker, worker.store, _Handler("continue"), keeps_result=False)  # type: ignore[arg-type]
    made.take(FIRST)
    made.take(LAST)
    assert (made.result(), made.end().usage, worker.tokens) == (None, USAGE, 2)


def test_the_first_attempt_reads_no_log() -> None:
    made = OutputCollector(SimpleNamespace(tokens=0), None, _Handler("fail"), keeps_result=True)  # type: ignore[arg-type]
    log: Any = SimpleNamespace(attempt=SimpleNamespace(previous=ZERO))
    assert asyncio.run(made.rest(log, {})) is not None


def test_what_was_written_is_read_again_while_redis_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is continued must not end because Redis restarts just then."""
    asked: list[str] = []

    async def read_all(store: Any, namespace: str, request_id: str) -> list[Any]:
        asked.append(request_id)
        if len(asked) < 3:
            raise ServerUnavailableError("connection lost")
        return []

    monkeypatch.setattr(produced, "read_all", read_all)
    worker: Any = SimpleNamespace(tokens=0, store=SimpleNamespace(commands=SimpleNamespace(closed=False)))
    stream: Any = SimpleNamespace(
        attempt=SimpleNamespace(previous=EventId(5, 1), namespace="ns", id="r"),
        count_earlier=lambda size: None,
    )
    made = OutputCollector(worker, worker.store, _Handler("continue"), keeps_result=True)  # type: ignore[arg-type]

    async def main() -> list[Any]:
        values = await made.rest(stream, {})
        assert values is not None
        return [value async for value in values]

    assert asyncio.run(main()) == [FIRST, LAST]
    assert asked == ["r"] * 3
