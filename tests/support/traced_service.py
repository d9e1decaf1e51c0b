"""Services in processes that record spans, as JSON lines in ``SPANS_FILE``."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from dynamo_tasks import current_context, dynamo_endpoint, service
from dynamo_tasks.services.agg import Frontend, Worker

__all__ = ["Frontend", "Traced", "Worker", "read_spans"]


def read_spans(path: Path) -> list[dict[str, Any]]:
    """What the processes have recorded so far, in the order of their ends."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@service(dynamo={"namespace": os.environ.get("LAB_NAMESPACE", "traced"), "name": "Lab"})
class Traced:
    """What the tests call."""

    @dynamo_endpoint()
    async def outer(self, request: dict) -> Any:
        """A span of the user's own, and a queued call in it."""
        with trace.get_tracer("mine").start_as_current_span("mine"):
            return await Traced.add.delay(request)

    @dynamo_endpoint()
    async def add(self, request: dict) -> int:
        """Add one."""
        return int(request["x"]) + 1

    @dynamo_endpoint()
    async def flaky(self, request: dict) -> int:
        """Ask for one retry."""
        context = current_context()
        if not context.retries:
            context.retry(ValueError("not yet"), countdown=0)
        return int(context.retries)

    @dynamo_endpoint(policy="replay")
    async def count(self, request: dict) -> AsyncIterator[int]:
        """Yield 0 … n-1, ``delay`` seconds apart."""
        for i in range(request["n"]):
            yield i
            await asyncio.sleep(request["delay"])


if path := os.environ.get("SPANS_FILE"):
    provider = TracerProvider()
    exporter = ConsoleSpanExporter(
        out=Path(path).open("a"),  # noqa: SIM115 - for as long as the process lives
        formatter=lambda span: span.to_json(indent=None) + "\n",
    )
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
