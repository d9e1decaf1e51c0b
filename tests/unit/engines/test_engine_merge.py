"""Several async generators as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from dynamo_tasks.engines.text.several import merged


async def _count(name: str, n: int, closed: list[str]) -> AsyncGenerator[str, None]:
    try:
        for number in range(n):
            await asyncio.sleep(0)
            yield f"{name}{number}"
    finally:
        closed.append(name)


async def _fail() -> AsyncGenerator[str, None]:
    await asyncio.sleep(0)
    yield "x"
    raise ValueError("broken")


def test_all_items_in_the_order_of_each_source() -> None:
    async def main() -> None:
        closed: list[str] = []
        found = [item async for item in merged([_count("a", 3, closed), _count("b", 2, closed)])]
        assert sorted(found) == ["a0", "a1", "a2", "b0", "b1"]
        assert [item for item in found if item[0] == "a"] == ["a0", "a1", "a2"]
        assert sorted(closed) == ["a", "b"]
        assert [item async for item in merged([_count("c", 2, closed)])] == ["c0", "c1"]
        assert [item async for item in merged([])] == []

    asyncio.run(main())


def test_closing_it_closes_all() -> None:
    async def main() -> None:
        closed: list[str] = []
        whole = merged([_count("a", 100, closed), _count("b", 100, closed)])
        await anext(whole)
        await whole.aclose()
        assert sorted(closed) == ["a", "b"]

    asyncio.run(main())


def test_an_error_of_one_ends_the_whole() -> None:
    async def main() -> None:
        closed: list[str] = []
        with pytest.raises(ValueError, match="broken"):
            async for _ in merged([_count("a", 1000, closed), _fail()]):
                pass
        assert closed == ["a"]

    asyncio.run(main())
