"""An HTTP request that the frontend answers: its state, its body, its client, its measurements."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Iterable
from functools import cache
from types import TracebackType
from typing import Any

from msgspec import Struct
from prometheus_client import Counter, Gauge, Histogram
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from dynamo_tasks.engines.text.threads import INLINE, offload
from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.frontend.gateway import Gateway
from dynamo_tasks.frontend.http.errors import REQUEST_ID
from dynamo_tasks.frontend.http.incoming import read_body
from dynamo_tasks.observe import metrics
from dynamo_tasks.protocol.http.limits import KeyLimits
from dynamo_tasks.protocol.http.structure import check_structure

__all__ = [
    "ClientWatch",
    "HttpCall",
    "RecentCalls",
    "RequestMeter",
    "call_of",
    "check_size",
    "count_call",
    "count_request",
    "new_id",
    "raw_body",
]

_SCOPE_KEY = "dynamo_tasks.call"
_REQUEST_ID = REQUEST_ID.encode()
_MOST_RECENT = 200
_SAMPLE = 16
"""One of so many deliveries of a stream is recorded: an observation costs more than a chunk."""


@cache
def _requests(api: str, status: int) -> Counter:
    return metrics.counter("http_requests_total", api=api, status=str(status))


@cache
def _seconds(api: str) -> Histogram:
    return metrics.histogram("http_request_seconds", api=api)


@cache
def _in_flight(api: str) -> Gauge:
    return metrics.gauge("http_in_flight", api=api)


@cache
def _tokens(model: str, kind: str) -> Counter:
    return metrics.counter("http_tokens_total", model=model, kind=kind)


@cache
def _first_token(model: str) -> Histogram:
    return metrics.histogram("time_to_first_token_seconds", model=model)


@cache
def _gap(model: str) -> Histogram:
    return metrics.histogram("inter_token_seconds", model=model)


def count_request(api: str, status: int) -> None:
    """Count a request that is not worth a meter."""
    _requests(api, status).inc()


class RequestMeter:
    """Measures one request of the OpenAI API.

    Attributes:
        model: The served model, once known; a name that a client made up never becomes a label.
    """

    __slots__ = ("_api", "_batches", "_counted", "_last", "_started", "model")

    def __init__(self, api: str):
        self.model = ""
        self._api = api
        self._batches = 0
        self._counted = 0
        self._started = self._last = time.perf_counter()
        _in_flight(api).inc()

    @property
    def seconds(self) -> float:
        """Seconds since the request came in."""
        return time.perf_counter() - self._started

    def delivered(self, tokens: int) -> None:
        """Note a delivery.

        Args:
            tokens: Tokens delivered since the start.
        """
        if not tokens:
            return
        batches = self._batches
        self._batches = batches + 1
        if not batches:
            _first_token(self.model).observe(time.perf_counter() - self._started)
        elif batches % _SAMPLE == 0:
            _gap(self.model).observe(time.perf_counter() - self._last)
            self._count(tokens)
        if (batches + 1) % _SAMPLE == 0:
            self._last = time.perf_counter()

    def done(self, status: int, tokens: int = 0, usage: dict[str, int] | None = None) -> None:
        """Note the end.

        Args:
            status: The HTTP status; of a stream that failed midway, the one that the error stands for.
            tokens: Tokens delivered in all.
            usage: Token counts of the request, where known.
        """
        _requests(self._api, status).inc()
        _seconds(self._api).observe(self.seconds)
        _in_flight(self._api).dec()
        self._count(tokens)
        for kind in ("prompt", "cached") if usage else ():
            if count := (usage or {}).get(f"{kind}_tokens", 0):
                _tokens(self.model, kind).inc(count)

    def _count(self, tokens: int) -> None:
        if tokens > self._counted:
            _tokens(self.model, "completion").inc(tokens - self._counted)
            self._counted = tokens


class HttpCall(Struct):
    """One HTTP request.

    Attributes:
        request_id: Made by the server; the id of the request that is submitted, and ``x-request-id``.
        owner_key: Hash of the API key, or empty.
        api: Its name in logs and metrics.
        limits: Of the API key.
        headers: That every answer to it gets.
        browser: Of these, what shows a browser whether a page may read the answer.
        body_limit: Bytes.
        meter: Of requests of the OpenAI API.
        token_expires: When its stream token ends, Unix seconds by the clock of Redis; 0 = it has none.
        deployment: The model that the path names, as Azure's do; it counts, whatever the body says. Empty = the body's.
        counted_at: When it was counted for its API key, monotonic seconds; 0 where that has no limits.
        request_header: Another name under which answers say their request's id, if the API has one.
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
    deployment: str = ""
    request_header: str = ""

    @property
    def viewer(self) -> str | None:
        """The key whose requests it may see and cancel: its own; ``None`` = all keys, for an admin's."""
        return None if self.limits.admin else self.owner_key

    def answers(self, send: Send) -> Send:
        """Wrap ``send``, so that the answer gets the headers that every answer to this request has."""
        if not (self.headers or self.browser or self.request_header):
            return send

        async def start(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                message = {**message, "headers": [*given, *self.added(given)]}
            await send(message)

        return start

    def added(self, given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """The headers that an answer gets besides those that it has."""
        name = self.request_header.encode()
        again = [(name, value) for header, value in given if name and header == _REQUEST_ID]
        return [*again, *self.headers, *self.browser]

    def attach(self, scope: Scope) -> None:
        """Make it known to the handlers of this request."""
        scope[_SCOPE_KEY] = self


class RecentCalls:
    """The last requests that this process answered; no text of theirs."""

    def __init__(self) -> None:
        self._rows: deque[tuple[str, dict[str, Any]]] = deque(maxlen=_MOST_RECENT)

    def add(self, call: HttpCall, status: int, tokens: int) -> None:
        """Note an answer."""
        meter = call.meter
        row = {
            "id": call.request_id, "at": time.time(), "api": call.api, "status": status, "tokens": tokens,
            "model": meter.model if meter else "", "seconds": meter.seconds if meter else None,
        }  # fmt: skip
        self._rows.appendleft((call.owner_key, row))

    def rows(self, owner: str | None) -> list[dict[str, Any]]:
        """The rows of one owner, newest first; ``None`` = of all."""
        return [row for whose, row in self._rows if owner is None or whose == owner]


def call_of(request: Request) -> HttpCall:
    """The call that a request belongs to."""
    call: HttpCall = request.scope[_SCOPE_KEY]
    return call


def new_id() -> str:
    """A fresh request id."""
    return str(uuid.uuid4())


async def raw_body(request: Request, empty: bytes = b"") -> bytes:
    """A request's body, to be decoded with :func:`~dynamo_tasks.protocol.http.bodies.decode_object`.

    Args:
        request: Whose.
        empty: Stands for an empty body, where that is allowed.

    Raises:
        InvalidRequestError: It is empty, or holds more than may be decoded.
        PayloadTooLargeError: See :func:`~dynamo_tasks.frontend.http.incoming.read_body`.
    """
    raw = await read_body(request.receive, request.scope["headers"], call_of(request).body_limit)
    raw = raw or empty
    if not raw:
        raise InvalidRequestError("the body is empty; a JSON object is expected")
    await check_size(raw)
    return raw


async def check_size(raw: bytes) -> None:
    """Refuse a body whose decoding would hold up everybody else, without holding them up."""
    if len(raw) > INLINE:
        await offload(len(raw), check_structure, raw)


async def count_call(gateway: Gateway, call: HttpCall) -> None:
    """Count a request that is not submitted, towards its key's requests per minute; the answer tells what is left.

    What makes or computes something counts. What reads, ends or deletes does not: who is at its limit can still see
    what it has asked for, and stop it. The table is in docs/overload.md.

    Raises:
        RateLimitError: The API key is at its limit.
    """
    if call.limits.requests_per_minute:
        allowance = await gateway.count(call.owner_key, call.limits)
        call.headers = allowance.headers()
        allowance.check()


class ClientWatch:
    """Ends its block when the client leaves; then :attr:`gone` is true.

    ::

        async with ClientWatch(receive) as client:
            ...                      # is cancelled when the client leaves
        if client.gone: ...

    The body of the request must have been read before.
    """

    def __init__(self, receive: Receive):
        self.gone = False
        self._receive = receive

    async def __aenter__(self) -> ClientWatch:
        task = asyncio.current_task()
        assert task is not None, "ASGI apps run in tasks"
        self._task = task
        self._cancelling = task.cancelling()
        self._watcher: asyncio.Task[None] | None = asyncio.create_task(self._wait())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.disarm()
        # As in asyncio.timeout: swallow our own cancellation, and only ours.
        return self.gone and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError

    def disarm(self) -> None:
        """Watch no longer: what is left to do must not be interrupted."""
        # Let go of it: its cancellation refers to its frame, and that to us; such a circle, and the connection with
        # it, would stay until the garbage collector looks at its oldest generation.
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._task.cancel()
