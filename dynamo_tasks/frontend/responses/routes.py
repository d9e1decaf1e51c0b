"""Responses by id: the object, the rest of its stream, its end, the items of its request."""

from __future__ import annotations

import contextlib

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.errors import InvalidEventIdError, InvalidRequestError, ObjectNotFoundError
from dynamo_tasks.frontend.gateway import Gateway
from dynamo_tasks.frontend.http.errors import json_response
from dynamo_tasks.frontend.http.query import flag, number, page_of, page_query
from dynamo_tasks.frontend.http_call import call_of
from dynamo_tasks.frontend.openai.resume import attach_at
from dynamo_tasks.frontend.openai.values import parse_position
from dynamo_tasks.frontend.responses.render import ResponseRenderer, last_number
from dynamo_tasks.frontend.responses.stored import StoredResponse, StoredResponses, large
from dynamo_tasks.frontend.responses.turns import Turns
from dynamo_tasks.frontend.settings import FrontendSettings
from dynamo_tasks.frontend.sse import EventStreamResponse, nothing_left

__all__ = ["ResponsesRoutes"]

_MOST_EVENTS = 2**53


class ResponsesRoutes:
    """The handlers under ``/v1/responses/{id}``.

    Args:
        gateway: The way to Redis.
        settings: Of the HTTP side.
    """

    def __init__(self, gateway: Gateway, settings: FrontendSettings):
        self._gateway = gateway
        self._settings = settings
        self._stored = StoredResponses(gateway)
        self._turns = Turns(gateway, settings.conversation_retention)

    def routes(self) -> list[Route]:
        """Its paths."""
        path = "/v1/responses/{id}"
        return [
            Route("/v1/responses/compact", self.compact, methods=["POST"], name="responses"),
            Route(path, self.one, methods=["GET", "DELETE"], name="responses"),
            Route(f"{path}/cancel", self.cancel, methods=["POST"], name="responses"),
            Route(f"{path}/input_items", self.input_items, name="responses"),
        ]

    async def compact(self, request: Request) -> ASGIApp:
        """``POST /v1/responses/compact``: there is none, which is said by name, and not taken for an id.

        Raises:
            ObjectNotFoundError: always.
        """
        raise ObjectNotFoundError(
            "POST /v1/responses/compact is not served: nothing here shortens a conversation in its model's own way; "
            'truncation: "auto" leaves out its oldest messages'
        )

    async def one(self, request: Request) -> ASGIApp:
        """``GET`` and ``DELETE /v1/responses/{id}``."""
        return await (self.delete(request) if request.method == "DELETE" else self.show(request))

    async def show(self, request: Request) -> ASGIApp:
        """``GET /v1/responses/{id}``; with ``?stream=true`` its events, also after ``starting_after``."""
        stored = await self._find(request)
        if flag(request, "stream"):
            return await self._stream(stored, request)
        if "starting_after" in request.query_params:
            raise InvalidRequestError(
                "starting_after: allowed only together with stream=true", param="starting_after"
            )
        return await large(await self._stored.object_of(stored, call_of(request).owner_key))

    async def _stream(self, stored: StoredResponse, request: Request) -> ASGIApp:
        if not stored.echo.background:
            raise InvalidRequestError(
                "stream: only a response in the background (background: true) can be streamed again",
                param="stream",
            )
        position = parse_position(request.headers.get("last-event-id"))
        known = number(request, "starting_after", -1, 0, _MOST_EVENTS)
        owner = call_of(request).owner_key
        stream = await attach_at(self._gateway, stored.info.id, position, owner, whole=True)
        if stream.saw_end:
            return nothing_left(stream)
        try:
            await self._check_number(stored, known, owner)
        except BaseException:
            stream.close()
            raise
        renderer = ResponseRenderer(stored.render, position, starting_after=known)
        return EventStreamResponse(stream, renderer, api="responses", keep_alive=self._settings.keep_alive)

    async def _check_number(self, stored: StoredResponse, known: int, owner: str) -> None:
        """Refuse the number of an event that nobody has seen: what comes under it later would be left out."""
        if known < 0:
            return
        events = await self._gateway.events(stored.info.id, owner)
        size = sum(len(event.data) for event in events)
        last = await offload(size, last_number, stored.render, events)
        if known > last:
            raise InvalidEventIdError(
                f"starting_after: {known} is beyond the last event, {last}", param="starting_after"
            )

    async def cancel(self, request: Request) -> Response:
        """``POST /v1/responses/{id}/cancel``: of one in the background; again does nothing."""
        stored = await self._find(request)
        if not stored.echo.background:
            raise InvalidRequestError(
                "only a response in the background (background: true) can be cancelled", param="response_id"
            )
        owner = call_of(request).owner_key
        if not stored.ended:
            await self._gateway.cancel(stored.info.id, owner, False)
            stored = await self._find(request)
        return await large(await self._stored.object_of(stored, owner))

    async def delete(self, request: Request) -> Response:
        """``DELETE /v1/responses/{id}``: nothing of it is left; one that runs is cancelled before."""
        stored = await self._find(request)
        owner = call_of(request).owner_key
        if stored.echo.conversation:
            if not stored.ended:
                await self._gateway.cancel(stored.info.id, owner, False)
            # Its items stay there; and the conversation is free for the next one at once.
            with contextlib.suppress(ObjectNotFoundError):
                await self._turns.settle(await self._turns.find(stored.echo.conversation, owner))
        await self._gateway.cancel(stored.info.id, owner, True)
        return json_response({"id": stored.name, "object": "response.deleted", "deleted": True})

    async def input_items(self, request: Request) -> Response:
        """``GET /v1/responses/{id}/input_items``."""
        asked = page_query(request)
        stored = await self._find(request)
        document = await self._stored.document(stored, call_of(request).owner_key)
        return await large(page_of(document.context + document.items, asked))

    async def _find(self, request: Request) -> StoredResponse:
        return await self._stored.find(request.path_params["id"], call_of(request).owner_key)
