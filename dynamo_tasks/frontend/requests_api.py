"""Requests by id: their state, the rest of their stream, their end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from dynamo_tasks.errors import AuthenticationError, InvalidRequestError
from dynamo_tasks.frontend.access.stream_tokens import LONGEST, USUAL, issue
from dynamo_tasks.frontend.gateway import Gateway, RequestInfo
from dynamo_tasks.frontend.http.errors import describe, json_response
from dynamo_tasks.frontend.http.incoming import read_body
from dynamo_tasks.frontend.http.query import flag
from dynamo_tasks.frontend.http_call import call_of
from dynamo_tasks.frontend.openai.apis import Api
from dynamo_tasks.frontend.openai.render import Render, usage_of
from dynamo_tasks.frontend.openai.resume import attach_at
from dynamo_tasks.frontend.openai.values import ValueRenderer, parse_position
from dynamo_tasks.frontend.settings import FrontendSettings
from dynamo_tasks.frontend.sse import EventStreamResponse, nothing_left
from dynamo_tasks.protocol.http.bodies import decode_object

__all__ = ["RequestsAPI"]


class RequestsAPI:
    """The handlers under ``/v1/requests``."""

    def __init__(self, gateway: Gateway, settings: FrontendSettings, apis: Mapping[str, Api]):
        self._gateway = gateway
        self._settings = settings
        self._apis = apis

    async def one(self, request: Request) -> Response:
        """``GET`` and ``DELETE /v1/requests/{id}``."""
        return await (self.cancel(request) if request.method == "DELETE" else self.status(request))

    async def status(self, request: Request) -> Response:
        """``GET /v1/requests/{id}``."""
        info = await self._gateway.status(request.path_params["id"], call_of(request).viewer)
        return json_response(_shown(info))

    async def cancel(self, request: Request) -> Response:
        """``DELETE /v1/requests/{id}``; ``?purge=true`` erases payload and stream."""
        purge = flag(request, "purge")
        viewer = call_of(request).viewer
        return json_response(_shown(await self._gateway.cancel(request.path_params["id"], viewer, purge)))

    async def token(self, request: Request) -> Response:
        """``POST /v1/requests/{id}/stream-token``: a URL of the stream for readers that can send no key."""
        call, request_id = call_of(request), request.path_params["id"]
        raw = await read_body(request.receive, request.scope["headers"], call.body_limit)
        seconds = _expires_in(decode_object(raw) if raw.strip() else {})
        info = await self._gateway.status(request_id, call.viewer)
        url = _stream_url(info.id)
        shown: dict[str, Any] = {"id": info.id, "object": "stream_token", "token": None, "expires_at": None}
        if call.owner_key:
            expires = int(await self._gateway.time()) + seconds
            token = issue(call.owner_key, info.id, expires)
            shown |= {"token": token, "expires_at": expires}
            url += f"?token={token}"
        return json_response({**shown, "stream": url}, headers={"cache-control": "no-store"})

    async def stream(self, request: Request) -> ASGIApp:
        """``GET /v1/requests/{id}/stream``: from the start, or after ``Last-Event-ID`` or ``?after=``.

        To a reader that has seen the end, 204: it is what stops an ``EventSource``, which else would come again
        (https://html.spec.whatwg.org/multipage/server-sent-events.html#sse-processing-model).
        """
        position = parse_position(request.headers.get("last-event-id") or request.query_params.get("after"))
        call = call_of(request)
        if call.token_expires and call.token_expires <= await self._gateway.time():
            raise AuthenticationError("the stream token has expired; ask for another one")
        stream = await attach_at(self._gateway, request.path_params["id"], position, call.viewer, whole=False)
        if stream.saw_end:
            return nothing_left(stream)
        render = Render.decode(stream.render, stream.request_id) if stream.render else None
        api = None if render is None else self._apis.get(render.api)
        seconds = self._settings.keep_alive
        if render is None or api is None:  # it came by no API, or by one of a newer release
            return EventStreamResponse(
                stream,
                ValueRenderer(position.skip),
                api="stream",
                keep_alive=seconds,
                place=self._gateway.place,
            )
        if api.needs_start and position.after is not None:
            stream.close()  # it has told that the event is one of the stream's
            stream = await self._gateway.attach(stream.request_id, None, call.viewer)
        renderer = api.renderer(render, position)
        return EventStreamResponse(
            stream,
            renderer,
            api="stream",
            keep_alive=seconds,
            silence=api.keep_alive,
            place=self._gateway.place,
        )


def _shown(info: RequestInfo) -> dict[str, Any]:
    render = Render.decode(info.render, info.id) if info.render else None
    return {
        "id": info.id,
        "object": "request",
        "status": info.state.lower(),
        "endpoint": info.endpoint,
        "model": render.model if render else None,
        "created": int(info.created),
        "attempts": info.attempts,
        "position": info.place.position if info.place else None,
        "reason": info.place.reason if info.place else None,
        "last_event": info.last_event,
        "finish_reason": info.finish_reason,
        "usage": usage_of(info.usage) if info.usage else None,
        "error": describe(info.error),
        "stream": _stream_url(info.id),
    }


def _stream_url(request_id: str) -> str:
    return f"/v1/requests/{quote(request_id, safe='')}/stream"


def _expires_in(body: dict[str, Any]) -> int:
    if unknown := sorted(set(body) - {"expires_in"}):
        raise InvalidRequestError(f"unknown field {unknown[0]!r}; known: expires_in", param=unknown[0][:100])
    seconds = body.get("expires_in", USUAL)
    if type(seconds) is not int or not 1 <= seconds <= LONGEST:
        raise InvalidRequestError(
            f"expires_in must be an integer of 1 to {LONGEST} seconds, not {str(seconds)[:100]!r}",
            param="expires_in",
        )
    return seconds
