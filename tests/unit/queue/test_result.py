"""Awaiting results."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dynamo_tasks.queue.result import StreamResult


class _Result(StreamResult):
    """One whose outcome is given here."""

    def __init__(self, outcome: Callable[[], Any]):
        self._outcome = outcome

    def get(self, *args: Any, **kwargs: Any) -> Any:
        return self._outcome()


def test_a_result_that_is_there_does_not_wait_for_those_that_take_long() -> None:
    gate = threading.Event()

    async def wait() -> Any:
        slow = [asyncio.create_task(_awaited(_Result(gate.wait))) for _ in range(40)]
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            quick = await _Result(lambda: "there")
        gate.set()
        return quick, await asyncio.gather(*slow)

    assert asyncio.run(wait()) == ("there", [True] * 40)


def test_what_it_failed_with_is_raised() -> None:
    def fail() -> None:
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        asyncio.run(_awaited(_Result(fail)))


def test_a_wait_that_is_cancelled_leaves_nothing_to_wait_for() -> None:
    """The loop ends, and so can the interpreter, while the result is still awaited in a thread."""
    gate, left = threading.Event(), threading.Event()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_awaited(_Result(lambda: gate.wait() and left.set())), 0.01)

    asyncio.run(give_up())
    gate.set()
    assert left.wait(5)


async def _awaited(result: StreamResult) -> Any:
    return await result
