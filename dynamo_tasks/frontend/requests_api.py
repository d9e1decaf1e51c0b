"""Requests by id: their state, the rest of their stream, their end."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.frontend.call import call_of
from dynamo_tasks.frontend.errors import describe, json_response
from dynamo_tasks.frontend.gateway import Gateway, RequestInfo
from dynamo_tasks.frontend.render import CompletionRenderer, Render, Renderer, usage_of
from dynamo_tasks.frontend.settings import FrontendSettings
from dynamo_tasks.frontend.sse import EventStreamResponse
from dynamo_tasks.frontend.values import ValueRenderer, parse_position

__all__ = ["RequestsAPI"]

_FLAGS = {"true": True, "1": True, "false": False, "0": False, "": False}


class RequestsAPI:
    """The handlers under ``/v1/requests``."""

    def __init__(self, gateway: Gateway, settings: FrontendSettings):
        self._gateway = gateway
        self._settings = settings

    async def one(self, request: Request) -> Response:
        """``GET`` and ``DELETE /v1/requests/{id}``."""
        return await (self.cancel(request) if request.method == "DELETE" else self.status(request))

    async def status(self, request: Request) -> Response:
        """``GET /v1/requests/{id}``."""
        info = await self._gateway.status(request.path_params["id"], call_of(request).owner_key)
        return json_response(_shown(info))

    async def cancel(self, request: Request) -> Response:
        """``DELETE /v1/requests/{id}``; ``?purge=true`` erases payload and log."""
        purge = _flag(request, "purge")
        owner = call_of(request).owner_key
        return json_response(_shown(await self._gateway.cancel(request.path_params["id"], owner, purge)))

    async def stream(self, request: Request) -> ASGIApp:
        """``GET /v1/requests/{id}/stream``: from the start, or after ``Last-Event-ID`` or ``?after=``."""
        position = parse_position(request.headers.get("last-event-id") or request.query_params.get("after"))
        owner = call_of(request).owner_key
        stream = await self._gateway.attach(request.path_params["id"], position.after, owner)
        renderer: Renderer = ValueRenderer(position.skip)
        if stream.render is not None:
            renderer = CompletionRenderer(Render.decode(stream.render, stream.request_id))
        return EventStreamResponse(stream, renderer, api="stream", keep_alive=self._settings.keep_alive)


def _shown(info: RequestInfo) -> dict[str, Any]:
    render = Render.decode(info.render, info.id) if info.render is not None else None
    return {
        "id": info.id,
        "object": "request",
        "status": info.state.lower(),
        "endpoint": info.endpoint,
        "model": render.model if render else None,
        "created": info.created,
        "attempts": info.attempts,
        "last_event": info.last_event,
        "finish_reason": info.finish_reason,
        "usage": usage_of(info.usage) if info.usage else None,
        "error": describe(info.error),
        "stream": f"/v1/requests/{quote(info.id, safe='')}/stream",
    }


def _flag(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "").lower()
    if value not in _FLAGS:
        raise InvalidRequestError(f"{name}: {value!r} is not true or false", param=name)
    return _FLAGS[value]
