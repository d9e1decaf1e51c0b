"""Synchronous code on the loop, and exceptions thrown into running tasks."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from dynamo_tasks.queue.greenlets import Interruptible, await_, may_await, run


def on_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test on an event loop."""

    @functools.wraps(test)
    def runner() -> None:
        asyncio.run(test())

    return runner


seen: ContextVar[int] = ContextVar("seen", default=0)


@on_loop
async def test_a_function_awaits_and_others_run_meanwhile() -> None:
    order: list[str] = []

    def slow(name: str) -> str:
        assert may_await()
        seen.set(len(name))
        order.append(f"{name} begins")
        await_(asyncio.sleep(0))
        assert seen.get() == len(name)
        order.append(f"{name} ends")
        return name

    assert await asyncio.gather(run(slow, "a"), run(slow, "bb")) == ["a", "bb"]
    assert order == ["a begins", "bb begins", "a ends", "bb ends"]
    assert seen.get() == 0


@on_loop
async def test_errors_go_both_ways() -> None:
    async def broken() -> None:
        raise KeyError("inside")

    def function() -> None:
        with pytest.raises(KeyError):
            await_(broken())
        raise ValueError("outside")

    with pytest.raises(ValueError, match="outside"):
        await run(function)


@on_loop
async def test_cancelling_reaches_the_function() -> None:
    reached: list[bool] = []

    def function() -> None:
        try:
            await_(asyncio.sleep(60))
        except asyncio.CancelledError:
            reached.append(True)
            raise

    task = asyncio.create_task(run(function))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reached == [True]


def test_await_needs_a_greenlet() -> None:
    coro = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="greenlet"):
        await_(coro)
    coro.close()


@on_loop
async def test_an_interruption_can_be_caught() -> None:
    async def body() -> str:
        try:
            await asyncio.sleep(60)
        except TimeoutError:
            return "caught"
        return "never"

    running = Interruptible(body())
    await asyncio.sleep(0)
    running.interrupt(TimeoutError())
    assert await running.task == "caught"
    assert running.task.cancelling() == 0


@on_loop
async def test_what_is_interrupted_before_its_first_step_ends_with_that_reason() -> None:
    began: list[bool] = []

    async def body() -> None:
        began.append(True)

    running = Interruptible(body())
    running.interrupt(TimeoutError("stopped"))
    with pytest.raises(TimeoutError, match="stopped"):
        await running.task
    assert not began
