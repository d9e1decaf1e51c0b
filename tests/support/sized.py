"""Tasks and endpoints of every kind that tell from when to when they ran."""

from __future__ import annotations

import asyncio
import os
import time

from dynamo_tasks import app, dynamo_endpoint, service

__all__ = ["NAMESPACE", "Sized", "nap"]

NAMESPACE = os.environ.get("SIZED_NAMESPACE", "sized")


@service(dynamo={"namespace": NAMESPACE, "name": "Sized"})
class Sized:
    """Endpoints."""

    @dynamo_endpoint()
    async def on_loop(self, request: dict) -> list[float]:
        """A coroutine."""
        began = time.time()
        await asyncio.sleep(request["sleep"])
        return [began, time.time()]

    @dynamo_endpoint()
    def in_thread(self, request: dict) -> list[float]:
        """A plain function."""
        began = time.time()
        time.sleep(request["sleep"])
        return [began, time.time()]


@app.task(name="sized.nap")
def nap(request: dict) -> list[float]:
    """A plain Celery task."""
    began = time.time()
    time.sleep(request["sleep"])
    return [began, time.time()]
