"""An HTTP request that the frontend answers: its state, its body, its client, its span.

The span has the names of OpenTelemetry's conventions,
https://opentelemetry.io/docs/specs/semconv/http/http-spans/ and …/gen-ai/gen-ai-spans/. ``url.query`` is left out: a
stream token may stand there.
"""

from __future__ import annotations

import asyncio
import uuid
from types import TracebackType

from msgspec import Struct
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from dynamo_tasks.engines.text.threads import INLINE, offload
from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.frontend.http.uploads import read_body
from dynamo_tasks.frontend.metrics import RequestMeter
from dynamo_tasks.observe.tracing import OFF, Attribute, Span, span, tracing
from dynamo_tasks.protocol.http.limits import KeyLimits
from dynamo_tasks.protocol.http.structure import check_structure
from dynamo_tasks.protocol.trace import TRACE_HEADERS

__all__ = [
    "ClientWatch",
    "HttpCall",
    "call_of",
    "check_size",
    "end_http_span",
    "http_span",
    "new_id",
    "raw_body",
]

_SCOPE_KEY = "dynamo_tasks.call"


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


def call_of(request: Request) -> HttpCall:
    """The call that a request belongs to."""
    call: HttpCall = request.scope[_SCOPE_KEY]
    return call


def new_id() -> str:
    """A fresh request id."""
    return str(uuid.uuid4())


async def raw_body(request: Request) -> bytes:
    """A request's body, to be decoded with :func:`~dynamo_tasks.protocol.http.bodies.decode_object`.

    Raises:
        InvalidRequestError: It is empty, or holds more than may be decoded.
        PayloadTooLargeError: See :func:`~dynamo_tasks.frontend.http.uploads.read_body`.
    """
    raw = await read_body(request.receive, request.scope["headers"], call_of(request).body_limit)
    if not raw:
        raise InvalidRequestError("the body is empty; a JSON object is expected")
    await check_size(raw)
    return raw


async def check_size(raw: bytes) -> None:
    """Refuse a body whose decoding would hold up everybody else, without holding them up."""
    if len(raw) > INLINE:
        await offload(len(raw), check_structure, raw)


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


_CARRIED = {name.encode(): name for name in TRACE_HEADERS}
_OPERATIONS = {"chat": "chat", "completions": "text_completion", "embeddings": "embeddings"}
_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)


def http_span(call: HttpCall, scope: Scope) -> Span:
    """Begin it, below the ``traceparent`` that the client sent; it is the current one until its end."""
    if not tracing():
        return OFF
    headers = {
        _CARRIED[name]: value.decode("latin-1") for name, value in scope["headers"] if name in _CARRIED
    }
    made = span("dynamo.http", headers, _asked(scope) | _known(call))
    made.enter()
    return made


def _known(call: HttpCall) -> dict[str, Attribute]:
    found: dict[str, Attribute] = {"dynamo.request_id": call.request_id}
    if call.api in _OPERATIONS:
        found |= {"gen_ai.operation.name": _OPERATIONS[call.api], "gen_ai.provider.name": "dynamo-tasks"}
    return found


def _asked(scope: Scope) -> dict[str, Attribute]:
    """The attributes that the request itself gives."""
    method = scope["method"]
    found: dict[str, Attribute] = {
        "http.request.method": method if method in _METHODS else "_OTHER",
        "http.route": scope["path"],
        "url.path": scope["path"],
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", "1.1"),
    }
    if method not in _METHODS:
        found["http.request.method_original"] = method
    if client := scope.get("client"):
        found["client.address"] = client[0]
    for name, value in scope["headers"]:
        if name == b"user-agent":
            found["user_agent.original"] = value.decode("latin-1")
        elif name == b"host":
            host, _, port = value.decode("latin-1").rpartition(":")
            known = bool(host) and port.isdigit()
            found["server.address"] = (host if known else value.decode("latin-1")).strip("[]")
            if known:
                found["server.port"] = int(port)
    return found


def end_http_span(made: Span, status: int, model: str, usage: dict[str, int] | None = None) -> None:
    """End the span: the answer is sent, or the client has left."""
    made.set("http.response.status_code", status)
    made.set("gen_ai.request.model", model or None)
    if usage and status < 400:
        made.set("gen_ai.response.model", model or None)
        made.set("gen_ai.usage.input_tokens", usage.get("prompt_tokens"))
        made.set("gen_ai.usage.output_tokens", usage.get("completion_tokens"))
        made.set("gen_ai.usage.cache_read.input_tokens", usage.get("cached_tokens"))
    if status >= 500:
        made.set("error.type", str(status))
        made.failed(f"HTTP {status}")
    made.end()
