"""A service whose requests may use spare capacity: endpoints that can be released for others, and such that can't."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from dynamo_tasks import app, current_context, depends, dynamo_endpoint, service

NAMESPACE = os.environ.get("LAB_NAMESPACE", "lab")


def _may(_: Any, request: dict) -> bool:
    return bool(request.get("may"))


@service(dynamo={"namespace": NAMESPACE, "name": "Lab"})
class Spare:
    """Counts how many of its endpoints run at once."""

    itself = depends(f"dyn://{NAMESPACE}.Lab.go")

    def __init__(self) -> None:
        self._running = self._peak = 0

    async def _count(self, request: dict) -> AsyncIterator[int]:
        """Yield what is missing of 0 … n-1, ``delay`` seconds apart."""
        self._running += 1
        self._peak = max(self._peak, self._running)
        try:
            for i in range(len(current_context().written), request["n"]):
                yield i
                await asyncio.sleep(request.get("delay", 0.01))
        finally:
            self._running -= 1

    @dynamo_endpoint(policy="continue")
    async def go(self, request: dict) -> AsyncIterator[int]:
        """Can be left after any value."""
        async for i in self._count(request):
            yield i

    @dynamo_endpoint(policy="continue", preemptible=True)
    async def always(self, request: dict) -> AsyncIterator[int]:
        """The same; its calls use spare capacity unless they say otherwise."""
        async for i in self._count(request):
            yield i

    @dynamo_endpoint(policy="replay")
    async def replay(self, request: dict) -> AsyncIterator[int]:
        """Would have to be computed again."""
        async for i in self._count(request):
            yield i

    @dynamo_endpoint(policy="continue", can_continue=_may)
    async def choosy(self, request: dict) -> AsyncIterator[int]:
        """Can be left if the request says so."""
        async for i in self._count(request):
            yield i

    @dynamo_endpoint(policy="continue")
    def threaded(self, request: dict) -> Iterator[int]:
        """Blocks a thread."""
        for i in range(len(current_context().written), request["n"]):
            yield i
            time.sleep(request.get("delay", 0.01))

    @dynamo_endpoint(policy="continue")
    async def parent(self, request: dict) -> AsyncIterator[Any]:
        """Yield the options of a call that it makes, then what that yields."""
        context = current_context()
        yield context.preemptible
        async for i in self.itself.go(request):
            yield i

    @dynamo_endpoint()
    async def quick(self, request: Any) -> float:
        """Someone's who waits for it: the time at which it ran."""
        await asyncio.sleep((request or {}).get("seconds", 0))
        return time.time()

    @dynamo_endpoint()
    async def peak(self, request: Any) -> int:
        """How many ran at once since the last call."""
        peak, self._peak = self._peak, self._running
        return peak


@app.task(name=f"{NAMESPACE}.plain")
def plain() -> float:
    """A plain Celery task: the time at which it ran."""
    return time.time()
