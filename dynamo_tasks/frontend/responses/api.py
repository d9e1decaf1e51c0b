"""The Responses API as a way into the queue: bodies become chats, streams become responses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.responses import Response

from dynamo_tasks.engines.text.shorten import SHORTEN, Shorten
from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.errors import InvalidRequestError, RequestNotFoundError
from dynamo_tasks.frontend.gateway import Gateway
from dynamo_tasks.frontend.http.errors import json_response
from dynamo_tasks.frontend.http_call import HttpCall
from dynamo_tasks.frontend.openai.apis import Api, ParsedBody, engine_body
from dynamo_tasks.frontend.openai.render import Render
from dynamo_tasks.frontend.openai.values import FROM_START, Position
from dynamo_tasks.frontend.responses.chat import as_written, chat_body, messages_of
from dynamo_tasks.frontend.responses.collect import ResponseCollector
from dynamo_tasks.frontend.responses.document import MOST_BYTES, Document, size_of
from dynamo_tasks.frontend.responses.echo import Echo, Made, Outcome, response_object
from dynamo_tasks.frontend.responses.input_items import InputItems
from dynamo_tasks.frontend.responses.names import response_id
from dynamo_tasks.frontend.responses.render import ResponseRenderer
from dynamo_tasks.frontend.responses.stored import API, StoredResponses, keep, large
from dynamo_tasks.frontend.responses.turns import Turns
from dynamo_tasks.frontend.settings import FrontendSettings
from dynamo_tasks.protocol.http.bodies import decode_object
from dynamo_tasks.protocol.http.openai import ChatRequest, OpenAIRequest, parse_request
from dynamo_tasks.protocol.http.responses import ResponseRequest, parse_response

__all__ = ["ResponsesApi"]

_IN_TURN = 3600.0
"""Least seconds for which a response of a conversation is kept: its turn is added by a frontend, when one is there."""
_MOST_SHOWN = 1 << 20
"""Bytes of what each of the first and last events of a stream shows of the request."""


class ResponsesApi(Api):
    """``POST /v1/responses``.

    Args:
        gateway: To read what a response follows.
        settings: How long responses are kept.
        stores: Whether they are; else each is as with ``store: false``.
    """

    name = API
    base = "chat"
    needs_start = True
    follows = True
    announced = True

    def __init__(self, gateway: Gateway, settings: FrontendSettings, *, stores: bool = True):
        self._gateway = gateway
        self._stores = stores
        self._tasks: set[asyncio.Task[None]] = set()
        self._context = InputItems(gateway, Turns(gateway, settings.conversation_retention))
        self._retention = settings.response_retention

    async def read(self, raw: bytes, call: HttpCall) -> ParsedBody:
        """Read and check a body, with the context that it names.

        Raises:
            InvalidRequestError: names the field, and what is allowed.
        """
        body, request = await offload(len(raw), _decoded, raw)
        document, turn = await self._context.of(request, call)
        size = len(raw) + size_of(document.context + document.items)
        parsed = await offload(size, self._parsed, body, request, document)
        parsed.turn, parsed.size = turn, size
        return parsed

    def asked(self, raw: bytes) -> ChatRequest:
        """Read how a body wants to be answered: streamed, whole, in the background."""
        _, request = _decoded(raw)
        return ChatRequest(
            model=request.model, messages=[], stream=bool(request.stream), background=bool(request.background)
        )

    def _parsed(self, body: dict[str, Any], request: ResponseRequest, document: Document) -> ParsedBody:
        if not self._stores:
            request = msgspec.structs.replace(request, store=False)
        items = document.context + document.items
        messages = messages_of(request.instructions, items)
        chat = chat_body(request, body, messages)
        try:
            asked = parse_request(ChatRequest, chat)
        except InvalidRequestError as error:
            raise as_written(error) from None
        parsed = ParsedBody(asked, engine_body(asked, chat), Echo.of(request).encode())
        if len(parsed.extra) > _MOST_SHOWN:
            raise InvalidRequestError(
                f"instructions: what a response shows of its request (instructions, tools, text.format) takes "
                f"{len(parsed.extra)} bytes; at most {_MOST_SHOWN} are allowed", param="instructions",
            )  # fmt: skip
        if request.stored:
            parsed.document, parsed.retention = _bounded(document.encode()), self._retention
        if request.conversation_id is not None:
            parsed.retention = max(self._retention, _IN_TURN)
            asked.retention = None if asked.retention is None else max(asked.retention, _IN_TURN)
        if request.truncation == "auto":
            kept = int(request.instructions is not None)
            parsed.body[SHORTEN] = msgspec.to_builtins(Shorten(oldest=True, kept=kept))
        return parsed

    def renderer(self, render: Render, known: Position = FROM_START) -> ResponseRenderer:
        """Make what renders a stream, from its first event on."""
        return ResponseRenderer(render, known, on_made=self._keeper(render))

    def collector(self, render: Render | None, request: OpenAIRequest) -> ResponseCollector:
        """Make what puts a whole stream together as one JSON object."""
        assert render is not None
        return ResponseCollector(render, self._keeper(render))

    async def repeated(self, request_id: str, owner_key: str) -> Response | None:
        """The response as it is now, if it is stored."""
        stored = StoredResponses(self._gateway)
        try:
            found = await stored.find(response_id(request_id), owner_key)
            return await large(await stored.object_of(found, owner_key))
        except RequestNotFoundError:
            return None

    def _keeper(self, render: Render) -> Callable[[Made], None] | None:
        """Make what keeps a stored response in its shortest form, once it has ended."""
        echo = Echo.decode(render.extra)
        if not echo.store:
            return None

        def keep_it(made: Made) -> None:
            task = asyncio.create_task(keep(self._gateway, render.id, echo, made), name="keep-response")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return keep_it

    def accepted(self, render: Render | None, request_id: str) -> Response:
        """The response as it is queued."""
        assert render is not None
        queued = response_object(render, Echo.decode(render.extra), Outcome("queued"), [], None)
        return json_response(queued, request_id=request_id)

    def reworded(self, error: InvalidRequestError) -> InvalidRequestError:
        """An error about the chat, by the names of this API's fields."""
        return as_written(error)


def _bounded(document: bytes) -> bytes:
    """A document, if it is not too large: each response has a copy of all that came before it."""
    if len(document) > MOST_BYTES:
        raise InvalidRequestError(
            f"input: it takes {len(document)} bytes with what came before; at most {MOST_BYTES} are kept "
            "(store: false keeps none)", param="input",
        )  # fmt: skip
    return document


def _decoded(raw: bytes) -> tuple[dict[str, Any], ResponseRequest]:
    body = decode_object(raw)
    return body, parse_response(body)
