"""The state of an HTTP request that the frontend answers."""

from __future__ import annotations

import uuid

from msgspec import Struct
from starlette.requests import Request
from starlette.types import Message, Scope, Send

from dynamo_tasks.engines.text.threads import INLINE, apart
from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.frontend.http.limits import read_body
from dynamo_tasks.frontend.metrics import RequestMeter
from dynamo_tasks.protocol.http.limits import KeyLimits
from dynamo_tasks.protocol.http.structure import check_structure

__all__ = ["Call", "call_of", "check_size", "new_id", "raw_body"]

_SCOPE_KEY = "dynamo_tasks.call"


class Call(Struct):
    """One HTTP request.

    Attributes:
        request_id: Made by the server; the id of the request that is submitted, and ``x-request-id``.
        owner_key: Hash of the API key, or empty.
        api: Its name in logs and metrics.
        limits: Of the API key.
        headers: That every answer to it gets.
        browser: Of these, what tells a browser whether a page may read the answer.
        body_limit: Bytes.
        meter: Of requests of the OpenAI API.
        token_expires: When its stream token ends, Unix seconds by the clock of Redis; 0 = it has none.
        counted_at: When it was counted for its API key, monotonic seconds; 0 where that has no limits.
    """

    request_id: str
    owner_key: str = ""
    limits: KeyLimits = KeyLimits()
    headers: list[tuple[bytes, bytes]] = []
    browser: list[tuple[bytes, bytes]] = []
    api: str = "other"
    body_limit: int = 10 << 20
    meter: RequestMeter | None = None
    token_expires: int = 0
    counted_at: float = 0.0

    def answers(self, send: Send) -> Send:
        """Wrap ``send``, so that the answer gets :attr:`headers` and :attr:`browser`."""
        more = [*self.headers, *self.browser]
        if not more:
            return send

        async def start(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        return start

    def attach(self, scope: Scope) -> None:
        """Make it known to the handlers of this request."""
        scope[_SCOPE_KEY] = self


def call_of(request: Request) -> Call:
    """The call that a request belongs to."""
    call: Call = request.scope[_SCOPE_KEY]
    return call


def new_id() -> str:
    """A fresh request id."""
    return str(uuid.uuid4())


async def raw_body(request: Request) -> bytes:
    """A request's body, to be decoded with :func:`~dynamo_tasks.protocol.http.bodies.decode_object`.

    Raises:
        InvalidRequestError: It is empty, or holds more than may be decoded.
        PayloadTooLargeError: See :func:`~dynamo_tasks.frontend.http.limits.read_body`.
    """
    raw = await read_body(request.receive, request.scope["headers"], call_of(request).body_limit)
    if not raw:
        raise InvalidRequestError("the body is empty; a JSON object is expected")
    await check_size(raw)
    return raw


async def check_size(raw: bytes) -> None:
    """Refuse a body whose decoding would hold up everybody else, without holding them up."""
    if len(raw) > INLINE:
        await apart(len(raw), check_structure, raw)
