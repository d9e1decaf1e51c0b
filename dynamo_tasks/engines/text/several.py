"""Generation for several prompts: each by itself, side by side, and their choices are one request's.

Choice ``i`` of prompt ``p`` has the index ``p * n + i``, as in OpenAI's completions API.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from dynamo_tasks.protocol.tokens import TokenDelta

__all__ = ["generate_several", "merged"]

_Open = Callable[[Mapping[str, Any], int, dict[int, list[int]]], AsyncGenerator[TokenDelta, None]]


async def generate_several(
    payloads: list[Mapping[str, Any]], emitted: Mapping[int, list[int]], generate: _Open
) -> AsyncGenerator[TokenDelta, None]:
    """Generate all of them side by side.

    Args:
        payloads: One per prompt.
        emitted: Token ids that an interrupted attempt logged, by index of the whole request.
        generate: Begins one: its payload, its place, and what of it was emitted.

    Yields:
        Their deltas, by index of the whole request; the last one has the usage of all.
    """
    n = payloads[0].get("n") or 1
    usages: list[dict[str, int]] = []

    async def one(place: int) -> AsyncGenerator[TokenDelta, None]:
        first = place * n
        known = {index - first: emitted[index] for index in emitted if first <= index < first + n}
        async with aclosing(generate(payloads[place], place, known)) as source:
            async for delta in source:
                delta.index += first
                if delta.usage is not None:
                    usages.append(delta.usage)
                    delta.usage = _sum(usages) if len(usages) == len(payloads) else None
                yield delta

    async with aclosing(merged([one(place) for place in range(len(payloads))])) as source:
        async for delta in source:
            yield delta


def _sum(usages: list[dict[str, int]]) -> dict[str, int]:
    return {name: sum(usage.get(name, 0) for usage in usages) for name in usages[0]}


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
