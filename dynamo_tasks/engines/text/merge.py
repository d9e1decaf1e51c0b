"""Several async generators as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar

__all__ = ["merged"]

T = TypeVar("T")


def merged(sources: list[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Their items in the order in which they come; ``aclose()`` closes all of them.

    Args:
        sources: Read side by side; the first error of one ends the whole.
    """
    return sources[0] if len(sources) == 1 else _merge(sources)


async def _merge(sources: list[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    queue: asyncio.Queue[Any] = asyncio.Queue()
    tasks = [asyncio.create_task(_pump(source, queue)) for source in sources]
    for task in tasks:
        task.add_done_callback(queue.put_nowait)
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if isinstance(item, asyncio.Task):
                item.result()  # raises what ended it
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(source: AsyncGenerator[T, None], queue: asyncio.Queue[Any]) -> None:
    async with aclosing(source):
        async for item in source:
            queue.put_nowait(item)
