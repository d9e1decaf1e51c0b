"""``GET /page/live``: what the page shows, as server-sent events, once a second.

One snapshot serves all who watch with the same rights; while nobody does, nothing is asked. Who reads slowly misses
snapshots, and holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from dynamo_tasks.errors import DynamoError, ForbiddenError, QueueFullError
from dynamo_tasks.frontend.gateway import Gateway
from dynamo_tasks.frontend.http_call import RecentCalls, call_of
from dynamo_tasks.frontend.openai.render import one_line
from dynamo_tasks.frontend.sse import SSE_HEADERS
from dynamo_tasks.observe.metrics import INSTRUMENTS

__all__ = ["LiveAPI"]

_EVERY = 1.0
"""Seconds between two snapshots."""
_MOST_VIEWERS = 64
_OWNED = ("requests", "batches", "dead_requests")
"""Rows of a snapshot that belong to a key."""
_HISTOGRAMS = ("time_to_first_token_seconds", "inter_token_seconds")


class LiveAPI:
    """The stream behind the page.

    Args:
        gateway: Tells what is served.
        recent: Of this process.
    """

    def __init__(self, gateway: Gateway, recent: RecentCalls):
        self._gateway = gateway
        self._recent = recent
        self._viewers = 0
        self._overview: dict[str, Any] = {}
        self._grown = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def routes(self) -> list[Route]:
        """Its paths."""
        return [
            Route("/page/live", self.stream, name="live_page"),
            Route("/page/dead/{id}/retry", self.retry, methods=["POST"], name="live_page"),
        ]

    async def retry(self, request: Request) -> Response:
        """``POST /page/dead/{id}/retry``: queue a dead letter again, for an admin."""
        if call_of(request).viewer:
            raise ForbiddenError("only an admin's key may queue dead letters again")
        await self._gateway.retry(request.path_params["id"])
        return Response(status_code=204)

    async def stream(self, request: Request) -> Response:
        """``GET /page/live``: one ``snapshot`` event a second; of a key that is no admin's, only what is its own."""
        call = call_of(request)
        if self._viewers >= _MOST_VIEWERS:
            raise QueueFullError(f"{_MOST_VIEWERS} pages are open already", retry_after=5.0)
        owner = call.viewer or None  # without keys, everything is everybody's
        headers = {name.decode(): value.decode() for name, value in SSE_HEADERS}
        return StreamingResponse(self._events(owner), headers=headers)

    async def _events(self, owner: str | None) -> AsyncIterator[bytes]:
        self._viewers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._look())
        try:
            while True:
                if self._overview:
                    yield await self._event(owner)
                await self._grown.wait()
        finally:
            self._viewers -= 1
            if not self._viewers and self._task is not None:
                self._task.cancel()
                self._task, self._overview = None, {}

    async def _event(self, owner: str | None) -> bytes:
        shown = {**self._overview, "admin": owner is None, "recent": self._recent.rows(owner)}
        if owner is not None:
            shown["redis_url"] = None  # where Redis is, is nobody's affair but the operator's
            shown["components"] = [*map(_without_note, shown["components"])]
        for name in _OWNED:
            shown[name] = _of(owner, shown[name])
        return one_line(b"event: snapshot\ndata: %b\n\n" % msgspec.json.encode(shown))

    async def _look(self) -> None:
        while True:
            try:
                self._overview = {**await self._gateway.overview(), "latency": _latency(), "error": None}
            except DynamoError as error:  # Redis is away, or full, or answers with what nobody understands
                self._overview = {**_NOTHING, **self._overview, "error": error.message}
            grown, self._grown = self._grown, asyncio.Event()
            grown.set()
            await asyncio.sleep(_EVERY)


_NOTHING: dict[str, Any] = {
    "time": 0, "memory": None, "components": [], "requests": [], "batches": [], "dead": 0, "dead_requests": [],
    "latency": {},
}  # fmt: skip


def _of(owner: str | None, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that one may see, ``None`` = all; nobody sees the hashes of keys."""
    return [
        {name: value for name, value in row.items() if name != "owner_key"}
        for row in rows
        if owner is None or row["owner_key"] == owner
    ]


def _without_note(component: dict[str, Any]) -> dict[str, Any]:
    """A component without what its processes have printed, which is the operator's affair, too."""
    scale = component.get("scale")
    return component if scale is None else {**component, "scale": {**scale, "note": ""}}


def _latency() -> dict[str, Any]:
    """Cumulative counts by upper bound in seconds, over all models; the page takes quantiles of their growth."""
    found: dict[str, Any] = {}
    for name in _HISTOGRAMS:
        counts: dict[str, float] = {}
        for family in INSTRUMENTS.family(name):
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    bound = sample.labels["le"]
                    counts[bound] = counts.get(bound, 0) + sample.value
        found[name] = counts
    return found
