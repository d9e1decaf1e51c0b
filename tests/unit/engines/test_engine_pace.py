"""How long streams rest between two pieces."""

from __future__ import annotations

import asyncio
import time

import pytest

from dynamo_tasks.engines.coalescing import CoalescingWindow, gap


def rest(streams: int, resting: int = 1) -> float:
    """Seconds that so many of them rest at once."""

    async def main() -> float:
        pace, began = CoalescingWindow(), time.perf_counter()
        await asyncio.gather(*[pace.rest(streams) for _ in range(resting)])
        return time.perf_counter() - began

    return asyncio.run(main())


@pytest.mark.parametrize("streams", [0, 1, 5])
def test_a_few_streams_rest_for_a_moment(streams: int) -> None:
    assert rest(streams) >= 0.0045
    assert min(rest(streams) for _ in range(3)) < 0.02


def test_the_more_streams_the_longer_they_rest() -> None:
    assert rest(16) >= 0.0155
    assert rest(1000) >= 0.0395


def test_who_comes_late_wakes_with_the_others() -> None:
    async def main() -> tuple[float, bool]:
        pace, loop = CoalescingWindow(), asyncio.get_running_loop()
        first = pace.rest(1000)
        await asyncio.sleep(0.01)
        began = loop.time()
        await pace.rest(1000)
        late = loop.time() - began
        return late, first.done()

    rests = [asyncio.run(main()) for _ in range(5)]
    assert min(late for late, _ in rests) < 0.039
    assert all(done for _, done in rests)


def test_one_that_gives_up_does_not_wake_the_others() -> None:
    async def main() -> list[bool]:
        pace = CoalescingWindow()
        rests = [pace.rest(64) for _ in range(3)]
        rests[0].cancel()
        await asyncio.gather(*rests, return_exceptions=True)
        return [rest.cancelled() for rest in rests]

    assert asyncio.run(main()) == [True, False, False]


@pytest.mark.parametrize("streams", [1, 64])
def test_what_nobody_reads_rests_longer_until_somebody_does(streams: int) -> None:
    async def main() -> tuple[float, float]:
        pace, loop = CoalescingWindow(), asyncio.get_running_loop()
        read = False
        first = pace.rest(streams, lambda: False)
        second = pace.rest(streams, lambda: read)
        began = loop.time()
        await asyncio.sleep(0.06)
        if loop.time() - began < 0.24:  # else the machine was so busy that the rest is over
            assert [first.done(), second.done()] == [False, False]
        read = True
        await second
        woken = loop.time() - began
        await first
        return woken, loop.time() - began

    tries = [asyncio.run(main()) for _ in range(3)]
    assert min(woken for woken, _ in tries) < 0.15
    assert all(slept > 0.24 for _, slept in tries)


def test_who_is_read_does_not_wait_for_those_who_are_not() -> None:
    async def main() -> float:
        pace, loop = CoalescingWindow(), asyncio.get_running_loop()
        unread = pace.rest(64, lambda: False)
        began = loop.time()
        await pace.rest(64)
        unread.cancel()
        return loop.time() - began

    assert min(asyncio.run(main()) for _ in range(3)) < 0.1


def test_the_engine_of_many_streams_is_looked_at_less_often() -> None:
    assert [round(gap(streams), 4) for streams in (0, 1, 16, 40, 64, 1000)] == [0, 0, 0, 0.005, 0.01, 0.01]
