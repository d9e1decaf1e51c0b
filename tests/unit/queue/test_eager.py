"""`task_always_eager`: endpoints without server and worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from celery import Celery, chain

import dynamo_tasks
from dynamo_tasks import current_context, depends, dynamo_endpoint, service, wiring
from dynamo_tasks.errors import EndpointError, InvalidEventIdError, InvalidRequestError
from dynamo_tasks.runtime import default_app
from dynamo_tasks.sdk import set_resolver
from dynamo_tasks.services.worker import Worker

NOT_SENT = {"wide": 2**64, "low": [-(2**63) - 1], "surrogate": {"a": "\ud800"}}
"""What no queue takes."""


@service(dynamo={"namespace": "eager"})
class Counter:
    """What a user's tests call."""

    def __init__(self) -> None:
        self.runs = 0

    @dynamo_endpoint
    async def count(self, n: int) -> AsyncIterator[int]:
        for number in range(n):
            if number == 3:
                raise ValueError("no three")
            yield number

    @dynamo_endpoint
    async def echo(self, request: Any) -> Any:
        return request

    @dynamo_endpoint
    async def give(self, name: str) -> Any:
        return NOT_SENT[name]

    @dynamo_endpoint
    async def stream(self, name: str) -> AsyncIterator[Any]:
        yield NOT_SENT[name]

    @dynamo_endpoint
    def double(self, request: dict[str, int]) -> dict[str, int]:
        return {"n": 2 * request["n"]}

    @dynamo_endpoint(max_retries=2)
    async def third_time(self, request: Any = None) -> list[int]:
        self.runs += 1
        context = current_context()
        assert context is not None
        if context.retries < 2:
            context.retry(countdown=0)
        return [self.runs, context.retries]


@service(dynamo={"namespace": "eager"})
class Caller:
    """Depends on another component."""

    counter = depends(Counter)

    @dynamo_endpoint
    async def total(self, n: int) -> int:
        return sum([number async for number in self.counter.count(n)])


@pytest.fixture(autouse=True)
def app() -> Iterator[Celery]:
    app = Celery("eager", broker="memory://", set_as_current=False, changes={"task_always_eager": True})
    dynamo_tasks.install(app)
    yield app
    set_resolver(None)
    wiring.default_app.fill(default_app)


def test_a_result_iterates_over_the_values() -> None:
    result = Counter.count.delay(3)
    assert list(result) == [0, 1, 2] == result.get() == list(result.stream())
    assert (result.state, result.cancel()) == ("SUCCESS", False)
    with pytest.raises(InvalidEventIdError):
        list(result.stream(after="1-1"))


def test_asynchronous_callers_too() -> None:
    async def main() -> tuple[list[int], Any]:
        result = await asyncio.to_thread(Counter.count.delay, 2)
        return [number async for number in result], await result

    assert asyncio.run(main()) == ([0, 1], [0, 1])


def test_a_failure_comes_behind_the_values_as_from_a_worker() -> None:
    result = Counter.count.delay(5)
    seen: list[int] = []
    with pytest.raises(EndpointError, match="no three"):
        seen.extend(result)
    assert seen == [0, 1, 2]
    with pytest.raises(ValueError, match="no three"):
        result.get()


@pytest.mark.parametrize("name", NOT_SENT)
def test_what_a_queue_would_refuse_is_refused(name: str) -> None:
    for endpoint, did in ((Counter.give, "returned"), (Counter.stream, "yielded")):
        with pytest.raises(EndpointError, match=f"{did} .* no JSON value"):
            endpoint.delay(name).get()


@pytest.mark.parametrize("value", ["x", "2026-01-02", 5])
@pytest.mark.parametrize("kind", ["datetime", "date", "nope"])
def test_what_only_looks_like_a_mark_of_kombu_arrives_as_it_is(kind: str, value: Any) -> None:
    given = {"a": {"__type__": kind, "__value__": value}}
    assert Counter.echo.delay(given).get() == given
    assert Counter.echo.delay({"a": b"\xff"}).get() == {"a": b"\xff"}


def test_requests_are_validated() -> None:
    with pytest.raises(InvalidRequestError):
        Counter.count.delay("many")


def test_chains_retries_and_dependencies_work() -> None:
    assert chain(Counter.double.s({"n": 1}), Counter.double.s(), Counter.double.s())().get() == {"n": 8}
    assert Counter.third_time.delay().get() == [3, 2]
    assert Caller.total.delay(3).get() == 3


def test_the_echo_worker_answers() -> None:
    generate: Any = Worker.generate
    result = generate.delay({"prompt": "hello", "max_tokens": 100})
    assert "".join(chunk["text"] for chunk in result) == result.get()["text"] == "hello"


def test_propagated_errors_are_raised_by_the_call(app: Celery) -> None:
    app.conf.task_eager_propagates = True
    with pytest.raises(ValueError, match="no three"):
        Counter.count.delay(4)
