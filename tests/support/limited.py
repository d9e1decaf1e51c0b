"""A service whose requests may take a second, and plain tasks beside it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from dynamo_tasks import app, dynamo_endpoint, service

__all__ = ["Limited", "plus"]


@service(
    dynamo={"namespace": os.environ.get("LIMITED", "limited"), "name": "Limited"}, traffic={"timeout": 1}
)
class Limited:
    """Endpoints."""

    @dynamo_endpoint()
    async def rest(self, request: dict) -> dict:
        """Return after so many seconds."""
        await asyncio.sleep(request["sleep"])
        return request

    @dynamo_endpoint()
    async def drip(self, request: dict) -> AsyncIterator[int]:
        """Yield without an end."""
        i = 0
        while True:
            yield (i := i + 1)
            await asyncio.sleep(0.05)


@app.task(name="limited.plus")
def plus(x: int) -> int:
    """A plain task."""
    return x + 1
