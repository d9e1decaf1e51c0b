"""Stored responses, as Redis has them: any frontend reads any of its API key's."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
from msgspec import Struct
from starlette.responses import Response

from dynamo_tasks.engines.text.threads import INLINE, offload
from dynamo_tasks.errors import RequestNotFoundError, UnavailableError
from dynamo_tasks.frontend.gateway import Gateway, RequestInfo
from dynamo_tasks.frontend.http.errors import json_bytes
from dynamo_tasks.frontend.openai.render import Render
from dynamo_tasks.frontend.responses.collect import collected
from dynamo_tasks.frontend.responses.document import Document
from dynamo_tasks.frontend.responses.echo import Echo, Made, Outcome, response_object
from dynamo_tasks.frontend.responses.names import request_id_of
from dynamo_tasks.protocol.states import TERMINAL, State

__all__ = ["API", "StoredResponse", "StoredResponses", "keep", "large", "unknown"]

_BYTES_OF_TOKEN = 4
_STREAMED, _STREAMED_AGAIN = 60.0, 3600.0
"""Seconds for which the stream of a response is kept once that was made of it: as of chats; in the background."""
API = "responses"
"""The name of this API in stored renders."""


class StoredResponse(Struct):
    """A stored response, before its stream is read.

    Attributes:
        name: Its id, ``resp_…``.
        info: The ledger's view.
        render: How it is rendered.
        echo: What it shows of its request.
    """

    name: str
    info: RequestInfo
    render: Render
    echo: Echo

    @property
    def ended(self) -> bool:
        """``True`` once nothing comes any more."""
        return self.info.state in TERMINAL

    def unfinished(self) -> dict[str, Any]:
        """The object of a response that has not ended: it shows no output before."""
        waits = self.info.state == State.QUEUED and not self.info.attempts
        outcome = Outcome("queued" if waits else "in_progress")
        return response_object(self.render, self.echo, outcome, [], None)


class StoredResponses:
    """Reads them.

    Args:
        gateway: The way to Redis.
    """

    def __init__(self, gateway: Gateway):
        self._gateway = gateway

    async def find(self, name: str, owner_key: str) -> StoredResponse:
        """Find a response by its id.

        Raises:
            RequestNotFoundError: There is none, it was not stored, or it is another API key's.
        """
        request_id = request_id_of(name)
        if request_id is None:
            raise unknown(name)
        try:
            info = await self._gateway.status(request_id, owner_key)
        except RequestNotFoundError:
            raise unknown(name) from None
        render = Render.decode(info.render, info.id) if info.render else None
        if render is None or render.api != API:
            raise unknown(name)
        echo = Echo.decode(render.extra)
        if not echo.store:
            raise unknown(name)
        return StoredResponse(name, info, render, echo)

    async def object_of(self, stored: StoredResponse, owner_key: str) -> dict[str, Any]:
        """The ``response`` object of a stored response, as it is now."""
        if not stored.ended:
            return stored.unfinished()
        kept = await self._gateway.document(stored.info.id, owner_key, "made")
        if kept:
            return (await offload(len(kept), Made.decode, kept)).shown(stored.render, stored.echo)
        events = await self._gateway.events(stored.info.id, owner_key)
        made = await offload(sum(len(event.data) for event in events), collected, stored.render, events)
        if made is None:
            raise unknown(stored.name)  # its stream is past its retention
        await keep(self._gateway, stored.info.id, stored.echo, made)
        return made.shown(stored.render, stored.echo)

    async def document(self, stored: StoredResponse, owner_key: str) -> Document:
        """The items of its request."""
        raw = await self._gateway.document(stored.info.id, owner_key)
        if not raw and stored.ended:
            await self.object_of(stored, owner_key)  # past its retention, it is unknown
        return await offload(len(raw), Document.decode, raw)


async def large(value: dict[str, Any]) -> Response:
    """A JSON answer that may be large: encoded beside the loop."""
    return json_bytes(await offload(INLINE + 1, msgspec.json.encode, value))


async def keep(gateway: Gateway, request_id: str, echo: Echo, made: Made) -> None:
    """Keep a response that has ended in its shortest form; its stream goes earlier then.

    A stream takes several times as much memory as the text that it makes. As long as nobody has made it, it stays.
    """
    with contextlib.suppress(UnavailableError, RequestNotFoundError):
        seconds = _STREAMED_AGAIN if echo.background else _STREAMED
        await gateway.keep(
            request_id, await offload(_BYTES_OF_TOKEN * made.usage["output_tokens"], made.encode), seconds
        )


def unknown(name: str) -> RequestNotFoundError:
    """Make the error for an id that stands for no response."""
    return RequestNotFoundError(f"response with id {name!r:.100} not found", param="response_id")
