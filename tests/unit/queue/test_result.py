"""Awaiting results."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from celery.exceptions import TimeoutError as CeleryTimeoutError

from dynamo_tasks.queue.client.result import StreamResult


class _Result(StreamResult):
    """One whose outcome is given here."""

    def __init__(self, outcome: Callable[[], Any]):
        self._outcome = outcome
        self.ignored = False

    def _wait(self, timeout: float | None, propagate: bool, given_up: threading.Event, **kwargs: Any) -> Any:
        self.given_up = given_up
        return self._outcome()


async def awaited(result: StreamResult) -> Any:
    return await result


def test_a_result_that_is_there_does_not_wait_for_those_that_take_long() -> None:
    gate = threading.Event()

    async def wait() -> Any:
        slow = [asyncio.create_task(awaited(_Result(gate.wait))) for _ in range(40)]
        try:
            await asyncio.sleep(0)
            async with asyncio.timeout(5):
                return await _Result(lambda: "there")
        finally:
            gate.set()
            await asyncio.gather(*slow)

    assert asyncio.run(wait()) == "there"


def test_what_it_failed_with_is_raised() -> None:
    def fail() -> None:
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        asyncio.run(awaited(_Result(fail)))


def test_an_endpoints_stop_iteration_is_raised_as_something_else() -> None:
    def fail() -> None:
        raise StopIteration("no")

    with pytest.raises(RuntimeError, match="StopIteration: no"):
        asyncio.run(awaited(_Result(fail)))


def test_a_wait_that_is_cancelled_is_given_up_in_its_thread() -> None:
    gate, result = threading.Event(), _Result(lambda: gate.wait(10))

    async def give_up() -> bool:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(awaited(result), 0.05)
        return result.given_up.is_set()

    try:
        assert asyncio.run(give_up())
    finally:
        gate.set()


def test_who_has_given_up_looks_no_further() -> None:
    """Not even once: the server is not asked."""
    given_up = threading.Event()
    given_up.set()
    with pytest.raises(CeleryTimeoutError, match="nobody waits"):
        StreamResult._wait(_Result(lambda: None), None, True, given_up)
